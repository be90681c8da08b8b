"""How long an image must be seen before a fake is recognised: the staircase of HYPE_time and its threshold.

Zhou et al. 2019, "HYPE: a benchmark for human eye perceptual evaluation of generative models": a rater sees
images of one source and real ones for a time that falls after right answers and rises after wrong ones; the most common
exposure, the mode, is the rater's threshold. Higher is better: the images pass for real for longer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from trilemma.metrics.crossed import Interval, interval
from trilemma.number import Number

START, SHORTEST, LONGEST = 500.0, 100.0, 1000.0
DOWN, UP = 10.0, 30.0
"""Milliseconds: after a right and after a wrong answer. The staircase rests where UP (1 − p) = DOWN p, at p = 75 %
right (the weighted up-down method, Kaernbach 1991), halfway between chance and certainty.
The sizes of the steps are ours."""


def next_exposure(exposure: float, right: bool) -> float:
    """The exposure after this one, in milliseconds."""
    return min(max(exposure - DOWN if right else exposure + UP, SHORTEST), LONGEST)


def threshold(exposures: Sequence[float]) -> float:
    """The most common exposure of one staircase; the mean of several that are equally common.

    Raises:
        ValueError: there are none.
    """
    if not len(exposures):
        raise ValueError("there is no threshold of no exposures")
    counts = Counter(float(each) for each in exposures)
    most = max(counts.values())
    modes = [exposure for exposure, count in counts.items() if count == most]
    return sum(modes) / len(modes)


def hype_time(thresholds: Sequence[float]) -> Interval:
    """HYPE_time: the mean threshold of raters in milliseconds, with its error over raters."""
    values = np.asarray(thresholds, np.float64)
    if not len(values):
        raise ValueError("there is no threshold of no raters")
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(Number(mean, unit="ms", better="higher", n=1, flag="One rater: how others differ is unknown."))
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return interval(mean, error, len(values) - 1.0, Number(mean, error, "ms", "higher", len(values)))
