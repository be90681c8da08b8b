"""The variational bound on log p(x) of the *discrete* image, in nats (Ho et al. 2020, eq. 5, 8 and 13).

    -log p(x) ≤ L_T + Σ_{t=s+1…T} L_{t-1} + L_0

L_T says how much of the image is left in x_T, L_{t-1} how badly the model guesses one step of the chain, and L_0 is
the discrete decoder: the probability that the last Gaussian, of x_0 given x_s, gives to the bin of each pixel; or, of
vectors, which have no bins (0 levels), its density. In Ho et al. 2020 the decoder stands at s = 1. That is too low
where a path has hardly any noise there (on the line of rectified flow, a quarter of half a level), for each step below
the width of a level costs nats and says nothing; so s is a part of the `Chain` that the bound is taken of.

The reverse variance is β^share · β̃^(1 - share): share 0 is the small one of Ho et al. 2020, 1 the large one; a
network may say the share of every pixel (Nichol & Dhariwal 2021, eq. 15), and else `fit_chain` finds that of each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
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


HALF_A_LEVEL = 1 / 255
"""Half the width of a level of 256, on [-1, 1]: below it there is nothing to learn."""


@dataclass(frozen=True)
class Chain:
    """The reverse chain that the bound is taken of: from x_T down to x_first, and from there to the image at once.

    Attributes:
        first: s, the time at which the decoder takes over, 1 … T - 1.
        factor: of the decoder's standard deviation, against the one that the share of its variance gives.
        share: float64 [T+1], the share of each step; None for that of the guess.
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

    def of_step(self, guess: Guess, t: Tensor) -> Guess:
        """The guess at the times t, int64 [N], with the share of this chain where it has one."""
        return guess if self.share is None else Guess(guess.x0, rowwise(self.share[t], guess.x0))

    def spread(self, guess: Guess, schedule: Schedule) -> Tensor | float:
        """Standard deviation of the decoder; a share that is fitted or a plain number counts as 0.

        q's own variance is 0 there, so the small one is that of the step above, as in the published code.
        """
        small, large = schedule.posterior(self.first + 1, self.first)[2], schedule.added(self.first, 0)
        std = self.factor * math.sqrt(float(small))
        if self.share is not None or not isinstance(guess.share, Tensor):
            return std
        return std * (0.5 * float((large / small).log()) * guess.share.cpu().double()).exp()

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


PUBLISHED = Chain(1)
"""The chain of Ho et al. 2020, as it is trained."""


def step_term(
    denoise: RowDenoiser, x0: Tensor, t: Tensor, schedule: Schedule, eps: Tensor, chain: Chain = PUBLISHED
) -> Tensor:
    """One draw of L_{t-1} = KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t)), its expectation being over ``eps``.

    Args:
        x0: [N, C, H, W]; eps: standard normal of the same shape; t: int64 [N] on the CPU, each in 2 … T.
        chain: whose shares count.

    Returns:
        float64 [N].
    """
    tables = StepTables.of(schedule)
    guess = chain.of_step(denoise(diffuse(x0, t, schedule, eps), t), t)
    share = guess.share.cpu().double() if isinstance(guess.share, Tensor) else guess.share
    gap, weight = rowwise(tables.gap[t], x0), rowwise(tables.weight[t], x0)
    error = (x0 - guess.x0).cpu().double()  # subtracted before it is rounded to less
    return divergence(error, Guess(torch.zeros_like(error), share), gap, weight).flatten(1).sum(1)


def decoder_term(
    denoise: RowDenoiser, x0: Tensor, schedule: Schedule, eps: Tensor, levels: int, chain: Chain = PUBLISHED
) -> Tensor:
    """One draw of L_0 = -log p(x_0 | x_s), float64 [N]."""
    t = torch.full((len(x0),), chain.first)
    guess = denoise(diffuse(x0, t, schedule, eps), t)
    return -log_bin(x0, guess.x0, chain.spread(guess, schedule), levels).flatten(1).sum(1)


def diffuse(x0: Tensor, t: Tensor, schedule: Schedule, eps: Tensor) -> Tensor:
    """x_t = α_t x_0 + σ_t ε (eq. 4), for t int64 [N] on the CPU."""
    signal, sigma = rowwise(schedule.signal[t], x0), rowwise(schedule.sigma[t], x0)
    return signal.to(x0) * x0 + sigma.to(x0) * eps.to(x0)


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
    denoise: RowDenoiser,
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


# The chain that makes the bound tight

KNOTS = 20
"""Times at which the denoiser is asked when a chain is fitted, spaced evenly in log t."""
VALUES = 20_000
"""Pixels, at most, by which the decoder's standard deviation is judged."""


def fit_chain(
    denoise: RowDenoiser, x0: Tensor, schedule: Schedule, noise: Noise, *, levels: int, learned: bool = False
) -> Chain:
    """The chain with the tightest bound on these (training) images, of a denoiser as it is.

    Three things are free. The variance of each step: the best single number is β̃_t + a_t² E(x_0 - x̂_0)², from which
    its share follows (Bao et al. 2022, arXiv:2201.06503, where the same is said of the score); a learned one stays as
    it is. The decoder's standard deviation, for each time. And the time where it takes over: a sum over the steps is
    traded for it.

    Args:
        denoise, x0, schedule, levels: as in `variational_bound`.
        noise: one row per image.
        learned: whether the guess tells the variance of the steps.
    """
    T = schedule.T
    knots = sorted({round(float(t)) for t in np.geomspace(1, T, KNOTS)})
    tables, chosen = StepTables.of(schedule), _some(x0[0].numel() * len(x0))
    errors, steps, decoders = [], [], {}
    for t in knots:
        rows = torch.full((len(x0),), t)
        guess = denoise(diffuse(x0, rows, schedule, noise.normal(*x0.shape[1:])), rows)
        error = (x0 - guess.x0).cpu().double()
        errors.append(max(float(error.square().mean()), 1e-12))
        if learned and t > 1 and isinstance(guess.share, Tensor):
            off = Guess(torch.zeros_like(error), guess.share.cpu().double())
            steps.append(float(divergence(error, off, tables.gap[t], tables.weight[t]).mean()))
        if t < T:
            plain = Chain(t).spread(guess if learned else Guess(guess.x0), schedule)
            wide = plain.flatten()[chosen] if isinstance(plain, Tensor) else plain
            near = x0.cpu().double().flatten()[chosen], guess.x0.cpu().double().flatten()[chosen]
            decoders[t] = _fit_spread(*near, wide, levels)
    everywhere = np.arange(1, T + 1)
    error = torch.from_numpy(np.exp(np.interp(np.log(everywhere), np.log(knots), np.log(errors))))
    growth = torch.cat([error.new_zeros(1), error]) * tables.weight  # a² E(x_0 - x̂_0)² / β̃, by t = 0 … T
    share = torch.where(tables.gap > 1e-9, growth.log1p() / tables.gap.clamp(min=1e-9), 0)
    if learned:
        told = np.log(np.maximum(steps, 1e-300))
        cost = torch.from_numpy(np.exp(np.interp(np.log(everywhere), np.log([t for t in knots if t > 1]), told)))
    else:
        cost = 0.5 * growth[1:].log1p()
    above = cost.flip(0).cumsum(0).flip(0)  # at index s: the terms of the times s + 1 … T
    first = min(decoders, key=lambda t: decoders[t][0] + float(above[t]))
    return Chain(first, decoders[first][1], None if learned else share, len(x0))


def _some(count: int) -> Tensor:
    """`VALUES` of so many indices, or all."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:VALUES]


def _fit_spread(x0: Tensor, mean: Tensor, std: Tensor | float, levels: int) -> tuple[float, float]:
    """The factor of ``std`` under which the values are likeliest, by golden sections: nats a value, and the factor."""

    def nats(log_factor: float) -> float:
        return -float(log_bin(x0, mean, std * math.exp(log_factor), levels).mean())

    rough = 0.5 * math.log(max(float(((x0 - mean) / std).square().mean()), 1e-12))
    low, high, golden = rough - 4.0, rough + 1.0, (math.sqrt(5) - 1) / 2
    inner, outer = high - golden * (high - low), low + golden * (high - low)
    at_inner, at_outer = nats(inner), nats(outer)
    for _ in range(14):
        if at_inner < at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - golden * (high - low)
            at_inner = nats(inner)
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + golden * (high - low)
            at_outer = nats(outer)
    best = min((at_inner, inner), (at_outer, outer))
    return best[0], math.exp(best[1])
