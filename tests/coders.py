"""Small autoencoders and VAEs, and images that they learn in seconds, for the tests."""

from __future__ import annotations

import torch
from tiny import Linear
from torch import Tensor

from trilemma.families.autoencoder import Autoencoder, AutoencoderConfig
from trilemma.families.family import Family
from trilemma.families.vae import VAE, VAEConfig
from trilemma.images import Spec
from trilemma.noise import BatchNoise

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 17, 23), (3, 8, 8)]
LOG_SCALES = [-7.0, -5.0, -1.0, 0.0, 4.0, 12.0]


def vae(spec: Spec, **config: object) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(**{"width": 8, "latent": 3, **config}), spec)  # type: ignore[arg-type]


def autoencoder(spec: Spec) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(width=8, latent=3), spec)


def random_images(spec: Spec, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, spec.levels, (count, *spec.shape), generator=generator, dtype=torch.uint8)


def blobs(spec: Spec, count: int) -> Tensor:
    """Bright discs at random places: something that can be learnt in seconds."""
    generator = torch.Generator().manual_seed(1)
    rows, columns = torch.arange(spec.height)[:, None], torch.arange(spec.width)[None]
    centres = torch.rand(count, 2, 1, 1, generator=generator) * torch.tensor([spec.height, spec.width])[:, None, None]
    near = (rows - centres[:, 0]).square() + (columns - centres[:, 1]).square() < (spec.height / 4) ** 2
    return (near[:, None].expand(-1, spec.channels, -1, -1) * (spec.levels - 1)).to(torch.uint8)


def batch_noise(step: int, count: int) -> BatchNoise:
    return BatchNoise(("test", step), count, 0, count, torch.device("cpu"))


def train(model: Family, images: Tensor, steps: int, lr: float = 2e-3) -> list[float]:
    """The bare loop: the losses of each step."""
    (objective,) = model.objectives()
    optimiser = torch.optim.Adam(objective.parameters, lr)
    losses = []
    for step in range(steps):
        loss = objective.loss(images, None, batch_noise(step, len(images))).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


SPEC = Spec((1, 4, 4))


class Turn(torch.nn.Module):
    """Moments of q: the first values of an image as means, and a constant log-variance for each latent."""

    def __init__(self, gains: list[float], logvars: list[float]) -> None:
        super().__init__()
        self.gains, self.logvars = torch.nn.Parameter(torch.tensor(gains)), torch.tensor(logvars)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        mu = x.flatten(1)[:, : len(self.gains)] * self.gains
        return torch.cat([mu, self.logvars.expand_as(mu)], 1)


def linear_vae(gains: list[float], logvars: list[float]) -> VAE:
    """Latent j is read off pixel j and written to pixel j."""
    latent = len(gains)
    model = VAE(VAEConfig(network="dense", width=4, latent=latent, scale="channel"), SPEC)
    model.encoder = Turn(gains, logvars)  # type: ignore[assignment]
    model.decoder = Linear(torch.eye(16)[:, :latent], torch.zeros(16), SPEC.shape)  # type: ignore[assignment]
    return model.eval()


def noise_images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *SPEC.shape), generator=generator, dtype=torch.uint8)
