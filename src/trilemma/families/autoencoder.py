"""The plain autoencoder (Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks").

An image is squeezed to a code and rebuilt from it. Nothing is said about how codes are distributed, so there is no
p(x) and no way to draw from it: the codes of real images fill a thin, crooked part of the code space. A density can be
fitted to the codes afterwards; the sampling options name what is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trilemma.blocks import Progress
from trilemma.families.family import (
    Code,
    Density,
    Encodes,
    Family,
    FitsCodes,
    Likelihood,
    Loss,
    Objective,
)
from trilemma.families.observation import at_least_float32
from trilemma.images import Spec
from trilemma.metrics import Gaussian
from trilemma.metrics.mixture import Mixture
from trilemma.nets.convnets import Decoder, Encoder
from trilemma.nets.dense import DenseDecoder, DenseEncoder
from trilemma.noise import Noise
from trilemma.parallel import ranks
from trilemma.validate import Count, check_limits

MEMORY = 1024
"""Codes of the last training images that are kept with the weights."""

COMPONENTS = 10
"""Gaussians in the mixture."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Hyperparameters of `Autoencoder`."""

    width: Count = 48
    """Channels at half the image's resolution; they double with each halving."""
    depth: Count = 1
    """Residual blocks at each resolution, in the encoder and in the decoder."""
    latent: Count = 32
    """Dimensions of the code."""

    def __post_init__(self) -> None:
        check_limits(self, "model.")


@dataclass(frozen=True)
class AutoencoderOptions:
    """What `Autoencoder.sample` decodes, since an autoencoder does not say."""

    codes: Literal["marginal", "prior", "gaussian", "mixture", "real"] = "marginal"
    """``marginal``: normal noise with the mean and the spread of each dimension of the training codes; ``prior``:
    N(0, I), as if it were a VAE; ``gaussian``: fitted to the last 1,024 training codes with their correlations;
    ``mixture``: of ten Gaussians, fitted to them; ``real``: those codes themselves, so no new images at all."""


class Autoencoder(Family, Encodes, FitsCodes):
    """Encoder and decoder trained on the squared error of the reconstruction.

    The loss term ``reconstruction`` is ‖x - x̂‖² on [-1, 1], summed over the pixels of an image. The mean and the
    spread of the training codes, one pair for each dimension, are tracked as buffers while training, and so are the
    last codes.

    ``sample`` is a demonstration of what an autoencoder lacks: by default it decodes normal noise that has the mean
    and the spread of the training codes but not their shape. Where that gives bad images, it is the model's fault.
    The other choices (`AutoencoderOptions`) ignore labels when they choose a code.
    """

    name: ClassVar[str] = "autoencoder"
    known_as: ClassVar[Mapping[str, str]] = {"ae": "", "auto-encoder": ""}
    title: ClassVar[str] = "Autoencoder"
    paper: ClassVar[str] = (
        "Hinton & Salakhutdinov 2006, Reducing the dimensionality of data with neural networks, Science 313:504"
    )
    density: ClassVar[Density] = Density.NONE
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "no, it is not a sampler; what is shown decodes noise with the spread of the codes",
        "p(x)": "no, it defines none",
        "p(z|x)": "no, an image has one code, not a distribution of codes",
        "complete": "no, it has no distribution to complete from",
        "interpolate": "yes, between codes, with nothing to keep the way between them real",
        "classify": "no, it has no p(x|y) to compare",
    }
    gives_up: ClassVar[str] = "being a sampler"
    Config: ClassVar[type] = AutoencoderConfig
    Options: ClassVar[type] = AutoencoderOptions
    distortion_unit = "squared error on [-1, 1]"

    code_mean: Tensor
    code_square: Tensor
    batches: Tensor
    memory: Tensor
    seen: Tensor

    def __init__(self, config: AutoencoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        encoder, decoder = (DenseEncoder, DenseDecoder) if spec.vector else (Encoder, Decoder)
        self.encoder = encoder(spec.shape, config.width, config.depth, config.latent, spec.classes)
        self.decoder = decoder(spec.shape, config.width, config.depth, config.latent, spec.shape[0], spec.classes)
        self.register_buffer("code_mean", torch.zeros(config.latent))
        self.register_buffer("code_square", torch.ones(config.latent))  # the mean of z², not of (z - mean)²
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("memory", torch.zeros(MEMORY, config.latent))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Code:
        return Code(at_least_float32(self.encoder(self.spec.to_unit(x).to(self._dtype), labels)))

    @property
    def latent(self) -> int:
        return int(self.config.latent)

    def render(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        # Linear, not tanh: on images that are mostly black a tanh saturates within a few steps, and never comes back.
        return at_least_float32(self.decoder(z.to(self._dtype), labels))

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.spec.from_unit(self.render(z, labels))

    def objectives(self) -> list[Objective]:
        return [Objective("reconstruction", list(self.parameters()), self._loss)]

    def _loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        z = self.encode(x, labels).mean
        if self.training and not z.is_meta:  # where operations are counted on shapes, there is nothing to remember
            self._track(z.detach())
        return Loss({"reconstruction": self.distortion(x, z, labels).mean()})

    def distortion(self, x: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """‖x - x̂(z)‖² on [-1, 1], summed over the pixels: ``[B]``."""
        return (self.spec.to_unit(x) - self.render(z, labels)).square().flatten(1).sum(1)

    @torch.no_grad()
    def _track(self, z: Tensor) -> None:
        """Running moments of the codes: an average over all batches at first, over about the last 100 later."""
        self.batches += 1
        weight = (1 / self.batches).clamp(min=0.01)
        self.code_mean += weight * (z.mean(0) - self.code_mean)
        self.code_square += weight * (z.square().mean(0) - self.code_square)
        # The whole batch's, on every process: what they average is then the same everywhere.
        self.remember(torch.cat(ranks("cpu").gather(z.cpu())).to(z.device))

    @torch.no_grad()
    def remember(self, z: Tensor) -> None:
        """Keep the last `MEMORY` codes, of these ``[N, latent]`` and those before."""
        self.memory.copy_(torch.cat([self.memory, z.detach().float()])[-MEMORY:])
        self.seen += len(z)

    @property
    def codes(self) -> Tensor:
        """The codes that are remembered, float32 ``[N, latent]``, N at most `MEMORY`."""
        count = min(int(self.seen), MEMORY)
        return self.memory[MEMORY - count :]

    @torch.no_grad()
    def sample(
        self,
        noise: Noise,
        labels: Tensor | None = None,
        options: AutoencoderOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        law = (options or AutoencoderOptions()).codes
        return self.decode(_draw_codes(law, self.code_mean, self.code_square, self.codes, noise), labels)

    def draw_codes(self, law: str, codes: Tensor, noise: Noise) -> Tensor:
        """As the contract; a Gaussian and the mixture are fitted to the last `MEMORY` codes, as of a trained model."""
        return _draw_codes(law, codes.mean(0), codes.square().mean(0), codes[-MEMORY:], noise)

    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        return Likelihood("undefined", None, "an autoencoder has no distribution over codes, hence none over images")

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def _draw_codes(law: str, mean: Tensor, square: Tensor, codes: Tensor, noise: Noise) -> Tensor:
    """Codes ``[B, latent]`` by a law of `AutoencoderOptions`, given the mean of z and of z² ``[latent]`` and codes."""
    eps = noise.normal(len(mean))
    if law == "prior":
        return eps
    if law == "marginal":
        return mean + (square - mean.square()).clamp(min=0).sqrt() * eps
    if len(codes) < 2:
        raise ValueError(f"codes '{law}' needs codes of training images, and this model has seen none: train it")
    if law == "real":
        return codes[noise.integers(len(codes))]
    if law == "gaussian":
        fitted = Gaussian.fit(codes.cpu())
        spread = torch.linalg.eigh(fitted.covariance)
        factor = spread.eigenvectors * spread.eigenvalues.clamp(min=0).sqrt()
        drawn: Tensor = fitted.mean + eps.cpu().double() @ factor.T
    else:
        drawn = Mixture.fit(codes, COMPONENTS).draw(noise.uniform(), eps)
    return drawn.float().to(eps)
