"""How far one family's numbers can be trusted: flags, copies of training images, and class by class."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from trilemma import number
from trilemma.number import Number
from trilemma.report.pictures import load
from trilemma.report.scores import read

SPACES = {"pixels": "grey levels, root mean square", "features": "distance in the feature space"}
HEADS = {"fid": "FID", "frechet": "Fréchet", "precision": "precision", "recall": "recall"}


def flags(family: dict[str, Any]) -> str:
    """What makes every number of this family doubtful."""
    lines = "".join(f"<p>{escape(flag)}</p>" for flag in family.get("flags") or ())
    return f'<aside class="alarm"><b>Distrust these numbers</b>{lines}</aside>' if lines else ""


def copies(family: dict[str, Any], folder: Path) -> str:
    """The verdict on memorisation, and the closest pairs it rests on."""
    said, pictures, title = family.get("memorisation") or {}, family.get("pictures") or {}, family["title"]
    figures = []
    for space, unit in SPACES.items():
        picture = load(folder, pictures.get(f"closest_{space}"))
        words = escape(said[space]["text"]) if space in said else ""
        if picture or words:
            drawn = picture.html(f"Closest pairs of {title}, by {space}") if picture else ""
            caption = f"<b>By {space}:</b> {words}. The numbers: {unit}."
            figures.append(f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>")
    if not figures:
        return ""
    return (
        '<h4>Copies of training images?</h4><p class="caption">Above, the samples that lie most suspiciously near to a '
        "single training image, the nearest first; below each, that image. Pairs that are one picture are copies.</p>"
        f'<div class="closest">{"".join(figures)}</div>'
    )


def classes(family: dict[str, Any]) -> str:
    """Class by class, where that was asked for."""
    per_class = family.get("per_class") or {}
    by_class = per_class.get("classes") or {}
    keys = [key for key in HEADS if any(key in scores for scores in by_class.values())]
    if not keys:
        return ""
    rows = []
    for label, scores in by_class.items():
        cells = "".join(f"<td>{_cell(read(scores, key))}</td>" for key in keys)
        rows.append(f'<tr><th scope="row">{escape(label)}</th><td>{scores["n"]:,}</td>{cells}</tr>')
    heads = "".join(f'<th scope="col">{HEADS[key]}</th>' for key in keys)
    return (
        f"<details><summary>Class by class, {escape(str(per_class.get('labels')))}</summary>"
        f'<div class="scroll"><table class="per-class"><thead><tr><th>class</th><th>N</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="caption">* few images to a class: a distance is biased upwards.</p></details>'
    )


def _cell(score: Number) -> str:
    if score.value is None:
        return "refused"
    return f"{number.text(score.value, score.error)}{' *' if score.flag else ''}"
