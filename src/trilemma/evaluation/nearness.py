"""How near images come to training images, in pixels and in features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.reference import Reference, display
from trilemma.metrics import Nearness, nearness

SIDE = 32
"""Pixels are compared at this size at most; a copy stays a copy when both are averaged down."""

MOST_SAMPLES, MOST_TRAINING = 10_000, 200_000
"""Images compared pixel by pixel, at most."""


@dataclass(frozen=True)
class Closest:
    """A sample and the training image it comes nearest to: their rows, and the distance between them."""

    sample: int
    training: int
    distance: float


def to_training(x: Tensor, train: Tensor, real: Reference) -> Nearness:
    """Rows ``x`` beside the training images, searched as the protocol says."""
    return nearness(x, train, index=real.protocol.search == "index")


def by_pixels(of: Measured) -> Nearness:
    """How near these images come to training images in pixels; computed once."""
    if of.held_out:
        return real_nearness(of.real, "pixels")
    return of.once("by pixels", lambda: to_training(shown(of.sample.images, of.real), train_pixels(of.real), of.real))


def real_nearness(real: Reference, space: str) -> Nearness:
    """How near held-out images come to training images, in ``pixels`` or in ``features``; computed once."""
    key = f"nearness by {space}"
    if key not in real.memo:
        own, train = real.held_out.features, real.train.features
        if space == "pixels":
            own, train = shown(real.held_out_images, real), train_pixels(real)
        real.memo[key] = to_training(own, train, real)
    found: Nearness = real.memo[key]
    return found


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


def shown(images: Tensor, real: Reference) -> Tensor:
    return in_spreads(pixels(images[:MOST_SAMPLES]), real)


def in_spreads(rows: Tensor, real: Reference) -> Tensor:
    """Vectors [N, D] in units of the training set's spread of each value; pixels, which have one unit, as they are."""
    return rows / torch.tensor(real.dataset.spec().scale) if real.dataset.vector else rows
