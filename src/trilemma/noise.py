"""Explicit randomness.

Nothing in the library draws from a global generator. A model is *handed* its noise, one row per image:

- `ImageNoise`: row *i* is a function of ``(seed, index[i])`` and nothing else, so an image does not depend on the
  batch it was drawn in. Used for sampling and for likelihoods.
- `BatchNoise`: the rows of a training batch, a function of ``(seed, step)`` for the *global* batch, of which a process
  takes its slice. Used for training, so that many processes draw what one would have drawn, and a resumed run what
  the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Noise(ABC):
    """A source of random rows: each call returns fresh values of shape ``[count, *shape]``."""

    count: int
    device: torch.device

    @abstractmethod
    def normal(self, *shape: int) -> Tensor:
        """Standard normal ``float32 [count, *shape]``."""

    @abstractmethod
    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), ``float32 [count, *shape]``."""

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform on ``0 … high-1``, ``int64 [count, *shape]``."""
        return (self.uniform(*shape) * high).long().clamp_(max=high - 1)


class ImageNoise(Noise):
    """Per-image counter-based generators (Philox), keyed by ``(seed, index)``.

    Args:
        seed: any integer of 64 bits with a sign.
        indices: the index of each image in the whole sample.
        device: where the values are delivered; they are always drawn on the CPU, so every device gets the same.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.count = len(indices)
        self.device = torch.device(device)
        self._generators = [philox(seed, i) for i in indices]

    def normal(self, *shape: int) -> Tensor:
        rows = np.empty((self.count, *shape), np.float32)
        for i, generator in enumerate(self._generators):
            rows[i] = generator.standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(rows).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        rows = np.empty((self.count, *shape), np.float32)
        for i, generator in enumerate(self._generators):
            rows[i] = generator.random(shape, dtype=np.float32)
        return torch.from_numpy(rows).to(self.device)


class BatchNoise(Noise):
    """Rows ``start … stop`` of the noise of a global batch of ``total`` rows, keyed by any hashable parts.

    Every process draws the whole batch and keeps its rows: cheap beside a training step, and it makes the result
    independent of the number of processes.
    """

    def __init__(self, key: tuple[int | str, ...], total: int, start: int, stop: int, device: torch.device) -> None:
        self.count = stop - start
        self.device = device
        self._total, self._rows = total, slice(start, stop)
        self._generator = torch.Generator(device).manual_seed(derive_seed(*key))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self._total, *shape, generator=self._generator, device=self.device)[self._rows]

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self._total, *shape, generator=self._generator, device=self.device)[self._rows]


def philox(seed: int, index: int = 0) -> np.random.Generator:
    """The counter-based generator of ``(seed, index)``, both within 64 bits; the seed may be below 0.

    Raises:
        ValueError: a seed that is no such integer: two of them would draw the same.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"a seed must be a whole number from -2^63 to 2^63 - 1, not {seed!r}")
    # of a list that holds a number above 2^63, numpy makes floats, in which the last thousand seeds are one
    return np.random.Generator(np.random.Philox(key=np.array([int(seed) % 2**64, index], np.uint64)))


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from any parts: ``derive_seed(seed, "epoch", 3)``."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
