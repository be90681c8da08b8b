"""Images as a notebook shows them: HTML with the picture inside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from torch import Tensor

from trilemma.images import grid, to_pil
from trilemma.vectors import scatter

PREVIEWED = 64
"""Images in the grid that a notebook shows."""


def shape_text(shape: Sequence[int]) -> str:
    """``3x32x32``."""
    return "x".join(map(str, shape))


def short(count: float) -> str:
    """A large count in few characters: ``950``, ``49 k``, ``1.2 M``."""
    if count < 10_000:
        return f"{count:,.0f}"
    return f"{count / 1000:,.0f} k" if count < 1_000_000 else f"{count / 1e6:,.1f} M"


def preview(images: Tensor, levels: int, caption: str) -> str:
    """Images [N, C, H, W], or vectors [N, D], as one picture in HTML that needs no file beside it, for a notebook."""
    if not len(images):
        return f"<p>{html.escape(caption)}</p>"
    if not levels:
        picture = scatter(images, None)
    else:
        side = max(images.shape[2:])
        picture = grid(images[:PREVIEWED], levels=levels, columns=16, scale=max(1, 48 // side))
    file = io.BytesIO()
    to_pil(picture).save(file, "PNG")
    return picture_html(file.getvalue(), caption)


def picture_html(png: bytes, caption: str) -> str:
    """A PNG and its caption as HTML."""
    data = base64.b64encode(png).decode()
    words = html.escape(caption)
    return f'<p>{words}</p><img alt="{words}" src="data:image/png;base64,{data}">'
