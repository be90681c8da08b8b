"""Where is an image surprising? -log2 p of every value given those before it, as a picture."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.families.family import Family, Progress
from trilemma.images import check_images
from trilemma.parallel import ranks
from trilemma.questions.order import autoregressive, checked_labels
from trilemma.run import Run

BLOCK = 50_000
"""Values of images scored together, which bounds the memory."""


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
    run: Run | Family,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> Surprise:
    """-log p(x_i | x_<i) of every value of images; their sum is exactly -log p(x).

    Args:
        run: a run, or a model loaded from one, of an autoregressive family.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model, by default "no label".
        device: where to compute.
        progress: told ``(images done, N)``.

    Raises:
        ValueError: another family, or images or labels that do not fit, in one line.
    """
    where = ranks(device)
    model = autoregressive(run.model(where.device) if isinstance(run, Run) else run, "a surprise map")
    check_images(images, model.spec)
    if not len(images):
        raise ValueError("there are no images to score")
    labels = checked_labels(model, labels, len(images))
    size = max(1, BLOCK // model.spec.dims)
    mine: dict[int, Tensor] = {}
    for start in list(range(0, len(images), size))[where.rank :: where.size]:
        rows = slice(start, start + size)
        y = None if labels is None else labels[rows].to(model.device)
        with torch.no_grad():
            mine[start] = model.nats(images[rows].to(model.device), y).cpu().double()
        if progress:
            progress(min(rows.stop, len(images)), len(images))
    parts: dict[int, Tensor] = {}
    for theirs in where.gather(mine):
        parts |= theirs
    return Surprise(torch.cat([parts[start] for start in sorted(parts)]))


def draw_surprise(answer: Surprise, images: Tensor, levels: int, path: str | os.PathLike[str]) -> Path:
    """A PNG: each image above its map, all on one scale of bits per pixel, with its nats and bits/dim below."""
    bits = answer.bits
    top = max(float(bits.max()), 1e-9)
    scale = drawing.scale_for(max(images.shape[2:]), 96)
    cells = []
    for picture, field, nats, rate in zip(
        drawing.rgb(images, levels), bits, answer.nats.tolist(), answer.bits_per_dim.tolist(), strict=True
    ):
        shown, seen = drawing.magnified(picture, scale), drawing.magnified(drawing.ramp((field / top).sqrt()), scale)
        numbers = drawing.words([f"{nats:.1f} nats", f"{rate:.3f} bits/dim"], 12, shown.width)
        cells.append(drawing.below([shown, seen, numbers], 4))
    rows = [drawing.beside(cells[i : i + 10], 8) for i in range(0, len(cells), 10)]
    ticks = [(math.sqrt(bit / top), f"{bit:g}") for bit in drawing.steps(0, top, 6)]
    width = max(240, min(rows[0].width, 480))
    legend = [drawing.words(["-log2 p of each pixel, in bits (the scale is a square root)"], 12)]
    return drawing.save(drawing.framed(drawing.below([*rows, *legend, drawing.colour_bar(width, ticks)], 10)), path)
