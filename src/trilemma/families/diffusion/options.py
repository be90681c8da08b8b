"""How to draw from a denoising model: the names of the samplers and what they are told.

Clipping: with ``clip`` (the default) the estimate of the image is clamped to [-1, 1], the range of the pixels, and
the estimate of the noise follows from it, in every sampler. The published DDPM sampler clips, the published DDIM does
not; here all do unless told otherwise, because guidance and the first, noisiest steps overshoot otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor

from trilemma.families.diffusion.samplers import Churn, Sampler, Walk, ddim, ddpm
from trilemma.families.diffusion.schedule import SPACINGS, Schedule, Spacing
from trilemma.families.diffusion.solvers import NOISE, corrected, dpm_solver, euler, heun
from trilemma.images import Spec
from trilemma.validate import Count, Limits, NotNegative, Share, check_limits

SamplerName = Literal["ddim", "ddpm", "heun", "dpm-solver", "euler"]

VarianceName = Literal["auto", "small", "large", "learned"]

SAMPLERS: Mapping[str, Sampler] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "heun": heun,
    "dpm-solver": dpm_solver,
    "euler": euler,
}
STEPS: Mapping[str, int | None] = {"ddim": 50, "ddpm": None, "heun": 18, "dpm-solver": 20, "euler": 50}
"""Steps where none are asked for; None for all T."""


@dataclass(frozen=True)
class DiffusionOptions:
    """How to draw. Raises ``ValueError`` for values out of range."""

    sampler: SamplerName = "ddim"
    """ddim: Song et al. 2021, deterministic at eta 0; ddpm: ancestral sampling, Ho et al. 2020, algorithm 2; heun:
    Karras et al. 2022; dpm-solver: DPM-Solver++(2M), Lu et al. 2022; euler: on the straight line of rectified flow"""
    steps: Count | None = None
    """number of steps: one network evaluation each, but two in heun; by default 50 for ddim and euler, 18 for heun, 20
    for dpm-solver, all T for ddpm"""
    times: Annotated[tuple[int, ...], Limits(count=1)] | None = None
    """the times to visit, in place of a number of steps: any that fall, such as 1000,600,200, from T down to 1; the
    noise is taken for x at the first of them"""
    eta: Share = 0.0
    """ddim only: 0 is deterministic, 1 has the noise of ddpm's small variance"""
    variance: VarianceName = "auto"
    """ddpm only: small is beta-tilde, large is beta, which needs nearly all T steps; auto is the learned variance of a
    model that has one, else small"""
    churn: NotNegative = 0.0
    """heun only: S_churn of Karras et al. 2022, noise added anew over all steps; 0 is deterministic"""
    churn_from: NotNegative = 0.0
    """S_tmin: churn only where sigma_t/alpha_t is at least this"""
    churn_to: float = NOISE
    """S_tmax: churn only where sigma_t/alpha_t is at most this"""
    churn_noise: NotNegative = 1.0
    """S_noise: what churn adds against what it is taken for; a little above 1 makes up for a denoiser that blurs"""
    spacing: Spacing = "trailing"
    """which times the steps visit: trailing, leading, linspace, quadratic or karras"""
    guidance: Annotated[float, Limits()] = 1.0
    """weight w of classifier-free guidance, u + w(c - u): 1 is plainly conditional, 0 unconditional"""
    clip: bool = True
    """clamp every estimate of the image to the range of the pixels"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """arithmetic of the network: bf16 autocast, fp32, or whichever is faster on the device"""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("sampler", self.sampler, tuple(SAMPLERS)),
            ("variance", self.variance, ("auto", "small", "large", "learned")),
            ("spacing", self.spacing, SPACINGS),
            ("precision", self.precision, ("auto", "bf16", "fp32")),
        ):
            if value not in allowed:
                raise ValueError(f"there is no {name} {value!r}: choose {', '.join(allowed)}")
        check_limits(self)
        if self.times is not None:
            if self.times[-1] < 1 or any(s >= t for t, s in itertools.pairwise(self.times)):
                raise ValueError(f"times must fall from T to no less than 1, not {','.join(map(str, self.times))}")
            if self.steps is not None or self.spacing != "trailing":
                raise ValueError("times are the steps themselves: leave out steps and spacing")
        for name, given, owner in (
            ("eta", self.eta != 0, "ddim"),
            ("variance", self.variance != "auto", "ddpm"),
            ("churn", self.churn != 0, "heun"),
        ):
            if given and self.sampler != owner:
                raise ValueError(f"{name} belongs to the sampler {owner}, not to {self.sampler}")
        if not self.churn_from < self.churn_to <= NOISE:
            raise ValueError(f"churn_to must lie between churn_from and {NOISE:g}, not at {self.churn_to}")

    def visits(self, schedule: Schedule) -> list[int]:
        """The times that these options visit, from the noisiest down."""
        if self.times is not None:
            if self.times[0] > schedule.T:
                raise ValueError(f"times must lie within the {schedule.T} timesteps of the model, not {self.times[0]}")
            return list(self.times)
        steps = self.steps or min(STEPS[self.sampler] or schedule.T, schedule.T)
        return schedule.times(steps, self.spacing)

    def by(self, sampler: SamplerName, steps: int) -> Self:
        """The same by another sampler in so many steps, without the eta and the variance that are not its own."""
        eta = self.eta if sampler == "ddim" else 0.0
        variance: VarianceName = self.variance if sampler == "ddpm" else "auto"
        return replace(self, sampler=sampler, steps=steps, eta=eta, variance=variance)

    @property
    def walk(self) -> Walk:
        return Walk(self.eta, self.variance, Churn(self.churn, self.churn_from, self.churn_to, self.churn_noise))

    def evaluations(self, schedule: Schedule) -> int:
        """How often these options evaluate the denoiser for an image."""
        times = self.visits(schedule)
        if self.sampler != "heun":
            return len(times)
        return len(times) + sum(corrected(schedule, t, s) for t, s in itertools.pairwise([*times, 0]))


@dataclass(frozen=True)
class FlowOptions(DiffusionOptions):
    """The same for rectified flow, whose own sampler is Euler's method."""

    sampler: SamplerName = "euler"


def check_guided(options: Any, spec: Spec, conditions: Tensor | None) -> None:
    """Raise ``ValueError``, one line, for a weight of guidance of images of which none has a label or a caption.

    Guidance would then cost a second evaluation each step and change nothing: u + w(u - u).

    Args:
        options: of any family; only those of denoising ones have a weight.
        conditions: labels int64 [N] or captions int64 [N, length] of all images, None for none.
    """
    if not isinstance(options, DiffusionOptions) or options.guidance == 1 or not spec.conditional:
        return
    if conditions is None or torch.equal(conditions.cpu(), spec.unlabelled(len(conditions))):
        raise ValueError(
            f"guidance {options.guidance:g} has nothing to lean to without labels or text: give some, or leave it out"
        )
