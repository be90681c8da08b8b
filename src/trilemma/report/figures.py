"""The drawings of the report: pure functions from numbers to inline SVG.

Colours come from the page's CSS variables (class ``hue0`` … ``hue7`` sets ``--hue``), so the drawings follow light,
dark and print. A family is told apart by its marker's shape as well as by its hue, and by its name beside it. What
belongs to a row of the report carries ``data-row``, by which the page hides it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from trilemma import number
from trilemma.drawing import steps
from trilemma.report.exports import csv_text
from trilemma.report.marks import Sign

# ---------------------------------------------------------------------------------------------------- the trilemma


CENTRE, RADIUS = (75.0, 79.0), 58.0
CORNERS = tuple((math.cos(math.radians(a)), math.sin(math.radians(a))) for a in (-90, 150, 30))
"""Directions of quality (up), coverage (left) and speed (right)."""


def speed_scale(speeds: Sequence[float]) -> Scale:
    """From below the slowest to just above the fastest speed, two decades at least, onto 0 … 1."""
    known = [speed for speed in speeds if speed > 0] or [1.0]
    high = max(known) * 1.25
    return Scale(min(min(known) / 3, high / 100), high, 0.0, 1.0, log=True)


def _along(axis: int, share: float) -> tuple[float, float]:
    """The point ``share`` of the way from the centre to a corner; what lies beyond the corner is drawn on it."""
    share = min(max(share, 0.0), 1.0)
    return CENTRE[0] + RADIUS * share * CORNERS[axis][0], CENTRE[1] + RADIUS * share * CORNERS[axis][1]


def _ring(shares: Sequence[float]) -> str:
    return "M" + "L".join("{:.1f},{:.1f}".format(*_along(axis, share)) for axis, share in enumerate(shares)) + "Z"


def _floor_ticks(floors: Sequence[float | None]) -> str:
    """A short stroke across an axis where held-out real images score."""
    ticks = []
    for axis, floor in enumerate(floors):
        if floor is not None:
            (x, y), (u, v) = _along(axis, floor), CORNERS[axis]
            ticks.append(f"M{x - 7 * v:.1f},{y + 7 * u:.1f}L{x + 7 * v:.1f},{y - 7 * u:.1f}")
    return f'<path class="floor" d="{"".join(ticks)}"/>' if ticks else ""


def _frame() -> str:
    spokes = "".join("M{:.1f},{:.1f}L{:.1f},{:.1f}".format(*CENTRE, *_along(axis, 1)) for axis in range(3))
    corners = (
        f'<text class="tick middle" x="{CENTRE[0]:g}" y="11">quality</text>'
        '<text class="tick" x="1" y="126">coverage</text><text class="tick end" x="149" y="126">speed</text>'
    )
    return f'<path class="frame" d="{_ring((1, 1, 1))}"/><path class="inner" d="{_ring((0.5,) * 3)}{spokes}"/>{corners}'


def triangle(
    shares: Sequence[float | None], floors: Sequence[float | None], sign: Sign, hollow: Sequence[bool], label: str
) -> str:
    """One family on the three axes.

    Args:
        shares: position on quality, coverage and speed, 0 (centre) to 1 (corner); None where there is no value.
        floors: position of held-out real images on the same axes; None where there is none.
        sign: the family's hue and marker.
        hollow: axes whose value is flagged.
        label: what the drawing says, for those who do not see it.
    """
    known = [(axis, share) for axis, share in enumerate(shares) if share is not None]
    points = [_along(axis, share) for axis, share in known]
    path = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    shape = f'<path class="area" d="M{path}{"Z" if len(points) == 3 else ""}"/>' if len(points) > 1 else ""
    marks = "".join(sign.marker(x, y, 4.5, hollow[axis]) for (axis, _), (x, y) in zip(known, points, strict=True))
    return svg(150, 130, f"triangle {sign.css}", label, _frame() + shape + _floor_ticks(floors) + marks)


# -------------------------------------------------------------------------------------- speed against distance


@dataclass(frozen=True)
class Point:
    """One row in `scatter`: its number and sign, its name, speed ± error and distance ± error."""

    row: int
    sign: Sign
    name: str
    x: float
    y: float
    x_error: float | None = None
    y_error: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from ``low … high`` onto pixels ``start … stop``."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else steps(self.low, self.high, count)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    shown = (1, 2, 5) if high / low < 300 else (1,)
    return [m * 10.0**d for d in decades for m in shown if low * 0.999 <= m * 10.0**d <= high * 1.001]


def scatter(points: Sequence[Point], floor: float | None, name: str, width: int = 900, height: int = 400) -> str:
    """Speed (images a second, logarithmic) against distance, with the distance of held-out real images as a line.

    The distance axis is logarithmic where the values span more than a factor of eight, else it starts at 0.
    """
    values = [p.y for p in points] + ([floor] if floor is not None else [])
    log = min(values) > 0 and max(values) / min(values) > 8
    low, high = (min(values) / 1.5, max(values) * 1.5) if log else (min(0.0, *values), (max(values) or 1.0) * 1.12)
    top, bottom = 34, 48
    y = Scale(low, high, height - bottom, top, log)
    x = fitted(Scale(min(p.x for p in points) / 3, max(p.x for p in points) * 3, 0, 1, True), y.ticks(), width)
    left, right = x.start, x.stop
    parts = [
        axes(x, y, x.ticks(), y.ticks()),
        f'<text x="0" y="13">{escape(name)}{" (log)" if log else ""} <tspan class="dim">↓ better</tspan></text>',
        f'<text class="end" x="{width - 2}" y="{height - 4}">images per second (log) '
        '<tspan class="dim">→ better</tspan></text>',
    ]
    taken: list[Box] = [(x(p.x) - 9, y(p.y) - 9, x(p.x) + 9, y(p.y) + 9) for p in points]
    if floor is not None:
        words = f"held-out real images {number.text(floor)}"
        parts.append(f'<path class="floor dashed" d="M{left:g},{y(floor):.1f}H{right:g}"/>')
        parts.append(f'<text x="{left + 6:g}" y="{y(floor) - 6:.1f}">{words}</text>')
        taken.append((left, y(floor) - 20, left + text_width(words), y(floor) + 2))
    for p in points:
        title = f"<title>{escape(p.name)}: {number.text(p.y)} at {number.text(p.x)} images/s</title>"
        mark = p.sign.marker(x(p.x), y(p.y), 7, p.hollow)
        label = _place_label(p, x(p.x), y(p.y), (left, top, right, height - bottom), taken)
        parts.append(f'<g class="{p.sign.css}" data-row="{p.row}">{title}{_error_bars(p, x, y)}{mark}{label}</g>')
    described = "; ".join(f"{p.name}: {number.text(p.y)} at {number.text(p.x)} images per second" for p in points)
    return svg(width, height, "scatter", f"{name} against sampling speed. {described}", "".join(parts))


Box = tuple[float, float, float, float]


def _error_bars(p: Point, x: Scale, y: Scale) -> str:
    bars = ""
    if p.y_error:
        bars += f"M{x(p.x):.1f},{y(max(p.y - p.y_error, y.low)):.1f}V{y(p.y + p.y_error):.1f}"
    if p.x_error:
        bars += f"M{x(max(p.x - p.x_error, x.low)):.1f},{y(p.y):.1f}H{x(p.x + p.x_error):.1f}"
    return f'<path class="bar" d="{bars}"/>' if bars else ""


def _place_label(p: Point, x: float, y: float, frame: Box, taken: list[Box]) -> str:
    """The name beside its point: at the first place that is inside the frame and free, else at the first inside."""
    name = shortened(p.name, int((frame[2] - frame[0]) / 16))
    width = text_width(name)
    right, left, middle = x + 12, x - 12 - width, x - width / 2
    places = [(right, y - 8), (left, y - 8), (middle, y - 27), (middle, y + 11)]
    places += [(right, y - 25), (left, y - 25), (right, y + 9), (left, y + 9)]
    boxes = [(u, v, u + width, v + 17) for u, v in places]
    inside = [b for b in boxes if b[0] >= frame[0] and b[1] >= frame[1] and b[2] <= frame[2] and b[3] <= frame[3]]
    free = [b for b in inside if not any(_overlap(b, other) for other in taken)]
    box = (free or inside or boxes)[0]
    taken.append(box)
    # the width is a guess, so the text hangs on the side where its point is
    anchor, at = ("end", box[2]) if box[0] == left else ("middle", x) if box[0] == middle else ("", box[0])
    return f'<text class="name {anchor}" x="{at:.1f}" y="{box[1] + 13:.1f}">{escape(name)}</text>'


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# ---------------------------------------------------------------------------------------------- training curves


def curve(points: Sequence[Sequence[float | None]], name: str, sign: Sign, most_seen: float) -> str:
    """One logged value against the number of training images seen, the last value written at its end.

    Args:
        points: pairs (images seen, value); pairs without a value are left out.
        name: what was logged.
        sign: the family's, for its hue.
        most_seen: right end of the axis, so that the charts of one family share it.

    The vertical axis fits what follows the first twentieth of training; a start beyond it is cut and said in words.
    """
    pairs = [(pair[0], pair[1]) for pair in points if pair[0] is not None and pair[1] is not None]
    if not pairs:
        return ""
    width, height, top, bottom = 260, 140, 8, 24
    shown = [v for seen, v in pairs if seen >= 0.05 * most_seen] or [v for _, v in pairs]
    low, high = min(shown), max(shown)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    y = Scale(low - margin, high + margin, height - bottom, top)
    (seen, last), first = pairs[-1], pairs[0][1]
    x = Scale(0, most_seen or 1.0, 8 + widest(y.ticks(3)), width - 12 - text_width(number.text(last)))
    path = "L".join(f"{x(seen):.1f},{min(max(y(v), -999), 999):.1f}" for seen, v in _thin(pairs, 400))
    inner = (
        f'y="{top}" width="{width}" height="{height - bottom - top}" viewBox="0 {top} {width} {height - bottom - top}"'
    )
    parts = [
        axes(x, y, [0, x.high], y.ticks(3)),
        f'<svg {inner}><path class="curve" d="M{path}"/></svg>',  # an inner svg cuts what lies outside of it
        f'<circle class="end-dot" cx="{x(seen):.1f}" cy="{y(last):.1f}" r="3"/>',
        f'<text class="last" x="{x(seen) + 7:.1f}" y="{y(last) + 4:.1f}">{number.text(last)}</text>',
    ]
    if not y.low <= first <= y.high:
        at = top + 11 if first > y.high else height - bottom - 5
        parts.append(f'<text class="tick end" x="{x.stop:g}" y="{at}">starts at {number.text(first)}</text>')
    label = f"{name} against training images seen: from {number.text(first)} to {number.text(last)}"
    return svg(width, height, f"chart {sign.css}", label, "".join(parts))


def _thin(pairs: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Every k-th pair and the last, at most about ``most`` of them: more than the pixels of a small chart."""
    step = max(1, math.ceil(len(pairs) / most))
    return pairs[:-1:step] + pairs[-1:]


# ------------------------------------------------------------------------------------------------- shared pieces


def text_width(words: str, size: float = 13.0) -> float:
    """About as wide as words are drawn at most, in pixels: what is drawn for unknown fonts needs room."""
    return 0.62 * size * len(words)


def shortened(name: str, most: int = 30) -> str:
    """A name of at most so many characters."""
    return name if len(name) <= most else name[: max(most - 1, 1)].rstrip() + "…"


def widest(ticks: Sequence[float]) -> float:
    return max((text_width(tick_text(tick), 12) for tick in ticks), default=0.0)


def fitted(x: Scale, y_ticks: Sequence[float], width: float) -> Scale:
    """The same horizontal axis between the numbers of the vertical one and the right edge, none of them cut."""
    half = widest([x.ticks()[-1]]) / 2 if x.ticks() else 0.0
    return replace(x, start=8 + widest(y_ticks), stop=width - max(half, 16.0))


def axes(x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    """Hairlines and their numbers."""
    parts = []
    for value in y_ticks:
        parts.append(f'<path class="grid" d="M{x.start:g},{y(value):.1f}H{x.stop:g}"/>')
        parts.append(f'<text class="tick end" x="{x.start - 6:g}" y="{y(value) + 4:.1f}">{tick_text(value)}</text>')
    for value in x_ticks:
        parts.append(f'<path class="grid" d="M{x(value):.1f},{y.start}v4"/>')
        parts.append(f'<text class="tick middle" x="{x(value):.1f}" y="{y.start + 17}">{tick_text(value)}</text>')
    return "".join(parts)


def tick_text(value: float) -> str:
    """A round number in few characters: 0.5, 2,000, 20k."""
    if abs(value) >= 1e4:
        return f"{value / 1e6:.3g}M" if abs(value) >= 1e6 else f"{value / 1e3:.3g}k"
    return f"{value:,g}".replace("-", "\N{MINUS SIGN}")


def svg(width: int, height: int, classes: str, label: str, body: str) -> str:
    return (
        f'<svg class="{classes}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )


def plot(
    name: str, heading: str, drawing: str, heads: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = ""
) -> str:
    """A figure that the page can save: the drawing as SVG, its numbers as CSV.

    Args:
        name: of the files.
        heading: as HTML; none where it is empty.
        drawing: one or several drawings.
        heads, rows: its numbers.
        caption: as HTML.
    """
    head = f"<h3>{heading}</h3>" if heading else ""
    below = f'<figcaption class="caption">{caption}</figcaption>' if caption else ""
    return (
        f'<figure class="plot" data-name="{escape(name)}" data-csv="{escape(csv_text(heads, rows))}">'
        f"{head}{drawing}{below}</figure>"
    )


def both(wide: str, narrow: str) -> str:
    """A drawing for wide and one for narrow screens, since text must not shrink with it."""
    return f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
