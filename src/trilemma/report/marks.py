"""Signs that tell families and answers apart by shape as well as by colour, and never without a word beside them.

A family has one sign, on every page and in the studio: it follows the family and not the place of a row.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from trilemma.families import FAMILIES

HUES = 8
Vertices = list[tuple[float, float]]


def _star(points: int, inner: float, turn: float = 0.0) -> Vertices:
    """A star of unit radius with one point up; with ``inner = cos(π/points)`` a regular polygon."""
    corners = []
    for i in range(2 * points):
        angle, radius = math.radians(turn - 90) + math.pi * i / points, (1.0, inner)[i % 2]
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


MARKERS: tuple[Vertices, ...] = (
    _star(16, math.cos(math.pi / 16)),  # circle
    _star(4, math.cos(math.pi / 4), 45),  # square
    _star(3, 0.5),  # triangle
    _star(4, math.cos(math.pi / 4)),  # diamond
    _star(5, 0.45),  # star
    _star(4, 0.32),  # plus
    _star(3, 0.5, 180),  # triangle, point down
    _star(4, 0.32, 45),  # cross
)


@dataclass(frozen=True)
class Sign:
    """What tells a row from the others.

    Attributes:
        hue: the number of its colour; None for images of which nobody said what made them.
        shape: the number of its marker.
    """

    hue: int | None
    shape: int

    @property
    def css(self) -> str:
        """The class that colours it."""
        return "elsewhere" if self.hue is None else f"hue{self.hue}"

    @property
    def vertices(self) -> Vertices:
        return MARKERS[self.shape]

    def marker(self, x: float, y: float, radius: float = 6.0, hollow: bool = False) -> str:
        """The marker as an SVG path."""
        path = "L".join(f"{x + radius * u:.1f},{y + radius * v:.1f}" for u, v in self.vertices)
        return f'<path class="marker{" hollow" if hollow else ""}" d="M{path}Z"/>'

    def badge(self) -> str:
        """The marker alone, to stand before a name."""
        return f'<svg class="badge {self.css}" viewBox="-8 -8 16 16" aria-hidden="true">{self.marker(0, 0, 6.5)}</svg>'

    def named(self, title: str) -> str:
        """The marker and a name, kept together."""
        return f'<span class="named">{self.badge()}<span>{escape(title)}</span></span>'


def sign(family: str, again: int = 0) -> Sign:
    """The sign of a family.

    Args:
        family: its name; one that is not built in gets a colour by its name and a shape that none of that colour has.
        again: rows that have its sign already: the same colour with the next shape.
    """
    if not family:
        return Sign(None, (3 + again) % len(MARKERS))
    if family in FAMILIES.built_in:
        place = FAMILIES.built_in.index(family)
        return Sign(place % HUES, (place + place // HUES + again) % len(MARKERS))
    place = zlib.crc32(family.encode())
    hue = place % HUES
    return Sign(hue, (hue + 1 + place // HUES % (len(MARKERS) - 1) + again) % len(MARKERS))


def signs(families: Sequence[dict[str, Any]]) -> list[Sign]:
    """A sign for each row of a report, no two alike for up to eight rows of one family."""
    found: list[Sign] = []
    for entry in families:
        name = entry.get("family", entry["name"])
        choices = [sign(name, again) for again in range(len(MARKERS))]
        found.append(next((choice for choice in choices if choice not in found), choices[0]))
    return found


ANSWER_MARKS = {
    "yes": '<path d="M4.5 9.5l3 3 6-7"/>',
    "bound": '<path d="M12.5 4.5l-7 3.5 7 3.5M5.5 14h7"/>',
    "approximate": '<path d="M4 7.5c2-2.5 4-1 5 0s3 2 5-.5M4 12c2-2.5 4-1 5 0s3 2 5-.5"/>',
    "no": '<path d="M5.5 5.5l7 7M12.5 5.5l-7 7"/>',
}


def answer_mark(word: str) -> str:
    """A sign for ``yes``, ``bound`` (≤), ``approximate`` (≈) or ``no``, to stand beside the word itself."""
    return f'<svg class="sign" viewBox="0 0 18 18" aria-hidden="true">{ANSWER_MARKS[word]}</svg>'
