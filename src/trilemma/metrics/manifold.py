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
from trilemma.metrics.estimate import Reach, jackknife_error, left_out, share_of
from trilemma.metrics.neighbours import CACHED, centred, closest, mean_row, rounding, squared_norms
from trilemma.number import Number

CHUNK = 2**23  # distances held at once: 32 MiB in float32
OFTEN = 16  # a real image in so many balls is recalled by any two thirds of the fakes


@dataclass(frozen=True)
class Manifold:
    """Four answers on one geometry. For fake and real of one law, density is 1 and coverage `expected_coverage`.

    Each has one standard error over fakes of the same model, the reals taken as they are.

    Attributes:
        precision: share of fakes inside some real image's ball: are the fakes realistic? In [0, 1].
        recall: share of reals inside some fake image's ball: does the model reach every real? In [0, 1].
        density: mean number of real balls around a fake, divided by k; unlike precision not fooled by one outlier of
            the reals with a huge ball. At least 0; exceeds 1 where fakes sit where reals are densest.
        coverage: share of reals whose ball holds a fake; unlike recall not fooled by outliers of the fakes. In [0, 1].
    """

    precision: Number
    recall: Number
    density: Number
    coverage: Number


def manifold_scores(real: Tensor, fake: Tensor, k: int = 5) -> Manifold:
    """Score ``fake`` features ``[M, d]`` against ``real`` features ``[N, d]``.

    A ball is open (strict <), centred on an image, and its radius is the distance to the k-th nearest *other* image
    of the same set. All four depend on N, M and k: compare numbers of equal N, M and k only.

    Distances are taken in chunks by float32 products; the few that rounding leaves undecided are taken again in
    float64, so that the answer is exact. Beyond the two sets, memory is that of a float32 copy of both.

    The errors say how far the four would move with other fakes of the same model against the same reals. Precision is
    a share of the fakes and density a mean over them; coverage is a `Reach` of fixed balls; recall, whose balls are
    drawn among the fakes, is computed again with a third of the fakes `left_out`, twenty times three.

    Raises:
        ValueError: k is not in 1 … min(N, M) - 1, dimensions differ, NaN, or rows that are all the same.
    """
    check_same_dims(real.shape[-1], fake.shape[-1])
    real, fake = (check_features(x, f"{name} features", convert=False) for x, name in ((real, "real"), (fake, "fake")))
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k must be from 1 to {min(len(real), len(fake)) - 1} for these sets, not {k}")
    real_radius = closest(real, real, k, others=True)[0][:, -1].square()
    fake_radius, radius_left = _radii(fake, k)
    centre = mean_row(real)
    near_real, near_fake = centred(real, centre), centred(fake, centre)
    real_norms, fake_norms = squared_norms(near_real)[:, None], squared_norms(near_fake)

    around_fake = torch.zeros(len(fake), dtype=torch.int64)  # real balls around each fake
    covered, recalled = Reach(len(fake)), 0
    recalled_left = torch.zeros(radius_left.shape[1], dtype=torch.float64)  # the same with a third left out
    rows = max(1, CHUNK // len(fake))
    for start in range(0, len(real), rows):
        part = slice(start, start + rows)
        squared = torch.addmm(fake_norms, near_real[part], near_fake.T, alpha=-2).add_(real_norms[part])
        # A distance is off by c(|x|² + |y|²) at most; the largest |y|² serves for all columns.
        slack = rounding(real.shape[1]) * (real_norms[part] + fake_norms.max())
        in_real = _below(squared, real_radius[part, None], slack, real[part], fake)
        in_fake = _below(squared, fake_radius[None], slack, real[part], fake)
        around_fake += in_real.sum(0)
        covered.add(in_real)
        balls = in_fake.sum(1)
        recalled += int((balls > 0).sum())
        recalled_left += _recalled(squared[balls < OFTEN], radius_left) + int((balls >= OFTEN).sum())
    recall_error = jackknife_error((recalled_left / len(real)).view(-1, 3))
    around = around_fake.double()
    spread = max(around.std().item(), 1 / math.sqrt(len(fake)))
    return Manifold(
        precision=share_of(float((around_fake > 0).sum()), len(fake)),
        recall=Number(recalled / len(real), max(recall_error, 1 / len(real))),
        density=Number(around.mean().item() / k, spread / (k * math.sqrt(len(fake)))),
        coverage=covered.estimate(),
    )


def _radii(fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Squared radii of the balls of fakes: float64 ``[M]``, and with a third left out float32 ``[M, parts]``.

    In a part a fake that is left out has no ball, which is a radius below 0, and so has one of radius 0.
    """
    count = len(fake)
    some = min(count - 1, 2 * k + 10)  # k of them are among two thirds of the fakes, but for one case in thousands
    distance, neighbour = closest(fake, fake, some, others=True)
    squared = distance.square()
    kept = left_out(count, groups=3).flatten(0, 1) if count >= 3 else torch.ones(3, count, dtype=torch.bool)
    left = torch.empty(count, len(kept))
    for part, there in enumerate(kept):
        place = (there[neighbour].cumsum(1) < k).sum(1, keepdim=True).clamp_max(some - 1)
        left[:, part] = squared.gather(1, place)[:, 0].float().masked_fill_(~there, 0)
    return squared[:, k - 1], torch.where(left > 0, left, -torch.inf)


def _recalled(squared: Tensor, radius: Tensor) -> Tensor:
    """How many reals lie in a ball of the fakes, for each part: from distances ``[n, M]``, radii ``[M, parts]``."""
    row, column = (squared < radius.amax(1)).nonzero(as_tuple=True)
    balls = torch.zeros(len(squared), radius.shape[1])
    step = max(1, CHUNK // radius.shape[1])
    for r, c in zip(torch.split(row, step), torch.split(column, step), strict=True):
        balls.index_add_(0, r, (squared[r, c, None] < radius[c]).float())
    return (balls > 0).double().sum(0)


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
