"""A mixture of Gaussians, fitted by expectation maximisation (Dempster, Laird & Rubin 1977)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-3
"""Least variance of a component in any direction, as a share of the mean variance of the data."""


@dataclass(frozen=True)
class Mixture:
    """Σ_k weights_k N(means_k, factors_k factors_kᵀ).

    Attributes:
        weights: float64 [K], which sum to 1.
        means: float64 [K, d].
        factors: float64 [K, d, d], lower triangular.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    @classmethod
    def fit(cls, x: Tensor, components: int, steps: int = 50) -> Mixture:
        """Fit to rows ``[N, d]`` in float64 on the CPU; a function of the rows alone, nothing is drawn.

        The first means are rows that lie far from each other, the first shares those of the nearest of them. Full
        covariances; with few rows there are fewer components, so that each has at least 2 d of them on average.

        Raises:
            ValueError: fewer than two rows.
        """
        x = x.detach().cpu().double()
        if len(x) < 2:
            raise ValueError(f"a mixture needs at least 2 points, not {len(x)}")
        count = max(1, min(components, len(x) // (2 * x.shape[1])))
        floor = FLOOR * float(x.var(0).mean()) + 1e-12
        means = _far_apart(x, count)
        shares = torch.nn.functional.one_hot(torch.cdist(x, means).argmin(1), count).double()
        mixture = cls._maximised(x, shares, floor)
        before = -math.inf
        for _ in range(steps):
            joint = mixture._joint(x)
            now = float(joint.logsumexp(1).mean())
            if now - before < 1e-6:
                break
            before = now
            mixture = cls._maximised(x, joint.softmax(1), floor)
        return mixture

    @classmethod
    def _maximised(cls, x: Tensor, shares: Tensor, floor: float) -> Mixture:
        """The weights, means and covariances of the rows, shared out among the components [N, K]."""
        mass = shares.sum(0) + 1e-9
        means = shares.T @ x / mass[:, None]
        centred = x[None] - means[:, None]  # [K, N, d]
        covariance = (centred * shares.T[..., None]).transpose(1, 2) @ centred / mass[:, None, None]
        covariance += floor * torch.eye(x.shape[1], dtype=x.dtype)
        return cls(mass / mass.sum(), means, torch.linalg.cholesky(covariance))

    def _joint(self, x: Tensor) -> Tensor:
        """log (weights_k N(x; k)) of rows [N, d]: [N, K]."""
        centred = (x[None] - self.means[:, None]).transpose(1, 2)  # [K, d, N]
        white = torch.linalg.solve_triangular(self.factors, centred, upper=False)
        log_det = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = self.weights.log() - log_det - 0.5 * x.shape[1] * math.log(2 * math.pi)
        joint: Tensor = constant[:, None] - 0.5 * white.square().sum(1)
        return joint.T

    def log_density(self, x: Tensor) -> Tensor:
        """log p in nats of rows [N, d]: float64 [N]."""
        return self._joint(x.detach().cpu().double()).logsumexp(1)

    def draw(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draws [N, d] that spend one uniform variate [N] and a row of normal ones [N, d] each."""
        chosen = torch.searchsorted(self.weights.cumsum(0), uniform.cpu().double()).clamp(max=len(self.weights) - 1)
        spread = (self.factors[chosen] @ normal.cpu().double()[..., None])[..., 0]
        return self.means[chosen] + spread


def _far_apart(x: Tensor, count: int) -> Tensor:
    """``count`` rows: the one nearest the mean, then always the one farthest from those before."""
    chosen = [int((x - x.mean(0)).square().sum(1).argmin())]
    distance = (x - x[chosen[0]]).square().sum(1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen]
