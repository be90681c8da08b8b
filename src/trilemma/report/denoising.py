"""What one denoising family shows: where its bound is spent, what guidance costs, how few steps are enough."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from trilemma.report.pictures import load

PICTURES = {
    "terms": "Where the variational bound is spent: the term of each time t (left scale), and the share of the whole "
    "that has been spent by t (right scale). The first few, which no eye can see, take most of it.",
    "guidance": "Classifier-free guidance, u + w(c − u): what a class gains in precision and accuracy, and what it "
    "costs in recall.",
    "curve": "Every sampler at several numbers of steps: how few evaluations of the network are enough.",
}
"""The pictures, in the order in which they are shown, and what they say."""


def denoising(family: dict[str, Any], folder: Path) -> str:
    """The pictures of a family that denoises; nothing where there are none."""
    named, title = family.get("pictures") or {}, family["title"]
    figures = []
    for name, words in PICTURES.items():
        picture = load(folder, named.get(name))
        if picture:
            alt = f"{title}: {name}"
            figures.append(f"<figure>{picture.html(alt)}<figcaption>{escape(words)}</figcaption></figure>")
    return f'<h4>How it denoises</h4><div class="closest">{"".join(figures)}</div>' if figures else ""
