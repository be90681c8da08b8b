"""Consistency models by easy consistency tuning: from noise to an image in one to eight evaluations.

A denoiser says where the path from noise leads at this moment, a consistency model where it ends, which is one image
for all points of a path (Song et al. 2023). Here a network is first trained as an ordinary denoiser, and then taught to
agree with itself a little nearer to the end (Geng et al. 2024). The path may be cut into steps, each with an end of its
own (Heek et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from trilemma.families.diffusion.base import Denoising
from trilemma.families.diffusion.denoiser import read
from trilemma.families.diffusion.network import NetworkConfig, check_choice, check_net, network
from trilemma.families.diffusion.schedule import Schedule, ScheduleName, rowwise
from trilemma.families.family import (
    Completes,
    Completion,
    CompletionMethod,
    Density,
    Distils,
    Family,
    Likelihood,
    Loss,
    Objective,
    Progress,
)
from trilemma.images import Spec, check_images
from trilemma.machine import autocast
from trilemma.nets.blocks import time_features, zero
from trilemma.noise import Noise
from trilemma.validate import Limits, Positive, Share, check_limits

MEAN, SPREAD = -1.1, 2.0
"""Of the logarithm of the noise σ/α that is trained on (Geng et al. 2024)."""
START = {"noise": 20.0}
"""The σ/α that images are drawn from by prediction, else `FIRST`: x_0 of a predicted noise has its error times it."""
FIRST = 80.0
HUBER = 0.00054
"""c of the pseudo-Huber distance, for a root mean square over values (Song and Dhariwal 2023, section 3.3)."""
STEPS = (1, 2, 4, 8)
SHARES = (0.1, 0.2, 0.6, 0.1)
"""Of the images that are trained on for as many `STEPS`."""
STRETCH = 1.6
"""Steps end where arctan((σ/α)^(1/STRETCH)) is cut evenly: with 1, DDIM's own, the first and the last err most."""
COARSE, FINE = 16.0, 64.0
"""The gap t - r is about t/q, with q between these, doubling as training goes on. A finer one bfloat16 could not
tell: its rounding is half of the difference between t and r at q = 64 and more than all of it at 256."""


@dataclass(frozen=True)
class ConsistencyConfig(NetworkConfig):
    """The network, its path, and how the student is taught."""

    timesteps: Annotated[int, Limits(2, 100_000)] = 1000
    """T, the grid on which the path is written"""
    schedule: Literal["flow", "cosine", "linear", "snr"] = "flow"
    """the path from image to noise: the straight line of flow matching, or a schedule of diffusion; a teacher's own"""
    betas: Annotated[tuple[float, float], Limits(above=0, below=1)] | None = None
    """linear only: the first and the last beta, of a teacher from elsewhere"""
    prediction: Literal["velocity", "v", "noise", "x0"] = "velocity"
    """what the network predicts; a teacher's own"""
    first: Share = 0.5
    """share of the budget in which the network is an ordinary denoiser; the rest makes the student of it"""
    rate: Positive = 0.2
    """learning rate of the student, as a multiple of train.lr"""
    guidance: Annotated[tuple[float, float], Limits(0)] | None = None
    """a student of a conditional teacher: the weights of guidance that it learns, from the first to the second"""
    teacher: str = ""
    """the run that it is a student of; written by distill"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.prediction == "velocity") != (self.schedule == "flow"):
            raise ValueError("model.prediction velocity and model.schedule flow belong together: give both or neither")
        if self.first and self.schedule != "flow":
            raise ValueError(
                "only the schedule flow is trained from nothing: leave model.schedule out, or distill a run"
            )
        if self.first == 1:
            raise ValueError("model.first must be below 1: with 1 there is no student")
        if self.guidance and not (self.teacher and self.guidance[0] <= self.guidance[1]):
            raise ValueError(
                "model.guidance is a rising pair of weights that a teacher shows: distill a conditional run"
            )


@dataclass(frozen=True)
class ConsistencyOptions:
    """How to draw from a student."""

    steps: int = 4
    """evaluations of the network: 1, 2, 4 or 8, for which it is trained"""
    guidance: Annotated[float, Limits(0)] = 1.0
    """weight of guidance, of a student that has learnt some: 1 is plainly conditional"""
    clip: bool = True
    """clamp every estimate of the image to the range of the pixels"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """arithmetic of the network: bf16 autocast, fp32, or whichever is faster on the device"""

    # What tells settings of every sampler apart (`evaluation.sweeps`); a student has one.
    sampler: ClassVar[str] = "student"
    eta: ClassVar[float] = 0.0
    variance: ClassVar[str] = "auto"
    allowed: ClassVar[Sequence[int]] = STEPS

    def __post_init__(self) -> None:
        check_limits(self)
        if self.steps not in self.allowed:
            raise ValueError(f"steps must be 1, 2, 4 or 8, for which a student is trained, not {self.steps}")

    def evaluations(self, schedule: Schedule) -> int:
        """How often these options evaluate the network for an image; guidance costs nothing."""
        return self.steps


@dataclass(frozen=True)
class ConsistencyCompletionOptions(ConsistencyOptions):
    """How to draw the rest of an image."""

    steps: Annotated[int, Limits(1, 1000)] = 20
    """evaluations of the network: each agrees anew with what is known"""

    allowed: ClassVar[Sequence[int]] = range(1, 1001)


class Told(nn.Module):
    """A number to what is added to the embedding of the time, 0 at first: float [N] on 0 … 1000 → [N, size]."""

    FEATURES = 32

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = zero(nn.Linear(self.FEATURES, size))

    def forward(self, value: Tensor) -> Tensor:
        features = time_features(value, self.FEATURES).to(self.linear.weight.dtype)
        return self.linear(features)  # type: ignore[no-any-return]


class Consistency(Family, Completes, Distils):
    """A denoiser, then a student of itself: the same network, with one loss after the other.

    In the first part of the budget it is `Flow`. In the rest its estimate of x_0 becomes f(x_t, t, s), the image by
    which the path leads from x_t to x_s: it is taught to agree with f(x_r, r, s) of the same image and noise, a little
    nearer to s. It draws in 1, 2, 4 or 8 jumps from one s to the next, as a multistep consistency model (Heek,
    Hoogeboom and Salimans 2024, arXiv:2403.06807); that of one step is the consistency model of Song et al. 2023.
    """

    name = "consistency"
    known_as: ClassVar[Mapping[str, str]] = {"ect": "", "few-step": "", "distillation": ""}
    title = "Consistency model (few-step student)"
    paper = "Geng, Pokle, Luo, Lin and Kolter 2024, Consistency Models Made Easy, arXiv:2406.14548"
    density = Density.IMPLICIT
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "yes, in 1, 2, 4 or 8 evaluations",
        "p(x)": "no: jumps to the end of a path carry no density",
        "p(z|x)": "no: it leads from noise to images, not back",
        "complete": "approximate: known pixels are put back before noise is added again",
        "interpolate": "yes, between noises",
        "classify": "no",
    }
    gives_up = "likelihood"
    reads_text = True
    steady = False
    Config = ConsistencyConfig
    Options = ConsistencyOptions
    CompletionOptions = ConsistencyCompletionOptions

    def __init__(self, config: ConsistencyConfig, spec: Spec) -> None:
        check_net(config)
        check_choice("prediction", config.prediction, ("velocity", "v", "noise", "x0"))
        super().__init__(config, spec)
        name: Any = config.schedule
        flow = name == "flow"
        self.schedule = Schedule.flow(config.timesteps) if flow else named(name, config)
        self.net = network(config, spec, 1)
        self.until = Told(self.net.embedding)
        self.guide = Told(self.net.embedding) if config.guidance else None
        self.levels = self.schedule.sigma / self.schedule.signal  # σ/α at t = 0 … T
        self.start = min(START.get(config.prediction, FIRST), float(self.levels[-1]))
        self.spent = 0.0
        self._teacher: tuple[Denoising, ...] = ()  # in a tuple, so that it is no part of this module

    # Training

    def begin(self, spent: float) -> float:
        """The rate of each part rises and falls by itself, so that the weights are at rest where one hands over."""
        self.spent, first = spent, self.config.first
        if spent < first:
            return float(min(1.0, (1 - spent / first) / 0.3))
        part = (spent - first) / (1 - first)
        return float(self.config.rate * max(min(1.0, part / 0.02 + 0.01, (1 - part) / 0.4), 0.0))

    def objectives(self) -> Sequence[Objective]:
        return [Objective("consistency", list(self.parameters()), self.loss)]

    def loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        """The squared error of the velocity in the first part of the budget, then `agreement`."""
        if self.spent >= self.config.first:
            return self.agreement(x, labels, noise)
        x0, tau, eps = self.spec.to_unit(x), noise.uniform(), noise.normal(*self.spec.shape)
        rows = rowwise(tau, x0)
        silent = 0 * self.until(1000 * tau)  # it learns nothing yet, so that the student begins as the denoiser
        times = self.net.at(tau * self.schedule.T, self.schedule.T)
        output = self.net((1 - rows) * x0 + rows * eps, times, labels, silent)
        return Loss({"loss": (output.to(x0) - (eps - x0)).square().mean()})

    def agreement(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        """‖f(x_t, t, s) - w f(x_r, r, s) - (1 - w) x_0‖/(t - r), without gradient in r; times measured as σ/α.

        On the path of one image and noise x_s is (1 - s/t) x_0 + s/t x_t, in which f stands for x_0; so that x_s is the
        same from t as from r, f is to be w of its own at r and else x_0, w = (1 - s/r)/(1 - s/t). With s = 0 this is
        easy consistency tuning (Geng et al. 2024, sections 3 and 4), with r = s it is denoising. log t is normal,
        r = t (1 - n(t)/q), n(t) = 1 + 8/(1 + eᵗ), but not below s, and s is the next time of a grid of 1, 2, 4 or 8
        steps. With a teacher x_0 and ε are its own at x_t, so that the path is not that of one image but the teacher's,
        where it is conditional guided by a weight drawn for each image (Meng et al. 2023, arXiv:2210.03142).
        """
        x0, eps = self.spec.to_unit(x), noise.normal(*self.spec.shape)
        t = (MEAN + SPREAD * noise.normal()).double().cpu().exp().clamp(float(self.levels[1]), self.start)
        s, q = self.end(t, self.steps(noise)), self.gap
        gap = t * (1 + 8 * (-t).sigmoid()) / q
        r = torch.maximum(t - gap, s)
        r = torch.where(r < self.levels[1], 0.0, r)
        x_t = self.noised(x0, eps, t)
        weight = self.weights(noise, x0)
        if self.config.teacher:
            x0, eps = self.led(x_t, t, labels, weight)
        own = torch.where(r > s, (1 - s / r) / (1 - s / t), 0.0)
        image = self.jump(x_t, t, s, labels, weight)
        with torch.no_grad():
            near = self.jump(self.noised(x0, eps, r), r.clamp(min=float(self.levels[1])), s, labels, weight)
        target = x0 + rowwise(own, x0).to(x0) * (near - x0)
        squares = (image - target).square().flatten(1).mean(1)
        distance = (squares + HUBER**2).sqrt() - HUBER
        return Loss({"loss": (distance / gap.to(distance)).mean()}, {"distance": distance.detach().mean()})

    def steps(self, noise: Noise) -> Tensor:
        """Of which grid each image is trained, float64 [N]: 1, 2, 4 or 8 steps."""
        places = torch.tensor(SHARES).cumsum(0)
        drawn = torch.searchsorted(places, noise.uniform().cpu(), right=True).clamp(max=len(SHARES) - 1)
        return torch.tensor(STEPS, dtype=torch.float64)[drawn]

    def end(self, level: Tensor, steps: Tensor) -> Tensor:
        """The next σ/α below each ``level`` at which one of so many steps ends; both float64 [N]."""
        whole = (level ** (1 / STRETCH)).atan() / (math.pi / 2) * steps
        return ends(((whole - 1e-6).ceil() - 1).clamp(min=0) / steps)

    @property
    def gap(self) -> float:
        """q of r = t (1 - n(t)/q): it doubles over the first three quarters of the student's part of the budget."""
        first = self.config.first
        part = min((self.spent - first) / (1 - first) / 0.75, 1.0)
        return float(COARSE * 2 ** math.floor(part * math.log2(FINE / COARSE)))

    def noised(self, x0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        """α x_0 + σ ε where σ/α is ``level``, float64 [N]."""
        alpha, sigma = self.schedule.at(self.time(level), x0)
        return alpha * x0 + sigma * eps

    def time(self, level: Tensor) -> Tensor:
        """The times at which σ/α is ``level``; both float64 [N] on the CPU."""
        return self.schedule.time(level.atan())

    def jump(
        self, x_t: Tensor, level: Tensor, end: Tensor, labels: Tensor | None, weight: Tensor | None = None
    ) -> Tensor:
        """f(x_t, t, s), by which x_s = (1 - s/t) f + s/t x_t; σ/α is ``level`` at t and ``end`` at s, both [N].

        ``weight`` [N] is that of guidance.
        """
        t = self.time(level)
        extra = self.until(self.time(end).to(x_t) * (1000 / self.schedule.T))
        extra = extra if self.guide is None or weight is None else extra + self.guide(100 * weight)
        output = self.net(x_t, self.net.at(t.to(x_t), self.schedule.T), labels, extra).to(x_t)
        alpha, sigma = self.schedule.at(t, x_t)
        return read(output, x_t, alpha, sigma, self.config.prediction).x0

    # Learning from a teacher

    @classmethod
    def student_of(cls, teacher: Family, where: str) -> dict[str, Any]:
        if not isinstance(teacher, Denoising):
            raise ValueError(f"{where} is no denoiser")
        taken = {f.name: getattr(teacher.config, f.name) for f in fields(NetworkConfig)}
        schedule, betas = getattr(teacher.config, "schedule", "flow"), getattr(teacher.config, "betas", None)
        guidance = (1.0, 4.0) if teacher.spec.conditional else None
        return taken | {
            "timesteps": teacher.config.timesteps, "schedule": schedule, "betas": betas, "guidance": guidance,
            "prediction": teacher.prediction, "first": 0.0, "teacher": where,
        }  # fmt: skip

    def inherit(self, teacher: Family) -> None:
        assert isinstance(teacher, Denoising)
        own, theirs = self.net.state_dict(), teacher.net.state_dict()
        # Of a teacher that says variances too, the prediction comes first.
        self.net.load_state_dict(
            {name: value[: len(own[name])] if value.ndim else value for name, value in theirs.items()}
        )

    def follow(self, teacher: Family) -> None:
        assert isinstance(teacher, Denoising)
        self._teacher = (teacher,)

    def weights(self, noise: Noise, x0: Tensor) -> Tensor | None:
        """A weight of guidance for each image, float32 [N]; None where none is learnt."""
        if self.config.guidance is None:
            return None
        low, high = map(float, self.config.guidance)
        return (low + (high - low) * noise.uniform()).to(x0.device)

    @torch.no_grad()
    def led(self, x_t: Tensor, level: Tensor, labels: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The teacher's x_0 and ε at x_t, guided by a weight for each image."""
        if not self._teacher:
            raise ValueError(f"the teacher {self.config.teacher} is needed to go on: bring it back")
        guidance = 1.0 if weight is None else rowwise(weight, x_t)
        estimate = self._teacher[0].estimate(x_t, self.time(level), labels, guidance)
        return estimate.x0, estimate.eps

    # Drawing

    def check_conditions(self, options: Any, conditions: Tensor | None) -> None:
        weight = 1.0 if options is None else options.guidance
        if weight == 1:
            return
        if self.config.guidance is None:
            raise ValueError("this model has learnt no guidance: leave it out, or distill a conditional run")
        low, high = self.config.guidance
        if not low <= weight <= high:
            raise ValueError(f"this student has learnt weights of guidance from {low:g} to {high:g}, not {weight:g}")
        if conditions is None or torch.equal(conditions.cpu(), self.spec.unlabelled(len(conditions))):
            raise ValueError(
                f"guidance {weight:g} has nothing to lean to without labels or text: give some, or leave it out"
            )

    @torch.no_grad()
    def sample(
        self,
        noise: Noise,
        labels: Tensor | None = None,
        options: ConsistencyOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        return self.decode(self.latent(noise), noise, labels, options, progress)

    def latent(self, noise: Noise) -> Tensor:
        return noise.normal(*self.spec.shape).to(next(self.parameters()).dtype)

    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        noise: Noise,
        labels: Tensor | None = None,
        options: ConsistencyOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        options = options or self.Options()
        nothing = torch.zeros_like(z)
        with autocast(z.device, options.precision):
            return self.spec.from_unit(self.chain(nothing, nothing.bool(), z, noise, labels, options, progress))

    def chain(
        self,
        x0: Tensor,
        known: Tensor,
        z: Tensor,
        noise: Noise,
        labels: Tensor | None,
        options: ConsistencyOptions,
        progress: Progress | None = None,
    ) -> Tensor:
        """Jump from end to end of the steps; with something ``known`` of ``x0``, jump to the image, put it back, noise.

        The second is the zero-shot editing of Song et al. 2023, algorithm 4. Only it draws from ``noise``.
        """
        stops = ends(torch.arange(options.steps, dtype=torch.float64) / options.steps).flip(0)
        level, x_t, image = torch.tensor(self.start, dtype=torch.float64), z, x0
        weight = None if self.guide is None else torch.full((len(z),), options.guidance, device=z.device)
        rows = z.new_ones(len(z), dtype=torch.float64).cpu()
        again, bound = bool(known.any()), options.clip and not self.spec.vector
        x_t = self.noised(x0, z, rows * level)
        for done, end in enumerate(stops, 1):
            to = rows * (0 if again else end)
            image = self.jump(x_t, rows * level, to, labels, weight)
            image = image.clamp(-1, 1) if bound else image
            if again:
                image = torch.where(known, x0, image)
                x_t = self.noised(image, noise.normal(*z.shape[1:]).to(z), rows * end)
            else:
                eps = self.eps(x_t, image, rows * level)
                x_t = self.noised(image, eps, to)
            level = end
            if progress:
                progress(done, options.steps)
        return image

    def eps(self, x_t: Tensor, x0: Tensor, level: Tensor) -> Tensor:
        """The noise in x_t of which x_0 is the image."""
        alpha, sigma = self.schedule.at(self.time(level), x_t)
        return (x_t - alpha * x0) / sigma

    # Questions

    def completion_method(self, known: Tensor, options: ConsistencyOptions | None = None) -> CompletionMethod:
        steps = (options or self.CompletionOptions()).steps
        return CompletionMethod(False, False, f"{steps} jumps, each after putting back what is known: approximate")

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        noise: Noise,
        labels: Tensor | None = None,
        options: ConsistencyOptions | None = None,
        progress: Progress | None = None,
        particles: int = 1,
    ) -> Completion:
        """Keep the ``known`` values of images and draw the others, unweighted: particles do nothing."""
        options = options or self.CompletionOptions()
        x, known = check_images(x, self.spec).to(self.device), known.to(self.device)
        x0 = self.spec.to_unit(x).to(next(self.parameters()).dtype)
        with autocast(self.device, options.precision):
            drawn = self.chain(torch.where(known, x0, 0), known, self.latent(noise), noise, labels, options, progress)
        return Completion(torch.where(known, x, self.spec.from_unit(drawn)), torch.zeros(len(x), dtype=torch.float64))

    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        return Likelihood(
            "undefined", None, "a consistency model jumps to the end of a path: what it draws has a law, but no density"
        )


def named(name: ScheduleName, config: ConsistencyConfig) -> Schedule:
    """A schedule of diffusion."""
    if config.betas is not None and name != "linear":
        raise ValueError(f"betas belong to the schedule linear, not to {name}: leave one of the two out")
    return Schedule.named(name, config.timesteps, config.betas)


def ends(share: Tensor) -> Tensor:
    """σ/α at a share of the way from the image, 0, to noise: float64 [N]."""
    return (share * (math.pi / 2)).tan() ** STRETCH
