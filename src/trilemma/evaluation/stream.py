"""Many images → features, in pieces: memory does not grow with N, and the values do not depend on who computes them.

Features are computed in units of `UNIT` images, because rounding depends on the shape of a batch. The units of a window
are shared among the processes and gathered in order, and sums run over whole windows; so the result is the same to the
bit for any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics import Features, Moments
from trilemma.parallel import Ranks

UNIT = 256
"""Images whose features are computed together; four blocks of a sampler."""

FULL = 32
"""The batch of the large networks."""

WINDOW_BYTES = 2**28
"""Pixels gathered at once."""

Tell = Callable[[str, int, int], None]
"""Called as ``tell(what, done, total)`` along an evaluation."""


@dataclass(frozen=True)
class Supply:
    """Images that are made or read when they are asked for.

    Attributes:
        n: how many there are.
        shape: (channels, height, width) of each, or (D,) of vectors.
        draw: ``draw(start, stop)`` gives images ``start … stop``, uint8 [stop - start, C, H, W], values 0 … 255; or
            vectors float32 [stop - start, D].
    """

    n: int
    shape: tuple[int, ...]
    draw: Callable[[int, int], Tensor]

    @property
    def window(self) -> int:
        """Images between two gatherings: whole units, and no more than `WINDOW_BYTES` of pixels."""
        return UNIT * max(1, min(32, WINDOW_BYTES // (UNIT * math.prod(self.shape))))


@dataclass(frozen=True)
class Pool:
    """What is kept of a set of images.

    Attributes:
        n: how many images there were.
        features: float32 [min(n, kept), d] of the first images.
        images: uint8 [min(n, kept), C, H, W] of the first images; empty where they were not asked for.
        moments: mean and covariance, of all n.
    """

    n: int
    features: Tensor
    images: Tensor
    moments: Moments

    @property
    def constant(self) -> bool:
        """Whether all images have the same features."""
        return bool((self.features == self.features[0]).all())

    @classmethod
    def of(cls, features: Tensor) -> Pool:
        """From features [N, d] that are all there."""
        return cls(len(features), features, torch.empty(0), Moments.of(features))


def windows(
    supply: Supply, network: Features, where: Ranks, tell: Tell | None = None, what: str = "features"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images uint8 [M, C, H, W] and their features float32 [M, d], window after window, on every process."""
    for start in range(0, supply.n, supply.window):
        units = range(start, min(supply.n, start + supply.window), UNIT)
        mine: dict[int, tuple[Tensor, Tensor]] = {}
        for index, begin in enumerate(units):
            stop = min(begin + UNIT, supply.n)
            if index % where.size == where.rank:
                images = supply.draw(begin, stop)
                mine[begin] = images, network.of(_filled(images))[: len(images)]
            if tell:
                tell(what, stop, supply.n)
        parts: dict[int, tuple[Tensor, Tensor]] = {}
        for theirs in where.gather(mine):
            parts |= theirs
        yield torch.cat([parts[begin][0] for begin in units]), torch.cat([parts[begin][1] for begin in units])


def pool(
    supply: Supply,
    network: Features,
    where: Ranks,
    *,
    kept: int,
    keep_images: bool = False,
    look: Callable[[Tensor], None] | None = None,
    tell: Tell | None = None,
    what: str = "features",
) -> Pool:
    """Gather the `Pool` of a supply; ``look`` is shown every window of images."""
    moments: Moments | None = None  # how many features there are may be known after the first batch only
    features: list[Tensor] = []
    shown: list[Tensor] = []
    seen = 0
    for images, part in windows(supply, network, where, tell, what):
        if look:
            look(images)
        moments = Moments.of(part) if moments is None else moments.add(part)
        if seen < kept:
            features.append(part[: kept - seen])
            shown.append(images[: kept - seen if keep_images else 0])
        seen += len(images)
    assert moments is not None
    return Pool(supply.n, torch.cat(features), torch.cat(shown), moments)


def _filled(images: Tensor) -> Tensor:
    """With the last image repeated until whole batches of a large network are full: they are fastest, and alike."""
    missing = -len(images) % FULL
    return images if not missing else torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
