"""Where a score stands beside that of held-out real images, and which ones may win: one rule for words and for tables.

Two numbers whose errors overlap have not been shown to be equal: with fewer images more of them do. Equality needs
evidence of its own, an interval of the difference that lies within a stated margin (two one-sided tests, Schuirmann
1987). What is neither that nor shown to differ is not distinguishable at this N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from trilemma.number import Number

MARGIN = 0.1
"""Two scores are alike if they are shown to differ by no more than this share of that of held-out real images."""

LEAST = 50
"""Fewer images than these show no equality: the normal law that their errors are read by does not hold."""

BOTTOM = 0.05
"""A score of at most this share of that of held-out real images is at the bottom of its scale, and no success."""

HIGH = 0.75
"""The corners of quality and coverage are reached surely above this share of held-out real images."""

NEAR = 0.1
"""The corner of speed is reached surely above this share of the fastest."""

Apart = Callable[[int, int], bool | None]
"""Whether two rows are told apart by a score; None where that was not tested."""

Place = Literal["alike", "worse", "beyond", "unclear", "unknown"]
"""Of a score beside the floor: shown to be alike, worse or beyond it, none of these, or without an error to tell by.

*Beyond* is on the better side of real images, or of a score without a better side above them.
"""


def place(score: Number, floor: Number, margin: float | None = None) -> Place:
    """Where ``score`` stands beside ``floor``, by intervals of two standard errors of their difference.

    Args:
        score: of samples.
        floor: the same of held-out real images.
        margin: the largest difference of two that are alike; by default `MARGIN` of the floor.
    """
    if score.value is None or floor.value is None or score.error is None or floor.error is None:
        return "unknown"
    ahead = (floor.value - score.value) if score.better == "lower" else score.value - floor.value
    spread = 2 * math.hypot(score.error, floor.error)
    margin = MARGIN * abs(floor.value) if margin is None else margin
    enough = all(n >= LEAST for n in (score.n, floor.n) if n)
    if abs(ahead) + spread <= margin and enough:
        return "alike"
    if abs(ahead) <= spread:
        return "unclear"
    return "beyond" if ahead > 0 else "worse"


def beyond_real(score: Number, floor: Number | None) -> bool:
    """Whether a score is better than that of real images, which no model of them can be: a warning and no win."""
    return floor is not None and score.better in ("lower", "higher") and place(score, floor) == "beyond"


def at_the_bottom(score: Number, floor: Number | None) -> bool:
    """Whether a score of which more is better is next to nothing: within two errors of 0, or `BOTTOM` of the floor."""
    if score.value is None or score.better != "higher":
        return False
    real = floor.value if floor is not None and floor.value is not None else 0.0
    return score.value <= max(2 * (score.error or 0.0), BOTTOM * real)


def leaders(
    scores: Sequence[Number],
    apart: Apart | None = None,
    floor: Number | None = None,
) -> set[int]:
    """Indices of the best score and of every score that is not told apart from it.

    Undefined and flagged scores never lead, nor do those beyond real images or at the bottom of their scale. Nothing
    leads where fewer than two can be compared, or where none of them is beaten.

    Args:
        scores: one for each family.
        apart: whether two families' scores are told apart, None where it was not tested. What was not tested is told
            apart when it differs by more than two standard errors of the difference, taken as independent.
        floor: the score of held-out real images, where there is one.
    """
    known = [i for i, s in enumerate(scores) if s.value is not None and s.kind != "undefined" and not s.flag]
    fair = [i for i in known if scores[i].better in ("lower", "higher") and not beyond_real(scores[i], floor)]
    able = [i for i in fair if not at_the_bottom(scores[i], floor)]
    if len(fair) < 2 or not able:
        return set()
    sign = 1.0 if scores[fair[0]].better == "lower" else -1.0
    best = min(able, key=lambda i: sign * (scores[i].value or 0.0))

    def beaten(i: int) -> bool:
        tested = apart(i, best) if apart and i != best else None
        if tested is not None:
            return tested
        gap = abs((scores[i].value or 0.0) - (scores[best].value or 0.0))
        return gap > 2 * math.hypot(scores[i].error or 0.0, scores[best].error or 0.0)

    first = {i for i in able if not beaten(i)}
    return first if len(first) < len(fair) else set()


def breakers(corners: Sequence[Sequence[Number]], apart: Sequence[Apart | None]) -> set[int]:
    """The rows that reach all three corners at once, each against its error: those that break the triangle.

    A row does if its quality and its coverage, as shares of those of held-out real images, are each surely above `HIGH`
    and surpassed by no row that is told apart from it, and its images a second are surely above `NEAR` of the fastest
    row's. *Surely* is by two standard errors. Flagged and undefined scores reach no corner; with fewer than three rows
    there is no triangle to break.

    Args:
        corners: quality, coverage and speed, each one score for each row.
        apart: for quality and coverage, what tells two rows apart, as for `leaders`.
    """
    count = len(corners[2])
    if count < 3:
        return set()

    def least(score: Number) -> float:
        fair = score.value is not None and score.error is not None and score.kind != "undefined" and not score.flag
        return (score.value or 0.0) - 2 * (score.error or 0.0) if fair else -math.inf

    def surpassed(scores: Sequence[Number], told: Apart | None, i: int) -> bool:
        for j, other in enumerate(scores):
            gap = (other.value or 0.0) - (scores[i].value or 0.0)
            if j == i or gap <= 0 or other.flag or other.kind == "undefined":
                continue
            tested = told(i, j) if told else None
            far = gap > 2 * math.hypot(scores[i].error or 0.0, other.error or 0.0)
            if far if tested is None else tested:
                return True
        return False

    fastest = max((score.value or 0.0) for score in corners[2])
    fast = {i for i in range(count) if least(corners[2][i]) > NEAR * fastest > 0}
    for scores, told in zip(corners[:2], apart, strict=True):
        fast &= {i for i in range(count) if least(scores[i]) > HIGH and not surpassed(scores, told, i)}
    return fast
