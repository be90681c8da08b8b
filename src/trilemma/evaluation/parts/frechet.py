"""Fréchet distance, and what it would be of infinitely many samples; of Inception's features they are FID and FID∞."""

from __future__ import annotations

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric, named
from trilemma.evaluation.official import biased
from trilemma.evaluation.stream import Pool
from trilemma.metrics import frechet_distance, frechet_estimate, frechet_flag, frechet_infinity
from trilemma.number import Number

CHEAP_DIMS = 512
"""Features with more dimensions than this are costly: no extrapolation unless it is asked for by name, or all is."""


class Frechet(Metric):
    name = "frechet"
    official = "fid"
    head = "Fréchet"
    group = "fidelity"
    meaning = (
        "Distance between a Gaussian fitted to the features of the samples and one fitted to those of real images."
    )
    misleads = (
        "It is biased upwards when N is small, so only equal N and equal features compare; it sees a mean and a "
        "covariance and nothing else."
    )
    source = "Heusel et al. 2017, arXiv:1706.08500"
    needs = ("features",)
    entire = True
    better = "lower"
    ladder = True
    table, order = "first", 1
    beyond = "are they copies of training images?"

    def measure(self, of: Measured) -> Number:
        sample, train, dims = of.sample, of.real.train, of.real.network.dims
        found = frechet(sample, train, dims)
        flag = frechet_flag(min(sample.n, train.n), dims)
        if flag and found.value is not None and of.real.part != "training images":  # of two sets, by how much too
            flag = biased(sample.moments.gaussian(), train.moments.gaussian())
        return Number(found.value, found.error, better="lower", n=sample.n, note=self.meaning, flag=flag)


class FrechetInfinity(Metric):
    name = "frechet_infinity"
    official = "fid_infinity"
    head = "Fréchet ∞"
    group = "fidelity"
    meaning = (
        "The same distance extrapolated to infinitely many samples, which takes away a bias that depends on the model."
    )
    misleads = "It is a straight line through noisy points: its error is larger than that of the distance itself."
    source = "Chong & Forsyth 2020, arXiv:1911.07023"
    needs = ("features",)
    entire = True
    better = "lower"
    order = 46

    def measure(self, of: Measured) -> Number | None:
        asked = {self.name, self.official, "all"} & named(of.protocol.metrics)
        if of.real.network.dims > CHEAP_DIMS and not asked:
            return None
        x, train, seed = of.sample.features, of.real.train, of.protocol.seed
        return self.number(lambda: frechet_infinity(x, train.moments, seed=seed), len(x), "; extrapolated in 1/N")


def frechet(sample: Pool, train: Pool, dims: int) -> Number:
    """The distance of all n images, its error from those that were kept; no value where n is too small for it."""
    kept = len(sample.features)
    if min(sample.n, train.n) <= dims:
        return Number(None)
    if kept <= dims:
        return Number(frechet_distance(sample.moments, train.moments))
    estimate = frechet_estimate(sample.features, train.moments)
    if kept == sample.n or estimate.error is None:
        return estimate
    return Number(frechet_distance(sample.moments, train.moments), estimate.error * (kept / sample.n) ** 0.5)
