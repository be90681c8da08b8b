"""The pictures of `latent.py`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from trilemma import drawing
from trilemma.images import grid
from trilemma.questions.arithmetic import Arithmetic
from trilemma.questions.latent import Interpolation, Traversal

OKABE_ITO = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0),
    (86, 180, 233), (120, 94, 40), (0, 0, 0), (240, 228, 66), (150, 150, 150),
)  # fmt: skip
"""Ten colours that people with any kind of colour vision tell apart."""


def shown(image: Tensor, levels: int, wanted: int = 56) -> Image.Image:
    """uint8 [C, H, W] as a picture of about that size."""
    return drawing.magnified(drawing.rgb(image[None], levels)[0], drawing.scale_for(max(image.shape[1:]), wanted))


def row(images: Tensor, levels: int, wanted: int = 56) -> Image.Image:
    return drawing.beside([shown(image, levels, wanted) for image in images], 3)


def draw_interpolations(answer: Interpolation, a: Tensor, b: Tensor, path: str | os.PathLike[str], title: str) -> Path:
    """A PNG: for each pair the two real images at the ends, the straight way above and the spherical below."""
    rows = []
    for i in range(len(a)):
        start, end = shown(a[i], answer.levels), shown(b[i], answer.levels)
        blank = Image.new("RGB", start.size, drawing.PAPER)
        for way, ends in ((answer.straight[i], (start, end)), (answer.spherical[i], (blank, blank))):
            rows.append(drawing.beside([ends[0], row(way, answer.levels), ends[1]], 12))
    words = ["real images at the ends; between their codes, above along a line, below along an arc"]
    return _save([drawing.words([title], 16), drawing.words(words, 12), *rows], path)


def draw_traversal(answer: Traversal, path: str | os.PathLike[str], title: str) -> Path:
    """A PNG: a row for each latent, its number and importance in front."""
    rows = []
    unit = "nats" if answer.measure == "nats" else "var"
    for images, latent, weight in zip(answer.images, answer.latents.tolist(), answer.importance.tolist(), strict=True):
        rows.append(
            drawing.beside(
                [drawing.words([f"z{latent}", f"{weight:.2f} {unit}"], 12, 70), row(images, answer.levels)], 8
            )
        )
    ends = answer.values[0]
    words = [
        f"one latent at a time from {float(ends[0]):.1f} to {float(ends[-1]):.1f}"
        + (
            ", its rate in nats (mean KL) in front"
            if answer.measure == "nats"
            else " (first row), its variance in front"
        )
    ]
    return _save([drawing.words([title], 16), drawing.words(words, 12), *rows], path, 4)


def draw_manifold(images: Tensor, levels: int, path: str | os.PathLike[str], title: str, words: str) -> Path:
    """A PNG of [side, side, C, H, W] without gaps, as a map."""
    side = images.shape[1]
    scale = drawing.scale_for(max(images.shape[3:]), 32)
    tiled = grid(images.flatten(0, 1), levels=levels, columns=side, gap=0, scale=scale)
    picture = drawing.magnified(drawing.rgb(tiled[None], 256)[0], 1)
    return _save([drawing.words([title], 16), drawing.words([words], 12), picture], path)


def draw_arithmetic(answer: Arithmetic, names: Sequence[str], path: str | os.PathLike[str], title: str) -> Path:
    """A PNG: the equation, codes around its result, and the nearest real images."""
    face = shown(answer.result, answer.levels)
    pictures: list[Image.Image] = []
    for sign, image, name in zip(("", "-", "+"), answer.means, names, strict=True):
        if sign:
            pictures.append(drawing.words([sign], 24))
        pictures.append(drawing.below([shown(image, answer.levels), drawing.words([name], 12)], 2))
    pictures += [drawing.words(["="], 24), face]
    rows = [
        drawing.beside(pictures, 8),
        drawing.words(["decoded from codes near the result"], 12),
        row(answer.around, answer.levels),
        drawing.words(["real images with the nearest codes"], 12),
        row(answer.neighbours, answer.levels),
    ]
    return _save([drawing.words([title], 16), *rows], path)


def draw_map(
    codes: Tensor, labels: Tensor | None, names: Sequence[str], path: str | os.PathLike[str], title: str, words: str
) -> Path:
    """A PNG of 2-D codes [N, 2] as points, coloured by class where there are labels; circles at 1, 2, 3 of N(0, I)."""
    ends = torch.quantile(codes, torch.tensor([0.003, 0.997]), dim=0)
    low, high = ends[0].clamp(max=-3.2), ends[1].clamp(min=3.2)
    half = float((high - low).max()) / 2  # as wide as high, so that circles are round
    (left_end, right_end), (lower_end, upper_end) = (
        (float(low[i] + high[i]) / 2 - half, float(low[i] + high[i]) / 2 + half) for i in (0, 1)
    )
    ticks = (drawing.steps(left_end, right_end, 6), drawing.steps(lower_end, upper_end, 6))
    plot = drawing.Plot((560, 558), (left_end, right_end), (lower_end, upper_end), ("z0", "z1"), ticks)
    for radius in (1, 2, 3):
        (left, bottom), (right, top) = plot.at(-radius, -radius), plot.at(radius, radius)
        plot.pen.ellipse((left, top, right, bottom), outline=drawing.FAINT)
    for i, (x, y) in enumerate(codes.tolist()):
        if left_end < x < right_end and lower_end < y < upper_end:
            colour = OKABE_ITO[int(labels[i]) % len(OKABE_ITO)] if labels is not None else drawing.BLUE
            across, up = plot.at(x, y)
            plot.pen.ellipse((across - 1.5, up - 1.5, across + 1.5, up + 1.5), fill=colour)
    parts = [drawing.words([title], 16), drawing.words([words], 12), plot.finished()]
    if labels is not None and len(names) <= len(OKABE_ITO):
        entries = [(drawing.swatch(colour, 10), name) for colour, name in zip(OKABE_ITO, names, strict=False)]
        parts += [drawing.key(entries[i : i + 5]) for i in range(0, len(entries), 5)]
    return _save(parts, path)


def _save(parts: Sequence[Image.Image], path: str | os.PathLike[str], gap: int = 8) -> Path:
    return drawing.save(drawing.framed(drawing.below(parts, gap)), path)
