"""The numbers of a report as text to take along: tables as CSV, Markdown and LaTeX, and what to cite as BibTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trilemma import number
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.standing import leaders
from trilemma.number import Number
from trilemma.report.scores import column_head, columns, measured, more, read
from trilemma.report.verdicts import told_apart
from trilemma.text import printable

REAL = "Held-out real images"
LEGEND = "± is one standard error, bold the best and what cannot be told from it, † a flagged value"
Line = tuple[int | None, str]
"""A line of text, and the row of the report that it is about; None where it is about none."""


def csv_text(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as CSV (RFC 4180, but with plain line ends); None becomes an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([[_plain(cell) for cell in row] for row in rows])
    return file.getvalue()


def _plain(cell: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell


@dataclass(frozen=True)
class _Row:
    """One row of the table: its place in the report, its name, its numbers, and in which columns it leads."""

    place: int | None
    title: str
    scores: list[Number]
    leads: list[bool]


def _table(report: dict[str, Any]) -> tuple[list[Metric], list[_Row]]:
    shown = [*columns(), *measured(report, more())]
    floor = [read(report.get("floor") or {}, column.name) for column in shown]
    families = report["families"]
    by_column = [[read(family["metrics"], column.name) for family in families] for column in shown]
    ahead = [
        leaders(scores, told_apart(report, column), real)
        for scores, column, real in zip(by_column, shown, floor, strict=True)
    ]
    rows = [
        _Row(i, printable(family["title"]), [scores[i] for scores in by_column], [i in best for best in ahead])
        for i, family in enumerate(families)
    ]
    return shown, [*rows, _Row(None, REAL, floor, [False] * len(shown))]


def as_csv(report: dict[str, Any]) -> list[Line]:
    """Every value and its standard error, unrounded."""
    shown, rows = _table(report)
    heads = [
        "name",
        "family",
        *(f"{column.label(_features(report))}{end}" for column in shown for end in ("", "_error")),
    ]
    lines: list[Line] = [(None, csv_text(heads, []))]
    for row in rows:
        family = {} if row.place is None else report["families"][row.place]
        cells = [x for score in row.scores for x in (score.value, score.error)]
        line = csv_text([_plain(row.title), str(family.get("family", family.get("name", ""))), *map(_cell, cells)], [])
        lines.append((row.place, line))
    return lines


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def _features(report: dict[str, Any]) -> str:
    return str(report["protocol"]["features"])


def as_markdown(report: dict[str, Any]) -> list[Line]:
    """The table as GitHub and most other places read it."""

    def clean(words: str) -> str:
        return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", words)

    def cell(score: Number, leads: bool) -> str:
        if not score.defined:
            return "–"
        words = ("≤ " if score.kind == "bound" else "") + str(score)
        return (f"**{words}**" if leads else words) + (" †" if score.flag else "")

    shown, rows = _table(report)
    heads = [f"{clean(column_head(column, _features(report)))}{_arrow(rows, k)}" for k, column in enumerate(shown)]
    lines: list[Line] = [(None, f"| | {' | '.join(heads)} |\n|:--|{'--:|' * len(heads)}\n")]
    for row in rows:
        cells = " | ".join(cell(score, leads) for score, leads in zip(row.scores, row.leads, strict=True))
        lines.append((row.place, f"| {clean(row.title)} | {cells} |\n"))
    return [*lines, (None, f"\n{LEGEND}.\n")]


def as_latex(report: dict[str, Any]) -> list[Line]:
    """The table for ``\\usepackage{booktabs}``: the best and what cannot be told from it in bold."""

    def cell(score: Number, leads: bool) -> str:
        if not score.defined or score.value is None:
            return "---"
        value = number.text(score.value, score.error).replace(number.MINUS, "-").replace(",", "{,}")
        value = f"\\mathbf{{{value}}}" if leads else value
        error = f" \\pm {number.text(score.error, score.error)}" if score.error else ""
        bound = "\\leq " if score.kind == "bound" else ""
        flag = "^\\dagger" if score.flag else ""
        return f"${bound}{value}{flag}{error}$"

    arrows = {" ↑": r" $\uparrow$", " ↓": r" $\downarrow$", "": ""}
    shown, rows = _table(report)
    heads = " & ".join(
        latex_escape(column_head(column, _features(report))) + arrows[_arrow(rows, k)] for k, column in enumerate(shown)
    )
    lines: list[Line] = [(None, f"\\begin{{tabular}}{{l{'r' * len(shown)}}}\n\\toprule\n & {heads} \\\\\n\\midrule\n")]
    for row in rows:
        cells = " & ".join(cell(score, leads) for score, leads in zip(row.scores, row.leads, strict=True))
        rule = "\\midrule\n" if row.place is None else ""
        lines.append((row.place, f"{rule}{latex_escape(row.title)} & {cells} \\\\\n"))
    return [*lines, (None, f"\\bottomrule\n\\end{{tabular}}\n% {LEGEND}.\n")]


def _arrow(rows: Sequence[_Row], column: int) -> str:
    better = next((row.scores[column].better for row in rows if row.scores[column].better != "none"), "none")
    return {"lower": " ↓", "higher": " ↑"}.get(better, "")


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def latex_escape(words: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in words)


def as_bibtex(report: dict[str, Any]) -> list[Line]:
    """The program that measured, with what it measured by, and the paper of each family."""
    try:
        year = datetime.fromisoformat(str(report.get("created"))).year
    except ValueError:
        year = None
    version = latex_escape(printable(str(report.get("version") or "")))
    how = f"Features: {_features(report)}; N = {report['protocol']['n']:,}; data: {report['data']['name']}"
    lines: list[Line] = [(None, _entry("software", "trilemma", {
        "title": "trilemma: deep generative models on one scale", "version": version, "year": year,
        "note": latex_escape(printable(how)),
    }))]  # fmt: skip
    seen = set()
    for i, family in enumerate(report["families"]):
        paper, name = printable(str(family.get("paper") or "")), family.get("family", family["name"])
        if paper and name not in seen:
            seen.add(name)
            arxiv = re.search(r"arXiv[: ]\s?(\d{4}\.\d{4,5})", paper)
            date = re.search(r"\b(19|20)\d\d\b", paper)
            key = re.sub(r"\W+", "-", str(name)).strip("-") or f"family-{i}"
            lines.append((i, _entry("misc", key, {
                "title": latex_escape(printable(family["title"])), "year": date[0] if date else None,
                "eprint": arxiv[1] if arxiv else None, "archivePrefix": "arXiv" if arxiv else None,
                "note": latex_escape(paper),
            })))  # fmt: skip
    return lines


def _entry(kind: str, key: str, fields: dict[str, Any]) -> str:
    inside = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@{kind}{{{key},\n{inside}\n}}\n"


EXPORTS: dict[str, tuple[str, Callable[[dict[str, Any]], list[Line]]]] = {
    "csv": ("CSV", as_csv),
    "md": ("Markdown", as_markdown),
    "tex": ("LaTeX", as_latex),
    "bib": ("BibTeX", as_bibtex),
}
"""The end of a file's name → what people call it, and what makes it."""
