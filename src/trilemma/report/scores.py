"""Reading a report: which number stands in which column, and how it is written.

The page, the figures and the terminal table all read a number by `read`, so that a value that is missing, undefined or
flagged is treated alike everywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from trilemma import number
from trilemma.evaluation.metric import Metric, find, metrics
from trilemma.number import Number

FORMAT = 1
"""The version of ``report.json`` that this room reads and writes."""

ABSENT = Number(None)
"""What was not measured."""

AXES = {"mutual_fidelity": "quality", "mutual_coverage": "coverage", "images_per_second": "speed"}
"""Which metric stands on which axis."""


def read(scores: Mapping[str, Any], name: str) -> Number:
    """The number ``name`` of a family's or the floor's dictionary; `ABSENT` where it is missing.

    ``frechet`` finds ``fid`` too, and ``kernel`` ``kid``: the same distances in Inception's features.
    """
    metric = find(name)
    return Number.read(scores.get(name) or (scores.get(metric.official) if metric else None))


def column(name: str) -> Metric:
    """The metric of a column."""
    return metrics()[name]


def columns() -> list[Metric]:
    """The columns of the first table."""
    return [metric for metric in metrics().values() if metric.table == "first"]


def more() -> list[Metric]:
    """Those of the second table, of which only what was measured is shown."""
    return [metric for metric in metrics().values() if metric.table == "second"]


def measured(report: dict[str, Any], columns: Sequence[Metric]) -> list[Metric]:
    """The columns in which some family has an entry."""
    return [
        column
        for column in columns
        if any(read(family["metrics"], column.name) != ABSENT for family in report["families"])
    ]


def axes_of(report: dict[str, Any]) -> dict[str, str]:
    """`AXES`, with the two-sample test in place of fidelity where the ladder says that fidelity cannot be trusted."""
    if (report.get("scale") or {}).get("distrust") and any("passed" in f["metrics"] for f in report["families"]):
        return {"passed": "quality"} | {key: axis for key, axis in AXES.items() if axis != "quality"}
    return AXES


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``report.json``, of the version `FORMAT`."""
    found: dict[str, Any] = json.loads(files("trilemma.report").joinpath("schema.json").read_text(encoding="utf-8"))
    return found


def check(report: dict[str, Any]) -> None:
    """Raise ``ValueError`` with one line if ``report`` is of another format or holds a number that JSON has not."""
    if report.get("format") != FORMAT:
        raise ValueError(
            f"the report has format {report.get('format')!r}, but this version reads format {FORMAT}: "
            "run the comparison again with the same version"
        )
    where = _find_non_finite(report, "report")
    if where:
        raise ValueError(f"{where} is not a finite number: write null there, and the reason in its note or flag")


def _find_non_finite(value: Any, where: str) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else where
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = (_find_non_finite(item, f"{where}[{key!r}]") for key, item in items)
    return next((place for place in found if place), None)


def distance_name(features: str) -> str:
    """``FID`` only where the features are Inception's; any other Fréchet distance goes by its plain name."""
    return "FID" if features.lower().startswith("inception") else "Fréchet distance"


def column_head(column: Metric, features: str) -> str:
    """What stands above a column."""
    official = distance_name(features) == "FID"
    return column.head.replace("Fréchet", "FID").replace("Kernel", "KID") if official else column.head


def compact(count: float | None) -> str:
    """A count in few characters: 812, 9,600, 76.8 k, 1.23 M; a dash where it is not known."""
    if count is None:
        return "\N{EN DASH}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= size * (10 if unit == "k" else 1):
            return f"{number.text(count / size)} {unit}"
    return f"{count:,.0f}" if float(count).is_integer() else number.text(count)


def sample_size(scores: Sequence[Number]) -> str:
    """The N behind a column: one number where all agree, else the range; empty where none is given."""
    sizes = sorted({score.n for score in scores if score.defined and score.n})
    if not sizes:
        return ""
    return f"N {sizes[0]:,}" if len(sizes) == 1 else f"N {sizes[0]:,} to {sizes[-1]:,}"
