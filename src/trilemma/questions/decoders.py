"""What the queries of latent spaces share: which models have one, and how each goes from codes to images."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.families.autoencoder import Autoencoder
from trilemma.families.family import Family
from trilemma.families.gan import GAN
from trilemma.families.observation import L2
from trilemma.families.vae import VAE
from trilemma.images import Spec, check_images
from trilemma.noise import ImageNoise, derive_seed
from trilemma.parallel import Ranks
from trilemma.run import Run

Decoding = Autoencoder | VAE | GAN
"""Models with a latent space: codes ``[B, latent]`` are decoded to images."""

Encoding = Autoencoder | VAE
"""Those of them that also map an image to a code."""


def decoding(model: Family, question: str) -> Decoding:
    """The model itself, or a one-line ``ValueError`` that names the families that can answer the question."""
    if isinstance(model, Decoding):
        return model
    raise ValueError(f"{question} needs a latent space; {model.name} has none, autoencoder, vae and gan do")


def encoding(model: Family, question: str) -> Encoding:
    """The same for families with an encoder."""
    if isinstance(model, Encoding):
        return model
    raise ValueError(f"{question} needs an encoder; {model.name} has none, autoencoder and vae do")


def opened(run: Run | Family, device: torch.device) -> Family:
    """A run's trained model, or the model itself."""
    return run.model(device) if isinstance(run, Run) else run


def given_labels(model: Family, labels: Tensor | None, count: int) -> Tensor | None:
    """int64 [count] on the model's device, "no label" where a conditional model is told none; None if unconditional.

    Raises:
        ValueError: labels for an unconditional model, of another number or out of range, in one line.
    """
    classes = model.spec.classes
    if labels is None:
        return torch.full((count,), classes, device=model.device) if classes else None
    if not classes:
        raise ValueError("this model is unconditional: leave the labels out, or train it with --conditional")
    if labels.shape != (count,):
        raise ValueError(f"there must be one label for each of {count} images, not {list(labels.shape)}")
    if count and not 0 <= int(labels.min()) <= int(labels.max()) <= classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, not {int(labels.min())} to {int(labels.max())}")
    return labels.to(model.device)


def checked(images: Tensor, spec: Spec) -> Tensor:
    """`check_images`, and at least one."""
    if not len(check_images(images, spec)):
        raise ValueError("there are no images to ask about")
    return images


@contextlib.contextmanager
def evaluating(model: Family) -> Iterator[None]:
    """Batch norm by its running statistics, and no gradient for any weight, inside; as it was, after."""
    training, asked = model.training, [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter, flag in zip(model.parameters(), asked, strict=True):
            parameter.requires_grad_(flag)


def in_order(where: Ranks, mine: Mapping[int, Sequence[Tensor]]) -> list[Tensor]:
    """What the processes found of blocks of images, on all of them: each part concatenated over blocks.

    Args:
        where: the processes.
        mine: the first row of a block → its parts, each [images of the block, …]; alike on all processes.
    """
    blocks: dict[int, Sequence[Tensor]] = {}
    for theirs in where.gather(mine):
        blocks |= theirs
    return [torch.cat(part) for part in zip(*(blocks[start] for start in sorted(blocks)), strict=True)]


@dataclass(frozen=True)
class Joint:
    """log p(x, z) of a decoder with an observation model, and the Gaussian q(z) that annealing starts from.

    Attributes:
        model: the decoder's.
        images: uint8 [N, C, H, W], or vectors float32 [N, D]; for a GAN their real values ``(x + u) / levels`` on
            [0, 1], u uniform noise, or vectors of unit size (`Spec.to_unit`).
        labels: [N], or None.
        mean, std: of q for each image, [N, latent].
        sigma: the observation noise of a GAN's generator, on [0, 1], or of vectors in standard deviations of each
            value; unused for a VAE.
        discrete: whether p(x|z) speaks of the discrete image, or else of its dequantised values or of vectors.
    """

    model: VAE | GAN
    images: Tensor
    labels: Tensor | None
    mean: Tensor
    std: Tensor
    sigma: float
    discrete: bool

    def log_likelihood(self, z: Tensor, rows: Tensor) -> Tensor:
        """log p(x|z) in nats of codes ``[R, latent]`` for the images ``rows`` [R]: [R]; vectors in their own units."""
        labels = None if self.labels is None else self.labels[rows]
        x = self.images[rows]
        if isinstance(self.model, VAE):
            dtype = next(self.model.parameters()).dtype
            return -self.model.observation.nats(x, self.model.decoder(z.to(dtype), labels))
        centre: Tensor = self.model.generator(z, labels)
        spec = self.model.spec
        if not spec.vector:
            centre = unit_interval(centre, spec.levels)
        scaled = (x - centre).flatten(1).square().sum(1) / self.sigma**2
        return -0.5 * scaled - spec.dims * math.log(self.sigma * math.sqrt(2 * math.pi)) - spec.log_volume

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, I): [R]."""
        return standard_normal(z)

    def log_start(self, z: Tensor, rows: Tensor) -> Tensor:
        """log q(z) of the Gaussian of each image: [R]."""
        return standard_normal((z - self.mean[rows]) / self.std[rows]) - self.std[rows].log().sum(1)


def standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I), summed over the last dimension."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def unit_interval(values: Tensor, levels: int) -> Tensor:
    """A generator's output on [-1, 1] to [0, 1], where level v is the middle ``(v + ½) / levels`` of its bin."""
    return ((values + 1) * ((levels - 1) / 2) + 0.5) / levels


def joint(
    model: Family, images: Tensor, labels: Tensor | None, start: str, sigma: float, seed: int, indices: list[int]
) -> Joint:
    """The joint density of a VAE, or of a GAN's generator with Gaussian observation noise.

    Raises:
        ValueError: another family, or a VAE trained on the L2 distance, in one line.
    """
    if isinstance(model, VAE):
        if isinstance(model.observation, L2):
            raise ValueError("annealed importance sampling needs p(x|z), whose variance observation 'l2' dropped")
        x = images.to(model.device)
        with torch.no_grad():
            mean, logvar = model.encode(x, labels)
        std = torch.exp(0.5 * logvar)
        if start == "prior":
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        return Joint(model, x, labels, mean, std, sigma, not model.spec.vector)
    if isinstance(model, GAN):
        if start == "encoder":
            raise ValueError("a gan has no encoder to start the chains from: leave start at prior")
        x = images.to(model.device)
        if model.spec.vector:
            x = model.spec.to_unit(x)
        elif x.dtype == torch.uint8:  # or else values on [0, 1] that the model itself drew
            uniform = ImageNoise(derive_seed(seed, "dequantise"), indices, model.device).uniform(*model.spec.shape)
            x = (x.float() + uniform) / model.spec.levels
        zero = torch.zeros(len(x), model.config.latent, device=model.device)
        return Joint(model, x, labels, zero, torch.ones_like(zero), sigma, False)
    raise ValueError(f"annealed importance sampling needs a decoder of codes z; {model.name} has none, vae and gan do")
