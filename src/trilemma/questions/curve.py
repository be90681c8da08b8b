"""Speed against quality: one trained run, drawn from with few and with many steps by each of its samplers."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from trilemma import drawing
from trilemma.families.diffusion import Denoising
from trilemma.questions.sweep import Point, Scores

COUNTS = (1, 2, 5, 10, 20, 50, 100, 1000)
"""Steps of each sampler, where no others are asked for."""
WITHIN = 0.10
"""How near to the best counts as as good."""
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 60, 20), (230, 159, 0))
"""Hues that people with any kind of colour vision tell apart (Okabe and Ito), one for each sampler, then anew."""


def ways(
    model: Denoising, base: Any, samplers: Sequence[str] | None = None, counts: Sequence[int] | None = None
) -> list[Any]:
    """The sampling options of every point, the cheapest first, so that a first picture of the curve comes soon.

    Args:
        base: what all points share, such as the spacing; its sampler and steps are replaced. Its eta counts for ddim
            and its variance for ddpm alone.
        samplers: by default all that the model has, but only its own of ddim and euler, which take the same steps
            where no noise is added.
        counts: numbers of steps; by default those of `COUNTS` that the model can take (a student's may be few).

    Raises:
        ValueError: a count that was asked for and that the model cannot take, or a list of times, in one line.
    """
    if base.times:
        raise ValueError("the points of a curve are named by their number of steps: leave out --times")
    if samplers is None:
        own = model.Options().sampler
        twin = {"ddim": "euler", "euler": "ddim"}.get(own) if base.eta == 0 else None
        samplers = [name for name in model.samplers if name != twin]
    chosen = []
    for count in counts or COUNTS:
        for name in samplers:
            way = base.by(name, count)
            try:
                way.visits(model.schedule)
            except ValueError:
                if counts is None:
                    continue
                raise
            chosen.append(way)
    return chosen


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


def verdict(points: Sequence[Point], distance: str = "Fréchet") -> str:
    """The answer in a sentence; ``distance`` is what the Fréchet distance is called in these features."""
    cheap, best = cheapest(points)
    return (
        f"cheapest within {WITHIN:.0%} of the best: {cheap.label} in {cheap.steps} steps ({cheap.evaluations} "
        f"evaluations, {distance} {cheap.frechet:.3g}, {cheap.seconds:.2g} s an image); the best is {best.label} in "
        f"{best.steps} ({best.evaluations} evaluations, {best.frechet:.3g}, {best.seconds:.2g} s)"
    )


def table(points: Sequence[Point], floor: Scores | None = None, distance: str = "Fréchet") -> list[str]:
    """Lines of a table, a row for each point, each sampler's together; ± is one standard error."""
    head = f"{'sampler':<13}{'steps':>6}{'evaluations':>12}{distance:>17}{'precision':>15}{'recall':>15}{'s/image':>10}"
    names = ("frechet", "precision", "recall")
    rows = []
    for point in by_sampler(points):
        one, two, three = (written(point.scores.get(name)) for name in names)
        rows.append(
            f"{point.label:<13}{point.steps:>6}{point.evaluations:>12}{one:>17}{two:>15}{three:>15}"
            f"{point.seconds:>10.2g}"
        )
    if floor is not None:
        one, two, three = (written(floor.get(name)) for name in names)
        rows.append(f"{'held-out real images':<31}{one:>17}{two:>15}{three:>15}")
    return [head, *rows]


def written(score: tuple[float | None, float | None] | None) -> str:
    """``5.04 ± 0.1``; a dash where there is no number."""
    value, error = score or (None, None)
    if value is None:
        return "–"
    return f"{value:.3g}" + ("" if error is None else f" ± {error:.1g}")


def by_sampler(points: Sequence[Point]) -> list[Point]:
    """The points, each sampler's together by the number of steps."""
    order = list(dict.fromkeys(point.label for point in points))
    return sorted(points, key=lambda point: (order.index(point.label), point.steps))


# The picture


def draw_curve(
    points: Sequence[Point],
    floor: Scores | None,
    path: str | os.PathLike[str],
    title: str,
    protocol: str,
    distance: str = "Fréchet",
) -> Path:
    """A PNG of Fréchet distance, precision, recall and seconds against evaluations, a line for each sampler."""
    distance = distance.replace("é", "e")  # the font lacks it
    finite = by_sampler([point for point in points if math.isfinite(point.frechet)])
    cheap, _ = cheapest(finite)
    named = f"{distance} distance" if distance != "FID" else distance
    panels = [
        _panel(finite, cheap, floor, "frechet", f"{named}, lower is better", logarithmic=True),
        _panel(finite, cheap, floor, "precision", "precision: share of samples that look real"),
        _panel(finite, cheap, None, "seconds", "seconds for an image", logarithmic=True),
        _panel(finite, cheap, floor, "recall", "recall: share of real images that are reached"),
    ]
    samplers = list(dict.fromkeys(point.label for point in finite))
    entries = [(drawing.swatch(colour), name) for name, colour in zip(samplers, itertools.cycle(COLOURS), strict=False)]
    lines = [
        verdict(finite, distance),
        protocol,
        "ring: the cheapest within 10 % of the best" + ("; grey line: held-out real images" if floor else ""),
    ]
    parts = [
        drawing.words([title], 16),
        drawing.words(lines, 12),
        drawing.key(entries),
        drawing.beside(panels[:2]),
        drawing.beside(panels[2:]),
    ]
    return drawing.save(drawing.framed(drawing.below(parts)), path)


def _panel(
    points: Sequence[Point], cheap: Point, floor: Scores | None, name: str, title: str, *, logarithmic: bool = False
) -> Image.Image:
    """One number against evaluations, these by factors of ten."""

    def height(value: float) -> float:
        return math.log10(max(value, 1e-9)) if logarithmic else value

    def of(point: Point) -> float:
        return height(point.seconds if name == "seconds" else point.value(name))

    level = floor.get(name, (None, None))[0] if floor else None
    heights = [value for value in map(of, points) if math.isfinite(value)]
    heights += [] if level is None else [height(level)]
    low, high = min(heights, default=0.0), max(heights, default=1.0)
    margin = 0.06 * (high - low) or 0.05
    y = (low - margin, high + margin)
    x = (-0.03, math.log10(max(point.evaluations for point in points)) + 0.08)
    ticks = [k for k in (0, math.log10(2), math.log10(5), 1, math.log10(20), math.log10(50), 2, 3) if k <= x[1]]
    if logarithmic:
        decades = range(math.floor(y[0]), math.ceil(y[1]))
        nice = [(math.log10(n) + k, f"{n * 10**k:g}") for k in map(float, decades) for n in (1, 2, 5)]
        marks = [mark for mark in nice if y[0] <= mark[0] <= y[1]]
    else:
        marks = [(k, f"{k:g}") for k in drawing.steps(*y)]
    plot = drawing.Plot((470, 300), x, y, ("network evaluations for an image", title), ([], []))
    plot.mark_x([(k, f"{10**k:.0f}") for k in ticks])
    plot.mark_y(marks)
    if level is not None:
        plot.line([(x[0], height(level)), (x[1], height(level))], (150, 150, 150), 1)
    labels = dict.fromkeys(point.label for point in points)
    for label, colour in zip(labels, itertools.cycle(COLOURS), strict=False):
        own = [(math.log10(p.evaluations), of(p)) for p in points if p.label == label and math.isfinite(of(p))]
        plot.line(own, colour)
        for place in own:
            plot.dot(place, colour)
    if math.isfinite(of(cheap)):
        plot.dot((math.log10(cheap.evaluations), of(cheap)), None, 8)
    return plot.finished()
