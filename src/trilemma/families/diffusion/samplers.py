"""Samplers: functions of a denoiser.

A sampler walks from noise to an image along a list of times. It knows nothing of the network: it asks a `Denoiser`
for its two equivalent estimates, of the image and of the noise, and moves. Here are the two of the first papers; those
that solve the probability-flow equation to higher order are in ``solvers.py``. To add one (a few-step student), write
a function with the signature of `Sampler` and add its line to `SAMPLERS` in ``options.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trilemma.families.diffusion.estimate import Denoiser, Estimate
from trilemma.families.diffusion.schedule import Schedule, Variance
from trilemma.families.family import Progress
from trilemma.noise import Noise


@dataclass(frozen=True)
class Churn:
    """Noise that heun adds before a step, as much as the step then removes more (Karras et al. 2022, algorithm 2).

    Attributes:
        amount: S_churn, over all steps; 0 for none.
        low, high: S_tmin and S_tmax, the σ_t/α_t between which it is added.
        noise: S_noise, the standard deviation of what is added against what the step removes.
    """

    amount: float = 0.0
    low: float = 0.0
    high: float = 200.0
    noise: float = 1.0


@dataclass(frozen=True)
class Walk:
    """What a sampler is told beside the denoiser.

    Attributes:
        eta: ddim's share of ddpm's noise, 0 … 1.
        variance: ddpm's reverse variance; ``auto`` is the learned one where there is one, else the small one.
        churn: heun's.
    """

    eta: float = 0.0
    variance: Literal["auto", "small", "large", "learned"] = "auto"
    churn: Churn = Churn()


Sampler = Callable[[Denoiser, Schedule, Sequence[int], Tensor, Noise, Walk, Progress | None], Tensor]
"""``sampler(denoise, schedule, times, x_T, noise, walk, progress)`` → x_0, float [N, C, H, W] on [-1, 1].

``times`` run down from the time of the given x; each step ends at the next of the *list*, the last at 0.
"""


def ddim_step(estimate: Estimate, t: int, s: int, schedule: Schedule, eta: float, noise: Noise) -> Tensor:
    """From x_t to x_s, s < t (Song et al. 2021, eq. 12 and 16). No noise is drawn for s = 0."""
    variance = eta**2 * float(schedule.posterior(t, s)[2])
    kept = math.sqrt(max(float(schedule.variance[s]) - variance, 0.0))
    return add_noise(float(schedule.signal[s]) * estimate.x0 + kept * estimate.eps, variance, noise)


def ddpm_step(
    x_t: Tensor,
    estimate: Estimate,
    t: int,
    s: int,
    schedule: Schedule,
    kind: Variance | Literal["learned"],
    noise: Noise,
) -> Tensor:
    """From x_t to x_s, s < t, through q(x_s | x_t, x_0) (Ho et al. 2020, eq. 7). No noise at the last step.

    Raises:
        ValueError: the ``learned`` variance of a model that has learned none.
    """
    a, b, _ = map(float, schedule.posterior(t, s))
    mean = a * estimate.x0 + b * x_t
    if not s:
        return mean
    if kind != "learned":
        return add_noise(mean, float(schedule.reverse_variance(t, s, kind)), noise)
    if estimate.share is None:
        raise ValueError("this model has learned no variance: choose --variance small or large")
    small, large = (math.log(schedule.reverse_variance(t, s, kind)) for kind in ("small", "large"))
    std = (0.5 * (small + estimate.share * (large - small))).exp()  # eq. 15 of Nichol & Dhariwal 2021
    return mean + std * noise.normal(*mean.shape[1:]).to(mean.dtype)


def add_noise(mean: Tensor, variance: float, noise: Noise) -> Tensor:
    """N(mean, variance·I); where the variance is 0 nothing is drawn."""
    if variance <= 0:
        return mean
    return mean + math.sqrt(variance) * noise.normal(*mean.shape[1:]).to(mean.dtype)


def steps_of(times: Sequence[int], progress: Progress | None) -> Iterator[tuple[int, int]]:
    """The pairs (t, s) of the steps down to 0, telling ``progress`` after each."""
    for done, (t, s) in enumerate(itertools.pairwise([*times, 0]), 1):
        yield t, s
        if progress:
            progress(done, len(times))


def ddim(
    denoise: Denoiser,
    schedule: Schedule,
    times: Sequence[int],
    x: Tensor,
    noise: Noise,
    walk: Walk,
    progress: Progress | None = None,
) -> Tensor:
    """Denoising diffusion implicit model (Song et al. 2021): any subset of the times, any η."""
    for t, s in steps_of(times, progress):
        x = ddim_step(denoise(x, t), t, s, schedule, walk.eta, noise)
    return x


def ddpm(
    denoise: Denoiser,
    schedule: Schedule,
    times: Sequence[int],
    x: Tensor,
    noise: Noise,
    walk: Walk,
    progress: Progress | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), also over a subset of the times."""
    for t, s in steps_of(times, progress):
        estimate = denoise(x, t)
        kind = walk.variance
        if kind == "auto":
            kind = "small" if estimate.share is None else "learned"
        x = ddpm_step(x, estimate, t, s, schedule, kind, noise)
    return x


def ddim_encode(
    denoise: Denoiser, schedule: Schedule, times: Sequence[int], x: Tensor, progress: Progress | None = None
) -> Tensor:
    """Deterministic DDIM run backwards, from images to their noise (Song et al. 2021, section 4.3).

    ``times`` run down, as for sampling, and the walk ends at the first of them. Each step uses the estimate at its
    less noisy end (an image counts as x_1), so it inverts sampling only as well as the steps are small. No clipping.
    """
    for done, (s, t) in enumerate(itertools.pairwise([0, *reversed(times)]), 1):
        estimate = denoise(x, max(s, 1))
        x = float(schedule.signal[t]) * estimate.x0 + float(schedule.sigma[t]) * estimate.eps
        if progress:
            progress(done, len(times))
    return x
