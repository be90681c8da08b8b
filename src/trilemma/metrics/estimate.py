"""A number with its standard error, and the ways to one that need no closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """What was measured, and how far it would be off with other images of the same law.

    Attributes:
        value: the number.
        error: one standard error; None where there is no estimate of it.
    """

    value: float
    error: float | None = None


def mean_of(values: Tensor) -> Estimate:
    """Mean of independent values ``[N]`` and its standard error, which is None for a single value."""
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(values.mean().item(), error)


def share_of(hits: float, count: int) -> Estimate:
    """A share of ``count`` independent images and its binomial error.

    The error is that of (hits + 1) / (count + 2), so that 0 or ``count`` hits are not without error; ``ValueError``
    where there are no images.
    """
    if count < 1:
        raise ValueError("there is no share of no images")
    p = (hits + 1) / (count + 2)
    return Estimate(hits / count, math.sqrt(p * (1 - p) / count))


def bootstrap(statistic: Callable[[Tensor], float], count: int, *, rounds: int = 100, seed: int = 0) -> float:
    """Standard error of a statistic by Efron's bootstrap (1979).

    Args:
        statistic: from int64 ``[count]`` indices of images, drawn with replacement, to a number. Not for statistics
            of nearest neighbours or of a covariance's rank, which repeated images spoil: `jackknife` is.
        count: number of images.
        rounds: resamples.
        seed: of the resamples.
    """
    generator = torch.Generator().manual_seed(seed)
    values = [statistic(torch.randint(count, (count,), generator=generator)) for _ in range(rounds)]
    return torch.tensor(values, dtype=torch.float64).std().item()


def jackknife(statistic: Callable[[Tensor], float], count: int, *, groups: int = 20, seed: int = 0) -> float:
    """Standard error of a smooth statistic by leaving out one random group of images at a time.

    Args:
        statistic: from int64 indices of the images that are kept to a number.
        count: number of images, at least ``groups``.
        groups: how often the statistic is computed.
        seed: of the division into groups.
    """
    if not 2 <= groups <= count:
        raise ValueError(f"{count} images cannot be left out in {groups} groups")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    group = torch.arange(count) % groups
    return jackknife_error(torch.tensor([statistic(order[group != g]) for g in range(groups)], dtype=torch.float64))


def jackknife_error(left_out: Tensor) -> float:
    """Standard error from the values ``[G]`` of a statistic with each of G groups left out."""
    count = len(left_out)
    return ((count - 1) / count * (left_out - left_out.mean()).square().sum()).sqrt().item()
