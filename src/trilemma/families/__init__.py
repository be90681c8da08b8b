"""The registry: the CLI, the report and the tests iterate it. A new family is one file, one line here, one preset."""

from trilemma.families.autoencoder import Autoencoder
from trilemma.families.diffusion import Diffusion, Flow
from trilemma.families.family import Family
from trilemma.families.gan import GAN
from trilemma.families.pixelcnn import PixelCNN
from trilemma.families.pixelrnn import PixelRNN
from trilemma.families.vae import VAE

FAMILIES: dict[str, type[Family]] = {
    cls.name: cls for cls in (Autoencoder, VAE, PixelCNN, PixelRNN, GAN, Diffusion, Flow)
}
