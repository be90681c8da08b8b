"""Denoising diffusion (Ho et al. 2020) and flow matching (Liu et al. 2023), in the order of the theory.

schedule (the path to noise) → denoiser (what is made of x_t) → samplers, options, repaint → bound, calibration,
evidence, flow_density (by ode) → base (what both families share) → model (diffusion, with its clock) and flow →
consistency (a student of either, in few steps).
"""

from trilemma.families.diffusion.base import Denoising
from trilemma.families.diffusion.bound import bound_terms, diffuse, prior_term
from trilemma.families.diffusion.consistency import Consistency, ConsistencyConfig, ConsistencyOptions
from trilemma.families.diffusion.denoiser import Denoiser, Estimate
from trilemma.families.diffusion.flow import Flow, FlowConfig, FlowOptions
from trilemma.families.diffusion.flow_density import EXACT, Dequantize
from trilemma.families.diffusion.model import Diffusion, DiffusionConfig, DiffusionOptions
from trilemma.families.diffusion.samplers import Sampler, Trajectory, register, samplers
from trilemma.families.diffusion.schedule import Schedule

__all__ = [
    "EXACT",
    "Consistency",
    "ConsistencyConfig",
    "ConsistencyOptions",
    "Denoiser",
    "Denoising",
    "Dequantize",
    "Diffusion",
    "DiffusionConfig",
    "DiffusionOptions",
    "Estimate",
    "Flow",
    "FlowConfig",
    "FlowOptions",
    "Sampler",
    "Schedule",
    "Trajectory",
    "bound_terms",
    "diffuse",
    "prior_term",
    "register",
    "samplers",
]
