"""Generative adversarial networks (Goodfellow et al. 2014), in the order of the theory.

losses (what the players minimise) → penalties (what keeps the discriminator smooth) → packing (several images judged at
once) → options → model.
"""

from trilemma.families.gan.losses import discriminator_loss, generator_loss
from trilemma.families.gan.model import GAN, GANOptions
from trilemma.families.gan.options import GANConfig

__all__ = ["GAN", "GANConfig", "GANOptions", "discriminator_loss", "generator_loss"]
