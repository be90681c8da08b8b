"""Fidelity and coverage by mutual nearness: a sample is near the data, and the data are near it.

Precision (Kynkäänniemi et al. 2019) asks only whether a sample lies in the ball of some real image. In many dimensions
the middle of a cloud lies in the balls of its outliers, so that averages, blur and noise are called precise: the
asymmetry of Khayatkhoei & AbdAlmageed 2023, "Emergent asymmetry of precision and recall for measuring fidelity and
diversity of generative models in high dimensions" (arXiv:2306.09618). Here the second look is the sample's own: a ball
around it that reaches to a tenth of all samples must hold real images too. Samples that are real are mixed with the
real images; a cloud of blurred images lies by itself, and its balls hold none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics.checks import check_features, check_same_dims
from trilemma.metrics.estimate import Reach, jackknife_error, left_out, share_of
from trilemma.metrics.neighbours import centred, mean_row, squared_norms
from trilemma.number import Number

CHUNK = 2**23  # distances held at once: 32 MiB in float32
REACH = 10  # the ball of a sample reaches to one in so many of the samples
SHARE = 300  # and must hold one in so many of the real images: a thirtieth of what it holds if both laws are one


@dataclass(frozen=True)
class Mutual:
    """Two shares in [0, 1], each with one standard error over samples, the real images taken as given.

    Attributes:
        fidelity: of samples that lie in the ball of a real image and whose own ball holds real images.
        coverage: of real images in whose ball such a sample lies.
        faithful: which samples those are, bool ``[M]``.
    """

    fidelity: Number
    coverage: Number
    faithful: Tensor


def mutual_nearness(real: Tensor, fake: Tensor, k: int = 5) -> Mutual:
    """Score ``fake`` features ``[M, d]`` against ``real`` features ``[N, d]``.

    With r_i the distance from real image x_i to its k-th nearest other real image, and s_j that from sample y_j to its
    ⌈M/10⌉-th nearest other sample, y_j is faithful if

        |x_i − y_j| < r_i for some i,   and   |x_i − y_j| < s_j for at least max(1, N/300) of the i.

    Samples that are equal count once where s_j is measured, and each in the shares: else three images drawn a hundred
    times would have balls that hold nothing but themselves. Both shares depend on N, M and k: compare numbers of equal
    N, M and k only, and best relative to held-out real images.

    The error of fidelity is that of `left_out`, and at least binomial; that of coverage is `Reach`'s. Distances are
    float32 products, in chunks; memory beyond the two sets is that of a copy of both.

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
    near = torch.zeros(len(y), dtype=torch.bool)
    for rows, squared in _distances(x, y):
        near |= (squared < radius[rows]).any(0)

    # The ball of a sample holds h real images where fewer than ⌈M/10⌉ other samples are as near as the h-th of them.
    h = math.ceil(max(1.0, len(x) / SHARE))
    kept = left_out(len(fake)).flatten(0, 1) if len(fake) >= 3 else torch.ones(3, len(fake), dtype=torch.bool)
    there = torch.zeros(len(kept) + 1, len(y))  # distinct samples in all of them, and in each part
    there[0] = 1
    there[1:].index_add_(1, which, kept.float())
    there = there.clamp_max(1)
    allowed = (there.sum(1) / REACH).ceil()
    faithful = torch.empty(len(y), len(there), dtype=torch.bool)
    for (rows, to_real), (_, to_fake) in zip(_distances(y, x, len(y)), _distances(y, y, len(x)), strict=True):
        last = to_real.kthvalue(h, dim=1, keepdim=True).values
        nearer = to_fake <= last
        nearer.diagonal(rows.start).fill_(False)
        faithful[rows] = (nearer.float() @ there.T < allowed) & near[rows, None]

    chosen = faithful[:, 0][which]
    fidelity = share_of(float(chosen.sum()), len(fake))
    parts = (faithful[:, 1:][which] & kept.T).sum(0).double() / kept.sum(1)
    reach = Reach(len(fake))
    for rows, squared in _distances(x, y):
        reach.add(((squared < radius[rows]) & faithful[:, 0])[:, which])
    error = max(jackknife_error(parts.view(-1, 3)), fidelity.error or 0.0)
    return Mutual(Number(fidelity.value, error), reach.estimate(), chosen)


def _distances(x: Tensor, y: Tensor, beside: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances of a chunk of the rows of ``x`` to all of ``y``; chunks as for ``beside`` columns, if more."""
    norms = squared_norms(y)
    rows = max(1, CHUNK // max(1, len(y), beside))
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
