"""What denoising diffusion and flow matching share: a U-Net that denoises x_t, and all that follows from one.

A family of this kind says which path leads from image to noise (a `Schedule`), what its network predicts, and how it
is trained. Sampling, encoding and both likelihoods are functions of the denoiser alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from trilemma.families.diffusion.completion import RePaintOptions, repaint
from trilemma.families.diffusion.estimate import (
    Denoiser,
    Estimate,
    Prediction,
    Watch,
    clipping,
    read,
    watched,
)
from trilemma.families.diffusion.exact import Angular, Dequantize, flow_log_density, flow_log_likelihood
from trilemma.families.diffusion.likelihood import (
    Chain,
    Guess,
    RowDenoiser,
    fit_chain,
    noised_bound,
    variational_bound,
)
from trilemma.families.diffusion.network import check_net, network
from trilemma.families.diffusion.options import SAMPLERS, DiffusionOptions
from trilemma.families.diffusion.samplers import ddim_encode
from trilemma.families.diffusion.schedule import Schedule, rowwise
from trilemma.families.diffusion.solvers import NOISE
from trilemma.families.family import Completes, Completion, Denoises, Family, Likelihood, Progress, Way
from trilemma.images import Spec, check_images
from trilemma.machine import autocast
from trilemma.noise import Noise


class Denoising(Family, Completes, Denoises):
    """The abstract base: a U-Net and a path; see `Diffusion` and `Flow`.

    Args:
        config: has the fields of the network, ``width`` to ``patch``.
        schedule: the path x_t = α_t x_0 + σ_t ε.
        prediction: what the network gives; see `read`.
        learned_variance: whether it also gives the share of log β in the variance of each step.
    """

    samplers: ClassVar[Sequence[str]] = tuple(SAMPLERS)
    """The samplers that suit the family, for whoever tries them all."""
    reads_text = True
    Options = DiffusionOptions
    CompletionOptions = RePaintOptions

    def __init__(
        self, config: Any, spec: Spec, schedule: Schedule, prediction: Prediction, *, learned_variance: bool = False
    ) -> None:
        super().__init__(config, spec)
        check_net(config)
        self.schedule, self.prediction, self.learned_variance = schedule, prediction, learned_variance
        self.net = network(config, spec, 2 if learned_variance else 1)
        self.chain = Chain.default(schedule, spec.levels)  # whose bound log p(x) is; see `calibrate`
        self.calibration = 512 if spec.vector else 64  # a vector has few values to judge by

    # The denoiser

    def predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The raw output of the network, float32 even under autocast; x_t [N, C, H, W], t [N] in 1 … T."""
        output: Tensor = self.net(x_t, self.net.at(t.to(x_t), self.schedule.T), labels)
        return output.to(x_t)

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction, and the share of log β in the log-variance where it is learned; the raw -1 … 1 is 0 … 1."""
        if not self.learned_variance:
            return output, None
        prediction, raw = output.chunk(2, 1)
        return prediction, 0.5 * (raw + 1)

    def estimate(self, x_t: Tensor, t: int, labels: Tensor | None, guidance: float = 1.0) -> Estimate:
        """What the network makes of x_t [N, C, H, W] at one time, guided by u + w(c - u) (Ho & Salimans 2022)."""
        times = torch.full((len(x_t),), t, device=x_t.device)
        if labels is None or guidance == 1:
            output, share = self.split(self.predict(x_t, times, labels))
        else:
            null = self.spec.unlabelled(len(labels), labels.device)
            both = self.predict(torch.cat([x_t, x_t]), times.repeat(2), torch.cat([labels, null]))
            (conditional, share), (unconditional, _) = (self.split(half) for half in both.chunk(2))
            output = unconditional + guidance * (conditional - unconditional)
        signal, sigma = float(self.schedule.signal[t]), float(self.schedule.sigma[t])
        estimate = read(output, x_t, signal, sigma, self.prediction)
        return Estimate(estimate.x0, estimate.eps, share)

    def denoiser(self, labels: Tensor | None, guidance: float = 1.0) -> Denoiser:
        """The denoiser that a sampler asks, for images with these labels.

        Raises:
            ValueError: if a guidance weight is given to a model without classes or captions.
        """
        if guidance != 1 and not self.spec.conditional:
            raise ValueError("guidance needs a conditional model: this one was trained without labels or captions")
        return lambda x_t, t: self.estimate(x_t, t, labels, guidance)

    def asked(self, labels: Tensor | None, options: DiffusionOptions, watch: Watch | None = None) -> Denoiser:
        """The denoiser as the options want it: guided, clipped, and watched."""
        denoise = self.denoiser(labels, options.guidance)
        if options.clip and not self.spec.vector:  # vectors have no range
            denoise = clipping(denoise, self.schedule)
        return watched(denoise, watch) if watch else denoise

    # From noise to images and back

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
        *,
        watch: Watch | None = None,
    ) -> Tensor:
        """Images uint8 [N, C, H, W] from given x_T; ``noise`` is used by samplers that add some on the way.

        Args:
            z: x_T, or x at the first of the times of the options, where they have any.
            watch: told of x_t and its estimate at every evaluation.
        """
        options = options or self.Options()
        denoise, times = self.asked(labels, options, watch), options.visits(self.schedule)
        with autocast(z.device, options.precision):
            x0 = SAMPLERS[options.sampler](denoise, self.schedule, times, z, noise, options.walk, progress)
        return self.spec.from_unit(x0)

    @torch.no_grad()
    def encode(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        steps: int = 100,
        options: DiffusionOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """The x_T from which deterministic DDIM leads (nearly) to these images; float [N, C, H, W].

        Of the options only the times, or else the spacing, and the precision are read: guidance and clipping have no
        inverse.
        """
        options = options or DiffusionOptions(precision="fp32")
        x0 = self.spec.to_unit(check_images(x, self.spec)).to(next(self.parameters()).dtype)
        listed = self.schedule.times(min(steps, self.schedule.T), options.spacing)
        times = options.visits(self.schedule) if options.times else listed
        with autocast(x0.device, options.precision):
            return ddim_encode(self.denoiser(labels), self.schedule, times, x0, progress)

    # Keeping a part

    def way(self, known: Tensor, options: RePaintOptions | None = None) -> Way:
        options = options or RePaintOptions()
        steps = len(options.times_below(self.schedule))
        text = f"{steps} steps from noise level {options.level:g}" if options.level < 1 else f"{steps} steps"
        if bool(known.any()):
            text = f"RePaint with {text}, each {options.repeats} times"
        return Way(False, False, f"{text}: approximate")

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        noise: Noise,
        labels: Tensor | None = None,
        options: RePaintOptions | None = None,
        progress: Progress | None = None,
        particles: int = 1,
    ) -> Completion:
        """Keep the ``known`` values of images and draw the others by `repaint`, unweighted: particles do nothing."""
        options = options or RePaintOptions()
        x = check_images(x, self.spec).to(self.device)
        x0 = self.spec.to_unit(x).to(next(self.parameters()).dtype)
        if options.level == 1:
            x0 = torch.where(known.to(x.device), x0, 0)  # the rest is not to be seen, not even in x_T
        denoise, times = self.asked(labels, options), options.times_below(self.schedule)
        kind = options.variance
        if kind == "auto":
            kind = "learned" if self.learned_variance else "large"
        with autocast(self.device, options.precision):
            drawn = repaint(
                denoise, self.schedule, times, x0, known.to(x.device), noise, options.repeats, kind, progress
            )
        images = torch.where(known.to(x.device), x, self.spec.from_unit(drawn))
        return Completion(images, torch.zeros(len(x), dtype=torch.float64))

    # Likelihood

    def row_denoiser(self, labels: Tensor | None) -> RowDenoiser:
        """The estimate of x_0 that the bound asks for, at one time per image."""

        def denoise(x_t: Tensor, t: Tensor) -> Guess:
            output, share = self.split(self.predict(x_t, t.to(x_t.device), labels))
            signal, sigma = (rowwise(table[t], x_t).to(x_t) for table in (self.schedule.signal, self.schedule.sigma))
            x0 = read(output, x_t, signal, sigma, self.prediction).x0
            return Guess(x0 if self.spec.vector else x0.clamp(-1, 1), self.share(share, x0))

        return denoise

    def share(self, told: Tensor | None, x0: Tensor) -> Tensor | float:
        """The share of log β in the log-variance of the steps of the bound: what the network told, or a fixed one.

        A fixed variance is the small one for images. For vectors it is the large one: right where values are spread
        wide beside the first steps, as real-valued ones are (Ho et al. 2020, section 3.2). With the small one, exact
        Gaussians lost 0.5 nats a value.
        """
        if told is not None:
            return told
        return torch.ones_like(x0) if self.spec.vector else 0.0

    @torch.no_grad()
    def calibrate(self, x: Tensor, labels: Tensor | None, noise: Noise) -> None:
        """Choose the decoder and the variances of the reverse chain by `fit_chain`; no weight is changed."""
        x0 = self.spec.to_unit(check_images(x, self.spec)).to(next(self.parameters()).dtype)
        self.chain = fit_chain(
            self.row_denoiser(labels), x0, self.schedule, noise,
            levels=self.spec.levels, learned=self.learned_variance,
        )  # fmt: skip

    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        """The variational bound; ``samples`` is how many of its T terms to evaluate, spread over the times.

        32 by default; all of them for vectors, whose network costs little.
        """
        if samples is not None and samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        T = self.schedule.T
        x0 = self.spec.to_unit(check_images(x, self.spec)).to(next(self.parameters()).dtype)
        terms = T - self.chain.first
        count = min(samples or (T if self.spec.vector else 32), terms)
        nats = variational_bound(
            self.row_denoiser(labels), x0, self.schedule, noise,
            levels=self.spec.levels, samples=count, chain=self.chain,
        )  # fmt: skip
        nats = nats - self.spec.log_volume
        how = "all" if count == terms else f"{count} random"
        reason = (
            f"variational bound of the ancestral chain, {how} of its {terms} terms, {self.chain.told(self.schedule)}"
        )
        return Likelihood("bound", nats, reason)

    def class_evidence(self, x: Tensor, labels: Tensor, noise: Noise, samples: int | None = None) -> Likelihood:
        """The mean over all noise levels of log p(x_s|y) of the noised image, by `noised_bound` at ``samples`` times.

        Differences of the bound on log p(x|y) itself are mostly errors of the network on details that every class
        shares: see ``docs/results.md``.
        """
        if samples is not None and samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        x0 = self.spec.to_unit(check_images(x, self.spec)).to(next(self.parameters()).dtype)
        count = min(samples or 32, self.schedule.T - 1)
        nats = noised_bound(self.row_denoiser(labels), x0, self.schedule, noise, count)
        return Likelihood("estimate", nats, f"mean of the bound on log p(x_s|y) over noise levels s, {count} times")

    def angular_velocity(self, labels: Tensor | None) -> Angular:
        """dy/dφ of the probability-flow equation on the quarter circle (see ``ode.py``), at any angle.

        Between two times of the schedule the network is asked at the time in between.
        """
        angles = self.schedule.angle
        sizes = (self.schedule.alpha_bar + self.schedule.variance).sqrt()  # of x_t against y; 1 if variance-preserving

        def velocity(y: Tensor, phi: Tensor, rows: Tensor) -> Tensor:
            above = torch.searchsorted(angles, phi).clamp(1, self.schedule.T)
            share = (phi - angles[above - 1]) / (angles[above] - angles[above - 1])
            size = sizes[above - 1] + share * (sizes[above] - sizes[above - 1])
            cosine, sine, size = (rowwise(v, y).to(y) for v in (phi.cos(), phi.sin(), size))
            given = None if labels is None else labels[rows.to(labels.device)]
            x_t = size * y
            output, _ = self.split(self.predict(x_t, (above - 1 + share).to(y.device), given))
            estimate = read(output, x_t, size * cosine, size * sine, self.prediction)
            if self.spec.vector:
                return cosine * estimate.eps - sine * estimate.x0
            # The estimate of the image is clamped to the range of pixels, as in sampling: dy/dφ with ε from the rest.
            return (cosine * y - estimate.x0.clamp(-1, 1)) / sine

        return velocity

    def flow_log_likelihood(
        self,
        x: Tensor,
        labels: Tensor | None,
        noise: Noise,
        *,
        dequantize: Dequantize = "decoder",
        tolerance: float = 1e-4,
    ) -> tuple[Tensor, Tensor]:
        """log P(x) of uint8 [N, C, H, W] by the probability-flow equation: see `exact.flow_log_likelihood`.

        Of float32 [N, D] vectors the density, in nats: see `exact.flow_log_density`.
        """
        x0 = self.spec.to_unit(check_images(x, self.spec)).to(next(self.parameters()).dtype)
        if self.spec.vector:
            visible = int((self.schedule.sigma <= NOISE * self.schedule.signal).sum()) - 1
            ends = {"x0": (1, -1), "noise": (0, visible)}.get(self.prediction, (0, -1))
            density, evaluations = flow_log_density(
                self.angular_velocity(labels), x0, self.schedule, noise,
                first=ends[0], last=ends[1], tolerance=tolerance,
            )  # fmt: skip
            return density - self.spec.log_volume, evaluations
        return flow_log_likelihood(
            self.angular_velocity(labels),
            self.row_denoiser(labels),
            x0,
            self.schedule,
            noise,
            levels=self.spec.levels,
            dequantize=dequantize,
            tolerance=tolerance,
            chain=self.chain,
        )
