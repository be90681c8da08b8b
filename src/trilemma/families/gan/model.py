"""The generative adversarial network (Goodfellow et al. 2014, arXiv 1406.2661) with the networks of DCGAN
(Radford et al. 2015, arXiv 1511.06434).

A generator G maps z ~ N(0, I) to images, a discriminator D says how probably an image is real, and they play
(Goodfellow et al., eq. 1)

    min_G max_D V(D, G) = E_x[log D(x)] + E_z[log(1 - D(G(z)))].

G never sees an image and p(x) is never written down: it can be sampled and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trilemma.blocks import Progress
from trilemma.families.family import Density, Family, Likelihood, Loss, Objective, Observes, Plays
from trilemma.families.gan.augment import Change, adapt
from trilemma.families.gan.losses import PROBABILITIES, discriminator_loss, generator_loss
from trilemma.families.gan.options import GANConfig
from trilemma.families.gan.packing import by_class, filled, packed
from trilemma.families.gan.penalties import gradient_penalty, slopes, squared
from trilemma.families.observation import at_least_float32
from trilemma.images import Spec
from trilemma.metrics.modes import nearest_distance
from trilemma.nets.dcgan import Discriminator, Generator
from trilemma.nets.mlp import VectorDiscriminator, VectorGenerator
from trilemma.noise import Noise

COLLAPSED = 0.25
"""Least `diversity` without an alarm. Measured on MNIST: 0.22 in the first steps, 0.82 after 255; on stacked MNIST 0.8
to 0.9 after 1,200, though two thirds of the modes that 1,300 samples should reach were missing. So the alarm is for a
collapse to few images; whether each of many modes is there, only an evaluation tells."""

COLLAPSED_VECTORS = 0.6
"""The same for vectors, which fill their D dimensions, so that `diversity` falls only as (share of modes kept)^(1/D)
does. Measured at the preset's batch of 128, means of 200 batches: ring whole 1.00 (single batches 0.77 to 1.21), 3 of 8
modes 0.64, 2 of 8 0.53, 1 of 8 0.38; grid whole 1.04, 12 of 25 0.60, 4 of 25 0.36, 1 of 25 0.18. So in two dimensions
the loss of half of the modes is silent, in ten that of all but one in a hundred. Modes drawn half as wide as they are
sound the same alarm as lost ones, and vectors off the modes hide a loss: on ring a generator in training had 12 after
250 steps and 4 after 3,000. So silence says little; an evaluation counts the modes."""

GRACE = 500
"""Steps of training in which a generator may still draw one grey image."""

FEW = 5_000
"""Training images below which D would learn them by heart within minutes."""

VECTOR_DEPTH = 3
"""Hidden layers of both networks for vectors."""


@dataclass(frozen=True)
class GANOptions:
    """`GAN.sample` has no options."""


@dataclass(frozen=True)
class Played:
    """What D's step leaves for G's, where D's slope at generated images was needed anyway.

    Attributes:
        z, labels: what the images were made of.
        change: how D saw them.
        loss: G's.
        direction: its derivative with respect to every pixel of every pack.
    """

    z: Tensor
    labels: Tensor | None
    change: Change | None
    loss: Tensor
    direction: Tensor


class GAN(Family, Observes, Plays):
    """DCGAN's generator and discriminator; with labels, G gets an embedding beside z and D a projection.

    Logs: ``D(x)`` and ``D(G(z))``, the mean probabilities that D gives to real and to generated images; ½ both when
    it cannot tell them apart. Under a loss whose D is a critic they are ``critic(x)`` and ``critic(G(z))``, mean
    values on no fixed scale; with the wasserstein loss their difference estimates the Wasserstein distance. With the
    relativistic one ``pairs told`` is the share of pairs of which D knows the real one, ½ when it cannot tell.
    ``diversity`` is how far a generated image is from the nearest other one in its batch, in pixels, as a share of the
    same for real images: about 1, and near 0 when modes collapse. ``augmentation`` is the probability of each change of
    what D sees.
    """

    name: ClassVar[str] = "gan"
    known_as: ClassVar[Mapping[str, str]] = {
        "dcgan": "--model.loss nonsaturating",
        "r3gan": "",
        "wgan": "--model.loss wasserstein",
        "lsgan": "--model.loss least-squares",
    }
    title: ClassVar[str] = "Generative adversarial network"
    paper: ClassVar[str] = (
        "Goodfellow et al. 2014, Generative adversarial nets, arXiv:1406.2661; "
        "Radford et al. 2015, DCGAN, arXiv:1511.06434"
    )
    density: ClassVar[Density] = Density.IMPLICIT
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "yes, in one pass",
        "p(x)": "no, it can only be sampled; with a stated noise, annealed importance sampling estimates it",
        "p(z|x)": "approximate: a point, by search, no distribution; it has no encoder",
        "complete": "no, it has no distribution of the rest of an image",
        "interpolate": "yes, between random z, or those found for two images",
        "classify": "no, it has no p(x|y) to compare",
    }
    gives_up: ClassVar[str] = "mode coverage"
    Config: ClassVar[type] = GANConfig
    Options: ClassVar[type] = GANOptions
    defined: ClassVar[bool] = False

    def __init__(self, config: GANConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.generator: VectorGenerator | Generator
        self.discriminator: VectorDiscriminator | Discriminator
        self._played: Played | None = None
        self._spent = 0.0
        self.augmentation: Tensor | None
        augment = config.augment == "adaptive" and not spec.vector
        self.register_buffer("augmentation", torch.zeros(()) if augment else None)
        if spec.vector:
            self.generator = VectorGenerator(
                spec.dims, config.width, VECTOR_DEPTH, config.latent, spec.classes, norm=config.generator_norm != "none"
            )
            self.discriminator = VectorDiscriminator(
                spec.dims,
                config.discriminator_width or config.width,
                VECTOR_DEPTH,
                spec.classes,
                pack=config.pack,
                spectral=config.spectral_norm,
                octaves=config.octaves,
            )
            return
        self.generator = Generator(
            spec.image_shape,
            config.width,
            config.latent,
            spec.classes,
            strided=config.strided,
            fully_connected=config.fully_connected,
            norm="none" if config.generator_norm == "none" else "batch",
            norm_output=config.generator_norm == "everywhere",
            activation=config.generator_activation,
            output=config.output,
        )
        self.discriminator = Discriminator(
            spec.image_shape,
            config.discriminator_width or config.width,
            spec.classes,
            pack=config.pack,
            strided=config.strided,
            fully_connected=config.fully_connected,
            norm=config.norm_of_discriminator,
            norm_input=config.discriminator_norm == "everywhere",
            activation=config.discriminator_activation,
            spectral=config.spectral_norm,
        )

    @classmethod
    def suited(cls, spec: Spec, images: int) -> Mapping[str, Any]:
        return {"augment": "adaptive"} if images < FEW and not spec.vector else {}

    @classmethod
    def least_batch(cls, config: GANConfig) -> int:
        return config.pack

    @property
    def latent(self) -> int:
        return int(self.config.latent)

    def render(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.generator(z.to(self._dtype), labels)
        return images

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.spec.from_unit(self.render(z, labels))

    def observed(self, x: Tensor, noise: Noise) -> Tensor:
        """Dequantised images (x + u) / levels on [0, 1], u uniform; vectors in standard deviations of each value."""
        if self.spec.vector:
            return self.spec.to_unit(x)
        return (x.float() + noise.uniform(*self.spec.shape)) / self.spec.levels

    def log_observation(self, x: Tensor, z: Tensor, labels: Tensor | None, sigma: float) -> Tensor:
        """log N(x; G(z), sigma²); of vectors in their own units."""
        scaled = (x - self._centre(z, labels)).flatten(1).square().sum(1) / sigma**2
        return -0.5 * scaled - self.spec.dims * math.log(sigma * math.sqrt(2 * math.pi)) - self.spec.log_volume

    def draw_observation(self, z: Tensor, labels: Tensor | None, noise: Noise, sigma: float) -> Tensor:
        x = self._centre(z, labels) + sigma * noise.normal(*self.spec.shape)
        # Through float32 in their own units, as vectors of others come.
        return self.spec.to_unit(self.spec.from_unit(x)) if self.spec.vector else x

    def _centre(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """G(z) where `observed` puts images."""
        centre = self.render(z, labels)
        return centre if self.spec.vector else unit_interval(centre, self.spec.levels)

    @property
    def player(self) -> nn.Module:
        return self.generator

    @classmethod
    def probabilities(cls, config: GANConfig) -> bool:
        return config.loss in PROBABILITIES

    def generator_losses(self, logits: Tensor) -> Mapping[str, Tensor]:
        return {name: generator_loss(logits, name) for name in PROBABILITIES}

    def begin(self, spent: float) -> float:
        self._spent = min(spent, 1.0)
        return 1.0

    def objectives(self) -> list[Objective]:
        steps = self.config.discriminator_steps
        return [
            Objective("discriminator", list(self.discriminator.parameters()), self._discriminator_loss, steps),
            Objective("generator", list(self.generator.parameters()), self._generator_loss),
        ]

    def _discriminator_loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        config = self.config
        if labels is not None and config.pack > 1:
            order = by_class(labels)
            x, labels = x[order], labels[order]
        z = noise.normal(config.latent).to(self._dtype)
        with torch.no_grad():
            fake = self.generator(z, labels)
        real = self.spec.to_unit(x).to(self._dtype)
        logs = {"diversity": (nearest_distance(fake) + 1e-6) / (nearest_distance(real) + 1e-6)}
        judged, change = self._pack_labels(labels), self._change(noise)
        real, fake = self._shown(real, self._change(noise)), self._shown(fake, change).to(real.dtype)
        gamma1, gamma2 = (gamma * config.penalty_end**self._spent for gamma in config.slopes)
        if gamma2:
            # Without batch norm nothing couples the images, and D's slope at generated ones is known: one pass for both
            # kinds, one for both penalties, and G needs D no more.
            both = torch.cat([real, fake]).requires_grad_()
            answers = self.discriminator(both, judged if judged is None else torch.cat([judged, judged]))
            slope = slopes(answers, both)
            real_answers, fake_answers = answers.tensor_split(2)
            direction, value = self._game(real_answers, fake_answers, slope[len(real) :])
            self._played = Played(z, labels, change, value, direction)
        else:
            if gamma1:
                real.requires_grad_()
            # Two batches, not one: batch norm must not show D the two kinds side by side.
            real_answers, fake_answers = self.discriminator(real, judged), self.discriminator(fake, judged)
            slope = slopes(real_answers, real) if gamma1 else real.new_zeros(())
        terms = {
            "discriminator": discriminator_loss(
                real_answers,
                fake_answers,
                config.loss,
                label_smoothing=config.label_smoothing,
                targets=config.targets,
            )
        }
        if gamma1:
            terms["R1"] = gamma1 / 2 * squared(slope[: len(real)]).mean()
        if gamma2:
            terms["R2"] = gamma2 / 2 * squared(slope[len(real) :]).mean()
        if config.penalty_weight:
            epsilon = noise.uniform()[: len(real)]
            penalty = gradient_penalty(lambda between: self.discriminator(between, judged), real, fake, epsilon)
            terms["gradient penalty"] = config.penalty_weight * penalty
        if self.augmentation is not None:
            adapt(self.augmentation, real_answers, fake_answers, config.loss == "relativistic")
            logs["augmentation"] = self.augmentation.clone()
        return Loss(terms, self._answers(real_answers, fake_answers) | logs)

    def _game(self, real: Tensor, fake: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """What G learns of D's answers: by the chain rule its loss moves with an image as with D's answer to it, times
        D's slope there. Its derivative for every pixel of every pack, and the loss."""
        fake = at_least_float32(fake.detach()).requires_grad_()
        loss = generator_loss(fake, self.config.loss, real=real.detach(), targets=self.config.targets)
        (weight,) = torch.autograd.grad(loss, fake)
        return weight.view(-1, *[1] * (slope.ndim - 1)) * slope.detach(), loss.detach()

    def _change(self, noise: Noise) -> Change | None:
        """How D sees a batch; None as it is."""
        return None if self.augmentation is None else Change.draw(noise, self.augmentation, self.spec.image_shape)

    def _shown(self, x: Tensor, change: Change | None) -> Tensor:
        """``[B, C, …]`` as D sees them, ``[packs, pack * C, …]``."""
        return packed(x if change is None else change(x).to(x.dtype), self.config.pack)

    @torch.no_grad()
    def _answers(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """D's mean answers, by the name of what they are."""
        if self.config.loss in PROBABILITIES:
            return {"D(x)": real.float().sigmoid().mean(), "D(G(z))": fake.float().sigmoid().mean()}
        answers = {"critic(x)": real.float().mean(), "critic(G(z))": fake.float().mean()}
        if self.config.loss == "relativistic":
            answers["pairs told"] = (real > fake).float().mean()
        return answers

    def _generator_loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        if played := self._played:
            self._played = None
            fake = self._shown(self.generator(played.z, played.labels), played.change)
            moved = (fake * played.direction).sum()
            return Loss({"generator": played.loss + moved - moved.detach()})
        config, real = self.config, None
        if config.loss == "relativistic":
            order = torch.arange(len(x)) if labels is None or config.pack == 1 else by_class(labels)
            given = labels if labels is None else self._pack_labels(labels[order])
            with torch.no_grad():
                shown = self._shown(self.spec.to_unit(x[order]).to(self._dtype), self._change(noise))
                real = self.discriminator(shown, given)
        answers = self._judge(noise, labels, self._change(noise))
        return Loss({"generator": generator_loss(answers, config.loss, real=real, targets=config.targets)})

    def judge_samples(self, noise: Noise, labels: Tensor | None) -> Tensor:
        """D's answers ``[packs]`` to images drawn from ``noise``, which can be differentiated with respect to G."""
        return self._judge(noise, labels, None)

    def _judge(self, noise: Noise, labels: Tensor | None, change: Change | None) -> Tensor:
        if labels is not None and self.config.pack > 1:
            labels = labels[by_class(labels)]
        fake = self.generator(noise.normal(self.config.latent).to(self._dtype), labels)
        answers: Tensor = self.discriminator(self._shown(fake, change), self._pack_labels(labels))
        return answers

    def judge(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        pack = self.config.pack
        real = self.spec.to_unit(x).to(self._dtype).repeat_interleave(pack, 0)
        given = None if labels is None else self._pack_labels(labels.repeat_interleave(pack))
        answers: Tensor = self.discriminator(packed(real, pack), given)
        return answers

    def _pack_labels(self, labels: Tensor | None) -> Tensor | None:
        """The labels ``[packs * pack]`` of the images of `_shown`."""
        return None if labels is None else filled(labels, self.config.pack)

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
        found = []
        real, fake = logs.get("D(x)", 0.5), logs.get("D(G(z))", 0.5)
        if real >= 0.98 and fake <= 0.02:
            found.append(
                "the discriminator has won: it is over 98 % sure of real images and of generated ones, which leaves "
                "the generator little to learn from; lower the learning rate, set label_smoothing to 0.1 or try "
                "another seed"
            )
        diversity, late = logs.get("diversity", 1.0), logs.get("step", 0) > GRACE
        remedy = "try --model.pack 2, --model.r1 1 or a lower learning rate"
        if late and self.spec.vector and diversity < COLLAPSED_VECTORS:
            found.append(
                f"the modes collapse: generated vectors are less than {COLLAPSED_VECTORS:g} times as far from one "
                f"another as real ones, so the generator draws few of the modes, or all of them too narrow; {remedy}"
            )
        if late and not self.spec.vector and diversity < COLLAPSED:
            found.append(
                "the modes collapse: generated images are less than a quarter as far from one another as real ones, so "
                f"the generator draws few different things; {remedy}"
            )
        return found


def unit_interval(values: Tensor, levels: int) -> Tensor:
    """A generator's output on [-1, 1] to [0, 1], where level v is the middle ``(v + ½) / levels`` of its bin."""
    return ((values + 1) * ((levels - 1) / 2) + 0.5) / levels
