"""Which modes a model reaches, and how evenly, where a classifier can tell the modes apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics.checks import check_labels
from trilemma.number import Number


@dataclass(frozen=True)
class Modes:
    """Counts of modes, and a divergence in nats.

    Attributes:
        covered: modes that at least one image falls on, with its standard error over images.
        total: modes that there are.
        kl: KL(generated ‖ reference) of the empirical law of the labels, in nats; 0 would be perfect.
        expected_covered: modes that a perfect sampler would cover with as many images.
        expected_kl: the KL of a perfect sampler with as many images; it is above 0 because N is finite.
    """

    covered: Number
    total: int
    kl: Number
    expected_covered: float
    expected_kl: float


def mode_coverage(labels: Tensor, classes: int, reference: Tensor | None = None) -> Modes:
    """Modes that generated images cover.

    The protocol of stacked MNIST (Metz et al. 2017, Srivastava et al. 2017, Lin et al. 2018 "PacGAN") is 26,000
    images and 1,000 modes, `stacked_labels` of a digit classifier, against the uniform law.

    Args:
        labels: ``[N]`` integers 0 … classes - 1, the mode of each image.
        classes: number of modes.
        reference: weights ``[classes]`` of the true law, or counts of the labels of real images; uniform if None.

    Raises:
        ValueError: labels out of range, none at all, or an image on a mode of weight 0.
    """
    labels = check_labels(labels, len(labels), classes)
    if not len(labels):
        raise ValueError("no labels: there are no modes to count")
    weights = torch.ones(classes) if reference is None else torch.as_tensor(reference)
    if weights.shape != (classes,) or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(f"the reference law must be {classes} weights of at least 0, not {list(weights.shape)}")
    q = weights.double() / weights.double().sum()
    count = torch.bincount(labels, minlength=classes)
    if ((count > 0) & (q == 0)).any():
        missing = int(((count > 0) & (q == 0)).nonzero()[0])
        raise ValueError(f"mode {missing} has weight 0 in the reference law, but images fall on it: the KL is infinite")
    n, there = len(labels), count > 0
    p = count[there].double() / n
    surprise = (p / q[there]).log()
    kl = (p * surprise).sum()
    once, twice = int((count == 1).sum()), int((count == 2).sum())
    error = math.sqrt(max(once**2 / max(once + twice, 1) - once**2 / n, 0.0))  # `Reach` of the modes
    return Modes(
        covered=Number(int(there.sum()), error),
        total=classes,
        kl=Number(kl.item(), math.sqrt(_variance_of_kl(count, q))),
        expected_covered=float((1 - (1 - q) ** n).sum()),
        expected_kl=_expected_kl(q, n),
    )


def _variance_of_kl(count: Tensor, q: Tensor) -> float:
    """Variance over images of the KL of counts ``[classes]``.

    The jackknife that leaves out one image at a time, less what it counts twice: what two images of one mode do
    together, read off second differences. For a perfect law, which has no other part, the scatter is half a χ² over n,
    that is (modes - 1) / 2n²; half of that is the least that is told.
    """
    n, there = int(count.sum()), count > 0
    least = max(int(there.sum()) - 1, 1) / (4 * n**2)
    if n < 3:
        return least
    c, q = count[there].double(), q[there]

    def term(k: Tensor, of: int) -> Tensor:
        share: Tensor = k / of
        return share * torch.where(k > 0, share / q, 1).log()

    rest = term(c, n - 1)
    without = rest.sum() - rest + term(c - 1, n - 1)  # the KL without one image of each mode
    jackknife = (n - 1) / n * (c * (without - (c * without).sum() / n).square()).sum()
    bend = term(c, n) - 2 * term(c - 1, n) + term((c - 2).clamp_min(0), n)
    together = (c * (c - 1) / 2 * bend.square()).sum()
    return max((jackknife - together).item(), least)


def _expected_kl(q: Tensor, n: int) -> float:
    """E KL(empirical ‖ q) of n draws from q: Σ over modes of E[(k/n) log(k / nq)], k binomial; exact."""
    k = torch.arange(1, n + 1, dtype=torch.float64)
    choose = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    total = 0.0
    values, times = torch.unique(q[q > 0], return_counts=True)
    for value, count in zip(values.tolist(), times.tolist(), strict=True):
        if value < 1:
            log_pmf = choose + k * math.log(value) + (n - k) * math.log1p(-value)
            total += count * (log_pmf.exp() * (k / n) * (k / (n * value)).log()).sum().item()
    return total


def nearest_distance(x: Tensor) -> Tensor:
    """Mean Euclidean distance of the rows of ``[N, …]`` to the nearest other row; a scalar, 0 for a single row.

    A set that holds few different things repeats them, which the mean of *all* distances would hardly show.
    """
    rows = x.flatten(1).float()
    if len(rows) < 2:
        return rows.new_zeros(())
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    apart = torch.cdist(rows, rows)  # by a product of matrices from 26 rows on: good to about 0.001 of their lengths
    return apart.masked_fill(itself, math.inf).amin(1).mean()


def stacked_labels(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """The mode of a stacked MNIST image from the digits ``[N]`` of its three channels: 100 r + 10 g + b, 0 … 999."""
    for channel in (red, green, blue):
        check_labels(channel, len(red), 10)
    return 100 * red.long() + 10 * green.long() + blue.long()
