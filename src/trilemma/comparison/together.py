"""Many models on one page: families trained under an equal budget, runs that are there, images from anywhere.

A comparison is a folder: one run folder for each family trained in it, the evaluations of what lies elsewhere,
``report.json`` with every number and its protocol, and ``report.html``, a page that needs nothing beside it. Started
again, it reuses what is finished and continues what is not.
"""

from __future__ import annotations

import functools
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from trilemma import __version__
from trilemma.bars import told
from trilemma.comparison.described import class_columns, describe_row, draw_real
from trilemma.comparison.past import Past, is_comparison, runs_in, study_of
from trilemma.comparison.rows import Row, free_name, grouped, measure_all, place_of, run_rows, sample_rows
from trilemma.config import to_dict
from trilemma.data import DataConfig, Dataset, load
from trilemma.data.memory import ImagesLike
from trilemma.data.stacked import is_stacked
from trilemma.evaluation import (
    Protocol,
    Reference,
    Source,
    check_alike,
    describe_data,
    describe_protocol,
    draw_ladder,
    judge,
    protocol_of,
    real_scores,
)
from trilemma.families import FAMILIES
from trilemma.parallel import ranks
from trilemma.report import write
from trilemma.run import Run, is_run
from trilemma.text import printable
from trilemma.training import Budget, Diverged, Progress, Report, make_config, train
from trilemma.training.budget import budget_text
from trilemma.training.driver import ended_early
from trilemma.training.learning import trained_on

MOST_SEEDS = 100

Tell = Callable[[str, str, float, float, str], None]
"""Called as ``tell(row, what, done, total, detail)``; the row is "" for what all share."""

Real = Dataset | DataConfig | str | os.PathLike[str] | ImagesLike
Runs = (
    str | os.PathLike[str] | Run | Iterable[Run | str | os.PathLike[str]] | Mapping[str, Run | str | os.PathLike[str]]
)


class Stopped(RuntimeError):
    """Training was stopped by a signal, ``number``; everything is saved."""

    def __init__(self, line: str, number: int = 0) -> None:
        super().__init__(line)
        self.number = number


def compare(
    data: Real | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    families: str | Iterable[str] = (),
    runs: Runs = (),
    samples: Mapping[str, Source] | None = None,
    against: Real | None = None,
    budget: str | float | timedelta | None = None,
    size: str | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    conditional: bool | None = None,
    protocol: Protocol | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Tell | Literal["bar"] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Put models side by side on one page: families that are trained for it, runs, and images from anywhere.

    Without ``runs`` and ``samples``, all families or those that are named are trained under an equal budget. With
    them nothing is trained but the families that are named besides. A comparison among ``runs`` stands for all its
    rows; where it is the only one, it is what is extended: its data, protocol, budget, size and folder are the
    defaults, and another ``seed`` trains its families once more.

    Args:
        data: the real images, a loaded `Dataset` or what `load` takes; by default MNIST, or what the runs learnt.
        out: the folder for the page and what is trained; by default that of the comparison that is extended.
        families: a key of `FAMILIES`, or several, also in one text with commas.
        runs: run folders, folders of runs, comparisons; or a dictionary of them by the names of their rows.
        samples: sets of images by the names of their rows, each what `evaluate` takes.
        against: another word for ``data``.
        budget: of each family: ``75s``, ``5000steps``, ``1Mimages``, a number of seconds, or a ``timedelta``; 2m.
        size: the preset; tiny.
        seed: of everything; 0.
        seeds: how many seeds each family is trained with, from ``seed`` on; 1. Its row is the mean over them, and its
            errors and the rule of differences hold what another training would give (`trilemma.evaluation.difference`).
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
    if data is not None and against is not None:
        raise ValueError("the real images are given twice, as data and as against: give them once")
    with told(progress, lambda bars: bars.tell) as tell:
        plan = _plan(
            data if against is None else against, out, _names(families), runs, samples or {},
            None if budget is None else budget_text(budget), size, seed, seeds, conditional, protocol, settings,
        )  # fmt: skip
        return _compare(plan, device, tell, say)


# -------------------------------------------------------------------------------------------------- what to compare


@dataclass(frozen=True)
class Plan:
    """A comparison as it will be made, after all that can be refused was refused.

    Attributes:
        dataset: the real images.
        rows: what is there.
        train: what will be trained, family and seed by the name of the row and of its folder.
        protocol: of the evaluations.
        budget, size, conditional, settings: of training.
        seed: of the comparison, and ``seeds`` how many each family is trained with.
        equal: whether every row was trained, or will be, by this budget.
        alike: whether every row draws the same classes in the same places.
    """

    dataset: Dataset
    out: Path
    rows: list[Row]
    train: dict[str, tuple[str, int]]
    protocol: Protocol
    budget: str
    size: str
    seed: int
    seeds: int
    conditional: bool
    settings: Mapping[str, Any]
    equal: bool
    alike: bool


def _plan(
    data: Real | None,
    out: str | os.PathLike[str] | None,
    families: list[str],
    runs: Runs,
    samples: Mapping[str, Source],
    budget: str | None,
    size: str | None,
    seed: int | None,
    seeds: int | None,
    conditional: bool | None,
    protocol: Protocol | Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
) -> Plan:
    if seeds is not None and not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"seeds must be from 1 to {MOST_SEEDS}, not {seeds}")
    if protocol is not None:
        protocol_of(protocol)  # refused before anything is loaded
    if budget is not None:
        Budget.parse(budget)
    given, samples, past = _opened(runs, samples)
    folder = _folder(out, past)
    beside = bool(given or samples or past)
    own = seed if seed is not None else past.seed if past else 0
    once = past is not None and seed is not None and own != past.seed and seeds is None  # one seed more
    count = 1 if once else seeds or (past.seeds if past else 1)
    if past and not families and (own != past.seed or count > past.seeds):  # once more
        families = list(dict.fromkeys(row.run.config.family for row in past.rows if row.run))
    if beside and not families:
        idle = {"budget": budget, "size": size, "conditional": conditional or None, "settings": settings,
                "seeds": seeds}  # fmt: skip
        if wrong := next((name for name, value in idle.items() if value is not None), None):
            raise ValueError(f"--{wrong} trains nothing here: name what to train with --families, or leave it out")
    dataset = _real(data, [run for _, run in given], past, beside)
    if not beside and not families:  # all that can be compared
        families = [name for name, cls in FAMILIES.items() if cls.vectors or not dataset.vector]
    base = past.seed if past else own
    train_in = {
        name if each == base else f"{name}-seed-{each}": (name, each)
        for name in families
        for each in range(own, own + count)
    }
    flat = [each for row in past.rows for each in row.every] if past else []
    rows = [replace(row, place=place_of(row.name, folder, row.run)) for row in flat]
    kept = [row.name for row in rows]
    rows += run_rows(given, folder, [*kept, *train_in])
    rows += sample_rows(samples, folder, [*[row.name for row in rows], *train_in])
    for row in rows:
        if row.run is not None:
            check_alike(row.run, dataset)
        elif families and isinstance(row.source, str | os.PathLike):  # refused before hours of training
            load(dataset.config.like(dataset.spec(), str(row.source)), split=False)
    usual = past.protocol if past else Protocol(seed=own, metrics=standard_metrics(dataset))
    chosen = protocol if isinstance(protocol, Protocol) else protocol_of(asdict(usual) | dict(protocol or {}))
    limit = budget or (past.budget if past else None) or "2m"
    preset = size or (past.size if past else None) or "tiny"
    old = past is not None and kept == [row.name for row in rows] and (past.budget, past.size) == (limit, preset)
    of_classes = bool(conditional if conditional is not None else past and past.conditional)
    return Plan(
        dataset,
        folder,
        rows,
        train_in,
        chosen,
        limit,
        preset,
        base,
        max(count, past.seeds if past else 1),
        of_classes,
        settings if settings is not None else past.settings if past else {},
        equal=not rows or old,
        alike=(of_classes or not train_in)
        and all(row.run is not None and _told_classes(row.run, dataset) for row in rows),
    )


def _opened(
    runs: Runs, samples: Mapping[str, Source]
) -> tuple[list[tuple[str | None, Run]], Mapping[str, Source], Past | None]:
    """The runs, each with the name that was given to it; all samples; and the one comparison to be extended."""
    if isinstance(runs, str | os.PathLike | Run):
        runs = [runs]
    named = runs.items() if isinstance(runs, Mapping) else [(None, run) for run in runs]
    found: list[tuple[str | None, Run]] = []
    pasts: list[Past] = []
    for name, run in named:
        if isinstance(run, Run):
            found.append((name, run))
        elif is_comparison(run):
            pasts.append(Past.open(run))
        elif inside := runs_in(run):
            found += [(None, each) for each in inside]
        else:
            found.append((name, Run.open(run)))
    if len(pasts) > 1:
        rows = [row for past in pasts for row in past.rows]
        found = [(None, row.run) for row in rows if row.run] + found
        more = {f"{row.name} ({row.place.parent.parent.name})": row.source for row in rows if row.source is not None}
        samples = {**more, **samples}
    past = pasts[0] if len(pasts) == 1 else None
    seen = {row.run.path.resolve() for row in past.rows if row.run} if past else set()
    once: list[tuple[str | None, Run]] = []
    for name, each in found:
        if each.path.resolve() not in seen:
            once.append((name, each))
            seen.add(each.path.resolve())
    return once, samples, past


def _folder(out: str | os.PathLike[str] | None, past: Past | None) -> Path:
    if out is None and past is None:
        raise ValueError("say with out= which folder the page belongs in")
    folder = Path(out) if out is not None else past.folder if past else Path()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose a folder for --out")
    return folder


def _real(data: Real | None, runs: Sequence[Run], past: Past | None, beside: bool) -> Dataset:
    """The real images: those that were given, brought to the form of what the runs learnt, or what they learnt."""
    learnt = past.data if past else None
    learners = [*([row.run for row in past.rows if row.run] if past else runs), *runs]
    if data is None and not beside:
        return load("mnist")
    if data is None:
        if learnt is None and not learners:
            raise ValueError("say with --against which real images to measure these by")
        first = learnt or learners[0].config.data
        known = learners[0].config.data_fingerprint if learners else ""
        for run in runs:
            own = run.config
            if own.data != first and not (known and own.data_fingerprint == known):
                raise ValueError(
                    f"{run.title} was trained on {printable(own.data.source)}, others on {printable(first.source)}, or "
                    "on other images of it: say with --against which real images to measure them by"
                )
        return load(first)
    if isinstance(data, str | os.PathLike) and learners:
        return load(learners[0].config.data.like(learners[0].config.spec, os.fspath(data)))
    return load(data)


def _told_classes(run: Run, dataset: Dataset) -> bool:
    return run.config.spec.classes > 0 and run.config.class_names == dataset.class_names


def _names(families: str | Iterable[str]) -> list[str]:
    """The names of families, each once."""
    names = list(dict.fromkeys(name.strip() for name in (
        families.split(",") if isinstance(families, str) else families
    ) if name.strip()))  # fmt: skip
    if unknown := [name for name in names if name not in FAMILIES]:
        raise ValueError(f"unknown family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    return names


# ------------------------------------------------------------------------------------------------- the comparison


def _compare(plan: Plan, device: str, tell: Tell | None, say: Callable[[str], None]) -> Path:
    """Train one row after the other; the page is there with the first and grows."""
    first = ranks(device).first
    if first:
        for loss in plan.dataset.losses:
            say(printable(f"{plan.dataset.name}: {loss}"))
    trained: list[Row] = []
    measure = _Measuring(plan, device, tell if first else None, say)
    for row in _train(plan, device, tell, say):
        trained.append(row)
        left = [name for name in plan.train if name not in {each.place.name for each in trained}]
        if left and plan.seeds == 1:
            coming = {(plan.out / name).resolve() for name in left}
            there = [each for each in plan.rows if each.place.resolve() not in coming]
            measure.page(_together(there, trained), left)
    rows = _together(plan.rows, trained)
    return measure.page(grouped(rows, plan.out) if plan.seeds > 1 else rows, [])


class _Measuring:
    """Measures rows, each once, by the same real images, and writes the page of those that there are."""

    def __init__(self, plan: Plan, device: str, tell: Tell | None, say: Callable[[str], None]) -> None:
        self.plan, self.device, self.tell, self.say = plan, device, tell, say
        self.records: dict[str, Any] = {}

    @functools.cached_property
    def real(self) -> Reference:
        told = _evaluating(self.tell, "") if self.tell else None
        return Reference.prepare(self.plan.dataset, self.plan.protocol, self.device, told)

    def page(self, rows: Sequence[Row], coming: Sequence[str]) -> Path:
        """The page; ``coming`` are the names of rows that will be added to it."""
        plan, out, dataset = self.plan, self.plan.out, self.plan.dataset

        def told_of(row: Row) -> Callable[[str, int, int], None] | None:
            return _evaluating(self.tell, row.name) if self.tell else None

        for row in rows:
            if row.name not in self.records:
                self.records[row.name] = measure_all(row, self.real, self.device, told_of, self.say)
        if not ranks(self.device).first:
            return out / "report.html"
        records = {row.name: self.records[row.name] for row in rows}
        conditional = plan.alike and dataset.labels is not None
        budget, size = (plan.budget, plan.size) if plan.equal else (None, None)
        report = {
            "format": 1,
            "title": f"Generative models on {dataset.name}",
            "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
            "version": __version__,
            "command": command(),
            "coming": list(coming),
            "data": describe_data(dataset) | {"conditional": conditional},
            "protocol": describe_protocol(self.real, self.device) | {"budget": budget, "size": size},
            "floor": {name: asdict(metric) for name, metric in real_scores(self.real).items()},
            "ladder": draw_ladder(_ladder(records), self.real, out),
            "scale": next((record["scale"] for record in records.values() if record), {}),
            "differences": judge(records),
            "study": study_of(out),
            "pictures": {
                "real": draw_real(dataset, conditional, plan.protocol.seed, out),
                "columns": class_columns(dataset, conditional),
            },
            "families": [describe_row(row, records[row.name], out) for row in rows],
            "recipe": {
                "data": to_dict(dataset.config),
                "protocol": asdict(plan.protocol),
                "budget": budget,
                "size": size,
                "seed": plan.seed,
                "seeds": plan.seeds,
                "conditional": plan.conditional,
                "settings": dict(plan.settings),
            },
        }
        return write(report, out)


def _together(there: list[Row], trained: list[Row]) -> list[Row]:
    """Runs that are there, some of which may have been trained on, then new ones, then images; each by its own name."""
    new = {row.place.resolve(): row for row in trained}
    for row in there:
        if on := new.pop(row.place.resolve(), None):
            row.run, row.alarms = on.run, on.alarms
    used = {row.name for row in there}
    for row in new.values():
        row.name = free_name(row.name, used)
    return [row for row in there if row.run] + list(new.values()) + [row for row in there if not row.run]


def _train(plan: Plan, device: str, tell: Tell | None, say: Callable[[str], None]) -> Iterator[Row]:
    """Train what is to be trained, one after the other; a row for each."""
    limit, wanted = Budget.parse(plan.budget), dict[str, Mapping[str, Any]]()
    # Everything that can be refused is refused before hours of training.
    for name, (family, seed) in plan.train.items():
        config = make_config(
            family, plan.dataset, size=plan.size, seed=seed, conditional=plan.conditional, settings=plan.settings
        )
        if is_run(plan.out / name):
            Run.open(plan.out / name)
        count = len(trained_on(plan.dataset, config.train))
        wanted[name] = fitting(plan.settings, config.train.batch, count, ranks(device).size)
        if wanted[name] != plan.settings:
            batch = wanted[name]["batch"]
            say(f"{name}: batches of {batch} images instead of {config.train.batch}, of {count:,} in all")
    for name, (family, seed) in plan.train.items():
        title = FAMILIES[family].title
        row = Row(name, title if name == family else f"{title} (seed {seed})", plan.out / name)
        try:
            row.run = train(
                family,
                plan.dataset,
                out=plan.out / name,
                size=plan.size,
                budget=plan.budget,
                seed=seed,
                conditional=plan.conditional,
                settings=wanted[name],
                resume=True,
                device=device,
                progress=_training(tell, name) if tell else None,
                say=functools.partial(_say, say, name),
            )
        except Diverged as error:
            say(f"{name}: {error}")
            row.alarms.append(str(error))
            row.run = Run.open(plan.out / name)
        else:
            if limit.spent(Progress(**_integers(row.run.progress()))) < 1 and not ended_early(row.run):
                raise Stopped(f"stopped while training {name}; it is saved", row.run.stopped)
        yield row


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


def standard_metrics(dataset: Dataset) -> str:
    """What a comparison measures unless something else is asked for: a classifier is cheap beside the training."""
    if is_stacked(dataset):  # its classes are counted digit by digit, which is among the default metrics
        return "default"
    return "default,accuracy,modes,mode_kl" if dataset.labels is not None and not dataset.vector else "default"


def _ladder(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return next((record["ladder"] for record in records.values() if record), [])


def command() -> str:
    """The command line of this process, as one would type it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["trilemma" if name in ("trilemma", "__main__.py") else name, *sys.argv[1:]])


__all__ = ["Stopped", "compare"]
