"""How near samples are to real images: Fréchet and kernel distances, precision, recall, density and coverage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from trilemma.evaluation.glossary import ENTRIES, OFFICIAL
from trilemma.evaluation.protocol import Protocol
from trilemma.evaluation.reference import Reference, display
from trilemma.evaluation.stream import Pool
from trilemma.metrics import (
    Estimate,
    Features,
    frechet_distance,
    frechet_estimate,
    frechet_flag,
    frechet_infinity,
    kernel_distance,
    manifold_scores,
    mutual_nearness,
    passed,
)
from trilemma.number import Better, Number
from trilemma.parallel import find_device

BETTER: dict[str, Better] = {
    "frechet": "lower",
    "frechet_infinity": "lower",
    "kernel": "lower",
    "mutual_fidelity": "higher",
    "mutual_coverage": "higher",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
}
RELATIVE = ("mutual_fidelity", "mutual_coverage")
"""Scores that are stated as multiples of what held-out images reach."""

LEAST_FLOOR = 0.2
"""Where held-out images themselves reach less, a multiple of it says nothing."""

CHEAP_DIMS = 512
"""Features with more dimensions than this are costly: no extrapolation and no ladder unless they are asked for."""


def fidelity(
    sample: Pool, train: Pool, network: Features, protocol: Protocol, against: str, subsets: int = 100
) -> dict[str, Number]:
    """All asked-for scores of a sample against training images, in the features of both.

    Args:
        sample: what is scored.
        train: the real images.
        network: the features, for their name.
        protocol: which scores, and k.
        against: the real images in words.
        subsets: of the kernel distance.
    """
    wanted = [key for key in BETTER if protocol.wants(key)]
    names = {key: json_name(key, network.name) for key in wanted}
    if sample.constant or train.constant:
        flag = (
            f"all {sample.n} samples are the same image"
            if sample.constant
            else "all training images have the same features"
        )
        return {names[key]: Number(None, better=BETTER[key], n=sample.n, flag=flag) for key in wanted}
    distances = _distances(sample, train, protocol, network.dims, wanted, subsets)
    found = {names[key]: metric for key, metric in distances.items()}
    found |= _neighbourhoods(sample, train, protocol, wanted)
    how = f"{network.name} features, {sample.n:,} images against {against}"
    return {name: _told(metric, how) for name, metric in found.items()}


def two_sample(sample: Pool, real: Reference, device: str) -> Number:
    """How often a classifier takes samples for real images."""
    rows = real.train_indices[: len(sample.images)]
    train = display(real.dataset, rows)
    how = f"classifier trained on half of {min(len(rows), len(sample.images)):,} samples and as many training images"
    return attempt(
        lambda: passed(train, sample.images, seed=real.protocol.seed, device=find_device(device)),
        "passed", "higher", len(sample.images), how,
    )  # fmt: skip


def relative(metrics: Mapping[str, Number], floor: Mapping[str, Number]) -> dict[str, Number]:
    """The metrics with those of `RELATIVE` divided by the same of held-out images, as `fidelity` gave both."""
    found = dict(metrics)
    for key in RELATIVE:
        metric, real = metrics.get(key), floor.get(key)
        if metric is None or metric.value is None:
            continue
        if real is None or real.value is None or real.value < LEAST_FLOOR:
            reached = "nothing" if real is None or real.value is None else f"{real.value:.2f}"
            found[key] = replace(metric, value=None, error=None, flag=f"refused: held-out images reach {reached}")
            continue
        value = metric.value / real.value
        errors = (
            ((metric.error or 0.0), value * (real.error or 0.0)) if metric is not real else (0.0, real.error or 0.0)
        )
        found[key] = replace(
            metric,
            value=value,
            error=math.hypot(*errors) / real.value,
            protocol=f"{metric.protocol}; {metric.value:.3f} of them, of held-out images {real.value:.3f}",
        )
    return found


def json_name(key: str, features: str) -> str:
    """The name of a metric in JSON: only Inception's Fréchet distance is called `fid`, its kernel distance `kid`."""
    return OFFICIAL.get(key, key) if features.startswith("inception-2015-12-05/") else key


def _told(metric: Number, how: str) -> Number:
    return Number(**(vars(metric) | {"protocol": f"{how}{metric.protocol}"}))


def _distances(
    sample: Pool, train: Pool, protocol: Protocol, dims: int, wanted: Sequence[str], subsets: int
) -> dict[str, Number]:
    found = {}
    if "frechet" in wanted:
        estimate = frechet(sample, train, dims)
        found["frechet"] = Number(
            estimate.value if estimate else None, estimate.error if estimate else None, "", "lower", sample.n, None,
            ENTRIES["frechet"].meaning, frechet_flag(min(sample.n, train.n), dims),
        )  # fmt: skip
    explicit = {"frechet_infinity", "fid_infinity", "all"} & set(protocol.metrics.split(","))
    if "frechet_infinity" in wanted and (dims <= CHEAP_DIMS or explicit):
        found["frechet_infinity"] = attempt(
            lambda: frechet_infinity(sample.features, train.moments, seed=protocol.seed),
            "frechet_infinity", "lower", len(sample.features), "; extrapolated in 1/N",
        )  # fmt: skip
    if "kernel" in wanted:
        found["kernel"] = attempt(
            lambda: kernel_distance(sample.features, train.features, subsets=subsets, seed=protocol.seed),
            "kernel", "lower", len(sample.features), f"; cubic kernel, {subsets} subsets of at most 1,000",
        )  # fmt: skip
    return found


def frechet(sample: Pool, train: Pool, dims: int) -> Estimate | None:
    """The distance of all n images, its error from those that were kept; None where n is too small for it."""
    kept = len(sample.features)
    if min(sample.n, train.n) <= dims:
        return None
    if kept <= dims:
        return Estimate(frechet_distance(sample.moments, train.moments))
    estimate = frechet_estimate(sample.features, train.moments)
    if kept == sample.n or estimate.error is None:
        return estimate
    return Estimate(frechet_distance(sample.moments, train.moments), estimate.error * (kept / sample.n) ** 0.5)


def attempt(
    measure: Callable[[], Estimate],
    key: str,
    better: Better,
    n: int,
    how: str,
    unit: str = "",
    flag: Callable[[Estimate], str | None] = lambda estimate: None,
) -> Number:
    """A metric, or the reason why there is none: an evaluation does not stop at a model that has collapsed."""
    try:
        found = measure()
    except ValueError as error:
        return Number(None, None, unit, better, n, None, ENTRIES[key].meaning, f"refused: {error}", how)
    return Number(found.value, found.error, unit, better, n, None, ENTRIES[key].meaning, flag(found), how)


def _neighbourhoods(sample: Pool, train: Pool, protocol: Protocol, wanted: Sequence[str]) -> dict[str, Number]:
    asked = [key for key in (*RELATIVE, "precision", "recall", "density", "coverage") if key in wanted]
    if not asked:
        return {}
    n = len(sample.features)
    # The same real images for all that is scored, held-out ones too, however few of them there are.
    reference = min(len(train.features), max(protocol.n, protocol.k + 1))
    if n <= protocol.k or reference <= protocol.k:
        flag = f"refused: {min(n, reference)} images have no {protocol.k}-th neighbour"
        return {key: Number(None, better="higher", n=n, flag=flag) for key in asked}
    real, how = train.features[:reference], f"; k = {protocol.k}, {reference:,} of them"
    found = {}
    if set(RELATIVE) & set(asked):
        mutual = mutual_nearness(real, sample.features, protocol.k)
        shares = {
            "mutual_fidelity": (mutual.fidelity, mutual.fidelity_error),
            "mutual_coverage": (mutual.coverage, mutual.coverage_error),
        }
        for key, (value, error) in shares.items():
            found[key] = Number(value, error, "", "higher", n, None, ENTRIES[key].meaning, None, how)
    classical = [key for key in asked if key not in RELATIVE]
    if not classical:
        return {key: found[key] for key in asked}
    scores = manifold_scores(real, sample.features, protocol.k)
    for key in classical:
        value, error = getattr(scores, key), getattr(scores.error, key)
        found[key] = Number(value, error, "", "higher", n, None, ENTRIES[key].meaning, None, how)
    return {key: found[key] for key in asked}
