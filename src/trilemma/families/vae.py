"""The variational autoencoder (Kingma & Welling 2013, "Auto-encoding variational Bayes", arXiv 1312.6114).

A latent z ~ N(0, I) is decoded to p(x|z). Its evidence log p(x) = log ∫ p(x|z) p(z) dz is out of reach, so an encoder
q(z|x) = N(μ, std²) is trained with it on the bound (eq. 3)

    log p(x) ≥ E_q[log p(x|z)] - KL(q(z|x) ‖ p(z)),

whose expectation is differentiated through z = μ + std · ε (the reparameterisation trick, eq. 10).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trilemma.families.family import Density, Family, Likelihood, Loss, Objective, Progress
from trilemma.families.observation import L2, Bernoulli, DiscretisedLogistic, Observation, at_least_float32
from trilemma.images import Spec, to_unit
from trilemma.nets.convnets import Decoder, Encoder
from trilemma.noise import Noise

PATIENCE = 5
"""Lines of the training log that the KL must stay near 0 before it is an alarm."""


@dataclass(frozen=True)
class VAEConfig:
    """Hyperparameters of `VAE`."""

    width: int = 48
    """Channels at half the image's resolution; they double with each halving."""
    depth: int = 1
    """Residual blocks at each resolution, in the encoder and in the decoder."""
    latent: int = 32
    """Dimensions of z."""
    observation: Literal["auto", "bernoulli", "logistic", "l2"] = "auto"
    """p(x|z): Bernoulli pixels (auto for 2 levels), discretised logistic (auto for 256) or the plain L2 distance."""
    scale: Literal["pixel", "channel"] = "pixel"
    """Where the logistic's width is learnt: for each pixel as a function of z, or as one number a channel."""
    beta: float = 1.0
    """Weight of the KL; 1 is the bound, more trades reconstruction for a simpler code (Higgins et al. 2017)."""


@dataclass(frozen=True)
class VAEOptions:
    """How `VAE.sample` draws."""

    draw: Literal["mean", "sample"] = "mean"
    """``mean``: z is random, the image is the centre of p(x|z), as pictures of VAEs are shown; ``sample``: the pixel
    noise of p(x|z) is drawn too, which is what the likelihood speaks of."""


class VAE(Family):
    """Encoder q(z|x, y), decoder p(x|z, y), trained on the evidence lower bound.

    Loss terms, in nats per image: ``reconstruction``, -log p(x|z) summed over the pixels, and ``kl``, the KL summed
    over the latents and multiplied by β. ``sample`` shows the mean image of p(x|z) unless ``Options.draw`` says
    otherwise: without the pixel noise it is cleaner than the model is.
    """

    name: ClassVar[str] = "vae"
    title: ClassVar[str] = "Variational autoencoder"
    paper: ClassVar[str] = "Kingma & Welling 2013, Auto-encoding variational Bayes, arXiv:1312.6114"
    density: ClassVar[Density] = Density.APPROXIMATE
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "yes, in one pass; by default the mean image of p(x|z), without its pixel noise",
        "p(x)": "bound: the evidence lower bound, tightened by importance sampling",
        "p(z|x)": "approximate: the encoder's Gaussian q(z|x)",
        "complete": "approximate: by a search for the codes that explain the known part",
        "interpolate": "yes, between codes",
        "classify": "approximate: by comparing bounds, when class-conditional",
    }
    gives_up: ClassVar[str] = "sample quality"
    Config: ClassVar[type] = VAEConfig
    Options: ClassVar[type] = VAEOptions

    def __init__(self, config: VAEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.observation = _observation(config, spec)
        self._collapsed = 0
        self.encoder = Encoder(spec.shape, config.width, config.depth, 2 * config.latent, spec.classes)
        self.decoder = Decoder(
            spec.shape, config.width, config.depth, config.latent, self.observation.outputs, spec.classes
        )

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x, y) for uint8 ``[B, C, H, W]`` images: two ``[B, latent]``."""
        moments = at_least_float32(self.encoder(to_unit(x, self.spec.levels).to(_dtype(self)), labels))
        mu, logvar = moments.chunk(2, dim=1)
        return mu, logvar.clamp(-20, 10)  # e^10 is far beyond any use and keeps exp finite

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean images of p(x|z, y), uint8 ``[B, C, H, W]``, for codes ``[B, latent]``."""
        return self.observation.mean(self.decoder(z.to(_dtype(self)), labels))

    def objectives(self) -> list[Objective]:
        return [Objective("elbo", list(self.parameters()), self._loss)]

    def _loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        mu, logvar = self.encode(x, labels)
        z = mu + torch.exp(0.5 * logvar) * noise.normal(self.config.latent).to(mu.dtype)
        reconstruction = self.observation.nats(x, self.decoder(z, labels)).mean()
        kl = gaussian_kl(mu, logvar).mean()
        logs = {"bits_per_dim": (reconstruction + kl).detach() / (self.spec.dims * math.log(2))}
        if isinstance(self.observation, L2):
            logs = {}  # its "nats" are not those of the discrete image
        return Loss({"reconstruction": reconstruction, "kl": self.config.beta * kl}, logs)

    @torch.no_grad()
    def sample(
        self,
        noise: Noise,
        labels: Tensor | None = None,
        options: VAEOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        decoded = self.decoder(noise.normal(self.config.latent).to(_dtype(self)), labels)
        if (options or VAEOptions()).draw == "mean":
            return self.observation.mean(decoded)
        return self.observation.draw(decoded, noise.uniform(*self.spec.shape))

    @torch.no_grad()
    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        """The ELBO with one draw of z and the KL in closed form; with ``samples`` = k the tighter importance-weighted
        bound log 1/k Σ p(x|z_i) p(z_i) / q(z_i|x) (Burda et al. 2015, eq. 8), for k = 1 the ELBO with its KL drawn too.
        """
        if isinstance(self.observation, L2):
            reason = "the L2 reconstruction dropped the variance of p(x|z), so the loss bounds nothing"
            return Likelihood("undefined", None, reason)
        if samples is not None and samples < 1:
            raise ValueError(f"a VAE's likelihood needs at least 1 importance sample, not {samples}")
        mu, logvar = self.encode(x, labels)
        if samples is None:
            z = mu + torch.exp(0.5 * logvar) * noise.normal(self.config.latent).to(mu.dtype)
            nats = -self.observation.nats(x, self.decoder(z, labels)) - gaussian_kl(mu, logvar)
            return Likelihood("bound", nats, "evidence lower bound with one draw of the code for each image")
        total = torch.full_like(mu[:, 0], -torch.inf)
        for _ in range(samples):
            eps = noise.normal(self.config.latent).to(mu.dtype)
            z = mu + torch.exp(0.5 * logvar) * eps
            log_ratio = 0.5 * (eps.square() + logvar - z.square()).sum(1)  # log p(z) - log q(z|x)
            total = torch.logaddexp(total, log_ratio - self.observation.nats(x, self.decoder(z, labels)))
        reason = f"importance-weighted bound with {samples} draws of the code for each image"
        return Likelihood("bound", total - math.log(samples), reason)

    def alarms(self, logs: Mapping[str, float]) -> list[str]:
        """Posterior collapse, once it has lasted for `PATIENCE` calls: a fresh encoder starts out with a small KL."""
        kl, beta = logs.get("kl", math.inf), self.config.beta
        self._collapsed = self._collapsed + 1 if kl < 0.1 * beta else 0
        if self._collapsed < PATIENCE:
            return []
        return [
            "posterior collapse: the KL is below 0.1 nats per image, so the decoder ignores the code and "
            f"every image of a class looks the same; lower beta (now {beta:g}), lower the learning rate or train longer"
        ]


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) in nats, summed over the latents: ``[B]`` (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def _observation(config: VAEConfig, spec: Spec) -> Observation:
    kind = config.observation
    if kind == "auto":
        kind = "bernoulli" if spec.levels == 2 else "logistic"
    if kind == "bernoulli":
        return Bernoulli(spec)
    return DiscretisedLogistic(spec, config.scale) if kind == "logistic" else L2(spec)


def _dtype(module: torch.nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
