"""How samples fall on the modes of a mixture of Gaussians, where the data's own law is one: the 2-D mixtures."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch

from trilemma.data.mixtures import Law
from trilemma.evaluation.law import law_of
from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric, named
from trilemma.metrics.spots import NEAR, Spots, spots
from trilemma.number import Number
from trilemma.sampling import sample

PUBLISHED = 2500
"""Samples of the published protocol."""


@dataclass(frozen=True)
class Fallen:
    """What was found of n samples, and the law."""

    spots: Spots
    n: int
    law: Law


class _Mixture(Metric):
    group = "mixture"
    needs = ("images", "law")
    shared = True

    def measure(self, of: Measured) -> Number | None:
        law = law_of(of.real.dataset)
        if law is not None:
            return self.state(of.once("spots", lambda: _fallen(of, law)))
        if of.held_out or self.name not in named(of.protocol.metrics):
            return None
        name = of.real.dataset.name
        return self.undefined(f"undefined, because the law of {name} is not known: it is that of ring and grid")

    @abstractmethod
    def state(self, found: Fallen) -> Number:
        """Its own of the three numbers."""


class MixtureModes(_Mixture):
    name = "mixture_modes"
    head = "Modes found"
    meaning = "Modes of a mixture of Gaussians on which at least one sample falls, within three standard deviations."
    misleads = "One lucky sample finds a mode: read the reverse KL beside it."
    source = "Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086"
    better = "higher"
    order = 20

    def state(self, found: Fallen) -> Number:
        how = f"{found.n:,} samples; found: at least one within {NEAR:g} standard deviations of {found.law.sigma:g}"
        return Number(float(found.spots.found), unit=f"of {found.spots.total}", n=found.n, protocol=how)


class HighQuality(_Mixture):
    name = "high_quality"
    head = "High quality"
    meaning = "Share of samples within three standard deviations of a mode of the mixture."
    misleads = "More than the 98.89 % of a perfect sampler in two dimensions means modes that have shrunk."
    source = "Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086"
    order = 21

    def state(self, found: Fallen) -> Number:
        share = found.spots.quality
        how = f"{found.n:,} samples; a perfect sampler has {100 * found.spots.perfect:.2f} %"
        return Number(100 * share.known, 100 * (share.error or 0.0), "%", n=found.n, protocol=how)


class MixtureKL(_Mixture):
    name = "mixture_kl"
    head = "Mixture KL"
    meaning = (
        "How unevenly samples, each counted for its nearest mode, fall on the modes of the mixture, in nats: "
        "KL(samples ‖ uniform)."
    )
    misleads = "It says nothing about how near to the modes samples are; a perfect sampler is above 0 at any finite N."
    source = "Lin et al. 2018, arXiv:1712.04086"
    better = "lower"
    order = 22

    def state(self, found: Fallen) -> Number:
        modes = found.spots.frequencies
        how = f"{found.n:,} samples; a perfect sampler has {modes.expected_kl:.2g} at this N"
        return Number(modes.kl.value, modes.kl.error, "nats", n=found.n, protocol=how)


def _fallen(of: Measured, law: Law) -> Fallen:
    """Of `PUBLISHED` held-out points, or samples of a run; else of the points that there are."""
    if of.subject is None:
        points = of.real.dataset.batch(of.real.dataset.test[:PUBLISHED])
    else:
        points = of.sample.images
        if of.subject.model is not None and len(points) < PUBLISHED:
            drawn = sample(of.subject.model, PUBLISHED, seed=of.protocol.seed, options=of.options, device=of.device)
            points = drawn.images
        points = points[:PUBLISHED]
    return Fallen(spots(points, torch.from_numpy(law.means), law.sigma), len(points), law)
