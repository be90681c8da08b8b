"""Receptive fields drawn: one of a trained net, and the textbook's five side by side."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from trilemma import drawing
from trilemma.drawing import Colour
from trilemma.families.autoregressive import Autoregressive
from trilemma.families.pixelcnn import PixelCNN, PixelCNNConfig
from trilemma.families.pixelrnn import PixelRNN, PixelRNNConfig
from trilemma.images import Spec
from trilemma.noise import derive_seed
from trilemma.questions.receptive import Field, decades, receptive_field

SEEN: Colour = (86, 144, 196)
UNSEEN: Colour = (232, 196, 160)
AFTER: Colour = (244, 244, 244)

TEXTBOOK: tuple[tuple[str, str, type[Autoregressive], PixelCNNConfig | PixelRNNConfig], ...] = (
    (
        "Diagonal LSTM, one direction",
        "all above and to the left",
        PixelRNN,
        PixelRNNConfig(network="diagonal-lstm", features=4, first_kernel=3, head=4),
    ),
    (
        "Diagonal BiLSTM",
        "all pixels before",
        PixelRNN,
        PixelRNNConfig(network="diagonal-bilstm", features=4, first_kernel=3, head=4),
    ),
    (
        "Row LSTM",
        "a triangle above",
        PixelRNN,
        PixelRNNConfig(network="row-lstm", features=4, first_kernel=3, head=4),
    ),
    (
        "PixelCNN, plain",
        "a window with a blind spot",
        PixelCNN,
        PixelCNNConfig(network="plain", features=8, layers=6, first_kernel=5, kernel=3, head=8),
    ),
    (
        "PixelCNN, gated",
        "the window, no blind spot",
        PixelCNN,
        PixelCNNConfig(network="gated", features=8, layers=7, first_kernel=5, kernel=3, head=8),
    ),
)
"""Title, what the textbook says, and a small net of the kind. Both PixelCNNs have a window of 8 pixels each way."""


def draw_field(field: Field, path: str | os.PathLike[str], title: str) -> Path:
    """A field as a PNG: the influence of each pixel on a logarithmic scale, with a legend."""
    low, high = decades(field.influence[field.pixels])
    share = (field.influence.clamp(min=10.0**low).log10() - low) / (high - low)
    colours = torch.where(field.pixels[..., None], drawing.ramp(share), _ground(field))
    scale = max(4, drawing.scale_for(max(field.pixels.shape), 420))
    up, left, right = field.reach
    seen, before = int(field.pixels.sum()), int(field.before.sum())
    lines = [
        f"Pixel ({field.position[0]}, {field.position[1]}) sees {seen} of the {before} pixels before it",
        f"reach: {up} up, {left} left, {right} right; mean over {field.images} images",
    ]
    faintest = field.influence[field.pixels & (field.influence > 0)]
    below_scale = len(faintest) and float(faintest.min()) < 10.0**low
    ticks = [
        ((power - low) / (high - low), f"{'<= ' if power == low and below_scale else ''}1e{power}")
        for power in range(round(low), round(high) + 1)
    ]
    panel = _marked(colours, field, scale)
    picture = drawing.below(
        [
            drawing.words([title], 16),
            drawing.words(lines, 13),
            panel,
            drawing.words(["|d log p(pixel | all before) / d input|, nats per unit, log scale"], 12),
            drawing.colour_bar(max(panel.width, 240), ticks),
            drawing.key([(_pixel_sign(), "the pixel"), *_grounds()]),
        ]
    )
    return drawing.save(drawing.framed(picture), path)


def receptive_comparison(path: str | os.PathLike[str], size: tuple[int, int] = (21, 25), seed: int = 0) -> Path:
    """The receptive fields of the five nets of the textbook, freshly initialised, side by side, as one PNG.

    Args:
        size: height and width of the images.
        seed: of the nets and of the images at which they are differentiated.
    """
    panels = []
    for title, says, _, _ in TEXTBOOK:
        field = textbook_field(title, size, seed)
        colours = torch.where(field.pixels[..., None], torch.tensor(SEEN, dtype=torch.uint8), _ground(field))
        scale = max(3, drawing.scale_for(size[1], 225))
        panel = _marked(colours, field, scale)
        sees = f"{int(field.pixels.sum())} of {int(field.before.sum())} pixels"
        lines = drawing.words([title], 15, panel.width), drawing.words([says, sees], 13, panel.width)
        panels.append(drawing.below([*lines, panel], 4))
    seen = (drawing.swatch(SEEN), "seen")
    legend = drawing.key([(_pixel_sign(), "the pixel"), seen, *_grounds()])
    return drawing.save(drawing.framed(drawing.below([drawing.beside(panels, 18), legend], 12)), path)


def textbook_field(title: str, size: tuple[int, int], seed: int = 0) -> Field:
    """The field of the centre in one of the `TEXTBOOK` nets, freshly initialised."""
    kind, config = next((kind, config) for name, _, kind, config in TEXTBOOK if name == title)
    spec = Spec((1, *size), 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "receptive comparison"))
        model = kind(config, spec)  # type: ignore[call-arg]
    generator = torch.Generator().manual_seed(derive_seed(seed, "receptive images"))
    images = torch.randint(2, (8, *spec.shape), generator=generator).to(torch.uint8)
    return receptive_field(model, images, seed=seed)


def _ground(field: Field) -> Tensor:
    """The colours of the pixels that are not seen: uint8 [H, W, 3]."""
    unseen, after = (torch.tensor(colour, dtype=torch.uint8) for colour in (UNSEEN, AFTER))
    return torch.where(field.before[..., None], unseen, after)


def _marked(colours: Tensor, field: Field, scale: int) -> Image.Image:
    """Magnified, what is not seen hatched, the pixel itself framed."""
    picture = drawing.magnified(colours, scale)
    pen = ImageDraw.Draw(picture)
    for row, column in (field.before & ~field.pixels).nonzero().tolist():
        left, top = column * scale, row * scale
        pen.line([(left, top + scale - 1), (left + scale - 1, top)], (190, 140, 90))
    row, column = field.position
    left, top = column * scale, row * scale
    pen.rectangle((left, top, left + scale - 1, top + scale - 1), fill=drawing.PAPER)
    return drawing.outlined(picture, (left, top, left + scale, top + scale), (200, 30, 30))


def _pixel_sign() -> Image.Image:
    return drawing.outlined(drawing.swatch(drawing.PAPER), (0, 0, 14, 14), (200, 30, 30))


def _grounds() -> list[tuple[Image.Image, str]]:
    unseen = drawing.swatch(UNSEEN)
    ImageDraw.Draw(unseen).line([(0, 13), (13, 0)], (190, 140, 90))
    after = drawing.outlined(drawing.swatch(AFTER), (0, 0, 14, 14), drawing.FAINT)
    return [(unseen, "before it, but not seen"), (after, "after it")]
