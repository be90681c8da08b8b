"""The variational bound on log p(x) of the *discrete* image, in nats (Ho et al. 2020, eq. 5, 8 and 13).

    -log p(x) ≤ L_T + Σ_{t=2…T} L_{t-1} + L_0

L_T says how much of the image is left in x_T, L_{t-1} how badly the model guesses one step of the chain, and L_0 is
the discrete decoder: the probability that the last Gaussian gives to the bin of each pixel; or, of vectors, which have
no bins (0 levels), its density.

The reverse variance is β^share · β̃^(1 - share): share 0 is the small one of Ho et al. 2020, 1 the large one, and a
network may say the share of every pixel (Nichol & Dhariwal 2021, eq. 15).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trilemma.families.diffusion.schedule import Schedule, rowwise
from trilemma.noise import Noise


class Guess(NamedTuple):
    """What the model makes of x_t: the image [N, C, H, W], and the share of log β in the log-variance of its step."""

    x0: Tensor
    share: Tensor | float = 0.0


RowDenoiser = Callable[[Tensor, Tensor], Guess]
"""``denoise(x_t, t)``; ``t`` is int64 [N] on the CPU, one time per image."""


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


def divergence(x0: Tensor, guess: Guess, gap: Tensor, weight: Tensor) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t)) of each value, [N, C, H, W] (Ho et al. 2020, eq. 5).

    Args:
        gap, weight: of `StepTables` at the time of each image, [N, 1, 1, 1].
    """
    log_ratio = -guess.share * gap  # log(β̃ / model variance)
    ratio = torch.exp(log_ratio) if isinstance(log_ratio, Tensor) else math.exp(log_ratio)
    return 0.5 * (ratio - 1 - log_ratio + weight * ratio * (x0 - guess.x0).square())


def prior_term(x0: Tensor, schedule: Schedule) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ N(0, I)), float64 [N]."""
    a, v = schedule.alpha_bar[-1], schedule.variance[-1]
    kl: Tensor = 0.5 * (a * x0.cpu().double().square() + v - 1 - v.log())
    return kl.flatten(1).sum(1)


def step_term(denoise: RowDenoiser, x0: Tensor, t: Tensor, schedule: Schedule, eps: Tensor) -> Tensor:
    """One draw of L_{t-1} = KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t)), its expectation being over ``eps``.

    Args:
        x0: [N, C, H, W]; eps: standard normal of the same shape; t: int64 [N] on the CPU, each in 2 … T.

    Returns:
        float64 [N].
    """
    tables = StepTables.of(schedule)
    guess = denoise(diffuse(x0, t, schedule, eps), t)
    share = guess.share.cpu().double() if isinstance(guess.share, Tensor) else guess.share
    gap, weight = rowwise(tables.gap[t], x0), rowwise(tables.weight[t], x0)
    error = (x0 - guess.x0).cpu().double()  # subtracted before it is rounded to less
    return divergence(error, Guess(torch.zeros_like(error), share), gap, weight).flatten(1).sum(1)


def decoder_term(denoise: RowDenoiser, x0: Tensor, schedule: Schedule, eps: Tensor, levels: int) -> Tensor:
    """One draw of L_0 = -log p(x_0 | x_1), float64 [N]; a fixed share counts as 0, a learned one as it is."""
    t = torch.ones(len(x0), dtype=torch.int64)
    guess = denoise(diffuse(x0, t, schedule, eps), t)
    std, gap = StepTables.of(schedule).decoder
    wide = std * (0.5 * gap * guess.share.cpu().double()).exp() if isinstance(guess.share, Tensor) else std
    return -log_bin(x0, guess.x0, wide, levels).flatten(1).sum(1)


def diffuse(x0: Tensor, t: Tensor, schedule: Schedule, eps: Tensor) -> Tensor:
    """x_t = α_t x_0 + σ_t ε (eq. 4), for t int64 [N] on the CPU."""
    signal, sigma = rowwise(schedule.signal[t], x0), rowwise(schedule.sigma[t], x0)
    return signal.to(x0) * x0 + sigma.to(x0) * eps.to(x0)


def strata(schedule: Schedule, samples: int, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw ``samples`` of the times 2 … T, one from each of as many strata, with weights that keep the sum unbiased.

    Times are proposed in proportion to 1/t: the bound is spent at low noise, where one step removes much of it, and
    L_{t-1} falls about as 1/t. (With 32 times on MNIST the estimate of an image had a standard deviation of 18 nats;
    with uniform times, of 1200.)

    Args:
        uniform: float [N, samples] on [0, 1).

    Returns:
        t int64 [N, samples] and weights float64 [N, samples]: E[Σ_k w_k f(t_k)] = Σ_{t=2…T} f(t) for every f.
    """
    t = torch.arange(2, schedule.T + 1, dtype=torch.float64)
    q = (1 / t) / (1 / t).sum()  # [T-1]
    quantile = (torch.arange(samples) + uniform.cpu().double()) / samples
    chosen = torch.searchsorted(q.cumsum(0), quantile, right=True).clamp(max=len(q) - 1)
    return chosen + 2, 1 / (samples * q[chosen])


def variational_bound(
    denoise: RowDenoiser, x0: Tensor, schedule: Schedule, noise: Noise, *, levels: int, samples: int
) -> Tensor:
    """An unbiased draw of the bound, to be read as log p(x) ≥ it in expectation.

    Args:
        denoise: estimates x_0 from x_t and one time per image.
        x0: float [N, C, H, W], pixels on [-1, 1].
        noise: one row per image; the row of an image decides its value alone.
        samples: how many of the T - 1 terms L_1 … L_{T-1} to evaluate per image; with T - 1 or more, each once.

    Returns:
        nats per image, float64 [N] on the CPU, higher is better.
    """
    total = prior_term(x0, schedule) + decoder_term(denoise, x0, schedule, noise.normal(*x0.shape[1:]), levels)
    if samples >= schedule.T - 1:
        times = torch.arange(2, schedule.T + 1).expand(len(x0), -1)
        weights = torch.ones(times.shape, dtype=torch.float64)
    else:
        times, weights = strata(schedule, samples, noise.uniform(samples))
    for t, weight in zip(times.T, weights.T, strict=True):
        total = total + weight * step_term(denoise, x0, t, schedule, noise.normal(*x0.shape[1:]))
    return -total


def noised_bound(denoise: RowDenoiser, x0: Tensor, schedule: Schedule, noise: Noise, samples: int) -> Tensor:
    """A draw of the bound on E[log p(x_s)], s uniform on 1 … T, less what the model has no part in.

    The chain above s is a model of x_s, whose bound is that of x_0 without the terms below; so their mean has
    (t - 1)/T of the term L_{t-1} (Kingma and Gao 2023, arXiv:2303.00848, section 4). The details of low noise, most of
    the bound on log p(x_0), hardly count. Errors of class-conditional denoisers compared over all times are the
    diffusion classifier (Li et al. 2023, arXiv:2303.16203; Clark and Jaini 2023, arXiv:2303.15233).

    Args:
        denoise, x0, schedule, noise: as in `variational_bound`.
        samples: of the times 2 … T, as many, evenly spaced, are evaluated; the same for every image, so that classes
            differ in nothing else.

    Returns:
        nats per image, float64 [N] on the CPU, higher is better.
    """
    spread = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples * (schedule.T - 1)
    total = torch.zeros(len(x0), dtype=torch.float64)
    for t in (2 + spread.long()).tolist():
        rows = torch.full((len(x0),), t)
        term = step_term(denoise, x0, rows, schedule, noise.normal(*x0.shape[1:]))
        total = total - (t - 1) / schedule.T * term
    return total * (schedule.T - 1) / samples


def bound_terms(
    denoise: RowDenoiser,
    x0: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    levels: int,
    times: Iterable[int] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Every term of the bound, one draw each: ``(0, L_0)``, ``(1, L_1)``, … ``(T, L_T)``, nats, float64 [N].

    ``times`` are those of the terms L_{t-1} between the ends, by default all of 2 … T.
    """
    yield 0, decoder_term(denoise, x0, schedule, noise.normal(*x0.shape[1:]), levels)
    for t in times or range(2, schedule.T + 1):
        rows = torch.full((len(x0),), t)
        yield t - 1, step_term(denoise, x0, rows, schedule, noise.normal(*x0.shape[1:]))
    yield schedule.T, prior_term(x0, schedule)
