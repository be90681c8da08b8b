"""Denoising diffusion (Ho et al. 2020), in the order of the theory: schedule, samplers, likelihood, model."""

from trilemma.families.diffusion.model import Diffusion, DiffusionConfig, DiffusionOptions

__all__ = ["Diffusion", "DiffusionConfig", "DiffusionOptions"]
