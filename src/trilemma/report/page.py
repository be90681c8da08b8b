"""The report: one self-contained HTML page with no web font and no outside request.

First one sentence, then a sentence and a triangle for each family, then the pictures. Numbers, footnotes and method are
folded below. The page is whole without its script, which opens, sorts, hides, explains, saves and copies.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from trilemma.files import write_text
from trilemma.report import seeds
from trilemma.report.calibration import calibration
from trilemma.report.corners import corners
from trilemma.report.exports import EXPORTS, REAL
from trilemma.report.figures import Point, both, plot, scatter
from trilemma.report.marks import signs
from trilemma.report.people import people
from trilemma.report.pictures import load
from trilemma.report.scores import axes_of, check, column, distance_name, read
from trilemma.report.sections import columns_caption, family_section, is_images, lead, method
from trilemma.report.spectra import spectra
from trilemma.report.summary import coming, distrust, undertrained, verdict
from trilemma.report.tables import answers, comparison
from trilemma.report.verdicts import verdicts

STYLE, SCRIPT = (
    files("trilemma.report").joinpath(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
)
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)
"""What the page may do: run this one script, by its hash, and load nothing."""

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath d='M8 1l7 13H1z' fill='%236b46b8'/%3E%3C/svg%3E"
)


def render(report: dict[str, Any], folder: Path) -> str:
    """The whole page.

    Args:
        report: what a comparison wrote (format 1).
        folder: where the pictures named in ``report`` lie; one that is missing is said to be missing.

    Raises:
        ValueError: the report is of another format or holds a number that is not finite.
    """
    check(report)
    title = escape(report["title"])
    points = ' class="points"' if report["data"].get("levels") == 0 else ""
    body = "\n".join(
        (
            f"<header><h1>{title}</h1></header>",
            _verdict(report),
            _pictures(report, folder),
            _part(
                "numbers", "The numbers", "each score with its error, and who can be told from whom", _numbers(report)
            ),
            _part("people", "What people say", "error rates beside distances", people(report)),
            _scale(report, folder),
            _answers(report),
            _families(report, folder),
            _part(
                "method",
                "How this was measured",
                "data, protocol, what each number means and when it misleads",
                method(report, distance_name(report["protocol"]["features"])),
            ),
            _part("take", "Take it along", "the table as CSV, Markdown or LaTeX, and what to cite", _take(report)),
        )
    )
    refresh = '<meta http-equiv="refresh" content="20">' if report.get("coming") else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark"><link rel="icon" href="{ICON}">{refresh}\n'
        f"<style>\n{STYLE}</style></head>\n<body><main{points}>\n{body}\n</main><script>{SCRIPT}</script></body></html>\n"
    )


def write(report: dict[str, Any], folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` into ``folder``; both are whole or not there.

    Returns:
        The path of the page.

    Raises:
        ValueError: as `render`; then nothing is written.
        OSError: the folder cannot be written to.
    """
    check(report)
    record = json.dumps(report, indent=1, allow_nan=False)
    page = render(json.loads(record), folder)  # as it will be read, so that a page written anew is the same
    write_text(folder / "report.json", record)
    return write_text(folder / "report.html", page)


def _part(key: str, heading: str, about: str, content: str) -> str:
    """A part of the page that is folded until it is wanted; nothing where it has no content."""
    if not content:
        return ""
    return (
        f'<details class="part" id="{key}"><summary><h2>{heading}</h2><span>{about}</span></summary>'
        f'<div class="inside">{content}</div></details>'
    )


def _verdict(report: dict[str, Any]) -> str:
    """The one sentence, then a sentence and a triangle for each family."""
    first, more = verdict(report)
    said = f'<p class="verdict">{escape(first)}</p>' if first else ""
    said += f'<p class="leaders">{escape(more)}</p>' if more else ""
    warned = undertrained(report) if first else ""
    return (
        f'<section id="verdict">{said}{coming(report)}{distrust(report)}{warned}{_bar(report)}{corners(report)}'
        f'<p class="lead">{lead(report)}</p></section>'
    )


def _bar(report: dict[str, Any]) -> str:
    """Who is shown and in which order; the script shows it, since it does nothing without."""
    choices = ""
    for i, (family, sign) in enumerate(zip(report["families"], signs(report["families"]), strict=True)):
        box = f'<input type="checkbox" checked value="{i}">'
        choices += f'<label class="chip">{box}{sign.badge()} {escape(family["name"])}</label>'
    options = {"": "order of the report", **axes_of(report), "frechet": distance_name(report["protocol"]["features"])}
    orders = "".join(f'<option value="{key}">{words}</option>' for key, words in options.items())
    return (
        '<details class="chooser" hidden><summary>Sort, find, hide</summary><div>'
        f'<label>Sort by <select id="sort">{orders}</select></label>'
        '<label>Find <input type="search" id="find" size="12"></label>'
        f'<fieldset><legend class="unseen">Shown</legend>{choices}</fieldset></div></details>'
    )


def _scale(report: dict[str, Any], folder: Path) -> str:
    """Real images made worse on purpose, with the models beside them; nothing where there is no ladder."""
    about = "real images made worse on purpose, with the models beside them"
    return _part("scale", "What the scores look like", about, calibration(report, folder))


def _answers(report: dict[str, Any]) -> str:
    """Families against questions; nothing where there are images only."""
    if all(is_images(family) for family in report["families"]):
        return ""
    about = "sampling, likelihood, latents, completion and more"
    return _part("answers", "What each family can and cannot answer", about, answers(report))


def _families(report: dict[str, Any], folder: Path) -> str:
    pairs = zip(report["families"], signs(report["families"]), strict=True)
    content = "".join(family_section(i, sign, family, report, folder) for i, (family, sign) in enumerate(pairs))
    about = "larger pictures, nearest training images, training curves, what was asked, settings"
    return _part("families", "Family by family", about, f"<div>{content}</div>" if content else "")


# ------------------------------------------------------------------------------------------------------ pictures


def _pictures(report: dict[str, Any], folder: Path) -> str:
    """All sample grids beside real images."""
    real = load(folder, (report.get("pictures") or {}).get("real"))
    cards = [_card(real.html(f"{REAL}, a grid"), REAL, "what perfect looks like", ' class="real"')] if real else []
    for i, (family, sign) in enumerate(zip(report["families"], signs(report["families"]), strict=True)):
        picture = load(folder, (family.get("pictures") or {}).get("samples"))
        image = picture.html(f"Samples of {family['title']}, a grid") if picture else _absent("No sample grid")
        link = f'<a href="#family-{i}">{escape(family["title"])}</a>'
        cards.append(_card(image, f'<span class="named">{sign.badge()}{link}</span>', "", f' data-row="{i}"'))
    caption = (
        "Not picked: the first images of each, from the same seeds"
        + (" and for the same labels. " if report["data"].get("conditional") else ". ")
        + columns_caption(report)
    )
    return (
        f'<section id="pictures"><h2>The samples</h2><div class="hero">{"".join(cards)}</div>'
        f'<p class="caption">{caption}</p></section>'
    )


def _card(image: str, name: str, detail: str, attributes: str) -> str:
    return f"<figure{attributes}>{image}<figcaption><b>{name}</b><span>{detail}</span></figcaption></figure>"


def _absent(text: str) -> str:
    return f'<div class="absent-picture">{text}</div>'


# ------------------------------------------------------------------------------------------------------- numbers


def _distances(report: dict[str, Any]) -> str:
    """Speed against Fréchet distance."""
    points, short, rows = [], [], []
    for i, (family, sign) in enumerate(zip(report["families"], signs(report["families"]), strict=True)):
        speed, distance = (read(family["metrics"], key) for key in ("images_per_second", "frechet"))
        if speed.value and distance.value is not None:
            flagged = bool(distance.flag or speed.flag)
            numbers = (speed.value, distance.value, speed.error, distance.error, flagged)
            points.append(Point(i, sign, family["title"], *numbers))
            short.append(Point(i, sign, family["name"], *numbers))
            rows.append([family["title"], speed.value, speed.error, distance.value, distance.error])
    if len(points) < 2:
        return ""
    floor = read(report.get("floor") or {}, "frechet").value
    features = report["protocol"]["features"]
    name = distance_name(features)
    real = "" if floor is None else " The dashed line is what held-out real images score by the same rule."
    drawing = both(scatter(points, floor, name), scatter(short, floor, name, width=340, height=340))
    caption = f"{name} in the features <code>{escape(features)}</code>; bars are one standard error.{real}"
    heads = ["name", "images_per_second", "images_per_second_error", column("frechet").label(features), "error"]
    return plot("speed-distance", "Speed against distance from the data", drawing, heads, rows, caption)


def _numbers(report: dict[str, Any]) -> str:
    parts = (comparison, _reading, verdicts, seeds.section, _distances, spectra)
    return "".join(part(report) for part in parts)


def _reading(report: dict[str, Any]) -> str:
    return (
        '<p class="caption">± is one standard error. <strong>Bold</strong>: the best of a column and all that cannot '
        "be told from it at this N; flagged and undefined values are left out. Nothing is bold where no family is "
        "told from another, where all are at the bottom of the scale, or above what held-out real images score, which "
        f"is a warning and no win. ≤ marks an upper bound on the true value. {escape(seeds.sentence(report))}</p>"
    )


def _take(report: dict[str, Any]) -> str:
    """The table as text, and what to cite."""
    blocks = []
    for end, (name, make) in EXPORTS.items():
        lines = "".join(_line(row, text) for row, text in make(report))
        blocks.append(
            f'<div class="export"><h3>{name}</h3><pre tabindex="0" data-file="table.{end}">{lines}</pre></div>'
        )
    return (
        "".join(blocks) + '<p class="caption">Each drawing of this page can be saved as SVG and its numbers as CSV. '
        "Beside the page lies <code>report.json</code> with every number; its form is described by the JSON Schema "
        "<code>trilemma/report/schema.json</code>.</p>"
    )


def _line(row: int | None, text: str) -> str:
    return escape(text) if row is None else f'<span data-row="{row}">{escape(text)}</span>'
