"""Likelihoods on the common scale: bits per dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def worse_than_uniform(bits: float, levels: int) -> str | None:
    """A line to flag a value with that says less than nothing; None for one that is below, and for vectors (0 levels).

    Args:
        bits: per dimension, a mean over images.
        levels: of a pixel; all of them equally likely cost log2 of their number.
    """
    uniform = math.log2(levels) if levels else math.inf
    if not bits > uniform:
        return None
    return f"worse than guessing: all {levels} levels equally likely would cost {uniform:g} bits/dim"


def bits_per_dim(nats: Tensor, dims: int) -> tuple[float, float]:
    """Mean of ``-log2 p(x) / dims`` over images, and its standard error.

    Zero bits would be a certain guess; a uniform model of 256 levels has 8.

    Args:
        nats: ``[N]``, log p(x) of each image in nats, over the discrete image.
        dims: discrete values in one image, C·H·W (`Spec.dims`).

    Returns:
        ``(mean, standard_error)`` in bits; the standard error is NaN for a single image.

    Raises:
        ValueError: ``nats`` is empty, not a vector, or contains NaN; ``dims`` is not positive.
    """
    nats = torch.as_tensor(nats).detach().cpu().double()
    if nats.ndim != 1 or len(nats) == 0:
        raise ValueError(f"nats must be a vector with one log p(x) per image, not of shape {list(nats.shape)}")
    if dims < 1:
        raise ValueError(f"dims must be the number of values in one image (C*H*W), not {dims}")
    if nats.isnan().any():
        raise ValueError(f"{int(nats.isnan().sum())} of {len(nats)} log-likelihoods are NaN: the model has diverged")
    bits = -nats / (dims * math.log(2))
    error = bits.std().item() / math.sqrt(len(bits)) if len(bits) > 1 else math.nan
    return bits.mean().item(), error
