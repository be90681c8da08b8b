"""What people's votes say of one source of images: error rates, detectability, agreement, votes still needed.

Votes are arrays of one length: who voted (``raters``), on which image (``images``), whether it was ``fake``, and
whether the rater ``says_fake``. Errors are over raters and images (`metrics/crossed.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trilemma.metrics.crossed import Floats, Interval, crossed, interval, share_interval
from trilemma.noise import derive_seed, philox
from trilemma.number import Number

Bools = NDArray[np.bool_]
ALONE = "One rater, or one image: how others would differ is not known."


_UNIT = NormalDist()
_PROBIT = np.vectorize(_UNIT.inv_cdf, otypes=[np.float64])


@dataclass(frozen=True)
class Hype:
    """HYPE∞ and its two halves.

    Attributes:
        both: the mean of the other two: 0 where all is seen through, 0.5 where fake and real cannot be told apart.
        fakes: the share of fakes that were taken for real.
        reals: the share of real images that were taken for fake.
    """

    both: Interval
    fakes: Interval
    reals: Interval


@dataclass(frozen=True)
class Detection:
    """How well fakes are seen, apart from the wish to say one or the other.

    Attributes:
        d_prime: by how many standard deviations fakes look different; 0 where they cannot be told apart.
        criterion: the bias; above 0, raters rather say *real*, below 0 rather *fake*.
    """

    d_prime: Interval
    criterion: Interval


def error_rate(wrong: ArrayLike, raters: ArrayLike, images: ArrayLike, *, rounds: int = 400, seed: int = 0) -> Interval:
    """The share of wrong votes with its interval over raters and images.

    Args:
        wrong: bool ``[N]``.
        raters: int64 ``[N]``.
        images: int64 ``[N]``, or ``[N, M]`` for votes on M images of M sources.
        rounds, seed: of the bootstrap.
    """
    errors, who = np.asarray(wrong, np.float64), np.asarray(raters, np.int64)
    what = np.asarray(images, np.int64).reshape(len(errors), -1)
    groups = np.broadcast_to(np.arange(what.shape[1]), what.shape)

    def share(weights: Floats) -> Floats:
        found: Floats = (weights @ errors / weights.sum(1))[:, None]
        return found

    spread = crossed(share, who, what, groups, rounds=rounds, seed=seed)
    return _share(spread.value[0], spread.error[0], spread.df[0], len(errors))


def hype_infinity(
    says_fake: ArrayLike,
    fake: ArrayLike,
    raters: ArrayLike,
    images: ArrayLike,
    *,
    rounds: int = 400,
    seed: int = 0,
) -> Hype:
    """HYPE∞ (Zhou et al. 2019, "HYPE: a benchmark for human eye perceptual evaluation of generative models").

    The error rate over as many fakes as real images, seen without a limit of time. Where there are not as many, both
    halves count the same, so that it does not depend on the share of fakes.

    Args:
        says_fake, fake: bool ``[N]``.
        raters, images: int64 ``[N]``; an image of the fakes and a real one may have the same number.
        rounds, seed: of the bootstrap.

    Raises:
        ValueError: there are no votes on fakes, or none on real images.
    """
    said, truth = _checked(says_fake, fake)
    who, what = np.asarray(raters, np.int64), np.asarray(images, np.int64)
    columns = np.stack((truth & ~said, truth, ~truth & said, ~truth), 1).astype(np.float64)

    def rates(weights: Floats) -> Floats:
        missed, fakes, alarms, reals = (weights @ columns).T
        with np.errstate(divide="ignore", invalid="ignore"):
            of_fakes, of_reals = missed / fakes, alarms / reals
        return np.stack(((of_fakes + of_reals) / 2, of_fakes, of_reals), 1)

    spread = crossed(rates, who, what, truth.astype(np.int64), rounds=rounds, seed=seed)
    counts = (len(said), int(truth.sum()), int((~truth).sum()))
    shares = (
        _share(value, error, df, count)
        for value, error, df, count in zip(spread.value, spread.error, spread.df, counts, strict=True)
    )
    return Hype(*shares)


def detection(
    says_fake: ArrayLike,
    fake: ArrayLike,
    raters: ArrayLike,
    images: ArrayLike,
    *,
    rounds: int = 400,
    seed: int = 0,
) -> Detection:
    """Sensitivity d′ and criterion c of signal detection (Macmillan & Creelman 2005).

    A fake that is called fake is a hit, a real image that is called fake a false alarm: d′ = z(H) − z(F),
    c = −(z(H) + z(F)) / 2. Half a vote is added to each count and one to each total (the log-linear correction,
    Hautus 1995), so that both are finite where nobody erred. Votes of all raters are taken together, which makes d′ a
    little smaller than the mean of theirs.

    Args, errors: as `hype_infinity`.
    """
    said, truth = _checked(says_fake, fake)
    who, what = np.asarray(raters, np.int64), np.asarray(images, np.int64)
    columns = np.stack((truth & said, truth, ~truth & said, ~truth), 1).astype(np.float64)

    def both(weights: Floats) -> Floats:
        hits, fakes, alarms, reals = (weights @ columns).T
        z_hit, z_alarm = probit((hits + 0.5) / (fakes + 1)), probit((alarms + 0.5) / (reals + 1))
        return np.stack((z_hit - z_alarm, -(z_hit + z_alarm) / 2), 1)

    spread = crossed(both, who, what, truth.astype(np.int64), rounds=rounds, seed=seed)
    # where nobody errs, resampled votes do not either: the error is at least that of as many independent votes, by the
    # delta method (Gourevitch & Galanter 1967)
    shares = [((said & kind).sum() + 0.5) / (kind.sum() + 1) for kind in (truth, ~truth)]
    alone = sum(
        p * (1 - p) / (kind.sum() + 1) / _UNIT.pdf(_UNIT.inv_cdf(p)) ** 2
        for p, kind in zip(shares, (truth, ~truth), strict=True)
    )
    error = np.maximum(spread.error, np.sqrt(alone) * np.array([1.0, 0.5]))  # NaN stays NaN
    return Detection(*(_measure(*each, len(said)) for each in zip(spread.value, error, spread.df, strict=True)))


def contrasts(
    wrong: ArrayLike,
    sources: ArrayLike,
    raters: ArrayLike,
    images: ArrayLike,
    *,
    rounds: int = 400,
    seed: int = 0,
) -> dict[tuple[int, int], Interval]:
    """By every two sources, first and second by number: the difference of their shares of wrong votes.

    Raters who saw both are resampled for both at once, so that what a rater misses in all of them falls out.

    Args:
        wrong: bool ``[N]``.
        sources: by number, int64 ``[N]``.
        raters, images: int64 ``[N]``; images are counted within their source.
        rounds, seed: of the bootstrap.
    """
    errors, group = np.asarray(wrong, np.float64), np.asarray(sources, np.int64)
    who, what = np.asarray(raters, np.int64), np.asarray(images, np.int64)
    names = np.unique(group)
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    if not pairs:
        return {}
    member = (group[:, None] == names).astype(np.float64)
    columns = np.concatenate((member * errors[:, None], member), 1)

    def gaps(weights: Floats) -> Floats:
        sums = weights @ columns
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = sums[:, : len(names)] / sums[:, len(names) :]
        return np.stack([shares[:, i] - shares[:, j] for i, j in pairs], 1)

    spread = crossed(gaps, who, what, group, rounds=rounds, seed=seed)
    found = [_measure(*each, len(errors)) for each in zip(spread.value, spread.error, spread.df, strict=True)]
    return {(int(names[i]), int(names[j])): gap for (i, j), gap in zip(pairs, found, strict=True)}


def krippendorff(answers: ArrayLike, *, rounds: int = 400, seed: int = 0) -> Number:
    """Krippendorff's α of nominal answers: 1 for full agreement, 0 for what chance gives, below 0 for less.

    Krippendorff 2011, "Computing Krippendorff's alpha-reliability": α = 1 − D_o / D_e, with the disagreement observed
    among pairs of answers to the same image, and that among all answers that are paired at all. Answers may be missing.

    Args:
        answers: int64 ``[R, I]``, rater by image, 0 or more; below 0 where the rater did not see it.
        rounds, seed: of the bootstrap over images that gives the error.

    Returns:
        The number; None where no image has two answers, or where all answers are the same.
    """
    table = np.asarray(answers, np.int64)
    if table.ndim != 2:
        raise ValueError(f"answers must be a matrix of raters and images, not of shape {list(table.shape)}")
    kinds = np.unique(table[table >= 0])
    counts = (table[None] == kinds[:, None, None]).sum(1).T.astype(np.float64)  # [I, V]
    counts = counts[counts.sum(1) > 1]
    if not len(counts):
        return Number(None, note="No image was judged by two raters.")
    total = counts.sum(1)
    apart = (total**2 - (counts**2).sum(1)) / (total - 1)  # pairs of an image that differ, each image by its answers

    def alpha(weights: Floats) -> Floats:
        n, n_c = weights @ total, weights @ counts
        expected = (n**2 - (n_c**2).sum(1)) / (n - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(expected > 0, 1 - weights @ apart / expected, np.nan)

    value = alpha(np.ones((1, len(counts))))[0]
    if math.isnan(value):
        return Number(None, n=len(counts), note="All answers are the same: there is nothing to agree about.")
    draw = philox(derive_seed("krippendorff", seed))
    several = len(counts) > 1
    drawn = draw.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), rounds).astype(np.float64)
    error = float(np.nanstd(alpha(drawn), ddof=1)) if several else None
    return Number(float(value), error, better="none", n=len(counts))


def votes_needed(rate: Interval, half_width: float) -> int | None:
    """How many more votes bring the half width of an interval down to ``half_width``; 0 where it is, None unknown.

    The width falls with the square root of the number of votes where further raters see further images, both in the
    numbers of those that are there.
    """
    if half_width <= 0:
        raise ValueError(f"a half width must be above 0, not {half_width:g}")
    now = rate.half_width
    if now is None:
        return None
    return max(0, math.ceil(rate.number.n * ((now / half_width) ** 2 - 1) - 1e-9))


def probit(share: Floats) -> Floats:
    """The quantile of the normal law, z(p), for 0 < p < 1."""
    values, where = np.unique(share, return_inverse=True)  # few are different
    return np.asarray(_PROBIT(values), np.float64)[where].reshape(share.shape)


def _checked(says_fake: ArrayLike, fake: ArrayLike) -> tuple[Bools, Bools]:
    said, truth = np.asarray(says_fake, bool), np.asarray(fake, bool)
    if said.shape != truth.shape or said.ndim != 1:
        raise ValueError(f"there must be one answer for each image, not {said.shape} and {truth.shape}")
    if not truth.any() or truth.all():
        missing = "real images" if truth.all() else "fakes"
        raise ValueError(f"there are no votes on {missing}: an error rate needs both")
    return said, truth


def _share(value: float, error: float, df: float, votes: int) -> Interval:
    value, error, df = float(value), float(error), float(df)
    if math.isnan(error):
        return Interval(Number(value, None, n=votes, better="higher", flag=ALONE))
    if error == 0:  # all raters alike on all images: what the bootstrap takes for certain is as sure as that many votes
        p = (value * votes + 1) / (votes + 2)
        error = math.sqrt(p * (1 - p) / votes)
    return share_interval(value, error, df, votes, Number(value, error, n=votes, better="higher"))


def _measure(value: float, error: float, df: float, votes: int) -> Interval:
    if math.isnan(error):
        return Interval(Number(float(value), None, n=votes, flag=ALONE))
    return interval(float(value), float(error), float(df), Number(float(value), float(error), n=votes))
