"""The chain whose variational bound is tightest, found on training images: no weight is changed."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from trilemma.families.diffusion.bound import Chain, StepTables, diffuse, divergence, log_bin
from trilemma.families.diffusion.denoiser import Denoiser
from trilemma.families.diffusion.schedule import Schedule
from trilemma.noise import Noise

KNOTS = 20
"""Times at which the denoiser is asked when a chain is fitted, spaced evenly in log t."""
VALUES = 20_000
"""Pixels, at most, by which the decoder's standard deviation is judged."""


def fit_chain(
    denoise: Denoiser, x0: Tensor, schedule: Schedule, noise: Noise, *, levels: int, learned: bool = False
) -> Chain:
    """The chain with the tightest bound on these (training) images, of a denoiser as it is.

    Three things are free. The variance of each step: the best single number is β̃_t + a_t² E(x_0 - x̂_0)², from which
    its share follows (Bao et al. 2022, arXiv:2201.06503, where the same is said of the score); a learned one stays as
    it is. The decoder's standard deviation, for each time. And the time where it takes over: a sum over the steps is
    traded for it.

    Args:
        denoise, x0, schedule, levels: as in `variational_bound`.
        noise: one row per image.
        learned: whether the estimate tells the variance of the steps.
    """
    T = schedule.T
    knots = sorted({round(float(t)) for t in np.geomspace(1, T, KNOTS)})
    tables, chosen = StepTables.of(schedule), _some(x0[0].numel() * len(x0))
    errors, steps, decoders = [], [], {}
    for t in knots:
        rows = torch.full((len(x0),), t)
        estimate = denoise(diffuse(x0, rows, schedule, noise.normal(*x0.shape[1:])), rows)
        error = (x0 - estimate.x0).cpu().double()
        errors.append(max(float(error.square().mean()), 1e-12))
        if learned and t > 1 and isinstance(estimate.share, Tensor):
            share = estimate.share.cpu().double()
            steps.append(float(divergence(error, share, tables.gap[t], tables.weight[t]).mean()))
        if t < T:
            plain = Chain(t).spread(estimate if learned else estimate._replace(share=None), schedule)
            wide = plain.flatten()[chosen] if isinstance(plain, Tensor) else plain
            near = x0.cpu().double().flatten()[chosen], estimate.x0.cpu().double().flatten()[chosen]
            decoders[t] = _fit_spread(*near, wide, levels)
    everywhere = np.arange(1, T + 1)
    error = torch.from_numpy(np.exp(np.interp(np.log(everywhere), np.log(knots), np.log(errors))))
    growth = torch.cat([error.new_zeros(1), error]) * tables.weight  # a² E(x_0 - x̂_0)² / β̃, by t = 0 … T
    best = torch.where(tables.gap > 1e-9, growth.log1p() / tables.gap.clamp(min=1e-9), 0)
    if learned:
        told = np.log(np.maximum(steps, 1e-300))
        cost = torch.from_numpy(np.exp(np.interp(np.log(everywhere), np.log([t for t in knots if t > 1]), told)))
    else:
        cost = 0.5 * growth[1:].log1p()
    above = cost.flip(0).cumsum(0).flip(0)  # at index s: the terms of the times s + 1 … T
    first = min(decoders, key=lambda t: decoders[t][0] + float(above[t]))
    return Chain(first, decoders[first][1], None if learned else best, len(x0))


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
