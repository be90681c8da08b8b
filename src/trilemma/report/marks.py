"""Signs that tell families and answers apart by shape as well as by colour, and never without a word beside them."""

from __future__ import annotations

import math
from html import escape

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


def hue(index: int) -> str:
    """The CSS class that colours family number ``index``."""
    return f"hue{index % HUES}"


def marker(index: int, x: float, y: float, radius: float = 6.0, hollow: bool = False) -> str:
    """The marker of family number ``index``; past eight families, hues repeat with other shapes."""
    vertices = MARKERS[(index + index // HUES) % len(MARKERS)]
    path = "L".join(f"{x + radius * u:.1f},{y + radius * v:.1f}" for u, v in vertices)
    return f'<path class="marker{" hollow" if hollow else ""}" d="M{path}Z"/>'


def badge(index: int) -> str:
    """The family's marker alone, to stand before its name."""
    return f'<svg class="badge {hue(index)}" viewBox="-8 -8 16 16" aria-hidden="true">{marker(index, 0, 0, 6.5)}</svg>'


def named(index: int, title: str) -> str:
    """The family's marker and its title, kept together."""
    return f'<span class="named">{badge(index)}<span>{escape(title)}</span></span>'


ANSWER_MARKS = {
    "yes": '<path d="M4.5 9.5l3 3 6-7"/>',
    "bound": '<path d="M12.5 4.5l-7 3.5 7 3.5M5.5 14h7"/>',
    "approximate": '<path d="M4 7.5c2-2.5 4-1 5 0s3 2 5-.5M4 12c2-2.5 4-1 5 0s3 2 5-.5"/>',
    "no": '<path d="M5.5 5.5l7 7M12.5 5.5l-7 7"/>',
}


def answer_mark(word: str) -> str:
    """A sign for ``yes``, ``bound`` (≤), ``approximate`` (≈) or ``no``, to stand beside the word itself."""
    return f'<svg class="sign" viewBox="0 0 18 18" aria-hidden="true">{ANSWER_MARKS[word]}</svg>'
