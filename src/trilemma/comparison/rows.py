"""What stands in a row of a comparison: a run, or images from anywhere, with a name and a folder for its evaluation.

A run that lies in the folder of the comparison keeps its evaluation beside its weights; of everything else it goes into
``rows/NAME`` there, so that the page can travel with its folder and nothing is written where the run came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trilemma import __version__
from trilemma.config import to_dict
from trilemma.evaluation import FORMAT, Reference, Source, describe_protocol, evaluate, subject_of
from trilemma.evaluation.answers import FOLDER
from trilemma.evaluation.seeds import pooled
from trilemma.families import FAMILIES
from trilemma.files import write_json
from trilemma.images import NotFinite
from trilemma.parallel import ranks
from trilemma.run import Run, is_run
from trilemma.text import printable

Say = Callable[[str], None]

ROWS = "rows"
"""The folder of evaluations of what lies elsewhere."""

PARTS: dict[str, Any] = {
    "metrics": dict,
    "per_image": dict,
    "floor": dict,
    "ladder": (list, type(None)),
    "scale": dict,
    "flags": list,
}
"""What a record of an evaluation must hold, for the report to be made of it."""


@dataclass
class Row:
    """One row of a comparison.

    Attributes:
        name: what tells it from the other rows.
        title: its name for people.
        place: the folder of its evaluation and its pictures.
        run: the run, where it is one.
        source: where its images come from, where it is none.
        alarms: what went wrong.
        more: the same recipe trained with other seeds, a row each, whose evaluations are pooled with its own.
    """

    name: str
    title: str
    place: Path
    run: Run | None = None
    source: Source | None = None
    alarms: list[str] = field(default_factory=list)
    more: list[Row] = field(default_factory=list)

    @property
    def every(self) -> list[Row]:
        """It and those of other seeds, each by itself."""
        return [replace(self, more=[]), *self.more]


def grouped(rows: Sequence[Row], out: Path) -> list[Row]:
    """Rows with those that differ in the training seed alone as one, at the place and by the name of the first.

    Only runs that lie in the folder of the comparison by the names that training there gives them are taken together.
    """
    heads: dict[str, Row] = {}
    found: list[Row] = []
    for row in rows:
        run = row.run
        name = f"{run.config.family}" if run is not None else ""
        if run is None or row.place.resolve() != (out / seed_folder(row.place.name, name)).resolve():
            found.append(row)
            continue
        recipe = repr(replace(run.config, seed=0, version=""))
        if recipe not in heads:
            heads[recipe] = replace(row, more=[])
            found.append(heads[recipe])
        else:
            heads[recipe].more.append(row)
            heads[recipe].alarms += [f"seed {run.config.seed}: {alarm}" for alarm in row.alarms]
    for head in heads.values():
        if head.more and head.run is not None:
            head.title = FAMILIES[head.run.config.family].title
    return found


def seed_folder(folder: str, family: str) -> str:
    """The name of a folder where it is that of a family, or of one of its seeds; else empty."""
    return folder if re.fullmatch(rf"{re.escape(family)}(-seed--?\d+)?", folder) else ""


def run_rows(runs: Sequence[tuple[str | None, Run]], out: Path, taken: Iterable[str] = ()) -> list[Row]:
    """A row for each run; those of one family are named by their folders.

    Args:
        runs: each with the name that was given to it, if one was.
        out: the folder of the comparison.
        taken: names of rows that are there already.
    """
    names, used = _run_names(runs, list(taken)), set(taken)
    rows = []
    for name, (given, run) in zip(names, runs, strict=True):
        name = free_name(name, used)
        title = FAMILIES[run.config.family].title
        title = given or (title if name == run.config.family else f"{title} ({name})")
        rows.append(Row(name, title, place_of(name, out, run), run))
    return rows


def sample_rows(samples: Mapping[str, Source], out: Path, taken: Iterable[str] = ()) -> list[Row]:
    """A row for each set of images, which may be a run too."""
    used, rows = set(taken), []
    for given, source in samples.items():
        name = free_name(printable(given).strip() or "samples", used)
        run = as_run(source)
        rows.append(Row(name, name, place_of(name, out, run), run, None if run else source))
    return rows


def as_run(source: object) -> Run | None:
    """A run, where that is what was given or named; None for anything else."""
    if isinstance(source, str | os.PathLike):
        if is_run(source):
            return Run.open(source)
        with contextlib.suppress(ValueError):  # a name that `Run.open` knows
            return Run.open(source)
    return source if isinstance(source, Run) else None


def place_of(name: str, out: Path, run: Run | None = None) -> Path:
    """The folder of the evaluation of a row."""
    if run is not None and run.path.resolve().is_relative_to(out.resolve()):
        return run.path
    safe = re.sub(r"[^\w.-]+", "-", name)[:60].strip("-.")
    if safe != name:  # names that differ have folders that differ
        safe = f"{safe}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}".strip("-")
    return out / ROWS / safe


def _run_names(runs: Sequence[tuple[str | None, Run]], taken: Sequence[str]) -> list[str]:
    """The name of the family where it is the only one, else as many last parts of each path as tell them apart."""
    families = Counter([run.config.family for given, run in runs if not given] + list(taken))
    names = []
    for given, run in runs:
        family = run.config.family
        alike = [other for _, other in runs if other.config.family == family]
        names.append(printable(given or (family if families[family] == 1 else _tail(run, alike))))
    return names


def _tail(run: Run, alike: Sequence[Run]) -> str:
    parts = [other.path.resolve().parts[1:] for other in alike]
    own = run.path.resolve().parts[1:]
    for count in range(1, len(own)):
        ends = Counter(each[-count:] for each in parts)
        if ends[own[-count:]] == 1:
            return "/".join(own[-count:])
    return "/".join(own)


def free_name(name: str, used: set[str]) -> str:
    """A name that no other row has, which is used from now on; folders know no capitals everywhere."""
    lowered = {each.lower() for each in used}
    count, free = 1, name
    while free.lower() in lowered:
        count += 1
        free = f"{name} ({count})"
    used.add(free)
    return free


# ------------------------------------------------------------------------------------------------------ measuring


def measure_all(
    row: Row, real: Reference, device: str, tell: Callable[[Row], Callable[[str, int, int], None] | None], say: Say
) -> dict[str, Any]:
    """The evaluation of a row over all its seeds, as one; empty where none could be measured.

    Args:
        tell: gives what is told of the progress of one of them.
        say: told of weights that are not numbers.
    """
    records: dict[int, dict[str, Any]] = {}
    for each in row.every:
        seed = each.run.config.seed if each.run is not None else 0
        try:
            records[seed] = measure(each, real, device, tell(each))
        except NotFinite as error:  # of every process alike; it gets a row that says so, the others their report
            say(f"{each.name}: {error}")
            row.alarms.append(str(error) if not row.more else f"seed {seed}: {error}")
            records[seed] = {}
    return pooled(records) | ({"each": records} if row.more else {})


def measure(
    row: Row, real: Reference, device: str, tell: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """The evaluation of a row, taken from its folder if it is of the same images or weights, data and protocol."""
    where, wanted = ranks(device), describe_protocol(real, device)
    if row.run is not None:
        if not row.run.has_checkpoint:
            return {}
        expected = {
            "family": row.run.config.family,
            "progress": row.run.progress(),
            "options": json.loads(json.dumps(to_dict(FAMILIES[row.run.config.family].Options()))),
        }
        known = _kept(row.place, real, wanted, expected) if where.first else None
        if known is None and where.first:
            known = _brought(row, real, wanted, expected)
        found = where.agree(known)  # all processes go the same way
        return found if found is not None else evaluate(row.run, real, device=device, out=row.place, progress=tell)
    assert row.source is not None
    subject = subject_of(row.source, real, None, where)
    mark = subject.about.get("fingerprint")
    found = where.agree(_kept(row.place, real, wanted, {"fingerprint": mark}) if mark and where.first else None)
    return found if found is not None else evaluate(subject, real, device=device, out=row.place, progress=tell)


def _kept(
    folder: Path, real: Reference, wanted: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The evaluation in a folder, if it is whole and what would be made now.

    Args:
        wanted: the protocol.
        expected: of whom.
    """
    try:
        record: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        same = {key: record["protocol"].get(key) for key in wanted} == wanted
        same = same and {key: record["subject"].get(key) for key in expected} == expected
        same = same and record["data"]["fingerprint"] == real.dataset.fingerprint
        whole = all(isinstance(record[key], kind) for key, kind in PARTS.items())
        whole = whole and all(isinstance(metric, dict) and "value" in metric for metric in record["metrics"].values())
        there = all((folder / file).is_file() for file in record.get("pictures", {}).values())
        made = record.get("format"), record["version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # absent or damaged: measured again
    return record if same and whole and there and made == (FORMAT, __version__) else None


def _brought(
    row: Row, real: Reference, wanted: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The evaluation that lies with a run elsewhere, brought into the row's own folder with its pictures."""
    assert row.run is not None
    home = row.run.evaluation.parent
    if home.resolve() == row.place.resolve():
        return None
    record = _kept(home, real, wanted, expected)
    if record is None:
        return None
    row.place.mkdir(parents=True, exist_ok=True)
    for file in record.get("pictures", {}).values():
        (row.place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(home / file, row.place / file)
    if row.run.answers.is_dir():
        shutil.copytree(row.run.answers, row.place / FOLDER, dirs_exist_ok=True)
    write_json(row.place / "metrics.json", record)
    return record
