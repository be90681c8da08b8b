"""Fidelity and coverage by mutual nearness, as multiples of what held-out images reach."""

from __future__ import annotations

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.neighbourhoods import mutual, refusal, told, too_few
from trilemma.number import Number


class Fidelity(Metric):
    name = "mutual_fidelity"
    head = "Fidelity"
    group = "fidelity"
    meaning = (
        "Share of samples that are mutually near the data: they lie in the neighbourhood of a real image, and their "
        "own neighbourhood among the samples holds real images. As a multiple of what held-out images reach: 1 is as "
        "they are."
    )
    misleads = (
        "Three images repeated again and again may score 1: look at coverage. It sees what its feature space sees; the "
        "page says where that cannot be trusted."
    )
    source = "mutual nearness, after Khayatkhoei & AbdAlmageed 2023, arXiv:2306.09618"
    needs = ("features",)
    better = "higher"
    ladder = relative = True
    table, order = "first", 2

    def measure(self, of: Measured) -> Number:
        return refusal(of) if too_few(of) else told(mutual(of).fidelity, of)


class Coverage(Metric):
    name = "mutual_coverage"
    head = "Coverage"
    group = "fidelity"
    meaning = (
        "Share of real images that have a faithful sample in their neighbourhood, as a multiple of what held-out "
        "images reach: 1 is as they are."
    )
    misleads = "A sample may stand for several real images, so that it saturates: above 0.9 look at recall too."
    source = "mutual nearness, after Naeem et al. 2020, arXiv:2002.09797"
    needs = ("features",)
    better = "higher"
    ladder = relative = True
    table, order = "first", 3

    def measure(self, of: Measured) -> Number:
        return refusal(of) if too_few(of) else told(mutual(of).coverage, of)
