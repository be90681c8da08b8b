"""Kernel distance: with Inception features it is the KID of Bińkowski et al. 2018, "Demystifying MMD GANs".

(arXiv:1801.01401, section 4.) Unlike the Fréchet distance it is unbiased at any N, so numbers of different N compare.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trilemma.metrics.checks import check_features, check_same_dims
from trilemma.number import Number

MOST = 2000  # samples that the error is told from


def kernel_distance(x: Tensor, y: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Number:
    """Squared maximum mean discrepancy under the kernel (⟨x, y⟩ / d + 1)³, as a mean over random subsets.

    Each subset draws as many images from both sets, without replacement, and takes the unbiased estimate, which may
    be negative. Sets too small for two disjoint subsets of ``size`` are drawn from in halves, because subsets that
    are nearly the whole set would hide how uncertain it is.

    Args:
        x: features ``[N, d]`` of the samples, over which the error is.
        y: features ``[M, d]`` of the real images, which are taken as they are.
        subsets: number of subsets; 100 of 1,000 images is the protocol of published numbers.
        size: images of each set in a subset.
        seed: of the subsets.

    Returns:
        The mean over subsets, and its standard error over *samples* of the same model. The mean of all subsets is the
        U-statistic of both sets, whose variance over samples is `_variance_over_samples`; what the samples' part in
        the choice of finitely many subsets adds comes on top. (The spread of subsets over √subsets, which is often
        quoted, is neither.)

    Raises:
        ValueError: the dimensions differ, fewer than 4 images in a set, NaN, or rows that are all the same.
    """
    check_same_dims(x.shape[-1], y.shape[-1])
    x, y = check_features(x, convert=False), check_features(y, convert=False)
    if subsets < 2 or size < 2:
        raise ValueError(f"the kernel distance needs at least 2 subsets of 2 images, not {subsets} of {size}")
    n = min(len(x), len(y))
    if n < 4:
        raise ValueError(f"the kernel distance needs at least 4 images in both sets, not {n}")
    m = min(size, n // 2)
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(subsets, dtype=torch.float64)
    for i in range(subsets):
        a = x[torch.randperm(len(x), generator=generator)[:m]]
        b = y[torch.randperm(len(y), generator=generator)[:m]]
        values[i] = unbiased_mmd(a.double(), b.double())
    few = x[torch.randperm(len(x), generator=generator)[:MOST]]
    of_subset = _variance_over_samples(few, y[torch.randperm(len(y), generator=generator)[:m]], m) * (1 - m / len(x))
    return Number(values.mean().item(), math.sqrt(_variance_over_samples(few, y, len(x)) + of_subset / subsets))


def clip_mmd(x: Tensor, y: Tensor, *, sigma: float = 10.0, scale: float = 1000.0, rows: int = 4096) -> Number:
    """CMMD: the squared discrepancy of CLIP's embeddings under a Gaussian kernel (Jayasumana et al. 2024, eq. 1).

    scale · (mean k(x, x') + mean k(y, y') − 2 mean k(x, y)) with k(a, b) = exp(−‖a − b‖² / 2σ²), of embeddings of
    length 1, the means over all pairs, an image with itself among them, as its authors' code takes them.

    Args:
        x, y: embeddings ``[N, d]`` of the samples, over which the error is, and ``[M, d]`` of real images.
        sigma, scale: as published.
        rows: of the kernel that are held at a time.

    Raises:
        ValueError: the dimensions differ, or a set that has no features.
    """
    check_same_dims(x.shape[-1], y.shape[-1])
    a, b = (check_features(each, convert=False).double() for each in (x, y))
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)

    def means(one: Tensor, other: Tensor) -> Tensor:
        """The mean kernel of each row of one set with all of the other."""
        return torch.cat([((part @ other.T - 1) / sigma**2).exp().mean(1) for part in torch.split(one, rows)])

    within, between = means(a, a), means(a, b)
    value = within.mean() + means(b, b).mean() - 2 * between.mean()
    error = 2 * (within - between).std() / math.sqrt(len(a))  # of the U-statistic's projection on the samples
    return Number(scale * value.item(), scale * error.item(), better="lower", n=len(a))


def unbiased_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The estimate of one subset: the U-statistic of equally many rows (Gretton et al. 2012, eq. 3).

    Args:
        x, y: float64 ``[m, d]``. The diagonals of the kernel within a set are dropped.
    """
    m = len(x)
    xx, yy = _cubic(x, x), _cubic(y, y)
    within = xx.sum() - xx.diagonal().sum() + yy.sum() - yy.diagonal().sum()
    return within / (m * (m - 1)) - 2 * _cubic(x, y).mean()


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    """The kernel between float64 rows ``[n, d]`` and ``[m, d]``."""
    return (a @ b.T).div_(a.shape[1]).add_(1).pow_(3)


def _variance_over_samples(x: Tensor, y: Tensor, count: int) -> float:
    """Variance of the U-statistic of ``count`` samples, told from some of them, the real images ``y`` as they are.

    Up to a constant the statistic is the mean over pairs of H(x, x') = k(x, x') - g(x) - g(x'), with g(x) the mean of
    k(x, y) over y. Its variance is 4 ζ₁ / n + 2 ζ₂ / n² (Hoeffding 1948), where ζ₁ is that of the mean of H over x',
    and ζ₂ the mean square of what the means leave of H. The jackknife over samples finds the first part and twice
    the second, which is most of it near a perfect model. Half of the excess is taken off: where the cubic kernel's
    heavy tail makes the estimates themselves uneven, taking all of it would leave too little.
    """
    x, n = x.double(), len(x)
    across = torch.cat([_cubic(x, part.double()).sum(1, keepdim=True) for part in torch.split(y, 2048)], 1)
    g = across.sum(1) / len(y)
    h = _cubic(x, x) - g[:, None] - g
    h.fill_diagonal_(0)
    rows = h.sum(1)
    jackknife = 4 * rows.var().item() / (n * (n - 2) ** 2)
    means = rows / (n - 1)
    h += means.mean() - means[:, None] - means
    h.fill_diagonal_(0)
    pairs = 2 * h.square().sum().item() / (n * (n - 1)) ** 2
    variance = (jackknife - 2 * pairs) * n / count + 1.5 * pairs * (n / count) ** 2
    return max(variance, pairs * (n / count) ** 2)
