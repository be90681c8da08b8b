"""The pictures of an evaluation: samples, samples above their nearest training images, and the closest pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from trilemma import drawing
from trilemma.evaluation.memorisation import MOST_TRAINING, Closest, Memory, pixels, train_pixels
from trilemma.evaluation.reference import Reference, display
from trilemma.evaluation.stream import Pool
from trilemma.evaluation.subject import Subject
from trilemma.images import grid, save_png, to_display, to_pil
from trilemma.metrics import nearest
from trilemma.sampling import sample
from trilemma.vectors import scatter

COLUMNS = 10
SHOWN = 80
TILE = 56
"""Pixels that the tiles of the closest pairs are brought to, at least: room for a number under them."""


@dataclass(frozen=True)
class Shown:
    """Images for a grid of ten columns: uint8 [N, C, H, W], 0 … 255, and the text that each row was drawn from."""

    images: Tensor
    texts: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        if not self.texts:
            save_png(grid(self.images, columns=COLUMNS), path)
            return
        rows = torch.split(self.images, COLUMNS)
        drawing.save(drawing.captioned(list(zip(self.texts, rows, strict=True)), 256, COLUMNS), path)


def of_run(subject: Subject, scored: Pool, real: Reference, options: Any | None, device: str) -> Shown:
    """Eighty samples for a grid of ten columns, every class in turn; with more than ten classes, the first ten.

    They are the first of each class among the samples that are scored, where there are enough. Where a run reads
    captions, each row is drawn from that of a held-out image.
    """
    assert subject.model is not None
    spec = subject.model.spec
    if spec.vector:
        return Shown(torch.empty(0))  # the scatter is of the samples that are scored
    if subject.captioned and subject.run is not None and real.dataset.captions is not None:
        chosen = real.held_out_indices[:8]
        captions = subject.run.conditions(real.dataset, chosen)
        assert captions is not None
        rows = captions.repeat_interleave(COLUMNS, 0)
        drawn = sample(subject.model, len(rows), seed=real.protocol.seed, labels=rows, options=options, device=device)
        return Shown(to_display(drawn.images, spec.levels), tuple(real.dataset.captions[i] for i in chosen))
    labels = [i % COLUMNS % spec.classes for i in range(SHOWN)] if spec.classes else None
    if (first := _first(scored, subject.labels, labels)) is not None:
        return Shown(scored.images[first])
    drawn = sample(subject.model, SHOWN, seed=real.protocol.seed, labels=labels, options=options, device=device)
    return Shown(to_display(drawn.images, spec.levels))


def _first(scored: Pool, known: Tensor | None, wanted: Sequence[int] | None) -> list[int] | None:
    """Rows of the samples that show the wanted classes in turn, each the next of its class; None if they run out."""
    if wanted is None:
        return list(range(SHOWN)) if len(scored.images) >= SHOWN else None
    if known is None:
        return None
    of_class = {c: iter((known[: len(scored.images)] == c).nonzero()[:, 0].tolist()) for c in set(wanted)}
    rows = [next(of_class[c], None) for c in wanted]
    return None if None in rows else [row for row in rows if row is not None]


def save(place: Path, drawn: Pool, shown: Shown | None, real: Reference, remembered: Memory | None) -> dict[str, str]:
    """Write the pictures into a folder; returns their names."""
    if real.dataset.vector:
        save_png(
            scatter(drawn.images, display(real.dataset, real.dataset.test[: len(drawn.images)])), place / "samples.png"
        )
        return {"samples": "samples.png"}
    (shown or Shown(drawn.images[:80])).save(place / "samples.png")
    saved = {"samples": "samples.png"}
    first = drawn.images[: 2 * COLUMNS]
    if len(first):
        _, indices = nearest(pixels(first), train_pixels(real))
        neighbours = display(real.dataset, real.dataset.train[:MOST_TRAINING][indices.numpy()])
        save_png(grid(_in_pairs(first, neighbours), columns=COLUMNS), place / "neighbours.png")
        saved["neighbours"] = "neighbours.png"
    for space, pairs in (remembered.pairs if remembered else {}).items():
        if pairs:
            saved[f"closest_{space}"] = _closest(place / f"closest-{space}.png", pairs, drawn.images, real).name
    return saved


def _in_pairs(upper: Tensor, lower: Tensor) -> Tensor:
    """Rows of ten, each above its partner."""
    rows = range(0, len(upper), COLUMNS)
    return torch.cat([part for row in rows for part in (upper[row : row + COLUMNS], lower[row : row + COLUMNS])])


def _closest(path: Path, pairs: Sequence[Closest], images: Tensor, real: Reference) -> Path:
    """Each sample above the training image it is nearest to, the distance written under both."""
    upper = images[[pair.sample for pair in pairs]]
    lower = display(real.dataset, np.array([pair.training for pair in pairs]))
    scale = max(1, -(-TILE // upper.shape[-1]))
    gap = 2 * scale
    picture = to_pil(grid(torch.cat([upper, lower]), columns=len(pairs), gap=2, scale=scale)).convert("RGB")
    tile = upper.shape[-1] * scale + gap
    size = max(12, tile // 4)
    canvas = Image.new("RGB", (picture.width, picture.height + size + gap), (64, 64, 64))
    canvas.paste(picture, (0, 0))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size)
    for i, pair in enumerate(pairs):
        text = f"{pair.distance:#.3g}".rstrip(".")
        left = gap + i * tile + (tile - gap - pen.textlength(text, font=font)) / 2
        pen.text((left, picture.height), text, fill="white", font=font)
    return drawing.save(canvas, path)
