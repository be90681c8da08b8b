"""The weight of classifier-free guidance, swept: what variety it costs to draw what was asked for.

The convention is u + w(c - u), of the conditional prediction c and the unconditional u (Ho & Salimans 2022, eq. 6,
whose own w is one less): 0 ignores the class, 1 is the model as it was trained, more leans to what marks the class.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from trilemma import drawing
from trilemma.families.diffusion import Denoising
from trilemma.questions.curve import written
from trilemma.questions.sweep import Point, Scores

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
"""Weights, where no others are asked for."""
CONVENTION = "u + w(c - u): w = 0 ignores the class, 1 is plainly conditional"
SHOWN = 10
"""Samples in the row of a weight."""


def ways(model: Denoising, base: Any, weights: Sequence[float] | None = None) -> list[Any]:
    """The sampling options of every weight.

    Raises:
        ValueError: a model without classes, or a list of times in place of a number of steps, in one line.
    """
    if not model.spec.classes:
        raise ValueError("guidance needs a class-conditional model: train one with --conditional")
    if base.times:
        raise ValueError("the points of a sweep are named by their number of steps: leave out --times")
    steps = base.steps or len(base.visits(model.schedule))
    return [replace(base, steps=steps, guidance=float(weight)) for weight in weights or WEIGHTS]


def verdict(points: Sequence[Point], distance: str = "Fréchet") -> str:
    """The answer in a sentence."""
    best = min(points, key=lambda point: point.frechet)
    right = max(points, key=lambda point: (point.value("accuracy"), -point.guidance))
    wide = max(points, key=lambda point: (point.value("recall"), -point.guidance))
    return (
        f"lowest {distance} {best.frechet:.3g} at w = {best.guidance:g}; most often what was asked for "
        f"({right.value('accuracy'):.1%}) at w = {right.guidance:g}, where recall is {right.value('recall'):.3f}; "
        f"widest (recall {wide.value('recall'):.3f}) at w = {wide.guidance:g}"
    )


def table(points: Sequence[Point], floor: Scores | None = None, distance: str = "Fréchet") -> list[str]:
    """Lines of a table, a row for each weight; ± is one standard error."""
    names = ("frechet", "precision", "recall", "accuracy")
    head = f"{'w':>20}" + "".join(f"{name:>18}" for name in (distance, *names[1:])) + f"{'s/image':>10}"
    rows = [
        f"{point.guidance:>20g}" + "".join(f"{written(point.scores.get(name)):>18}" for name in names)
        + f"{point.seconds:>10.2g}"
        for point in points
    ]  # fmt: skip
    if floor is not None:
        rows.append(f"{'held-out real images':>20}" + "".join(f"{written(floor.get(name)):>18}" for name in names))
    return [head, *rows]


def draw_guidance(
    points: Sequence[Point],
    floor: Scores,
    rows: Tensor,
    levels: int,
    path: str | os.PathLike[str],
    title: str,
    protocol: str,
    distance: str = "Fréchet",
) -> Path:
    """A PNG: precision against recall with w at the points, accuracy and distance over w, and a row of samples each.

    Args:
        points: by rising weight.
        floor: the scores of held-out real images.
        rows: uint8 [len(points), K, C, H, W], samples from the same noise and classes at every weight.
    """
    distance = distance.replace("é", "e")  # the font lacks it
    lines = [CONVENTION, verdict(points, distance), f"{protocol}; error bars: one standard error"]
    lines.append("grey: held-out real images")
    named = f"{distance} distance" if distance != "FID" else distance
    over = [
        _over_weights(points, floor, "accuracy", "accuracy: share that is the class asked for"),
        _over_weights(points, floor, "frechet", f"{named}, lower is better"),
    ]
    scale = drawing.scale_for(max(rows.shape[-2:]), 42)
    strips = []
    for point, images in zip(points, rows, strict=True):
        tiles = [drawing.magnified(pixels, scale) for pixels in drawing.rgb(images, levels)]
        strips.append(drawing.beside([drawing.words([f"w = {point.guidance:g}"], 12, 64), *tiles], 3))
    parts = [
        drawing.words([title], 16),
        drawing.words(lines, 12),
        drawing.beside([_trade(points, floor), drawing.below(over)]),
        drawing.words(["the same noise and class in each column"], 12),
        drawing.below(strips, 3),
    ]
    return drawing.save(drawing.framed(drawing.below(parts)), path)


def _trade(points: Sequence[Point], floor: Scores) -> Image.Image:
    """Precision against recall, a cross of errors at each weight."""
    real = tuple(floor[name][0] or 0.0 for name in ("recall", "precision"))
    places = [(point.value("recall"), point.value("precision")) for point in points]
    x, y = (_span([place[axis] for place in [*places, real]]) for axis in (0, 1))
    names = ("recall: share of real images that are reached", "precision: share of samples that look real")
    plot = drawing.Plot((460, 448), x, y, names, (drawing.steps(*x), drawing.steps(*y)))
    plot.dot((real[0], real[1]), (150, 150, 150), 4, "real")
    plot.line(places, drawing.BLUE)
    for point, (recall, precision) in zip(points, places, strict=True):
        across, up = (point.scores[name][1] or 0.0 for name in ("recall", "precision"))
        plot.line([(recall - across, precision), (recall + across, precision)], drawing.FAINT, 1)
        plot.line([(recall, precision - up), (recall, precision + up)], drawing.FAINT, 1)
        plot.dot((recall, precision), drawing.ORANGE, 3, f"{point.guidance:g}")
    return plot.finished()


def _over_weights(points: Sequence[Point], floor: Scores, name: str, title: str) -> Image.Image:
    """One number for each weight, the weights at even distances."""
    values, level = [point.value(name) for point in points], floor.get(name, (None, None))[0]
    y = _span([value for value in values if math.isfinite(value)] + ([] if level is None else [level]))
    x = (-0.3, len(points) - 0.7)
    plot = drawing.Plot((400, 220), x, y, ("w", title), ([], drawing.steps(*y, 4)))
    plot.mark_x([(i, f"{point.guidance:g}") for i, point in enumerate(points)])
    if level is not None:
        plot.line([(x[0], level), (x[1], level)], (150, 150, 150), 1)
    plot.line([(i, value) for i, value in enumerate(values) if math.isfinite(value)], drawing.BLUE)
    for i, (point, value) in enumerate(zip(points, values, strict=True)):
        if math.isfinite(value):
            error = point.scores[name][1] or 0.0
            plot.line([(i, value - error), (i, value + error)], drawing.INK, 1)
            plot.dot((i, value), drawing.ORANGE)
    return plot.finished()


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.07 * (high - low) or 0.05
    return low - margin, high + margin
