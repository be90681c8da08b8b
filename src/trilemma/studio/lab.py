"""The lab: 2-D points that all families learn side by side while one looks on and turns their switches.

After GAN Lab (Kahng et al. 2018, arXiv 1809.01587), which shows one family learn a plane of points in the browser. What
learns here is the library itself, on small networks, in one thread for each open page; a page asks for frames, and
where nobody asks for a while nothing is learnt, and then the thread ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import itertools
import json
import math
import queue
import secrets
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from trilemma.data import Dataset, load
from trilemma.data.mixtures import MIXTURES, Law
from trilemma.families import FAMILIES
from trilemma.files import write_bytes
from trilemma.noise import philox
from trilemma.studio.pupil import Floats, Pupil, View, described
from trilemma.studio.room import Studio, asked, route
from trilemma.studio.training import Order, begin
from trilemma.studio.uploads import free
from trilemma.studio.workspace import Unknown
from trilemma.training import Budget
from trilemma.validate import Limits, Seed, check_limits
from trilemma.vectors import Plane

POINTS = 2000
"""Points of the sets that are drawn here."""
FEW, MANY = 20, 5000
"""Points that a set of one's own may have."""
OPEN = 2
"""Labs that are open at a time."""
SILENT, GONE, ENDS = 3.0, 10.0, 60.0
"""Seconds without a request after which a lab waits, may be closed for another, and ends."""

SETS = {
    "ring": "eight Gaussians in a ring",
    "grid": "twenty-five Gaussians in a grid",
    "moons": "two half-moons",
    "spiral": "a spiral of two arms",
    "own": "points of one's own",
}
"""Sets of points, in words. Ring and grid have the published means; their modes are wider here (σ 0.05 in place of 0.01
and 0.1 in place of 0.05), so that they can be learnt in seconds."""


def law(name: str) -> Law | None:
    """The mixture that a set is drawn from, where it is one."""
    sigma = {"ring": 0.05, "grid": 0.1}.get(name)
    return None if sigma is None else Law(MIXTURES[name].means, sigma)


def points(name: str, seed: int) -> Floats:
    """The points of a set by its name: float32 [N, 2]."""
    random = philox(seed)
    if mixture := law(name):
        modes = random.integers(0, len(mixture.means), POINTS)
        found = mixture.means[modes] + mixture.sigma * random.standard_normal((POINTS, 2))
    elif name == "moons":
        angle, lower = math.pi * random.random(POINTS), random.random(POINTS) < 0.5
        upper = np.stack([np.cos(angle), np.sin(angle)], 1)
        found = np.where(lower[:, None], np.array([1.0, 0.5]) - upper, upper)
        found = found + 0.06 * random.standard_normal((POINTS, 2))
    else:
        turn, arm = np.sqrt(random.random(POINTS)), random.integers(0, 2, POINTS)
        angle = 3 * math.pi * turn + math.pi * arm
        found = turn[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        found = found + 0.02 * random.standard_normal((POINTS, 2))
    drawn: Floats = found.astype(np.float32)
    return drawn


@dataclass(frozen=True)
class Start:
    """A lab as the page asks for it."""

    source: str
    families: tuple[str, ...]
    seed: Seed = 0
    points: Any = None
    """[x, y] of each point, where the source is ``own``."""

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True)
class Steer:
    """What is to be changed of a lab; None for what stays."""

    playing: bool | None = None
    speed: Annotated[float, Limits(0, 1000)] | None = None
    heat: bool | None = None
    lines: bool | None = None
    averaged: bool | None = None
    time: Annotated[float, Limits(0, 1)] | None = None
    step: Annotated[int, Limits(1, 100)] | None = None
    """steps that each family learns while the rest is paused"""
    reset: bool | None = None
    seed: Seed | None = None
    """of fresh weights and samples, with ``reset``"""
    family: str | None = None
    name: str | None = None
    value: Any = None
    """a switch of a family, and what it is turned to"""

    def __post_init__(self) -> None:
        check_limits(self)


def own_points(given: Any) -> Floats:
    """Points that someone drew or pasted: float32 [N, 2].

    Raises:
        ValueError: no pairs of finite numbers, too few or too many, or all at one place, in one line.
    """
    if not isinstance(given, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in given):
        raise ValueError("the points must be a list of pairs of numbers, [[x, y], …]")
    if not FEW <= len(given) <= MANY:
        raise ValueError(f"a lab takes {FEW} to {MANY:,} points, not {len(given):,}")
    values = [value for pair in given for value in pair]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise ValueError("the points must be numbers")
    if not all(abs(value) <= 1e6 for value in values):  # false of what is not a number, too
        raise ValueError("the points must lie within a million of 0")
    found: Floats = np.array(given, np.float32)
    if not np.all(found.std(0) > 1e-6 * (1 + np.abs(found).max(0))):
        raise ValueError("the points lie on one vertical or horizontal line: spread them over the plane")
    return found


class Lab:
    """An open lab: its families, and the thread in which they learn in turns."""

    def __init__(self, start: Start) -> None:
        """Raises ``ValueError``, in one line, for what cannot be learnt."""
        families = tuple(dict.fromkeys(start.families))
        if start.source not in SETS:
            raise ValueError(f"there is no set {start.source[:40]!r} here: choose {', '.join(SETS)}")
        if start.source != "own" and start.points is not None:
            raise ValueError(f"{start.source} brings its own points: leave points out, or say own")
        for name in families:
            if name not in FAMILIES:
                raise ValueError(f"unknown family {name[:40]!r}; there are {', '.join(learners())}")
            if not FAMILIES[name].vectors:
                raise ValueError(f"{name} learns images and no points; there are {', '.join(learners())}")
        if not families:
            raise ValueError("choose a family")
        self.source = start.source
        self.key = secrets.token_urlsafe(12)
        self.data = own_points(start.points) if start.source == "own" else points(start.source, start.seed)
        self.dataset: Dataset = load(self.data, progress=False)
        self.plane = Plane.of(self.dataset.batch(np.arange(len(self.data))))
        self.clock = itertools.count(1)
        self.view = View()
        self.pupils = [
            Pupil(name, self.dataset, self.plane, start.seed, law(start.source), self.clock) for name in families
        ]
        self.touched = time.monotonic()
        self.closed = threading.Event()
        self.wake = threading.Event()
        self.orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="lab", daemon=True)

    def described(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "points": len(self.data),
            "low": list(self.plane.low),
            "side": list(self.plane.side),
            "families": [described(pupil) for pupil in self.pupils],
        }

    @property
    def idle(self) -> float:
        """Seconds since anyone asked for it."""
        return time.monotonic() - self.touched

    def touch(self) -> None:
        self.touched = time.monotonic()

    def close(self) -> None:
        self.closed.set()
        self.wake.set()

    def steer(self, order: Steer) -> None:
        """Change what is looked at or how it learns, in the lab's own thread; ``ValueError`` for what there is not."""
        pupils = [pupil for pupil in self.pupils if order.family in (None, pupil.family)]
        if not pupils:
            raise ValueError(f"{str(order.family)[:40]!r} does not learn here; there are {self._names()}")
        if order.name is not None:
            if order.family is None or not isinstance(order.value, str | int | float):
                raise ValueError("a switch is turned by family, name and value")
            pupils[0].check(order.name, order.value)
        if self.orders.qsize() > 200:
            raise ValueError("too many changes at once: wait a second")

        def apply() -> None:
            for name in ("playing", "speed", "heat", "lines", "averaged", "time"):
                if (value := getattr(order, name)) is not None:
                    setattr(self.view, name, value)
            for pupil in pupils:
                if order.name is not None:
                    pupil.safely(functools.partial(pupil.choose, order.name, order.value))
                if order.step:
                    pupil.owed += order.step
                if order.reset:
                    pupil.seed = pupil.seed if order.seed is None else order.seed
                    pupil.safely(pupil.begin)

        self.orders.put(apply)
        self.wake.set()

    def _names(self) -> str:
        return ", ".join(pupil.family for pupil in self.pupils)

    def _run(self) -> None:
        try:
            for pupil in self.pupils:
                pupil.safely(pupil.begin)
            while not self.closed.is_set() and self.idle < ENDS:
                with contextlib.suppress(queue.Empty):
                    while True:
                        self.orders.get_nowait()()
                busy = False
                if self.idle < SILENT:
                    for pupil in self.pupils:
                        busy |= not self.closed.is_set() and pupil.turn(self.view)
                if not busy:
                    self.wake.wait(0.03 if self.idle < SILENT else 0.3)
                    self.wake.clear()
        finally:
            LABS.forget(self)

    def frame(self, since: int) -> bytes:
        """What has been drawn after ``since``, of all families: the length of a head, the head in JSON, float32 values.

        The head says of each array where it lies among the values, and its shape; all little-endian.
        """
        arrays: list[Floats] = []
        at, newest = 0, since
        families: dict[str, Any] = {}
        for pupil in self.pupils:
            parts: dict[str, Any] = {}
            for name, (stamp, values) in dict(pupil.parts).items():
                newest = max(newest, stamp)
                if stamp > since:
                    parts[name] = [at, list(values.shape)]
                    arrays.append(values)
                    at += values.size
            families[pupil.family] = {**pupil.facts, "error": pupil.error, "parts": parts}
        head: dict[str, Any] = {"stamp": newest, "playing": self.view.playing, "families": families}
        if not since:
            head["data"] = [at, list(self.data.shape)]
            arrays.append(self.plane.place(self.dataset.batch(np.arange(len(self.data)))).float().numpy())
        text = json.dumps(head, allow_nan=False).encode()
        text += b" " * (-len(text) % 4)  # so that the values begin at a multiple of their size
        return struct.pack("<I", len(text)) + text + b"".join(each.astype("<f4").tobytes() for each in arrays)


class Labs:
    """The labs that are open."""

    def __init__(self) -> None:
        self._open: dict[str, Lab] = {}
        self._lock = threading.Lock()

    def open(self, start: Start) -> Lab:
        """Open one; ``ValueError`` where as many are open as may be, or for what cannot be learnt."""
        made = Lab(start)
        with self._lock:
            if len(self._open) >= OPEN:
                silent = max(self._open.values(), key=lambda lab: lab.idle)
                if silent.idle < GONE:
                    raise ValueError(f"{OPEN} labs are open already: close the page of one, or wait a few seconds")
                silent.close()
                self._open.pop(silent.key)
            self._open[made.key] = made
        made.thread.start()
        return made

    def get(self, key: str) -> Lab:
        with self._lock:
            lab = self._open.get(key)
        if lab is None:
            raise Unknown("this lab has ended: start it again")
        lab.touch()
        return lab

    def forget(self, lab: Lab) -> None:
        with self._lock:
            self._open.pop(lab.key, None)

    def close(self) -> None:
        """End all, and wait for their threads."""
        with self._lock:
            ending = list(self._open.values())
        for lab in ending:
            lab.close()
        for lab in ending:
            lab.thread.join(5)


LABS = Labs()
atexit.register(LABS.close)


def learners() -> list[str]:
    """The families that learn points."""
    return [name for name, cls in FAMILIES.items() if cls.vectors]


def routes(studio: Studio) -> list[BaseRoute]:
    return [
        route(studio, "/api/lab", _about),
        route(studio, "/api/lab", _start, ["POST"]),
        route(studio, "/api/lab/{key}", _steer, ["POST"]),
        route(studio, "/api/lab/{key}", _close, ["DELETE"]),
        route(studio, "/api/lab/{key}/frame", _frame),
        route(studio, "/api/lab/{key}/keep", _keep, ["POST"]),
    ]


async def _about(studio: Studio, request: Request) -> Response:
    """The sets, the families that learn points, and the bounds."""
    return JSONResponse({"sets": SETS, "families": learners(), "few": FEW, "many": MANY})


async def _start(studio: Studio, request: Request) -> Response:
    """Open a lab."""
    start = await asked(request, Start)
    lab = await studio.work(LABS.open, start)
    return JSONResponse(lab.described())


async def _steer(studio: Studio, request: Request) -> Response:
    """Change how a lab learns or what is looked at."""
    lab = LABS.get(request.path_params["key"])
    lab.steer(await asked(request, Steer))
    return JSONResponse({})


async def _close(studio: Studio, request: Request) -> Response:
    """End a lab."""
    lab = LABS.get(request.path_params["key"])
    lab.close()
    LABS.forget(lab)
    return JSONResponse({})


@dataclass(frozen=True)
class Keep:
    """For how long each family of a lab is trained into a run."""

    budget: str = "1m"


async def _keep(studio: Studio, request: Request) -> Response:
    """Keep the points as a data set, and train the families on it into run folders, at their full size."""
    lab = LABS.get(request.path_params["key"])
    budget = (await asked(request, Keep)).budget
    Budget.parse(budget)

    def kept() -> dict[str, Any]:
        place = free(studio.workspace, f"{lab.source}-points.npy")
        file = io.BytesIO()
        np.save(file, lab.data)
        write_bytes(place, file.getvalue())
        names = tuple(pupil.family for pupil in lab.pupils)
        return begin(studio, Order(place.name, names, budget, seed=lab.pupils[0].seed))

    return JSONResponse(await studio.work(kept))


async def _frame(studio: Studio, request: Request) -> Response:
    """What is new since the last frame that the page saw."""
    lab = LABS.get(request.path_params["key"])
    given = request.query_params.get("since", "0")
    if not given.isascii() or not given.isdigit() or len(given) > 15:
        raise ValueError("since must be the number of a frame")
    return Response(lab.frame(int(given)), media_type="application/octet-stream")
