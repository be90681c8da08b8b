"""Several families, one data set, an equal budget, one table.

A comparison is a folder: one run folder for each family, ``report.json`` with every number and its protocol, and
``report.html``, a page that needs nothing beside it. Started again, it reuses what is finished and continues what is
not.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trilemma import __version__
from trilemma.bars import told
from trilemma.data import DataConfig, Dataset, load
from trilemma.data.memory import ImagesLike
from trilemma.data.stacked import is_stacked
from trilemma.evaluation import (
    FORMAT,
    Protocol,
    Reference,
    describe_data,
    describe_protocol,
    draw_ladder,
    evaluate,
    judge,
    protocol_of,
    real_scores,
)
from trilemma.evaluation.answers import answers_of
from trilemma.families import FAMILIES
from trilemma.images import NotFinite, grid, save_png
from trilemma.noise import philox
from trilemma.parallel import ranks
from trilemma.report import write
from trilemma.run import Run, is_run
from trilemma.text import printable
from trilemma.training import Budget, Diverged, Progress, Report, make_config, train
from trilemma.training.budget import budget_text
from trilemma.vectors import scatter

PARTS: dict[str, Any] = {
    "metrics": dict,
    "per_image": dict,
    "floor": dict,
    "ladder": (list, type(None)),
    "scale": dict,
    "flags": list,
}
"""What a record of an evaluation must hold, for the report to be made of it."""

Tell = Callable[[str, str, float, float, str], None]
"""Called as ``tell(family, what, done, total, detail)``; the family is "" for what all share."""


class Stopped(RuntimeError):
    """Training was stopped by a signal, ``number``; everything is saved."""

    def __init__(self, line: str, number: int = 0) -> None:
        super().__init__(line)
        self.number = number


def compare(
    data: Dataset | DataConfig | str | os.PathLike[str] | ImagesLike = "mnist",
    *,
    out: str | os.PathLike[str],
    families: str | Iterable[str] = (),
    budget: str | float | timedelta = "2m",
    size: str = "tiny",
    seed: int = 0,
    conditional: bool = False,
    protocol: Protocol | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Tell | Literal["bar"] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train families under an equal budget, evaluate them alike, and write the report.

    Args:
        data: a loaded `Dataset`, or what `load` takes.
        out: the folder for the runs and the report.
        families: a key of `FAMILIES`, or several, also in one text with commas; all of them by default.
        budget: of each family: ``75s``, ``5000steps``, ``1Mimages``, a number of seconds, or a ``timedelta``.
        size: the preset.
        seed: of everything.
        conditional: train P(x|y) on the labels, and draw every grid from the same classes.
        protocol: how to evaluate, a `Protocol` or a dictionary of its fields; by default with the accuracy and the
            modes that a classifier sees, where there are labels.
        settings: fields of `TrainConfig` that differ from the presets.
        device: where to compute.
        progress: a `Tell`; ``"bar"`` shows bars, as a notebook does by default.
        say: called with alarms and other single lines.

    Returns:
        The path of ``report.html``.

    Raises:
        ValueError: bad input, in one line.
        Stopped: a signal came; the same call continues from there.
    """
    with told(progress, lambda bars: bars.tell) as tell:
        return _compare(
            data, Path(out), _names(families), budget_text(budget), size, seed, conditional, protocol, settings, device,
            tell, say,
        )  # fmt: skip


def _names(families: str | Iterable[str]) -> list[str]:
    """The names of families, each once."""
    return list(dict.fromkeys(name.strip() for name in (
        families.split(",") if isinstance(families, str) else families
    ) if name.strip()))  # fmt: skip


def _compare(
    data: Dataset | DataConfig | str | os.PathLike[str] | ImagesLike,
    out: Path,
    families: list[str],
    budget: str,
    size: str,
    seed: int,
    conditional: bool,
    protocol: Protocol | Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
    device: str,
    tell: Tell | None,
    say: Callable[[str], None],
) -> Path:
    names = families or list(FAMILIES)
    if unknown := [name for name in names if name not in FAMILIES]:
        raise ValueError(f"unknown family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    limit = Budget.parse(budget)
    asked = None if protocol is None else protocol_of(protocol)
    dataset = load(data)
    if ranks(device).first:
        for loss in dataset.losses:
            say(printable(f"{dataset.name}: {loss}"))
    if dataset.vector and not families:  # all that can be compared
        names = [name for name in names if FAMILIES[name].vectors]
    protocol = asked or Protocol(seed=seed, metrics=standard_metrics(dataset))
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose a folder for --out")
    wanted: dict[str, Mapping[str, Any]] = {}
    # Everything that can be refused is refused before hours of training.
    for name in names:
        config = make_config(name, dataset, size=size, seed=seed, conditional=conditional, settings=settings)
        if is_run(out / name):
            Run.open(out / name)
        wanted[name] = fitting(settings or {}, config.train.batch, len(dataset.train), ranks(device).size)
        if wanted[name] != (settings or {}):
            batch = wanted[name]["batch"]
            say(f"{name}: batches of {batch} images instead of {config.train.batch}, of {len(dataset.train):,} in all")
    runs: dict[str, Run] = {}
    alarms: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        try:
            runs[name] = train(
                name,
                dataset,
                out=out / name,
                size=size,
                budget=budget,
                seed=seed,
                conditional=conditional,
                settings=wanted[name],
                resume=True,
                device=device,
                progress=_training(tell, name) if tell else None,
                say=functools.partial(_say, say, name),
            )
        except Diverged as error:
            say(f"{name}: {error}")
            alarms[name].append(str(error))
            runs[name] = Run.open(out / name)
        else:
            if limit.spent(Progress(**_integers(runs[name].progress()))) < 1:
                raise Stopped(f"stopped while training {name}; it is saved", runs[name].stopped)
    if not ranks(device).first:
        tell = None
    real = Reference.prepare(dataset, protocol, device, _evaluating(tell, "") if tell else None)
    records: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            records[name] = _evaluation(runs[name], real, device, _evaluating(tell, name) if tell else None)
        except NotFinite as error:  # of every process alike; it gets a row that says so, the others their report
            say(f"{name}: {error}")
            alarms[name].append(str(error))
            records[name] = {}
    if not ranks(device).first:
        return out / "report.html"
    entries = [describe_family(runs[name], records[name], out, alarms[name]) for name in names]
    report = {
        "format": 1,
        "title": f"Generative models on {dataset.name}",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "version": __version__,
        "command": command(),
        "data": describe_data(dataset) | {"conditional": conditional},
        "protocol": describe_protocol(real, device) | {"budget": budget, "size": size},
        "floor": {name: asdict(metric) for name, metric in real_scores(real).items()},
        "ladder": draw_ladder(_ladder(records), real, out),
        "scale": next((record["scale"] for record in records.values() if record), {}),
        "differences": judge(records),
        "pictures": {
            "real": _draw_real(dataset, conditional, protocol.seed, out),
            "columns": _columns(dataset, conditional),
        },
        "families": entries,
    }
    return write(report, out)


def fitting(settings: Mapping[str, Any], batch: int, count: int, processes: int) -> Mapping[str, Any]:
    """The settings with a batch that ``count`` training images fill and that processes share equally.

    It is the preset's own where that will do, else the largest power of two, less what is left over.
    """
    size = batch if batch <= count else 2 ** (count.bit_length() - 1)
    size = max(processes, size - size % processes)
    return settings if size == batch or "batch" in settings else {**settings, "batch": size}


def _say(say: Callable[[str], None], name: str, line: str) -> None:
    say(f"{name}: {line}")


def _integers(progress: Mapping[str, float]) -> dict[str, Any]:
    return {"step": int(progress["step"]), "images": int(progress["images"]), "seconds": progress["seconds"]}


def _training(tell: Tell, name: str) -> Callable[[Report], None]:
    def listen(report: Report) -> None:
        detail = f"{report.images_per_second:,.0f} images/s · loss {report.loss:.4g}"
        tell(name, "training", min(report.spent, 1.0), 1.0, detail)

    return listen


def _evaluating(tell: Tell, name: str) -> Callable[[str, int, int], None]:
    return lambda what, done, total: tell(name, what, float(done), float(total), "")


def _evaluation(run: Run, real: Reference, device: str, tell: Callable[[str, int, int], None] | None) -> dict[str, Any]:
    """The evaluation of a run, taken from its folder if it is of these weights and this protocol."""
    if not run.has_checkpoint:
        return {}
    kept = ranks(device).agree(_kept(run, describe_protocol(real, device)))  # all processes go the same way
    return kept if kept is not None else evaluate(run, real, device=device, progress=tell)


def _kept(run: Run, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation in the run's folder, if it is whole and what would be made now."""
    try:
        record: dict[str, Any] = json.loads(run.evaluation.read_text(encoding="utf-8"))
        same = {key: record["protocol"].get(key) for key in wanted} == wanted
        made = record.get("format"), record["version"], record["subject"].get("progress")
        whole = all(isinstance(record[key], kind) for key, kind in PARTS.items())
        whole = whole and all(isinstance(metric, dict) and "value" in metric for metric in record["metrics"].values())
        there = all((run.path / file).is_file() for file in record.get("pictures", {}).values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # absent or damaged: measured again
    return record if same and whole and there and made == (FORMAT, __version__, run.progress()) else None


def standard_metrics(dataset: Dataset) -> str:
    """What a comparison measures unless something else is asked for: a classifier is cheap beside the training."""
    if is_stacked(dataset):  # its classes are counted digit by digit, which is among the default metrics
        return "default"
    return "default,accuracy,modes,mode_kl" if dataset.labels is not None and not dataset.vector else "default"


def _ladder(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return next((record["ladder"] for record in records.values() if record), [])


def describe_family(run: Run, record: Mapping[str, Any], out: Path, alarms: Sequence[str]) -> dict[str, Any]:
    """One family's entry in the report."""
    cls, logs = FAMILIES[run.config.family], run.logs()
    curves: dict[str, list[list[float | None]]] = {}
    for line in logs:
        for name, value in line.items():
            # Gradient norms stay in the log: they are for those who debug a training.
            if name not in ("step", "images", "seconds", "alarm") and not name.startswith("gradient norm"):
                curves.setdefault(name, []).append([line["images"], value if math.isfinite(value) else None])
    subject = record.get("subject", {})
    progress = subject.get("progress", {"step": 0, "images": 0, "seconds": 0.0})
    seconds = progress["seconds"]
    return {
        "name": cls.name,
        "title": cls.title,
        "paper": cls.paper,
        "density": cls.density.value,
        "gives_up": cls.gives_up,
        "answers": dict(cls.answers),
        "run": str(run.path),
        "parameters": subject.get("parameters"),
        "config": subject.get("config", {}),
        "options": subject.get("options", {}),
        "training": {
            "seconds": round(seconds, 1),
            "steps": progress["step"],
            "images": progress["images"],
            "images_per_second": round(progress["images"] / seconds, 1) if seconds else None,
            "curves": curves,
            "alarms": [line["alarm"] for line in logs if "alarm" in line] + list(alarms),
        },
        "metrics": record.get("metrics", {}),
        "flags": record.get("flags", []),
        "memorisation": {k: v for k, v in record.get("memorisation", {}).items() if k != "pairs"},
        "spectrum": record.get("spectrum", {}),
        "per_class": record.get("per_class", {}),
        "asked": [each | {"folder": os.path.relpath(run.answers, out)} for each in answers_of(run)] if record else [],
        "pictures": {name: os.path.relpath(run.path / file, out) for name, file in record.get("pictures", {}).items()},
    }


def _draw_real(dataset: Dataset, conditional: bool, seed: int, out: Path) -> str:
    """A grid of held-out images in the layout of the samples, a class to a column; returns its name."""
    order = dataset.test[philox(seed, 1).permutation(len(dataset.test))]
    if conditional and dataset.labels is not None:
        # The columns of `draw_pictures`: every class in turn. A class with few held-out images repeats them.
        by_class = [order[dataset.labels[order] == i % len(dataset.class_names)] for i in range(10)]
        filled = [members if len(members) else order for members in by_class]
        chosen = np.array([members[row % len(members)] for row in range(8) for members in filled], np.int64)
    else:
        chosen = order[:80]
    if dataset.vector:
        return save_png(scatter(dataset.batch(order[:2000]), None), out / "real.png").name
    return save_png(grid(dataset.batch(chosen), levels=dataset.levels, columns=10), out / "real.png").name


def _columns(dataset: Dataset, conditional: bool) -> list[str]:
    """The class of each of the ten columns of a grid."""
    names = dataset.class_names
    return [names[i % len(names)] for i in range(10)] if conditional and not dataset.vector else []


def command() -> str:
    """The command line of this process, as one would type it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["trilemma" if name in ("trilemma", "__main__.py") else name, *sys.argv[1:]])


__all__ = ["Stopped", "compare"]
