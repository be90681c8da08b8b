"""What one family does with its codes: whether they are used, what they keep, and what its decoder makes of others."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from trilemma.report.pictures import load
from trilemma.report.scores import error_text, number


def latents(family: dict[str, Any], folder: Path) -> str:
    """The verdict on the codes and the pictures; nothing for a family without an encoder."""
    said, pictures, title = family.get("latent") or {}, family.get("pictures") or {}, family["title"]
    if not said:
        return ""
    figures = []
    kept, drawn = (load(folder, pictures.get(name)) for name in ("reconstructions", "samplers"))
    if kept:
        lost = f"{number(said['distortion'])} {escape(said['distortion_unit'])}"
        figures.append(
            f"<figure>{kept.html(f'Held-out images and their reconstructions by {title}')}<figcaption>Held-out images, "
            f"and under each what its code keeps of it. What is lost: {lost}, the mean of {said['n']:,} images."
            "</figcaption></figure>"
        )
    if drawn and said.get("decoded"):
        figures.append(
            f"<figure>{drawn.html(f'What the decoder of {title} makes of codes')}<figcaption>{_no_sampler(said)}"
            "</figcaption></figure>"
        )
    verdict = escape(said["verdict"])
    words = f"<p>{verdict[:1].upper()}{verdict[1:]}.</p>"
    if said["rate"] is not None and not said["active"]:
        words = f'<aside class="alarm"><b>Posterior collapse</b>{words}</aside>'
    return f'<h4>What its codes are worth</h4>{words}<div class="closest">{"".join(figures)}</div>'


def _no_sampler(said: dict[str, Any]) -> str:
    """Why an autoencoder is no generative model, by its numbers."""
    kinds, how = said.get("kinds") or {}, said["decoded"]
    parts = [
        f"{escape(kinds[kind]['text'])} {_distance(kinds[kind]['frechet'], kinds[kind]['frechet_error'])}"
        for kind in ("real", "mixture", "gaussian", "prior")
        if kind in kinds
    ]
    box = ""
    if "box" in kinds:
        near = 100 * kinds["box"]["near"]
        box = f" Of codes drawn evenly from a box twice as wide as those of images, {near:.0f} % decode near the data."
    flag = f" {escape(how['flag'][:1].upper() + how['flag'][1:])}." if how["flag"] else ""
    return (
        "Why it is no generative model: nothing says which codes to decode. Fréchet distances from training images of "
        f"what comes out ({how['n']:,} images of each, {escape(how['features'])} features): {', '.join(parts)}; "
        f"held-out images themselves {_distance(how['floor'], how['floor_error'])}.{flag}{box} The fitted densities "
        "are guesses of ours and not part of the model."
    )


def _distance(value: float, error: float | None) -> str:
    return f"{number(value, error)} {error_text(value, error)}".strip()
