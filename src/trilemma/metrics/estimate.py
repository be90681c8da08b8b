"""The standard error of a number, and the ways to it that need no closed form.

It says how far the number would be off with other images of the same model; the real images that it is measured against
are taken as they are, since all models are measured against the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from trilemma.number import Number


def mean_of(values: Tensor) -> Number:
    """Mean of independent values ``[N]`` and its standard error, which is None for a single value."""
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return Number(values.mean().item(), error)


def share_of(hits: float, count: int) -> Number:
    """A share of ``count`` independent images and its binomial error.

    The error is that of (hits + 1) / (count + 2), so that 0 or ``count`` hits are not without error; ``ValueError``
    where there are no images.
    """
    if count < 1:
        raise ValueError("there is no share of no images")
    p = (hits + 1) / (count + 2)
    return Number(hits / count, math.sqrt(p * (1 - p) / count))


def bootstrap(statistic: Callable[[Tensor], float], count: int, *, rounds: int = 100, seed: int = 0) -> float:
    """Standard error of a statistic by Efron's bootstrap (1979).

    Args:
        statistic: from int64 ``[count]`` indices of images, drawn with replacement, to a number. Not for statistics
            of nearest neighbours or of a covariance's rank, which repeated images spoil: `left_out` is.
        count: number of images.
        rounds: resamples.
        seed: of the resamples.
    """
    generator = torch.Generator().manual_seed(seed)
    values = [statistic(torch.randint(count, (count,), generator=generator)) for _ in range(rounds)]
    return torch.tensor(values, dtype=torch.float64).std().item()


def jackknife(
    statistic: Callable[[Tensor], float], count: int, *, groups: int = 20, rounds: int = 1, seed: int = 0
) -> float:
    """Standard error of a statistic by leaving out one random group of images at a time.

    Args:
        statistic: from int64 indices of the images that are kept to a number.
        count: number of images, at least ``groups``.
        groups: of one division. Many suit smooth statistics; those of nearest neighbours want `left_out`'s three.
        rounds: divisions, whose variances are averaged; the statistic is computed ``groups`` times in each.
        seed: of the divisions.
    """
    kept = left_out(count, groups=groups, rounds=rounds, seed=seed)
    values = [[statistic(rows.nonzero()[:, 0]) for rows in division] for division in kept]
    return jackknife_error(torch.tensor(values, dtype=torch.float64))


def left_out(count: int, *, groups: int = 3, rounds: int = 20, seed: int = 0) -> Tensor:
    """Random divisions of images into groups; which images remain when a group is left out: bool ``[R, G, count]``.

    For a statistic of *nearest neighbours* of the images, whose every ball changes with its neighbours. Compute the
    statistic on each of these parts, with balls drawn anew among the images of the part; `jackknife_error` of the
    values ``[R, G]`` is its standard error:

        kept = left_out(len(fake))
        values = [[statistic(fake[rows]) for rows in division] for division in kept]
        error = jackknife_error(torch.tensor(values))

    Why three groups: a jackknife counts what r images do together up to r times (Efron & Stein 1981, "The jackknife
    estimate of variance"), so that with many small groups the error of recall is up to twice too large; halves count
    it once, but are half as many images, and the error of recall is a quarter too small. Thirds left out lie between.
    Measured by ``benchmarks/errors.py``. For the share of things that *any* image reaches use `Reach`.

    Args:
        count: number of images, at least ``groups``.
        groups: G, left out one at a time.
        rounds: R.
        seed: of the divisions.
    """
    if not 2 <= groups <= count:
        raise ValueError(f"{count} images cannot be left out in {groups} groups")
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(count) % groups
    divisions = [group[torch.randperm(count, generator=generator).argsort()] for _ in range(rounds)]
    return torch.stack(divisions)[:, None] != torch.arange(groups)[:, None]


def jackknife_error(left_out: Tensor) -> float:
    """Standard error from the values ``[…, G]`` of a statistic with each of G groups left out; divisions averaged."""
    count = left_out.shape[-1]
    off = left_out.double() - left_out.double().mean(-1, keepdim=True)
    return ((count - 1) / count * off.square().sum(-1).mean()).sqrt().item()


class Reach:
    """The share of fixed places that a sample reaches, as coverage is, and its error over samples of the same law.

    Each place is a region, which samples hit independently with a probability of their own; regions overlap. With
    places i and l hit by samples as by a Poisson law, at rates a and b by either alone and c by both at once, the
    variance of the number of places reached is Σ over pairs of e^-(a+b+c) (1 - e^-c), less the part that the fixed
    number of samples takes away. Pairs that the same one sample alone reaches are c e^-(a+b+c) on average, S₁ in all;
    pairs that the same two samples alone reach are c²/2 of it, S₂; and so on: the sum is S₁ - S₂ + S₃ - …, which is
    S₁² / (S₁ + S₂) if the terms are geometric, and nearly so for nearest neighbours. S₁ by itself is the jackknife that
    leaves out one sample at a time, whose variance near a perfect model is three times too large.

    Feed it places in chunks; memory is that of the places that one or two samples reach.

    Args:
        samples: number of samples M.
    """

    def __init__(self, samples: int) -> None:
        self._samples, self._places, self._reached = samples, 0, 0
        self._once: list[Tensor] = []
        self._twice: list[Tensor] = []

    def add(self, inside: Tensor) -> None:
        """Further places: bool ``[n, M]``, which samples reach them. Repeated samples have columns of their own."""
        hits = inside.sum(1)
        self._places += len(inside)
        self._reached += int((hits > 0).sum())
        self._once.append(inside[hits == 1].nonzero()[:, 1])
        self._twice.append(inside[hits == 2].nonzero()[:, 1].view(-1, 2))

    def estimate(self) -> Number:
        """The share, and one standard error: at least that of one place, since no share is without error."""
        if not self._places:
            raise ValueError("there is no share of no places")
        once = torch.bincount(torch.cat(self._once), minlength=1).double()
        twice = torch.unique(torch.cat(self._twice), dim=0, return_counts=True)[1].double()
        alone, pairs = once.square().sum().item(), twice.square().sum().item()
        variance = alone**2 / max(alone + pairs, 1.0) - once.sum().item() ** 2 / self._samples
        return Number(self._reached / self._places, math.sqrt(max(variance, 1.0)) / self._places)
