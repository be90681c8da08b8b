"""Pictures with words and scales: maps of numbers, colour bars, simple plots, in pixels (Pillow) or as SVG.

The font that comes with Pillow has few signs beyond ASCII: `PLAIN` stands for the others.
"""

from __future__ import annotations

import base64
import html
import io
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from trilemma.files import write_picture, write_text
from trilemma.images import grid, to_display, to_pil

Colour = tuple[int, int, int]
Array = npt.NDArray[np.float64]

INK, PAPER, FAINT = (32, 32, 32), (255, 255, 255), (200, 200, 200)
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)
"""Two hues that people with any kind of colour vision tell apart (Okabe and Ito)."""

RAMP = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)
"""Dark to light in even steps, so that the order of the values survives without colour."""


PLAIN = str.maketrans(
    {
        "−": "-", "–": "-", "≤": "<=", "≥": ">=", "≈": "~", "×": "x", "′": "'", "→": "->", "²": "2", "₂": "2",
        "α": "alpha", "β": "beta", "γ": "gamma", "σ": "sigma", "π": "pi", "∞": "infinity",
    }
)  # fmt: skip
"""What stands for signs that the font lacks, where words become pixels; an SVG keeps them."""


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


class Sheet:
    """A picture that remembers its marks, so that it can be written in pixels or as vectors.

    The marks are those of Pillow's ``ImageDraw``, in the order in which they cover each other.

    Args:
        width, height: in pixels.
        colour: of the paper.
    """

    def __init__(self, width: int, height: int, colour: Colour = PAPER) -> None:
        self.width, self.height, self.colour = width, height, colour
        self._marks: list[tuple[str, tuple[Any, ...]]] = []

    def paste(self, picture: Still, at: tuple[int, int]) -> None:
        """Another picture with its upper left corner at a place."""
        self._marks.append(("paste", (picture, at)))

    def line(self, points: Sequence[tuple[float, float]], fill: Colour, width: int = 1) -> None:
        self._marks.append(("line", (list(points), fill, width)))

    def rectangle(
        self,
        box: tuple[float, float, float, float],
        fill: Colour | None = None,
        outline: Colour | None = None,
        width: int = 1,
    ) -> None:
        self._marks.append(("rectangle", (box, fill, outline, width)))

    def ellipse(
        self,
        box: tuple[float, float, float, float],
        fill: Colour | None = None,
        outline: Colour | None = None,
        width: int = 1,
    ) -> None:
        self._marks.append(("ellipse", (box, fill, outline, width)))

    def text(self, at: tuple[float, float], words: str, size: int = 12, fill: Colour = INK) -> None:
        """Words with the upper left corner of their line at a place."""
        self._marks.append(("text", (at, words, size, fill)))

    def pixels(self) -> Image.Image:
        """The picture as Pillow draws it."""
        picture = Image.new("RGB", (self.width, self.height), self.colour)
        pen = ImageDraw.Draw(picture)
        for kind, mark in self._marks:
            if kind == "paste":
                picture.paste(as_pixels(mark[0]), mark[1])
            elif kind == "text":
                pen.text(mark[0], mark[1].translate(PLAIN), mark[3], font(mark[2]))
            elif kind == "line":
                pen.line(*mark)
            else:
                (pen.rectangle if kind == "rectangle" else pen.ellipse)(*mark)
        return picture

    def svg(self) -> str:
        """The same as an SVG document, dark where its reader's pages are; images are embedded as PNG, as they are."""
        return f'<svg xmlns="http://www.w3.org/2000/svg" {self._svg("")[5:-6]}<style>{_NIGHT}</style></svg>'

    def _svg(self, place: str) -> str:
        parts = [f'<rect width="{self.width}" height="{self.height}" fill="{_hex(self.colour)}"/>']
        parts += [_SVG[kind](*mark) for kind, mark in self._marks]
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        return f"<svg {place}{size}>{''.join(parts)}</svg>"


@dataclass(frozen=True)
class Film:
    """Pictures that follow each other, the last of which stays for a second and a half.

    Attributes:
        frames: at least one; narrower ones get paper at the right.
        milliseconds: that a frame is shown.
    """

    frames: Sequence[Sheet]
    milliseconds: int = 80

    def save(self, path: Path) -> Path:
        """Write a GIF, or an APNG where the path does not end in ``.gif``."""
        size = max(frame.width for frame in self.frames), max(frame.height for frame in self.frames)
        pictures = []
        for frame in self.frames:
            canvas = Sheet(*size)
            canvas.paste(frame, (0, 0))
            pictures.append(canvas.pixels())
        durations = [self.milliseconds] * (len(pictures) - 1) + [1500]
        kind = "GIF" if path.suffix.lower() == ".gif" else "PNG"
        settings = {"save_all": True, "append_images": pictures[1:], "duration": durations, "loop": 0}
        return write_picture(path, pictures[0], kind, **settings)


def _hex(colour: Colour | None) -> str:
    return "none" if colour is None else "#{:02x}{:02x}{:02x}".format(*colour)


_DARK = {PAPER: "#1c1f25", INK: "#eceae4", FAINT: "#4a4f5a", BLUE: "#7fb0ff", ORANGE: "#f5a35c"}
"""The colours of a drawing on a dark page."""
_NIGHT = "".join(f'[{of}="{_hex(day)}"]{{{of}:{night}}}' for day, night in _DARK.items() for of in ("fill", "stroke"))
_NIGHT = f"@media (prefers-color-scheme:dark){{{_NIGHT}}}"


Still = Sheet | Image.Image
Picture = Still | Film


def as_pixels(picture: Still) -> Image.Image:
    return picture.pixels() if isinstance(picture, Sheet) else picture


def _svg_paste(picture: Still, at: tuple[int, int]) -> str:
    if isinstance(picture, Sheet):
        return picture._svg(f'x="{at[0]}" y="{at[1]}" ')
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    size = f'x="{at[0]}" y="{at[1]}" width="{picture.width}" height="{picture.height}"'
    return f'<image {size} style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'


def _svg_line(points: Sequence[tuple[float, float]], fill: Colour, width: int) -> str:
    places = " ".join(f"{x + 0.5:.4g},{y + 0.5:.4g}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{_hex(fill)}" stroke-width="{width}"/>'


def _svg_rectangle(box: Sequence[float], fill: Colour | None, outline: Colour | None, width: int) -> str:
    x, y, right, bottom = box
    edge = f' stroke="{_hex(outline)}" stroke-width="{width}"' if outline is not None else ""
    size = f'x="{x:.4g}" y="{y:.4g}" width="{max(right - x, 0):.4g}" height="{max(bottom - y, 0):.4g}"'
    return f'<rect {size} fill="{_hex(fill)}"{edge}/>'


def _svg_ellipse(box: Sequence[float], fill: Colour | None, outline: Colour | None, width: int) -> str:
    x, y, right, bottom = box
    edge = f' stroke="{_hex(outline)}" stroke-width="{width}"' if outline is not None else ""
    centre = f'cx="{(x + right) / 2:.5g}" cy="{(y + bottom) / 2:.5g}"'
    radii = f'rx="{(right - x) / 2:.4g}" ry="{(bottom - y) / 2:.4g}"'
    return f'<ellipse {centre} {radii} fill="{_hex(fill)}"{edge}/>'


def _svg_text(at: tuple[float, float], words: str, size: int, fill: Colour) -> str:
    if not words.strip():
        return ""
    wide = f'textLength="{font(size).getlength(words):.4g}" lengthAdjust="spacingAndGlyphs"'
    place = f'x="{at[0]:.5g}" y="{at[1] + size:.5g}" font-size="{size}" font-family="Helvetica, Arial, sans-serif"'
    return f'<text {place} fill="{_hex(fill)}" {wide} xml:space="preserve">{html.escape(words)}</text>'


_SVG: dict[str, Callable[..., str]] = {
    "paste": _svg_paste, "line": _svg_line, "rectangle": _svg_rectangle, "ellipse": _svg_ellipse, "text": _svg_text,
}  # fmt: skip


def words(lines: Sequence[str], size: int = 14, width: int = 0, middle: bool = False) -> Sheet:
    """Lines of text on paper, at least ``width`` wide."""
    face, height = font(size), round(size * 1.4)
    wide = max([width, *(int(face.getlength(line)) + 1 for line in lines)])
    sheet = Sheet(wide, height * len(lines))
    for i, line in enumerate(lines):
        left = (wide - face.getlength(line)) / 2 if middle else 0
        sheet.text((left, i * height), line, size)
    return sheet


def beside(pictures: Sequence[Still], gap: int = 12) -> Sheet:
    """From left to right, at the top."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet, left = Sheet(width, max(picture.height for picture in pictures)), 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


def below(pictures: Sequence[Still], gap: int = 8) -> Sheet:
    """From top to bottom, at the left."""
    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    sheet, top = Sheet(max(picture.width for picture in pictures), height), 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + gap
    return sheet


def framed(picture: Still, margin: int = 12) -> Sheet:
    """With a margin of paper."""
    sheet = Sheet(picture.width + 2 * margin, picture.height + 2 * margin)
    sheet.paste(picture, (margin, margin))
    return sheet


def captioned(rows: Sequence[tuple[str, Tensor]], levels: int, columns: int = 10, wanted: int = 64) -> Sheet:
    """Each text beside its images, uint8 [N, C, H, W], whose longer side is brought to about ``wanted``
    pixels."""
    pictures = []
    for text, images in rows:
        scale = scale_for(max(images.shape[2:]), wanted)
        drawn = to_pil(grid(images, levels=levels, columns=columns, gap=1, scale=scale)).convert("RGB")
        lines = textwrap.wrap(text or "(no caption)", 24) or [""]
        pictures.append(beside([words(lines, 13, 180), drawn], 10))
    return framed(below(pictures, 8))


def tile(image: Tensor, levels: int, wanted: int = 56) -> Image.Image:
    """uint8 [C, H, W] as a picture of about that size."""
    return magnified(rgb(image[None], levels)[0], scale_for(max(image.shape[1:]), wanted))


def tiles(images: Tensor, levels: int, wanted: int = 56, gap: int = 3) -> Sheet:
    """Images uint8 [N, C, H, W] side by side, each of about that size."""
    return beside([tile(image, levels, wanted) for image in images], gap)


def colour_bar(width: int, ticks: Sequence[tuple[float, str]]) -> Sheet:
    """The colours of `ramp` from left to right, with words at places on [0, 1]."""
    sheet, face = Sheet(width, 34), font(12)
    sheet.paste(magnified(ramp(torch.linspace(0, 1, width))[None], 1).resize((width, 12)), (0, 0))
    for place, word in ticks:
        x, wide = place * (width - 1), face.getlength(word)
        sheet.line([(x, 12), (x, 16)], INK)
        sheet.text((min(max(0, x - wide / 2), width - wide), 17), word)
    return sheet


def key(entries: Sequence[tuple[Still, str]]) -> Sheet:
    """Small pictures, each with what it means."""
    return beside([beside([swatch, words([word], 12)], 5) for swatch, word in entries], 16)


def swatch(colour: Colour, size: int = 14) -> Sheet:
    return Sheet(size, size, colour)


def outlined(picture: Still, box: tuple[int, int, int, int], colour: Colour = ORANGE) -> Sheet:
    """A frame just inside ``box`` (left, top, right, bottom, exclusive)."""
    left, top, right, bottom = box
    thick = max(1, min(3, (right - left) // 5))
    sheet = Sheet(picture.width, picture.height)
    sheet.paste(picture, (0, 0))
    sheet.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=thick)
    return sheet


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
        self.pen = Sheet(*size)
        face = font(12)
        self.mark_x([(tick, write(tick)) for tick in ticks[0]])
        self.mark_y([(tick, write(tick)) for tick in ticks[1]])
        middle = (self.left + self.right - face.getlength(names[0])) / 2
        self.pen.text((middle, self.bottom + 24), names[0])
        self.pen.text((4, 4), names[1])

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
            self.pen.text((place - face.getlength(word) / 2, self.bottom + 6), word)

    def mark_y(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Ticks at the left."""
        face = font(12)
        for tick, word in ticks:
            place = self.at(self.x[0], tick)[1]
            self.pen.line([(self.left - 4, place), (self.left, place)], INK)
            self.pen.text((self.left - 8 - face.getlength(word), place - 8), word)

    def dot(self, point: tuple[float, float], fill: Colour | None, radius: int = 3, word: str = "") -> None:
        """A disc, or a ring where there is no colour, with a word at its upper right, kept within the axes."""
        across, up = self.at(*point)
        edge = INK if fill is None else fill
        self.pen.ellipse((across - radius, up - radius, across + radius, up + radius), fill, edge, 2)
        if word:
            face = font(12)
            left = min(across + radius + 3, self.right - face.getlength(word))
            self.pen.text((left, max(up - 16, self.top)), word)

    def bar(self, x: tuple[float, float], y: tuple[float, float], fill: Colour | None, edge: Colour) -> None:
        """A rectangle between two numbers each way."""
        (left, bottom), (right, top) = self.at(x[0], y[0]), self.at(x[1], y[1])
        self.pen.rectangle((left, top, right, bottom), fill=fill, outline=edge)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: int = 2) -> None:
        self.pen.line([self.at(*point) for point in points], colour, width)

    def finished(self) -> Sheet:
        """With the two axes on top of what was drawn."""
        self.pen.line([(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)], INK)
        return self.pen


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


def save(picture: Picture, path: str | os.PathLike[str]) -> Path:
    """Write a picture atomically, as PNG or, where the path ends in ``.svg``, as vectors; parents are made."""
    if isinstance(picture, Film):
        return picture.save(Path(path))
    if Path(path).suffix.lower() != ".svg":
        return write_picture(path, as_pixels(picture))
    if isinstance(picture, Image.Image):
        sheet = Sheet(picture.width, picture.height)
        sheet.paste(picture, (0, 0))
        picture = sheet
    return write_text(path, picture.svg())
