"""A number in plain words: beside held-out real images, and between the rungs of the ladder.

Praise needs evidence: `standing.place` says when two numbers may be called alike. What only one metric says stands in
its own file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trilemma.evaluation.standing import MARGIN, place
from trilemma.number import Number

WITHIN = f"to within {100 * MARGIN:.0f} %"


def unclear(number: Number, what: str = "held-out real images") -> str:
    """What is said where neither a difference nor its absence was shown."""
    return f"not distinguishable from {what} at {f'N = {number.n:,}' if number.n else 'this N'}"


def share(number: Number, floor: Number, beyond: str) -> str:
    """Of a score of which more is better; ``beyond`` says how one comes to be above that of real images."""
    where = place(number, floor)
    if where == "alike":
        return f"as good as held-out real images, {WITHIN}"
    if where == "beyond":
        return f"above held-out real images, which is a warning and no win: {beyond}"
    if where == "unclear":
        return unclear(number)
    real = floor.value or 0.0
    return f"{100 * (number.value or 0.0) / real:.0f} % of what held-out real images reach" if real > 0 else ""


def near(
    names: Sequence[str], number: Number, floor: Number, beyond: str, rungs: Sequence[dict[str, Any]] | None
) -> str:
    """Of a score of which less is better, such as a distance; ``names`` are those that it has on the ladder."""
    real = floor.value or 0.0
    steps = _known(names, rungs)
    worse = [(value - real, text) for value, text in steps if value > real]
    margin, least = worse[0] if worse else (None, "")
    where = place(number, floor, margin)
    if where == "alike":
        how = f"nearer than real images with {least.replace(', ', ' ')}" if worse else WITHIN
        return f"as near as held-out real images, {how}"
    if where == "beyond":
        return f"below held-out real images, which is a warning and no win: {beyond}"
    return unclear(number) if where == "unclear" else _between(steps, number.value or 0.0)


def _known(names: Sequence[str], rungs: Sequence[dict[str, Any]] | None) -> list[tuple[float, str]]:
    """The values of one metric on the ladder, the mildest first, with what was done to the images."""
    found = [
        (rung["metrics"][name]["value"], rung["text"])
        for rung in rungs or ()
        for name in names
        if name in rung["metrics"]
    ]
    return sorted(step for step in found if step[0] is not None)


def _between(steps: Sequence[tuple[float, str]], value: float) -> str:
    if not steps:
        return ""
    below = [_rung(*step) for step in steps if step[0] <= value]
    above = [_rung(*step) for step in steps if step[0] > value]
    if below and above:
        return f"between real images with {below[-1]} and with {above[0]}"
    return f"nearer than real images with {above[0]}" if above else f"farther than real images with {below[-1]}"


def _rung(value: float, text: str) -> str:
    return f"{text.replace(', ', ' ')} ({value:.3g})"
