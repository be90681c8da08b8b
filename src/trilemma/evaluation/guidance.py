"""Classifier-free guidance: fidelity against diversity.

The convention is u + w(c - u), of the conditional prediction c and the unconditional u (Ho & Salimans 2022, eq. 6,
whose own w is one less): 0 ignores the class, 1 is the model as it was trained, above 1 fidelity is bought with
diversity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.drawing import Picture, Sheet
from trilemma.evaluation.sweeps import Point, Scores, Sweep, number, written
from trilemma.families import FAMILIES
from trilemma.families.family import Denoises
from trilemma.questions.answer import Answer, Table
from trilemma.questions.question import Context
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.validate import Limits

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
"""Weights, where no others are asked for."""
CONVENTION = "u + w(c - u): w = 0 ignores the class, 1 is plainly conditional"
SHOWN = 10
"""Samples in the row of a weight."""


@dataclass(frozen=True)
class Guidance(Sweep):
    """Fidelity against diversity under classifier-free guidance."""

    weights: Annotated[tuple[float, ...], Limits(0, count=1)] | None = None
    """The weights w of guidance, such as 0,1,3; by default 0,0.5,1,1.5,2,3,5,8."""

    name: ClassVar[str] = "guidance"
    title: ClassVar[str] = "Classifier-free guidance: fidelity against diversity"
    sentence: ClassVar[str] = (
        "What do precision, recall and the accuracy of the class asked for become at each weight of guidance?"
    )
    paper: ClassVar[str] = "Ho & Salimans 2022, Classifier-free diffusion guidance, arXiv:2207.12598"
    caption: ClassVar[str] = f"The convention is {CONVENTION}."

    @classmethod
    def unable(cls, run: Run) -> str | None:
        classes = run.config.spec.classes
        return None if classes else "guidance needs a class-conditional run: train one with --conditional"

    def answer(self, context: Context) -> Answer:
        base = context.options(self.options) or FAMILIES[context.config.family].Options()
        bench = self.bench(context, accuracy=True)
        assert isinstance(bench.model, Denoises)
        asked = settings(bench.model, base, sorted(self.weights) if self.weights else None)
        points, before, _ = bench.sweep(asked, context.progress)
        floor, distance = bench.floor(), bench.distance
        classes = [i % context.spec.classes for i in range(SHOWN)]
        drawn = [
            sample(bench.model, SHOWN, seed=context.seed, labels=classes, options=each, device=context.device).images
            for each in asked
        ]
        best, right, wide = extremes(points)
        numbers = {
            "lowest_frechet": number(best, "frechet", bench, f"w = {best.guidance:g}"),
            "highest_accuracy": number(right, "accuracy", bench, f"w = {right.guidance:g}"),
            "highest_recall": number(wide, "recall", bench, f"w = {wide.guidance:g}"),
        }
        return self.answered(
            bench, base, points, floor, before,
            numbers=numbers,
            reading=[CONVENTION, verdict(points, distance)],
            table=table(points, floor, distance),
            values={"convention": CONVENTION},
            found=(points, floor, torch.stack(drawn), bench.words, distance),
        )  # fmt: skip

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        points, floor, rows, protocol, distance = answer.found
        title = answer.title(f"guidance, {points[0].sampler} in {points[0].steps} steps")
        levels = answer.run.config.spec.levels
        return {"guidance": draw_guidance(points, floor, rows, levels, title, protocol, distance)}


def settings(model: Denoises, base: Any, weights: Sequence[float] | None = None) -> list[Any]:
    """The sampling options of every weight.

    Raises:
        ValueError: a list of times in place of a number of steps, in one line.
    """
    if base.times:
        raise ValueError("the points of a sweep are named by their number of steps: leave out times")
    steps = base.steps or len(base.visits(model.schedule))
    return [replace(base, steps=steps, guidance=float(weight)) for weight in weights or WEIGHTS]


def extremes(points: Sequence[Point]) -> tuple[Point, Point, Point]:
    """The points of the lowest Fréchet distance, of the highest accuracy and of the highest recall."""
    return (
        min(points, key=lambda point: point.frechet),
        max(points, key=lambda point: (point.value("accuracy"), -point.guidance)),
        max(points, key=lambda point: (point.value("recall"), -point.guidance)),
    )


def verdict(points: Sequence[Point], distance: str = "Fréchet") -> str:
    """The answer in a sentence."""
    best, right, wide = extremes(points)
    return (
        f"lowest {distance} {best.frechet:.3g} at w = {best.guidance:g}; highest accuracy of the class "
        f"({right.value('accuracy'):.1%}) at w = {right.guidance:g}, where recall is {right.value('recall'):.3f}; "
        + (
            f"most diverse (recall {wide.value('recall'):.3f}) at w = {wide.guidance:g}"
            if wide.value("recall")
            else "no weight has recall above 0"
        )
    )


def table(points: Sequence[Point], floor: Scores | None = None, distance: str = "Fréchet") -> Table:
    """A row for each weight; ± is one standard error."""
    names = ("frechet", "precision", "recall", "accuracy")
    rows = [(f"{p.guidance:g}", *written(p.scores, names), f"{p.seconds:.2g}") for p in points]
    if floor is not None:
        rows.append(("held-out real images", *written(floor, names), ""))
    return Table(("w", distance, *names[1:], "s/image"), tuple(rows))


def draw_guidance(
    points: Sequence[Point],
    floor: Scores,
    rows: Tensor,
    levels: int,
    title: str,
    protocol: str,
    distance: str = "Fréchet",
) -> Sheet:
    """Precision against recall with w at the points, accuracy and distance over w, and a row of samples each.

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
    return drawing.framed(drawing.below(parts))


def _trade(points: Sequence[Point], floor: Scores) -> Sheet:
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


def _over_weights(points: Sequence[Point], floor: Scores, name: str, title: str) -> Sheet:
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
