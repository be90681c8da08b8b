"""PNG files beside the report, inlined as ``data:`` URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """One PNG: its bytes and its size in pixels."""

    data: bytes
    width: int
    height: int

    def html(self, alt: str) -> str:
        """An ``<img>`` that carries its own pixels."""
        encoded = base64.b64encode(self.data).decode()
        return (
            f'<img src="data:image/png;base64,{encoded}" width="{self.width}" height="{self.height}" '
            f'alt="{escape(alt)}">'
        )


def load(folder: Path, name: str | None) -> Picture | None:
    """The PNG ``name`` under ``folder``; None where there is none.

    A report may have travelled, so nothing outside ``folder`` and nothing but a PNG ends up in the page.
    """
    if not name:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    data = path.read_bytes()
    if data[:8] != SIGNATURE or len(data) < 24:
        return None
    return Picture(data, int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
