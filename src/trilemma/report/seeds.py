"""Several training seeds: what another training would change, beside what other images would."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from trilemma import number
from trilemma.evaluation.metric import Metric
from trilemma.report.marks import signs
from trilemma.report.scores import column_head, columns, measured, more, read


def count(report: dict[str, Any]) -> int:
    """The most seeds that a row was trained with; 1 where none was with several."""
    return max([1, *(len(family.get("seeds") or ()) for family in report["families"])])


def sentence(report: dict[str, Any]) -> str:
    """What the errors cover."""
    if count(report) == 1:
        return "The errors cover the finite number of images and not another training with another seed."
    return (
        f"Rows trained with several seeds (up to {count(report)}) are means over them, and their errors cover both the "
        "finite number of images and another training with another seed. Those of other rows cover the images alone."
    )


def section(report: dict[str, Any]) -> str:
    """Each score of each seed, and the two errors side by side, as HTML; empty where every row was trained once."""
    marks = signs(report["families"])
    rows = [
        f'<tr data-row="{i}"><th scope="row">{marks[i].named(report["families"][i]["title"])}</th>'
        f"<td>{escape(column_head(column, report['protocol']['features']))}</td><td>{values}</td>"
        f"<td>{images}</td><td>±{over}</td></tr>"
        for i, column, values, images, over in _cells(report)
    ]
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("score", "seeds", "over images", "over seeds"))
    return (
        f"<details><summary>Over training seeds: up to {count(report)} of a row</summary>"
        '<p class="caption">The value of each seed; one standard error over images; and one over seeds, the spread of '
        "the values over the root of their number. The root of the sum of their squares is the error in the tables.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Training seeds"><table class="verdicts">'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def lines(report: dict[str, Any]) -> list[str]:
    """The same of the first table for a terminal."""
    first = {column.name for column in columns()}
    found = [
        f"{report['families'][i]['name']}, {column_head(column, report['protocol']['features'])}: {values} "
        f"({images} over images, ±{over} over seeds)"
        for i, column, values, images, over in _cells(report)
        if column.name in first
    ]
    return [f"Means over {count(report)} training seeds, of which each is:", *found] if found else []


def _cells(report: dict[str, Any]) -> Iterator[tuple[int, Metric, str, str, str]]:
    """Of each row and score with several seeds: the values and the two errors as text."""
    for i, family in enumerate(report["families"]):
        for column in measured(report, (*columns(), *more())):
            score = family["metrics"].get(column.name) or family["metrics"].get(column.official) or {}
            spread = score.get("seeds")
            if not spread or read(family["metrics"], column.name).value is None:
                continue
            error = spread["spread"] or spread["images"]
            values = ", ".join(number.text(value, error) for value in spread["values"])
            known = spread["images"] is not None
            images = f"±{number.text(spread['images'], spread['images'])}" if known else "not known"
            yield i, column, values, images, number.text(spread["error"], spread["error"])
