"""Precision, recall, density and coverage: four answers on one geometry."""

from __future__ import annotations

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.neighbourhoods import manifold, refusal, told, too_few
from trilemma.number import Number

CROWD = "samples crowd where real images are most typical"


class _Manifold(Metric):
    group = "fidelity"
    needs = ("features",)
    better = "higher"
    ladder = True

    def measure(self, of: Measured) -> Number:
        return refusal(of) if too_few(of) else told(getattr(manifold(of), self.name), of)


class Precision(_Manifold):
    name = "precision"
    head = "Precision"
    meaning = (
        "Share of samples that lie among the real images: closer to one of them than that one's k-th real neighbour."
    )
    misleads = (
        "Fooled by averages, blur and noise, which fall between real images, into the neighbourhoods of outliers: "
        "read fidelity. A model that repeats its few safest images scores high; above the floor is not better."
    )
    source = "Kynkäänniemi et al. 2019, arXiv:1904.06991"
    order = 41
    beyond = CROWD


class Recall(_Manifold):
    name = "recall"
    head = "Recall"
    meaning = "Share of real images that lie among the samples, by the same rule with the roles exchanged."
    misleads = "A few outlying samples, noise for one, stretch the neighbourhoods and raise it."
    source = "Kynkäänniemi et al. 2019, arXiv:1904.06991"
    order = 42
    beyond = "a few outlying samples stretch their neighbourhoods"


class Density(_Manifold):
    name = "density"
    head = "Density"
    meaning = (
        "How many real neighbourhoods hold a sample on average, divided by k; about 1 when both come from one law."
    )
    misleads = (
        "It has no upper end: above 1 the samples crowd where real images are most typical, as averages and blur do."
    )
    source = "Naeem et al. 2020, arXiv:2002.09797"
    order = 43
    beyond = CROWD


class BallCoverage(_Manifold):
    name = "coverage"
    head = "Ball coverage"
    meaning = "Share of real images that have at least one sample, faithful or not, in their neighbourhood."
    misleads = (
        "Noise falls into the neighbourhoods of outliers and covers them. Even a perfect sampler stays below 1, so "
        "compare it with the floor and not with 1."
    )
    source = "Naeem et al. 2020, arXiv:2002.09797"
    order = 44
