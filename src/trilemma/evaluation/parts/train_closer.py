"""Are samples nearest to training images more often than chance would have it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.reading import unclear
from trilemma.evaluation.standing import place
from trilemma.metrics import train_closer
from trilemma.number import Number

CHANCE = 0.05
"""A share within so much of one half is alike to chance."""


class TrainCloser(Metric):
    name = "train_closer"
    head = "Train-closer"
    group = "memorisation"
    meaning = (
        "Share of samples whose nearest real image is a training image rather than one of equally many held-out "
        "ones: 0.5 shows no memorising, 1 means copies."
    )
    misleads = "It counts near copies only; a model can reuse parts of training images unseen."
    source = "the same idea by counts instead of distances"
    floor = False
    order = 73

    def measure(self, of: Measured) -> Number:
        x, real = of.sample.features, of.real
        return self.number(
            lambda: train_closer(x, real.train.features, real.held_out.features), len(x), of.how(len(x)), _swapped
        )

    def read(self, number: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> str:
        value, error = number.value or 0.0, number.error or 0.0
        where = place(number, Number(0.5, 0.0, better=number.better, n=number.n), CHANCE)
        if where == "alike":
            return f"as often as chance would have it, to within {CHANCE:g}"
        if abs(value - 0.5) <= 3 * error:
            return unclear(number, "chance")
        return f"{'more' if value > 0.5 else 'less'} often than chance would have it"


def _swapped(found: Number) -> str | None:
    if found.known < 0.5 - 5 * (found.error or 0.0) and found.known < 0.4:
        return (
            "samples lie nearer to the held-out than to the training images: are they exchanged, "
            "or is this model trained on other images?"
        )
    return None
