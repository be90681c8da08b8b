"""What people said of the images: a row for each source, beside its distance from the data."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from trilemma import number
from trilemma.number import Number
from trilemma.report.marks import signs
from trilemma.report.scores import distance_name, read

CHANCE, MOST = 0.5, 0.75
"""Where images cannot be told from real ones, and the right end of the scale."""

WIDTH, HEIGHT = 190, 22


def people(report: dict[str, Any]) -> str:
    """The table and the sentences of ``report["study"]`` as HTML; empty where there was no study."""
    study = report.get("study") or {}
    if study.get("fault"):
        return f'<p class="alarm">{escape(str(study["fault"]))}</p>'
    if not study.get("rows"):
        return ""
    index = {family["name"]: i for i, family in enumerate(report["families"])}
    landmark = study.get("landmark") or {}
    name = distance_name(report["protocol"]["features"])
    columns = [(head, key) for head, key in COLUMNS if any(_known(row, key) for row in study["rows"])]
    heads = "".join(f'<th scope="col">{head}</th>' for head, _ in columns)
    rows = "".join(_row(row, columns, report, index, landmark.get("value")) for row in study["rows"])
    shown = {row.get("reading") for row in study["rows"]}
    said = "".join(f"<li>{escape(str(line))}</li>" for line in study.get("readings", ()) if line not in shown)
    best = _landmark(landmark)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="What people said">'
        '<table class="comparison people">'
        f'<thead><tr><th></th><th scope="col">{name}&nbsp;↓</th><th scope="col">Error rate&nbsp;↑</th>'
        f'<th></th>{heads}<th scope="col">Votes</th></tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="caption">The error rate is {_meaning(study)}: 50 % (the line) is as good as guessing. The bar is '
        f"where it lies with 95 % certainty, over other raters and other images.{best} d′ is how many standard "
        "deviations images look different from real ones, whichever answer people favour; ± is one standard error.</p>"
        f'<ul class="readings">{said}</ul>'
    )


def _meaning(study: Mapping[str, Any]) -> str:
    if any(_known(row, "fakes") for row in study["rows"]):
        return "how often people were wrong, over as many generated as real images"
    return "how often people took the generated of two images for the better or the real one"


COLUMNS = (
    ("d′&nbsp;↓", "d_prime"),
    ("Seen through in<small>milliseconds</small>", "exposure"),
    ("Strength&nbsp;↑<small>in pairs</small>", "strength"),
)


def _row(
    row: Mapping[str, Any],
    columns: list[tuple[str, str]],
    report: dict[str, Any],
    index: Mapping[str, int],
    landmark: float | None,
) -> str:
    source = str(row["source"])
    at = index.get(source)
    if at is None:
        head, distance = escape(source), "<td></td>"
    else:
        family = report["families"][at]
        head = signs(report["families"])[at].named(family["title"])
        distance = _number(read(family["metrics"], "frechet"))
    rate = row.get("error_rate") or {}
    value = rate.get("value")
    said = escape(str(row.get("says") or ""))
    if value is None:
        shown = f'<td class="absent">no value</td><td class="judged"><small>{said}</small></td>'
    else:
        ends = "" if rate.get("low") is None else f"<small>{_percent(rate['low'])} to {_percent(rate['high'])}</small>"
        figure = scale(value, rate.get("low"), rate.get("high"), landmark)
        shown = f'<td>{_percent(value)} %{ends}</td><td class="judged">{figure}<small>{said}</small></td>'
    cells = "".join(_number(Number.read(row.get(key))) for _, key in columns)
    votes = f"<td>{row.get('votes', 0):,}<small>{row.get('raters', 0):,} raters</small></td>"
    of = "" if at is None else f' data-row="{at}"'
    return f'<tr{of}><th scope="row">{head}</th>{distance}{shown}{cells}{votes}</tr>'


def scale(value: float, low: float | None, high: float | None, landmark: float | None = None) -> str:
    """An error rate with its interval between 0 and three quarters, a line at one half, a tick at the landmark."""

    def x(share: float) -> float:
        return 4 + (WIDTH - 8) * min(max(share, 0.0), MOST) / MOST

    middle = HEIGHT / 2
    parts = [
        f'<line class="grid" x1="{x(0):.1f}" x2="{x(MOST):.1f}" y1="{middle}" y2="{middle}"/>',
        f'<line class="floor" x1="{x(CHANCE):.1f}" x2="{x(CHANCE):.1f}" y1="1" y2="{HEIGHT - 1}"/>',
    ]
    if landmark is not None:
        parts.append(f'<line class="dot" x1="{x(landmark):.1f}" x2="{x(landmark):.1f}" y1="5" y2="{HEIGHT - 5}"/>')
    if low is not None and high is not None:
        parts.append(f'<line class="range" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}"/>')
    parts.append(f'<circle class="rate" cx="{x(value):.1f}" cy="{middle}" r="4.5"/>')
    label = f"{_percent(value)} % on a scale to {100 * MOST:g} %, 50 % is chance"
    return (
        f'<svg class="rates" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def _landmark(landmark: Mapping[str, Any]) -> str:
    value = landmark.get("value")
    if value is None:
        return ""
    return (
        f" The tick is {escape(str(landmark.get('name')))}, {_percent(value)} % ({escape(str(landmark.get('paper')))})."
    )


def _number(score: Number) -> str:
    if score.value is None:
        return '<td class="absent">no value</td>' if score.note or score.flag else "<td></td>"
    return (
        f"<td>{number.text(score.value, score.error)}<small>{number.error_text(score.value, score.error)}</small></td>"
    )


def _known(row: Mapping[str, Any], key: str) -> bool:
    return (row.get(key) or {}).get("value") is not None


def _percent(share: float) -> str:
    return number.text(100 * share, 0.5)
