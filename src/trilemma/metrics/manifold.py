"""Precision, recall, density and coverage: fidelity and diversity apart, on the k-nearest-neighbour balls of features.

Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models" (arXiv:1904.06991),
and Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models" (arXiv:2002.09797).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics.features import check_features, check_same_dims

CHUNK = 2**23  # distances held at once: 64 MiB


@dataclass(frozen=True)
class Manifold:
    """Four answers on one geometry. For fake and real of one law, density is 1 and coverage `expected_coverage`.

    Attributes:
        precision: share of fakes inside some real image's ball: are the fakes realistic? In [0, 1].
        recall: share of reals inside some fake image's ball: does the model reach every real? In [0, 1].
        density: mean number of real balls around a fake, divided by k; unlike precision not fooled by one outlier of
            the reals with a huge ball. At least 0; exceeds 1 where fakes sit where reals are densest.
        coverage: share of reals whose ball holds a fake; unlike recall not fooled by outliers of the fakes. In [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(real: Tensor, fake: Tensor, k: int = 5) -> Manifold:
    """Score ``fake`` features ``[M, d]`` against ``real`` features ``[N, d]``.

    A ball is open (strict <), centred on an image, and its radius is the distance to the k-th nearest *other* image
    of the same set. All four depend on N, M and k: compare numbers of equal N, M and k only.

    Raises:
        ValueError: k is not in 1 … min(N, M) - 1, dimensions differ, NaN, or rows that are all the same.
    """
    check_same_dims(real.shape[-1], fake.shape[-1])
    real, fake = check_features(real, "real features"), check_features(fake, "fake features")
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k must be from 1 to {min(len(real), len(fake)) - 1} for these sets, not {k}")
    centre = real.mean(0)  # distances do not change, and their rounding error shrinks
    real, fake = real - centre, fake - centre
    real_radius, fake_radius = _squared_radii(real, k), _squared_radii(fake, k)

    balls_around_fake = torch.zeros(len(fake), dtype=torch.int64)
    covered = recalled = 0
    rows = max(1, CHUNK // len(fake))
    for part, radius in zip(torch.split(real, rows), torch.split(real_radius, rows), strict=True):
        squared = _squared_distances(part, fake)  # [rows, M]
        inside = squared < radius[:, None]
        balls_around_fake += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((squared < fake_radius).any(1).sum())
    return Manifold(
        precision=(balls_around_fake > 0).double().mean().item(),
        recall=recalled / len(real),
        density=balls_around_fake.double().mean().item() / k,
        coverage=covered / len(real),
    )


def expected_coverage(n: int, m: int, k: int = 5) -> float:
    """Coverage of ``m`` fakes of exactly the law of the ``n`` reals (Naeem et al. 2020): 0.969 for large n = m, k=5."""
    missed = 1.0
    for i in range(k):
        missed *= (n - 1 - i) / (m + n - 1 - i)
    return 1 - missed


def _squared_radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row of ``x`` to its k-th nearest other row, ``[N]``."""
    radii = []
    rows = max(1, CHUNK // len(x))
    for start in range(0, len(x), rows):
        squared = _squared_distances(x[start : start + rows], x)
        squared.diagonal(start).fill_(torch.inf)  # the point itself, by index: duplicates stay neighbours
        radii.append(squared.kthvalue(k).values)
    return torch.cat(radii)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1, keepdim=True)).clamp_min_(0)
