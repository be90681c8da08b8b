"""Images that are dropped on the page, file by file, into the studio's own folder; read later by the hardened readers.

A file keeps its name and the folders that it lay in, and nothing of a path that leads elsewhere. Counts and bytes are
bounded as they arrive. A set appears under its name when it is whole.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from trilemma.studio.guard import UPLOAD, TooMuch
from trilemma.studio.room import Studio, asked, route
from trilemma.studio.workspace import Unknown, Workspace, safe_name

FILES = 200_000
"""Files of one set."""
TOTAL = 2 * UPLOAD
"""Bytes of one set."""
SETS = 8
"""Sets that arrive at a time."""
PATIENCE = 3600.0
"""Seconds after which a set that came to a halt is dropped."""
SUFFIXES = (".zip", ".npz", ".npy", ".csv", ".tsv", ".idx", ".gz")
"""Of files that are a data set by themselves."""


@dataclass
class Arrival:
    """A set that is arriving: where, as what, and how much of it has."""

    folder: Path
    name: str
    files: int = 0
    bytes: int = 0
    heard: float = field(default_factory=time.monotonic)


ARRIVALS: dict[str, Arrival] = {}
LOCK = threading.Lock()


@dataclass(frozen=True)
class Begin:
    """A set is going to arrive."""

    name: str


def routes(studio: Studio) -> list[BaseRoute]:
    for litter in (studio.workspace.home / "data").glob(".arriving-*"):
        shutil.rmtree(litter, ignore_errors=True)
    return [
        route(studio, "/api/uploads", _begin, ["POST"]),
        route(studio, "/api/uploads/{key}", _file, ["PUT"]),
        route(studio, "/api/uploads/{key}", _drop, ["DELETE"]),
        route(studio, "/api/uploads/{key}/done", _done, ["POST"]),
    ]


async def _begin(studio: Studio, request: Request) -> Response:
    name = safe_name((await asked(request, Begin)).name)
    with LOCK:
        for key, old in list(ARRIVALS.items()):
            if time.monotonic() - old.heard > PATIENCE:
                shutil.rmtree(ARRIVALS.pop(key).folder, ignore_errors=True)
        if len(ARRIVALS) >= SETS:
            raise ValueError(f"{SETS} sets are arriving already: wait for one, or drop it")
        key = secrets.token_hex(8)
        folder = studio.workspace.home / "data" / f".arriving-{key}"
        folder.mkdir(parents=True)
        ARRIVALS[key] = Arrival(folder, name)
    return JSONResponse({"upload": key, "name": name})


def _arrival(request: Request) -> Arrival:
    arrival = ARRIVALS.get(request.path_params["key"])
    if arrival is None:
        raise Unknown("there is no such upload: begin again")
    arrival.heard = time.monotonic()
    return arrival


async def _file(studio: Studio, request: Request) -> Response:
    """One file: its body as it is, its name in ``path``."""
    arrival = _arrival(request)
    if arrival.files >= FILES:
        raise TooMuch(f"more than {FILES:,} files in one set")
    path = arrival.folder / inner_path(request.query_params.get("path", ""))
    if path.exists():
        raise ValueError(f"there is a {path.name!r} in this set already")
    path.parent.mkdir(parents=True, exist_ok=True)
    arrival.files += 1
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                arrival.bytes += len(chunk)
                if arrival.bytes > TOTAL:
                    raise TooMuch(f"more than {TOTAL // 2**20:,} MB in one set")
                file.write(chunk)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return JSONResponse({"files": arrival.files, "bytes": arrival.bytes})


def inner_path(name: str) -> PurePosixPath:
    """Where a file of a set belongs in it: its name in the folders that it lay in, without the one that was dropped.

    >>> inner_path("../../photos/cats/IMG 1.png"), inner_path("a.png")
    (PurePosixPath('cats/IMG 1.png'), PurePosixPath('a.png'))

    Raises:
        ValueError: it is hidden, too long or too deep, or has no name, in one line.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    inside = parts[1:] if len(parts) > 1 else parts
    clean = ["".join(c for c in part if c.isprintable()).strip() for part in inside]
    if not clean or len(clean) > 6 or any(not part or part[0] == "." or len(part.encode()) > 200 for part in clean):
        raise ValueError(f"a file cannot be called {name[:80]!r} here: it is hidden, too long, or too deep in folders")
    return PurePosixPath(*clean)


async def _done(studio: Studio, request: Request) -> Response:
    """The set is whole: it takes its name, or one like it where that is taken."""
    arrival = _arrival(request)
    if not arrival.files:
        raise ValueError("no file has arrived")
    with LOCK:
        ARRIVALS.pop(request.path_params["key"], None)
    alone = list(arrival.folder.iterdir())
    single = len(alone) == 1 and alone[0].is_file() and alone[0].suffix.lower() in SUFFIXES
    source = alone[0] if single else arrival.folder
    name = arrival.name + (alone[0].suffix.lower() if single and not arrival.name.endswith(alone[0].suffix) else "")
    place = free(studio.workspace, name)
    source.rename(place)
    if single:
        arrival.folder.rmdir()
    return JSONResponse({"source": place.name})


def free(workspace: Workspace, name: str) -> Path:
    """A place for a data set that is not taken: ``photos``, ``photos-2``, …"""
    place = workspace.place("data", name)
    stem, suffix = (place.stem, place.suffix) if place.suffix.lower() in SUFFIXES else (place.name, "")
    for count in range(2, 10_000):
        if not place.exists():
            return place
        place = place.with_name(f"{stem}-{count}{suffix}")
    raise ValueError(f"there are too many sets called {name}")


async def _drop(studio: Studio, request: Request) -> Response:
    """The set is not wanted after all."""
    arrival = _arrival(request)
    with LOCK:
        ARRIVALS.pop(request.path_params["key"], None)
    shutil.rmtree(arrival.folder, ignore_errors=True)
    return JSONResponse({})
