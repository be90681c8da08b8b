"""Scores that are stated as multiples of what held-out real images reach: those of `Metric.relative`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trilemma.evaluation.metric import metrics
from trilemma.number import Number

LEAST_FLOOR = 0.2
"""Where held-out images themselves reach less, a multiple of it says nothing."""


def relative(numbers: Mapping[str, Number], floor: Mapping[str, Number]) -> dict[str, Number]:
    """The numbers with the relative ones divided by the same of held-out images, both as they were measured."""
    found = dict(numbers)
    for name in _names():
        number, real = numbers.get(name), floor.get(name)
        if number is None or number.value is None:
            continue
        if real is None or real.value is None or real.value < LEAST_FLOOR:
            reached = "nothing" if real is None or real.value is None else f"{real.value:.2f}"
            found[name] = replace(number, value=None, error=None, flag=f"refused: held-out images reach {reached}")
            continue
        value = number.value / real.value
        errors = (
            ((number.error or 0.0), value * (real.error or 0.0)) if number is not real else (0.0, real.error or 0.0)
        )
        found[name] = replace(
            number,
            value=value,
            error=math.hypot(*errors) / real.value,
            protocol=f"{number.protocol}; {number.value:.3f} of them, of held-out images {real.value:.3f}",
        )
    return found


def relative_rungs(rungs: Sequence[dict[str, Any]] | None, floor: Mapping[str, Number]) -> list[dict[str, Any]]:
    """The rungs of the ladder with the relative scores divided by those of held-out images."""
    found = []
    for rung in rungs or ():
        scores = dict(rung["metrics"])
        for name in set(_names()) & set(scores):
            real = floor[name].value if name in floor else None
            value, error = scores[name]["value"], scores[name]["error"]
            if real is None or real < LEAST_FLOOR or value is None:
                scores[name] = {"value": None, "error": None}
            else:
                scores[name] = {"value": value / real, "error": None if error is None else error / real}
        found.append(rung | {"metrics": scores})
    return found


def _names() -> list[str]:
    return [name for name, metric in metrics().items() if metric.relative]
