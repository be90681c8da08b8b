"""Fidelity and coverage by mutual nearness: a sample is near the data, and the data are near it.

Precision (Kynkäänniemi et al. 2019) asks only whether a sample lies in the ball of some real image. In many dimensions
the middle of a cloud lies in the balls of its outliers, so that averages, blur and noise are called precise: the
asymmetry of Khayatkhoei & AbdAlmageed 2023, "Emergent asymmetry of precision and recall for measuring fidelity and
diversity of generative models in high dimensions" (arXiv:2306.09618). Here the second look is the sample's own: a ball
around it that reaches to a tenth of all samples must hold real images too. Samples that are real are mixed with the
real images; a cloud of blurred images lies by itself, and its balls hold none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics.checks import check_features, check_same_dims
from trilemma.metrics.neighbours import centred, mean_row, squared_norms

CHUNK = 2**23  # distances held at once: 32 MiB in float32
REACH = 10  # the ball of a sample reaches to one in so many of the samples
SHARE = 300  # and must hold one in so many of the real images: a thirtieth of what it holds if both laws are one


@dataclass(frozen=True)
class Mutual:
    """Two shares in [0, 1].

    Attributes:
        fidelity: of samples that lie in the ball of a real image and whose own ball holds real images.
        coverage: of real images in whose ball such a sample lies.
        faithful: which samples those are, bool ``[M]``.
        covered: which real images those are, bool ``[N]``.
    """

    fidelity: float
    coverage: float
    faithful: Tensor
    covered: Tensor


def mutual_nearness(real: Tensor, fake: Tensor, k: int = 5) -> Mutual:
    """Score ``fake`` features ``[M, d]`` against ``real`` features ``[N, d]``.

    With r_i the distance from real image x_i to its k-th nearest other real image, and s_j that from sample y_j to its
    ⌈M/10⌉-th nearest other sample, y_j is faithful if

        |x_i − y_j| < r_i for some i,   and   |x_i − y_j| < s_j for at least max(1, N/300) of the i.

    Samples that are equal count once where s_j is measured, and each in the shares: else three images drawn a hundred
    times would have balls that hold nothing but themselves. Both shares depend on N, M and k: compare numbers of equal
    N, M and k only, and best relative to held-out real images.

    Distances are float32 products, in chunks; memory beyond the two sets is that of a copy of both.

    Raises:
        ValueError: k is not in 1 … N - 1, dimensions differ, or NaN.
    """
    check_same_dims(real.shape[-1], fake.shape[-1])
    real, fake = (check_features(x, f"{name} features", convert=False) for x, name in ((real, "real"), (fake, "fake")))
    if not 1 <= k < len(real):
        raise ValueError(f"k must be from 1 to {len(real) - 1} for these sets, not {k}")
    distinct, which = torch.unique(fake, dim=0, return_inverse=True)
    centre = mean_row(real)
    x, y = centred(real, centre), centred(distinct, centre)
    radius = _to_neighbour(x, k)[:, None]
    reach = _to_neighbour(y, -(-len(y) // REACH)) if len(y) > 1 else torch.full((1,), torch.inf)

    near, held = torch.zeros(len(y), dtype=torch.bool), torch.zeros(len(y), dtype=torch.int64)
    for rows, squared in _distances(x, y):
        near |= (squared < radius[rows]).any(0)
        held += (squared < reach).sum(0)
    faithful = near & (held >= max(1.0, len(x) / SHARE))
    covered = torch.zeros(len(x), dtype=torch.bool)
    for rows, squared in _distances(x, y[faithful]):
        covered[rows] = (squared < radius[rows]).any(1)
    faithful = faithful[which]
    return Mutual(faithful.double().mean().item(), covered.double().mean().item(), faithful, covered)


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances of a chunk of the rows of ``x`` to all of ``y``."""
    norms = squared_norms(y)
    rows = max(1, CHUNK // max(1, len(y)))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        yield part, torch.addmm(norms[None], x[part], y.T, alpha=-2).add_(squared_norms(x[part])[:, None])


def _to_neighbour(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th nearest other row, ``[N]``."""
    found = torch.empty(len(x))
    for rows, squared in _distances(x, x):
        squared.diagonal(rows.start).fill_(torch.inf)
        found[rows] = squared.kthvalue(min(k, len(x) - 1), dim=1).values
    return found
