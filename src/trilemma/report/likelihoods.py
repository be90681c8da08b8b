"""What one family's likelihood shows: pixel by pixel where it is exact, and whether it knows its own data."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from trilemma.report.pictures import load

EXACT = {
    "completion": "The upper half of held-out images was kept, the rest drawn: exact draws from p(unknown | known).",
    "surprise": "−log<sub>2</sub> p of each pixel given those before it; the sum over the image is exactly −log p(x).",
    "receptive": "Which pixels a pixel truly depends on, from the gradients of the trained net.",
}
"""The pictures, in the order in which they are shown, and what they say."""


def likelihoods(family: dict[str, Any], folder: Path) -> str:
    """The pictures of an exact likelihood and the check with another source of images; nothing where there are none."""
    pictures, title = family.get("pictures") or {}, family["title"]
    figures = []
    for name, words in EXACT.items():
        picture = load(folder, pictures.get(name))
        if picture:
            figures.append(f"<figure>{picture.html(f'{title}: {name}')}<figcaption>{words}</figcaption></figure>")
    shown = f'<h4>What its exact likelihood shows</h4><div class="closest">{"".join(figures)}</div>' if figures else ""
    return _density(family, folder) + shown + _outliers(family, folder)


def _density(family: dict[str, Any], folder: Path) -> str:
    picture = load(folder, (family.get("pictures") or {}).get("density"))
    if not picture:
        return ""
    words = "log p(x) over the plane of the data, light where it is high."
    alt = f"{family['title']}: density"
    figure = f"<figure>{picture.html(alt)}<figcaption>{words}</figcaption></figure>"
    return f'<h4>Its density</h4><div class="closest">{figure}</div>'


def _outliers(family: dict[str, Any], folder: Path) -> str:
    said = family.get("ood") or {}
    if not said:
        return ""
    picture = load(folder, (family.get("pictures") or {}).get("outliers"))
    names = f"{escape(said['own'])} and {escape(said['other'])}"
    drawn = picture.html(f"Likelihoods of {names} under {family['title']}") if picture else ""
    area, typical = (_area(said[key]) for key in ("auroc", "typicality"))
    verdict = escape(said["verdict"])
    return (
        f'<h4>Does it know its own data?</h4><div class="closest"><figure>{drawn}<figcaption>{verdict[:1].upper()}'
        f"{verdict[1:]}. AUROC of low likelihood as a sign of {escape(said['other'])} {area}, of "
        f"likelihood that is not typical, too high or too low, {typical}; 0.5 says nothing. "
        f"{said['n']:,} and {said['m']:,} images, log p(x) {escape(said['kind'])}.</figcaption></figure></div>"
    )


def _area(said: dict[str, float | None]) -> str:
    value, error = said["value"], said["error"]
    if value is None:
        return "not known"
    return f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")
