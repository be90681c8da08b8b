"""The one currency: ``uint8 [N, C, H, W]`` images with a stated number of levels, or ``float32 [N, D]`` vectors.

Every boundary of the library carries images in this form, whatever a family computes with inside.
A pixel is an integer in ``0 … levels - 1``; binary images have two levels, photographs 256. Vectors are real-valued:
they have no levels, and what is said of their probability is a density.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trilemma.files import write_picture
from trilemma.validate import MOST, Amount, Limits, check_limits

PADDING, START = 0, 1
"""Tokens that every row of a caption knows: nothing here, and the one it begins with."""


class NotFinite(ValueError):
    """What must be numbers is not: weights, or what a model gives."""


@dataclass(frozen=True)
class Spec:
    """What a model is told about its data.

    A condition is a class, int64 [N] with ``classes`` meaning "no label", or a caption, int64 [N, length] of tokens
    that begin with `START` and are filled up with `PADDING`; the empty caption means "no label".

    Attributes:
        shape: ``(channels, height, width)`` of one image, or ``(D,)`` of a vector.
        levels: number of values a pixel takes, 2 or 256; 0 for vectors.
        classes: number of classes the model is conditioned on; 0 for none.
        vocabulary: number of tokens of the captions the model is conditioned on; 0 for none.
        length: tokens in a caption, filled up.
        center, scale: of vectors, the mean and the standard deviation of each value in the training data, so that nets
            and noise schedules see values of unit size; empty for images.
    """

    shape: Annotated[tuple[int, ...], Limits(1, MOST, count=1)]
    levels: Annotated[int, Limits(0, 256)] = 256
    classes: Amount = 0
    vocabulary: Amount = 0
    length: Amount = 0
    center: Annotated[tuple[float, ...], Limits()] = ()
    scale: Annotated[tuple[float, ...], Limits()] = ()

    def __post_init__(self) -> None:
        check_limits(self)
        if self.levels == 1:
            raise ValueError("levels must be 2 or more, or 0 for vectors, not 1")
        if len(self.shape) != (3 if self.levels else 1):
            wanted = "(channels, height, width)" if self.levels else "(D,), of vectors, which have 0 levels"
            raise ValueError(f"shape must be {wanted}, not {list(self.shape)}")
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
    def vector(self) -> bool:
        """Whether the data are real-valued vectors and not images."""
        return self.levels == 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``; ``ValueError`` for vectors, which have none."""
        if self.vector:
            raise ValueError(f"this works on images, and these are vectors of {self.dims} values")
        channels, height, width = self.shape
        return channels, height, width

    @property
    def channels(self) -> int:
        return self.image_shape[0]

    @property
    def height(self) -> int:
        return self.image_shape[1]

    @property
    def width(self) -> int:
        return self.image_shape[2]

    @property
    def dims(self) -> int:
        """Number of values in one image or vector, the D of bits per dimension."""
        return math.prod(self.shape)

    def to_unit(self, x: Tensor) -> Tensor:
        """Images to floats on [-1, 1]; vectors to mean 0 and standard deviation 1, without a limit."""
        if not self.vector:
            return to_unit(x, self.levels)
        center, scale = self._moments(x)
        return (x.float() - center) / scale

    def from_unit(self, values: Tensor) -> Tensor:
        """The inverse of `to_unit`: uint8 images, to the nearest level, or float32 vectors."""
        if not self.vector:
            return from_unit(values, self.levels)
        center, scale = self._moments(values)
        return values.float() * scale + center

    @property
    def log_volume(self) -> float:
        """log of the volume that a unit of `to_unit` has in the data: log p(x) = log p(to_unit(x)) - log_volume.

        0 for images, whose probabilities are of levels and not densities.
        """
        return sum(map(math.log, self.scale))

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        center = torch.tensor(self.center or (0.0,), device=x.device)
        return center, torch.tensor(self.scale or (1.0,), device=x.device)


def check_images(images: Tensor, spec: Spec) -> Tensor:
    """Return ``images`` unchanged, or raise ``ValueError`` with one line on what is wrong with them."""
    if spec.vector:
        return _check_vectors(images, spec)
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


def _check_vectors(vectors: Tensor, spec: Spec) -> Tensor:
    if vectors.dtype != torch.float32:
        raise ValueError(f"vectors must be float32, not {vectors.dtype}")
    if vectors.ndim != 2 or tuple(vectors.shape[1:]) != spec.shape:
        raise ValueError(f"vectors must have shape [N, {spec.shape[0]}], not {list(vectors.shape)}")
    if not bool(torch.isfinite(vectors).all()):
        row = int((~torch.isfinite(vectors)).any(1).nonzero()[0])
        raise ValueError(f"vector {row} holds a value that is not finite: leave such rows out")
    return vectors


def to_unit(images: Tensor, levels: int) -> Tensor:
    """Levels ``0 … levels-1`` to floats evenly spaced on [-1, 1]."""
    return images.float() * (2 / (levels - 1)) - 1


def from_unit(values: Tensor, levels: int) -> Tensor:
    """Floats on [-1, 1] to the nearest level; what lies outside is clamped. `NotFinite` for NaN, which is no pixel."""
    if bool(torch.isnan(values).any()):
        raise NotFinite(
            "the model gives pixels that are not numbers (NaN): its training has diverged, or a sampling option is too "
            "extreme"
        )
    return ((values.float() + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).to(torch.uint8)


def to_display(images: Tensor, levels: int) -> Tensor:
    """Levels to 0 … 255, for eyes, files and feature networks; vectors (0 levels) stay as they are."""
    if levels in (0, 256):
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
    """Write one ``uint8 [C, H, W]`` picture with values 0 … 255 as PNG, atomically; parents are made."""
    return write_picture(path, to_pil(image))
