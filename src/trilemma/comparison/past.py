"""A comparison that is there already: found again, with what it was made by, its page written anew."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from trilemma.comparison.rows import Row, place_of
from trilemma.data import DataConfig
from trilemma.evaluation import Protocol, protocol_of
from trilemma.evaluation.answers import answers_of
from trilemma.report import check, write
from trilemma.run import Run, is_run
from trilemma.validate import decode, read_json

REPORT = "report.json"
STUDY = "study/results.json"


@dataclass(frozen=True)
class Past:
    """What a comparison was made of.

    Attributes:
        folder: where it lies.
        rows: its rows, in its order.
        data: the real images; None where that was not written down and no run says it.
        protocol: of its evaluations.
        budget: of training, of all its rows; None where they were trained otherwise.
        size, seed, seeds, conditional, settings: of training, as `compare` takes them.
    """

    folder: Path
    rows: list[Row]
    data: DataConfig | None
    protocol: Protocol
    budget: str | None
    size: str | None
    seed: int
    seeds: int
    conditional: bool
    settings: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Past:
        """Read it from its folder.

        Raises:
            ValueError: there is none, or what it is made of is gone, in one line.
        """
        folder = Path(folder)
        report = read_report(folder)
        rows = [_row(entry, folder) for entry in report["families"]]
        recipe = report.get("recipe") or _older(report)
        data = decode(DataConfig, recipe["data"], str(folder / REPORT)) if recipe.get("data") else None
        if data is None:
            data = next((row.run.config.data for row in rows if row.run is not None), None)
        return cls(
            folder,
            rows,
            data,
            protocol_of(recipe["protocol"]),
            recipe.get("budget"),
            recipe.get("size"),
            int(recipe.get("seed") or 0),
            int(recipe.get("seeds") or 1),
            bool(recipe.get("conditional")),
            recipe.get("settings") or {},
        )


def is_comparison(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a comparison."""
    return (Path(path) / REPORT).is_file() and not is_run(path)


def runs_in(folder: str | os.PathLike[str]) -> list[Run]:
    """The runs that lie directly in a folder, by name."""
    try:
        inside = sorted(entry for entry in Path(folder).iterdir() if entry.is_dir() and is_run(entry))
    except OSError:
        return []
    return [Run.open(path) for path in inside]


def read_report(folder: Path) -> dict[str, Any]:
    """The record of a comparison; ``ValueError``, one line, where there is none or it is damaged."""
    if not (folder / REPORT).is_file():
        raise ValueError(f"{folder} holds no comparison: there is no {REPORT} in it, which `trilemma compare` writes")
    report = read_json(folder / REPORT)
    check(report)
    if not all(isinstance(report.get(key), dict) for key in ("data", "protocol")) or not isinstance(
        report.get("families"), list
    ):
        raise ValueError(f"{folder / REPORT} is damaged: it lacks the data, the protocol or the families")
    return report


def rebuild(folder: str | os.PathLike[str]) -> Path:
    """Write the page of a comparison anew from its record, with what its runs have been asked since.

    Nothing is measured.

    Returns:
        The path of ``report.html``.

    Raises:
        ValueError: there is no comparison in the folder, or it is damaged, in one line.
    """
    folder = Path(folder)
    report = read_report(folder)
    for entry in report["families"]:
        run = _run(entry, folder)
        place = folder / entry["place"] if entry.get("place") else place_of(entry["name"], folder, run)
        if run is not None and run.has_checkpoint and entry.get("metrics"):
            asked = answers_of(run, place / "queries")
            entry["asked"] = [each | {"folder": os.path.relpath(place / "queries", folder)} for each in asked]
    report["study"] = study_of(folder)
    return write(report, folder)


def study_of(folder: Path) -> dict[str, Any]:
    """What people said of the images of a comparison: ``study/results.json`` in its folder; empty where there is none.

    Nobody loses a page by a damaged file: its fault stands on the page instead.
    """
    file = folder / STUDY
    if not file.is_file():
        return {}
    try:
        found = read_json(file)
        rows = found["rows"]
        fits = (
            found.get("format") == 1 and isinstance(rows, list) and all(isinstance(row["source"], str) for row in rows)
        )
    except (ValueError, KeyError, TypeError):
        fits = False
    return found if fits else {"fault": f"{STUDY} is damaged or of another version: write it anew from the votes."}


def _row(entry: Mapping[str, Any], folder: Path) -> Row:
    """A row of the record, with its run or its images found again."""
    name, title = str(entry["name"]), str(entry["title"])
    run = _run(entry, folder)
    place = folder / entry["place"] if entry.get("place") else place_of(name, folder, run)
    if run is not None:
        more = [_row({**entry, **each, "seeds": []}, folder) for each in (entry.get("seeds") or [])[1:]]
        return Row(name, title, place, run, more=more)
    source = entry.get("source")
    if entry.get("run") or not source:
        what = f"its run {entry['run']} is" if entry.get("run") else "its images came from memory and are"
        raise ValueError(f"{folder}: {name} cannot be measured again, {what} not there any more: name the others")
    return Row(name, title, place, source=source)


def _run(entry: Mapping[str, Any], folder: Path) -> Run | None:
    """The run of a row, in the folder of the comparison, which may have been moved, or where it was."""
    if not entry.get("run"):
        return None
    was = Path(entry["run"])
    inside = [folder / entry["place"]] if entry.get("place") else []
    for path in (*inside, folder / was.name, was):
        if is_run(path):
            return Run.open(path)
    return None


def _older(report: Mapping[str, Any]) -> dict[str, Any]:
    """How an older comparison was made, as far as its record says."""
    told = report["protocol"]
    protocol = {field.name: told[field.name] for field in fields(Protocol) if field.name in told}
    known = str(protocol.get("features", "small"))
    for named, asked in (("small", "small"), ("vectors", "small"), ("inception", "inception")):
        if known.startswith(named):
            protocol["features"] = asked
    return {
        "protocol": protocol,
        "budget": told.get("budget"),
        "size": told.get("size"),
        "seed": told.get("seed", 0),
        "conditional": report["data"].get("conditional"),
    }
