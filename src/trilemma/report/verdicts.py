"""Which models can be told apart at this N, in words."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from trilemma import number
from trilemma.evaluation.metric import Metric
from trilemma.report import seeds
from trilemma.report.marks import Sign, signs
from trilemma.report.scores import column_head, columns, measured, more, read


def told_apart(report: dict[str, Any], column: Metric) -> Callable[[int, int], bool | None]:
    """For a column: whether two families, by their numbers, are told apart; None where that was not tested."""
    names = [family["name"] for family in report["families"]]
    tested = {frozenset((d["a"], d["b"])): bool(d["real"]) for d in _of(report, column)}
    return lambda i, j: tested.get(frozenset((names[i], names[j])))


def verdicts(report: dict[str, Any]) -> str:
    """A table of what cannot be told apart, as HTML; empty where nothing was tested."""
    marks = dict(zip((family["name"] for family in report["families"]), signs(report["families"]), strict=True))
    rows, tested, apart = [], 0, 0
    for column in measured(report, (*columns(), *more())):
        pairs = _of(report, column)
        if not pairs:
            continue
        draws = [d for d in pairs if not d["real"]]
        tested, apart = tested + len(pairs), apart + len(pairs) - len(draws)
        said = "".join(_pair(d, marks) for d in draws) or "All of them can be told apart."
        if len(draws) == len(pairs):
            said = "No two of them can be told apart."
        bounds = sorted({d["note"] for d in pairs if d["real"] and d["note"]})
        said += "".join(f"<br><small>Among the rest: {escape(note)}.</small>" for note in bounds)
        head = escape(column_head(column, report["protocol"]["features"]))
        rows.append(
            f'<tr><th scope="row">{head}</th><td>{len(pairs) - len(draws)} of {len(pairs)}</td><td>{said}</td></tr>'
        )
    if not rows:
        return ""
    return (
        f"<details><summary>Who can be told from whom: {apart} of {tested} pairs</summary>"
        '<p class="caption">A difference between two models is real '
        "when its two-sided p-value is below 5 %, after Holm’s correction for the number of pairs: z is the difference "
        "over its standard error, taken image by image where both were asked about the same images, else from both "
        f"errors. {escape(_scope(report))}</p>"
        '<table class="verdicts"><thead><tr><th></th><th scope="col">told apart</th>'
        f'<th scope="col">cannot be told apart at this N</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
        "</details>"
    )


def _scope(report: dict[str, Any]) -> str:
    """What a difference that is real would survive."""
    if seeds.count(report) == 1:
        return (
            "It speaks of these trained models and another draw of images, not of another training with another seed."
        )
    return (
        "Of rows trained with several seeds the error holds their spread too, and p is of Student\u2019s t: such a "
        "difference is one of recipes and would outlast another training. Of other rows, it is of these trained models."
    )


def lines(report: dict[str, Any]) -> list[str]:
    """The same for a terminal: one line for each score of the first table that leaves a pair undecided."""
    found = []
    for column in measured(report, columns()):
        pairs = _of(report, column)
        draws = [f"{d['a']} and {d['b']}" for d in pairs if not d["real"]]
        every = len(draws) == len(pairs) > 1
        if draws:
            n = max(read(family["metrics"], column.name).n for family in report["families"])
            head = column_head(column, report["protocol"]["features"])
            said = "; ".join(draws) if not every else "any two"
            found.append(f"{head}: {said} cannot be told apart at N = {n:,}")
    return found


def _of(report: dict[str, Any], column: Metric) -> list[dict[str, Any]]:
    return [d for d in report.get("differences") or () if d["metric"] in (column.name, column.official)]


def _pair(d: dict[str, Any], marks: dict[str, Sign]) -> str:
    """Two markers with names, and the p-value; the difference itself is in the tooltip."""
    a, b = (f"{marks[d[side]].badge()}&nbsp;{escape(d[side])}" for side in ("a", "b"))
    gap = f"difference {number.text(d['difference'], d['error'])} ± {number.text(d['error'], digits=2)}"
    paired = ", image by image" if d.get("paired") else ""
    p = number.text(d["p"], digits=2) if d["p"] < 0.995 else "1"
    return f'<span class="pairing" title="{gap}{paired}">{a} and {b} <small>p&nbsp;=&nbsp;{p}</small></span> '
