"""The registry: the CLI, the report and the tests iterate it. A family of a plugin is found by itself."""

from trilemma.families.autoencoder import Autoencoder
from trilemma.families.diffusion import Consistency, Diffusion, Flow
from trilemma.families.family import Family
from trilemma.families.gan import GAN
from trilemma.families.pixelcnn import PixelCNN
from trilemma.families.pixelrnn import PixelRNN
from trilemma.families.vae import VAE
from trilemma.plugins import Registry

FAMILIES = Registry(Family, (Autoencoder, VAE, PixelCNN, PixelRNN, GAN, Diffusion, Flow, Consistency))
