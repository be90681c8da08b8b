"""How many images do I need? Families trained on more and more of a data set, by one budget, and what that changes.

The sets are nested: each holds the images of the smaller ones. Every model is measured against the *whole* data set,
training and held-out images, so that the numbers of all sizes are of one protocol; but copies are looked for among the
images that it was trained on. Distances and shares are functions of the number N of images, to which laws are fitted
(`trilemma.metrics.scaling`): of the kernel distance and of held-out bits per dimension a + b N^−c, of the share of
copies 1 / (1 + (N/h)^c). A law that does not describe its points is not drawn.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trilemma import __version__, drawing, number
from trilemma.bars import told
from trilemma.comparison.together import MOST_SEEDS, Real, Stopped, Tell, fitting
from trilemma.data import Dataset, load
from trilemma.data.memory import SOURCE as MEMORY
from trilemma.drawing import Sheet
from trilemma.evaluation import Protocol, Reference, evaluate, protocol_of
from trilemma.evaluation.seeds import pooled
from trilemma.families import FAMILIES
from trilemma.files import write_json, write_text
from trilemma.likelihood import log_likelihood
from trilemma.metrics.scaling import Law, fading, power_law
from trilemma.number import Number
from trilemma.parallel import ranks
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.training import Budget, Diverged, Progress, make_config, train
from trilemma.training.budget import budget_text
from trilemma.training.driver import ended_early
from trilemma.validate import read_json

NAME = "data-sizes"
"""Of the files in the folder of the comparison."""

FORMAT = 1

QUALITY = "kernel,mutual_fidelity,mutual_coverage"

COLUMNS = {
    "kernel": "distance",
    "mutual_fidelity": "fidelity",
    "mutual_coverage": "coverage",
    "memorised": "copied",
    "bits_per_dim": "bits/dim",
}
"""The scores, and what stands above their columns."""

COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 60, 20), (230, 159, 0), (86, 180, 233))

BEYOND = 10
"""How many times as many images as the most the distance is foretold for."""


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        folder: where ``data-sizes.json``, ``.png``, ``.svg`` and ``.csv`` lie.
        record: the content of the first.
    """

    folder: Path
    record: dict[str, Any]

    def lines(self) -> list[str]:
        """What it says, in sentences."""
        return list(self.record["reading"])

    def rows(self) -> list[tuple[str, ...]]:
        """The table, its head first."""
        return _rows(self.record)


def compare_sizes(
    data: Real,
    sizes: Sequence[int],
    *,
    out: str | os.PathLike[str],
    families: Sequence[str] = (),
    budget: str | float | timedelta = "2m",
    size: str = "tiny",
    seed: int = 0,
    seeds: int = 1,
    conditional: bool = False,
    protocol: Protocol | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Tell | Literal["bar"] | None = None,
    say: Callable[[str], None] = print,
) -> Found:
    """Train families on some numbers of images each, and say what more images change.

    Started again, it reuses what is trained and measured.

    Args:
        data: the real images, a loaded `Dataset` or what `load` takes.
        sizes: numbers of training images, at least 3 different ones.
        out: the folder; a run for each family, size and seed, and the files of `Found`.
        families: by their names; all by default.
        budget: of every model, whatever its number of images.
        size: the preset.
        seed, seeds: the first training seed, and how many.
        conditional: train P(x|y) on the labels.
        protocol: how to evaluate; its metrics are those of `COLUMNS`.
        settings: fields of `TrainConfig` that differ from the presets.
        device, progress, say: as in `compare`.

    Raises:
        ValueError: bad input, in one line.
        Stopped: a signal came; the same call continues from there.
    """
    sizes = sorted(dict.fromkeys(sizes))
    if not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"seeds must be from 1 to {MOST_SEEDS}, not {seeds}")
    if len(sizes) < 3 or sizes[0] < 16:
        raise ValueError(
            f"data sizes must be at least 3 numbers from 16 on, such as 100,300,1000, not {_listed(sizes)}"
        )
    if unknown := [name for name in families if name not in FAMILIES]:
        raise ValueError(f"unknown family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    limit = Budget.parse(budget_text(budget))
    asked = protocol_of(protocol)
    dataset, out = load(data), Path(out)
    if sizes[-1] > len(dataset.train):
        raise ValueError(
            f"{dataset.name} has {len(dataset.train):,} training images, fewer than {sizes[-1]:,}: ask for fewer"
        )
    names = list(families) or [name for name, cls in FAMILIES.items() if cls.vectors or not dataset.vector]
    parts = {n: first(dataset, n) for n in sizes}
    plan = [(name, n, each) for name in names for n in sizes for each in range(seed, seed + seeds)]
    for name, n, each in plan:  # refused before hours of training
        make_config(name, parts[n], size=size, seed=each, conditional=conditional, settings=settings)
    with told(progress, lambda bars: bars.tell) as tell:
        where = ranks(device)
        tell = tell if where.first else None
        runs = {}
        for name, n, each in plan:
            label = f"{name}-{n}" + (f"-seed-{each}" if each != seed else "")
            config = make_config(name, parts[n], size=size, seed=each, conditional=conditional, settings=settings)
            chosen = fitting(settings or {}, config.train.batch, n, where.size)
            runs[name, n, each] = _trained(
                name, parts[n], out / label, limit, budget_text(budget), size, each, conditional, chosen, device,
                tell, say,
            )  # fmt: skip
        whole = Reference.prepare(dataset, replace(asked, metrics=QUALITY, ladder="no"), device, _of(tell, ""))
        records: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in names}
        for n in sizes:
            own = Reference.prepare(parts[n], replace(asked, metrics="memorised", ladder="no"), device, _of(tell, ""))
            for name in names:
                measured = {
                    each: _measured(runs[name, n, each], whole, own, device, _of(tell, f"{name}-{n}"))
                    for each in range(seed, seed + seeds)
                }
                records[name][n] = pooled(measured)["metrics"]
    record = _record(records, dataset, asked, whole, budget_text(budget), size, seed, seeds)
    if where.first:
        write_json(out / f"{NAME}.json", record)
        picture = draw_sizes(record)
        drawing.save(picture, out / f"{NAME}.png")
        drawing.save(picture, out / f"{NAME}.svg")
        write_text(out / f"{NAME}.csv", _csv(record))
    return Found(out, record)


def first(dataset: Dataset, n: int) -> Dataset:
    """The data set with its first n training images alone; its held-out images stay."""
    if n == len(dataset.train):
        return dataset
    if dataset.config.source != MEMORY:
        return load(replace(dataset.config, limit=n), progress=False)
    digest = hashlib.blake2b(f"{dataset.fingerprint} {n}".encode(), digest_size=16).hexdigest()
    return replace(dataset, train=dataset.train[:n], config=replace(dataset.config, limit=n), fingerprint=digest)


def _trained(
    name: str,
    data: Dataset,
    place: Path,
    limit: Budget,
    budget: str,
    size: str,
    seed: int,
    conditional: bool,
    settings: Mapping[str, Any],
    device: str,
    tell: Tell | None,
    say: Callable[[str], None],
) -> Run:
    """One model, trained or gone on with."""

    def listen(report: Any) -> None:
        if tell:
            detail = f"{report.images_per_second:,.0f} images/s · loss {report.loss:.4g}"
            tell(place.name, "training", min(report.spent, 1.0), 1.0, detail)

    try:
        run = train(
            name, data, out=place, size=size, budget=budget, seed=seed, conditional=conditional, settings=settings,
            resume=True, device=device, progress=listen, say=lambda line: say(f"{place.name}: {line}"),
        )  # fmt: skip
    except Diverged as error:
        say(f"{place.name}: {error}")
        return Run.open(place)
    done = run.progress()
    if limit.spent(Progress(int(done["step"]), int(done["images"]), done["seconds"])) < 1 and not ended_early(run):
        raise Stopped(f"stopped while training {place.name}; it is saved", run.stopped)
    return run


def _measured(
    run: Run, whole: Reference, own: Reference, device: str, tell: Callable[[str, int, int], None] | None
) -> dict[str, Any]:
    """The scores of one model, kept beside it: drawn once, measured against all images and against its own."""
    file, where = run.path / f"{NAME}.json", ranks(device)
    protocol = whole.protocol
    mark = {
        "format": FORMAT, "version": __version__, "progress": run.progress(), "protocol": asdict(protocol),
        "data": [whole.dataset.fingerprint, own.dataset.fingerprint],
    }  # fmt: skip
    known = None
    if where.first and file.is_file():
        try:
            found = read_json(file)
            known = found["metrics"] if found.get("mark") == json.loads(json.dumps(mark)) else None
        except (ValueError, KeyError, AttributeError):
            known = None  # damaged: measured again
    known = where.agree(known)
    if known is None:
        drawn = sample(run, protocol.n, seed=protocol.seed, device=device, progress=_samples(tell))
        known = {}
        for real in (whole, own):
            known |= evaluate(drawn.images, real, device=device, progress=tell)["metrics"]
        known = {name: score for name, score in known.items() if name in COLUMNS}
        dataset = whole.dataset
        rows = dataset.test[: protocol.likelihood_n]
        answer = log_likelihood(
            run, dataset.batch(rows), seed=protocol.seed, device=device, progress=_samples(tell, "log p")
        )
        if answer.mean is not None:
            value, error = answer.mean
            known["bits_per_dim"] = asdict(
                Number(value, error, "bits/dim", "lower", len(rows), answer.kind, flag=answer.flag).finite()
            )
        if where.first:
            write_json(file, {"mark": mark, "metrics": known})
    return {"metrics": known, "flags": [], "per_image": {}}


def _of(tell: Tell | None, name: str) -> Callable[[str, int, int], None] | None:
    return (lambda what, done, total: tell(name, what, float(done), float(total), "")) if tell else None


def _samples(tell: Callable[[str, int, int], None] | None, what: str = "sampling") -> Callable[[int, int], None] | None:
    return (lambda done, total: tell(what, done, total)) if tell else None


# ---------------------------------------------------------------------------------------------- what it says


def _record(
    records: Mapping[str, Mapping[int, Mapping[str, Any]]],
    dataset: Dataset,
    protocol: Protocol,
    real: Reference,
    budget: str,
    size: str,
    seed: int,
    seeds: int,
) -> dict[str, Any]:
    reading: list[str] = []
    laws: dict[str, dict[str, Any]] = {}
    for name, by_size in records.items():
        laws[name], said = _laws(name, by_size)
        reading += said
    if seeds == 1:
        reading.append(
            "each size was trained with one seed: the intervals are over images alone; --seeds 3 adds the rest"
        )
    return {
        "format": FORMAT,
        "version": __version__,
        "data": {"name": dataset.name, "train": len(dataset.train), "test": len(dataset.test)},
        "protocol": {
            "budget": budget, "size": size, "seed": seed, "seeds": seeds, "n": protocol.n,
            "features": real.network.name, "reference": real.train.n,
        },
        "families": {name: {str(n): scores for n, scores in by_size.items()} for name, by_size in records.items()},
        "laws": laws,
        "reading": reading,
    }  # fmt: skip


def _laws(name: str, by_size: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The fitted laws of one family, and what they say."""
    found: dict[str, Any] = {}
    said: list[str] = []
    most = max(by_size)
    grid = np.geomspace(min(by_size), BEYOND * most, 60)
    for key, what in (("kernel", "distance"), ("bits_per_dim", "held-out bits/dim")):
        law, line = _falling(by_size, key)
        if law is not None:
            found[key] = _plain(law, grid)
        if line:
            said.append(f"{name}: {what} {line}")
    copies = {
        n: score for n, scores in by_size.items() if (score := Number.read(scores.get("memorised"))).value is not None
    }
    some = [n for n, score in copies.items() if score.value]
    if not copies:
        return found, said
    if not some:
        said.append(f"{name}: no copies beyond chance at any size from {min(copies):,} images on")
        return found, said
    clear = min((n for n in copies if n > max(some)), default=None)
    till = f"none are found from {clear:,} on" if clear else "and at the largest size too"
    try:
        fade = fading(list(copies), [score.known for score in copies.values()], [score.n for score in copies.values()])
    except ValueError:
        said.append(f"{name}: copies at every size")
        return found, said
    found["memorised"] = _plain(fade, grid)
    low, high = fade.interval("h")
    said.append(
        f"{name}: copies are found up to {max(some):,} images, {till}; half of the samples are copies at about "
        f"{fade.parameters['h']:,.3g} (95 %: {low:,.3g} to {high:,.3g})"
    )
    return found, said


def _falling(by_size: Mapping[int, Mapping[str, Any]], key: str) -> tuple[Law | None, str]:
    """The power law by which a score falls, where one describes it, and a sentence; empty where it was not measured."""
    scores = {n: score for n, each in by_size.items() if (score := Number.read(each.get(key))).value is not None}
    if not scores:
        return None, ""
    try:
        law = power_law(list(scores), [s.known for s in scores.values()], [s.error or 0.0 for s in scores.values()])
    except ValueError as error:
        return None, f"has no law ({error})"
    if not law.parameters["b"]:
        return None, "does not fall with more images: by one budget each is learnt less well, and copies are near"
    if law.free > 0 and law.misfit > law.free + 3 * math.sqrt(2 * law.free):
        return None, f"follows no power law (misfit {law.misfit:.3g} with {law.free} to spare): look at the picture"
    most = max(by_size)
    low, high = (float(end[0]) for end in law.band([BEYOND * most]))
    there, now = float(law.at([BEYOND * most])[0]), scores.get(most)
    return law, (
        f"{_told(law)}; {BEYOND} times as many images as {most:,} would bring it from {now} to {there:.3g} "
        f"(95 %: {low:.3g} to {high:.3g})"
    )


def _told(law: Law) -> str:
    """The power law in signs, with the interval of its exponent."""
    a, b, c = (law.parameters[key] for key in "abc")
    low, high = law.interval("c")
    floor = f"{a:.3g} + " if a else ""
    return f"≈ {floor}{b:.3g} N^−{c:.2g} (exponent 95 %: {low:.2g} to {high:.2g})"


def _plain(law: Law, grid: Any) -> dict[str, Any]:
    """A law as plain values, with its curve and band for drawing."""
    low, high = law.band(grid)
    return {
        "form": law.form,
        "parameters": law.parameters,
        "intervals": {name: list(law.interval(name)) for name in law.parameters},
        "misfit": law.misfit,
        "free": law.free,
        "curve": {name: [float(f"{v:.5g}") for v in values] for name, values in (
            ("n", grid), ("value", law.at(grid)), ("low", low), ("high", high)
        )},
    }  # fmt: skip


def _rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("family", "images", *COLUMNS.values())]
    for name, by_size in record["families"].items():
        for n, scores in by_size.items():
            rows.append((name, f"{int(n):,}", *(_cell(Number.read(scores.get(key))) for key in COLUMNS)))
    return rows


def _cell(score: Number) -> str:
    if score.value is None:
        return "–"
    sign = "≤ " if score.kind == "bound" else ""
    return f"{sign}{number.text(score.value, score.error)} {number.error_text(score.value, score.error)}".strip()


def _csv(record: Mapping[str, Any]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["family", "images", *(f"{key}{part}" for key in COLUMNS for part in ("", "_error"))])
    for name, by_size in record["families"].items():
        for n, scores in by_size.items():
            numbers = [Number.read(scores.get(key)) for key in COLUMNS]
            writer.writerow([name, n, *(x for each in numbers for x in (each.value, each.error))])
    return buffer.getvalue()


def _listed(sizes: Iterable[int]) -> str:
    return ",".join(map(str, sizes)) or "none"


# ------------------------------------------------------------------------------------------------ the picture


def draw_sizes(record: Mapping[str, Any]) -> Sheet:
    """Distance, copies, fidelity and coverage against the number of training images, with the fitted laws."""
    families = list(record["families"])
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(families)}
    panels = [
        _panel(record, colours, "kernel", "kernel distance to real images, lower is better"),
        _panel(record, colours, "memorised", "share of samples that are copies", (0.0, 1.0)),
        _panel(record, colours, "mutual_fidelity", "fidelity, real images = 1", (0.0, 1.1)),
        _panel(record, colours, "mutual_coverage", "coverage, real images = 1", (0.0, 1.1)),
    ]
    if any("bits_per_dim" in scores for by_size in record["families"].values() for scores in by_size.values()):
        panels.append(_panel(record, colours, "bits_per_dim", "bits/dim of held-out images, lower is better"))
    told = record["protocol"]
    lines = [
        f"{record['data']['name']}; each model of size {told['size']} trained for {told['budget']}, seeds: "
        f"{told['seeds']}; {told['n']:,} samples, {told['features']} features",
        "points: measured, with one standard error; curves that go beyond the last point: fitted laws, with their 95 % "
        "intervals as thin lines",
    ]
    entries = [(drawing.swatch(colours[name]), FAMILIES[name].title) for name in families]
    parts = [
        drawing.words(["How many images?"], 16),
        drawing.words(lines, 12),
        drawing.key(entries),
        *(drawing.beside(panels[i : i + 2]) for i in range(0, len(panels), 2)),
    ]
    return drawing.framed(drawing.below(parts))


def _panel(
    record: Mapping[str, Any],
    colours: Mapping[str, drawing.Colour],
    key: str,
    title: str,
    range_: tuple[float, float] | None = None,
) -> Sheet:
    points = {
        name: [
            (int(n), score)
            for n, scores in by_size.items()
            if (score := Number.read(scores.get(key))).value is not None
        ]
        for name, by_size in record["families"].items()
    }
    laws = {name: each[key]["curve"] for name, each in record["laws"].items() if key in each}
    ends = [s.known + sign * (s.error or 0.0) for each in points.values() for _, s in each for sign in (-1, 1)]
    low, high = min([*ends, 0.0]), max(ends, default=1.0)
    if range_:
        low, high = min(low, range_[0]), max(high, range_[1])
    margin = 0.05 * (high - low) or 0.05
    y = (low - margin, high + margin)
    every = [int(n) for by_size in record["families"].values() for n in by_size]
    last = max([*every, *(n for curve in laws.values() for n in curve["n"])]) if laws else max(every)
    x = (math.log10(min(every)) - 0.08, math.log10(last) + 0.08)
    plot = drawing.Plot((470, 280), x, y, ("training images", title), ([], []))
    plot.mark_x([(math.log10(n), _short(n)) for n in _ticks(x)])
    plot.mark_y([(tick, f"{tick:g}") for tick in drawing.steps(*y)])
    if range_ and range_[1] > 1:
        plot.line([(x[0], 1.0), (x[1], 1.0)], (150, 150, 150), 1)
    for name, curve in laws.items():
        for part, width in (("value", 2), ("low", 1), ("high", 1)):
            line = [(math.log10(n), min(max(v, y[0]), y[1])) for n, v in zip(curve["n"], curve[part], strict=True)]
            plot.line(line, colours[name], width)
    for name, measured in points.items():
        if name not in laws:
            plot.line([(math.log10(n), score.known) for n, score in measured], colours[name], 1)
        for n, score in measured:
            if score.error:
                at = math.log10(n)
                plot.line([(at, score.known - score.error), (at, score.known + score.error)], colours[name], 1)
            plot.dot((math.log10(n), score.known), colours[name])
    return plot.finished()


def _ticks(x: tuple[float, float]) -> list[float]:
    """Powers of ten, and of few of them 3 times those too."""
    decades = range(math.floor(x[0]), math.ceil(x[1]) + 1)
    times = (1, 3) if x[1] - x[0] < 4 else (1,)
    return [k * 10.0**d for d in decades for k in times if x[0] <= math.log10(k * 10.0**d) <= x[1]]


def _short(n: float) -> str:
    return f"{n / 1e6:g}M" if n >= 1e6 else f"{n / 1000:g}k" if n >= 1000 else f"{n:g}"
