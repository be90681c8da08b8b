"""How long to train, and where training stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta


def budget_text(given: str | float | timedelta) -> str:
    """A budget as text: seconds and time differences become ``90s``.

    Raises:
        ValueError: it is none of these, in one line.
    """
    if isinstance(given, timedelta):
        given = given.total_seconds()
    if isinstance(given, int | float) and not isinstance(given, bool):
        return f"{given:.6f}".rstrip("0").rstrip(".") + "s"
    if not isinstance(given, str):
        raise ValueError(f"budget must be seconds or text such as 90s, 5000steps or 1Mimages, not {given!r}")
    return given


@dataclass(frozen=True)
class Budget:
    """How long to train: an amount of seconds, steps or images."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """``90s``, ``2m``, ``1.5h``, ``5000steps``, ``200kimages``, ``1Mimages``."""
        match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(s|m|h|[kM]?steps?|[kM]?images?)", text.strip())
        if not match or float(match[1]) <= 0:
            meant = f" (did you mean {text.strip()}s?)" if text.strip().replace(".", "", 1).isdigit() else ""
            raise ValueError(f"budget {text!r} is not understood{meant}: write 90s, 2m, 1h, 5000steps or 1Mimages")
        amount, unit = float(match[1]), match[2]
        if unit in ("s", "m", "h"):
            return cls(amount * {"s": 1, "m": 60, "h": 3600}[unit], "seconds")
        factor = {"k": 1e3, "M": 1e6}.get(unit[0], 1)
        return cls(amount * factor, "images" if "image" in unit else "steps")

    def spent(self, progress: Progress) -> float:
        """The share of the budget that is used up; 1 or more when training is over."""
        return float(getattr(progress, self.unit)) / self.amount


@dataclass
class Progress:
    """Where training stands."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        return self.step
