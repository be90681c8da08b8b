"""A number in plain words: beside held-out real images, and between the rungs of the ladder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trilemma.evaluation.protocol import Metric


def read(name: str, metric: Metric, floor: Metric | None, rungs: Sequence[dict[str, Any]] | None) -> Metric:
    """The metric with its value in plain words, where there is something to compare it with.

    Args:
        name: of the metric.
        floor: the same of held-out real images.
        rungs: the ladder, as `ladder.climb` gives it.
    """
    if metric.value is None:
        return metric
    if name in ABOUT_COPIES:
        return replace(metric, reading=_copies(name, metric.value, metric.error or 0.0, floor))
    if floor is None or floor.value is None:
        return metric
    spread = 2 * math.hypot(metric.error or 0.0, floor.error or 0.0)
    if name == "fine_detail":
        return replace(metric, reading=_sharp(metric.value, floor.value, spread))
    if metric.better == "higher":
        return replace(metric, reading=_share(name, metric.value, floor.value, spread))
    if metric.better == "lower":
        near = metric.value <= floor.value + spread
        if near and name in ("bits_per_dim", "ode_bits_per_dim"):  # only a known law has such a floor
            return replace(metric, reading="as short as the data's own law allows")
        return replace(
            metric, reading="as near as held-out real images" if near else _between(name, metric.value, rungs)
        )
    return metric


def _sharp(value: float, floor: float, spread: float) -> str:
    if abs(value - floor) <= spread:
        return "as sharp as held-out real images"
    share = f"{100 * value:.0f} % of the fine detail of real images"
    return f"blurred: {share}" if value < floor else f"noise that real images have not: {share}"


def _share(name: str, value: float, floor: float, spread: float) -> str:
    if name == "density" and value > floor + spread:
        return "above held-out real images: samples crowd where real images are most typical"
    if value >= floor - spread:
        return "as good as held-out real images"
    return f"{100 * value / floor:.0f} % of what held-out real images reach" if floor > 0 else ""


def _between(name: str, value: float, rungs: Sequence[dict[str, Any]] | None) -> str:
    known = [(rung["metrics"][name]["value"], rung["text"]) for rung in rungs or () if name in rung["metrics"]]
    steps = sorted(step for step in known if step[0] is not None)
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


def _copies(name: str, value: float, error: float, floor: Metric | None) -> str:
    if name == "memorised":
        return "samples that are too near to be chance" if value > 0 else "no more near copies than by chance"
    if name == "c_t":
        if abs(value) <= 3 * error:
            return "as near to the training set as held-out images are"
        where = "nearer to the training set than held-out images are: copying"
        return where if value < 0 else "farther from the training set than held-out images are: no copying as a whole"
    if name == "train_closer":
        if abs(value - 0.5) <= 3 * error:
            return "as often as chance would have it"
        return f"{'more' if value > 0.5 else 'less'} often than chance would have it"
    if floor is None or floor.value is None:
        return ""
    gap, spread = value - floor.value, 2 * math.hypot(error, floor.error or 0.0)
    if name == "authpct":
        return "fewer than among held-out images: copying" if gap < -spread else "no fewer than among held-out images"
    if abs(gap) <= spread:
        return "as far as held-out images are"
    return f"{'farther' if gap > 0 else 'nearer'} than held-out images are"
