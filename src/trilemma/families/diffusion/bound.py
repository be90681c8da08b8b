"""The variational bound on log p(x) of the *discrete* image, in nats (Ho et al. 2020, eq. 5, 8 and 13).

    -log p(x) ≤ L_T + Σ_{t=s+1…T} L_{t-1} + L_0

L_T says how much of the image is left in x_T, L_{t-1} how badly the model guesses one step of the chain, and L_0 is
the discrete decoder: the probability that the last Gaussian, of x_0 given x_s, gives to the bin of each pixel; or, of
vectors, which have no bins (0 levels), its density. In Ho et al. 2020 the decoder stands at s = 1. That is too low
where a path has hardly any noise there (on the line of rectified flow, a quarter of half a level), for each step below
the width of a level costs nats and says nothing; so s is a part of the `Chain` that the bound is taken of.

The reverse variance is β^share · β̃^(1 - share): share 0 is the small one of Ho et al. 2020, 1 the large one; a
network may say the share of every pixel (Nichol & Dhariwal 2021, eq. 15), and else `fit_chain` finds that of each step;
where nobody says it is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.families.diffusion.denoiser import Denoiser, Estimate
from trilemma.families.diffusion.schedule import Schedule, rowwise
from trilemma.noise import Noise


def log_bin(x0: Tensor, mean: Tensor, std: Tensor | float, levels: int) -> Tensor:
    """`log_bin_mass` in float64 on the CPU, whatever is given."""
    return log_bin_mass(x0.cpu().double(), mean.cpu().double(), std.cpu() if isinstance(std, Tensor) else std, levels)


def log_bin_mass(x0: Tensor, mean: Tensor, std: Tensor | float, levels: int) -> Tensor:
    """log P(bin of x0) under N(mean, std²): bins of width 2/(levels-1), the outer two open (eq. 13).

    Computed with logarithms of tails, so it is finite and exact however far the mean is off. The outer bins have
    branches of their own, so that no gradient passes through an infinity.

    Args:
        x0: pixels on [-1, 1]; mean: of the same shape.
        levels: 0 for values without bins; then the logarithm of the density.

    Returns:
        of the shape of ``x0``, all ≤ 0 where there are bins.
    """
    if not levels:
        log_std = std.log() if isinstance(std, Tensor) else math.log(std)
        return -0.5 * (((x0 - mean) / std).square() + math.log(2 * math.pi)) - log_std
    half = 1 / (levels - 1)
    upper, lower = (x0 + half - mean) / std, (x0 - half - mean) / std
    flip = lower > 0  # of the two equal areas, take the one on the left, where log Φ is precise
    high, low = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_high = torch.special.log_ndtr(high)
    inside = log_high + torch.log1p(-torch.exp(torch.special.log_ndtr(low) - log_high))
    mass = torch.where(x0 > 1 - half, torch.special.log_ndtr(-lower), inside)
    return torch.where(x0 < -1 + half, torch.special.log_ndtr(upper), mass)


HALF_A_LEVEL = 1 / 255
"""Half the width of a level of 256, on [-1, 1]: below it there is nothing to learn."""


@dataclass(frozen=True)
class Chain:
    """The reverse chain that the bound is taken of: from x_T down to x_first, and from there to the image at once.

    Attributes:
        first: s, the time at which the decoder takes over, 1 … T - 1.
        factor: of the decoder's standard deviation, against the one that the share of its variance gives.
        share: float64 [T+1], the share of each step; None for that of the estimate.
        images: training images by which these were chosen; 0 where they are the defaults.
    """

    first: int
    factor: float = 1.0
    share: Tensor | None = None
    images: int = 0

    @classmethod
    def default(cls, schedule: Schedule, levels: int) -> Chain:
        """What needs no images: the decoder at the first time with noise of half a level; of vectors, at 1."""
        if not levels:
            return cls(1)
        low = schedule.sigma[1:-1] < schedule.signal[1:-1] * HALF_A_LEVEL
        return cls(min(1 + int(low.sum()), schedule.T - 1))

    def share_at(self, estimate: Estimate, t: Tensor) -> Tensor | float:
        """The share of the steps from the times t, int64 [N]: this chain's where it has one, else the estimate's."""
        if self.share is not None:
            return rowwise(self.share[t], estimate.x0)
        return 0.0 if estimate.share is None else estimate.share

    def spread(self, estimate: Estimate, schedule: Schedule) -> Tensor | float:
        """Standard deviation of the decoder; a share that is fitted or a plain number counts as 0.

        q's own variance is 0 there, so the small one is that of the step above, as in the published code.
        """
        small, large = schedule.posterior(self.first + 1, self.first)[2], schedule.added(self.first, 0)
        std = self.factor * math.sqrt(float(small))
        if self.share is not None or not isinstance(estimate.share, Tensor):
            return std
        return std * (0.5 * float((large / small).log()) * estimate.share.cpu().double()).exp()

    def told(self, schedule: Schedule) -> str:
        """The decoder in words."""
        where = f"decoder at t = {self.first} of {schedule.T}"
        return f"{where}, chosen with the variances on {self.images} training images" if self.images else where


@dataclass(frozen=True)
class StepTables:
    """What one step's divergence needs, by t = 0 … T (0 where undefined): float64 [T+1].

    Attributes:
        gap: log β_t - log β̃_t.
        weight: a²/β̃_t, a being the part of x_0 in the posterior mean (eq. 7).
        decoder: the standard deviation of the discrete decoder with share 0, and log β_1 against its log variance. q's
            own variance is 0 at t = 1; its place takes that of t = 2, as in the published code.
    """

    gap: Tensor
    weight: Tensor
    decoder: tuple[float, float]

    @classmethod
    def of(cls, schedule: Schedule) -> StepTables:
        t = torch.arange(2, schedule.T + 1)
        a, _, small = schedule.posterior(t, t - 1)
        none = small.new_zeros(2)
        variance = float(small[0])
        return cls(
            torch.cat([none, (schedule.added(t, t - 1) / small).log()]),
            torch.cat([none, a.square() / small]),
            (math.sqrt(variance), math.log(float(schedule.added(1, 0)) / variance)),
        )


def divergence(error: Tensor, share: Tensor | float, gap: Tensor, weight: Tensor) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t)) of each value, [N, C, H, W] (Ho et al. 2020, eq. 5).

    Args:
        error: x_0 - x̂_0, of the estimate; share: of log β in the log-variance of the step.
        gap, weight: of `StepTables` at the time of each image, [N, 1, 1, 1].
    """
    log_ratio = -share * gap  # log(β̃ / model variance)
    ratio = torch.exp(log_ratio) if isinstance(log_ratio, Tensor) else math.exp(log_ratio)
    return 0.5 * (ratio - 1 - log_ratio + weight * ratio * error.square())


def prior_term(x0: Tensor, schedule: Schedule) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ N(0, I)), float64 [N]."""
    a, v = schedule.alpha_bar[-1], schedule.variance[-1]
    kl: Tensor = 0.5 * (a * x0.cpu().double().square() + v - 1 - v.log())
    return kl.flatten(1).sum(1)


PUBLISHED = Chain(1)
"""The chain of Ho et al. 2020, as it is trained."""


def step_term(
    denoise: Denoiser, x0: Tensor, t: Tensor, schedule: Schedule, eps: Tensor, chain: Chain = PUBLISHED
) -> Tensor:
    """One draw of L_{t-1} = KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t)), its expectation being over ``eps``.

    Args:
        x0: [N, C, H, W]; eps: standard normal of the same shape; t: int64 [N] on the CPU, each in 2 … T.
        chain: whose shares count.

    Returns:
        float64 [N].
    """
    tables = StepTables.of(schedule)
    estimate = denoise(diffuse(x0, t, schedule, eps), t)
    share = chain.share_at(estimate, t)
    share = share.cpu().double() if isinstance(share, Tensor) else share
    gap, weight = rowwise(tables.gap[t], x0), rowwise(tables.weight[t], x0)
    error = (x0 - estimate.x0).cpu().double()  # subtracted before it is rounded to less
    return divergence(error, share, gap, weight).flatten(1).sum(1)


def decoder_term(
    denoise: Denoiser, x0: Tensor, schedule: Schedule, eps: Tensor, levels: int, chain: Chain = PUBLISHED
) -> Tensor:
    """One draw of L_0 = -log p(x_0 | x_s), float64 [N]."""
    t = torch.full((len(x0),), chain.first)
    estimate = denoise(diffuse(x0, t, schedule, eps), t)
    return -log_bin(x0, estimate.x0, chain.spread(estimate, schedule), levels).flatten(1).sum(1)


def diffuse(x0: Tensor, t: Tensor, schedule: Schedule, eps: Tensor) -> Tensor:
    """x_t = α_t x_0 + σ_t ε (eq. 4), for t int64 [N] on the CPU."""
    alpha_t, sigma_t = schedule.at(t, x0)
    return alpha_t * x0 + sigma_t * eps.to(x0)


def strata(schedule: Schedule, samples: int, uniform: Tensor, first: int = 1) -> tuple[Tensor, Tensor]:
    """Draw ``samples`` of the times first + 1 … T, one from each of as many strata, weighted to keep the sum unbiased.

    Times are proposed in proportion to 1/t: the bound is spent at low noise, where one step removes much of it, and
    L_{t-1} falls about as 1/t. (With 32 times on MNIST the estimate of an image had a standard deviation of 18 nats;
    with uniform times, of 1200.)

    Args:
        uniform: float [N, samples] on [0, 1).

    Returns:
        t int64 [N, samples] and weights float64 [N, samples]: E[Σ_k w_k f(t_k)] = Σ_t f(t) for every f.
    """
    t = torch.arange(first + 1, schedule.T + 1, dtype=torch.float64)
    q = (1 / t) / (1 / t).sum()  # [T - first]
    quantile = (torch.arange(samples) + uniform.cpu().double()) / samples
    chosen = torch.searchsorted(q.cumsum(0), quantile, right=True).clamp(max=len(q) - 1)
    return chosen + first + 1, 1 / (samples * q[chosen])


def variational_bound(
    denoise: Denoiser,
    x0: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    levels: int,
    samples: int,
    chain: Chain = PUBLISHED,
) -> Tensor:
    """An unbiased draw of the bound, to be read as log p(x) ≥ it in expectation.

    Args:
        denoise: estimates x_0 from x_t and one time per image.
        x0: float [N, C, H, W], pixels on [-1, 1].
        noise: one row per image; the row of an image decides its value alone.
        samples: how many of the T - s terms L_s … L_{T-1} to evaluate per image; with T - s or more, each once.
        chain: whose bound it is.

    Returns:
        nats per image, float64 [N] on the CPU, higher is better.
    """
    total = prior_term(x0, schedule) + decoder_term(denoise, x0, schedule, noise.normal(*x0.shape[1:]), levels, chain)
    if samples >= schedule.T - chain.first:
        times = torch.arange(chain.first + 1, schedule.T + 1).expand(len(x0), -1)
        weights = torch.ones(times.shape, dtype=torch.float64)
    else:
        times, weights = strata(schedule, samples, noise.uniform(samples), chain.first)
    for t, weight in zip(times.T, weights.T, strict=True):
        total = total + weight * step_term(denoise, x0, t, schedule, noise.normal(*x0.shape[1:]), chain)
    return -total


def bound_terms(
    denoise: Denoiser,
    x0: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    levels: int,
    times: Iterable[int] | None = None,
    chain: Chain = PUBLISHED,
) -> Iterator[tuple[int, Tensor]]:
    """Every term of the bound, one draw each: ``(0, L_0)``, ``(s, L_s)``, … ``(T, L_T)``, nats, float64 [N].

    ``times`` are those of the terms L_{t-1} between the ends, by default all of s + 1 … T.
    """
    yield 0, decoder_term(denoise, x0, schedule, noise.normal(*x0.shape[1:]), levels, chain)
    for t in times or range(chain.first + 1, schedule.T + 1):
        rows = torch.full((len(x0),), t)
        yield t - 1, step_term(denoise, x0, rows, schedule, noise.normal(*x0.shape[1:]), chain)
    yield schedule.T, prior_term(x0, schedule)
