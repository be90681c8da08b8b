"""The few operations of a cached net's inner loop, on tensors or, where a tensor is small, on NumPy views of it.

Sampling one value at a time means thousands of tiny products. On a CPU a torch operation costs several microseconds
before it computes anything, NumPy's a fraction of that, and both can share memory: so with few images side by side the
inner loop runs on views of the same state, several times as fast. What it computes is written once, for both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any
"""A tensor or a NumPy view of one: they slice and reshape alike."""

FEW = 8
"""Up to so many images NumPy is the faster one."""


class Ops(ABC):
    """Operations on matrices [N, features], with their result in new memory or in ``out``."""

    @abstractmethod
    def array(self, x: Tensor) -> Array:
        """The tensor, or a view that shares its memory."""

    @abstractmethod
    def tensor(self, x: Array) -> Tensor:
        """The way back."""

    @abstractmethod
    def affine(self, base: Array, x: Array, weight: Array, out: Array | None = None) -> Array:
        """base + x @ weight."""

    @abstractmethod
    def relu(self, x: Array, out: Array | None = None) -> Array:
        """max(x, 0)."""

    @abstractmethod
    def gate(self, z: Array, out: Array) -> None:
        """tanh(a) σ(b) into ``out`` [N, P]; z [N, 2P] holds 2a and b (`masked.gate`) and is overwritten."""

    @abstractmethod
    def lstm(self, z: Array, c: Array, h: Array) -> None:
        """One step of an LSTM: z [N, 4P] holds o, f, i, 2g and is overwritten, c [N, P] updated, h [N, P] written."""


class TorchOps(Ops):
    def array(self, x: Tensor) -> Array:
        return x

    def tensor(self, x: Array) -> Tensor:
        found: Tensor = x
        return found

    def affine(self, base: Array, x: Array, weight: Array, out: Array | None = None) -> Array:
        return torch.addmm(base, x, weight, out=out)

    def relu(self, x: Array, out: Array | None = None) -> Array:
        return torch.clamp(x, min=0, out=out)

    def gate(self, z: Array, out: Array) -> None:
        a, b = z.sigmoid_().chunk(2, 1)
        torch.mul(a.mul_(2).sub_(1), b, out=out)

    def lstm(self, z: Array, c: Array, h: Array) -> None:
        out, forget, enter, g = z.sigmoid_().chunk(4, 1)
        c.mul_(forget).addcmul_(enter, g.mul_(2).sub_(1))
        torch.mul(out, (2 * c).sigmoid_().mul_(2).sub_(1), out=h)


class NumpyOps(Ops):
    def array(self, x: Tensor) -> Array:
        return x.detach().numpy()

    def tensor(self, x: Array) -> Tensor:
        return torch.from_numpy(x)

    def affine(self, base: Array, x: Array, weight: Array, out: Array | None = None) -> Array:
        product = x @ weight
        return np.add(product, base, out=product if out is None else out)

    def relu(self, x: Array, out: Array | None = None) -> Array:
        return np.maximum(x, 0, out=out)

    def gate(self, z: Array, out: Array) -> None:
        size = z.shape[1] // 2
        t = np.tanh(z * 0.5)  # tanh a, and 2σ(b) - 1
        b = t[:, size:]
        b *= 0.5
        b += 0.5
        np.multiply(t[:, :size], b, out=out)

    def lstm(self, z: Array, c: Array, h: Array) -> None:
        size = c.shape[1]
        t = np.tanh(z * 0.5)  # of o, f, i: 2σ - 1; of g: tanh g
        gates = t[:, : 3 * size]
        gates *= 0.5
        gates += 0.5
        c *= t[:, size : 2 * size]
        c += t[:, 2 * size : 3 * size] * t[:, 3 * size :]
        np.multiply(t[:, :size], np.tanh(c), out=h)


def ops_for(count: int, device: torch.device) -> Ops:
    """NumPy for few images on a CPU, torch for many and on accelerators."""
    return NumpyOps() if count <= FEW and device.type == "cpu" else TorchOps()
