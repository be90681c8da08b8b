"""Keeping a part of an image: RePaint (Lugmayr et al. 2022), and starting from an image instead of from noise.

At every step of the chain the known part is replaced by q(x_s | x_0), which is exact, and the unknown part is drawn
from p(x_s | x_t). So the two halves of x_s come from different images, and the unknown one has looked at a known one
only through x_t. RePaint's remedy is to go back: x_t is drawn anew from q(x_t | x_s) and the step repeated, so that the
halves come to agree at each level of noise. Without repeats completions do not fit; with many they tend to
p(unknown | known), as far as a step of the chain is a step of the model.

With ``level`` below 1 the chain starts from the image itself with so much of the noise (SDEdit, Meng et al. 2022): what
is coarser than the noise survives, what is finer is drawn anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trilemma.families.diffusion.denoiser import Denoiser
from trilemma.families.diffusion.options import DiffusionOptions
from trilemma.families.diffusion.samplers import DDPM, Trajectory, steps_of
from trilemma.families.diffusion.schedule import Schedule
from trilemma.families.family import Progress
from trilemma.noise import Noise
from trilemma.validate import Count


@dataclass(frozen=True)
class RePaintOptions(DiffusionOptions):
    """How to draw the rest of an image. Only ddpm's steps, which add noise, can agree with a known part."""

    sampler: str = "ddpm"
    steps: Count | None = None
    """number of steps, each done ``repeats`` times but the last; 50 by default"""
    variance: Literal["auto", "small", "large", "learned"] = "auto"
    """of a step: small is beta-tilde, large is beta; auto is the learned variance of a model that has one, else large:
    with the small one completions vary too little"""
    repeats: int = 10
    """how often each step is done (RePaint): 1 is plain replacement, which does not fit"""
    level: float = 1.0
    """the noise to start from, as a share of the chain: 1 is pure noise, less starts from the image itself"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler != "ddpm":
            raise ValueError(f"completion steps by ddpm, which adds noise, not by {self.sampler}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, not {self.repeats}")
        if not 0 < self.level <= 1:
            raise ValueError(f"level must be above 0 and at most 1, not {self.level}")

    def times_below(self, schedule: Schedule) -> list[int]:
        """The times of the options, from ``level``·T down."""
        start = max(1, round(self.level * schedule.T))
        steps = self.steps or min(50, schedule.T)
        times = self.visits(schedule) if self.times else schedule.times(steps, self.spacing)
        return [start, *(t for t in times if t < start)]


def repaint(
    denoise: Denoiser,
    schedule: Schedule,
    times: Sequence[int],
    x0: Tensor,
    known: Tensor,
    noise: Noise,
    repeats: int,
    ancestral: DDPM = DDPM("large"),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> Tensor:
    """Algorithm 1 of RePaint, over any list of times; float [N, C, H, W] with the known part of ``x0`` as it was.

    Args:
        times: from the noisiest down; the chain starts at q(x | x0) of the first, which is N(0, I) at T.
        x0: float [N, C, H, W]; its unknown part matters only if the first time leaves some of it.
        known: bool [C, H, W].
        ancestral: with its reverse variance. With the small one, of pixels that are spread as Gaussians, completions in
            30 steps have 0.7 times the variance they should have; with the large one 1.1 to 1.2 times.

    Raises:
        ValueError: the ``learned`` variance of a model that has learned none.
    """

    def drawn() -> Tensor:
        return noise.normal(*x0.shape[1:]).to(x0)

    def noised(t: int) -> Tensor:
        alpha_t, sigma_t = schedule(t)
        return alpha_t * x0 + sigma_t * drawn()

    on, x = Trajectory(denoise, schedule, noise, len(times)), noised(times[0])
    again = repeats if bool(known.any()) else 1  # nothing to agree with
    for t, s in steps_of(times, progress):
        back = math.sqrt(float(schedule.alpha_bar[t] / schedule.alpha_bar[s]))
        added = math.sqrt(float(schedule.added(t, s)))
        for repeat in range(again if s else 1):
            unknown = ancestral.step(x, t, s, on)
            x_s = torch.where(known, noised(s) if s else x0, unknown)
            if repeat + 1 < again and s:
                x = back * x_s + added * drawn()
        x = x_s
    return x
