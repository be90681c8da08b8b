"""Pictures with words and scales, drawn with Pillow alone: maps of numbers, colour bars, simple plots.

The font that comes with Pillow has few signs beyond ASCII, so the words in pictures keep to those.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from trilemma.files import write_picture
from trilemma.images import grid, to_display, to_pil

Colour = tuple[int, int, int]
Array = npt.NDArray[np.float64]

INK, PAPER, FAINT = (32, 32, 32), (255, 255, 255), (200, 200, 200)
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)
"""Two hues that people with any kind of colour vision tell apart (Okabe and Ito)."""

RAMP = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)
"""Dark to light in even steps, so that the order of the values survives without colour."""


def font(size: int = 14) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def ramp(values: Tensor) -> Tensor:
    """Numbers on [0, 1], any shape, to colours: uint8 [..., 3]."""
    at = values.double().clamp(0, 1).numpy() * (len(RAMP) - 1)
    channels = [np.interp(at, np.arange(len(RAMP)), RAMP[:, channel]) for channel in range(3)]
    return torch.from_numpy(np.stack(channels, -1).round().astype(np.uint8))


def rgb(images: Tensor, levels: int) -> Tensor:
    """uint8 [N, C, H, W] images to uint8 [N, H, W, 3] for eyes."""
    shown = to_display(images, levels).cpu().permute(0, 2, 3, 1)
    return shown.expand(*shown.shape[:3], 3)


def magnified(pixels: Tensor, scale: int) -> Image.Image:
    """uint8 [H, W, 3] by nearest neighbour."""
    return Image.fromarray(np.ascontiguousarray(pixels.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy()))


def scale_for(spec_size: int, wanted: int) -> int:
    """The integer magnification that brings an image of so many pixels near a wanted size."""
    return max(1, round(wanted / spec_size))


def words(lines: Sequence[str], size: int = 14, width: int = 0, middle: bool = False) -> Image.Image:
    """Lines of text on paper, at least ``width`` wide."""
    face, height = font(size), round(size * 1.4)
    wide = max([width, *(int(face.getlength(line)) + 1 for line in lines)])
    picture = Image.new("RGB", (wide, height * len(lines)), PAPER)
    pen = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        left = (wide - face.getlength(line)) / 2 if middle else 0
        pen.text((left, i * height), line, INK, face)
    return picture


def beside(pictures: Sequence[Image.Image], gap: int = 12) -> Image.Image:
    """From left to right, at the top."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + gap
    return canvas


def below(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """From top to bottom, at the left."""
    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    canvas = Image.new("RGB", (max(picture.width for picture in pictures), height), PAPER)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height + gap
    return canvas


def framed(picture: Image.Image, margin: int = 12) -> Image.Image:
    """With a margin of paper."""
    canvas = Image.new("RGB", (picture.width + 2 * margin, picture.height + 2 * margin), PAPER)
    canvas.paste(picture, (margin, margin))
    return canvas


def captioned(rows: Sequence[tuple[str, Tensor]], levels: int, columns: int = 10, wanted: int = 64) -> Image.Image:
    """Each text beside its images, uint8 [N, C, H, W], whose longer side is brought to about ``wanted``
    pixels."""
    pictures = []
    for text, images in rows:
        scale = scale_for(max(images.shape[2:]), wanted)
        drawn = to_pil(grid(images, levels=levels, columns=columns, gap=1, scale=scale)).convert("RGB")
        lines = textwrap.wrap(text or "(no caption)", 24) or [""]
        pictures.append(beside([words(lines, 13, 180), drawn], 10))
    return framed(below(pictures, 8))


def colour_bar(width: int, ticks: Sequence[tuple[float, str]]) -> Image.Image:
    """The colours of `ramp` from left to right, with words at places on [0, 1]."""
    canvas = Image.new("RGB", (width, 34), PAPER)
    pen, face = ImageDraw.Draw(canvas), font(12)
    canvas.paste(magnified(ramp(torch.linspace(0, 1, width))[None], 1).resize((width, 12)), (0, 0))
    for place, word in ticks:
        x, wide = place * (width - 1), face.getlength(word)
        pen.line([(x, 12), (x, 16)], INK)
        pen.text((min(max(0, x - wide / 2), width - wide), 17), word, INK, face)
    return canvas


def key(entries: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Small pictures, each with what it means."""
    return beside([beside([swatch, words([word], 12)], 5) for swatch, word in entries], 16)


def swatch(colour: Colour, size: int = 14) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def outlined(picture: Image.Image, box: tuple[int, int, int, int], colour: Colour = ORANGE) -> Image.Image:
    """A frame just inside ``box`` (left, top, right, bottom, exclusive)."""
    left, top, right, bottom = box
    thick = max(1, min(3, (right - left) // 5))
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), outline=colour, width=thick)
    return picture


class Plot:
    """Axes with ticks and names; `at` maps numbers to pixels."""

    def __init__(
        self,
        size: tuple[int, int],
        x: tuple[float, float],
        y: tuple[float, float],
        names: tuple[str, str],
        ticks: tuple[Sequence[float], Sequence[float]],
        write: Callable[[float], str] = "{:g}".format,
    ) -> None:
        self.left, self.top, self.right, self.bottom = 58, 26, size[0] - 14, size[1] - 44
        self.x, self.y = x, y
        self.picture = Image.new("RGB", size, PAPER)
        self.pen = ImageDraw.Draw(self.picture)
        face = font(12)
        self.mark_x([(tick, write(tick)) for tick in ticks[0]])
        self.mark_y([(tick, write(tick)) for tick in ticks[1]])
        middle = (self.left + self.right - face.getlength(names[0])) / 2
        self.pen.text((middle, self.bottom + 24), names[0], INK, face)
        self.pen.text((4, 4), names[1], INK, face)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point stands in the picture."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def mark_x(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Ticks below the picture: where, and what is written there."""
        face = font(12)
        for tick, word in ticks:
            place = self.at(tick, self.y[0])[0]
            self.pen.line([(place, self.bottom), (place, self.bottom + 4)], INK)
            self.pen.text((place - face.getlength(word) / 2, self.bottom + 6), word, INK, face)

    def mark_y(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Ticks at the left."""
        face = font(12)
        for tick, word in ticks:
            place = self.at(self.x[0], tick)[1]
            self.pen.line([(self.left - 4, place), (self.left, place)], INK)
            self.pen.text((self.left - 8 - face.getlength(word), place - 8), word, INK, face)

    def dot(self, point: tuple[float, float], fill: Colour | None, radius: int = 3, word: str = "") -> None:
        """A disc, or a ring where there is no colour, with a word at its upper right, kept within the axes."""
        across, up = self.at(*point)
        edge = INK if fill is None else fill
        self.pen.ellipse((across - radius, up - radius, across + radius, up + radius), fill, edge, 2)
        if word:
            face = font(12)
            left = min(across + radius + 3, self.right - face.getlength(word))
            self.pen.text((left, max(up - 16, self.top)), word, INK, face)

    def bar(self, x: tuple[float, float], y: tuple[float, float], fill: Colour | None, edge: Colour) -> None:
        """A rectangle between two numbers each way."""
        (left, bottom), (right, top) = self.at(x[0], y[0]), self.at(x[1], y[1])
        self.pen.rectangle((left, top, right, bottom), fill=fill, outline=edge)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: int = 2) -> None:
        self.pen.line([self.at(*point) for point in points], colour, width)

    def finished(self) -> Image.Image:
        """With the two axes on top of what was drawn."""
        self.pen.line([(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)], INK)
        return self.picture


def steps(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= raw * 0.999)
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [round(i * step, 12) for i in range(first, last + 1)]


def save(picture: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Write a PNG atomically; parents are made."""
    return write_picture(path, picture)
