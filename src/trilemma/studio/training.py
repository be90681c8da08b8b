"""Train: look at a set, choose families and a budget, and watch them learn side by side.

A training is one job for each family (`jobs.py`), each the command line's own ``train`` into an ordinary run folder,
with an ``evaluate`` after it. Samples are drawn from the same seeds at every snapshot, at the same shares of the
budget.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from trilemma.comparison import fitting
from trilemma.data import DataConfig, Dataset, describe, load
from trilemma.families import FAMILIES
from trilemma.images import grid, to_pil
from trilemma.presets import SIZES
from trilemma.studio.gallery import LOGS
from trilemma.studio.jobs import Job, described
from trilemma.studio.room import Studio, asked, route
from trilemma.studio.workspace import Unknown
from trilemma.training import Budget, Progress, make_config
from trilemma.validate import Limits, Seed, check_limits
from trilemma.vectors import scatter

BUILT_IN = {
    "mnist": "handwritten digits, 28 x 28, grey",
    "mnist-pairs": "two digits side by side, with captions",
    "fashion-mnist": "clothes, 28 x 28, grey (downloaded once)",
    "cifar10": "photographs of ten kinds, 32 x 32 (downloaded once)",
    "ring": "2-D points: eight Gaussians in a ring",
    "grid": "2-D points: twenty-five Gaussians in a grid",
}
"""Sets that need no files."""

SNAPSHOTS = 24
"""Sample grids along a training."""


@dataclass(frozen=True)
class Look:
    """A data set, by the key that the page was told, and how its images are brought to one form."""

    source: str
    image_size: Annotated[int, Limits(4, 256)] | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True)
class Order:
    """A training as the page orders it."""

    source: str
    families: tuple[str, ...]
    budget: str = "2m"
    name: str = ""
    size: str = "tiny"
    image_size: Annotated[int, Limits(4, 256)] | None = None
    grey: bool = False
    conditional: bool = False
    seed: Seed = 0
    evaluate: bool = True

    def __post_init__(self) -> None:
        check_limits(self)


def routes(studio: Studio) -> list[BaseRoute]:
    return [
        route(studio, "/api/data", _data),
        route(studio, "/api/data/look", _look, ["POST"]),
        route(studio, "/api/trainings", _trainings),
        route(studio, "/api/trainings", _order, ["POST"]),
        route(studio, "/api/training", _training),
        route(studio, "/api/jobs", _jobs),
        route(studio, "/api/jobs/{key}/{verb}", _steer, ["POST"]),
    ]


async def _data(studio: Studio, request: Request) -> Response:
    """What can be trained on."""
    sets = [{"source": name, "words": words} for name, words in BUILT_IN.items()]
    own = [{"source": name, "words": "your own"} for name in studio.workspace.data()]
    return JSONResponse({"sets": own + sets, "sizes": list(SIZES)})


def source_of(studio: Studio, key: str) -> str:
    """What `load` takes for a data set by its key; one-line ``ValueError`` for anything that was not listed."""
    own = studio.workspace.data()
    if key in own:
        return str(own[key])
    if key in BUILT_IN:
        return key
    raise Unknown(f"there is no data set {key[:80]!r} here: drop its folder on the page")


def data_of(studio: Studio, order: Look | Order) -> DataConfig:
    """The data set of an order."""
    size = None if order.image_size is None else (order.image_size, order.image_size)
    return DataConfig(source_of(studio, order.source), size=size, color="grey" if order.grey else "auto")


async def _look(studio: Studio, request: Request) -> Response:
    """A data set as the models will see it."""
    order = await asked(request, Look)

    def found() -> dict[str, Any]:
        dataset = load(data_of(studio, order), progress=False)
        return {
            "words": describe(dataset).splitlines(),
            "picture": first_images(dataset),
            "vector": dataset.vector,
            "classes": list(dataset.class_names),
            "labels": dataset.labels is not None,
            "train": len(dataset.train),
            "shape": list(dataset.spec(False).shape),
        }

    return JSONResponse(await studio.work(found))


def first_images(dataset: Dataset) -> str:
    """The first training images, or a cloud of vectors, as a picture inside an address."""
    if dataset.vector:
        picture = scatter(dataset.batch(dataset.train[:2000]), None)
    else:
        every = np.linspace(0, len(dataset.train) - 1, min(60, len(dataset.train))).astype(np.int64)
        picture = grid(dataset.batch(dataset.train[every]), levels=dataset.levels, columns=12)
    file = io.BytesIO()
    to_pil(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


async def _order(studio: Studio, request: Request) -> Response:
    """Begin a training: one job a family."""
    order = await asked(request, Order)
    return JSONResponse(await studio.work(begin, studio, order))


def begin(studio: Studio, order: Order) -> dict[str, Any]:
    """Queue a training, after everything that can be refused was."""
    if not order.families:
        raise ValueError("choose a family to train")
    if unknown := [name for name in order.families if name not in FAMILIES]:
        raise ValueError(f"unknown family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    Budget.parse(order.budget)
    config = data_of(studio, order)
    dataset = load(config, progress=False)
    base = order.name or re.sub(r"\.\w+$", "", Path(order.source).name)
    group = new_group(studio, base)
    shared = ["--budget", order.budget, "--size", order.size, "--seed", str(order.seed)]
    shared += ["--image-size", str(order.image_size)] if order.image_size else []
    shared += ["--color", "grey"] if order.grey and not dataset.vector else []
    shared += ["--conditional"] if order.conditional else []
    planned = []
    for family in dict.fromkeys(order.families):
        made = make_config(family, dataset, size=order.size, seed=order.seed, conditional=order.conditional)
        batch = fitting({}, made.train.batch, len(dataset.train), 1)
        out = studio.workspace.home / "runs" / group / family
        argv = ["train", family, config.source, "--out", str(out), *shared, "--resume"]
        argv += ["--train.pictures", str(SNAPSHOTS), "--train.log-every", "5"]
        argv += ["--train.batch", str(batch["batch"])] if batch else []
        then = [["evaluate", str(out), "-n", "500", "--likelihood-n", "100"]] if order.evaluate else []
        planned.append((argv, family, f"runs/{group}/{family}", then))
    for argv, family, key, then in planned:
        studio.queue.add(argv, f"{family} on {base}", out=key, group=group, then=then)
    studio.workspace.forget()
    return {"group": group}


def new_group(studio: Studio, base: str) -> str:
    """A name for a training that no other has: ``photos``, ``photos-2``, …"""
    plain = studio.workspace.place("runs", base).name
    taken = {job.group for job in studio.queue.jobs()} | {
        path.name for path in (studio.workspace.home / "runs").iterdir()
    }
    return next(name for name in (plain, *(f"{plain}-{i}" for i in range(2, 100_000))) if name not in taken)


async def _trainings(studio: Studio, request: Request) -> Response:
    """All trainings that the queue knows, the newest first."""
    groups: dict[str, list[Job]] = {}
    for job in studio.queue.jobs():
        if job.group:
            groups.setdefault(job.group, []).append(job)
    found = [
        {
            "group": group,
            "runs": list(dict.fromkeys(job.out for job in jobs)),
            "status": _together(jobs),
            "made": jobs[0].made,
        }
        for group, jobs in groups.items()
    ]
    return JSONResponse(found[::-1])


def _together(jobs: list[Job]) -> str:
    """How a training stands as a whole."""
    stands = {job.status for job in jobs}
    return next((word for word in ("running", "queued", "paused", "failed", "stopped") if word in stands), "done")


async def _training(studio: Studio, request: Request) -> Response:
    """One training: its jobs, and for each run how it stands and how long it still takes."""
    group = request.query_params.get("group", "")

    def found() -> list[dict[str, Any]]:
        jobs = [job for job in studio.queue.jobs() if job.group == group]
        if not jobs:
            raise Unknown(f"there is no training {group[:80]!r} here")
        return [described(studio.queue, job) | _spent(studio, job) for job in jobs]

    return JSONResponse({"group": group, "jobs": await studio.work(found)})


def _spent(studio: Studio, job: Job) -> dict[str, Any]:
    """The share of its budget that a training has spent, and the seconds left of it at this pace."""
    if job.argv[0] != "train":
        return {}
    limit = Budget.parse(job.argv[job.argv.index("--budget") + 1])
    try:
        log = LOGS.read(studio.workspace.run(job.out))
    except ValueError:
        return {"spent": 0.0, "left": None, "family": job.argv[1]}
    spent = min(1.0, limit.spent(Progress(log["step"], log["images"], log["seconds"])))
    left = log["seconds"] * (1 - spent) / spent if spent > 0 else None
    return {"spent": 1.0 if job.status == "done" else spent, "left": left, "family": job.argv[1]}


async def _jobs(studio: Studio, request: Request) -> Response:
    """Every job, the newest first."""
    jobs = studio.queue.jobs()[::-1][:100]
    return JSONResponse(await studio.work(lambda: [described(studio.queue, job) for job in jobs]))


async def _steer(studio: Studio, request: Request) -> Response:
    """Pause, resume or stop a job."""
    steps = {"pause": studio.queue.pause, "resume": studio.queue.resume, "stop": studio.queue.stop}
    verb = request.path_params["verb"]
    if verb not in steps:
        raise Unknown(f"a job can be paused, resumed and stopped: what is {verb[:40]!r}?")
    job = await studio.work(steps[verb], request.path_params["key"])
    return JSONResponse(described(studio.queue, job))
