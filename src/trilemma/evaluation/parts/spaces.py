"""Several feature spaces side by side: an image that was optimised for one of them is not near in the others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.parts.frechet import frechet
from trilemma.evaluation.reference import Reference, cached_pool
from trilemma.evaluation.stream import Pool, Supply, pool
from trilemma.metrics import Features, clip_mmd, feature_network
from trilemma.number import Number

BELOW, ABOVE = 1.0, 1.5
"""A distance significantly under that of real images in one space, and over so many times it in another, is no quality
but an optimised score."""
FEW = "too few samples or held-out images: each must be more than the features have dimensions"


@dataclass(frozen=True)
class Space:
    """One feature space.

    Attributes:
        features: its name.
        frechet, floor: the distance of samples and of as many held-out real images, both to training images.
        ratio: the first over the second; 1 is real.
        cmmd: of CLIP's features, the maximum mean discrepancy of Jayasumana et al.
    """

    features: str
    frechet: Number
    floor: Number
    ratio: Number
    cmmd: Number | None = None


class Spaces(Metric):
    name = "spaces"
    head = "FD ÷ real"
    group = "fidelity"
    meaning = (
        "How many times as far from the training images as held-out real images the samples are, by Fréchet distance, "
        "on average over several feature spaces. Real images are at 1."
    )
    misleads = "It says no more than its worst space: read the list, and never optimise one of them."
    source = "Stein et al. 2023, arXiv:2306.04675; CMMD: Jayasumana et al. 2024, arXiv:2401.09603"
    needs = ("images",)
    better = "lower"
    by_name = True
    floor = False
    order = 47

    def wanted(self, real: Reference) -> bool:
        return bool(names(real.protocol.spaces)) or super().wanted(real)

    def measure(self, of: Measured) -> Number:
        found = spaces(of)
        known = [space for space in found if space.ratio.value is not None]
        if not known:
            return Number(None, n=of.sample.n, flag=FEW)
        errors = [space.ratio.error or 0.0 for space in known]
        return Number(
            statistics.mean(space.ratio.value or 0.0 for space in known),
            math.hypot(*errors) / len(known),
            n=of.sample.n,
            note="; ".join(f"{space.features} {space.ratio}" for space in found),
            flag=optimised(known),
            protocol=f"{known[0].floor.n:,} images and as many held-out ones, each against {of.real.against}",
        )

    def record(self, of: Measured) -> dict[str, Any]:
        return {"spaces": [_plain(space) for space in spaces(of)]}


def names(text: str) -> list[str]:
    """The feature spaces that ``--spaces`` names."""
    return [part.strip() for part in text.split(",") if part.strip()]


def spaces(of: Measured) -> list[Space]:
    """That of the evaluation, and those of ``--spaces``."""

    def compute() -> list[Space]:
        real, own, images = of.real, of.real.network, of.sample.images
        drawn = Supply(len(images), tuple(images.shape[1:]), lambda start, stop: images[start:stop])
        found = [space(own, of.sample, real.train, real.held_out)]
        for name in names(of.protocol.spaces):
            network = feature_network(name, of.device)
            if network.name == own.name:
                continue
            kept = real.protocol.kept
            made = pool(drawn, network, of.where, kept=kept, tell=of.tell, what=f"{network.name} features")
            train, held = (
                cached_pool(real.dataset, rows, network, kept, of.where, of.tell)
                for rows in (real.train_indices, real.held_out_indices)
            )
            found.append(space(network, made, train, held))
        return found

    return of.once("spaces", compute)


def space(network: Features, sample: Pool, train: Pool, held_out: Pool) -> Space:
    """One space, from the features of the samples, of training images and of held-out ones.

    The distance is biased by N: samples and held-out images are equally many.
    """
    n = min(len(sample.features), len(held_out.features))
    distance, floor = (
        replace(frechet(Pool.of(each.features[:n]), train, network.dims), n=n, better="lower")
        for each in (sample, held_out)
    )
    ratio = Number(None)
    if distance.value is not None and floor.value:
        value = distance.value / floor.value
        parts = [(each.error or 0.0) / each.value for each in (distance, floor) if each.value]
        ratio = Number(value, value * math.hypot(*parts))
    of_clip = network.name.startswith("clip")
    return Space(network.name, distance, floor, ratio, clip_mmd(sample.features, train.features) if of_clip else None)


def optimised(known: Sequence[Space]) -> str | None:
    """An alarm where a score is better than that of real images in one space, and not in the others."""
    low = [s for s in known if (s.ratio.value or 0.0) + 2 * (s.ratio.error or 0.0) < BELOW]
    high = [s for s in known if (s.ratio.value or 0.0) - 2 * (s.ratio.error or 0.0) > ABOVE]
    if not low or not high:
        return None
    return (
        f"nearer than real images in {', '.join(s.features for s in low)} ({low[0].ratio}) and far in "
        f"{', '.join(s.features for s in high)} ({high[0].ratio}): was it optimised for the first?"
    )


def _plain(space: Space) -> dict[str, Any]:
    found: dict[str, Any] = {"features": space.features, "cmmd": None}
    for name in ("frechet", "floor", "ratio", "cmmd"):
        number = getattr(space, name)
        if number is not None:
            found[name] = asdict(number.finite())
    return found
