"""PNG files beside the report, and drawings as SVG, inlined as ``data:`` URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """One PNG: its bytes and its size in pixels; and the same as SVG, where it is a drawing that has been saved so."""

    data: bytes
    width: int
    height: int
    drawing: bytes = b""

    def html(self, alt: str) -> str:
        """An ``<img>`` that carries its own pixels."""
        encoded = base64.b64encode(self.drawing or self.data).decode()
        kind = "svg+xml" if self.drawing else "png"
        return (
            f'<img src="data:image/{kind};base64,{encoded}" width="{self.width}" height="{self.height}" '
            f'alt="{escape(alt)}">'
        )


def load(folder: Path, name: str | None) -> Picture | None:
    """The PNG ``name`` under ``folder``; None where there is none.

    A report may have travelled, so nothing outside ``folder`` and nothing but a PNG ends up in the page, or the SVG
    beside it, which as the source of an image runs nothing and loads nothing.
    """
    if not name:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    data = path.read_bytes()
    if data[:8] != SIGNATURE or len(data) < 24:
        return None
    drawn = path.with_suffix(".svg")
    drawing = drawn.read_bytes() if drawn.is_file() and not drawn.is_symlink() else b""
    return Picture(data, int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), drawing)
