"""AuthPct: the share of samples that are authentic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.reading import unclear
from trilemma.evaluation.standing import place
from trilemma.metrics import authpct
from trilemma.number import Number

POINTS = 5.0
"""Two shares, in per cent, that differ by no more are alike."""


class AuthPct(Metric):
    name = "authpct"
    head = "AuthPct"
    group = "memorisation"
    meaning = (
        "Share of samples that are authentic: farther from their nearest training image than that one is from its own "
        "nearest training neighbour."
    )
    misleads = "Fresh real images do not reach 1 either, so only the distance to the floor says something."
    source = "Alaa et al. 2022, arXiv:2102.08921"
    unit = "%"
    order = 71

    def measure(self, of: Measured) -> Number:
        x, train = of.sample.features, of.real.train.features
        return self.number(lambda: authpct(x, train), len(x), of.how(len(x)))

    def read(self, number: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> str:
        if floor is None or floor.value is None:
            return ""
        where = place(number, floor, POINTS)
        if where == "worse" or (where == "unknown" and (number.value or 0.0) < floor.value):
            return "fewer than among held-out images: copying"
        if where == "unclear":
            return unclear(number, "held-out images")
        return "no fewer than among held-out images" + (f", to within {POINTS:g} points" if where == "alike" else "")
