"""Denoising diffusion probabilistic models (Ho et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from trilemma.families.diffusion.base import Denoising
from trilemma.families.diffusion.bound import StepTables, divergence, log_bin_mass
from trilemma.families.diffusion.clock import Clock, ClockName
from trilemma.families.diffusion.denoiser import Estimate, read
from trilemma.families.diffusion.network import NetworkConfig, check_choice
from trilemma.families.diffusion.options import DiffusionOptions, Extended
from trilemma.families.diffusion.schedule import Schedule, ScheduleName, rowwise
from trilemma.families.family import Density, Loss, Objective
from trilemma.images import Spec
from trilemma.noise import Noise
from trilemma.validate import Limits

__all__ = ["Diffusion", "DiffusionConfig", "DiffusionOptions"]

HYBRID = 0.001
"""λ of L_hybrid = L_simple + λ L_vlb, the bound in bits/dim (Nichol & Dhariwal 2021, section 3.1)."""


@dataclass(frozen=True)
class DiffusionConfig(NetworkConfig):
    """Hyperparameters of the chain and its training."""

    timesteps: Annotated[int, Limits(2, 100_000)] = 1000
    """T, the length of the chain"""
    schedule: ScheduleName = "cosine"
    """linear: Ho et al. 2020; cosine: Nichol & Dhariwal 2021, better for small images; snr: equal steps of the
    logarithm of the signal-to-noise ratio"""
    betas: Annotated[tuple[float, float], Limits(above=0, below=1)] | None = None
    """linear only: the first and the last beta as they are, in place of Ho et al. 2020's scaled by 1000/T; for models
    from elsewhere"""
    prediction: Literal["noise", "x0", "v"] = "v"
    """what the network predicts: the noise (Ho et al. 2020), the image (x0), or v = sqrt(a)·eps - sqrt(1-a)·x0
    (Salimans & Ho 2022)"""
    weighting: Literal["simple", "min-snr"] = "simple"
    """simple: the plain squared error of the prediction; min-snr: Hang et al. 2023, with gamma = 5"""
    objective: Literal["simple", "bound", "hybrid"] = "simple"
    """simple: the weighted squared error; bound: the variational bound itself, a term of it per image; hybrid: simple
    plus a thousandth of the bound, which then teaches the variance alone (Nichol & Dhariwal 2021)"""
    variance: Literal["fixed", "learned"] = "fixed"
    """learned: the network also says the variance of each step, between beta-tilde and beta; needs bound or hybrid"""
    times: ClockName = "uniform"
    """how t is drawn in training: uniform; log-uniform; loss-aware, where the loss varies most (Nichol & Dhariwal
    2021); each with weights that keep the loss the same on average"""


class Diffusion(Denoising):
    """Denoising diffusion with a time-conditioned U-Net.

    Trained on L_simple (eq. 14), the squared error of the predicted noise, or, by default, on the squared error of v:
    the same error weighted by 1 + 1/SNR, which does not lose the noisy times. Sampled by any of `samplers`; scored by
    the variational bound, which may also be what it is trained on, with the learned reverse variance or a fixed one:
    the small one of images, the large one of vectors.
    """

    name = "diffusion"
    known_as: ClassVar[Mapping[str, str]] = {"ddpm": "", "ddim": "", "dpm": "", "score": "", "unet": ""}
    title = "Denoising diffusion (DDPM)"
    paper = "Ho, Jain and Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239"
    density = Density.APPROXIMATE
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "yes, in many steps",
        "p(x)": "bound: the variational bound, or the probability-flow equation",
        "p(z|x)": "yes, by the fixed forward chain: z is the image plus noise",
        "complete": "approximate: known pixels are replaced, noised, at every step",
        "interpolate": "yes, in noise space with DDIM",
        "classify": "approximate: by comparing bounds of noised images, when class-conditional",
    }
    gives_up = "fast sampling"
    Config = DiffusionConfig
    Options = Extended(DiffusionOptions)

    def __init__(self, config: DiffusionConfig, spec: Spec, schedule: Schedule | None = None) -> None:
        """``schedule`` is one that no name stands for, of an imported model."""
        check_config(config)
        schedule = schedule or Schedule.named(config.schedule, config.timesteps, config.betas)
        super().__init__(config, spec, schedule, config.prediction, learned_variance=config.variance == "learned")
        self.clock = Clock(schedule.T, config.times)
        # What training looks up per image, in float32 on the device, indexed by t = 0 … T. Functions of the config, so
        # not saved.
        tables = StepTables.of(schedule)
        self.decoder = tables.decoder
        self.signal: Tensor
        self.sigma: Tensor
        self.weight: Tensor
        self.gap: Tensor
        self.step_weight: Tensor
        for name, table in (
            ("signal", schedule.signal),
            ("sigma", schedule.sigma),
            ("weight", loss_weight(schedule, config)),
            ("gap", tables.gap),
            ("step_weight", tables.weight),
        ):
            self.register_buffer(name, table.float(), persistent=False)

    def objectives(self) -> Sequence[Objective]:
        return [Objective("denoise", list(self.net.parameters()), self.loss)]

    def loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        """The error at one random time per image.

        Terms: ``mse``, the mean squared error, and ``bound``, the variational bound in bits/dim (times `HYBRID` in the
        hybrid objective), without its constant L_T. Logs: ``mse q1`` … ``mse q4``, the unweighted error by quarter of
        the times, q1 the least noisy. Each is estimated over the whole batch (times 4), so it stays defined when a
        quarter goes undrawn.
        """
        config = self.config
        x0 = self.spec.to_unit(x)
        t, importance = self.clock.draw(noise)  # [B], 1 … T
        eps = noise.normal(*self.spec.shape)
        signal, sigma = rowwise(self.signal[t], x0), rowwise(self.sigma[t], x0)
        x_t = signal * x0 + sigma * eps
        output, share = self.split(self.predict(x_t, t, labels))
        target = {"noise": eps, "x0": x0, "v": signal * eps - sigma * x0}[config.prediction]
        errors = (output - target).square().flatten(1).mean(1)  # [B]
        weighed = self.weight[t] * errors
        losses = {"mse": weighed}
        if config.objective != "simple":
            # The hybrid bound must not move the mean, which L_simple teaches better.
            told = output.detach() if config.objective == "hybrid" else output
            bits = self.bound_at(x0, read(told, x_t, signal, sigma, self.prediction)._replace(share=share), t)
            losses = {"bound": bits} if config.objective == "bound" else {"mse": weighed, "bound": HYBRID * bits}
        if self.training:
            self.clock.hear(t, torch.stack(list(losses.values())).sum(0))
        if importance is not None:
            losses = {name: importance * values for name, values in losses.items()}
            errors = importance * errors
        quarter = (t - 1) * 4 // self.schedule.T
        logs = {f"mse q{k + 1}": 4 * (errors.detach() * (quarter == k)).mean() for k in range(4)}
        return Loss({name: values.mean() for name, values in losses.items()}, logs)

    def bound_at(self, x0: Tensor, estimate: Estimate, t: Tensor) -> Tensor:
        """T times the term of the bound that belongs to x_t, in bits/dim, [B]: its mean over t is the whole bound.

        L_0 at t = 1 and L_{t-1} above it; L_T, which no network changes, is left out.
        """
        share = self.share(estimate.share, x0)
        gap, weight = rowwise(self.gap[t], x0), rowwise(self.step_weight[t], x0)
        between = divergence(x0 - estimate.x0, share, gap, weight)
        std, gap_1 = self.decoder
        wide = std if isinstance(share, float) else std * (0.5 * gap_1 * share).exp()
        # The other rows are kept near, where nothing overflows, and then not used.
        first = rowwise(t == 1, x0)
        mean = torch.where(first, estimate.x0, x0)
        terms = torch.where(first, -log_bin_mass(x0, mean, wide, self.spec.levels), between)
        return terms.flatten(1).mean(1) * (self.schedule.T / math.log(2))


def check_config(config: DiffusionConfig) -> None:
    """Raise ``ValueError`` with one line on the first value that will not do."""
    check_choice("prediction", config.prediction, ("noise", "x0", "v"))
    check_choice("weighting", config.weighting, ("simple", "min-snr"))
    check_choice("objective", config.objective, ("simple", "bound", "hybrid"))
    check_choice("variance", config.variance, ("fixed", "learned"))
    check_choice("times", config.times, ("uniform", "log-uniform", "loss-aware"))
    if config.betas is not None and config.schedule != "linear":
        raise ValueError(f"betas belong to the schedule linear, not to {config.schedule}: leave one of the two out")
    if config.variance == "learned" and config.objective == "simple":
        raise ValueError("a learned variance needs the objective hybrid or bound: simple teaches it nothing")
    if config.variance == "fixed" and config.objective == "hybrid":
        raise ValueError("the hybrid objective needs variance learned: its bound teaches nothing else")


def loss_weight(schedule: Schedule, config: DiffusionConfig) -> Tensor:
    """The weight of the squared error at t = 0 … T, float64 [T+1]; min-SNR as in Hang et al. 2023, section 3.4."""
    if config.weighting == "simple":
        return torch.ones(schedule.T + 1, dtype=torch.float64)
    snr = schedule.snr(torch.arange(schedule.T + 1)).clamp(max=1e12)  # infinite at t = 0, which is never drawn
    capped = snr.clamp(max=5.0)
    return {"noise": capped / snr, "x0": capped, "v": capped / (snr + 1)}[config.prediction]
