"""The error of what was measured on votes, where both the raters and the images are a sample of many more.

Votes are not independent: one rater is sharper than another, and one image is easier than another. Every vote belongs
to a rater and to an image (to two, where it compares them), and the factors are crossed.

Resampling both at once (the pigeonhole bootstrap, Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics
1(2)) counts what is peculiar to a single vote three times, which with few votes on an image is most of the
variance. So raters, images and votes are resampled one at a time, and the three variances are put together as those of
two-way clusters are (Cameron, Gelbach & Miller 2011, "Robust inference with multiway clustering", Journal of Business
& Economic Statistics 29(2)), raters + images − votes, in which everything is counted once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from trilemma.noise import derive_seed, philox
from trilemma.number import Number

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]
"""From weights of the votes, ``[B, N]``, to K numbers for each row, ``[B, K]``; NaN where there is no such number."""

LEVEL = 0.95
CELLS = 2**22  # weights held at a time


@dataclass(frozen=True)
class Spread:
    """Several statistics of the same votes, ``[K]`` each.

    Attributes:
        value: as measured.
        error: standard error over raters and images; NaN where it is not known.
        df: the degrees of freedom of that error, by which an interval widens with few raters or images.
    """

    value: Floats
    error: Floats
    df: Floats


@dataclass(frozen=True)
class Interval:
    """A number and where it lies with 95 % certainty, over raters and images; None where that is not known.

    Attributes:
        number: with one standard error.
        low, high: the ends.
        df: degrees of freedom of the error.
    """

    number: Number
    low: float | None = None
    high: float | None = None
    df: float | None = None

    @property
    def widened(self) -> float | None:
        """The standard error that a normal law would need for this width: for rules that know no degrees of freedom."""
        error, normal = self.number.error, NormalDist().inv_cdf((1 + LEVEL) / 2)
        return error if error is None or self.df is None else error * t_quantile(self.df) / normal

    @property
    def half_width(self) -> float | None:
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def crossed(
    statistic: Statistic,
    raters: Integers,
    images: Integers,
    groups: Integers | None = None,
    *,
    rounds: int = 400,
    seed: int = 0,
) -> Spread:
    """Statistics of votes with the errors that other raters and other images would bring.

    Args:
        statistic: of weighted votes.
        raters: who voted, int64 ``[N]``; two raters at least.
        images: what was seen, int64 ``[N]`` or ``[N, M]`` for votes on M images each.
        groups: the source of each image, of the shape of ``images``; images are resampled among those of a group.
        rounds: resamples of each kind.
        seed: of the resamples.

    Raises:
        ValueError: there are no votes, or the arrays do not fit.
    """
    raters = np.asarray(raters, np.int64)
    images = np.asarray(images, np.int64)
    images = images[:, None] if images.ndim == 1 else images
    groups = np.zeros_like(images) if groups is None else np.asarray(groups, np.int64).reshape(images.shape)
    count, each = images.shape
    if not count or len(raters) != count:
        raise ValueError(f"there must be votes, with a rater and an image each, not {len(raters)} and {count}")
    value = statistic(np.ones((1, count)))[0]
    who, whose = np.unique(raters, return_inverse=True)
    keys, which = np.unique(np.stack((groups.ravel(), images.ravel())), axis=1, return_inverse=True)
    places = which.reshape(count, each)
    strata = [np.flatnonzero(keys[0] == group) for group in np.unique(keys[0])]
    fewest = min(len(stratum) for stratum in strata)
    if len(who) < 2 or fewest < 2:
        unknown = np.full_like(value, np.nan)
        return Spread(value, unknown, unknown)
    draw = philox(derive_seed("crossed", seed))

    def by_rater(rows: int) -> Floats:
        weights: Floats = _counts(draw, rows, len(who))[:, whose]
        return weights

    def by_image(rows: int) -> Floats:
        weights: Floats = np.empty((rows, keys.shape[1]))
        for stratum in strata:
            weights[:, stratum] = _counts(draw, rows, len(stratum))
        mean: Floats = weights[:, places].mean(2)
        return mean

    def by_vote(rows: int) -> Floats:
        return _counts(draw, rows, count)

    def variance(weights: Callable[[int], Floats]) -> Floats:
        block = max(1, CELLS // count)
        parts = [statistic(weights(min(block, rounds - start))) for start in range(0, rounds, block)]
        found: Floats = np.nanvar(np.concatenate(parts), axis=0, ddof=1)
        return found

    # a draw with replacement has (n - 1) / n of the variance
    of_raters = variance(by_rater) * len(who) / (len(who) - 1)
    of_images = variance(by_image) * each**2 * fewest / (fewest - 1)  # an image moves 1 / M of the weight of its votes
    of_votes = variance(by_vote)
    once = of_images - (each - 1) * of_votes  # what is peculiar to a vote counts once, not for each of its images
    total = np.maximum(of_raters + once - of_votes, np.maximum(of_raters, once))  # neither effect is below 0
    certain = of_raters**2 / (len(who) - 1) + once**2 / (each * (fewest - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(certain > 0, total**2 / certain, len(who) - 1.0)  # Satterthwaite 1946
    return Spread(value, np.sqrt(total), np.maximum(df, 1.0))


def _counts(draw: np.random.Generator, rows: int, count: int) -> Floats:
    """How often each of ``count`` things is among as many drawn with replacement, ``[rows, count]``."""
    drawn = draw.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def t_quantile(df: float, level: float = LEVEL) -> float:
    """How many standard errors hold ``level`` of Student's law, by the expansion of Abramowitz & Stegun (26.7.5).

    Within 1 % for 2 degrees of freedom, 0.1 % from 3 on; for a single one a tenth too small.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / max(df, 1.0) ** power for power, term in enumerate(terms, 1))


def interval(value: float, error: float, df: float, number: Number) -> Interval:
    """``value`` ± the quantile of Student's law times its error, for what is not bounded."""
    if not math.isfinite(value) or not math.isfinite(error):
        return Interval(number)
    half = t_quantile(df) * error
    return Interval(number, value - half, value + half, df)


def share_interval(value: float, error: float, df: float, votes: int, number: Number) -> Interval:
    """The interval of a share by Wilson's equation, with as many votes as would be independent, and Student's quantile.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22; the effective number
    of votes p (1 − p) / error² in place of N as Korn & Graubard 1998 do for samples in clusters. It lies within [0, 1]
    and has a width even where all votes agree.
    """
    if not math.isfinite(value) or not math.isfinite(error):
        return Interval(number)
    alone = value * (1 - value)
    effective = alone / error**2 if error > 0 and alone > 0 else float(votes)
    square = t_quantile(df) ** 2
    centre = (value + square / (2 * effective)) / (1 + square / effective)
    half = math.sqrt(square * (alone / effective + square / (4 * effective**2))) / (1 + square / effective)
    return Interval(number, max(0.0, centre - half), min(1.0, centre + half), df)
