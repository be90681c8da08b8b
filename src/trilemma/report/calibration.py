"""What a score looks like: real images made worse on purpose along an axis, with the models placed on the same one."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from trilemma import number
from trilemma.evaluation.metric import Metric
from trilemma.report.figures import Point, Scale, both, plot, shortened, svg, text_width, tick_text
from trilemma.report.marks import signs
from trilemma.report.pictures import Picture, load
from trilemma.report.scores import column_head, columns, distance_name, more, read

STRIP = 3
"""Images in the picture of a rung."""

LANES = {
    "noise": "noise",
    "blur": "blur",
    "jpeg": "JPEG",
    "averages": "averages",
    "blocks": "shuffled",
    "dropped classes": "classes dropped",
}


@dataclass(frozen=True)
class Rung:
    """Held-out real images with one kind of damage at one strength, and how they score."""

    lane: str
    label: str
    text: str
    value: float
    picture: Picture | None = None


def calibration(report: dict[str, Any], folder: Path) -> str:
    """The section's content: the first score with thumbnails, the others behind a click; empty without a ladder.

    The first is the Fréchet distance, where it could not be computed the kernel distance, which needs fewer images.
    """
    rungs = report.get("ladder") or []
    features = report["protocol"]["features"]
    first_of = {"frechet": 0, "kernel": 1}
    ordered = sorted((*columns(), *more()), key=lambda column: first_of.get(column.name, 2))
    first, others = "", ""
    for column in ordered:
        name = distance_name(features) if column.name == "frechet" else column_head(column, features)
        drawn = _drawing(report, column, name, _rungs(rungs, column.name, None if first else folder))
        first, others = (first, others + drawn) if first else (drawn, others)
    if not first:
        return ""
    others = f"<details><summary>The same scale for the other scores</summary>{others}</details>" if others else ""
    return (
        '<p class="caption scale-intro">The same held-out real images, made worse on purpose and then scored exactly '
        "as the samples are. Follow a model’s line down: the pictures on the side marked better score better than it "
        "does, those on the other worse. The dashed line is the same images untouched. Scores that agree need not look "
        f"alike: each kind of damage is its own row.</p>{first}{others}"
    )


def _rungs(rungs: Sequence[dict[str, Any]], key: str, folder: Path | None) -> list[Rung]:
    found = []
    for rung in rungs:
        score = read(rung["metrics"], key)
        if score.value is not None:
            picture = load(folder, rung.get("picture")) if folder else None
            found.append(Rung(rung["name"], _label(rung), rung["text"], score.value, picture))
    return found


def _label(rung: dict[str, Any]) -> str:
    """The strength in a few characters."""
    if rung["name"] == "jpeg":
        return f"q {100 - rung['strength']:g}"
    if rung["name"] == "dropped classes":
        return str(rung["text"]).split(" of ")[0]
    if rung["name"] == "averages":
        return f"of {rung['strength']:g}"
    if rung["name"] == "blocks":
        return f"{rung['strength']:g} × {rung['strength']:g}"
    return f"σ {rung['strength']:g}"


def _drawing(report: dict[str, Any], column: Metric, name: str, rungs: Sequence[Rung]) -> str:
    """The drawing twice, for wide and for narrow screens; empty where no model has the score."""
    points, short, better, rows = [], [], "none", []
    for i, (family, sign) in enumerate(zip(report["families"], signs(report["families"]), strict=True)):
        score = read(family["metrics"], column.name)
        if score.defined and score.value is not None:
            better = score.better
            points.append(Point(i, sign, family["title"], score.value, 0.0, score.error, hollow=bool(score.flag)))
            short.append(Point(i, sign, family["name"], score.value, 0.0, score.error, hollow=bool(score.flag)))
            rows.append([family["title"], score.value, score.error])
    if not points or not rungs:
        return ""
    floor = read(report.get("floor") or {}, column.name).value
    wide = ladder(rungs, points, floor, name, better, width=900)
    narrow = ladder(rungs, short, floor, name, better, width=340)
    rows += [[rung.text, rung.value, None] for rung in rungs] + [["held-out real images", floor, None]]
    return plot(f"scale-{column.name}", "", both(wide, narrow), ["what", column.label(name), "error"], rows)


# ------------------------------------------------------------------------------------------------------ the drawing


def ladder(
    rungs: Sequence[Rung], points: Sequence[Point], floor: float | None, name: str, better: str, width: int
) -> str:
    """Models above, a row for each kind of damage below, one horizontal axis for all.

    The axis is logarithmic where the positive values span more than a factor of eight.
    """
    values = [rung.value for rung in rungs] + [p.x for p in points] + ([floor] if floor is not None else [])
    narrow = width < 600
    x = _axis(values, 16 if narrow else 118, width - 34)
    most = width // 16
    rows, top = _stagger([(x(p.x), text_width(shortened(p.name, most))) for p in points], width), 24
    models = top + 17 * (max(rows, default=0) + 1) + 10
    tall = any(rung.picture for rung in rungs)
    thumb = 34.0 if tall else 0.0
    lane_height = thumb + (46 if narrow else 30)
    lanes = [lane for lane in LANES if any(rung.lane == lane for rung in rungs)]
    bottom = models + 26 + lane_height * len(lanes)
    log = " (log)" if x.log else ""
    arrow = {"lower": "← better", "higher": "better →"}.get(better, "")
    parts = [f'<text x="0" y="13">{escape(name)}{log} <tspan class="dim">{arrow}</tspan></text>']
    parts += [_tick(x, value, bottom, models + 14) for value in x.ticks(4 if narrow else 7)]
    if floor is not None:
        parts.append(f'<path class="floor dashed" d="M{x(floor):.1f},{models - 12}V{bottom}"/>')
    for p, row in zip(points, rows, strict=True):
        parts.append(_model(p, x, top + 17 * row + 12, models, bottom, width, most))
    for i, lane in enumerate(lanes):
        at = models + 26 + lane_height * i
        parts.append(_lane([r for r in rungs if r.lane == lane], LANES[lane], x, at, thumb, narrow, width))
    said = "; ".join(f"{p.name} {number.text(p.x)}" for p in points)
    scale = ", ".join(f"{rung.text} {number.text(rung.value)}" for rung in rungs)
    return svg(width, round(bottom + 24), "scatter ladder", f"{name}. {said}. Real images with {scale}", "".join(parts))


def _axis(values: Sequence[float], left: float, right: float) -> Scale:
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > 8 and max(values) > 1.2:
        return Scale(min(positive) / 1.4, max(positive) * 1.4, left, right, log=True)
    low, high = min(0.0, *values), max(values)
    return Scale(low, (high or 1.0) * 1.04, left, right)


def _tick(x: Scale, value: float, bottom: float, top: float) -> str:
    return (
        f'<path class="grid" d="M{x(value):.1f},{top:.0f}V{bottom:.0f}"/>'
        f'<text class="tick middle" x="{x(value):.1f}" y="{bottom + 16:.0f}">{tick_text(value)}</text>'
    )


def _model(p: Point, x: Scale, name_at: float, at: float, bottom: float, width: int, most: int) -> str:
    """A marker with its name above it, its error, and a thin line down through the rows."""
    here = x(p.x)
    name = shortened(p.name, most)
    half = text_width(name) / 2
    text_at = min(max(here, half + 2), width - half - 2)
    error = ""
    if p.x_error:
        low, high = x(max(p.x - p.x_error, x.low)), x(min(p.x + p.x_error, x.high))
        error = f'<path class="bar" d="M{low:.1f},{at:.1f}H{high:.1f}"/>'
    return (
        f'<g class="{p.sign.css}" data-row="{p.row}"><title>{escape(p.name)}: {number.text(p.x)}</title>'
        f'<path class="drop" d="M{here:.1f},{name_at + 4:.1f}V{bottom:.1f}"/>{error}'
        f"{p.sign.marker(here, at, 6, p.hollow)}"
        f'<text class="name middle" x="{text_at:.1f}" y="{name_at:.1f}">{escape(name)}</text></g>'
    )


def _lane(rungs: Sequence[Rung], title: str, x: Scale, top: float, thumb: float, narrow: bool, width: int) -> str:
    """One kind of damage: pictures where there is room, tied to where they belong."""
    rungs = sorted(rungs, key=lambda rung: rung.value)
    label_at = top + (12 if narrow else 20)
    parts = [f'<text class="dim" x="{0}" y="{label_at:.0f}">{escape(title)}</text>']
    line = top + (22 if narrow else 6)
    parts.append(f'<path class="grid" d="M{x.start},{line:.1f}H{x.stop}"/>')
    wide = [_thumb_width(rung, thumb, narrow) for rung in rungs]
    places = _spread([x(rung.value) for rung in rungs], wide, x.start - 12, width - 2.0)
    for rung, at, size in zip(rungs, places, wide, strict=True):
        true = x(rung.value)
        parts.append(f"<g><title>{escape(rung.text)}: {number.text(rung.value)}</title>")
        parts.append(f'<circle class="rung" cx="{true:.1f}" cy="{line:.1f}" r="3"/>')
        if rung.picture:
            parts.append(f'<path class="tie" d="M{true:.1f},{line:.1f}L{at:.1f},{line + 7:.1f}"/>')
            parts.append(_image(rung.picture, at - size / 2, line + 7, size, thumb, narrow))
        text_at = line + (thumb + 20 if rung.picture else 16)
        parts.append(f'<text class="tick middle" x="{at:.1f}" y="{text_at:.1f}">{escape(rung.label)}</text></g>')
    return "".join(parts)


def _thumb_width(rung: Rung, height: float, narrow: bool) -> float:
    if not rung.picture:
        return 6.6 * len(rung.label) + 6
    whole = height * rung.picture.width / rung.picture.height
    return max(whole / STRIP if narrow else whole, 6.6 * len(rung.label))


def _image(picture: Picture, x: float, y: float, width: float, height: float, narrow: bool) -> str:
    """The strip of images; on narrow screens its first image, cut off by the inner svg."""
    whole = height * picture.width / picture.height
    encoded = base64.b64encode(picture.data).decode()
    drawn = whole / STRIP if narrow else whole
    left = x + (width - drawn) / 2
    return (
        f'<svg x="{left:.1f}" y="{y:.1f}" width="{drawn:.1f}" height="{height:g}" viewBox="0 0 {drawn:.1f} {height:g}">'
        f'<image class="thumb" width="{whole:.1f}" height="{height:g}" href="data:image/png;base64,{encoded}"/></svg>'
    )


def _stagger(labels: Sequence[tuple[float, float]], width: int) -> list[int]:
    """A row for each centred label of a given length, so that those in one row do not touch; crowded ones go up."""
    taken: list[list[tuple[float, float]]] = []
    rows = [0] * len(labels)
    for i in sorted(range(len(labels)), key=lambda i: labels[i][0]):
        centre, length = labels[i]
        centre = min(max(centre, length / 2), width - length / 2)
        span = centre - length / 2 - 5, centre + length / 2 + 5
        row = next((r for r, spans in enumerate(taken) if _free(span, spans)), len(taken))
        if row == len(taken):
            taken.append([])
        taken[row].append(span)
        rows[i] = row
    return rows


def _free(span: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    return all(span[1] <= a or b <= span[0] for a, b in taken)


def _spread(places: Sequence[float], widths: Sequence[float], low: float, high: float) -> list[float]:
    """Centres moved as little as can be (least squares) so that neighbours do not overlap, within ``low … high``.

    Less the room that the earlier ones take, the centres must not fall: the nearest such sequence comes from averaging
    neighbours that are out of order (pool adjacent violators).
    """
    room = [0.0]
    for left, right in pairwise(widths):
        room.append(room[-1] + (left + right) / 2 + 3)
    blocks: list[tuple[float, int]] = []  # (mean, how many)
    for place, taken in zip(places, room, strict=True):
        mean, count = place - taken, 1
        while blocks and blocks[-1][0] > mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    level = [mean for mean, count in blocks for _ in range(count)]
    least, most = low + widths[0] / 2, high - widths[-1] / 2 - room[-1]
    return [min(max(value, least), max(most, least)) + taken for value, taken in zip(level, room, strict=True)]
