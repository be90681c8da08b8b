"""Kernel distance: with Inception features it is the KID of Bińkowski et al. 2018, "Demystifying MMD GANs".

(arXiv:1801.01401, section 4.) Unlike the Fréchet distance it is unbiased at any N, so numbers of different N compare.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trilemma.metrics.checks import check_features, check_same_dims
from trilemma.metrics.estimate import Estimate


def kernel_distance(x: Tensor, y: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Estimate:
    """Squared maximum mean discrepancy under the kernel (⟨x, y⟩ / d + 1)³, as a mean over random subsets.

    Each subset draws as many images from both sets, without replacement, and takes the unbiased estimate, which may
    be negative. Sets too small for two disjoint subsets of ``size`` are drawn from in halves, because subsets that
    are nearly the whole set would hide how uncertain it is.

    Args:
        x, y: features ``[N, d]`` and ``[M, d]``.
        subsets: number of subsets; 100 of 1,000 images is the protocol of published numbers.
        size: images of each set in a subset.
        seed: of the subsets.

    Returns:
        The mean over subsets, and its standard error over *images*: with s² the variance over subsets of m of n
        images, ``s² (m / (n - m) + 1 / subsets)``. The first part is the variance of the whole set's estimate, as
        that of a mean would be; the second that of averaging finitely many subsets, which alone is often quoted.

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
    variance = values.var().item()
    return Estimate(values.mean().item(), math.sqrt(variance * (m / (n - m) + 1 / subsets)))


def unbiased_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The estimate of one subset: the U-statistic of equally many rows (Gretton et al. 2012, eq. 3).

    Args:
        x, y: float64 ``[m, d]``. The diagonals of the kernel within a set are dropped.
    """
    m, d = x.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T).div_(d).add_(1).pow_(3)

    xx, yy = kernel(x, x), kernel(y, y)
    within = xx.sum() - xx.diagonal().sum() + yy.sum() - yy.diagonal().sum()
    return within / (m * (m - 1)) - 2 * kernel(x, y).mean()
