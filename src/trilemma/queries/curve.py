"""Speed against quality: one trained run, drawn from with few and with many steps by each of its samplers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from trilemma.families.diffusion.options import SAMPLERS
from trilemma.families.family import Family, Progress
from trilemma.queries import drawing
from trilemma.queries.diffusion_chain import denoising
from trilemma.queries.likelihood import part_of

COUNTS = (1, 2, 5, 10, 20, 50, 100)
"""Steps of each sampler, where no others are asked for."""
WITHIN = 0.10
"""How near to the best counts as as good."""
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 60, 20))
"""Hues that people with any kind of colour vision tell apart (Okabe and Ito), one for each sampler."""

Measure = Callable[[Tensor], Mapping[str, tuple[float | None, float | None]]]
"""Images uint8 [N, C, H, W] → name → (value or None, standard error or None); has ``frechet``, lower is better."""

Draw = Callable[[Any, Progress | None], tuple[Tensor, float]]
"""Sampling options → images uint8 [N, C, H, W], the same noise each time, and images per second."""


@dataclass(frozen=True)
class Point:
    """One sampler with one number of steps.

    Attributes:
        evaluations: of the network for an image.
        seconds: for an image, in blocks, on the device it was measured on.
        scores: name → (value, standard error).
    """

    sampler: str
    steps: int
    evaluations: int
    seconds: float
    scores: Mapping[str, tuple[float | None, float | None]]

    @property
    def frechet(self) -> float:
        value = self.scores["frechet"][0]
        return math.inf if value is None else value


def speed_quality(
    model: Family,
    draw: Draw,
    measure: Measure,
    n: int,
    *,
    samplers: Sequence[str] = tuple(SAMPLERS),
    counts: Sequence[int] = COUNTS,
    options: Any | None = None,
    progress: Progress | None = None,
) -> list[Point]:
    """Measure every sampler at every number of steps, all from the same noise.

    Args:
        model: of a denoising family, on its device.
        draw: how images are drawn; measure: what they score.
        n: images that it draws for each point.
        options: what all points share, such as the spacing; sampler and steps are replaced.
        progress: told ``(images done, all)``.

    Raises:
        ValueError: steps that the model does not have, in one line.
    """
    model = denoising(model, "the speed-quality curve")
    base = options if options is not None else model.Options()
    chosen = [(count, replace(base, sampler=name, steps=count)) for name in samplers for count in counts]
    for _, each in chosen:
        each.times(model.schedule)  # refuses before anything is computed
    points: list[Point] = []
    for done, (count, each) in enumerate(chosen):
        tell = part_of(progress, done * n, len(chosen) * n)
        images, speed = draw(each, tell)
        points.append(Point(each.sampler, count, each.evaluations(model.schedule), 1 / speed, measure(images)))
    return points


def cheapest(points: Sequence[Point]) -> tuple[Point, Point]:
    """The point of fewest evaluations whose Fréchet distance is within `WITHIN` of the best, and the best.

    Raises:
        ValueError: no point has a Fréchet distance, in one line.
    """
    best = min(points, key=lambda point: point.frechet)
    if not math.isfinite(best.frechet):
        raise ValueError("no Fréchet distance could be trusted: draw more images (-n) than the features have numbers")
    good = [point for point in points if point.frechet <= (1 + WITHIN) * best.frechet]
    return min(good, key=lambda point: (point.evaluations, point.frechet)), best


def verdict(points: Sequence[Point]) -> str:
    """The answer in a sentence."""
    cheap, best = cheapest(points)
    return (
        f"cheapest within {WITHIN:.0%} of the best: {cheap.sampler} in {cheap.steps} steps ({cheap.evaluations} "
        f"evaluations, Fréchet {cheap.frechet:.3g}, {cheap.seconds:.2g} s an image); the best is {best.sampler} in "
        f"{best.steps} ({best.evaluations} evaluations, {best.frechet:.3g}, {best.seconds:.2g} s)"
    )


def table(points: Sequence[Point]) -> list[str]:
    """Lines of a table, a row for each point."""
    head = f"{'sampler':<11}{'steps':>6}{'evaluations':>12}{'Fréchet':>10}{'precision':>11}{'recall':>8}{'s/image':>10}"
    rows = []
    for point in points:
        numbers = [point.scores.get(name, (None, None))[0] for name in ("frechet", "precision", "recall")]
        shown = ["–" if value is None else f"{value:.4g}" for value in numbers]
        rows.append(
            f"{point.sampler:<11}{point.steps:>6}{point.evaluations:>12}{shown[0]:>10}{shown[1]:>11}{shown[2]:>8}"
            f"{point.seconds:>10.2g}"
        )
    return [head, *rows]


def draw_curve(
    points: Sequence[Point], floor: float | None, path: str | os.PathLike[str], title: str, protocol: str
) -> Path:
    """A PNG of Fréchet distance against evaluations, by factors of ten, a line for each sampler."""
    finite = [point for point in points if math.isfinite(point.frechet)]
    cheap, best = cheapest(finite)
    values = [point.frechet for point in finite] + ([floor] if floor else [])
    low, high = (math.log10(max(edge, 1e-9)) for edge in (min(values), max(values)))
    y = (math.floor(low * 4) / 4, math.ceil(high * 4 + 0.01) / 4)
    x = (0.0, math.log10(max(point.evaluations for point in finite)) + 0.05)
    ticks = [k for k in (0, math.log10(2), math.log10(5), 1, math.log10(20), math.log10(50), 2, 3) if k <= x[1]]
    heights = [y[0] + i * (y[1] - y[0]) / 5 for i in range(6)]
    names = ("network evaluations for an image", "Fréchet distance")
    plot = drawing.Plot((600, 400), x, y, names, (ticks, heights), lambda k: f"{10**k:.3g}")
    if floor:
        plot.line([(x[0], math.log10(floor)), (x[1], math.log10(floor))], (150, 150, 150), 1)
    entries = []
    for name, colour in zip(dict.fromkeys(point.sampler for point in finite), COLOURS, strict=False):
        own = [(math.log10(p.evaluations), math.log10(p.frechet)) for p in finite if p.sampler == name]
        plot.line(own, colour)
        for place in own:
            across, up = plot.at(*place)
            plot.pen.ellipse((across - 3, up - 3, across + 3, up + 3), fill=colour)
        entries.append((drawing.swatch(colour), name))
    across, up = plot.at(math.log10(cheap.evaluations), math.log10(cheap.frechet))
    plot.pen.ellipse((across - 8, up - 8, across + 8, up + 8), outline=drawing.INK, width=2)
    lines = [verdict(finite), protocol] + (["grey line: held-out real images"] if floor else [])
    parts = [drawing.words([title], 16), drawing.words(lines, 12), drawing.key(entries), plot.finished()]
    return drawing.save(drawing.framed(drawing.below(parts)), path)
