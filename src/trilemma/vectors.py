"""Vectors as pictures: the plane they are looked at in, and a scatter of drawn points over real ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SIDE, LEFT, TOP, BELOW = 400, 46, 26, 24
"""Pixels of the plot, and of the margins that hold the words."""

INK, REAL, DRAWN = (32, 32, 32), (186, 186, 186), (0, 114, 178)
MOST = 5000
"""Points of each kind that are shown."""


@dataclass(frozen=True)
class Plane:
    """Two axes and the square of them that is shown.

    Of 2-D vectors the plane is their own; of longer ones it is spanned by the first two principal components of the
    real ones; a single value is drawn against the number of its row.

    Attributes:
        origin: float64 [D].
        axes: float64 [D, 2] (or [1, 1]), orthonormal columns.
        low: the least coordinates shown; side: how far each axis reaches from there.
        names: of the axes.
    """

    origin: Tensor
    axes: Tensor
    low: tuple[float, float]
    side: tuple[float, float]
    names: tuple[str, str]

    @classmethod
    def of(cls, real: Tensor) -> Plane:
        """The plane of real vectors, float [N, D], with a little room around them."""
        real = real[:10_000].double().cpu()
        dims = real.shape[1]
        origin, axes = torch.zeros(dims, dtype=torch.float64), torch.eye(dims, dtype=torch.float64)[:, :2]
        names = ("value 1", "value 2" if dims > 1 else "row")
        if dims > 2 and len(real) > 1 and bool(real.isfinite().all()):
            origin = real.mean(0)
            spread = torch.linalg.eigh(torch.cov((real - origin).T))
            share = 100 * spread.eigenvalues / spread.eigenvalues.sum().clamp(min=1e-300)
            axes = spread.eigenvectors[:, [-1, -2]]
            first, second = (f"principal component {i} ({share[-i]:.0f} % of the variance)" for i in (1, 2))
            names = (first, second)
        at = (real - origin) @ axes
        low, high = at.min(0).values, at.max(0).values
        side = 1.2 * float((high - low).max().clamp(min=1e-6))
        start = (low + high) / 2 - side / 2
        if dims == 1:
            return cls(origin, axes, (float(start[0]), 0.0), (side, 1.0), names)
        return cls(origin, axes, (float(start[0]), float(start[1])), (side, side), names)

    def place(self, vectors: Tensor) -> Tensor:
        """Where vectors [N, D] lie, as shares of the square: float64 [N, 2], from the lower left."""
        at = (vectors.double().cpu() - self.origin) @ self.axes
        if at.shape[1] == 1:
            at = torch.cat([at, torch.linspace(0, 1, len(at), dtype=torch.float64)[:, None]], 1)
        return (at - torch.tensor(self.low)) / torch.tensor(self.side)


def scatter(drawn: Tensor, real: Tensor | None, title: str = "") -> Tensor:
    """Points that were drawn, float [N, D], over real ones [M, D] where there are any.

    Returns:
        ``uint8 [3, height, width]``.
    """
    plane = Plane.of(drawn if real is None else real)
    field = np.full((SIDE, SIDE, 3), 255, np.uint8)
    if real is not None:
        _dots(field, plane.place(real[:MOST]), REAL)
    outside = _dots(field, plane.place(drawn[:MOST]), DRAWN)
    count = f"{min(len(drawn), MOST):,}"
    told = f"{count} points" if real is None else f"{count} drawn (blue) over {min(len(real), MOST):,} real"
    told += f", {outside:,} of them outside" if outside else ""
    return _framed(field, plane, f"{title}: {told}" if title else told)


def _framed(field: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], plane: Plane, words: str) -> Tensor:
    """A square picture [side, side, 3] of a plane with its axes and words above it: uint8 [3, height, width]."""
    side, face = len(field), ImageFont.load_default(12)
    picture = Image.new("RGB", (LEFT + side + 14, TOP + side + 2 * BELOW), (255, 255, 255))
    picture.paste(Image.fromarray(field), (LEFT, TOP))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((LEFT - 1, TOP - 1, LEFT + side, TOP + side), outline=INK)
    pen.text((6, 6), words, INK, face)
    for axis in (0, 1):
        for tick in _ticks(plane.low[axis], plane.low[axis] + plane.side[axis]):
            at = round((tick - plane.low[axis]) / plane.side[axis] * side)
            text = f"{tick:g}"
            if axis == 0:
                pen.line([(LEFT + at, TOP + side), (LEFT + at, TOP + side + 4)], INK)
                pen.text((LEFT + at - face.getlength(text) / 2, TOP + side + 5), text, INK, face)
            else:
                pen.line([(LEFT - 5, TOP + side - at), (LEFT - 1, TOP + side - at)], INK)
                pen.text((LEFT - 8 - face.getlength(text), TOP + side - at - 8), text, INK, face)
    pen.text((LEFT, TOP + side + BELOW), " against ".join((plane.names[1], plane.names[0])), INK, face)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _dots(field: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], places: Tensor, colour: tuple[int, int, int]) -> int:
    """Draw points as squares of 2 pixels; returns how many lie outside."""
    side = len(field)
    finite = places[torch.isfinite(places).all(1)]
    inside = finite[((finite >= 0) & (finite < 1)).all(1)]
    across, down = (inside[:, 0] * side).long().numpy(), ((1 - inside[:, 1]) * side).long().numpy()
    for right in (0, 1):
        for lower in (0, 1):
            field[np.clip(down + lower, 0, side - 1), np.clip(across + right, 0, side - 1)] = colour
    return len(places) - len(inside)


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About ``count`` round numbers between two."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
