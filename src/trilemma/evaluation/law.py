"""The law of the data, where it is known: the 2-D mixtures of Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from trilemma.data import Dataset
from trilemma.data.mixtures import MIXTURES, Law
from trilemma.metrics.mixture import Mixture


def law_of(dataset: Dataset) -> Law | None:
    """The mixture that the data were drawn from, if it is known."""
    return MIXTURES.get(dataset.config.source) if dataset.vector else None


def true_nats(law: Law, points: Tensor) -> Tensor:
    """log p of points [N, 2] under the mixture itself: float64 [N]."""
    count, dims = law.means.shape
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    factors = law.sigma * torch.eye(dims, dtype=torch.float64).expand(count, dims, dims)
    return Mixture(weights, torch.from_numpy(law.means), factors).log_density(points)
