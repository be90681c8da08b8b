"""A finished comparison as values, for whoever shows it elsewhere than on the page: the same rows, marks and words.

from trilemma.report import overview

found = overview("demo")
found.verdict
for row in found.rows:
    print(row.title, row.sentence, row.marks["quality"].number)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trilemma.evaluation.standing import leaders
from trilemma.number import Number
from trilemma.report.figures import speed_scale
from trilemma.report.pictures import load
from trilemma.report.scores import axes_of, check, column, read
from trilemma.report.summary import overall, sentence
from trilemma.report.verdicts import lines, told_apart
from trilemma.validate import read_json


@dataclass(frozen=True)
class Mark:
    """One row on one axis.

    Attributes:
        metric: its name in the record.
        number: value, error, N, flag.
        share: where it stands on the axis of the triangle, 0 in the centre and 1 at the corner; None without a value.
        leads: whether it is the best, or cannot be told from the best.
    """

    metric: str
    number: Number
    share: float | None
    leads: bool


@dataclass(frozen=True)
class OverviewRow:
    """One row of a comparison.

    Attributes:
        index: its place.
        name: what tells it from the others, and ``title`` for people.
        family: "" for images from elsewhere.
        run: its run folder as it was written down; None for images.
        marks: by ``quality``, ``coverage`` and ``speed``.
        sentence: what it reached, to stand after its title.
        flags: why its numbers are to be distrusted.
        alarms: what went wrong in its training.
        pictures: PNG files by what they show, such as ``samples``; only those that are there.
        record: its whole entry in ``report.json``.
    """

    index: int
    name: str
    title: str
    family: str
    run: str | None
    marks: dict[str, Mark]
    sentence: str
    flags: tuple[str, ...]
    alarms: tuple[str, ...]
    pictures: dict[str, Path]
    record: dict[str, Any]


@dataclass(frozen=True)
class Overview:
    """A comparison.

    Attributes:
        folder: where it lies; its page is ``folder / "report.html"``.
        title: of the page.
        created: when, as ISO 8601.
        data: what was compared on, as in the record.
        verdict: one sentence on all rows.
        draws: what cannot be told apart, a line for each score.
        distrust: why the scale itself cannot be trusted here; empty where it can.
        axes: the metric of each axis.
        floor: held-out real images on the axes that they have.
        rows: in the order of the page.
        record: the whole of ``report.json``.
    """

    folder: Path
    title: str
    created: str
    data: dict[str, Any]
    verdict: str
    draws: tuple[str, ...]
    distrust: tuple[str, ...]
    axes: dict[str, str]
    floor: dict[str, Mark]
    rows: tuple[OverviewRow, ...]
    record: dict[str, Any]


def overview(folder: str | os.PathLike[str], record: dict[str, Any] | None = None) -> Overview:
    """Read a comparison from its folder.

    Args:
        folder: that of ``trilemma compare --out``.
        record: its ``report.json``, where that was read already.

    Raises:
        ValueError: there is none, it is damaged, or of another format, in one line.
    """
    folder = Path(folder)
    if record is None:
        if not (folder / "report.json").is_file():
            raise ValueError(f"{folder} holds no comparison: there is no report.json in it")
        record = read_json(folder / "report.json")
    check(record)
    try:
        return _overview(folder, record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'report.json'} is damaged: it lacks {error}") from None


def _overview(folder: Path, record: dict[str, Any]) -> Overview:
    families, real = record["families"], record.get("floor") or {}
    axes = {axis: key for key, axis in axes_of(record).items()}
    scores = {axis: [read(family["metrics"], key) for family in families] for axis, key in axes.items()}
    speed = speed_scale([score.value for score in scores["speed"] if score.value is not None])
    ahead = {
        axis: leaders(scores[axis], told_apart(record, column(key)), read(real, key)) for axis, key in axes.items()
    }

    def mark(axis: str, number: Number, leads: bool = False) -> Mark:
        value = number.value if number.defined else None
        share = None if value is None else min(max(speed(value) if axis == "speed" else value, 0.0), 1.0)
        return Mark(axes[axis], number, share, leads)

    rows = tuple(
        OverviewRow(
            index=i,
            name=family["name"],
            title=family["title"],
            family=family.get("family", family["name"]),
            run=family.get("run"),
            marks={axis: mark(axis, scores[axis][i], i in ahead[axis]) for axis in axes},
            sentence=sentence(family),
            flags=tuple(family.get("flags") or ()),
            alarms=tuple(family["training"].get("alarms") or ()),
            pictures={
                what: folder / file for what, file in (family.get("pictures") or {}).items() if load(folder, file)
            },
            record=family,
        )
        for i, family in enumerate(families)
    )
    known = {axis: read(real, key) for axis, key in axes.items()}
    return Overview(
        folder,
        record["title"],
        str(record.get("created") or ""),
        record["data"],
        overall(record),
        tuple(lines(record)),
        tuple((record.get("scale") or {}).get("distrust") or ()),
        axes,
        {axis: mark(axis, number) for axis, number in known.items() if number.value is not None},
        rows,
        record,
    )
