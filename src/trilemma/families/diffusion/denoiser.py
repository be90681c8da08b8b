"""What a denoiser makes of x_t = α_t x_0 + σ_t ε, whatever its network predicts, and what may be wrapped around one.

A `Denoiser` is a function of (x_t, t). It is all that samplers, the bound, the probability-flow equation and repainting
see of a model: they know neither networks nor labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trilemma.families.diffusion.schedule import Schedule

Prediction = Literal["noise", "x0", "v", "velocity"]


class Estimate(NamedTuple):
    """Two equivalent estimates, ``x_t = α_t·x0 + σ_t·eps``; both [N, C, H, W].

    ``share`` is of log β in the logarithm of the variance of the next step, and log β̃ has the rest: what the network
    says, [N, C, H, W] around 0 … 1 (Nichol & Dhariwal 2021, eq. 15), or a fixed number; None where nobody says.
    """

    x0: Tensor
    eps: Tensor
    share: Tensor | float | None = None


Denoiser = Callable[[Tensor, int | Tensor], Estimate]
"""``denoise(x_t, t)``: ``t`` is one time for all rows, 1 … T, or one for each: int64 [N], or between two of them
float64 [N], on the CPU. Whatever the estimate is conditioned on is inside."""

Network = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""``network(x_t, t, labels)`` → its prediction [N, C, H, W], and the share of log β where it is learned; ``t`` [N]."""

Watch = Callable[[int | Tensor, Tensor, Estimate], None]
"""Told ``(t, x_t, estimate)`` at every evaluation of a denoiser."""


def read(
    output: Tensor, x_t: Tensor, signal: Tensor | float, sigma: Tensor | float, prediction: Prediction
) -> Estimate:
    """Both estimates from what a network gave for x_t at α_t = ``signal`` and σ_t = ``sigma``.

    noise: ε itself (Ho et al. 2020). x0: the image. v: α ε - σ x_0, for α² + σ² = 1 (Salimans & Ho 2022, section 4).
    velocity: ε - x_0, for α + σ = 1 (rectified flow, Liu et al. 2023).
    """
    if prediction == "noise":
        return Estimate((x_t - sigma * output) / signal, output)
    if prediction == "x0":
        return Estimate(output, (x_t - signal * output) / sigma)
    if prediction == "v":
        return Estimate(signal * x_t - sigma * output, sigma * x_t + signal * output)
    return Estimate(x_t - sigma * output, x_t + signal * output)


def guided(network: Network, unlabelled: Tensor, w: float | Tensor) -> Network:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, whose own w is one less): u + w(c - u).

    c and u are the predictions with the labels and with ``unlabelled``, both asked in one batch; the variance is c's.
    """

    def guide(x_t: Tensor, t: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert labels is not None
        both, shares = network(torch.cat([x_t, x_t]), t.repeat(2), torch.cat([labels, unlabelled]))
        c, u = both.chunk(2)
        return u + w * (c - u), None if shares is None else shares.chunk(2)[0]

    return guide


def clipped(denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """The same denoiser with the image of every estimate clamped to [-1, 1] and its noise in agreement with it."""

    def clip(x_t: Tensor, t: int | Tensor) -> Estimate:
        estimate = denoise(x_t, t)
        alpha, sigma = schedule.at(t, x_t)
        x0 = estimate.x0.clamp(-1, 1)
        return Estimate(x0, (x_t - alpha * x0) / sigma, estimate.share)

    return clip


def watched(denoise: Denoiser, watch: Watch) -> Denoiser:
    """The same denoiser, which tells ``watch`` of each of its estimates."""

    def telling(x_t: Tensor, t: int | Tensor) -> Estimate:
        estimate = denoise(x_t, t)
        watch(t, x_t, estimate)
        return estimate

    return telling
