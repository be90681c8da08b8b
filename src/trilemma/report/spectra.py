"""How sharp the samples of each family are: their power at each spatial frequency beside that of real images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trilemma import number
from trilemma.report.figures import Scale, axes, both, fitted, plot, svg
from trilemma.report.marks import Sign, signs
from trilemma.report.scores import read

SPAN = (1 / 30, 30.0)
"""Beyond this many times the power of real images, a curve leaves the figure."""


@dataclass(frozen=True)
class Curve:
    """One row: its number and sign, the frequencies in cycles per pixel, its power as a multiple of real images'."""

    row: int
    sign: Sign
    frequencies: Sequence[float]
    ratios: Sequence[float]


def spectra(report: dict[str, Any]) -> str:
    """The figure with all families and a legend that has the number of each; nothing where nothing was measured."""
    curves, entries, rows = [], [], []
    for i, (family, sign) in enumerate(zip(report["families"], signs(report["families"]), strict=True)):
        said = family.get("spectrum") or {}
        pairs = zip(said.get("frequencies", ()), said.get("power", ()), said.get("real", ()), strict=True)
        known = [(f, p / r) for f, p, r in pairs if r > 0 and p > 0]
        if known:
            curves.append(Curve(i, sign, [f for f, _ in known], [ratio for _, ratio in known]))
            entries.append(f'<li data-row="{i}">{sign.named(family["title"])} {_share(family)}</li>')
            rows += [[family["title"], f, ratio] for f, ratio in known]
    if not curves:
        return ""
    drawing = both(draw(curves), draw(curves, 340, 300)) + f'<ul class="legend">{"".join(entries)}</ul>'
    caption = (
        "An image is a sum of waves, from coarse on the left to fine on the right. The curves show how much of each a "
        "family's samples have: on the dashed line as much as real images, below it less (blurred), above it more "
        '(noise). The shares are of the finer half, <a href="#means-fine_detail">fine detail</a>.'
    )
    heads = ["name", "cycles_per_pixel", "power_over_real"]
    return plot("spectra", "How sharp the samples are", drawing, heads, rows, caption)


def _share(family: dict[str, Any]) -> str:
    score = read(family["metrics"], "fine_detail")
    if score.value is None:
        return ""
    return f"{number.text(score.value, score.error)} <small>{number.error_text(score.value, score.error)}</small>"


def draw(curves: Sequence[Curve], width: int = 900, height: int = 320) -> str:
    """Power as a multiple of that of real images, logarithmic, against frequency."""
    top, bottom = 30, 44
    values = [min(max(ratio, SPAN[0]), SPAN[1]) for each in curves for ratio in each.ratios]
    low, high = min(*values, 0.5) / 1.3, max(*values, 2.0) * 1.3
    y = Scale(low, high, height - bottom, top, log=True)
    x = fitted(Scale(0, 0.5, 0, 1), y.ticks(), width)
    parts = [
        axes(x, y, x.ticks(), y.ticks()),
        '<text x="0" y="13">power, times that of real images (log)</text>',
        f'<text class="end" x="{width - 2}" y="{height - 4}">cycles per pixel, 0.5 is the finest</text>',
        f'<path class="floor dashed" d="M{x.start:g},{y(1.0):.1f}H{x.stop:g}"/>',
    ]
    said = []
    for each in curves:
        places = [(x(f), y(min(max(r, low), high))) for f, r in zip(each.frequencies, each.ratios, strict=True)]
        path = "L".join(f"{u:.1f},{v:.1f}" for u, v in places)
        step = max(1, math.ceil(len(places) / 4))
        marks = "".join(each.sign.marker(u, v, 5) for u, v in places[-1::-step])
        parts.append(f'<g class="{each.sign.css}" data-row="{each.row}"><path class="curve" d="M{path}"/>{marks}</g>')
        said.append(f"family {each.row + 1}: {number.text(each.ratios[-1])} times at the finest")
    return svg(width, height, "scatter", f"Power spectra beside real images. {'; '.join(said)}", "".join(parts))
