"""Reading a report: which number stands in which column, how it is written, and which ones lead.

The page, the figures and the terminal table all read metrics through `Score`, so that a value that is missing,
undefined or flagged is treated alike everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from trilemma.evaluation.glossary import ENTRIES, OFFICIAL

FORMAT = 1
"""The version of ``report.json`` that this room reads and writes."""


@dataclass(frozen=True)
class Score:
    """One metric as ``report.json`` holds it; the defaults stand for a metric that was not measured.

    Attributes:
        value: the number, or None (then ``reason`` says why).
        error: one standard error of ``value``, or None where it is not known.
        unit: what it is counted in, for people.
        better: ``lower``, ``higher`` or ``none``.
        n: how many images the number rests on.
        kind: ``exact``, ``bound``, ``estimate``, ``undefined`` or None.
        note: how the number came about, or why there is none.
        flag: why the number should not be trusted, or None.
        protocol: how it was made.
    """

    value: float | None = None
    error: float | None = None
    unit: str = ""
    better: str = "none"
    n: int = 0
    kind: str | None = None
    note: str = ""
    flag: str | None = None
    protocol: str = ""

    @classmethod
    def read(cls, scores: dict[str, Any], key: str) -> Score:
        """The metric ``key`` of a family's or the floor's dictionary; an empty score where it is missing.

        ``frechet`` finds ``fid`` too, and ``kernel`` ``kid``: the same distances in Inception's features.
        """
        entry = scores.get(key) or scores.get(OFFICIAL.get(key, key)) or {}
        return cls(**{field.name: entry[field.name] for field in fields(cls) if field.name in entry})

    @property
    def defined(self) -> bool:
        return self.value is not None and self.kind != "undefined"

    @property
    def reason(self) -> str:
        """Why there is no value."""
        return self.flag or self.note or "It was not measured."


@dataclass(frozen=True)
class Column:
    """One measured column of the comparison, with what it means and when it misleads, in one line each."""

    key: str
    head: str
    meaning: str
    misleads: str
    source: str = ""


def _columns(*keys: str) -> tuple[Column, ...]:
    return tuple(Column(e.key, e.head, e.meaning, e.misleads, e.source) for e in map(ENTRIES.__getitem__, keys))


COLUMNS = _columns("frechet", "mutual_fidelity", "mutual_coverage", "bits_per_dim", "memorised", "images_per_second")
"""The first table."""

MORE = _columns(
    "text_accuracy", "text_seen", "text_unseen", "mixture_modes", "high_quality", "mixture_kl", "density_kl",
    "ode_density_kl", "ode_bits_per_dim", "passed", "precision", "recall", "density", "coverage", "kernel",
    "frechet_infinity", "fine_detail", "accuracy", "modes", "mode_kl", "cas", "stacked_modes", "stacked_kl",
    "authpct", "c_t", "train_closer", "nearest_training",
)  # fmt: skip
"""The second table, of which only what was measured is shown."""


def measured(report: dict[str, Any], columns: Sequence[Column]) -> list[Column]:
    """The columns in which some family has an entry."""
    return [
        column
        for column in columns
        if any(Score.read(family["metrics"], column.key) != Score() for family in report["families"])
    ]


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


def column_head(column: Column, features: str) -> str:
    """What stands above a column."""
    official = distance_name(features) == "FID"
    return column.head.replace("Fréchet", "FID").replace("Kernel", "KID") if official else column.head


def number(value: float, error: float | None = None, digits: int = 3) -> str:
    """``value`` as text: as many decimals as its standard error warrants, or ``digits`` significant without one."""
    if value and abs(value) < 1e-4 and not error:
        return _minus(f"{value:.2g}")
    return _minus(f"{value:,.{_decimals(value, error, digits)}f}")


def error_text(value: float, error: float | None) -> str:
    """The standard error to the same decimals as its value; empty where there is none."""
    return f"±{error:,.{_decimals(value, error)}f}" if error else ""


def _decimals(value: float, error: float | None, digits: int = 3) -> int:
    if error:  # one digit of the error, two where the first is a 1 (a 1 alone would round by up to half)
        exponent = math.floor(math.log10(error))
        decimals = -exponent + (error / 10.0**exponent < 1.95)
    else:
        decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return min(max(decimals, 0), 6)


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}") if text.strip("-0.,") else text.lstrip("-")  # no negative zero


def compact(count: float | None) -> str:
    """A count in few characters: 812, 9,600, 76.8 k, 1.23 M; a dash where it is not known."""
    if count is None:
        return "\N{EN DASH}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= size * (10 if unit == "k" else 1):
            return f"{number(count / size)} {unit}"
    return f"{count:,.0f}" if float(count).is_integer() else number(count)


def sample_size(scores: Sequence[Score]) -> str:
    """The N behind a column: one number where all agree, else the range; empty where none is given."""
    sizes = sorted({score.n for score in scores if score.defined and score.n})
    if not sizes:
        return ""
    return f"N {sizes[0]:,}" if len(sizes) == 1 else f"N {sizes[0]:,} to {sizes[-1]:,}"
