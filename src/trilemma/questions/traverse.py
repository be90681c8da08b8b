"""What does each latent do? One at a time is moved, from the one that matters most to the least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.drawing import Picture
from trilemma.families.family import Decodes, Encodes, Family
from trilemma.questions.answer import Answer
from trilemma.questions.posterior import Encoded, decode, posterior
from trilemma.questions.question import AboutImages, Context
from trilemma.validate import MOST, Limits


@dataclass(frozen=True)
class Traverse(AboutImages):
    """Traversals of the first image's code; the others say how much each latent matters."""

    points: Annotated[int, Limits(2, MOST)] = 9
    """Pictures in a row."""

    name: ClassVar[str] = "traverse"
    title: ClassVar[str] = "Latent traversals"
    sentence: ClassVar[str] = "What does each latent do, moved alone, the most important first?"
    paper: ClassVar[str] = "Higgins et al. 2017, beta-VAE, ICLR"
    capabilities: ClassVar[tuple[type, ...]] = (Encodes, Decodes)
    most: ClassVar[int] = 500

    def answer(self, context: Context) -> Answer:
        batch, model = context.batch(self), context.model
        known = posterior(model, batch.x, batch.conditions, seed=context.seed, progress=context.progress)
        first = None if batch.conditions is None else batch.conditions[:1]
        found = traverse(model, batch.x[:1], known, self.points, label=first)
        return Answer(
            self,
            context.run,
            reading=[known.verdict],
            values={
                "image": batch.indices[0],
                "latents": found.latents.tolist(),
                "importance": found.importance.tolist(),
                "measure": found.measure,
                "verdict": known.verdict,
            },
            arrays={"images": found.images.numpy(), "values": found.values.numpy()},
            found=found,
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        title = answer.title(f"traversals of image {answer.values['image']} of {answer.protocol['images']}")
        return {"traversal": draw_traversal(answer.found, title)}


@dataclass(frozen=True)
class Traversal:
    """One latent moved at a time.

    Attributes:
        images: uint8 [rows, steps, C, H, W], a row for each latent in ``latents``.
        latents: int64 [rows], from the most important.
        importance: float32 [rows]: the rate of each in nats, or where codes are points its variance over images.
        values: float32 [rows, steps], where each latent stood.
        measure: what ``importance`` is.
        levels: of the images.
    """

    images: Tensor
    latents: Tensor
    importance: Tensor
    values: Tensor
    measure: str
    levels: int


def traverse(
    model: Family,
    image: Tensor,
    known: Encoded,
    steps: int = 9,
    reach: float = 2.5,
    most: int | None = None,
    label: Tensor | None = None,
) -> Traversal:
    """Move each latent of one image's code from -reach to +reach, from the latent that matters most to the least.

    Args:
        model: of a family that `Encodes` and `Decodes`, on its device.
        image: uint8 [1, C, H, W], whose code is moved.
        known: the `posterior` of many images, which says how much each latent matters and, where codes are points, how
            far it goes: its values are spread around the codes' mean by ``reach`` standard deviations.
        steps: pictures in a row; an odd number has the middle.
        reach: how far, in standard deviations of N(0, 1).
        most: at most so many latents.
        label: int64 [1] for a conditional model.
    """
    code = posterior(model, image, label).mean[0]
    latents = known.order[:most]
    centre = known.mean.mean(0)[latents] if known.rate is None else torch.zeros(len(latents))
    spread = known.spread[latents].sqrt() if known.rate is None else torch.ones(len(latents))
    values = centre[:, None] + spread[:, None] * torch.linspace(-reach, reach, steps)
    z = code.repeat(len(latents), steps, 1)
    z[torch.arange(len(latents)), :, latents] = values
    many = None if label is None else label.expand(len(latents) * steps)
    images = decode(model, z.flatten(0, 1), many).view(len(latents), steps, *model.spec.shape)
    importance, measure = (known.spread, "variance") if known.rate is None else (known.rate, "nats")
    return Traversal(images, latents, importance[latents], values, measure, model.spec.levels)


def draw_traversal(found: Traversal, title: str) -> Picture:
    """A row for each latent, its number and importance in front."""
    rate = found.measure == "nats"
    rows = []
    for images, latent, weight in zip(found.images, found.latents.tolist(), found.importance.tolist(), strict=True):
        head = drawing.words([f"z{latent}", f"{weight:.2f} {'nats' if rate else 'var'}"], 12, 70)
        rows.append(drawing.beside([head, drawing.tiles(images, found.levels)], 8))
    low, high = float(found.values[0, 0]), float(found.values[0, -1])
    importance = ", its rate in nats (mean KL) in front" if rate else " (first row), its variance in front"
    words = [f"one latent at a time from {low:.1f} to {high:.1f}{importance}"]
    return drawing.framed(drawing.below([drawing.words([title], 16), drawing.words(words, 12), *rows], 4))
