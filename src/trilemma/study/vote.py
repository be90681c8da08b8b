"""One judgement of one person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["real-or-fake", "pairs"]
REAL = "real"
"""The name of the source of held-out real images."""


@dataclass(frozen=True)
class Vote:
    """What one person said of one image, or of two side by side.

    Attributes:
        rater: an anonymous code.
        trial: its number in the rater's session, from 0.
        form: ``real-or-fake``, one image; ``pairs``, two.
        role: ``practice`` and ``check`` (a planted easy trial) are no judgements of a model; ``main`` are.
        source, item: of the image, or of that on the left: the name of its source (`REAL` for real images) and which of
            its images it was.
        other, other_item: the same of the image on the right; empty and -1 where there is one image.
        answer: ``real`` or ``fake``; of two the ``left`` or the ``right``.
        exposure: milliseconds that the image was shown; None for as long as the rater wished.
        milliseconds: until the answer.
        made: seconds since the epoch.
    """

    rater: str
    trial: int
    form: Form
    role: Literal["practice", "check", "main"]
    source: str
    item: int
    answer: Literal["real", "fake", "left", "right"]
    other: str = ""
    other_item: int = -1
    exposure: float | None = None
    milliseconds: float = 0.0
    made: float = 0.0

    @property
    def right(self) -> bool | None:
        """Whether the answer is true; None where there is nothing to be right about (two that are both generated)."""
        if self.form == "real-or-fake":
            return (self.source == REAL) == (self.answer == "real")
        if (self.source == REAL) == (self.other == REAL):
            return None
        return (self.source == REAL) == (self.answer == "left")
