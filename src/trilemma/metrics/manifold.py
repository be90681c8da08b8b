"""Precision, recall, density and coverage: fidelity and diversity apart, on the k-nearest-neighbour balls of features.

Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models" (arXiv:1904.06991),
and Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models" (arXiv:2002.09797).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics.checks import check_features, check_same_dims
from trilemma.metrics.estimate import jackknife_error
from trilemma.metrics.neighbours import CACHED, centred, closest, mean_row, rounding, squared_norms

CHUNK = 2**23  # distances held at once: 32 MiB in float32
GROUPS = 20  # of fakes, each left out once for the errors


@dataclass(frozen=True)
class Manifold:
    """Four answers on one geometry. For fake and real of one law, density is 1 and coverage `expected_coverage`.

    Attributes:
        precision: share of fakes inside some real image's ball: are the fakes realistic? In [0, 1].
        recall: share of reals inside some fake image's ball: does the model reach every real? In [0, 1].
        density: mean number of real balls around a fake, divided by k; unlike precision not fooled by one outlier of
            the reals with a huge ball. At least 0; exceeds 1 where fakes sit where reals are densest.
        coverage: share of reals whose ball holds a fake; unlike recall not fooled by outliers of the fakes. In [0, 1].
        error: one standard error of each of the four over images, the radii of the balls taken as given; None inside
            itself.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    error: Manifold | None = None


def manifold_scores(real: Tensor, fake: Tensor, k: int = 5) -> Manifold:
    """Score ``fake`` features ``[M, d]`` against ``real`` features ``[N, d]``.

    A ball is open (strict <), centred on an image, and its radius is the distance to the k-th nearest *other* image
    of the same set. All four depend on N, M and k: compare numbers of equal N, M and k only.

    Distances are taken in chunks by float32 products; the few that rounding leaves undecided are taken again in
    float64, so that the answer is exact. Beyond the two sets, memory is that of a float32 copy of both.

    The errors: for precision that of a share of the fakes; for density of a mean over fakes and over balls. Recall and
    coverage have a part from the reals, binomial, and a part from the fakes, whose balls or hits many reals share: a
    jackknife that leaves out one of 20 random groups of fakes at a time.

    Raises:
        ValueError: k is not in 1 … min(N, M) - 1, dimensions differ, NaN, or rows that are all the same.
    """
    check_same_dims(real.shape[-1], fake.shape[-1])
    real, fake = (check_features(x, f"{name} features", convert=False) for x, name in ((real, "real"), (fake, "fake")))
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k must be from 1 to {min(len(real), len(fake)) - 1} for these sets, not {k}")
    fake = fake[torch.randperm(len(fake), generator=torch.Generator().manual_seed(0))]  # groups of fakes are random
    real_radius = closest(real, real, k, others=True)[0][:, -1].square()
    fake_radius = closest(fake, fake, k, others=True)[0][:, -1].square()
    centre = mean_row(real)
    near_real, near_fake = centred(real, centre), centred(fake, centre)
    real_norms, fake_norms = squared_norms(near_real)[:, None], squared_norms(near_fake)

    around_fake = torch.zeros(len(fake), dtype=torch.int64)  # real balls around each fake
    in_ball = torch.zeros(len(real), dtype=torch.int64)  # fakes in the ball of each real
    covering, recalling = [], []  # [N, G]: does a fake of group g hit the ball of a real, does its ball hold the real?
    rows = max(1, CHUNK // len(fake))
    for start in range(0, len(real), rows):
        part = slice(start, start + rows)
        squared = torch.addmm(fake_norms, near_real[part], near_fake.T, alpha=-2).add_(real_norms[part])
        # A distance is off by c(|x|² + |y|²) at most; the largest |y|² serves for all columns.
        slack = rounding(real.shape[1]) * (real_norms[part] + fake_norms.max())
        in_real = _below(squared, real_radius[part, None], slack, real[part], fake)
        in_fake = _below(squared, fake_radius[None], slack, real[part], fake)
        around_fake += in_real.sum(0)
        in_ball[part] = in_real.sum(1)
        covering.append(_any_in_group(in_real))
        recalling.append(_any_in_group(in_fake))
    covered, recalled = torch.cat(covering), torch.cat(recalling)
    hits = (around_fake > 0).double()
    return Manifold(
        precision=hits.mean().item(),
        recall=recalled.any(1).double().mean().item(),
        density=around_fake.double().mean().item() / k,
        coverage=covered.any(1).double().mean().item(),
        error=Manifold(
            precision=_binomial(hits.sum().item(), len(fake)),
            recall=_error_of_reals(recalled),
            density=_error_of_density(around_fake, in_ball, k),
            coverage=_error_of_reals(covered),
        ),
    )


def expected_coverage(n: int, m: int, k: int = 5) -> float:
    """Coverage of ``m`` fakes of exactly the law of the ``n`` reals (Naeem et al. 2020): 0.969 for large n = m, k=5."""
    missed = 1.0
    for i in range(k):
        missed *= (n - 1 - i) / (m + n - 1 - i)
    return 1 - missed


def _below(squared: Tensor, radius: Tensor, slack: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Where the distances of rows of ``x`` and ``y`` are below radii, ``[n, m]``.

    Args:
        squared: squared distances in float32 ``[n, m]``, off by ``slack`` ``[n, 1]`` at most; what that leaves
            undecided is measured again.
        radius: squared, float64 ``[n, 1]`` or ``[1, m]``.
    """
    margin = slack if radius.shape[1] == 1 else slack.max()
    inside = squared < (radius - margin).float()
    rows, columns = ((squared < (radius + margin).float()) & ~inside).nonzero(as_tuple=True)
    radius = radius.expand_as(squared)
    step = max(1, CACHED // x.shape[1])
    for r, c in zip(torch.split(rows, step), torch.split(columns, step), strict=True):
        distance = (x[r].double() - y[c].double()).norm(dim=1)
        inside[r, c] = distance.square() < radius[r, c]
    return inside


def _any_in_group(inside: Tensor) -> Tensor:
    """``[n, m]`` to ``[n, G]``: is any of the fakes of a group inside?"""
    return torch.stack([part.any(1) for part in inside.tensor_split(GROUPS, dim=1)], 1)


def _binomial(hits: float, count: int) -> float:
    p = (hits + 1) / (count + 2)  # no share is without error
    return math.sqrt(p * (1 - p) / count)


def _error_of_density(around_fake: Tensor, in_ball: Tensor, k: int) -> float:
    """Error of Σ hits / kM: the hits summed by fake vary with the fakes, summed by ball with the reals."""
    by_fake, by_real = (x.double().std().item() * math.sqrt(len(x)) for x in (around_fake, in_ball))
    return math.hypot(by_fake, by_real) / (k * len(around_fake))


def _error_of_reals(by_group: Tensor) -> float:
    """Error of the share of reals ``[N, G]`` that any group of fakes reaches."""
    groups = by_group.sum(1, keepdim=True)
    left_out = (groups - by_group.long() > 0).double().mean(0)  # [G]
    return math.hypot(_binomial(float((groups > 0).sum()), len(by_group)), jackknife_error(left_out))
