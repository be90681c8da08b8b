"""The density of a model of 2-D vectors, drawn as a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from trilemma.blocks import Progress
from trilemma.drawing import Picture, Plot, Sheet, below, framed, magnified, ramp, steps, words
from trilemma.families.family import Denoises, Family, Likelihood
from trilemma.likelihood import answered, checked_labels
from trilemma.noise import Noise
from trilemma.number import Number
from trilemma.questions.answer import Answer
from trilemma.questions.likelihood import undefined
from trilemma.questions.question import Context, Question
from trilemma.run import Run
from trilemma.validate import MOST, Limits
from trilemma.vectors import SIDE, Plane

POINTS = 1024
"""Points scored together."""

DRAWS = 64
"""Importance samples for each point, where the density is estimated by them."""

DEPTH = 12.0
"""Nats below the highest density that still have a colour of their own."""


@dataclass(frozen=True)
class DensityMap(Question):
    """The density of a model of 2-D vectors."""

    labels: Any = None
    """The class whose density p(x|y) is drawn; by default p(x)."""
    samples: Annotated[int, Limits(1, MOST)] | None = None
    """Importance samples for each point, where the density is estimated by them."""
    side: Annotated[int, Limits(2, SIDE)] = 64
    """Points along each side of the plane."""

    name: ClassVar[str] = "density"
    title: ClassVar[str] = "Density map"
    sentence: ClassVar[str] = "Draw log p over the plane of 2-D vectors."
    images_too: ClassVar[bool] = False
    vectors_too: ClassVar[bool] = True

    @classmethod
    def unable(cls, run: Run) -> str | None:
        if run.config.spec.dims != 2:
            return f"it is drawn over a plane, and these are vectors of {run.config.spec.dims} values"
        return undefined(run)

    @classmethod
    def routine(cls, run: Run) -> Question | None:
        return cls(side=40)

    def answer(self, context: Context) -> Answer:
        labels, dataset = context.named(self.labels), context.data
        if labels is not None:
            if len(labels) != 1:
                raise ValueError(f"one density is drawn at a time: give labels one class, not {len(labels)}")
            checked_labels(context.spec, torch.as_tensor(labels), 1)
        field = density_map(
            context.model,
            dataset.batch(dataset.test[:10_000]),
            label=None if labels is None else int(labels[0]),
            side=self.side,
            samples=self.samples,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )
        top = Number(field.top, unit="nats", n=field.log_p.numel(), kind=field.kind, note=field.reason)
        return Answer(
            self,
            context.run,
            kind=field.kind,
            numbers={"high_nats": top},
            reading=[f"log p(x), {field.kind} ({field.reason}); one place in 200 has more than {top} nats"],
            values={"reason": field.reason, "highest_nats": float(field.log_p.max())},
            arrays={"log_p": field.log_p.numpy()},
            found=field,
            protocol={"images": dataset.name},
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        return {"density": draw_density(answer.found)}


@dataclass(frozen=True)
class Field:
    """log p on a square of points.

    Attributes:
        log_p: float64 [side, side] in nats, the rows from low to high values of the second coordinate.
        plane: where the square lies.
        kind: ``exact``, ``bound`` or ``estimate``; ``reason`` says how it came about.
    """

    log_p: Tensor
    plane: Plane
    kind: str
    reason: str

    @property
    def top(self) -> float:
        """What one place in 200 exceeds: of a Monte-Carlo answer the very highest may be a single lucky draw."""
        return float(self.log_p.flatten().quantile(0.995))


def density_map(
    model: Family,
    real: Tensor,
    *,
    label: int | None = None,
    side: int = 64,
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Field:
    """log p at the centres of ``side`` x ``side`` cells of the plane of the real vectors.

    Of a family that `Denoises` by the probability-flow equation, of a VAE by importance sampling.

    Args:
        real: float32 [N, 2], which say what part of the plane is of interest.
        label: class of a conditional model; None for none.
        samples: importance samples for each point; seed: of them.
        device: whose processes share the work.

    Raises:
        ValueError: the model defines no density, in one line.
    """

    def scored(x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None) -> Likelihood:
        if not isinstance(model, Denoises):
            return model.log_likelihood(x, labels, noise, samples)
        nats, _ = model.flow_log_likelihood(x, labels, noise, tolerance=1e-3)
        return Likelihood("estimate", nats, "the probability-flow equation")

    plane = Plane.of(real)
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    down, across = torch.meshgrid(centres, centres, indexing="ij")
    places = torch.stack([across, down], 2).view(-1, 2)
    points = (torch.tensor(plane.low) + places * torch.tensor(plane.side)).float()
    labels = None if label is None else torch.full((len(points),), label)
    found = answered(
        scored,
        model,
        points,
        labels,
        samples=samples or DRAWS,
        seed=seed,
        device=device,
        progress=progress,
        block=POINTS,
    )
    if found.nats is None:
        raise ValueError(f"there is no density to draw: {found.reason}")
    return Field(found.nats.view(side, side), plane, found.kind, found.reason)


def draw_density(field: Field) -> Sheet:
    """log p, light where it is high; all below `DEPTH` nats under the highest is darkest."""
    top = field.top
    shown = magnified(ramp((field.log_p.flip(0) - top + DEPTH) / DEPTH), 1).resize(
        (SIDE, SIDE), Image.Resampling.NEAREST
    )
    x, y = ((low, low + side) for low, side in zip(field.plane.low, field.plane.side, strict=True))
    plot = Plot((SIDE + 72, SIDE + 70), x, y, field.plane.names, (steps(*x, 6), steps(*y, 6)))
    plot.pen.paste(shown, (plot.left, plot.top))
    said = f"log p(x), {field.kind}: from {top - DEPTH:.3g} or less (dark) to {top:.3g} nats (light)"
    return framed(below([words([said]), plot.finished()]))
