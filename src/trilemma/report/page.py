"""The report: one self-contained HTML page with no script, no web font and no outside request.

Pictures first, then the trilemma, the numbers, what each family can answer, each family by itself, and at the end how
all of it was measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from trilemma import number
from trilemma.evaluation.standing import HIGH, NEAR, leaders
from trilemma.files import write_text
from trilemma.number import Number
from trilemma.report import seeds
from trilemma.report.calibration import calibration
from trilemma.report.figures import Point, Scale, scatter, speed_scale, triangle, triangle_key
from trilemma.report.marks import badge, named
from trilemma.report.people import people
from trilemma.report.pictures import load
from trilemma.report.scores import check, column, distance_name, read
from trilemma.report.sections import columns_caption, family_section, is_images, lead, method
from trilemma.report.spectra import spectra
from trilemma.report.summary import summary
from trilemma.report.tables import FLOOR, answers, comparison
from trilemma.report.verdicts import told_apart, verdicts

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
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
    features = report["protocol"]["features"]
    style = files("trilemma.report").joinpath("report.css").read_text(encoding="utf-8")
    title = escape(report["title"])
    body = "\n".join(
        (
            f"<header><h1>{title}</h1><p class='lead'>{lead(report)}</p>{_contents(report)}</header>",
            summary(report),
            _trilemma(report),
            _pictures(report, folder),
            _section("numbers", "The numbers", _numbers(report)),
            _people(report),
            _scale(report, folder),
            _answers(report),
            _section(
                "families",
                "Family by family",
                "".join(family_section(i, family, report, folder) for i, family in enumerate(report["families"])),
            ),
            _section("method", "How this was measured", method(report, distance_name(features))),
        )
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark"><link rel="icon" href="{ICON}">\n'
        f"<style>\n{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
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


def _section(key: str, heading: str, content: str) -> str:
    return f'<section id="{key}"><h2>{heading}</h2>{content}</section>'


def _people(report: dict[str, Any]) -> str:
    """The user study; nothing where there was none."""
    content = people(report)
    return _section("people", "What people say", content) if content else ""


def _scale(report: dict[str, Any], folder: Path) -> str:
    """Real images made worse on purpose, with the models beside them; nothing where there is no ladder."""
    content = calibration(report, folder)
    what = f"What a {distance_name(report['protocol']['features'])} looks like"
    return _section("scale", what, content) if content else ""


def _answers(report: dict[str, Any]) -> str:
    """Families against questions; nothing where there are images only."""
    if all(is_images(family) for family in report["families"]):
        return ""
    return _section("answers", "What each family can and cannot answer", answers(report))


def _contents(report: dict[str, Any]) -> str:
    places = ["trilemma", "pictures", "numbers", "people", "scale", "answers", "families", "method"]
    if not people(report):
        places.remove("people")
    if not report.get("ladder"):
        places.remove("scale")
    if all(is_images(family) for family in report["families"]):
        places.remove("answers")
    return "<nav>" + "".join(f'<a href="#{place}">{place.capitalize()}</a>' for place in places) + "</nav>"


# ------------------------------------------------------------------------------------------------------ pictures


def _pictures(report: dict[str, Any], folder: Path) -> str:
    """All sample grids beside real images: what people look at first."""
    real = load(folder, (report.get("pictures") or {}).get("real"))
    cards = [_card(real.html(f"{FLOOR}, a grid"), FLOOR, "what perfect looks like", "real")] if real else []
    for i, family in enumerate(report["families"]):
        picture = load(folder, (family.get("pictures") or {}).get("samples"))
        image = picture.html(f"Samples of {family['title']}, a grid") if picture else _absent("No sample grid")
        link = f'<a href="#family-{i}">{escape(family["title"])}</a>'
        detail = f"gives up: {escape(family['gives_up'])}" if family["gives_up"] else "images from elsewhere"
        cards.append(_card(image, f'<span class="named">{badge(i)}{link}</span>', detail, ""))
    caption = (
        "Nothing is picked by hand: every model shows its first images, drawn from the same seeds"
        + (" for the same labels in the same places. " if report["data"].get("conditional") else ". ")
        + columns_caption(report)
    )
    return f'<section id="pictures"><div class="hero">{"".join(cards)}</div><p class="caption">{caption}</p></section>'


def _card(image: str, name: str, detail: str, classes: str) -> str:
    return f'<figure class="{classes}">{image}<figcaption><b>{name}</b><span>{detail}</span></figcaption></figure>'


def _absent(text: str) -> str:
    return f'<div class="absent-picture">{text}</div>'


# ------------------------------------------------------------------------------------------------------ trilemma


def _trilemma(report: dict[str, Any]) -> str:
    """The three axes for each family, then speed against distance."""
    families, floor = report["families"], report.get("floor") or {}
    axes = [[read(family["metrics"], key) for family in families] for key in axes_of(report)]
    speed = speed_scale([score.value for score in axes[2] if score.value is not None])
    floors = [read(floor, key).value for key in list(axes_of(report))[:2]] + [None]
    cards = [_key(floors, speed)]
    for i, family in enumerate(families):
        cards.append(_corner_card(i, family["title"], [scores[i] for scores in axes], floors, speed))
    real = " A bar across an axis marks where held-out real images score: the most one can hope for." if floor else ""
    content = (
        f'{_findings(report)}<div class="corner-cards">{"".join(cards)}</div><p class="caption">Quality is '
        f"{FIRST_AXIS[next(iter(axes_of(report)))]}, and coverage the share of the data that such samples reach, each "
        "as a multiple of what held-out images reach: 0 in the centre, 1 at the corner. Speed is images a second on a "
        f"logarithmic scale, from {number.text(speed.low, digits=2)} in the centre to "
        f"{number.text(speed.high, digits=2)} at the corner.{real} Read the corners and not the area; "
        "a hollow marker is a flagged value. A family breaks the triangle if its fidelity and its coverage are surely, "
        f"by two standard errors, above {HIGH:g}, no family is shown to be better at either, and it draws surely more "
        f"than {NEAR:g} times as many images a second as the fastest.</p>{_distances(report)}"
    )
    return _section("trilemma", "The trilemma: quality, coverage, speed", content)


AXES = {"mutual_fidelity": "quality", "mutual_coverage": "coverage", "images_per_second": "speed"}
"""Which metric stands on which axis."""

FIRST_AXIS = {
    "mutual_fidelity": "fidelity (samples that are mutually near the data)",
    "passed": "how often a classifier takes samples for real images",
}


def axes_of(report: dict[str, Any]) -> dict[str, str]:
    """`AXES`, with the two-sample test in place of fidelity where the ladder says that fidelity cannot be trusted."""
    if (report.get("scale") or {}).get("distrust") and any("passed" in f["metrics"] for f in report["families"]):
        return {"passed": "quality"} | {key: axis for key, axis in AXES.items() if axis != "quality"}
    return AXES


def _key(floors: Sequence[float | None], speed: Scale) -> str:
    rows = (
        "<dt>quality</dt><dd>fidelity<small>1: as held-out images</small></dd>"
        "<dt>coverage</dt><dd>coverage<small>1: as held-out images</small></dd>"
        "<dt>speed</dt><dd>images/s<small>logarithmic</small></dd>"
    )
    return _card_of("How to read it", triangle_key(floors, speed), rows)


def _card_of(heading: str, drawing: str, rows: str) -> str:
    return f'<div class="corner-card"><h3>{heading}</h3><div>{drawing}<dl>{rows}</dl></div></div>'


def _corner_card(index: int, title: str, scores: Sequence[Number], floors: Sequence[float | None], speed: Scale) -> str:
    shares = [score.value if score.defined else None for score in scores]
    if shares[2] is not None:
        shares[2] = speed(shares[2])
    label = f"{title}: " + ", ".join(
        f"{axis} {'no value' if score.value is None else number.text(score.value)}"
        for axis, score in zip(AXES.values(), scores, strict=True)
    )
    drawing = triangle(shares, floors, index, [bool(score.flag) for score in scores], label)
    said = [_said(score, unit) for score, unit in zip(scores, ("", "", " /s"), strict=True)]
    rows = "".join(f"<dt>{axis}</dt><dd>{text}</dd>" for axis, text in zip(AXES.values(), said, strict=True))
    return _card_of(named(index, title), drawing, rows)


def _said(score: Number, unit: str = "") -> str:
    if not score.defined or score.value is None:
        return "no value"
    error = number.error_text(score.value, score.error)
    return f"{number.text(score.value, score.error)}{unit}" + (f" <small>{error}</small>" if error else "")


def _distances(report: dict[str, Any]) -> str:
    """Speed against Fréchet distance, drawn twice: for wide and for narrow screens (text does not shrink with it)."""
    points, short = [], []
    for i, family in enumerate(report["families"]):
        speed, distance = (read(family["metrics"], key) for key in ("images_per_second", "frechet"))
        if speed.value and distance.value is not None:
            flagged = bool(distance.flag or speed.flag)
            numbers = (speed.value, distance.value, speed.error, distance.error, flagged)
            points.append(Point(i, family["title"], *numbers))
            short.append(Point(i, family["name"], *numbers))
    if len(points) < 2:
        return ""
    floor = read(report.get("floor") or {}, "frechet").value
    features = report["protocol"]["features"]
    name = distance_name(features)
    real = "" if floor is None else " The dashed line is what held-out real images score by the same rule."
    wide, narrow = scatter(points, floor, name), scatter(short, floor, name, width=340, height=340)
    return (
        f'<figure class="plot"><h3>Speed against distance from the data</h3><div class="wide">{wide}</div>'
        f'<div class="narrow">{narrow}</div><figcaption class="caption">{name} in the features <code>'
        f"{escape(features)}</code>; bars are one standard error.{real}</figcaption></figure>"
    )


# ------------------------------------------------------------------------------------------------------- numbers


FINDINGS = {
    "frechet": ("Closest to the data", ""),
    "mutual_fidelity": ("Most faithful", ""),
    "mutual_coverage": ("Best coverage", ""),
    "bits_per_dim": ("Best likelihood", " bits/dim"),
    "images_per_second": ("Fastest sampler", " images/s"),
}
"""Columns whose leader is named, in what words and with what unit."""


def _findings(report: dict[str, Any]) -> str:
    """The leader of a few columns, in words; nothing where nothing can be compared."""
    tiles = []
    for key, (words, unit) in FINDINGS.items():
        scores = [read(family["metrics"], key) for family in report["families"]]
        floor = read(report.get("floor") or {}, key)
        best = sorted(leaders(scores, told_apart(report, column(key)), floor))
        names = "".join(f"<b>{named(i, report['families'][i]['title'])}</b>" for i in best)
        values = " · ".join(("≤ " if scores[i].kind == "bound" else "") + _said(scores[i]) + unit for i in best)
        real = f"<span>real images {number.text(floor.value, floor.error)}</span>" if floor.value is not None else ""
        if best:
            tiles.append(f"<li><span>{words}</span>{names}<span>{values}</span>{real}</li>")
    return f'<ul class="findings">{"".join(tiles)}</ul>' if tiles else ""


def _numbers(report: dict[str, Any]) -> str:
    return comparison(report) + _reading(report) + verdicts(report) + seeds.section(report) + spectra(report)


def _reading(report: dict[str, Any]) -> str:
    return (
        '<p class="caption">± is one standard error. <strong>Bold</strong>: the best of a column and all that cannot '
        "be told from it at this N; flagged and undefined values are left out. Nothing is bold where no family is "
        "told from another, where all are at the bottom of the scale, or above what held-out real images score, which "
        f"is a warning and no win. ≤ marks an upper bound on the true value. {escape(seeds.sentence(report))}</p>"
    )
