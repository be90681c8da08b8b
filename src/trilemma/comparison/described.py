"""What ``report.json`` says of the rows of a comparison and of the real images beside them, as plain values."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trilemma.comparison.rows import Row
from trilemma.data import DataConfig, Dataset
from trilemma.data.memory import SOURCE as MEMORY
from trilemma.evaluation.answers import FOLDER, answers_of
from trilemma.families import FAMILIES
from trilemma.images import grid, save_png
from trilemma.noise import philox
from trilemma.run import Run
from trilemma.vectors import scatter


def describe_row(row: Row, record: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """One row's entry in the report, under ``families``."""
    subject = record.get("subject", {})
    return {
        "name": row.name,
        "title": row.title,
        **(_described_run(row, row.run, subject) if row.run is not None else _described_images(row, subject)),
        "place": os.path.relpath(row.place, out),
        "seeds": [_described_seed(each, record["each"], out) for each in row.every] if "each" in record else [],
        "metrics": record.get("metrics", {}),
        "flags": record.get("flags", []),
        "memorisation": {k: v for k, v in record.get("memorisation", {}).items() if k != "pairs"},
        "spectrum": record.get("spectrum", {}),
        "per_class": record.get("per_class", {}),
        "asked": [
            each | {"folder": os.path.relpath(row.place / FOLDER, out)}
            for each in (answers_of(row.run, row.place / FOLDER) if record and row.run is not None else [])
        ],
        "pictures": {name: os.path.relpath(row.place / file, out) for name, file in record.get("pictures", {}).items()},
    }


def _described_seed(row: Row, records: Mapping[int, Mapping[str, Any]], out: Path) -> dict[str, Any]:
    """One of several seeds of a recipe: where its run is, and its own numbers."""
    assert row.run is not None
    seed = row.run.config.seed
    return {
        "seed": seed,
        "name": row.place.name,
        "title": f"{FAMILIES[row.run.config.family].title} (seed {seed})",
        "run": str(row.run.path),
        "place": os.path.relpath(row.place, out),
        "metrics": records.get(seed, {}).get("metrics", {}),
        "alarms": list(row.alarms),
    }


def _described_run(row: Row, run: Run, subject: Mapping[str, Any]) -> dict[str, Any]:
    cls, logs = FAMILIES[run.config.family], run.logs()
    curves: dict[str, list[list[float | None]]] = {}
    for line in logs:
        for name, value in line.items():
            # Gradient norms stay in the log: they are for those who debug a training.
            if name not in ("step", "images", "seconds", "alarm") and not name.startswith("gradient norm"):
                curves.setdefault(name, []).append([line["images"], value if math.isfinite(value) else None])
    progress = subject.get("progress", {"step": 0, "images": 0, "seconds": 0.0})
    seconds = progress["seconds"]
    return {
        "family": cls.name,
        "paper": cls.paper,
        "density": cls.density.value,
        "gives_up": cls.gives_up,
        "answers": dict(cls.answers),
        "run": str(run.path),
        "seed": run.config.seed,
        "parameters": subject.get("parameters"),
        "config": subject.get("config", {}),
        "options": subject.get("options", {}),
        "training": {
            "seconds": round(seconds, 1),
            "steps": progress["step"],
            "images": progress["images"],
            "images_per_second": round(progress["images"] / seconds, 1) if seconds else None,
            "curves": curves,
            "alarms": [line["alarm"] for line in logs if "alarm" in line] + row.alarms,
        },
    }


def _described_images(row: Row, subject: Mapping[str, Any]) -> dict[str, Any]:
    """Of images of which nobody says how they were made."""
    return {
        "family": "",
        "paper": "",
        "density": "",
        "gives_up": "",
        "answers": {},
        "run": None,
        "source": _where(row.source),
        "images": subject.get("n"),
        "notes": subject.get("notes", []),
        "parameters": None,
        "training": {
            "seconds": None, "steps": None, "images": None, "images_per_second": None, "curves": {},
            "alarms": list(row.alarms),
        },
    }  # fmt: skip


def _where(source: Any) -> str:
    """Where images can be read again; empty for those in memory."""
    if isinstance(source, Dataset):
        source = source.config
    if isinstance(source, DataConfig):
        source = "" if source.source == MEMORY else source.source
    if not isinstance(source, str | os.PathLike):
        return ""
    return os.path.abspath(source) if Path(source).exists() else str(source)


def draw_real(dataset: Dataset, conditional: bool, seed: int, out: Path) -> str:
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


def class_columns(dataset: Dataset, conditional: bool) -> list[str]:
    """The class of each of the ten columns of a grid."""
    names = dataset.class_names
    return [names[i % len(names)] for i in range(10)] if conditional and not dataset.vector else []
