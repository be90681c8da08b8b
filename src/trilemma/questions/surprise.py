"""Where is an image surprising? -log2 p of every value given those before it, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress, map_blocks
from trilemma.drawing import Picture, Sheet
from trilemma.families.family import Orders
from trilemma.images import check_images
from trilemma.likelihood import checked_labels
from trilemma.metrics.likelihood import bits_per_dim, worse_than_uniform
from trilemma.number import Number
from trilemma.parallel import ranks
from trilemma.questions.answer import Answer
from trilemma.questions.question import AboutImages, Context, Question, own
from trilemma.run import Run

VALUES = 50_000
"""Values of images scored together, which bounds the memory."""


@dataclass(frozen=True)
class SurpriseMap(AboutImages):
    """−log2 p of each pixel."""

    name: ClassVar[str] = "surprise"
    title: ClassVar[str] = "Surprise map"
    sentence: ClassVar[str] = "Where are images improbable: −log2 p of each pixel given those before it?"
    capabilities: ClassVar[tuple[type, ...]] = (Orders,)

    @classmethod
    def routine(cls, run: Run) -> Question | None:
        return cls(labels=own(run))

    def answer(self, context: Context) -> Answer:
        batch, model = context.batch(self), context.model
        assert isinstance(model, Orders)
        found = surprise(model, batch.x, batch.conditions, device=context.device, progress=context.progress)
        nats, rates = found.nats.tolist(), found.bits_per_dim.tolist()
        flag = worse_than_uniform(float(found.bits_per_dim.mean()), context.spec.levels)
        mean, error = bits_per_dim(-found.nats, context.spec.dims)
        return Answer(
            self,
            context.run,
            kind="exact",
            numbers={"mean_bits_per_dim": Number(mean, error, "bits/dim", "lower", len(nats), "exact").finite()},
            reading=[
                f"image {index}: −log p(x) = {nat:.2f} nats, {rate:.4f} bits/dim"
                for index, nat, rate in zip(batch.indices, nats, rates, strict=True)
            ],
            flag=flag,
            values={"nats": nats, "bits_per_dim": rates, "bits_per_pixel": found.bits.tolist()},
            found=(found, batch.x),
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        found, x = answer.found
        return {"surprise": draw_surprise(found, x, answer.run.config.spec.levels)}


@dataclass(frozen=True)
class Surprise:
    """The parts of which -log p(x) is the sum.

    Attributes:
        values: float64 [N, C, H, W], -log p(x_i | x_<i) of each value in nats.
    """

    values: Tensor

    @property
    def nats(self) -> Tensor:
        """-log p(x) of each image: float64 [N]."""
        return self.values.flatten(1).sum(1)

    @property
    def bits_per_dim(self) -> Tensor:
        """-log2 p(x) per value: float64 [N]."""
        return self.nats / (self.values[0].numel() * math.log(2))

    @property
    def bits(self) -> Tensor:
        """-log2 p of each pixel, its channels together: float64 [N, H, W]."""
        return self.values.sum(1) / math.log(2)


def surprise(
    model: Orders,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> Surprise:
    """-log p(x_i | x_<i) of every value of images; their sum is exactly -log p(x).

    Args:
        model: of any family that `Orders`.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model, by default "no label".
        device: whose processes share the work.
        progress: told ``(images done, N)``.

    Raises:
        ValueError: images or labels that do not fit, in one line.
    """
    check_images(images, model.spec)
    if not len(images):
        raise ValueError("there are no images to score")
    labels = checked_labels(model.spec, labels, len(images))

    @torch.no_grad()
    def scored(rows: range, progress: Progress | None) -> tuple[Tensor]:
        part = slice(rows.start, rows.stop)
        y = None if labels is None else labels[part].to(model.device)
        return (model.nats(images[part].to(model.device), y).cpu().double(),)

    size = max(1, VALUES // model.spec.dims)
    (values,) = map_blocks(scored, len(images), ranks(device), block=size, progress=progress)
    return Surprise(values)


def draw_surprise(found: Surprise, images: Tensor, levels: int) -> Sheet:
    """Each image above its map, all on one scale of bits per pixel, with its nats and bits/dim below."""
    bits = found.bits
    top = max(float(bits.max()), 1e-9)
    scale = drawing.scale_for(max(images.shape[2:]), 96)
    cells = []
    for picture, field, nats, rate in zip(
        drawing.rgb(images, levels), bits, found.nats.tolist(), found.bits_per_dim.tolist(), strict=True
    ):
        shown, seen = drawing.magnified(picture, scale), drawing.magnified(drawing.ramp((field / top).sqrt()), scale)
        numbers = drawing.words([f"{nats:.1f} nats", f"{rate:.3f} bits/dim"], 12, shown.width)
        cells.append(drawing.below([shown, seen, numbers], 4))
    rows = [drawing.beside(cells[i : i + 10], 8) for i in range(0, len(cells), 10)]
    ticks = [(math.sqrt(bit / top), f"{bit:g}") for bit in drawing.steps(0, top, 6)]
    width = max(240, min(rows[0].width, 480))
    legend = [drawing.words(["-log2 p of each pixel, in bits (the scale is a square root)"], 12)]
    return drawing.framed(drawing.below([*rows, *legend, drawing.colour_bar(width, ticks)], 10))
