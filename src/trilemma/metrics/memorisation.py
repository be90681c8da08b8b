"""Did the model copy its training images? Four answers, each against held-out images or the training set itself.

All take features ``[N, d]``, or flattened pixels, and no labels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trilemma.metrics.estimate import share_of
from trilemma.metrics.neighbours import closest, nearest
from trilemma.number import Number


def train_closer(samples: Tensor, train: Tensor, test: Tensor) -> Number:
    """How much more often a sample's nearest real image is a training image than a held-out one, as a share.

    Training and held-out images are exchangeable to a model that has memorised nothing, so its samples are nearest
    to either in proportion to their numbers n and m. Counting each training hit as 1/n and each held-out hit as 1/m
    makes that 0.5 whatever the sizes; a model that returns its training images gets 1. (Thinning the training set
    to m images would do so too, but would throw away most of the images that copies are copies of.)

    Args:
        samples, train, test: features (or flattened pixels) ``[N, d]``, ``[n, d]``, ``[m, d]``. Ties count half.

    Returns:
        The share; its error is that of the finite number of samples.

    Raises:
        ValueError: as `nearest`.
    """
    to_train, _ = nearest(samples, train)
    to_test, _ = nearest(samples, test)
    count = len(to_train)
    train_hits = ((to_train < to_test).sum() + 0.5 * (to_train == to_test).sum()).item()

    def share(p: float) -> float:
        return (p / len(train)) / (p / len(train) + (1 - p) / len(test))

    p = (train_hits + 0.5) / (count + 1)  # keeps the error above 0 when all hits are on one side
    slope = share(p) * (1 - share(p)) / (p * (1 - p))  # d share / d p
    return Number(share(train_hits / count), slope * math.sqrt(p * (1 - p) / count))


def authpct(samples: Tensor, train: Tensor) -> Number:
    """Percentage of samples that are authentic: farther from their nearest training image than it is from its own.

    Alaa et al. 2022, "How faithful is your synthetic data?" (arXiv:2102.08921, section 4), in percent as Stein et
    al. 2023 (arXiv:2306.04675) report it. Fresh samples of the same law score near 50, not 100: read it beside the
    value of held-out images.

    Raises:
        ValueError: as `closest`, or there are fewer than two training images.
    """
    distance, neighbour = nearest(samples, train)
    hit, row = torch.unique(neighbour, return_inverse=True)
    # the nearest *other* training image: the first is the image itself, or a duplicate of it at distance 0
    own = closest(train[hit], train, 2)[0][:, 1]
    share = share_of(float((distance > own[row]).sum()), len(distance))
    return Number(100 * share.known, 100 * (share.error or 0.0))


def c_t(samples: Tensor, train: Tensor, held_out: Tensor, *, cells: int | None = None, seed: int = 0) -> Number:
    """The data-copying statistic C_T: are samples closer to the training set than held-out images are?

    Meehan, Chaudhuri & Dasgupta 2020, "A non-parametric test to detect data-copying in generative models"
    (arXiv:2004.05675, section 3). In each cell of a k-means partition of the training set, the z-score of the
    Mann-Whitney test on distances to the nearest training image; averaged with the held-out images of each cell as
    weights w, and divided by the standard deviation of that average, √Σw², which the paper leaves out: so it is a
    z-score however many cells there are. Far below 0 samples lie too close (data-copying), far above 0 too far
    (underfitting); without either it is normal with mean 0. It sees a tendency of all samples; for a few copies among
    many, ask `copies`.

    Args:
        cells: of the partition; None for one per 100 held-out images, at most 20; 1 for the global, un-celled
            statistic. Cells with fewer than 10 samples or held-out images are left out.
        seed: of the k-means.

    Returns:
        The z-score, and its standard error under the null hypothesis, which is 1.

    Raises:
        ValueError: as `nearest`, or no cell has enough images.
    """
    count = min(20, len(held_out) // 100) if cells is None else cells
    to_samples, to_held_out = nearest(samples, train)[0], nearest(held_out, train)[0]
    if count <= 1:
        return Number(_mann_whitney(to_samples, to_held_out), 1.0)
    centres = _k_means(train, count, seed)
    of_samples, of_held_out = nearest(samples, centres)[1], nearest(held_out, centres)[1]
    scores, weights = [], []
    for cell in range(count):
        here, there = to_samples[of_samples == cell], to_held_out[of_held_out == cell]
        if min(len(here), len(there)) >= 10:
            scores.append(_mann_whitney(here, there))
            weights.append(len(there))
    if not scores:
        raise ValueError(f"no cell of {count} has 10 samples and 10 held-out images: use fewer cells or more images")
    w = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return Number(float((w * torch.tensor(scores)).sum() / w.square().sum().sqrt()), 1.0)


def _mann_whitney(a: Tensor, b: Tensor) -> float:
    """The z-score of U, the pairs in which a is the larger; ties count half, and lessen the variance."""
    n, m = len(a), len(b)
    _, row, times = torch.unique(torch.cat([a, b]), return_inverse=True, return_counts=True)
    ranks = (times.cumsum(0) - (times - 1) / 2)[row].double()
    u = ranks[:n].sum() - n * (n + 1) / 2
    total = n + m
    ties = (times.double() ** 3 - times).sum() / max(total * (total - 1), 1)
    variance = n * m / 12 * (total + 1 - ties)
    return float((u - n * m / 2) / variance.sqrt()) if variance > 0 else 0.0


def _k_means(x: Tensor, count: int, seed: int, rounds: int = 10) -> Tensor:
    """Centres ``[count, d]`` of Lloyd's algorithm on at most 10,000 rows, from far-apart starts."""
    generator = torch.Generator().manual_seed(seed)
    x = x[torch.randperm(len(x), generator=generator)[:10_000]].double()
    centres = x[:1]
    distance = (x - centres).square().sum(1)
    for _ in range(min(count, len(x)) - 1):  # k-means++ (Arthur & Vassilvitskii 2007)
        if not distance.any():
            break  # fewer different rows than cells
        centres = torch.cat([centres, x[torch.multinomial(distance, 1, generator=generator)]])
        distance = torch.minimum(distance, (x - centres[-1]).square().sum(1))
    for _ in range(rounds):
        cell = nearest(x, centres)[1]
        size = torch.bincount(cell, minlength=len(centres)).clamp_min(1)
        total = torch.zeros_like(centres).index_add_(0, cell, x)
        centres = torch.where((total != 0).any(1, keepdim=True), total / size[:, None], centres)
    return centres
