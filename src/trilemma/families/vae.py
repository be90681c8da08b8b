"""The variational autoencoder (Kingma & Welling 2013, "Auto-encoding variational Bayes", arXiv 1312.6114).

A latent z ~ N(0, I) is decoded to p(x|z). Its evidence log p(x) = log ∫ p(x|z) p(z) dz is out of reach, so an encoder
q(z|x) = N(μ, std²) is trained with it on the bound (eq. 3)

    log p(x) ≥ E_q[log p(x|z)] - KL(q(z|x) ‖ p(z)),

whose expectation is differentiated through z = μ + std · ε (the reparameterisation trick, eq. 10). With k draws of z
the importance-weighted bound (Burda et al. 2015, "Importance weighted autoencoders", arXiv 1509.00519, eq. 8)

    log p(x) ≥ E[log 1/k Σ_i p(x|z_i) p(z_i) / q(z_i|x)]

is tighter, rises with k, and can be trained on as well as scored with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from trilemma.blocks import Progress
from trilemma.families.family import (
    ACTIVE,
    Code,
    Density,
    Encodes,
    Family,
    Likelihood,
    Loss,
    Objective,
    Observes,
    latent_kl,
)
from trilemma.families.observation import L2, Bernoulli, DiscretisedLogistic, Gaussian, Observation, at_least_float32
from trilemma.images import Spec
from trilemma.nets.convnets import Decoder, Encoder
from trilemma.nets.dense import DenseDecoder, DenseEncoder
from trilemma.noise import Noise
from trilemma.validate import Count, Limits, NotNegative, Positive, check_limits

PATIENCE = 5
"""Lines of the training log that the KL must stay near 0 before it is an alarm."""

DRAWS = 100
"""Codes drawn for each image by which log p(x) is weighed unless another number is asked for."""

ROWS = 256
"""Codes decoded together when many importance samples score an image. It bounds the memory; on a CPU feature maps of
more rows leave the cache, are given back to the system and fetched again at each layer: up to a fifth of the time."""


@dataclass(frozen=True)
class VAEConfig:
    """Hyperparameters of `VAE`."""

    network: Literal["conv", "dense"] = "conv"
    """Convolutional encoder and decoder, or fully connected ones of tanh units as in the first papers."""
    width: Count = 48
    """Channels at half the image's resolution, doubling with each halving; or units of a dense layer."""
    depth: Count = 1
    """Residual blocks at each resolution, or dense layers, in the encoder and in the decoder."""
    latent: Count = 32
    """Dimensions of z."""
    observation: Literal["auto", "bernoulli", "logistic", "l2"] = "auto"
    """p(x|z): Bernoulli pixels (auto for 2 levels), discretised logistic (auto for 256) or the plain L2 distance; auto
    for vectors is a Gaussian."""
    scale: Literal["pixel", "channel", "fixed"] = "pixel"
    """The logistic's width, or the Gaussian's: learnt for each pixel (each value of a vector) as a function of z, or as
    one number a channel (each value), or not learnt."""
    fixed_scale: Positive = 0.05
    """The width where scale is fixed: on [-1, 1], or in standard deviations of a vector's value."""
    importance: Count = 1
    """Draws of z in the bound that is trained: 1 for the ELBO, k for the importance-weighted bound, IWAE-k."""
    beta: NotNegative = 1.0
    """Weight of the KL; 1 is the bound, more trades reconstruction for a simpler code (Higgins et al. 2017)."""
    kl_warmup: Annotated[int, Limits(0)] = 0
    """Steps over which the weight of the KL rises linearly from 0 to beta (Bowman et al. 2016)."""
    free_bits: NotNegative = 0.0
    """Nats of each latent's KL, averaged over the batch, that cost nothing (Kingma et al. 2016, eq. 15)."""

    def __post_init__(self) -> None:
        check_limits(self, "model.")
        if self.free_bits and self.importance > 1:
            raise ValueError("model.free_bits needs the KL of the ELBO: leave it out, or set model.importance to 1")


@dataclass(frozen=True)
class VAEOptions:
    """How `VAE.sample` draws."""

    draw: Literal["auto", "mean", "sample"] = "auto"
    """``mean``: z is random, the image is the centre of p(x|z), as pictures of VAEs are shown; ``sample``: the pixel
    noise of p(x|z) is drawn too, which is what the likelihood speaks of; ``auto``: mean for images, sample for vectors,
    whose centres alone would be narrower modes than the model has."""


class VAE(Family, Encodes, Observes):
    """Encoder q(z|x, y), decoder p(x|z, y), trained on the evidence lower bound or on an importance-weighted one.

    Loss terms, in nats per image: ``reconstruction``, -log p(x|z) summed over the pixels, and ``kl``, the KL summed
    over the latents and multiplied by its weight; with ``importance`` > 1 the one term ``iwae`` instead. Logs:
    ``rate``, the KL as it is, and ``active_units``, the number of latents that the images of a batch differ in.
    ``sample`` shows the mean image of p(x|z) unless ``Options.draw`` says otherwise: without the pixel noise it is
    cleaner than the model is.
    """

    name: ClassVar[str] = "vae"
    known_as: ClassVar[Mapping[str, str]] = {"iwae": "--model.importance 5", "beta-vae": "--model.beta 4"}
    title: ClassVar[str] = "Variational autoencoder"
    paper: ClassVar[str] = "Kingma & Welling 2013, Auto-encoding variational Bayes, arXiv:1312.6114"
    density: ClassVar[Density] = Density.APPROXIMATE
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "yes, in one pass; by default the mean image of p(x|z), without its pixel noise",
        "p(x)": "bound: the evidence lower bound, tightened by importance sampling",
        "p(z|x)": "approximate: the encoder's Gaussian q(z|x)",
        "complete": "no, not without a search for the codes that explain the known part",
        "interpolate": "yes, between codes",
        "classify": "approximate: by comparing bounds, when class-conditional",
    }
    gives_up: ClassVar[str] = "sample quality"
    Config: ClassVar[type] = VAEConfig
    Options: ClassVar[type] = VAEOptions
    defined: ClassVar[bool] = True

    steps: Tensor

    def __init__(self, config: VAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.observation = _observation(config, spec)
        self._collapsed = 0
        conv = config.network == "conv" and not spec.vector
        encoder, decoder = (Encoder, Decoder) if conv else (DenseEncoder, DenseDecoder)
        self.encoder = encoder(spec.shape, config.width, config.depth, 2 * config.latent, spec.classes)
        self.decoder = decoder(
            spec.shape, config.width, config.depth, config.latent, self.observation.outputs, spec.classes
        )
        if config.kl_warmup:  # a whole number, because processes average statistics that are not
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def moments(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x, y) for uint8 ``[B, C, H, W]`` images: two ``[B, latent]``."""
        moments = at_least_float32(self.encoder(self.spec.to_unit(x).to(_dtype(self)), labels))
        mu, logvar = moments.chunk(2, dim=1)
        return mu, logvar.clamp(-20, 10)  # e^10 is far beyond any use and keeps exp finite

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Code:
        mean, logvar = self.moments(x, labels)
        return Code(mean, torch.exp(0.5 * logvar))

    @property
    def distortion_unit(self) -> str:
        return "squared error on [-1, 1]" if isinstance(self.observation, L2) else "nats"

    def distortion(self, x: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """-log p(x|z) in nats, summed over the pixels: ``[B]``; of the L2 distance the squared error."""
        return self.observation.nats(x, self._decoded(z, labels))

    @property
    def latent(self) -> int:
        return int(self.config.latent)

    def _decoded(self, z: Tensor, labels: Tensor | None) -> Tensor:
        decoded: Tensor = self.decoder(z.to(_dtype(self)), labels)
        return decoded

    def render(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.observation.centre(self._decoded(z, labels))

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean images of p(x|z, y), uint8 ``[B, C, H, W]``, for codes ``[B, latent]``."""
        return self.observation.mean(self._decoded(z, labels))

    @classmethod
    def lacks_density(cls, config: VAEConfig) -> str | None:
        return "the variance of p(x|z) was dropped by observation 'l2'" if config.observation == "l2" else None

    def observed(self, x: Tensor, noise: Noise) -> Tensor:
        return x

    def log_observation(self, x: Tensor, z: Tensor, labels: Tensor | None, sigma: float) -> Tensor:
        return -self.distortion(x, z, labels)

    def draw_observation(self, z: Tensor, labels: Tensor | None, noise: Noise, sigma: float) -> Tensor:
        return self.observation.draw(self._decoded(z, labels), noise.uniform(*self.spec.shape))

    def objectives(self) -> list[Objective]:
        return [Objective("elbo", list(self.parameters()), self._loss)]

    def _loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        weight, k = self._kl_weight(), self.config.importance
        mu, logvar = self.moments(x, labels)
        each = latent_kl(mu, logvar)
        kl = each.sum(1).mean()
        logs = {"rate": kl.detach()}
        if len(x) > 1:
            logs["active_units"] = (mu.detach().var(0) > ACTIVE).sum().to(mu.dtype)
        nats, log_ratio = self._weigh(x, labels, mu, logvar, noise, k)
        if k > 1:
            terms = {"iwae": -importance_bound(weight * log_ratio - nats).mean()}
            bound = -importance_bound(log_ratio.detach() - nats.detach()).mean()
        else:
            reconstruction = nats.mean()
            free = each.mean(0).clamp(min=self.config.free_bits).sum() if self.config.free_bits else kl
            terms = {"reconstruction": reconstruction, "kl": weight * free}
            bound = reconstruction + kl
        if not isinstance(self.observation, L2):  # its "nats" are not those of the discrete image
            logs["bits_per_dim"] = bound.detach() / (self.spec.dims * math.log(2))
        return Loss(terms, logs)

    def _kl_weight(self) -> Tensor | float:
        """β, or the share of it that the warm-up has come to; each call in training is a step."""
        beta, warmup = float(self.config.beta), int(self.config.kl_warmup)
        if not warmup:
            return beta
        if self.training:
            self.steps += 1
        return beta * (self.steps / warmup).clamp(max=1)

    def _weigh(
        self, x: Tensor, labels: Tensor | None, mu: Tensor, logvar: Tensor, noise: Noise, draws: int
    ) -> tuple[Tensor, Tensor]:
        """-log p(x|z) and log p(z) - log q(z|x) of some z ~ q for each image: two [B, draws]."""
        eps = noise.normal(draws, self.config.latent).to(mu.dtype)
        z = mu[:, None] + torch.exp(0.5 * logvar)[:, None] * eps
        many = None if labels is None else labels.repeat_interleave(draws)
        nats = self.distortion(x.repeat_interleave(draws, 0), z.flatten(0, 1), many).view(-1, draws)
        return nats, 0.5 * (eps.square() + logvar[:, None] - z.square()).sum(2)

    @torch.no_grad()
    def sample(
        self,
        noise: Noise,
        labels: Tensor | None = None,
        options: VAEOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        decoded = self._decoded(noise.normal(self.config.latent), labels)
        draw = (options or VAEOptions()).draw
        if draw == "mean" or (draw == "auto" and not self.spec.vector):
            return self.observation.mean(decoded)
        return self.observation.draw(decoded, noise.uniform(*self.spec.shape))

    @torch.no_grad()
    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        """The importance-weighted bound log 1/k Σ p(x|z_i) p(z_i) / q(z_i|x) with k = ``samples``, `DRAWS` by default.

        Burda et al. 2015, eq. 8; k = 1 is the ELBO with its KL drawn too.
        """
        if isinstance(self.observation, L2):
            reason = "the L2 reconstruction dropped the variance of p(x|z), so the loss bounds nothing"
            return Likelihood("undefined", None, reason)
        samples = DRAWS if samples is None else samples
        if samples < 1:
            raise ValueError(f"a VAE's likelihood needs at least 1 importance sample, not {samples}")
        mu, logvar = self.moments(x, labels)
        total = torch.full_like(mu[:, 0], -torch.inf)
        size = max(1, ROWS // max(1, len(x)))
        for start in range(0, samples, size):
            nats, log_ratio = self._weigh(x, labels, mu, logvar, noise, min(size, samples - start))
            total = torch.logaddexp(total, (log_ratio - nats).logsumexp(1))
        drawn = f"{samples} draws" if samples > 1 else "one draw"
        reason = f"importance-weighted bound with {drawn} of the code for each image"
        return Likelihood("bound", total - math.log(samples), reason)

    @torch.no_grad()
    def class_evidence(self, x: Tensor, labels: Tensor, noise: Noise, samples: int | None = None) -> Likelihood:
        """The ELBO with one draw of z and its KL in closed form, since every class is asked; else as `log_likelihood`.

        Importance-weighted only where ``samples`` are asked for.
        """
        if isinstance(self.observation, L2) or samples is not None:
            return self.log_likelihood(x, labels, noise, samples)
        mu, logvar = self.moments(x, labels)
        nats = self._weigh(x, labels, mu, logvar, noise, 1)[0][:, 0]
        reason = "evidence lower bound with one draw of the code for each image"
        return Likelihood("bound", -nats - latent_kl(mu, logvar).sum(1), reason)

    def alarms(self, logs: Mapping[str, float]) -> list[str]:
        """Posterior collapse, once it has lasted for `PATIENCE` calls: a fresh encoder starts out with a small KL."""
        gone = logs.get("rate", math.inf) < 0.1 or logs.get("active_units", math.inf) < 0.5
        self._collapsed = self._collapsed + 1 if gone else 0
        if self._collapsed < PATIENCE:
            return []
        config = self.config
        return [
            f"posterior collapse: none of the {config.latent} latents is active (a rate near 0 nats), "
            "so the decoder ignores the code and every image of a class looks the same; lower beta (now "
            f"{config.beta:g}), set kl_warmup or free_bits, lower the learning rate or train longer"
        ]


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) in nats, summed over the latents: ``[B]``."""
    return latent_kl(mu, logvar).sum(1)


def importance_bound(log_weights: Tensor) -> Tensor:
    """log 1/k Σ_i w_i of the logarithms ``[B, k]`` of importance weights: ``[B]`` (Burda et al. 2015, eq. 8)."""
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def _observation(config: VAEConfig, spec: Spec) -> Observation:
    kind = config.observation
    if spec.vector:
        if kind != "auto":
            raise ValueError(f"observation {kind!r} is one of pixels; vectors have a Gaussian: leave it at 'auto'")
        return Gaussian(spec, config.scale, config.fixed_scale)
    if kind == "auto":
        kind = "bernoulli" if spec.levels == 2 else "logistic"
    if kind == "bernoulli":
        return Bernoulli(spec)
    return DiscretisedLogistic(spec, config.scale, config.fixed_scale) if kind == "logistic" else L2(spec)


def _dtype(module: torch.nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
