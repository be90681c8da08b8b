"""Denoising diffusion (Ho et al. 2020) and flow matching (Liu et al. 2023), in the order of the theory.

schedule (the path to noise) → estimate (what a denoiser makes of it) → samplers, solvers, options → clock, likelihood →
denoising (what both families share) → model (diffusion) and flow.
"""

from trilemma.families.diffusion.denoising import Denoising
from trilemma.families.diffusion.flow import Flow, FlowConfig, FlowOptions
from trilemma.families.diffusion.model import Diffusion, DiffusionConfig, DiffusionOptions

__all__ = [
    "Denoising",
    "Diffusion",
    "DiffusionConfig",
    "DiffusionOptions",
    "Flow",
    "FlowConfig",
    "FlowOptions",
]
