"""The parts of the page in words: the opening sentence, one section for each family, and how it was measured."""

from __future__ import annotations

import re
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from trilemma import number
from trilemma.report.answers import answered
from trilemma.report.figures import curve, plot
from trilemma.report.marks import Sign
from trilemma.report.pictures import load
from trilemma.report.scores import columns, measured, more, read
from trilemma.report.summary import spoken
from trilemma.report.trust import classes, copies, flags
from trilemma.text import printable

WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


def _threads(protocol: dict[str, Any]) -> str:
    count = protocol.get("threads")
    return f"{count} thread{'' if count == 1 else 's'}"


def lead(report: dict[str, Any]) -> str:
    """What was compared, on what and with what: one sentence, as HTML."""
    data, protocol, count = report["data"], report["protocol"], len(report["families"])
    what = "vectors" if data["levels"] == 0 else "images"
    on = f"{data['train']:,} {what} of <b>{escape(data['name'])}</b> ({_described(data)})"
    judged = f"judged by {protocol['n']:,} samples each"
    if protocol.get("budget"):
        trained = "trained" if count == 1 else "each trained"
        spent = escape(spoken(protocol["budget"]))
        return f"{_many(count, 'family', 'families')}, {trained} for {spent} on {on}, {judged}."
    images = sum(is_images(family) for family in report["families"])
    parts = [_many(count - images, "trained model", "trained models")] if count > images else []
    parts += [_many(images, "set of images", "sets of images")] if images else []
    rows = " and ".join(part if i == 0 else part.lower() for i, part in enumerate(parts)) or "Nothing"
    return f"{rows}, beside {on}, {judged} or all there are."


def _many(count: int, one: str, several: str) -> str:
    return f"{WORDS[count] if count < len(WORDS) else count} {one if count == 1 else several}"


def is_images(family: dict[str, Any]) -> bool:
    """Whether a row is of images of which nobody said what model made them."""
    return family.get("family") == ""


def _described(data: dict[str, Any]) -> str:
    if data["levels"] == 0:
        return f"vectors of {data['shape'][0]} values"
    channels, height, width = data["shape"]
    colour = "binary" if data["levels"] == 2 else {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    classes = f", {len(data['class_names']):,} classes" if data.get("class_names") else ""
    return f"{width} \N{MULTIPLICATION SIGN} {height} pixels, {colour}, {data['levels']} levels{classes}"


def columns_caption(report: dict[str, Any]) -> str:
    """Which class stands in which column of the sample grids, where that is known.

    ``pictures.columns`` names them; without it, the first ten classes stand in the ten columns of the grids.
    """
    if report["data"].get("levels") == 0:  # vectors are drawn in one plane
        return ""
    names = (report.get("pictures") or {}).get("columns")
    if not names and report["data"].get("conditional") and len(report["data"].get("class_names") or ()) >= 10:
        names = report["data"]["class_names"][:10]
    return f"Columns, from the left: {escape(' · '.join(map(str, names)))}." if names else ""


# -------------------------------------------------------------------------------------------------- one family


def family_section(index: int, sign: Sign, family: dict[str, Any], report: dict[str, Any], folder: Path) -> str:
    """Everything about one family: what it is, its pictures, its training, its settings."""
    training = family["training"]
    alarms = "".join(f"<p>{escape(alarm)}</p>" for alarm in training.get("alarms") or ())
    alarms = f'<aside class="alarm"><b>Noticed while training</b>{alarms}</aside>' if alarms else ""
    code = f"<code>{escape(family['name'])}</code>" if family["name"] != family["title"] else ""
    if is_images(family):
        facts = {
            "Images": "" if family.get("images") is None else f"{family['images']:,} were measured",
            "From": escape(printable(family.get("source") or "memory")),
            "What was done to them": escape("; ".join(family.get("notes") or ())),
        }
    else:
        facts = {
            "Density": escape(family["density"]),
            "Gives up": escape(family["gives_up"]),
            "Parameters": "not known" if family["parameters"] is None else f"{family['parameters']:,}",
            "Training": f"{training['images']:,} images in {training['steps']:,} steps and {training['seconds']:,.0f} s"
            + (f" ({training['images_per_second']:,.0f} images/s)" if training["images_per_second"] else ""),
            "Paper": _linked(family["paper"]),
        }
    return (
        f'<article id="family-{index}" data-row="{index}"><h3>{sign.badge()} {escape(family["title"])} '
        f"{code}</h3>{alarms}{flags(family)}"
        f'<dl class="facts">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items() if v)}</dl>'
        f"{_pictures_and_curves(sign, family, report, folder)}{answered(family, folder)}"
        f"{copies(family, folder)}{classes(family)}"
        f"{_settings(family)}</article>"
    )


def _pictures_and_curves(sign: Sign, family: dict[str, Any], report: dict[str, Any], folder: Path) -> str:
    pictures, title = family.get("pictures") or {}, family["title"]
    samples, neighbours = load(folder, pictures.get("samples")), load(folder, pictures.get("neighbours"))
    left = right = ""
    if samples:
        left = f"<figure>{samples.html(f'Samples of {title}')}<figcaption>Samples, not picked.</figcaption></figure>"
    if neighbours:
        right = (
            f"<figure>{neighbours.html(f'Samples of {title}, each with its nearest training image')}<figcaption>"
            "Rows in pairs: a sample, and under it the training image nearest to it. Alike is what learning looks "
            f"like; identical, pair after pair, is memorising. {_nearest(family, report)}</figcaption></figure>"
        )
    missing = "" if samples or neighbours else '<p class="absent-text">There are no pictures of this family.</p>'
    curves = "" if is_images(family) else _curves(sign, family)
    return f'{missing}<div class="pair">{left}<div>{right}{curves}</div></div>'


def _nearest(family: dict[str, Any], report: dict[str, Any]) -> str:
    """How far samples are from the training set, beside how far real images are."""
    here, real = (read(scores, "nearest_training") for scores in (family["metrics"], report.get("floor") or {}))
    if here.value is None:
        return ""
    beside = f"; of held-out real images {number.text(real.value, real.error)}" if real.value is not None else ""
    return f"Median distance {number.text(here.value, here.error)} {escape(here.unit)}{beside}."


def _curves(sign: Sign, family: dict[str, Any]) -> str:
    curves = {name: points for name, points in (family["training"].get("curves") or {}).items() if points}
    most_seen = max((point[0] for points in curves.values() for point in points), default=0)
    charts = [(name, points, curve(points, name, sign, most_seen)) for name, points in curves.items()]
    figures = "".join(
        plot(f"{family['name']}-{name}", escape(name.replace("_", " ")), chart, ["images", name], points)
        for name, points, chart in charts
        if chart
    )
    if not figures:
        return '<p class="absent-text">No training curves were recorded.</p>'
    return (
        f'<div class="curves">{figures}</div><p class="caption">Training, against images seen; each vertical scale '
        "fits its own curve.</p>"
    )


def _settings(family: dict[str, Any]) -> str:
    settings = {**(family.get("config") or {}), **{f"sample.{k}": v for k, v in (family.get("options") or {}).items()}}
    if not settings:
        return ""
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in settings.items())
    return (
        '<details class="settings"><summary>All settings</summary>'
        f'<div class="scroll"><table>{rows}</table></div></details>'
    )


def _linked(text: str) -> str:
    """Escaped text in which web addresses and arXiv numbers are links (which ask for nothing until followed)."""

    def link(match: re.Match[str]) -> str:
        address = match[1] or f"https://arxiv.org/abs/{match[2]}"
        return f'<a href="{address}" rel="noreferrer">{match[0]}</a>'

    return re.sub(r"(https://[\w./%~-]*[\w/])|\barXiv[: ]\s?(\d{4}\.\d{4,5})", link, escape(text))


# ------------------------------------------------------------------------------------------------------ method


def method(report: dict[str, Any], distance: str) -> str:
    """The protocol behind every number, what each number means and when it misleads."""
    data, protocol = report["data"], report["protocol"]
    facts = {
        "Data": f"{data['name']}: {data['train']:,} training and {data['test']:,} held-out images, {_described(data)}",
        "Split": protocol.get("split"),
        "Budget": f"{protocol.get('budget')} of training for each family, size {protocol.get('size')}"
        if protocol.get("budget")
        else "not one for all: each row says how long it was trained",
        "Samples": f"{protocol['n']:,} for each family",
        "Features": f"{protocol['features']}, {protocol.get('dims')} dimensions",
        "Seed": protocol.get("seed"),
        "Hardware": f"{protocol.get('hardware')}, {protocol.get('device')}, {_threads(protocol)}",
        "Command": report.get("command"),
        "Written": f"{_date(report.get('created'))} by trilemma {report.get('version')}",
    }
    rows = "".join(f"<div><dt>{k}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items() if v is not None)
    notes = "".join(f"<li>{escape(note)}</li>" for note in data.get("notes") or ())
    notes = f"<h3>What was done to the images</h3><ul>{notes}</ul>" if notes else ""
    meanings = "".join(
        f'<div id="means-{column.name}"><dt>{_spelt(column.head, distance)}</dt><dd>{escape(column.meaning)} '
        f"<em>When it misleads:</em> {escape(column.misleads)}{_as_measured(report, column.name)}"
        f"{_source(column.source)}</dd></div>"
        for column in (*columns(), *measured(report, more()))
    )
    return (
        f'<dl class="facts protocol">{rows}</dl>{notes}<h3>What the numbers mean, and when they mislead</h3>'
        f'<dl class="meanings">{meanings}</dl>'
    )


def _as_measured(report: dict[str, Any], key: str) -> str:
    """What the metric says of itself (k, the reference), where it says it alike for all families."""
    scores = [read(family["metrics"], key) for family in report["families"]]
    notes = {score.protocol or score.note for score in scores if score.defined and not score.kind} - {""}
    return f" <em>Here:</em> {escape(notes.pop())}." if len(notes) == 1 else ""


def _source(source: str) -> str:
    return f" <small>{_linked(source)}</small>" if source else ""


def _spelt(head: str, distance: str) -> str:
    return distance if head == "Fréchet" else escape(head)


def _date(created: Any) -> str:
    try:
        when = datetime.fromisoformat(str(created))
    except ValueError:
        return str(created)
    return f"{when.day} {when:%B %Y, %H:%M %Z}".strip()
