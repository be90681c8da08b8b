"""Every run that is there: what it is, how it stands, its pictures and its log, while it is trained and after."""

from __future__ import annotations

import json
import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute

from trilemma.families import FAMILIES
from trilemma.run import Run, held
from trilemma.studio.room import CACHED, Studio, route
from trilemma.studio.workspace import Unknown
from trilemma.text import printable

SHOWN = ("mutual_fidelity", "mutual_coverage", "images_per_second", "frechet", "bits_per_dim", "passed")
"""Scores that a list and the triangle show."""
POINTS = 240
"""Points of a curve."""
READ = 4 * 2**20
"""Bytes of a log that are read: its end."""


def routes(studio: Studio) -> list[BaseRoute]:
    return [
        route(studio, "/api/runs", _runs),
        route(studio, "/api/run", _run),
        route(studio, "/api/live", _live),
        route(studio, "/api/snapshot", _snapshot),
        route(studio, "/api/picture", _picture),
    ]


async def _runs(studio: Studio, request: Request) -> Response:
    """All runs, the newest first, each in a few words."""

    def found() -> list[dict[str, Any]]:
        entries = []
        for key in studio.workspace.paths("runs"):
            try:
                entries.append(summary(studio, key))
            except (ValueError, OSError) as error:
                entries.append({"key": key, "error": printable(error)[:300]})
        return entries

    return JSONResponse(await studio.work(found))


async def _run(studio: Studio, request: Request) -> Response:
    """One run, with its configuration."""
    key = request.query_params.get("run", "")

    def found() -> dict[str, Any]:
        run = studio.workspace.run(key)
        fields = {name: _plain(value) for name, value in vars(run.config.model).items()}
        return summary(studio, key) | {"model": fields, "pictures": sorted(_pictures(run))}

    return JSONResponse(await studio.work(found))


def summary(studio: Studio, key: str) -> dict[str, Any]:
    """A run in a few words and numbers."""
    run = studio.workspace.run(key)
    config, spec = run.config, run.config.spec
    counters = run.counters() or {"step": 0, "images": 0, "seconds": 0.0}
    return {
        "key": key,
        "path": studio.workspace.words(key, run),
        "family": config.family,
        "title": FAMILIES[config.family].title,
        "data": printable(Path(config.data.source).name),
        "size": config.size,
        "seed": config.seed,
        "shape": list(spec.shape),
        "vector": spec.vector,
        "levels": spec.levels,
        "classes": [printable(name) for name in config.class_names] or [str(i) for i in range(spec.classes)],
        "captions": spec.vocabulary > 0,
        "zoo": key.startswith("zoo/"),
        "live": held(run.path),
        "trained": run.has_checkpoint,
        **counters,
        "snapshots": list(run.pictures())[-1:],
        "scores": scores(run),
    }


def scores(run: Run) -> dict[str, Any]:
    """The scores of the last evaluation that the lists show, with those of held-out real images as ``floor``."""
    try:
        record = json.loads(run.evaluation.read_text(encoding="utf-8"))
        floor = record["floor"]
        found: dict[str, Any] = {name: _score(record["metrics"][name]) for name in SHOWN if name in record["metrics"]}
        found["floor"] = {name: _score(floor[name]) for name in SHOWN if name in floor}
        found["distrust"] = (record.get("scale") or {}).get("distrust")
        found["n"] = record["protocol"].get("n")
        found["features"] = record["protocol"].get("features")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return found


def _score(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metric.get(name) for name in ("value", "error", "kind", "flag", "note")}


# ---------------------------------------------------------------------------------------------------------- live


async def _live(studio: Studio, request: Request) -> Response:
    """How some runs stand this moment: counters, curves, snapshots."""
    keys = request.query_params.getlist("run")[:32]

    def found() -> dict[str, Any]:
        return {key: _standing(studio, key) for key in keys}

    return JSONResponse(await studio.work(found))


def _standing(studio: Studio, key: str) -> dict[str, Any]:
    try:
        run = studio.workspace.run(key)
    except ValueError as error:  # not begun yet
        return {"error": str(error), "snapshots": [], "curves": {}, "live": False, "step": 0, "images": 0, "seconds": 0}
    log = LOGS.read(run)
    return {**log, "snapshots": list(run.pictures()), "live": held(run.path), "scores": scores(run)}


class Logs:
    """Training logs as curves of few points, read again only when they have grown."""

    def __init__(self, kept: int = 64) -> None:
        self._kept = kept
        self._known: OrderedDict[str, tuple[tuple[int, int], dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, run: Run) -> dict[str, Any]:
        """``step``, ``images``, ``seconds``, ``images_per_second``, ``alarms`` and ``curves`` of a run."""
        try:
            found = os.stat(run.path / "metrics.jsonl")
            stamp = found.st_size, found.st_mtime_ns
        except OSError:
            stamp = 0, 0
        with self._lock:
            known = self._known.get(str(run.path))
        if known and known[0] == stamp:
            return known[1]
        read = self._parsed(run) if stamp[0] < READ else self._parsed(run, READ)
        with self._lock:
            self._known[str(run.path)] = stamp, read
            while len(self._known) > self._kept:
                self._known.popitem(last=False)
        return read

    def _parsed(self, run: Run, most: int = 0) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a torn line is no news here
            records = run.logs(most)
        lines = [record for record in records if "seconds" in record]
        last = lines[-1] if lines else {"step": 0, "images": 0, "seconds": 0.0}
        before = lines[-6] if len(lines) > 6 else {"images": 0, "seconds": 0.0}
        passed = last["seconds"] - before["seconds"]
        hidden = re.compile(r"step|images|seconds|gradient norm.*|.* q\d")  # counters, and what is for those who debug
        names = [name for name in last if not hidden.fullmatch(name)]
        thin = lines[:: max(1, len(lines) // POINTS)] + lines[-1:]
        return {
            **{name: last[name] for name in ("step", "images", "seconds")},
            "images_per_second": (last["images"] - before["images"]) / passed if passed > 0 else None,
            "alarms": [record["alarm"] for record in records if "alarm" in record],
            "curves": {name: [[line["images"], line[name]] for line in thin if name in line] for name in names[:3]},
        }


LOGS = Logs()


# ------------------------------------------------------------------------------------------------------ pictures


async def _snapshot(studio: Studio, request: Request) -> Response:
    """The sample grid of one step."""
    run = studio.workspace.run(request.query_params.get("run", ""))
    try:
        path = run.pictures()[int(request.query_params.get("step", ""))]
    except (KeyError, ValueError):
        raise Unknown("there is no sample grid of that step") from None
    return FileResponse(path, headers=CACHED)


def _pictures(run: Run) -> dict[str, Path]:
    """The pictures in a run folder by name: of the last evaluation, and of what it was asked."""
    found = {path.stem: path for path in run.path.glob("*.png")}
    return found | {f"queries/{path.stem}": path for path in run.answers.glob("*.png")}


async def _picture(studio: Studio, request: Request) -> Response:
    """A picture of a run by its name."""
    run = studio.workspace.run(request.query_params.get("run", ""))
    path = _pictures(run).get(request.query_params.get("name", ""))
    if path is None:
        raise Unknown("there is no such picture")
    return FileResponse(path, headers={"cache-control": "no-cache"})


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)
