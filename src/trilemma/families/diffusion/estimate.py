"""What a denoiser makes of x_t = α_t x_0 + σ_t ε, whatever its network predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from trilemma.families.diffusion.schedule import Schedule

Prediction = Literal["noise", "x0", "v", "velocity"]


class Estimate(NamedTuple):
    """Two equivalent estimates, ``x_t = α_t·x0 + σ_t·eps``; both [N, C, H, W].

    ``share`` is the network's word on the variance of the next step, where it has learned one: the share of log β
    against log β̃ in its logarithm (Nichol & Dhariwal 2021, eq. 15), [N, C, H, W] around 0 … 1.
    """

    x0: Tensor
    eps: Tensor
    share: Tensor | None = None


Denoiser = Callable[[Tensor, int], Estimate]
"""``denoise(x_t, t)`` for one time t in 1 … T; whatever the estimate is conditioned on is inside."""

Watch = Callable[[int, Tensor, Estimate], None]
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


def clipped(estimate: Estimate, x_t: Tensor, t: int, schedule: Schedule) -> Estimate:
    """Clamp the image of an estimate to [-1, 1] and make its noise agree with it again."""
    x0 = estimate.x0.clamp(-1, 1)
    eps = (x_t - float(schedule.signal[t]) * x0) / float(schedule.sigma[t])
    return Estimate(x0, eps, estimate.share)


def clipping(denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """The same denoiser with every estimate `clipped`."""
    return lambda x_t, t: clipped(denoise(x_t, t), x_t, t, schedule)


def watched(denoise: Denoiser, watch: Watch) -> Denoiser:
    """The same denoiser, which tells ``watch`` of each of its estimates."""

    def telling(x_t: Tensor, t: int) -> Estimate:
        estimate = denoise(x_t, t)
        watch(t, x_t, estimate)
        return estimate

    return telling
