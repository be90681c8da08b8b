"""The reverse chain: samples as they emerge from noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor

from trilemma.blocks import Progress
from trilemma.drawing import Picture
from trilemma.families.family import Denoises
from trilemma.noise import ImageNoise
from trilemma.questions.answer import Answer
from trilemma.questions.question import Context, Question
from trilemma.questions.strip import Trajectory, animate, draw_strip
from trilemma.sampling import choose_labels
from trilemma.validate import MOST, Limits

if TYPE_CHECKING:
    from trilemma.families.diffusion import Estimate


@dataclass(frozen=True)
class Reverse(Question):
    """Samples as they emerge from noise."""

    n: Annotated[int, Limits(1, MOST)] = 6
    """Samples."""
    labels: Any = None
    """The classes to draw from, as in sample."""
    text: tuple[str, ...] | None = None
    """The captions to draw from, for a run that reads captions."""
    options: Any = None
    """Sampling options of the run's family; by default at most 50 steps."""

    name: ClassVar[str] = "reverse"
    title: ClassVar[str] = "Reverse chain"
    sentence: ClassVar[str] = "Draw samples emerging from noise: x_t and the estimate of x_0, as a strip and as a film."
    paper: ClassVar[str] = "Ho et al. 2020, Denoising diffusion probabilistic models, arXiv:2006.11239, algorithm 2"
    capabilities: ClassVar[tuple[type, ...]] = (Denoises,)

    def answer(self, context: Context) -> Answer:
        model = context.model
        assert isinstance(model, Denoises)
        options = context.options(self.options) or model.Options()
        if not (options.steps or options.times):  # as few steps as a strip can show
            options = replace(options, steps=min(50, model.schedule.T))
        labels = choose_labels(model.spec, self.n, context.seed, context.named(self.labels, self.text), self.n)
        chain = reverse_chain(
            model, self.n, labels=labels, options=options, seed=context.seed, progress=context.progress
        )
        steps = len(options.visits(model.schedule))
        return Answer(
            self,
            context.run,
            reading=[f"{options.sampler}, {steps} steps, {self.n} samples"],
            values={"samples": self.n, "options": asdict(options), "times": chain.thinned().times},
            found=(chain, options.sampler),
            protocol={"seed": context.seed},
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        (chain, sampler), levels = answer.found, answer.run.config.spec.levels
        title = answer.title(f"noise to images by {sampler}")
        strip = draw_strip(chain.thinned(), levels, title, ("x_t", "estimate of x_0"))
        return {"strip": strip, "film": animate(chain, levels)}


def reverse_chain(
    model: Denoises,
    count: int = 6,
    *,
    labels: Tensor | None = None,
    options: Any | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trajectory:
    """Samples on their way: x_t and the estimate of x_0 at every time that the sampler visits.

    Args:
        model: on its device.
        count: samples; the same as `sample` draws from the seed, up to the rounding of another batch.
        labels: int64 [count].
        options: the family's ``Options``.
    """
    if getattr(options, "churn", 0):
        raise ValueError("with churn the times go up as well as down, which no strip of times can show: leave it out")
    model.check_conditions(options, labels)
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(t: int | Tensor, x_t: Tensor, estimate: Estimate) -> None:
        seen[int(t)] = (
            x_t.float().cpu(),
            estimate.x0.float().cpu(),
        )  # of heun's two the last

    noise = ImageNoise(seed, range(count), model.device)
    given = None if labels is None else labels.to(model.device)
    images = model.decode(model.latent(noise), noise, given, options, progress, watch=watch)
    x_t, estimates = (torch.stack(each) for each in zip(*seen.values(), strict=True))
    return Trajectory(list(seen), x_t, estimates, images.cpu())
