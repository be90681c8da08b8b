"""Which of two is better: the strengths of sources by the votes on pairs of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trilemma.metrics.crossed import Floats, Interval, crossed, interval
from trilemma.number import Number

HALF = 0.5
"""Votes that each side of a compared pair gets beforehand, so that who always wins is not infinitely better."""

ENOUGH = 20
"""Votes of a rater at least, on average, for effects of raters."""


@dataclass(frozen=True)
class Strengths:
    """A model of preferences.

    Attributes:
        strength: log strength of each source, 0 on average: a is chosen over b with probability
            1 / (1 + e^(b − a)); None, with the reason, where the votes do not compare it with the others.
        gaps: by two sources, first and second by number: the difference of their strengths.
    """

    strength: list[Interval]
    gaps: dict[tuple[int, int], Interval]


@dataclass(frozen=True)
class RaterEffects:
    """What raters differ in, beside the strengths of the sources as a rater of sharpness 1 sees them.

    Attributes:
        strength: ``[K]``, 0 on average.
        sharpness: ``[R]``; a rater of 0 chooses by chance, one above 1 sees more than most. Drawn towards 1.
        side: ``[R]``, the log odds with which a rater chooses the left of two that are alike. Drawn towards 0.
    """

    strength: Floats
    sharpness: Floats
    side: Floats


def bradley_terry(
    winner: ArrayLike,
    loser: ArrayLike,
    raters: ArrayLike,
    images: ArrayLike,
    count: int,
    *,
    rounds: int = 200,
    seed: int = 0,
) -> Strengths:
    """Bradley & Terry's model (1952), with intervals over raters and images.

    Fitted as in Hunter 2004, "MM algorithms for generalized Bradley–Terry models", Annals of Statistics 32(1).

    Args:
        winner, loser: sources by number, int64 ``[N]``.
        raters: int64 ``[N]``.
        images: of the winner and of the loser, int64 ``[N, 2]``, each counted within its source.
        count: number of sources K.
        rounds, seed: of the bootstrap.

    Raises:
        ValueError: there are no votes, or a source was compared with itself.
    """
    won, lost = np.asarray(winner, np.int64), np.asarray(loser, np.int64)
    who, what = np.asarray(raters, np.int64), np.asarray(images, np.int64)
    if not len(won) or bool((won == lost).any()):
        raise ValueError("there must be votes, each on two different sources")
    wins = np.zeros((count, count))
    np.add.at(wins, (won, lost), 1.0)
    compared = (wins + wins.T) > 0
    together = _reached(compared, int(won[0]))
    pairs = [(a, b) for a in together for b in together if a < b]
    places = np.zeros((len(won), count * count))
    places[np.arange(len(won)), won * count + lost] = 1.0

    def fit(weights: Floats) -> Floats:
        table = (weights @ places).reshape(-1, count, count)[:, together][:, :, together]
        strength = maximum_likelihood(table + HALF * compared[np.ix_(together, together)])
        index = {source: i for i, source in enumerate(together)}
        gaps = [strength[:, index[a]] - strength[:, index[b]] for a, b in pairs]
        return np.concatenate((strength, np.stack(gaps, 1)), 1)

    spread = crossed(fit, who, what, np.stack((won, lost), 1), rounds=rounds, seed=seed)
    alone = _information_error(wins[np.ix_(together, together)] + HALF * compared[np.ix_(together, together)])
    apart = [alone[together.index(a), together.index(b)] for a, b in pairs]
    error = np.maximum(spread.error, np.concatenate((np.diag(alone), apart)))  # who never loses never does resampled
    found = [_measured(value, e, df, len(won)) for value, e, df in zip(spread.value, error, spread.df, strict=True)]
    absent = Interval(Number(None, note="No votes compare it with the others."))
    strengths = [found[together.index(source)] if source in together else absent for source in range(count)]
    return Strengths(strengths, dict(zip(pairs, found[len(together) :], strict=True)))


def maximum_likelihood(wins: Floats, steps: int = 2000, tolerance: float = 1e-10) -> Floats:
    """Log strengths ``[B, K]`` of B tables of wins ``[B, K, K]``, row over column; each sums to 0.

    Raises:
        ValueError: somebody never wins, or never loses, against the rest: the strengths are then without bound.
    """
    wins = np.atleast_3d(wins) if wins.ndim > 2 else wins[None]
    for table in wins[:1]:
        start = _reached(table > 0, 0, one_way=True), _reached(table.T > 0, 0, one_way=True)
        if any(len(found) < wins.shape[1] for found in start):
            raise ValueError("some sources win, or lose, every time against the rest: their strength has no bound")
    played = wins + wins.transpose(0, 2, 1)
    total = wins.sum(2)
    skill = np.ones(total.shape)
    for _ in range(steps):
        new = total / (played / (skill[:, :, None] + skill[:, None, :])).sum(2)
        new /= np.exp(np.log(new).mean(1, keepdims=True))
        done = float(np.abs(np.log(new / skill)).max()) < tolerance
        skill = new
        if done:
            break
    return np.asarray(np.log(skill))


def _information_error(wins: Floats) -> Floats:
    """Standard errors by the Fisher information, as if votes were independent, ``[K, K]``.

    Those of the strengths stand on the diagonal, those of differences beside it.
    """
    theta = maximum_likelihood(wins)[0]
    p = 1 / (1 + np.exp(theta[None] - theta[:, None]))
    weight = (wins + wins.T) * p * (1 - p)
    spread = np.linalg.pinv(np.diag(weight.sum(1)) - weight)
    own = np.diag(spread)
    errors = np.sqrt(np.maximum(own[:, None] + own[None] - 2 * spread, 0.0))
    np.fill_diagonal(errors, np.sqrt(own))
    return np.asarray(errors)


def rater_effects(
    left: ArrayLike,
    right: ArrayLike,
    chose_left: ArrayLike,
    raters: ArrayLike,
    count: int,
    people: int,
    *,
    spread: float = 0.5,
    steps: int = 50,
) -> RaterEffects | None:
    """Strengths with a sharpness and a side bias of each rater; None where raters have fewer than `ENOUGH` votes.

    The probability of choosing the left is σ(s_r (θ_left − θ_right) + b_r), with normal priors s_r ~ N(1, spread²)
    and b_r ~ N(0, spread²): the mode, by Fisher scoring over strengths and effects by turns.

    Args:
        left, right: sources by number, int64 ``[N]``.
        chose_left: bool ``[N]``.
        raters: by number, int64 ``[N]``.
        count, people: how many sources and raters.
        spread: standard deviation of both effects among raters.
        steps: turns.
    """
    a, b, who = (np.asarray(each, np.int64) for each in (left, right, raters))
    chosen = np.asarray(chose_left, np.float64)
    if len(a) < ENOUGH * people:
        return None
    design = np.zeros((len(a), count))
    design[np.arange(len(a)), a] += 1.0
    design[np.arange(len(a)), b] -= 1.0
    strength, sharpness, side = np.zeros(count), np.ones(people), np.zeros(people)
    weak = np.eye(count) / 10.0**2  # holds the mean at 0, and who always wins at a finite strength
    for _ in range(steps):
        before = strength
        rows = design * sharpness[who][:, None]
        p = 1 / (1 + np.exp(-(rows @ strength + side[who])))
        informed = (rows * (p * (1 - p))[:, None]).T @ rows + weak
        strength = strength + np.linalg.solve(informed, rows.T @ (chosen - p) - weak @ strength)
        strength = strength - strength.mean()
        gap = design @ strength
        p = 1 / (1 + np.exp(-(sharpness[who] * gap + side[who])))
        slope, curve = chosen - p, p * (1 - p)

        def of(values: Floats) -> Floats:
            return np.bincount(who, values, people).astype(np.float64)

        g_s, g_b = of(slope * gap) - (sharpness - 1) / spread**2, of(slope) - side / spread**2
        h_ss, h_bb, h_sb = of(curve * gap**2) + 1 / spread**2, of(curve) + 1 / spread**2, of(curve * gap)
        determinant = h_ss * h_bb - h_sb**2
        sharpness = sharpness + (h_bb * g_s - h_sb * g_b) / determinant
        side = side + (h_ss * g_b - h_sb * g_s) / determinant
        if float(np.abs(strength - before).max()) < 1e-8:
            break
    return RaterEffects(strength, sharpness, side)


def _reached(linked: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], start: int, one_way: bool = False) -> list[int]:
    """The sources that a chain of comparisons leads to from ``start``, itself among them."""
    links = linked if one_way else linked | linked.T
    found, waiting = {start}, [start]
    while waiting:
        for other in np.flatnonzero(links[waiting.pop()]):
            if int(other) not in found:
                found.add(int(other))
                waiting.append(int(other))
    return sorted(found)


def _measured(value: float, error: float, df: float, votes: int) -> Interval:
    known = bool(np.isfinite(error))
    number = Number(float(value), float(error) if known else None, n=votes, better="higher")
    return interval(float(value), float(error), float(df), number) if known else Interval(number)
