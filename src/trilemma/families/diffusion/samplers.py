"""Samplers: functions of a denoiser.

A sampler walks from noise to an image along a list of times. It knows nothing of the network: it asks a `Denoiser`
for its two equivalent estimates, of the image and of the noise, and moves. To add one (Heun, DPM-Solver++, a few-step
student), write a function with the signature of `Sampler` and add its line to `SAMPLERS`.

Clipping: with ``clip`` (the default) the estimate of the image is clamped to [-1, 1], the range of the pixels, and
the estimate of the noise follows from it, in every sampler. The published DDPM sampler clips, the published DDIM does
not; here both do unless told otherwise, because guidance and the first, noisiest steps overshoot otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from trilemma.families.diffusion.schedule import Schedule, Spacing, Variance
from trilemma.families.family import Progress
from trilemma.noise import Noise


class Estimate(NamedTuple):
    """What a denoiser makes of x_t: ``x_t = √ᾱ_t·x0 + √(1 - ᾱ_t)·eps``; both [N, C, H, W]."""

    x0: Tensor
    eps: Tensor


Denoiser = Callable[[Tensor, int], Estimate]
"""``denoise(x_t, t)`` for one time t in 1 … T; whatever the estimate is conditioned on is inside."""


@dataclass(frozen=True)
class DiffusionOptions:
    """How to draw. Raises ``ValueError`` for values out of range."""

    sampler: Literal["ddim", "ddpm"] = "ddim"
    """ddim: Song et al. 2021, deterministic at eta 0; ddpm: ancestral sampling, Ho et al. 2020, algorithm 2"""
    steps: int | None = None
    """number of network evaluations; by default 50 for ddim, all T for ddpm"""
    eta: float = 0.0
    """ddim only: 0 is deterministic, 1 has the noise of ddpm's small variance"""
    variance: Variance = "small"
    """ddpm only: small is beta-tilde, large is beta, which needs nearly all T steps"""
    spacing: Spacing = "trailing"
    """which times the steps visit"""
    guidance: float = 1.0
    """weight w of classifier-free guidance, u + w(c - u): 1 is plainly conditional, 0 unconditional"""
    clip: bool = True
    """clamp every estimate of the image to the range of the pixels"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """arithmetic of the network: bf16 autocast, fp32, or whichever is faster on the device"""

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"there is no sampler {self.sampler!r}: choose {' or '.join(SAMPLERS)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie between 0 and 1, not {self.eta}")
        if self.variance not in ("small", "large"):
            raise ValueError(f"there is no variance {self.variance!r}: choose small or large")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"there is no precision {self.precision!r}: choose auto, bf16 or fp32")

    def times(self, schedule: Schedule) -> list[int]:
        """The times that these options visit, from the noisiest down."""
        steps = self.steps or (min(50, schedule.T) if self.sampler == "ddim" else schedule.T)
        return schedule.times(steps, self.spacing)


def clipped(estimate: Estimate, x_t: Tensor, t: int, schedule: Schedule) -> Estimate:
    """Clamp the image of an estimate to [-1, 1] and make its noise agree with it again."""
    x0 = estimate.x0.clamp(-1, 1)
    a_t = float(schedule.alpha_bar[t])
    return Estimate(x0, (x_t - math.sqrt(a_t) * x0) / math.sqrt(1 - a_t))


def ddim_step(estimate: Estimate, t: int, s: int, schedule: Schedule, eta: float, noise: Noise) -> Tensor:
    """From x_t to x_s, s < t (Song et al. 2021, eq. 12 and 16). No noise is drawn for s = 0."""
    a_s = float(schedule.alpha_bar[s])
    variance = eta**2 * float(schedule.posterior(t, s)[2])
    x_s = math.sqrt(a_s) * estimate.x0 + math.sqrt(max(1 - a_s - variance, 0.0)) * estimate.eps
    return add_noise(x_s, variance, noise)


def ddpm_step(
    x_t: Tensor, estimate: Estimate, t: int, s: int, schedule: Schedule, kind: Variance, noise: Noise
) -> Tensor:
    """From x_t to x_s, s < t, through q(x_s | x_t, x_0) (Ho et al. 2020, eq. 7). No noise at the last step."""
    a, b, _ = map(float, schedule.posterior(t, s))
    variance = float(schedule.reverse_variance(t, s, kind)) if s else 0.0
    return add_noise(a * estimate.x0 + b * x_t, variance, noise)


def add_noise(mean: Tensor, variance: float, noise: Noise) -> Tensor:
    """N(mean, variance·I); where the variance is 0 nothing is drawn."""
    if variance <= 0:
        return mean
    return mean + math.sqrt(variance) * noise.normal(*mean.shape[1:]).to(mean.dtype)


Sampler = Callable[[Denoiser, Schedule, Sequence[int], Tensor, Noise, DiffusionOptions, Progress | None], Tensor]
"""``sampler(denoise, schedule, times, x_T, noise, options, progress)`` → x_0, float [N, C, H, W] on [-1, 1].

``times`` run down from the time of the given x; each step ends at the next of the *list*, the last at 0.
"""


def walk(
    step: Callable[[Tensor, Estimate, int, int], Tensor],
    denoise: Denoiser,
    schedule: Schedule,
    times: Sequence[int],
    x: Tensor,
    clip: bool,
    progress: Progress | None,
) -> Tensor:
    """The loop of the samplers that evaluate the network once a step."""
    for done, (t, s) in enumerate(itertools.pairwise([*times, 0]), 1):
        estimate = denoise(x, t)
        x = step(x, clipped(estimate, x, t, schedule) if clip else estimate, t, s)
        if progress:
            progress(done, len(times))
    return x


def ddim(
    denoise: Denoiser,
    schedule: Schedule,
    times: Sequence[int],
    x: Tensor,
    noise: Noise,
    options: DiffusionOptions,
    progress: Progress | None = None,
) -> Tensor:
    """Denoising diffusion implicit model (Song et al. 2021): any subset of the times, any η."""

    def step(x: Tensor, estimate: Estimate, t: int, s: int) -> Tensor:
        return ddim_step(estimate, t, s, schedule, options.eta, noise)

    return walk(step, denoise, schedule, times, x, options.clip, progress)


def ddpm(
    denoise: Denoiser,
    schedule: Schedule,
    times: Sequence[int],
    x: Tensor,
    noise: Noise,
    options: DiffusionOptions,
    progress: Progress | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), also over a subset of the times."""

    def step(x: Tensor, estimate: Estimate, t: int, s: int) -> Tensor:
        return ddpm_step(x, estimate, t, s, schedule, options.variance, noise)

    return walk(step, denoise, schedule, times, x, options.clip, progress)


SAMPLERS: Mapping[str, Sampler] = {"ddim": ddim, "ddpm": ddpm}


def ddim_encode(denoise: Denoiser, schedule: Schedule, times: Sequence[int], x: Tensor) -> Tensor:
    """Deterministic DDIM run backwards, from images to their noise (Song et al. 2021, section 4.3).

    ``times`` run down, as for sampling, and the walk ends at the first of them. Each step uses the estimate at its
    less noisy end (an image counts as x_1), so it inverts sampling only as well as the steps are small. No clipping.
    """
    for s, t in itertools.pairwise([0, *reversed(times)]):
        estimate = denoise(x, max(s, 1))
        a_t = float(schedule.alpha_bar[t])
        x = math.sqrt(a_t) * estimate.x0 + math.sqrt(1 - a_t) * estimate.eps
    return x
