"""Fréchet distance between Gaussians fitted to two sets of features.

With the features of the 2015 Inception network it is the FID of Heusel et al. 2017, "GANs trained by a two
time-scale update rule converge to a local Nash equilibrium" (arXiv:1706.08500, eq. 6); with any other features it
is a Fréchet distance that must carry the name of those features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trilemma.metrics.checks import check_features, check_same_dims
from trilemma.metrics.moments import Gaussian, Moments
from trilemma.number import Number

Law = Gaussian | Moments | Tensor
"""A set of features: ``[N, d]``, or what was kept of it."""


def frechet_distance(a: Law, b: Law) -> float:
    """``‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)`` (Dowson & Landau 1982), at least 0; in float64.

    Args:
        a, b: features ``[N, d]``, or the `Moments` or `Gaussian` of them. Where both are features with N ≤ d the rank
            is low and the dxd covariances are never formed.

    Raises:
        ValueError: the dimensions differ, NaN, fewer than two images, or images that are all the same.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        check_same_dims(a.shape[-1], b.shape[-1])
        if max(len(a), len(b)) <= a.shape[-1]:
            return _low_rank_distance(check_features(a), check_features(b))
    a, b = _gaussian(a), _gaussian(b)
    check_same_dims(a.dims, b.dims)
    traces = a.covariance.trace() + b.covariance.trace() - 2 * _trace_of_root(a.covariance, b.covariance)
    return max(_number((a.mean - b.mean).square().sum() + traces), 0.0)


def _gaussian(law: Law) -> Gaussian:
    if isinstance(law, Moments):
        law = law.gaussian()
    elif isinstance(law, Tensor):
        law = Gaussian.fit(law)
    if not (law.mean.isfinite().all() and law.covariance.isfinite().all()):
        raise ValueError("mean or covariance are not finite: the features are too large, or their moments damaged")
    return law


def _number(distance: Tensor) -> float:
    """A NaN is never returned: it would be read as a missing number, not as a fault."""
    if not distance.isfinite():
        raise ValueError("the Fréchet distance is not finite: the features are too large")
    return distance.item()


def frechet_estimate(x: Tensor, real: Law) -> Number:
    """`frechet_distance` of features ``x [N, d]`` from ``real``, with its standard error over the images of ``x``.

    The error is the delta method's: the distance's derivative with respect to the law of x, read at each image,

        2 (μ_x - μ_r)ᵀ(x - μ_x) + (x - μ_x)ᵀ(I - T)(x - μ_x),  T = Σ_r^½ (Σ_r^½ Σ_x Σ_r^½)^-½ Σ_r^½,

    T being the optimal transport map from one Gaussian to the other. Its variance over N is that of the distance; but
    for a part quadratic in the moments' own errors, V₂ ~ 1/N², which is most of it near a perfect model and which the
    derivative, read at the sample's moments, counts twice. Of halves it is four times as large, and so is found.
    No such derivative exists where Σ_x is singular: for N ≤ d the error is None, and where halves have none, V₂ stays
    counted twice. The error says nothing of the bias, which `frechet_bias` estimates and `frechet_infinity` removes.

    Raises:
        ValueError: as `frechet_distance`.
    """
    value = frechet_distance(x, real)
    n, d = x.shape
    return Number(value, _delta_error(x, _gaussian(real)) if n > d + 1 else None)


def _delta_error(x: Tensor, real: Gaussian) -> float:
    whole = _delta_variance(x, real)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # labels may alternate
    parts = [x[rows] for rows in order.tensor_split(2)]
    if len(x) // 2 <= x.shape[1] + 1 or any(bool((part == part[0]).all()) for part in parts):
        return math.sqrt(whole)
    halves = sum(_delta_variance(part, real) for part in parts) / 2
    # The whole shows V₁ + 2 V₂, halves 2 V₁ + 8 V₂, the truth is V₁ + V₂.
    quadratic = min(max((halves - 2 * whole) / 4, 0.0), whole / 2)
    return math.sqrt(whole - quadratic)


def _delta_variance(x: Tensor, real: Gaussian) -> float:
    law = Gaussian.fit(x)
    # With Σ_r = L Lᵀ, T = L (Lᵀ Σ_x L)^-½ Lᵀ whichever root L is taken.
    factor = _factor(real.covariance)
    values, vectors = torch.linalg.eigh(factor.T @ law.covariance @ factor)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    root = factor @ vectors[:, kept] * values[kept] ** -0.25  # T = root rootᵀ
    total, squares = 0.0, 0.0
    shift = 2 * (law.mean - real.mean)
    for part in torch.split(x, 4096):
        centred = part.double() - law.mean
        influence = centred @ shift + centred.square().sum(1) - (centred @ root).square().sum(1)
        total += influence.sum().item()
        squares += influence.square().sum().item()
    variance = (squares - total**2 / len(x)) / (len(x) - 1)
    return max(variance, 0.0) / len(x)


def frechet_infinity(x: Tensor, real: Law, *, sizes: int = 15, seed: int = 0) -> Number:
    """The distance that infinitely many images of the law of ``x`` would have: FID∞ (Chong & Forsyth 2020, eq. 4).

    The bias falls as 1/N, so distances of random parts of ``x`` are fitted by a straight line in 1/N, whose intercept
    is the answer (arXiv:1911.07023, section 4). It removes the bias of ``x`` alone; that of ``real`` stays, so give
    the whole training set. Against a perfect model the answer scatters around 0 and may be negative.

    Args:
        x: features ``[N, d]``, at least `LEAST_IMAGES_PER_DIM` times more images than dimensions.
        real: features, or the moments of them.
        sizes: sizes of parts, evenly spaced in 1/N from a fifth of N (or the fewest that determine a covariance
            well) to N.
        seed: of the parts.

    Returns:
        The intercept, with a standard error of two parts, added in squares: that of the regression, and that of the
        images by the delta method (`frechet_estimate`), which all parts share.

    Raises:
        ValueError: fewer than 10 sizes, too few images for the line, or as `frechet_distance`.
    """
    if sizes < 10:
        raise ValueError(f"a line through {sizes} sizes says too little: use at least 10")
    x = check_features(x, convert=False)
    n, d = x.shape
    if n < LEAST_IMAGES_PER_DIM * d:
        raise ValueError(
            f"{n} images are too few to extrapolate a distance in {d} features: use {LEAST_IMAGES_PER_DIM * d} or more"
        )
    law = _gaussian(real)
    smallest = max(n // 5, LEAST_IMAGES_PER_DIM * d // 2)
    generator = torch.Generator().manual_seed(seed)
    counts = [round(1 / u) for u in torch.linspace(1 / smallest, 1 / n, sizes, dtype=torch.float64).tolist()]
    distances = [frechet_distance(x[torch.randperm(n, generator=generator)[:count]], law) for count in counts]
    intercept, regression = _intercept(1 / torch.tensor(counts).double(), torch.tensor(distances).double())
    return Number(intercept, math.hypot(regression, _delta_error(x, law)))


LEAST_IMAGES_PER_DIM = 5


def _intercept(u: Tensor, y: Tensor) -> tuple[float, float]:
    """Least squares y = a + b u: a and its standard error."""
    spread = (u - u.mean()).square().sum()
    slope = ((u - u.mean()) * y).sum() / spread
    a = y.mean() - slope * u.mean()
    residual = (y - a - slope * u).square().sum() / (len(u) - 2)
    return a.item(), (residual * (1 / len(u) + u.mean() ** 2 / spread)).sqrt().item()


def _trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """tr (Σ_a Σ_b)^½ of covariances ``[d, d]``.

    With any factor Σ_a = L Lᵀ, the eigenvalues of Σ_a Σ_b are those of the symmetric Lᵀ Σ_b L, so no square root of
    a matrix is needed.
    """
    factor = _factor(a)
    eigenvalues: Tensor = torch.linalg.eigvalsh(factor.T @ b @ factor)
    return eigenvalues.clamp_min(0).sqrt().sum()


def _factor(covariance: Tensor) -> Tensor:
    """L ``[d, rank]`` with L Lᵀ = Σ: Cholesky's, which is fast, or the eigenvectors of a singular Σ less rounding."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(covariance)
    if info == 0:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(covariance) * torch.finfo(values.dtype).eps * values[-1]
    factor = vectors[:, kept] * values[kept].sqrt()
    return factor


def _low_rank_distance(x: Tensor, y: Tensor) -> float:
    """The same distance straight from features, for N ≤ d.

    With centred features X, Σ = XᵀX / (n - 1), and tr (Σ_x Σ_y)^½ is the sum of the singular values of X Yᵀ.
    """
    mean_x, mean_y = x.mean(0), y.mean(0)
    x = (x - mean_x) / (len(x) - 1) ** 0.5
    y = (y - mean_y) / (len(y) - 1) ** 0.5
    traces = x.square().sum() + y.square().sum() - 2 * torch.linalg.svdvals(x @ y.T).sum()
    return max(_number((mean_x - mean_y).square().sum() + traces), 0.0)


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
