"""The trilemma: for each row its sentence and its triangle of quality, coverage and speed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from trilemma import number
from trilemma.evaluation.standing import HIGH, NEAR
from trilemma.number import Number
from trilemma.report.figures import plot, speed_scale, triangle
from trilemma.report.marks import Sign, signs
from trilemma.report.scores import AXES, axes_of, read
from trilemma.report.summary import sentence

FIRST_AXIS = {
    "mutual_fidelity": "fidelity (samples that are mutually near the data)",
    "passed": "how often a classifier takes samples for real images",
}


def corners(report: dict[str, Any]) -> str:
    """A card for each row, and how to read them, as HTML."""
    families, floor, axes = report["families"], report.get("floor") or {}, axes_of(report)
    scores = [[read(family["metrics"], key) for key in axes] for family in families]
    speeds = [row[2].value for row in scores if row[2].value is not None]
    floors = [read(floor, key).value for key in list(axes)[:2]] + [None]
    cards, rows = [], []
    for i, (family, sign) in enumerate(zip(families, signs(families), strict=True)):
        cards.append(_card(i, sign, family, _drawn(family["title"], sign, scores[i], floors, speeds)))
        rows.append([family["title"], *(part for score in scores[i] for part in (score.value, score.error))])
    heads = ["name", *(f"{axis}{end}" for axis in axes.values() for end in ("", "_error"))]
    return plot("triangles", "", f'<div class="cards">{"".join(cards)}</div>{_key(report, speeds)}', heads, rows)


def _card(index: int, sign: Sign, family: dict[str, Any], drawing: str) -> str:
    name = f'<a href="#family-{index}">{escape(family["title"])}</a>'
    return (
        f'<div class="card" data-row="{index}">{drawing}<div><h3>{sign.badge()} {name}</h3>'
        f"<p>{escape(sentence(family))}.</p></div></div>"
    )


def _drawn(
    title: str, sign: Sign, scores: Sequence[Number], floors: Sequence[float | None], speeds: Sequence[float]
) -> str:
    shares = [score.value if score.defined else None for score in scores]
    if shares[2] is not None:
        shares[2] = speed_scale(speeds)(shares[2])
    label = f"{title}: " + ", ".join(
        f"{axis} {'no value' if score.value is None else number.text(score.value, score.error)}"
        for axis, score in zip(AXES.values(), scores, strict=True)
    )
    return triangle(shares, floors, sign, [bool(score.flag) for score in scores], label)


def _key(report: dict[str, Any], speeds: Sequence[float]) -> str:
    """How to read a triangle."""
    first, speed = next(iter(axes_of(report))), speed_scale(speeds)
    real = " A bar across an axis marks where held-out real images score: the most one can hope for."
    return (
        '<details class="key"><summary>How to read the triangles</summary><p class="caption">'
        f'Quality is <a href="#means-{first}">{FIRST_AXIS[first]}</a>, and '
        '<a href="#means-mutual_coverage">coverage</a> the share of the data that such samples reach, each as a '
        "multiple of what held-out images reach: 0 in the centre, 1 at the corner. "
        '<a href="#means-images_per_second">Speed</a> is images a second on a logarithmic scale, from '
        f"{number.text(speed.low, digits=2)} in the centre to {number.text(speed.high, digits=2)} at the corner."
        f"{real if report.get('floor') else ''} Read the corners and not the area; a hollow marker is a flagged "
        f"value. A family breaks the triangle if its fidelity and its coverage are surely, by two standard errors, "
        f"above {HIGH:g}, no family is shown to be better at either, and it draws surely more than {NEAR:g} times as "
        "many images a second as the fastest.</p></details>"
    )
