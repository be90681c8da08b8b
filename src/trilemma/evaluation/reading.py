"""A number in plain words: beside held-out real images, and between the rungs of the ladder.

Praise needs evidence: `standing.place` says when two numbers may be called alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trilemma.evaluation.standing import MARGIN, place
from trilemma.number import Number

WITHIN = f"to within {100 * MARGIN:.0f} %"

BITS, CHANCE, POINTS = 0.05, 0.05, 5.0
"""Margins of bits per dimension, of a share beside one half, and of a percentage: `MARGIN` says nothing there."""

NOT_BETTER = "no model of real images is better than they are"
BEYOND = {
    "precision": "samples crowd where real images are most typical",
    "density": "samples crowd where real images are most typical",
    "recall": "a few outlying samples stretch their neighbourhoods",
    "frechet": "are they copies of training images?",
    "fid": "are they copies of training images?",
    "kernel": "are they copies of training images?",
    "kid": "are they copies of training images?",
}
"""How a score comes to be better than that of real images."""


def read(name: str, metric: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> Number:
    """The metric with its value in plain words, where there is something to compare it with.

    Args:
        name: of the metric.
        floor: the same of held-out real images.
        rungs: the ladder, as `ladder.climb` gives it.
    """
    if metric.value is None:
        return metric
    if name in ABOUT_COPIES:
        return replace(metric, reading=_copies(name, metric, floor))
    if floor is None or floor.value is None:
        return metric
    if name == "fine_detail":
        return replace(metric, reading=_sharp(metric, floor))
    if name in ("bits_per_dim", "ode_bits_per_dim"):  # only a known law has such a floor
        return replace(metric, reading=_short(metric, floor))
    if metric.better == "higher":
        return replace(metric, reading=_share(name, metric, floor))
    if metric.better == "lower":
        return replace(metric, reading=_near(name, metric, floor, rungs))
    return metric


def _unclear(metric: Number, what: str = "held-out real images") -> str:
    """What is said where neither a difference nor its absence was shown."""
    return f"not distinguishable from {what} at {f'N = {metric.n:,}' if metric.n else 'this N'}"


def _sharp(metric: Number, floor: Number) -> str:
    where = place(metric, floor)
    if where == "alike":
        return f"as sharp as held-out real images, {WITHIN}"
    if where == "unclear":
        return _unclear(metric)
    share = f"{100 * (metric.value or 0.0):.0f} % of the fine detail of real images"
    if where == "unknown":
        return share
    return f"blurred: {share}" if where == "worse" else f"noise that real images have not: {share}"


def _short(metric: Number, floor: Number) -> str:
    where = place(metric, floor, BITS)
    if where == "alike":
        return f"as short as the data's own law allows, to within {BITS:g} bits/dim"
    if where == "beyond":
        return "shorter than the data's own law allows: too few images, or no density"
    return _unclear(metric, "what the data's own law allows") if where == "unclear" else ""


def _share(name: str, metric: Number, floor: Number) -> str:
    where = place(metric, floor)
    if where == "alike":
        return f"as good as held-out real images, {WITHIN}"
    if where == "beyond":
        return f"above held-out real images, which is a warning and no win: {BEYOND.get(name, NOT_BETTER)}"
    if where == "unclear":
        return _unclear(metric)
    real = floor.value or 0.0
    return f"{100 * (metric.value or 0.0) / real:.0f} % of what held-out real images reach" if real > 0 else ""


def _near(name: str, metric: Number, floor: Number, rungs: Sequence[dict[str, Any]] | None) -> str:
    real = floor.value or 0.0
    worse = [(value - real, text) for value, text in _known(name, rungs) if value > real]
    margin, least = worse[0] if worse else (None, "")
    where = place(metric, floor, margin)
    if where == "alike":
        how = f"nearer than real images with {least.replace(', ', ' ')}" if worse else WITHIN
        return f"as near as held-out real images, {how}"
    if where == "beyond":
        return f"below held-out real images, which is a warning and no win: {BEYOND.get(name, NOT_BETTER)}"
    return _unclear(metric) if where == "unclear" else _between(name, metric.value or 0.0, rungs)


def _known(name: str, rungs: Sequence[dict[str, Any]] | None) -> list[tuple[float, str]]:
    """The values of one metric on the ladder, the mildest first, with what was done to the images."""
    found = [(rung["metrics"][name]["value"], rung["text"]) for rung in rungs or () if name in rung["metrics"]]
    return sorted(step for step in found if step[0] is not None)


def _between(name: str, value: float, rungs: Sequence[dict[str, Any]] | None) -> str:
    steps = _known(name, rungs)
    if not steps:
        return ""
    below = [_rung(*step) for step in steps if step[0] <= value]
    above = [_rung(*step) for step in steps if step[0] > value]
    if below and above:
        return f"between real images with {below[-1]} and with {above[0]}"
    return f"nearer than real images with {above[0]}" if above else f"farther than real images with {below[-1]}"


def _rung(value: float, text: str) -> str:
    return f"{text.replace(', ', ' ')} ({value:.3g})"


ABOUT_COPIES = ("memorised", "authpct", "c_t", "train_closer", "nearest_training")


def _copies(name: str, metric: Number, floor: Number | None) -> str:
    value, error = metric.value or 0.0, metric.error or 0.0
    if name == "memorised":
        if value > 0:
            return "samples that are too near to be chance"
        unseen = f"; fewer than {300 / metric.n:.2g} % cannot be seen at N = {metric.n:,}" if metric.n > 3 else ""
        return f"no more near copies than by chance{unseen}"
    if name == "c_t":
        if abs(value) <= 3 * error:
            return _unclear(metric, "held-out images in how near they are to the training set")
        where = "nearer to the training set than held-out images are: copying"
        return where if value < 0 else "farther from the training set than held-out images are: no copying as a whole"
    if name == "train_closer":
        where = place(metric, replace(metric, value=0.5, error=0.0), CHANCE)
        if where == "alike":
            return f"as often as chance would have it, to within {CHANCE:g}"
        if abs(value - 0.5) <= 3 * error:
            return _unclear(metric, "chance")
        return f"{'more' if value > 0.5 else 'less'} often than chance would have it"
    if floor is None or floor.value is None:
        return ""
    if name == "authpct":
        where = place(metric, floor, POINTS)
        if where == "worse" or (where == "unknown" and value < floor.value):
            return "fewer than among held-out images: copying"
        if where == "unclear":
            return _unclear(metric, "held-out images")
        return "no fewer than among held-out images" + (f", to within {POINTS:g} points" if where == "alike" else "")
    where = place(metric, floor)
    if where == "alike":
        return f"as far as held-out images are, {WITHIN}"
    if where == "unclear":
        return _unclear(metric, "held-out images")
    return f"{'farther' if value > floor.value else 'nearer'} than held-out images are"
