"""The one currency: ``uint8 [N, C, H, W]`` images with a stated number of levels.

Every boundary of the library carries images in this form, whatever a family computes with inside.
A pixel is an integer in ``0 … levels - 1``; binary images have two levels, photographs 256.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PADDING, START = 0, 1
"""Tokens that every row of a caption knows: nothing here, and the one it begins with."""


@dataclass(frozen=True)
class Spec:
    """What a model is told about its data.

    A condition is a class, int64 [N] with ``classes`` meaning "no label", or a caption, int64 [N, length] of tokens
    that begin with `START` and are filled up with `PADDING`; the empty caption means "no label".

    Attributes:
        shape: ``(channels, height, width)`` of one image.
        levels: number of values a pixel takes, 2 or 256.
        classes: number of classes the model is conditioned on; 0 for none.
        vocabulary: number of tokens of the captions the model is conditioned on; 0 for none.
        length: tokens in a caption, filled up.
    """

    shape: tuple[int, int, int]
    levels: int = 256
    classes: int = 0
    vocabulary: int = 0
    length: int = 0

    def __post_init__(self) -> None:
        if self.classes and self.vocabulary:
            raise ValueError("a model is conditioned on classes or on captions, not on both: choose one")
        if (self.vocabulary > 0) != (self.length > 0):
            raise ValueError(f"captions need a vocabulary and a length, not {self.vocabulary} and {self.length}")

    @property
    def conditional(self) -> bool:
        """Whether the model is conditioned on anything."""
        return self.classes > 0 or self.vocabulary > 0

    def unlabelled(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """ "No label" for so many images: int64 [N], or [N, length] where the condition is a caption."""
        if not self.vocabulary:
            return torch.full((count,), self.classes, device=device)
        rows = torch.full((count, self.length), PADDING, device=device)
        rows[:, 0] = START
        return rows

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def height(self) -> int:
        return self.shape[1]

    @property
    def width(self) -> int:
        return self.shape[2]

    @property
    def dims(self) -> int:
        """Number of discrete values in one image, the D of bits per dimension."""
        return math.prod(self.shape)


def check_images(images: Tensor, spec: Spec) -> Tensor:
    """Return ``images`` unchanged, or raise ``ValueError`` with one line on what is wrong with them."""
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 with values 0 to {spec.levels - 1}, not {images.dtype}: "
            "scale floats and round them first"
        )
    if images.ndim != 4 or tuple(images.shape[1:]) != spec.shape:
        raise ValueError(f"images must have shape [N, {', '.join(map(str, spec.shape))}], not {list(images.shape)}")
    if len(images) and int(images.max()) >= spec.levels:
        raise ValueError(
            f"images have {spec.levels} levels (0 to {spec.levels - 1}) but contain the value {int(images.max())}"
        )
    return images


def to_unit(images: Tensor, levels: int) -> Tensor:
    """Levels ``0 … levels-1`` to floats evenly spaced on [-1, 1]."""
    return images.float() * (2 / (levels - 1)) - 1


def from_unit(values: Tensor, levels: int) -> Tensor:
    """Floats on [-1, 1] to the nearest level; what lies outside is clamped."""
    return ((values.float() + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).to(torch.uint8)


def to_display(images: Tensor, levels: int) -> Tensor:
    """Levels to 0 … 255, for eyes, files and feature networks."""
    if levels == 256:
        return images
    return (images.float() * (255 / (levels - 1))).round().to(torch.uint8)


def grid(images: Tensor, *, levels: int = 256, columns: int | None = None, gap: int = 2, scale: int = 1) -> Tensor:
    """Tile images into one picture.

    Args:
        images: ``uint8 [N, C, H, W]`` with C of 1 or 3.
        columns: images per row; by default a square-ish grid.
        gap: pixels between images, drawn mid-grey so that black and white images both stand out.
        scale: integer magnification (nearest neighbour).

    Returns:
        ``uint8 [C, height, width]``.
    """
    count, channels, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), max(count, 1))
    rows = math.ceil(count / columns)
    shown = to_display(images, levels).cpu()
    canvas = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 128, dtype=torch.uint8)
    for i in range(count):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = shown[i]
    return canvas.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def to_pil(image: Tensor) -> Image.Image:
    """One ``uint8 [C, H, W]`` picture with values 0 … 255 to a Pillow image."""
    array = np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def save_png(image: Tensor, path: str | os.PathLike[str]) -> Path:
    """Write one ``uint8 [C, H, W]`` picture with values 0 … 255 as PNG; parents are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(image).save(path, format="PNG", optimize=True)
    return path
