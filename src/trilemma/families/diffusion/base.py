"""What denoising diffusion and flow matching share: a U-Net that denoises x_t, and all that follows from one.

A family of this kind says which path leads from image to noise (a `Schedule`), what its network predicts, and how it
is trained. Everything else is a function of its denoiser, named here with the file that it stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trilemma.families.diffusion.bound import Chain, variational_bound
from trilemma.families.diffusion.calibration import fit_chain
from trilemma.families.diffusion.denoiser import (
    Denoiser,
    Estimate,
    Network,
    Prediction,
    Watch,
    clipped,
    guided,
    read,
    watched,
)
from trilemma.families.diffusion.evidence import noised_bound
from trilemma.families.diffusion.flow_density import (
    Dequantize,
    Velocity,
    flow_log_density,
    flow_log_likelihood,
    flow_velocity,
)
from trilemma.families.diffusion.network import check_net, network
from trilemma.families.diffusion.options import DiffusionOptions, DrawingOptions, Extended
from trilemma.families.diffusion.repaint import RePaintOptions, repaint
from trilemma.families.diffusion.samplers import DDPM, NOISE, ddim_encode, samplers
from trilemma.families.diffusion.schedule import Schedule
from trilemma.families.family import Completes, Completion, CompletionMethod, Denoises, Family, Likelihood, Progress
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

    reads_text = True
    Options = Extended(DiffusionOptions)
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

    # The denoiser: denoiser.py

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

    def estimate(self, x_t: Tensor, t: int | Tensor, labels: Tensor | None, guidance: float | Tensor = 1.0) -> Estimate:
        """What the network makes of x_t [N, C, H, W] at one time or one for each row, `guided` where asked for.

        ``guidance`` may be a weight for each row, [N, 1, …].
        """

        def ask(x_t: Tensor, t: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
            return self.split(self.predict(x_t, t, labels))

        predict: Network = ask
        if labels is not None and (isinstance(guidance, Tensor) or guidance != 1):
            predict = guided(ask, self.spec.unlabelled(len(labels), labels.device), guidance)
        times = t if isinstance(t, Tensor) else torch.full((len(x_t),), t)
        output, share = predict(x_t, times.to(x_t.device), labels)
        signal, sigma = self.schedule.at(t, x_t)
        return read(output, x_t, signal, sigma, self.prediction)._replace(share=share)

    def denoiser(self, labels: Tensor | None, guidance: float = 1.0) -> Denoiser:
        """The denoiser of images with these labels.

        Raises:
            ValueError: if a guidance weight is given to a model without classes or captions.
        """
        if guidance != 1 and not self.spec.conditional:
            raise ValueError("guidance needs a conditional model: this one was trained without labels or captions")
        return lambda x_t, t: self.estimate(x_t, t, labels, guidance)

    def drawing_denoiser(self, labels: Tensor | None, options: DrawingOptions, watch: Watch | None = None) -> Denoiser:
        """The denoiser as the options want it: guided, clipped, and watched."""
        denoise = self.denoiser(labels, options.guidance)
        if options.clip and not self.spec.vector:  # vectors have no range
            denoise = clipped(denoise, self.schedule)
        return watched(denoise, watch) if watch else denoise

    def bound_denoiser(self, labels: Tensor | None) -> Denoiser:
        """The denoiser whose bound log p(x) is: clipped, and with the variance of each step."""
        denoise = self.denoiser(labels)
        if not self.spec.vector:
            denoise = clipped(denoise, self.schedule)

        def with_share(x_t: Tensor, t: int | Tensor) -> Estimate:
            estimate = denoise(x_t, t)
            return estimate._replace(share=self.share(estimate.share, estimate.x0))

        return with_share

    def share(self, told: Tensor | float | None, x0: Tensor) -> Tensor | float:
        """The share of log β in the log-variance of the steps of the bound: what the network told, or a fixed one.

        A fixed variance is the small one for images. For vectors it is the large one: right where values are spread
        wide beside the first steps, as real-valued ones are (Ho et al. 2020, section 3.2). With the small one, exact
        Gaussians lost 0.5 nats a value.
        """
        if told is not None:
            return told
        return torch.ones_like(x0) if self.spec.vector else 0.0

    # From noise to images and back: samplers.py, options.py

    @property
    def samplers(self) -> Sequence[str]:
        """The samplers that suit the family, for whoever tries them all."""
        return tuple(samplers())

    def check_conditions(self, options: Any, conditions: Tensor | None) -> None:
        """Refuse a weight of guidance of images of which none has a label or a caption.

        Guidance would then cost a second evaluation each step and change nothing: u + w(u - u).
        """
        if options is None or options.guidance == 1 or not self.spec.conditional:
            return
        if conditions is None or torch.equal(conditions.cpu(), self.spec.unlabelled(len(conditions))):
            raise ValueError(
                f"guidance {options.guidance:g} has nothing to lean to without labels or text: give some, or leave it "
                "out"
            )

    @torch.no_grad()
    def sample(
        self,
        noise: Noise,
        labels: Tensor | None = None,
        options: DrawingOptions | None = None,
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
        options: DrawingOptions | None = None,
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
        denoise, times = self.drawing_denoiser(labels, options, watch), options.visits(self.schedule)
        with autocast(z.device, options.precision):
            x0 = options.method.sample(denoise, self.schedule, times, z, noise, progress)
        return self.spec.from_unit(x0)

    @torch.no_grad()
    def encode(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        options: DrawingOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """The x_T from which deterministic DDIM leads (nearly) to these images; float [N, C, H, W].

        Of the options, by default 100 steps in fp32, only the times and the precision are read: guidance and clipping
        have no inverse.
        """
        options = options or DiffusionOptions(steps=min(100, self.schedule.T), precision="fp32")
        with autocast(self.device, options.precision):
            return ddim_encode(
                self.denoiser(labels), self.schedule, options.visits(self.schedule), self.unit(x), progress
            )

    def unit(self, x: Tensor) -> Tensor:
        """Images or vectors as the network knows them, float [N, C, H, W] on [-1, 1]."""
        return self.spec.to_unit(check_images(x, self.spec)).to(next(self.parameters()).dtype)

    # Keeping a part: repaint.py

    def completion_method(self, known: Tensor, options: RePaintOptions | None = None) -> CompletionMethod:
        options = options or RePaintOptions()
        steps = len(options.times_below(self.schedule))
        text = f"{steps} steps from noise level {options.level:g}" if options.level < 1 else f"{steps} steps"
        if bool(known.any()):
            text = f"RePaint with {text}, each {options.repeats} times"
        return CompletionMethod(False, False, f"{text}: approximate")

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
        x, known = check_images(x, self.spec).to(self.device), known.to(self.device)
        x0 = self.unit(x)
        if options.level == 1:
            x0 = torch.where(known, x0, 0)  # the rest is not to be seen, not even in x_T
        denoise, times = self.drawing_denoiser(labels, options), options.times_below(self.schedule)
        kind = options.variance
        if kind == "auto":
            kind = "learned" if self.learned_variance else "large"
        with autocast(self.device, options.precision):
            drawn = repaint(denoise, self.schedule, times, x0, known, noise, options.repeats, DDPM(kind), progress)
        images = torch.where(known, x, self.spec.from_unit(drawn))
        return Completion(images, torch.zeros(len(x), dtype=torch.float64))

    # Likelihood: bound.py, calibration.py, evidence.py, flow_density.py

    @torch.no_grad()
    def calibrate(self, x: Tensor, labels: Tensor | None, noise: Noise) -> None:
        """Choose the decoder and the variances of the reverse chain by `fit_chain`; no weight is changed."""
        self.chain = fit_chain(
            self.bound_denoiser(labels), self.unit(x), self.schedule, noise,
            levels=self.spec.levels, learned=self.learned_variance,
        )  # fmt: skip

    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        """The variational bound; ``samples`` is how many of its T terms to evaluate, spread over the times.

        32 by default; all of them for vectors, whose network costs little.
        """
        if samples is not None and samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        T = self.schedule.T
        terms = T - self.chain.first
        count = min(samples or (T if self.spec.vector else 32), terms)
        nats = variational_bound(
            self.bound_denoiser(labels), self.unit(x), self.schedule, noise,
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
        count = min(samples or 32, self.schedule.T - 1)
        nats = noised_bound(self.bound_denoiser(labels), self.unit(x), self.schedule, noise, count)
        return Likelihood("estimate", nats, f"mean of the bound on log p(x_s|y) over noise levels s, {count} times")

    def velocity(self, labels: Tensor | None) -> Velocity:
        """dy/dφ of the probability-flow equation of images with these labels: see `flow_velocity`."""

        def rows_of(rows: Tensor) -> Denoiser:
            return self.denoiser(None if labels is None else labels[rows.to(labels.device)])

        return flow_velocity(rows_of, self.schedule, clip=not self.spec.vector)

    def flow_log_likelihood(
        self,
        x: Tensor,
        labels: Tensor | None,
        noise: Noise,
        *,
        dequantize: Dequantize = "decoder",
        tolerance: float = 1e-4,
    ) -> tuple[Tensor, Tensor]:
        """log P(x) of uint8 [N, C, H, W] by the probability-flow equation: see `flow_density.flow_log_likelihood`.

        Of float32 [N, D] vectors the density, in nats: see `flow_density.flow_log_density`.
        """
        x0 = self.unit(x)
        if self.spec.vector:
            visible = int((self.schedule.sigma <= NOISE * self.schedule.signal).sum()) - 1
            ends = {"x0": (1, -1), "noise": (0, visible)}.get(self.prediction, (0, -1))
            density, evaluations = flow_log_density(
                self.velocity(labels), x0, self.schedule, noise,
                first=ends[0], last=ends[1], tolerance=tolerance,
            )  # fmt: skip
            return density - self.spec.log_volume, evaluations
        return flow_log_likelihood(
            self.velocity(labels),
            self.bound_denoiser(labels),
            x0,
            self.schedule,
            noise,
            levels=self.spec.levels,
            dequantize=dequantize,
            tolerance=tolerance,
            chain=self.chain,
        )
