"""The forward chain: images that dissolve into noise, and whether what is left at its end is N(0, I)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from trilemma.drawing import Picture
from trilemma.families.diffusion import Schedule, diffuse, prior_term
from trilemma.families.family import Denoises
from trilemma.images import check_images, to_unit
from trilemma.noise import ImageNoise, Noise
from trilemma.number import Number
from trilemma.questions.answer import Answer
from trilemma.questions.question import Context, Question
from trilemma.questions.strip import FRAMES, Trajectory, draw_strip
from trilemma.validate import MOST_IMAGES, Limits


@dataclass(frozen=True)
class Forward(Question):
    """Images dissolving into noise."""

    images: Any = None
    """Anything that train takes, or images themselves; by default held-out images of the run's own data."""
    n: Annotated[int, Limits(1, MOST_IMAGES)] | None = None
    """At most so many of them; by default all that are given, or 6 held-out ones."""

    name: ClassVar[str] = "forward"
    title: ClassVar[str] = "Forward chain"
    sentence: ClassVar[str] = "Draw images dissolving into noise: is x_T distributed as N(0, I)?"
    paper: ClassVar[str] = (
        "Ho et al. 2020, Denoising diffusion probabilistic models, arXiv:2006.11239, equations 2 and 4"
    )
    capabilities: ClassVar[tuple[type, ...]] = (Denoises,)
    argument: ClassVar[str] = "images"

    def answer(self, context: Context) -> Answer:
        model = context.model
        assert isinstance(model, Denoises)
        batch = context.source(self.images, self.n, 6)
        x, schedule = batch.x, model.schedule
        chain = forward_chain(model, x, seed=context.seed)
        # The moments are those of many images, and of the last of single steps.
        many = to_unit(x.repeat(-(-256 // len(x)), 1, 1, 1), context.spec.levels)
        left = prior_term(many[: len(x)], schedule)
        noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(context.seed))
        ends = {
            "closed form": float(schedule.signal[-1]) * many + float(schedule.sigma[-1]) * noise,
            "single steps": chain.other[-1],
        }
        moments = {name: end_moments(end, left) for name, end in ends.items()}
        whole = moments["closed form"]
        return Answer(
            self,
            context.run,
            numbers={
                "kolmogorov_smirnov_p": Number(whole.p, n=whole.count, note="of the values of x_T under N(0, 1)"),
                "prior_nats": Number(
                    whole.nats, None, "nats", "lower", len(x), "exact", "KL(q(x_T | x_0) ‖ N(0, I)) of an image"
                ),
            },
            reading=[f"{name}: {found.text}" for name, found in moments.items()],
            values={"times": chain.times, "end": {name: asdict(found) for name, found in moments.items()}},
            found=chain,
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        levels, title = answer.run.config.spec.levels, answer.title("images to noise")
        return {"strip": draw_strip(answer.found, levels, title, ("in one go", "step by step"), answer.reading)}


def forward_chain(model: Denoises, images: Tensor, *, seed: int = 0) -> Trajectory:
    """Images dissolving: x_t in closed form from one ε (eq. 4), and x_t by every single step, each with new noise.

    Args:
        model: whose schedule it is.
        images: uint8 [N, C, H, W].
    """
    schedule = model.schedule
    x0 = to_unit(check_images(images, model.spec), model.spec.levels)
    noise = ImageNoise(seed, range(len(images)))
    eps = noise.normal(*model.spec.shape)
    times = sorted({max(1, round(i * schedule.T / FRAMES)) for i in range(1, FRAMES + 1)})
    closed = torch.stack([diffuse(x0, torch.full((len(x0),), t), schedule, eps) for t in times])
    return Trajectory(times, closed, step_by_step(x0, schedule, times, noise), images)


def step_by_step(x0: Tensor, schedule: Schedule, times: Sequence[int], noise: Noise) -> Tensor:
    """x_t at the rising ``times``, each drawn from q(x_t | x_{t-1}) in turn (Ho et al. 2020, eq. 2), float [len, …]."""
    x, kept = x0, []
    for t in range(1, times[-1] + 1):
        step = math.sqrt(float(schedule.alpha_bar[t] / schedule.alpha_bar[t - 1]))
        x = step * x + math.sqrt(float(schedule.added(t, t - 1))) * noise.normal(*x0.shape[1:]).to(x0)
        if t in times:
            kept.append(x)
    return torch.stack(kept)


@dataclass(frozen=True)
class Moments:
    """How near x_T is to N(0, I), over all values of the images that were asked about.

    Attributes:
        mean, variance, kurtosis: of the values of x_T; 0, 1 and 3 in the limit.
        deviations: of each of the three from its limit, in standard errors of so many independent values.
        p: of the Kolmogorov-Smirnov test: how often values of N(0, 1) would lie as far from it in distribution.
        nats: the mean of KL(q(x_T | x_0) ‖ N(0, I)) of an image, exactly: 0 only if nothing of it is left.
        count: values.
    """

    mean: float
    variance: float
    kurtosis: float
    deviations: tuple[float, float, float]
    p: float
    nats: float
    count: int

    @property
    def text(self) -> str:
        worst = max(map(abs, self.deviations))
        return (
            f"x_T: mean {self.mean:.4f}, variance {self.variance:.4f}, kurtosis {self.kurtosis:.3f} over "
            f"{self.count:,} values, at most {worst:.1f} standard errors from N(0, 1), Kolmogorov-Smirnov p = "
            f"{self.p:.2g}; {self.nats:.2g} nats of an image are left"
        )


def end_moments(x_T: Tensor, nats: Tensor) -> Moments:
    """The moments of x_T, float of any shape; ``nats`` are what is left of each image."""
    x, n = x_T.double().flatten(), x_T.numel()
    mean, variance, kurtosis = float(x.mean()), float(x.square().mean()), float((x**4).mean())
    # Standard errors of the means of x, x² and x⁴ under N(0, 1): variances 1, 2 and 105 - 9.
    deviations = mean * math.sqrt(n), (variance - 1) * math.sqrt(n / 2), (kurtosis - 3) * math.sqrt(n / 96)
    return Moments(mean, variance, kurtosis, deviations, kolmogorov_smirnov(x), float(nats.mean()), n)


def kolmogorov_smirnov(x: Tensor) -> float:
    """The p-value of values [N] under N(0, 1), by the limit law of √N D (Kolmogorov 1933); good above N = 100."""
    n, law = len(x), torch.special.ndtr(x.double().sort().values)
    ranks = torch.arange(n + 1, dtype=torch.float64, device=x.device) / n
    distance = float(torch.maximum(ranks[1:] - law, law - ranks[:-1]).max())
    k = torch.arange(1, 101, dtype=torch.float64)
    terms = (-1) ** (k + 1) * torch.exp(-2 * k**2 * n * distance**2)
    return min(max(2 * float(terms.sum()), 0.0), 1.0)
