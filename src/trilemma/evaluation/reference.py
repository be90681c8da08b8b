"""The real side of a comparison: prepared once, kept in the cache by content, shared by everything that is compared."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.data import Dataset, subset
from trilemma.data.dataset import Digests, image_digests
from trilemma.data.decoded import cache_folder, written_atomically
from trilemma.evaluation.protocol import Protocol
from trilemma.evaluation.stream import Pool, Supply, Tell, pool
from trilemma.evaluation.whole import Whole, taken_apart
from trilemma.images import to_display
from trilemma.metrics import Features, Moments, feature_network
from trilemma.metrics.features import VectorFeatures
from trilemma.parallel import Ranks, find_device, ranks

Indices = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images as a measuring rod.

    Attributes:
        dataset: the images and their split.
        protocol: how to measure.
        network: the features.
        train: of `reference` training images, which scores are against.
        held_out: of n held-out images, whose own scores are the floor.
        memo: numbers of the real images alone, kept for the next subject.
        part: which images those in ``train`` are, in words.
        whole: all of them taken apart, where two sets are compared and no image needs to be held out.
    """

    dataset: Dataset
    protocol: Protocol
    network: Features
    train: Pool
    held_out: Pool
    train_indices: Indices
    held_out_indices: Indices
    memo: dict[str, Any] = field(default_factory=dict)
    part: str = "training images"
    whole: Whole | None = None

    @classmethod
    def prepare(
        cls,
        dataset: Dataset,
        protocol: Protocol,
        device: str = "auto",
        tell: Tell | None = None,
        network: Features | None = None,
        whole: bool = False,
    ) -> Reference:
        """Compute, or fetch from the cache, the features of the real images.

        Args:
            network: features of your own; by default those that ``protocol`` names.
            whole: whether every image counts, because what is measured did not learn from any.
        """
        where = ranks(device)
        if dataset.vector and network is None:
            if protocol.features not in ("small", "vectors"):
                raise ValueError(
                    f"--features {protocol.features} look at images, and {dataset.name} holds vectors: leave it out"
                )
            network = VectorFeatures(scale=dataset.spec().scale)
        network = network or feature_network(protocol.network, str(find_device(device)))
        train = subset(dataset.train, protocol.reference, protocol.seed)
        held_out = subset(dataset.test, protocol.n, protocol.seed)

        def pooled(rows: Indices) -> Pool:
            return cached_pool(dataset, rows, network, protocol.kept, where, tell)

        if not whole:
            return cls(dataset, protocol, network, pooled(train), pooled(held_out), train, held_out)
        rows = subset(np.sort(np.concatenate([dataset.train, dataset.test])), 0, protocol.seed)
        everything, order = pooled(rows), np.argsort(rows)

        def part(of: Indices) -> Pool:
            if len(everything.features) < everything.n:
                return pooled(of)
            places = order[np.searchsorted(rows, of, sorter=order)]
            return Pool.of(everything.features[torch.from_numpy(places)])

        found = cls(dataset, protocol, network, part(train), part(held_out), train, held_out)
        return replace(found, whole=taken_apart(found, everything, rows))

    @property
    def labels(self) -> Tensor | None:
        """Classes of the held-out images: conditional models are asked for the same."""
        return self.dataset.label_batch(self.held_out_indices)

    @property
    def held_out_images(self) -> Tensor:
        """The held-out images that are kept, uint8 [N, C, H, W], 0 … 255."""
        return display(self.dataset, self.held_out_indices[: self.protocol.kept])

    @functools.cached_property
    def train_digests(self) -> Digests:
        """A hash of every training image, as it is shown."""
        return digests(self.dataset, self.dataset.train)

    @functools.cached_property
    def test_digests(self) -> Digests:
        """A hash of every held-out image, as it is shown."""
        return digests(self.dataset, self.dataset.test)

    @property
    def against(self) -> str:
        """The real side in words."""
        return f"{self.train.n:,} {self.part} of {self.dataset.name}"


def display(dataset: Dataset, indices: Indices) -> Tensor:
    """Images as they are shown: uint8 [N, C, H, W], 0 … 255."""
    return to_display(dataset.batch(indices).cpu(), dataset.levels)


def supply(dataset: Dataset, indices: Indices) -> Supply:
    """These images of a data set, read when they are asked for."""
    return Supply(len(indices), dataset.spec().shape, lambda start, stop: display(dataset, indices[start:stop]))


def digests(dataset: Dataset, indices: Indices, rows: int = 4096) -> Digests:
    """A 64-bit hash of each image as it is shown."""
    parts = [display(dataset, indices[start : start + rows]) for start in range(0, len(indices), rows)]
    return np.concatenate([image_digests(part.numpy()) for part in parts]) if parts else np.empty(0, np.uint64)


def content_key(dataset: Dataset, indices: Indices, *more: object) -> str:
    """What a cached number of these images depends on, as a name."""
    told = repr((dataset.fingerprint, dataset.levels, dataset.config.binarize, *more))
    return hashlib.sha256(told.encode() + indices.tobytes()).hexdigest()[:32]


def cached_pool(
    dataset: Dataset, indices: Indices, network: Features, kept: int, where: Ranks, tell: Tell | None = None
) -> Pool:
    """Features of real images, and their mean and covariance, kept in the cache folder by content."""
    key = content_key(dataset, indices, network.key, min(kept, len(indices)))
    path = cache_folder() / "features" / f"{key}.npy"
    found = _read(path, len(indices))
    if where.any(found is None):  # together or not at all: the work is shared
        what = f"{network.name} features of real images"
        made = pool(supply(dataset, indices), network, where, kept=kept, tell=tell, what=what)
        if where.first:
            _write(path, made)
        # Read or made, the sums run in the same order.
        found = Pool.of(made.features) if len(made.features) == made.n else made
    assert found is not None
    return found


def _read(path: Path, n: int) -> Pool | None:
    try:
        features = torch.from_numpy(np.load(path, allow_pickle=False))
        if len(features) == n:
            return Pool.of(features)
        return Pool(n, features, torch.empty(0), Moments.load(path.with_suffix(".moments")))
    except (OSError, ValueError, EOFError):
        return None  # absent, cut off or damaged: made again


def _write(path: Path, found: Pool) -> None:
    # A cache that cannot be written only costs time.
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(found.features) < found.n:
            found.moments.save(path.with_suffix(".moments"))
        with written_atomically(path) as file:
            np.save(file, found.features.numpy())
