"""Kernel distance; of Inception's features it is the KID."""

from __future__ import annotations

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.metrics import kernel_distance
from trilemma.number import Number

SUBSETS, OF_A_RUNG = 100, 20
"""Subsets that it is a mean over; on the ladder the mean is all that is read."""


class Kernel(Metric):
    name = "kernel"
    official = "kid"
    head = "Kernel"
    group = "fidelity"
    meaning = (
        "Kernel distance: how much more alike real images are among themselves than they are like the samples. "
        "Unbiased at any N."
    )
    misleads = "Small values are noisy and may be negative; it compares within one feature space only."
    source = "Bińkowski et al. 2018, arXiv:1801.01401"
    needs = ("features",)
    entire = True
    better = "lower"
    ladder = True
    order = 45
    beyond = "are they copies of training images?"

    def measure(self, of: Measured) -> Number:
        x, train, subsets = of.sample.features, of.real.train.features, OF_A_RUNG if of.rung else SUBSETS
        return self.number(
            lambda: kernel_distance(x, train, subsets=subsets, seed=of.protocol.seed),
            len(x), f"; cubic kernel, {subsets} subsets of at most 1,000",
        )  # fmt: skip
