"""Did the model copy its training images? A verdict with a p-value, in pixels and in features, and closest pairs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.evaluation.glossary import ENTRIES
from trilemma.evaluation.reference import Reference, display
from trilemma.evaluation.scores import attempt
from trilemma.evaluation.stream import Pool
from trilemma.metrics import (
    Alike,
    Copies,
    Nearness,
    Pair,
    Whitened,
    authpct,
    c_t,
    mutual_nearness,
    nearness,
    train_closer,
    verdict,
)
from trilemma.metrics.estimate import Estimate, share_of
from trilemma.number import Number

SIDE = 32
"""Pixels are compared at this size at most; a copy stays a copy when both are averaged down."""

MOST_SAMPLES, MOST_TRAINING = 10_000, 200_000
"""Images compared pixel by pixel, at most."""

PAIRS = 10

COPYING = -3.0
"""A `c_t` below this is flagged; one in 700 models that copy nothing is."""


@dataclass(frozen=True)
class Closest:
    """A sample and the training image it comes nearest to: their rows, and the distance between them."""

    sample: int
    training: int
    distance: float


@dataclass(frozen=True)
class Memory:
    """All that is known about copying.

    Attributes:
        metrics: the numbers.
        record: the two verdicts in words, with p-values and pairs.
        pairs: the most suspicious pairs, closest first, by ``pixels`` and by ``features``; ``training`` is an index
            of the data set.
    """

    metrics: dict[str, Number]
    record: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, list[Closest]] = field(default_factory=dict)


def memory(sample: Pool, real: Reference, held_out: bool = False) -> Memory:
    """Everything asked for about copying; of ``held_out`` images themselves only what needs no other held-out images.

    Args:
        sample: with its images.
    """
    protocol, n = real.protocol, len(sample.features)
    how = f"{real.network.name} features, {n:,} images against {real.against}"
    metrics: dict[str, Number] = {}
    if protocol.wants("authpct"):
        metrics["authpct"] = attempt(
            lambda: authpct(sample.features, real.train.features), "authpct", "none", n, how, unit="%"
        )
    by_pixels = None
    if protocol.wants("nearest_training", "memorised"):
        by_pixels = (
            real_nearness(real, "pixels")
            if held_out
            else _nearness(_shown(sample.images, real), train_pixels(real), real)
        )
    if by_pixels and protocol.wants("nearest_training"):
        metrics["nearest_training"] = _median_distance(by_pixels, train_pixels(real))
    if held_out:
        return Memory(metrics)
    if protocol.wants("c_t"):
        beside = (
            f"{how}, and {len(real.held_out.features):,} held-out ones as the null; the error is that under the null"
        )
        metrics["c_t"] = attempt(
            lambda: c_t(sample.features, real.train.features, real.held_out.features, seed=protocol.seed),
            "c_t", "none", n, beside, flag=_copying,
        )  # fmt: skip
    if protocol.wants("train_closer"):
        metrics["train_closer"] = attempt(
            lambda: Estimate(*train_closer(sample.features, real.train.features, real.held_out.features)),
            "train_closer", "none", n, how, flag=_swapped,
        )  # fmt: skip
    if not protocol.wants("memorised") or by_pixels is None:
        return Memory(metrics)
    return _verdict(sample, by_pixels, real, metrics)


def _copying(found: Estimate) -> str | None:
    if found.value < COPYING:
        return "samples lie nearer to the training images than held-out images do, as a whole: copying"
    return None


def _swapped(found: Estimate) -> str | None:
    if found.value < 0.5 - 5 * (found.error or 0.0) and found.value < 0.4:
        return (
            "samples lie nearer to the held-out than to the training images: are they exchanged, "
            "or is this model trained on other images?"
        )
    return None


# ----------------------------------------------------------------------------------------------------- the verdict


def _nearness(x: Tensor, train: Tensor, real: Reference) -> Nearness:
    return nearness(x, train, index=real.protocol.search == "index")


def real_nearness(real: Reference, space: str) -> Nearness:
    """How near held-out images come to training images, in pixels or in features; computed once."""
    key = f"nearness by {space}"
    if key not in real.memo:
        own, train = real.held_out.features, real.train.features
        if space == "pixels":
            own, train = _shown(real.held_out_images, real), train_pixels(real)
        real.memo[key] = _nearness(own, train, real)
    found: Nearness = real.memo[key]
    return found


def _verdict(sample: Pool, by_pixels: Nearness, real: Reference, metrics: dict[str, Number]) -> Memory:
    n, protocol = len(by_pixels.distance), real.protocol
    try:
        found = _by_pixels_and_features(sample, by_pixels, real)
    except ValueError as problem:
        metrics["memorised"] = Number(None, better="lower", n=n, flag=f"refused: {problem}")
        return Memory(metrics)
    # Two looks at the same question: the smaller p-value is doubled.
    space = min(found, key=lambda key: found[key].p_value)
    p_value = min(1.0, 2 * found[space].p_value)
    best, train = found[space], train_pixels(real)
    error = share_of(best.share * n, n).error
    flag = f"p = {p_value:.2g}: {best.text}, by {space}" if p_value < 0.01 else None
    metrics["memorised"] = Number(
        best.share if p_value < 0.05 else 0.0, error, "", "lower", n, None,
        f"{ENTRIES['memorised'].meaning} Here by {space}, p = {p_value:.2g}", flag,
        f"pixels against {len(train):,} training images and {real.network.name} features against "
        f"{real.train.n:,}; {len(real.held_out.features):,} held-out images"
        + (" are the null" if real.dataset.vector else ", in pixels also blurred and whitened, are the null")
        + ("; searched by an index, which may miss neighbours" if protocol.search == "index" else ""),
    )  # fmt: skip
    record = {
        key: {
            "share": c.share,
            "p_value": c.p_value,
            "exact": c.exact,
            "exact_held_out": c.exact_held_out,
            "text": c.text,
        }
        for key, c in found.items()
    }
    pairs = {
        "pixels": _pairs(found["pixels"], real.dataset.train, math.sqrt(train.shape[1])),
        "features": _pairs(found["features"], real.train_indices, 1.0),
    }
    told = {key: [asdict(pair) for pair in listed] for key, listed in pairs.items()}
    return Memory(metrics, {"p_value": p_value, **record, "pairs": told}, pairs)


def _by_pixels_and_features(sample: Pool, by_pixels: Nearness, real: Reference) -> dict[str, Copies]:
    """The two verdicts; of images by whitened pixels, and by features only among images that are faithful in them.

    Smooth and average images are nearer to everything. By pixels they are compared with real images that are as smooth;
    in features there are none, so that only samples that are mutually near the data are judged, beside held-out images
    of which the same is true. A copy always is.
    """
    by_features, real_features = _nearness(sample.features, real.train.features, real), real_nearness(real, "features")
    plain = by_pixels, real_nearness(real, "pixels")
    if real.dataset.vector:
        return {
            "pixels": verdict(*plain, pairs=PAIRS),
            "features": verdict(by_features, real_features, pairs=PAIRS),
        }
    alike, images = _alike(real), shrunk(sample.images[:MOST_SAMPLES])
    pixels = verdict(*alike.judge(images), pairs=PAIRS, plain=plain)
    pixels = replace(pixels, pairs=tuple(_with_distance(pair, images, real) for pair in pixels.pairs))
    judged, null = (_faithful(pool, real).nonzero()[:, 0] for pool in (sample, real.held_out))
    if not len(judged) or not len(null):
        text = "no sample is near enough to the data to be a copy in features"
        return {"pixels": pixels, "features": Copies(0.0, 1.0, 0, 0, (), text)}
    features = verdict(_rows(by_features, judged), _rows(real_features, null), pairs=PAIRS)
    shown = tuple(replace(pair, sample=int(judged[pair.sample])) for pair in features.pairs)
    text, count = features.text, len(sample.features)
    if left_out := count - len(judged):
        text = f"{text}; {left_out:,} of {count:,} samples, too far from the data to be copies, are not judged"
    share = features.share * len(judged) / count
    return {"pixels": pixels, "features": replace(features, pairs=shown, share=share, text=text)}


def _faithful(pool: Pool, real: Reference) -> Tensor:
    """Which of a pool are mutually near the data, bool [N]; all of them where they are too few to say."""
    k, train = real.protocol.k, real.train.features
    reference = train[: max(real.protocol.n, k + 1)]
    if len(pool.features) <= k or len(reference) <= k:
        return torch.ones(len(pool.features), dtype=torch.bool)
    return mutual_nearness(reference, pool.features, k).faithful


def _rows(near: Nearness, rows: Tensor) -> Nearness:
    return Nearness(near.distance[rows], near.index[rows], near.ratio[rows])


def _with_distance(pair: Pair, images: Tensor, real: Reference) -> Pair:
    """The pair with its Euclidean distance in pixels."""
    apart = images[pair.sample].flatten().double() - train_pixels(real)[pair.train].double()
    return replace(pair, distance=apart.norm().item())


def _alike(real: Reference) -> Alike:
    """Whitened training images, and the null; made once."""
    if "alike" not in real.memo:
        shape = shrunk(real.held_out_images[:1]).shape[1:]
        train, seed = train_pixels(real).view(-1, *shape), real.protocol.seed
        real.memo["alike"] = Alike(Whitened(train, seed), shrunk(real.held_out_images), train, seed)
    found: Alike = real.memo["alike"]
    return found


def _pairs(found: Copies, rows: Any, scale: float) -> list[Closest]:
    listed = [Closest(pair.sample, int(rows[pair.train]), pair.distance / scale) for pair in found.pairs]
    return sorted(listed, key=lambda pair: pair.distance)


# -------------------------------------------------------------------------------------------------------- in pixels


def shrunk(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W], averaged down to `SIDE` where they are larger."""
    height, width = images.shape[-2:]
    side = max(height, width)
    if side > SIDE and len(images):
        size = max(1, round(height * SIDE / side)), max(1, round(width * SIDE / side))
        parts = [F.adaptive_avg_pool2d(part.float(), size) for part in torch.split(images, 1024)]
        images = torch.cat([part.round().to(torch.uint8) for part in parts])
    return images


def pixels(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] to uint8 [N, D], `shrunk`; vectors [N, D] as they are."""
    return images if images.ndim == 2 else shrunk(images).flatten(1)


def train_pixels(real: Reference) -> Tensor:
    """All training images in pixels, uint8 [M, D], or vectors in units of their spread."""
    if "pixels" not in real.memo:
        train = real.dataset.train[:MOST_TRAINING]
        parts = [pixels(display(real.dataset, train[i : i + 4096])) for i in range(0, len(train), 4096)]
        real.memo["pixels"] = in_spreads(torch.cat(parts), real)
    found: Tensor = real.memo["pixels"]
    return found


def _shown(images: Tensor, real: Reference) -> Tensor:
    return in_spreads(pixels(images[:MOST_SAMPLES]), real)


def in_spreads(rows: Tensor, real: Reference) -> Tensor:
    """Vectors [N, D] in units of the training set's spread of each value; pixels, which have one unit, as they are."""
    return rows / torch.tensor(real.dataset.spec().scale) if real.dataset.vector else rows


def _median_distance(near: Nearness, train: Tensor) -> Number:
    """Median distance to the nearest of all training images, and its error by the order statistics around it."""
    unit = "spreads" if train.is_floating_point() else "grey levels"
    things = "vectors" if train.is_floating_point() else "images"
    ordered = (near.distance / math.sqrt(train.shape[1])).sort().values
    n = len(ordered)
    reach = math.sqrt(n) / 2  # one standard error of a median, in ranks
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
    return Number(
        float(ordered.median()), float(ordered[high] - ordered[low]) / 2, unit, "none", n, None,
        ENTRIES["nearest_training"].meaning,
        protocol=f"root mean square over {'values' if unit == 'spreads' else 'pixels'}, {n:,} {things} against "
        f"{len(train):,} training {things}",
    )  # fmt: skip
