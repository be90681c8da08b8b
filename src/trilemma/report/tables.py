"""The comparison as a table, for the page and for a terminal, and the matrix of questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from trilemma import number
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.standing import beyond_real, leaders
from trilemma.number import Number
from trilemma.report import seeds
from trilemma.report.exports import REAL
from trilemma.report.marks import ANSWER_MARKS, answer_mark, signs
from trilemma.report.scores import ABSENT, check, column_head, columns, compact, measured, more, read, sample_size
from trilemma.report.verdicts import lines, told_apart
from trilemma.text import printable

UNSAID = Number(None, note="images alone do not say it")
BEYOND = "better than held-out real images, which no model of them is: a warning and no win"


class Notes:
    """Numbered notes under a table; the same text gets the same number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1

    def html(self) -> str:
        items = "".join(f'<li id="note-{i}">{escape(text)}</li>' for i, text in enumerate(self.texts, 1))
        if not items:
            return ""
        return f'<details><summary>Footnotes 1 to {len(self.texts)}</summary><ol class="notes">{items}</ol></details>'


def column_scores(report: dict[str, Any], column: Metric) -> list[Number]:
    """One score per family, in the order of the report."""
    return [_read(family, column) for family in report["families"]]


def _read(family: dict[str, Any], column: Metric) -> Number:
    score = read(family["metrics"], column.name)
    return UNSAID if score == ABSENT and family.get("family") == "" else score


def _leading(
    report: dict[str, Any], columns: Sequence[Metric], by_column: Sequence[Sequence[Number]]
) -> list[set[int]]:
    """Who is printed bold in each column."""
    floor = report.get("floor") or {}
    return [
        leaders(scores, told_apart(report, column), read(floor, column.name))
        for scores, column in zip(by_column, columns, strict=True)
    ]


def _arrow(scores: Sequence[Number]) -> str:
    better = next((score.better for score in scores if score.better != "none"), "none")
    return {"lower": "↓", "higher": "↑"}.get(better, "")


# ------------------------------------------------------------------------------------------------------ the page


def comparison(report: dict[str, Any]) -> str:
    """The comparison table, a second one of what else was measured, and the notes of both, as HTML."""
    notes = Notes()
    first = _grid(report, columns(), notes, "Comparison table", with_costs=True)
    rest = measured(report, more())
    second = _grid(report, rest, notes, "Second comparison table", with_costs=False) if rest else ""
    heading = '<h3 class="subhead">More of the same, and copies</h3>' if rest else ""
    return f"{first}{heading}{second}{notes.html()}"


def _grid(report: dict[str, Any], columns: Sequence[Metric], notes: Notes, label: str, with_costs: bool) -> str:
    """One table: a row for each family, then one for held-out real images."""
    by_column = [column_scores(report, column) for column in columns]
    floor = [read(report.get("floor") or {}, column.name) for column in columns]
    leading = _leading(report, columns, by_column)
    rows, marks = [], signs(report["families"])
    for i, family in enumerate(report["families"]):
        cells = "".join(
            _cell(scores[i], i in best, notes, real, column.name)
            for scores, best, real, column in zip(by_column, leading, floor, columns, strict=True)
        )
        if with_costs:
            costs = {"parameters": family["parameters"], "trained_on": family["training"]["images"]}
            cells += "".join(f"<td{_value(key, value)}>{compact(value)}</td>" for key, value in costs.items())
        rows.append(f'<tr data-row="{i}"><th scope="row">{marks[i].named(family["title"])}</th>{cells}</tr>')
    cells = "".join(_cell(score, False, notes) if score != ABSENT else "<td></td>" for score in floor)
    empty = "<td></td><td></td>" if with_costs else ""
    rows.append(f'<tr class="floor-row"><th scope="row">{REAL}</th>{cells}{empty}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="comparison">'
        f"<thead><tr><th></th>{_heads(report, columns, by_column, with_costs)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heads(
    report: dict[str, Any], columns: Sequence[Metric], by_column: Sequence[Sequence[Number]], with_costs: bool
) -> str:
    heads = []
    for column, scores in zip(columns, by_column, strict=True):
        head = escape(column_head(column, report["protocol"]["features"]))
        heads.append(
            f'<th scope="col" data-key="{column.name}"><a href="#means-{column.name}">{head}</a>&nbsp;{_way(scores)}'
            f"<small>{_size(scores)}</small></th>"
        )
    costs = (
        '<th scope="col" data-key="parameters">Para&shy;meters&nbsp;<span class="way"></span></th>'
        '<th scope="col" data-key="trained_on">Trained&nbsp;on&nbsp;<span class="way"></span><small>images</small></th>'
    )
    return "".join(heads) + (costs if with_costs else "")


def _way(scores: Sequence[Number]) -> str:
    """Which way is better, where the page puts what sorts by this column."""
    return f'<span class="way">{_arrow(scores)}</span>'


def _size(scores: Sequence[Number]) -> str:
    """N, and out of how many a count is."""
    units = {score.unit for score in scores if score.unit.startswith("of ")}
    return " ".join(filter(None, (*units, sample_size(scores)))) if len(units) == 1 else sample_size(scores)


def _value(key: str, value: float | None) -> str:
    """What the page sorts by."""
    return "" if value is None else f' data-key="{key}" data-value="{value!r}"'


def _cell(score: Number, leads: bool, notes: Notes, floor: Number | None = None, key: str = "") -> str:
    if not score.defined or score.value is None:
        text = "not defined" if score.kind == "undefined" else "no value"
        return f'<td class="absent">{text}{_reference(notes.add(score.reason))}</td>'
    value = ("≤ " if score.kind == "bound" else "") + number.text(score.value, score.error)
    value = f"<strong>{value}</strong>" if leads else value
    how = _reference(notes.add(score.note)) if score.kind and score.note else ""
    kind = f"<small>{escape(score.kind)}{how}</small>" if score.kind else ""
    flag = f'<span class="flag">flag{_reference(notes.add(score.flag))}</span>' if score.flag else ""
    if beyond_real(score, floor):
        flag += f'<span class="flag">warning{_reference(notes.add(BEYOND))}</span>'
    sortable = _value(key, score.value) if key else ""
    return f"<td{sortable}>{value}<small>{number.error_text(score.value, score.error)}</small>{kind}{flag}</td>"


def _reference(note: int) -> str:
    return f'<sup><a href="#note-{note}" aria-label="note {note}">{note}</a></sup>'


def answers(report: dict[str, Any]) -> str:
    """Families against questions: a sign, the word and the phrase, as HTML."""
    families = report["families"]
    questions = list(dict.fromkeys(question for family in families for question in family["answers"]))
    heads = "".join(f'<th scope="col">{escape(question)}</th>' for question in questions)
    rows = []
    marks = signs(families)
    for i, family in enumerate(families):
        if not family["answers"]:  # images, of which nothing can be asked
            continue
        cells = "".join(_answer(question, family["answers"].get(question, "")) for question in questions)
        rows.append(f'<tr data-row="{i}"><th scope="row">{marks[i].named(family["title"])}</th>{cells}</tr>')
    return f'<table class="answers"><thead><tr><th></th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _answer(question: str, answer: str) -> str:
    word = answer.split(maxsplit=1)[0].strip(",.:;").lower() if answer.strip() else ""
    if word not in ANSWER_MARKS:
        return f'<td data-question="{escape(question)}">{escape(answer) or "not stated"}</td>'
    phrase = answer.strip()[len(word) :].lstrip(",.:; ")
    return (
        f'<td class="{word}" data-question="{escape(question)}">{answer_mark(word)} <b>{word}</b>'
        f"<span>{escape(phrase)}</span></td>"
    )


# -------------------------------------------------------------------------------------------------- the terminal


def table(report: dict[str, Any]) -> Group:
    """The same comparison for a terminal: print it with ``rich.print`` or a ``rich.console.Console``.

    Raises:
        ValueError: the report is of another format or holds a number that is not finite.
    """
    check(report)
    notes = Notes()
    first = columns()
    by_column = [column_scores(report, column) for column in first]
    leading = _leading(report, first, by_column)
    floor = report.get("floor") or {}
    title = Text(printable(report["title"]), style="bold")
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, pad_edge=False, title=title)
    drawn.add_column("", overflow="fold")
    for column, scores in zip(first, by_column, strict=True):
        head = column_head(column, report["protocol"]["features"]).replace("-", "-\n")
        drawn.add_column(f"{head}\n{_arrow(scores)}", justify="right", overflow="fold")
    for i, family in enumerate(report["families"]):
        cells = [
            _terminal_cell(s[i], i in best, notes, read(floor, c.name))
            for s, best, c in zip(by_column, leading, first, strict=True)
        ]
        drawn.add_row(Text(family["name"]), *cells)
    drawn.add_section()
    real = [_terminal_cell(read(floor, c.name), False, notes) if floor.get(c.name) else Text() for c in first]
    drawn.add_row(Text("real images"), *real)
    explained = [Text(f"{i}: {text}", style="dim") for i, text in enumerate(notes.texts, 1)]
    said = [*lines(report), *seeds.lines(report)]
    return Group(drawn, *explained, *(Text(printable(line)) for line in said))


def _terminal_cell(score: Number, leads: bool, notes: Notes, floor: Number | None = None) -> Text:
    if not score.defined or score.value is None:
        return Text(f"— {notes.add(score.reason)}", style="dim")
    value = ("≤" if score.kind == "bound" else "") + number.text(score.value, score.error)
    text = Text(value, style="bold" if leads else "")
    if score.error:
        text.append(f"\n{number.error_text(score.value, score.error)}", style="not bold dim")
    if score.kind:
        text.append(f"\n{score.kind}{f' {notes.add(score.note)}' if score.note else ''}", style="not bold dim")
    if score.flag:
        text.append(f"\nflag {notes.add(score.flag)}", style="not bold yellow")
    if beyond_real(score, floor):
        text.append(f"\nwarning {notes.add(BEYOND)}", style="not bold yellow")
    return text
