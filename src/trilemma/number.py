"""A number with what is needed to read it: the one form in which values travel through metrics, answers and pages."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Better = Literal["lower", "higher", "none"]
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Number:
    """What was measured or computed.

    Attributes:
        value: the number, or None (then ``note`` or ``flag`` says why).
        error: one standard error over images, or None where there is no estimate of it.
        unit: in words, empty for a pure number.
        better: which way is better.
        n: images it was computed from.
        kind: of a likelihood: ``exact``, ``bound``, ``estimate`` or ``undefined``.
        note: what it says, in one clause.
        flag: a reason to distrust it.
        protocol: how it was made: features with their preprocessing, and against what.
        reading: the value in plain words, where there is a scale to read it on.
    """

    value: float | None
    error: float | None = None
    unit: str = ""
    better: Better = "none"
    n: int = 0
    kind: str | None = None
    note: str = ""
    flag: str | None = None
    protocol: str = ""
    reading: str = ""

    def finite(self) -> Number:
        """The same with None for what is NaN or infinite, which JSON does not have."""
        value, error = (x if x is not None and math.isfinite(x) else None for x in (self.value, self.error))
        return replace(self, value=value, error=error)

    def __str__(self) -> str:
        """``1.607 ± 0.012``: as many decimals as the error warrants; the note where there is no value."""
        if self.value is None:
            return self.flag or self.note or "unknown"
        return text(self.value, self.error) + (f" ± {text(self.error, self.error)}" if self.error else "")


def text(value: float, error: float | None = None, digits: int = 3) -> str:
    """A value with as many decimals as its standard error warrants, or ``digits`` significant ones without an error."""
    if value and abs(value) < 1e-4 and not error:
        return f"{value:.2g}".replace("-", MINUS)
    shown = f"{value:,.{decimals(value, error, digits)}f}"
    return shown.replace("-", MINUS) if shown.strip("-0.,") else shown.lstrip("-")  # no negative zero


def decimals(value: float, error: float | None, digits: int = 3) -> int:
    """One digit of the error, two where the first is a 1: a 1 alone would round by up to half."""
    if error:
        exponent = math.floor(math.log10(error))
        wanted = -exponent + (error / 10.0**exponent < 1.95)
    else:
        wanted = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return min(max(wanted, 0), 6)
