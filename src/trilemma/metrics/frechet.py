"""Fréchet distance between Gaussians fitted to two sets of features.

With the features of the 2015 Inception network it is the FID of Heusel et al. 2017, "GANs trained by a two
time-scale update rule converge to a local Nash equilibrium" (arXiv:1706.08500, eq. 6); with any other features it
is a Fréchet distance that must carry the name of those features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics.features import check_features, check_same_dims


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set of features: all that the Fréchet distance knows of it.

    Attributes:
        mean: float64 ``[d]``.
        covariance: float64 ``[d, d]``, normalised by ``n - 1``.
        n: number of images it was estimated from.
    """

    mean: Tensor
    covariance: Tensor
    n: int

    @property
    def dims(self) -> int:
        return len(self.mean)

    @classmethod
    def fit(cls, features: Tensor) -> Gaussian:
        """Estimate from features ``[N, d]``; ``ValueError`` for N < 2, NaN, or rows that are all the same."""
        x = check_features(features)
        mean = x.mean(0)
        centred = (x - mean).numpy()
        scatter = torch.from_numpy(
            centred.T @ centred
        )  # numpy sees the symmetry and does half the work; torch does not
        return cls(mean, scatter / (len(x) - 1), len(x))

    def merge(self, other: Gaussian) -> Gaussian:
        """The Gaussian of both sets together (Chan, Golub & LeVeque 1979), to fit a large set in parts."""
        check_same_dims(self.dims, other.dims)
        n = self.n + other.n
        delta = other.mean - self.mean
        scatter = (self.n - 1) * self.covariance + (other.n - 1) * other.covariance
        scatter = scatter + torch.outer(delta, delta) * (self.n * other.n / n)
        return Gaussian(self.mean + delta * (other.n / n), scatter / (n - 1), n)


def frechet_distance(a: Gaussian | Tensor, b: Gaussian | Tensor) -> float:
    """``‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)`` (Dowson & Landau 1982), at least 0; in float64.

    Args:
        a, b: features ``[N, d]`` or the `Gaussian` of them. Where both are features with N ≤ d the rank is low and
            the dxd covariances are never formed.

    Raises:
        ValueError: the dimensions differ, or what `Gaussian.fit` refuses.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        check_same_dims(a.shape[-1], b.shape[-1])
        if max(len(a), len(b)) <= a.shape[-1]:
            return _low_rank_distance(check_features(a), check_features(b))
    a = a if isinstance(a, Gaussian) else Gaussian.fit(a)
    b = b if isinstance(b, Gaussian) else Gaussian.fit(b)
    check_same_dims(a.dims, b.dims)
    traces = a.covariance.trace() + b.covariance.trace() - 2 * _trace_of_root(a.covariance, b.covariance)
    return max(float((a.mean - b.mean).square().sum() + traces), 0.0)


def _trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """tr (Σ_a Σ_b)^½ of covariances ``[d, d]``.

    With any factor Σ_a = L Lᵀ, the eigenvalues of Σ_a Σ_b are those of the symmetric Lᵀ Σ_b L, so no square root of
    a matrix is needed. Cholesky gives L fast; a singular Σ_a needs its eigenvectors, less those of rounding noise.
    """
    factor, info = torch.linalg.cholesky_ex(a)
    if info != 0:
        values, vectors = torch.linalg.eigh(a)
        kept = values > len(a) * torch.finfo(values.dtype).eps * values[-1]
        factor = vectors[:, kept] * values[kept].sqrt()  # [d, rank]
    eigenvalues: Tensor = torch.linalg.eigvalsh(factor.T @ b @ factor)
    return eigenvalues.clamp_min(0).sqrt().sum()


def _low_rank_distance(x: Tensor, y: Tensor) -> float:
    """The same distance straight from features, for N ≤ d.

    With centred features X, Σ = XᵀX / (n - 1), and tr (Σ_x Σ_y)^½ is the sum of the singular values of X Yᵀ.
    """
    mean_x, mean_y = x.mean(0), y.mean(0)
    x = (x - mean_x) / (len(x) - 1) ** 0.5
    y = (y - mean_y) / (len(y) - 1) ** 0.5
    traces = x.square().sum() + y.square().sum() - 2 * torch.linalg.svdvals(x @ y.T).sum()
    return max(float((mean_x - mean_y).square().sum() + traces), 0.0)


def frechet_bias(law: int | Gaussian, n: int, m: int | None = None) -> float:
    """What the distance is expected to show between samples of one and the same Gaussian law, where 0 would be true.

    To leading order in 1/n, against the exact moments,
    ``tr Σ / n + (tr Σ + Σ_{i≠j} λ_i λ_j / (λ_i + λ_j)) / 2n`` with the eigenvalues λ of Σ, which is
    ``d/n + d(d+1)/4n`` for Σ = I. Good for n ≥ 10 d or so; features that are not Gaussian have more of it.

    Args:
        law: the `Gaussian`, or just d for N(0, I).
        n: size of the sample.
        m: size of a second sample that it is compared with; None for a comparison with the exact moments.
    """
    if isinstance(law, int):
        once = law + law * (law + 1) / 4
    else:
        values = torch.linalg.eigvalsh(law.covariance).clamp_min(torch.finfo(torch.float64).tiny)
        pairs = (values[:, None] * values / (values[:, None] + values)).sum() - values.sum() / 2
        once = (values.sum() + (values.sum() + pairs) / 2).item()
    return once / n + (once / m if m is not None else 0.0)


def frechet_flag(n: int, d: int) -> str | None:
    """What must be said beside a Fréchet distance of ``d`` features estimated from ``n`` images; None if nothing.

    The text begins with ``refused`` when the covariance is singular (n ≤ d), with ``warning`` when the bias is still
    a large part of what it measures (n < 10 d).
    """
    if n <= d:
        return f"refused: {n} images do not determine the covariance of {d} features; use more than {10 * d}"
    if n < 10 * d:
        return f"warning: {n} images for {d} features, so the distance is biased upwards; use more than {10 * d}"
    return None
