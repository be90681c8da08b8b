"""The generative adversarial network (Goodfellow et al. 2014, arXiv 1406.2661) with the networks of DCGAN
(Radford et al. 2015, arXiv 1511.06434).

A generator G maps z ~ N(0, I) to images, a discriminator D says how probably an image is real, and they play
(Goodfellow et al., eq. 1)

    min_G max_D V(D, G) = E_x[log D(x)] + E_z[log(1 - D(G(z)))].

G never sees an image and p(x) is never written down: it can be sampled and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.families.family import Density, Family, Likelihood, Loss, Objective, Progress
from trilemma.families.observation import at_least_float32
from trilemma.images import Spec
from trilemma.nets.convnets import Discriminator, Generator
from trilemma.nets.mlp import VectorDiscriminator, VectorGenerator
from trilemma.noise import Noise

VECTOR_DEPTH = 3
"""Hidden layers of both networks for vectors."""


@dataclass(frozen=True)
class GANConfig:
    """Hyperparameters of `GAN`."""

    width: int = 80
    """Channels of both networks at half the image's resolution; they double with each halving. For vectors the units
    of a layer."""
    latent: int = 64
    """Dimensions of z."""
    loss: Literal["nonsaturating", "minimax"] = "nonsaturating"
    """What G minimises: -log D(G(z)), or the game's own log(1 - D(G(z))), which has little gradient early."""
    discriminator_steps: int = 1
    """Steps of D for each step of G: the paper's k."""
    label_smoothing: float = 0.0
    """D is told that real images are real with one minus this probability (Salimans et al. 2016, one-sided)."""


@dataclass(frozen=True)
class GANOptions:
    """`GAN.sample` has no options."""


class GAN(Family):
    """DCGAN's generator and discriminator; with labels, G gets an embedding beside z and D a projection.

    Logs: ``D(x)`` and ``D(G(z))``, the mean probabilities that D gives to real and to generated images; ½ both when
    it cannot tell them apart.
    """

    name: ClassVar[str] = "gan"
    title: ClassVar[str] = "Generative adversarial network"
    paper: ClassVar[str] = (
        "Goodfellow et al. 2014, Generative adversarial nets, arXiv:1406.2661; "
        "Radford et al. 2015, DCGAN, arXiv:1511.06434"
    )
    density: ClassVar[Density] = Density.IMPLICIT
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "yes, in one pass",
        "p(x)": "no, it can only be sampled",
        "p(z|x)": "no, it has no encoder",
        "complete": "no, it cannot infer the z of an image",
        "interpolate": "yes, between random z, not between given images",
        "classify": "no, it has no p(x|y) to compare",
    }
    gives_up: ClassVar[str] = "mode coverage"
    Config: ClassVar[type] = GANConfig
    Options: ClassVar[type] = GANOptions

    def __init__(self, config: GANConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        if not 0 <= config.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be at least 0 and below 0.5, not {config.label_smoothing}")
        if config.discriminator_steps < 1:
            raise ValueError(f"discriminator_steps must be at least 1, not {config.discriminator_steps}")
        self.generator: VectorGenerator | Generator
        self.discriminator: VectorDiscriminator | Discriminator
        if spec.vector:
            self.generator = VectorGenerator(spec.dims, config.width, VECTOR_DEPTH, config.latent, spec.classes)
            self.discriminator = VectorDiscriminator(spec.dims, config.width, VECTOR_DEPTH, spec.classes)
        else:
            self.generator = Generator(spec.image_shape, config.width, config.latent, spec.classes)
            self.discriminator = Discriminator(spec.image_shape, config.width, spec.classes)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images, uint8 ``[B, C, H, W]``, of ``[B, latent]``."""
        return self.spec.from_unit(self.generator(z.to(self._dtype), labels))

    def objectives(self) -> list[Objective]:
        steps = self.config.discriminator_steps
        return [
            Objective("discriminator", list(self.discriminator.parameters()), self._discriminator_loss, steps),
            Objective("generator", list(self.generator.parameters()), self._generator_loss),
        ]

    def _discriminator_loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        with torch.no_grad():
            fake = self.generator(noise.normal(self.config.latent).to(self._dtype), labels)
        # Two batches, not one: batch norm must not show D the two kinds side by side.
        real_logits = self.discriminator(self.spec.to_unit(x).to(self._dtype), labels)
        fake_logits = self.discriminator(fake, labels)
        loss = discriminator_loss(real_logits, fake_logits, self.config.label_smoothing)
        with torch.no_grad():
            logs = {"D(x)": real_logits.float().sigmoid().mean(), "D(G(z))": fake_logits.float().sigmoid().mean()}
        return Loss({"discriminator": loss}, logs)

    def _generator_loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        fake = self.generator(noise.normal(self.config.latent).to(self._dtype), labels)
        return Loss({"generator": generator_loss(self.discriminator(fake, labels), self.config.loss)})

    @torch.no_grad()
    def sample(
        self,
        noise: Noise,
        labels: Tensor | None = None,
        options: GANOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """As the contract; batch norm uses its running statistics whatever mode the model is in, so that an image does
        not depend on its batch."""
        training = self.generator.training
        self.generator.eval()
        try:
            return self.decode(noise.normal(self.config.latent), labels)
        finally:
            self.generator.train(training)

    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        return Likelihood("undefined", None, "a GAN's density is implicit: it can be sampled but not evaluated")

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def alarms(self, logs: Mapping[str, float]) -> list[str]:
        real, fake = logs.get("D(x)", 0.5), logs.get("D(G(z))", 0.5)
        if real < 0.98 or fake > 0.02:
            return []
        return [
            "the discriminator has won: it is over 98 % sure of real images and of generated ones, which leaves the "
            "generator little to learn from; lower the learning rate, set label_smoothing to 0.1 or try another seed"
        ]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-V(D, G), the mean of -log D(x) plus that of -log(1 - D(G(z))), from logits ``[B]``, in nats.

    With one-sided smoothing s the first becomes -(1-s) log D(x) - s log(1 - D(x)).
    """
    real_logits, fake_logits = at_least_float32(real_logits), at_least_float32(fake_logits)
    real = (1 - label_smoothing) * F.softplus(-real_logits) + label_smoothing * F.softplus(real_logits)
    return real.mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor, kind: Literal["nonsaturating", "minimax"]) -> Tensor:
    """The mean of -log D(G(z)), or of log(1 - D(G(z))) for ``minimax``, from logits ``[B]``, in nats."""
    fake_logits = at_least_float32(fake_logits)
    return F.softplus(-fake_logits).mean() if kind == "nonsaturating" else -F.softplus(fake_logits).mean()
