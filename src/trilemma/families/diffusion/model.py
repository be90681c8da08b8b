"""Denoising diffusion probabilistic models (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trilemma.families.diffusion.likelihood import variational_bound
from trilemma.families.diffusion.samplers import SAMPLERS, Denoiser, DiffusionOptions, Estimate, ddim_encode
from trilemma.families.diffusion.schedule import Schedule, ScheduleName
from trilemma.families.family import Density, Family, Likelihood, Loss, Objective, Progress
from trilemma.images import Spec, check_images, from_unit, to_unit
from trilemma.nets.unet import UNet
from trilemma.noise import Noise
from trilemma.parallel import autocast

__all__ = ["Diffusion", "DiffusionConfig", "DiffusionOptions"]


@dataclass(frozen=True)
class DiffusionConfig:
    """Hyperparameters; the defaults are those of the ``tiny`` preset."""

    width: int = 48
    """channels at the highest resolution, a multiple of 16"""
    multipliers: tuple[int, ...] = (1, 1, 2)
    """width of each level as a multiple of width; each level halves the resolution"""
    blocks: int = 1
    """residual blocks a level, down and up"""
    attention: int = 1
    """how many of the deepest levels have self-attention"""
    patch: Literal[1, 2] = 2
    """work on pixels (1) or on 2 x 2 patches of them (2), four times cheaper"""
    timesteps: int = 1000
    """T, the length of the chain"""
    schedule: ScheduleName = "cosine"
    """linear: Ho et al. 2020; cosine: Nichol & Dhariwal 2021, better for small images"""
    prediction: Literal["noise", "v"] = "v"
    """what the network predicts: the noise (Ho et al. 2020) or v = sqrt(a)·eps - sqrt(1-a)·x0 (Salimans & Ho 2022)"""
    weighting: Literal["simple", "min-snr"] = "simple"
    """simple: the plain squared error of the prediction; min-snr: Hang et al. 2023, with gamma = 5"""


class Diffusion(Family):
    """Denoising diffusion with a time-conditioned U-Net.

    Trained on L_simple (eq. 14), the squared error of the predicted noise, or, by default, on the squared error of v:
    the same error weighted by 1 + 1/SNR, which does not lose the noisy times. Sampled by DDIM or DDPM; scored by the
    variational bound with the small reverse variance.
    """

    name = "diffusion"
    title = "Denoising diffusion (DDPM)"
    paper = "Ho, Jain and Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239"
    density = Density.APPROXIMATE
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "yes, in many steps",
        "p(x)": "bound: the variational bound",
        "p(z|x)": "yes, by the fixed forward chain: z is the image plus noise",
        "complete": "approximate: known pixels are replaced, noised, at every step",
        "interpolate": "yes, in noise space with DDIM",
        "classify": "approximate: by comparing bounds, when class-conditional",
    }
    gives_up = "fast sampling"
    Config = DiffusionConfig
    Options = DiffusionOptions

    def __init__(self, config: DiffusionConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        check_config(config)
        self.schedule = Schedule.named(config.schedule, config.timesteps)
        self.net = UNet(
            spec.channels,
            width=config.width,
            multipliers=tuple(config.multipliers),
            blocks=config.blocks,
            attention=config.attention,
            classes=spec.classes,
            patch=config.patch,
        )
        # What training looks up per image, in float32 on the device, indexed by t = 0 … T. Functions of the config, so
        # not saved.
        self.signal: Tensor
        self.sigma: Tensor
        self.weight: Tensor
        self.register_buffer("signal", self.schedule.alpha_bar.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - self.schedule.alpha_bar).sqrt().float(), persistent=False)
        self.register_buffer("weight", loss_weight(self.schedule, config).float(), persistent=False)

    def objectives(self) -> Sequence[Objective]:
        return [Objective("denoise", list(self.net.parameters()), self.loss)]

    def loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        """The mean squared error at one random time per image.

        Logs: ``mse q1`` … ``mse q4``, the unweighted error by quarter of the times, q1 the least noisy. Each is
        estimated over the whole batch (times 4), so it stays defined when a quarter goes undrawn.
        """
        x0 = to_unit(x, self.spec.levels)
        t = noise.integers(self.schedule.T) + 1  # [B], 1 … T
        eps = noise.normal(*self.spec.shape)
        signal, sigma = self.signal[t][:, None, None, None], self.sigma[t][:, None, None, None]
        output = self.predict(signal * x0 + sigma * eps, t, labels)
        target = eps if self.config.prediction == "noise" else signal * eps - sigma * x0
        errors = (output - target).square().flatten(1).mean(1)  # [B]
        quarter = (t - 1) * 4 // self.schedule.T
        logs = {f"mse q{k + 1}": 4 * (errors.detach() * (quarter == k)).mean() for k in range(4)}
        return Loss({"mse": (self.weight[t] * errors).mean()}, logs)

    def predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The raw output of the network, float32 even under autocast; x_t [N, C, H, W], t int64 [N] in 1 … T."""
        output: Tensor = self.net(x_t, t.to(x_t) * (1000 / self.schedule.T), labels)
        return output.to(x_t)

    def estimate(self, x_t: Tensor, t: int, labels: Tensor | None, guidance: float = 1.0) -> Estimate:
        """What the network makes of x_t [N, C, H, W] at one time, guided by u + w(c - u) (Ho & Salimans 2022)."""
        times = torch.full((len(x_t),), t, device=x_t.device)
        if labels is None or guidance == 1:
            output = self.predict(x_t, times, labels)
        else:
            null = torch.full_like(labels, self.spec.classes)
            both = self.predict(x_t.repeat(2, 1, 1, 1), times.repeat(2), torch.cat([labels, null]))
            conditional, unconditional = both.chunk(2)
            output = unconditional + guidance * (conditional - unconditional)
        a_t = self.schedule.alpha_bar[t]
        signal, sigma = float(a_t.sqrt()), float((1 - a_t).sqrt())
        if self.config.prediction == "noise":
            return Estimate((x_t - sigma * output) / signal, output)
        return Estimate(signal * x_t - sigma * output, sigma * x_t + signal * output)

    def denoiser(self, labels: Tensor | None, guidance: float = 1.0) -> Denoiser:
        """The denoiser that a sampler asks, for images with these labels.

        Raises:
            ValueError: if a guidance weight is given to a model without classes.
        """
        if guidance != 1 and not self.spec.classes:
            raise ValueError("guidance needs a class-conditional model: this one was trained without labels")
        return lambda x_t, t: self.estimate(x_t, t, labels, guidance)

    @torch.no_grad()
    def sample(
        self,
        noise: Noise,
        labels: Tensor | None = None,
        options: DiffusionOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        return self.decode(self.latent(noise), noise, labels, options, progress)

    def latent(self, noise: Noise) -> Tensor:
        """x_T, float [N, C, H, W]."""
        return noise.normal(*self.spec.shape).to(next(self.parameters()).dtype)

    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        noise: Noise,
        labels: Tensor | None = None,
        options: DiffusionOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Images uint8 [N, C, H, W] from given x_T; ``noise`` is used by samplers that add some on the way."""
        options = options or DiffusionOptions()
        denoise = self.denoiser(labels, options.guidance)
        times = options.times(self.schedule)
        with autocast(z.device, options.precision):
            x0 = SAMPLERS[options.sampler](denoise, self.schedule, times, z, noise, options, progress)
        return from_unit(x0, self.spec.levels)

    @torch.no_grad()
    def encode(self, x: Tensor, labels: Tensor | None = None, steps: int = 100) -> Tensor:
        """The x_T from which deterministic DDIM leads (nearly) to these images; float [N, C, H, W]."""
        x0 = to_unit(check_images(x, self.spec), self.spec.levels).to(next(self.parameters()).dtype)
        times = self.schedule.times(min(steps, self.schedule.T), "trailing")
        return ddim_encode(self.denoiser(labels), self.schedule, times, x0)

    @torch.no_grad()
    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        """The variational bound; ``samples`` is how many of its T terms to evaluate, spread over the times (32)."""
        if samples is not None and samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        T = self.schedule.T
        x0 = to_unit(check_images(x, self.spec), self.spec.levels).to(next(self.parameters()).dtype)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            output = self.predict(x_t, t.to(x_t.device), labels)
            a_t = self.schedule.alpha_bar[t][:, None, None, None]
            signal, sigma = a_t.sqrt().to(x_t), (1 - a_t).sqrt().to(x_t)
            x0 = (x_t - sigma * output) / signal if self.config.prediction == "noise" else signal * x_t - sigma * output
            return x0.clamp(-1, 1)  # where every image lies, so this only tightens the bound

        count = min(samples or 32, T - 1)
        nats = variational_bound(denoise, x0, self.schedule, noise, levels=self.spec.levels, samples=count)
        how = "all" if count == T - 1 else f"{count} random"
        return Likelihood("bound", nats, f"variational bound, {how} of the {T - 1} terms of the chain")


def check_config(config: DiffusionConfig) -> None:
    """Raise ``ValueError`` with one line on the first value that will not do."""
    if config.width < 16 or config.width % 16:
        raise ValueError(f"width must be a positive multiple of 16, not {config.width}")
    if not config.multipliers or min(config.multipliers) < 1:
        raise ValueError(f"multipliers must be positive whole numbers, not {config.multipliers}")
    if config.blocks < 1:
        raise ValueError(f"blocks must be at least 1, not {config.blocks}")
    if config.patch not in (1, 2):
        raise ValueError(f"patch must be 1 or 2, not {config.patch}")
    if config.prediction not in ("noise", "v"):
        raise ValueError(f"there is no prediction {config.prediction!r}: choose noise or v")
    if config.weighting not in ("simple", "min-snr"):
        raise ValueError(f"there is no weighting {config.weighting!r}: choose simple or min-snr")


def loss_weight(schedule: Schedule, config: DiffusionConfig) -> Tensor:
    """The weight of the squared error at t = 0 … T, float64 [T+1]; min-SNR as in Hang et al. 2023, section 3.4."""
    if config.weighting == "simple":
        return torch.ones(schedule.T + 1, dtype=torch.float64)
    snr = schedule.snr(torch.arange(schedule.T + 1)).clamp(max=1e12)  # infinite at t = 0, which is never drawn
    capped = snr.clamp(max=5.0)
    return capped / snr if config.prediction == "noise" else capped / (snr + 1)
