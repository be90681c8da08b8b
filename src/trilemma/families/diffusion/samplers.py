"""Samplers: from noise to an image along a list of times.

A sampler is a frozen dataclass whose fields are its own options, on the command line too, and whose `Sampler.step` is
the equation of its docstring. It knows nothing of the network: it asks a `Denoiser` for its two estimates and moves.

With x̄ = x/α and σ̄ = σ/α every Gaussian path obeys dx̄/dσ̄ = ε(x̄) (Karras et al. 2022, eq. 1), the probability-flow
equation, on whose path x_T decides the image. Its simplest solver, Euler's method, is DDIM at η = 0.

To add a sampler, `register` it, in a file of one's own that is named as a plugin (`trilemma.plugins`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from torch import Tensor

from trilemma.families.diffusion.denoiser import Denoiser
from trilemma.families.diffusion.schedule import Schedule
from trilemma.families.family import Progress
from trilemma.noise import Noise
from trilemma.plugins import load_plugins
from trilemma.validate import NotNegative, Share, check_limits

NOISE = 200.0
"""σ/α above which there is nothing to see; that of the linear schedule ends at 157, Karras et al.'s at 80."""


@dataclass
class Trajectory:
    """What the steps of one sample share.

    Attributes:
        denoise, schedule: of the model; noise: for samplers that add some.
        steps: how many there are.
        last: what a multistep method keeps of its last step: the estimate of the image, and its h.
    """

    denoise: Denoiser
    schedule: Schedule
    noise: Noise
    steps: int = 1
    last: tuple[Tensor, float] | None = None


@dataclass(frozen=True)
class Sampler(ABC):
    """The base of samplers, which are frozen dataclasses; every field has a default and is an option of its name.

    Class attributes:
        name: as typed after ``--sampler``; the first line of the docstring is its help.
        usual: steps where none are asked for; None for all T.
    """

    name: ClassVar[str]
    usual: ClassVar[int | None] = 50

    def __post_init__(self) -> None:
        check_limits(self)

    @abstractmethod
    def step(self, x_t: Tensor, t: int, s: int, on: Trajectory) -> Tensor:
        """x_s, s < t, float [N, C, H, W]; the last step ends at s = 0, the image."""

    def sample(
        self,
        denoise: Denoiser,
        schedule: Schedule,
        times: Sequence[int],
        x: Tensor,
        noise: Noise,
        progress: Progress | None = None,
    ) -> Tensor:
        """x_0, float [N, C, H, W] on about [-1, 1], from x at the first of the falling ``times``."""
        on = Trajectory(denoise, schedule, noise, len(times))
        for t, s in steps_of(times, progress):
            x = self.step(x, t, s, on)
        return x

    def evaluations(self, times: Sequence[int], schedule: Schedule) -> int:
        """How often the denoiser is evaluated."""
        return len(times)

    @property
    def noisy(self) -> bool:
        """Whether noise is added on the way, so that x_T does not decide the image alone."""
        return False


# The registry

S = TypeVar("S", bound=type[Sampler])

SHARED = frozenset({"sampler", "steps", "times", "spacing", "guidance", "clip", "precision"})
"""Options that every sampler has, whose names no field of one may have."""

_REGISTRY: dict[str, type[Sampler]] = {}


def register(sampler: S) -> S:
    """Add a sampler, for the command line and every denoising family; a decorator of its dataclass.

    Raises:
        ValueError: its name or that of a field is taken, or a field has no default, in one line.
    """
    if _REGISTRY.get(sampler.name, sampler) is not sampler:
        raise ValueError(f"there is a sampler {sampler.name} already: give {sampler.__qualname__} another name")
    others = {field.name: field.default for other in _REGISTRY.values() for field in dataclasses.fields(other)}
    for field in dataclasses.fields(sampler):
        if field.default is dataclasses.MISSING:
            raise ValueError(f"the option {field.name} of the sampler {sampler.name} needs a default")
        if field.name in SHARED or others.get(field.name, field.default) != field.default:
            raise ValueError(f"the option {field.name} of the sampler {sampler.name} has another meaning: rename it")
    _REGISTRY[sampler.name] = sampler
    return sampler


def samplers() -> Mapping[str, type[Sampler]]:
    """Every sampler by its name: those of this file, of plugins, and what else was registered."""
    load_plugins()
    return _REGISTRY


# The samplers


@register
@dataclass(frozen=True)
class DDIM(Sampler):
    """Denoising diffusion implicit models (Song et al. 2021), deterministic at eta 0.

    x_s = α_s x_0 + √(σ_s² - ς²) ε + ς z, with ς = η √β̃ and z ~ N(0, I) (eq. 12 and 16). No noise is drawn for s = 0.
    """

    name = "ddim"

    eta: Share = 0.0
    """0 is deterministic, 1 has the noise of ddpm's small variance"""

    def step(self, x_t: Tensor, t: int, s: int, on: Trajectory) -> Tensor:
        x_0, eps, _ = on.denoise(x_t, t)
        alpha_s, _ = on.schedule(s)
        variance = self.eta**2 * float(on.schedule.posterior(t, s)[2])
        kept = math.sqrt(max(float(on.schedule.variance[s]) - variance, 0.0))
        return add_noise(alpha_s * x_0 + kept * eps, variance, on.noise)

    @property
    def noisy(self) -> bool:
        return self.eta != 0


@register
@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling (Ho et al. 2020, algorithm 2).

    x_s = a x_0 + b x_t + √v z through q(x_s | x_t, x_0) (eq. 7), with z ~ N(0, I) and none at the last step. v is β̃,
    β, or what the network says between them: log v = log β̃ + share (log β - log β̃) (Nichol & Dhariwal 2021, eq. 15).
    """

    name = "ddpm"
    usual = None

    variance: Literal["auto", "small", "large", "learned"] = "auto"
    """small is beta-tilde, large is beta, which needs nearly all T steps; auto is the learned variance of a model that
    has one, else small"""

    def step(self, x_t: Tensor, t: int, s: int, on: Trajectory) -> Tensor:
        x_0, _, share = on.denoise(x_t, t)
        a, b, _ = map(float, on.schedule.posterior(t, s))
        mean = a * x_0 + b * x_t
        if not s:
            return mean
        kind = self.variance if self.variance != "auto" else "small" if share is None else "learned"
        if kind != "learned":
            return add_noise(mean, float(on.schedule.reverse_variance(t, s, kind)), on.noise)
        if not isinstance(share, Tensor):
            raise ValueError("this model has learned no variance: choose --variance small or large")
        small, large = (math.log(on.schedule.reverse_variance(t, s, kind)) for kind in ("small", "large"))
        std = (0.5 * (small + share * (large - small))).exp()
        return mean + std * on.noise.normal(*mean.shape[1:]).to(mean.dtype)

    @property
    def noisy(self) -> bool:
        return True


@register
@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's second-order method (Karras et al. 2022), two network evaluations a step.

    Algorithm 1: x̄_s = x̄_t + (σ̄_s - σ̄_t) (ε(x_t, t) + ε(x'_s, s))/2, with x'_s from Euler's method; the last step,
    to σ̄ = 0, is Euler's. So is a step from σ̄ above `NOISE`: the cosine schedule ends at σ̄ = 20,000 and rectified flow
    at infinity, and over so wide a step the mean of two ε is worse than the first.

    With churn algorithm 2: before a step noise is added, and the step removes as much more.
    """

    name = "heun"
    usual = 18

    churn: NotNegative = 0.0
    """S_churn of Karras et al. 2022, noise added anew over all steps; 0 is deterministic"""
    churn_from: NotNegative = 0.0
    """S_tmin: churn only where sigma_t/alpha_t is at least this"""
    churn_to: float = NOISE
    """S_tmax: churn only where sigma_t/alpha_t is at most this"""
    churn_noise: NotNegative = 1.0
    """S_noise: what churn adds against what it is taken for; a little above 1 makes up for a denoiser that blurs"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.churn_from < self.churn_to <= NOISE:
            raise ValueError(f"churn_to must lie between churn_from and {NOISE:g}, not at {self.churn_to}")

    def step(self, x_t: Tensor, t: int, s: int, on: Trajectory) -> Tensor:
        second_order = self.corrected(t, s, on.schedule)
        t, x_t = self.churned(x_t, t, on)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = on.schedule(t), on.schedule(s)
        first = on.denoise(x_t, t)
        x_s = alpha_s * first.x0 + sigma_s * first.eps  # Euler
        if not second_order:
            return x_s
        second = on.denoise(x_s, s)
        width = sigma_s / alpha_s - sigma_t / alpha_t
        return alpha_s * (x_t / alpha_t + width * 0.5 * (first.eps + second.eps))

    def churned(self, x_t: Tensor, t: int, on: Trajectory) -> tuple[int, Tensor]:
        """The time t̂ ≥ t to which noise is added, and x there: lines 4 to 6 of algorithm 2.

        σ̄ grows by 1 + γ with γ = min(S_churn/N, √2 - 1), to the nearest time of the chain.
        """
        schedule, (alpha, sigma) = on.schedule, on.schedule(t)
        if not self.churn or not self.churn_from * alpha <= sigma <= min(self.churn_to, NOISE) * alpha:
            return t, x_t
        here = sigma / alpha
        wanted = (1 + min(self.churn / on.steps, math.sqrt(2) - 1)) * here
        later = schedule.sigma[t:] / schedule.signal[t:]
        hat = t + int((later.log() - math.log(wanted)).abs().argmin())
        added = self.churn_noise * math.sqrt(max(float(later[hat - t]) ** 2 - here**2, 0.0))
        z = on.noise.normal(*x_t.shape[1:]).to(x_t)
        return hat, schedule(hat)[0] * (x_t / alpha + added * z)

    @staticmethod
    def corrected(t: int, s: int, schedule: Schedule) -> bool:
        """Whether the denoiser is evaluated a second time between these times."""
        alpha, sigma = schedule(t)
        return s > 0 and sigma < NOISE * alpha

    def evaluations(self, times: Sequence[int], schedule: Schedule) -> int:
        return len(times) + sum(self.corrected(t, s, schedule) for t, s in itertools.pairwise([*times, 0]))

    @property
    def noisy(self) -> bool:
        return self.churn != 0


@register
@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++(2M), of second order (Lu et al. 2022).

    arXiv:2211.01095, algorithm 2, one evaluation a step. With λ = log(α/σ) and h = λ_s - λ_t,
    x_s = σ_s/σ_t x_t + α_s (1 - e^-h) D, where D = (1 + 1/2r) x_0 - 1/2r x_0' extrapolates from the estimate x_0' and
    the h' of the last step, r = h'/h. The first step and the last, whose h is infinite, are of first order.
    """

    name = "dpm-solver"
    usual = 20

    def step(self, x_t: Tensor, t: int, s: int, on: Trajectory) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = on.schedule(t), on.schedule(s)
        x_0 = on.denoise(x_t, t).x0
        decay = alpha_t / sigma_t * sigma_s / alpha_s  # e^-h
        h = -math.log(decay) if decay else math.inf
        D = x_0
        if on.last is not None and math.isfinite(h):
            before, h_before = on.last
            half = 0.5 * h / h_before  # 1/(2r); 0 after an infinite step
            D = (1 + half) * x_0 - half * before
        on.last = x_0, h
        return sigma_s / sigma_t * x_t + alpha_s * (1 - decay) * D


@register
@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method on the straight line of rectified flow (Liu et al. 2023).

    z_s = z_t + (τ_s - τ_t) (ε - x_0) (section 2.1), where on any path z = x/(α + σ) is (1 - τ) x_0 + τ ε with
    τ = σ/(α + σ). For rectified flow z is x itself and τ = t/T. The result is that of DDIM at η = 0, since Euler's
    method keeps x_0 and ε over a step.
    """

    name = "euler"

    def step(self, x_t: Tensor, t: int, s: int, on: Trajectory) -> Tensor:
        (size_t, tau_t), (size_s, tau_s) = self._line(t, on.schedule), self._line(s, on.schedule)
        x_0, eps, _ = on.denoise(x_t, t)
        return size_s * (x_t / size_t + (tau_s - tau_t) * (eps - x_0))

    @staticmethod
    def _line(t: int, schedule: Schedule) -> tuple[float, float]:
        """α + σ, and τ."""
        size = float(schedule.signal[t] + schedule.sigma[t])
        return size, float(schedule.sigma[t]) / size


BUILT_IN = tuple(_REGISTRY.values())


def add_noise(mean: Tensor, variance: float, noise: Noise) -> Tensor:
    """N(mean, variance·I); where the variance is 0 nothing is drawn."""
    if variance <= 0:
        return mean
    return mean + math.sqrt(variance) * noise.normal(*mean.shape[1:]).to(mean.dtype)


def steps_of(times: Sequence[int], progress: Progress | None) -> Iterator[tuple[int, int]]:
    """The pairs (t, s) of the steps down to 0, telling ``progress`` after each."""
    for done, (t, s) in enumerate(itertools.pairwise([*times, 0]), 1):
        yield t, s
        if progress:
            progress(done, len(times))


def ddim_encode(
    denoise: Denoiser, schedule: Schedule, times: Sequence[int], x: Tensor, progress: Progress | None = None
) -> Tensor:
    """Deterministic DDIM run backwards, from images to their noise (Song et al. 2021, section 4.3).

    x_t = α_t x_0 + σ_t ε with the estimates at its less noisy end s (an image counts as x_1), so it inverts sampling
    only as well as the steps are small. ``times`` run down, as for sampling, and the first of them is where it ends.
    """
    for done, (s, t) in enumerate(itertools.pairwise([0, *reversed(times)]), 1):
        x_0, eps, _ = denoise(x, max(s, 1))
        alpha_t, sigma_t = schedule(t)
        x = alpha_t * x_0 + sigma_t * eps
        if progress:
            progress(done, len(times))
    return x
