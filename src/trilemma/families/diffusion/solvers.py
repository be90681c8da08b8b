"""Samplers that solve the probability-flow equation: the path of x_t on which x_T decides the image.

In the variables x̄ = x/α and σ̄ = σ/α every Gaussian path obeys dx̄/dσ̄ = ε(x̄) (Karras et al. 2022, eq. 1), whose
simplest solver, Euler's, is DDIM at η = 0. Those below take fewer steps to the same place. None of them draws noise,
except heun where it is asked to churn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from trilemma.families.diffusion.estimate import Denoiser
from trilemma.families.diffusion.samplers import Churn, Walk, steps_of
from trilemma.families.diffusion.schedule import Schedule
from trilemma.families.family import Progress
from trilemma.noise import Noise

NOISE = 200.0
"""σ/α above which there is nothing to see; that of the linear schedule ends at 157, Karras et al.'s at 80."""


def euler(
    denoise: Denoiser,
    schedule: Schedule,
    times: Sequence[int],
    x: Tensor,
    noise: Noise,
    walk: Walk,
    progress: Progress | None = None,
) -> Tensor:
    """Euler's method on the straight line between image and noise (Liu et al. 2023, section 2.1).

    On any path z = x/(α + σ) is (1 - τ) x_0 + τ ε with τ = σ/(α + σ), and dz/dτ = ε - x_0. For rectified flow z is x
    itself and τ = t/T. The result is that of DDIM at η = 0, since Euler's method keeps x_0 and ε over a step.
    """
    for t, s in steps_of(times, progress):
        here, there = (float(schedule.signal[i] + schedule.sigma[i]) for i in (t, s))
        tau, next_tau = float(schedule.sigma[t]) / here, float(schedule.sigma[s]) / there
        estimate = denoise(x, t)
        x = there * (x / here + (next_tau - tau) * (estimate.eps - estimate.x0))
    return x


def heun(
    denoise: Denoiser,
    schedule: Schedule,
    times: Sequence[int],
    x: Tensor,
    noise: Noise,
    walk: Walk,
    progress: Progress | None = None,
) -> Tensor:
    """Heun's second-order method in x̄ and σ̄ (Karras et al. 2022, algorithm 1; with churn, algorithm 2).

    Two evaluations a step, one in the last, which ends at σ̄ = 0. A step from σ̄ above `NOISE` is Euler's: the cosine
    schedule ends at σ̄ = 20,000 and rectified flow at infinity, and over so wide a step the mean of two ε is worse than
    the first (with 5 even steps on MNIST it gave a Fréchet distance of 339, and DDIM 6).
    """
    for t, s in steps_of(times, progress):
        second_order = corrected(schedule, t, s)
        t, x = churned(x, t, schedule, walk.churn, len(times), noise)
        alpha_t, alpha_s, sigma_t, sigma_s = _alphas_sigmas(schedule, t, s)
        first = denoise(x, t)
        guess = alpha_s * first.x0 + sigma_s * first.eps  # Euler
        if second_order:
            second = denoise(guess, s)
            width = sigma_s / alpha_s - sigma_t / alpha_t
            guess = alpha_s * (x / alpha_t + width * 0.5 * (first.eps + second.eps))
        x = guess
    return x


def dpm_solver(
    denoise: Denoiser,
    schedule: Schedule,
    times: Sequence[int],
    x: Tensor,
    noise: Noise,
    walk: Walk,
    progress: Progress | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): second order, one evaluation a step.

    With λ = log(α/σ) and h = λ_s - λ_t, x_s = σ_s/σ_t x_t + α_s (1 - e^-h) D, where D extrapolates the estimate of the
    image from the last two. The first step and the last, whose h is infinite, are of first order.
    """
    before, h_before = None, math.inf
    for t, s in steps_of(times, progress):
        alpha_t, alpha_s, sigma_t, sigma_s = _alphas_sigmas(schedule, t, s)
        x0 = denoise(x, t).x0
        decay = alpha_t / sigma_t * sigma_s / alpha_s  # e^-h
        h = -math.log(decay) if decay else math.inf
        image = x0
        if before is not None and math.isfinite(h):
            half = 0.5 * h / h_before  # 1/(2r); 0 after an infinite step
            image = (1 + half) * x0 - half * before
        x = sigma_s / sigma_t * x + alpha_s * (1 - decay) * image
        before, h_before = x0, h
    return x


def churned(x: Tensor, t: int, schedule: Schedule, churn: Churn, steps: int, noise: Noise) -> tuple[int, Tensor]:
    """The time t̂ ≥ t to which noise is added, and x there: lines 4 to 6 of algorithm 2 (Karras et al. 2022).

    σ̄ grows by 1 + γ with γ = min(S_churn/N, √2 - 1), to the nearest time of the chain.
    """
    alpha, sigma = float(schedule.signal[t]), float(schedule.sigma[t])
    if not churn.amount or not churn.low * alpha <= sigma <= min(churn.high, NOISE) * alpha:
        return t, x
    here = sigma / alpha
    wanted = (1 + min(churn.amount / steps, math.sqrt(2) - 1)) * here
    later = schedule.sigma[t:] / schedule.signal[t:]
    to = t + int((later.log() - math.log(wanted)).abs().argmin())
    added = churn.noise * math.sqrt(max(float(later[to - t]) ** 2 - here**2, 0.0))
    eps = noise.normal(*x.shape[1:]).to(x)
    return to, float(schedule.signal[to]) * (x / alpha + added * eps)


def corrected(schedule: Schedule, t: int, s: int) -> bool:
    """Whether Heun's method evaluates the denoiser a second time between these times."""
    return s > 0 and float(schedule.sigma[t]) < NOISE * float(schedule.signal[t])


def _alphas_sigmas(schedule: Schedule, t: int, s: int) -> tuple[float, float, float, float]:
    """α_t, α_s, σ_t and σ_s."""
    alpha, sigma = schedule.signal, schedule.sigma
    return float(alpha[t]), float(alpha[s]), float(sigma[t]), float(sigma[s])
