"""C_T: do samples as a whole lie nearer to the training set than held-out images do?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.reading import unclear
from trilemma.metrics import c_t
from trilemma.number import Number

COPYING = -3.0
"""A value below this is flagged; one in 700 models that copy nothing is."""


class DataCopying(Metric):
    name = "c_t"
    head = "C_T"
    group = "memorisation"
    meaning = (
        "Whether samples lie nearer to the training set than held-out images do, as a z-score: below −3 copying, above "
        "+3 underfitting."
    )
    misleads = (
        "It asks about the whole sample: a tenth of copies among 2,000 good samples is seen, one per cent is not."
    )
    source = "Meehan, Chaudhuri & Dasgupta 2020, arXiv:2004.05675"
    floor = False
    order = 72

    def measure(self, of: Measured) -> Number:
        x, real = of.sample.features, of.real
        null = f"{len(real.held_out.features):,} held-out ones as the null; the error is that under the null"
        how = f"{of.how(len(x))}, and {null}"
        return self.number(
            lambda: c_t(x, real.train.features, real.held_out.features, seed=of.protocol.seed), len(x), how, _copying
        )

    def read(self, number: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> str:
        value, error = number.value or 0.0, number.error or 0.0
        if abs(value) <= 3 * error:
            return unclear(number, "held-out images in how near they are to the training set")
        where = "nearer to the training set than held-out images are: copying"
        return where if value < 0 else "farther from the training set than held-out images are: no copying as a whole"


def _copying(found: Number) -> str | None:
    if found.known < COPYING:
        return "samples lie nearer to the training images than held-out images do, as a whole: copying"
    return None
