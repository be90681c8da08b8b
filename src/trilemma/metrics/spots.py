"""Samples of a mixture of equal round Gaussians whose modes are known: which are found, and how many samples are good.

The protocol of the 2-D mixtures (Srivastava et al. 2017, VEEGAN, section 4.1; Lin et al. 2018, PacGAN, section 4.1): a
sample is of high quality within three standard deviations of a mode, and a mode is found when one such sample falls on
it. 2,500 samples are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics.estimate import share_of
from trilemma.metrics.modes import Modes, mode_coverage
from trilemma.number import Number

NEAR = 3.0
"""Standard deviations within which a sample is of high quality."""


@dataclass(frozen=True)
class Spots:
    """What `spots` finds.

    Attributes:
        found: modes with at least one high-quality sample; ``total``: modes that there are.
        quality: share of high-quality samples.
        perfect: that share for the mixture itself: 1 - e^(-9/2) = 0.9889 in two dimensions. A larger one means modes
            that have shrunk.
        frequencies: how evenly samples, each counted for its nearest mode, fall on the modes.
    """

    found: int
    total: int
    quality: Number
    perfect: float
    frequencies: Modes


def spots(points: Tensor, means: Tensor, sigma: float) -> Spots:
    """Judge points [N, D] by the modes ``means`` [K, D], all of standard deviation ``sigma`` and equally likely.

    Raises:
        ValueError: no points, or points of other dimensions.
    """
    if points.ndim != 2 or not len(points) or points.shape[1] != means.shape[1]:
        raise ValueError(f"the points must be [N, {means.shape[1]}] with N of at least 1, not {list(points.shape)}")
    distance, mode = torch.cdist(points.double(), means.double()).min(1)
    good = distance <= NEAR * sigma  # false where a point is not a number
    half = torch.tensor(means.shape[1] / 2, dtype=torch.float64)
    return Spots(
        found=int((torch.bincount(mode[good], minlength=len(means)) > 0).sum()),
        total=len(means),
        quality=share_of(int(good.sum()), len(points)),
        perfect=float(torch.special.gammainc(half, torch.tensor(NEAR**2 / 2, dtype=torch.float64))),
        frequencies=mode_coverage(mode, len(means)),
    )
