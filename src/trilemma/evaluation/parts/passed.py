"""How often a classifier takes samples for real images: fidelity without a feature space."""

from __future__ import annotations

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.reference import display
from trilemma.metrics import passed
from trilemma.number import Number
from trilemma.parallel import find_device


class Passes(Metric):
    name = "passed"
    head = "Passes"
    group = "fidelity"
    meaning = (
        "Twice the error rate of a classifier that was trained to tell samples from real images: 1 if it can only "
        "guess, 0 if it is never wrong. It needs no feature space, and stands in where fidelity cannot be trusted."
    )
    misleads = "It is strict: any difference at all, such as a noisy background, lets it win."
    source = "classifier two-sample test, Lopez-Paz & Oquab 2017, arXiv:1610.06545"
    better = "higher"
    default = floor = False
    stands_in = True
    order = 40

    def measure(self, of: Measured) -> Number:
        images, real = of.sample.images, of.real
        rows = real.train_indices[: len(images)]
        train, device = display(real.dataset, rows), find_device(of.device)
        how = f"classifier trained on half of {min(len(rows), len(images)):,} samples and as many training images"
        return self.number(lambda: passed(train, images, seed=of.protocol.seed, device=device), len(images), how)
