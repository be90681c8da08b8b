"""One image, and every run: who completes it, how probable each says it is, and which training images are near."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from torch import Tensor

from trilemma.data import Dataset, subset
from trilemma.families import FAMILIES
from trilemma.families.family import Completes, Family, Orders
from trilemma.images import to_display
from trilemma.likelihood import calibrate, log_likelihood
from trilemma.metrics.neighbours import closest
from trilemma.metrics.small import SmallFeatures
from trilemma.questions.complete import complete
from trilemma.questions.surprise import surprise
from trilemma.run import Run
from trilemma.studio.room import Studio, asked, route
from trilemma.studio.stock import (
    SETS,
    Checked,
    Table,
    bytes_of,
    data_of,
    image_of,
    labels_of,
    long_work,
    trained,
)
from trilemma.studio.streams import Hearer, Parts, floats, part, pictures
from trilemma.text import printable
from trilemma.validate import Limits, Seed

PEERS = 24
"""Runs that are asked about one image at most."""
NEAREST = 8
"""Training images shown beside a sample."""
FEATURED = 2000
"""Training images among which features look for the nearest."""
CHUNK = 2048
"""Training images compared at a time."""

FEATURES = Table(SETS)
CALIBRATED: weakref.WeakSet[Family] = weakref.WeakSet()


@dataclass(frozen=True)
class About:
    """One image by its pixels, and which run is asked about it."""

    run: str
    pixels: str
    features: bool = False


@dataclass(frozen=True)
class Fill(Checked):
    """An image of which ``known``, 0 or 1 for each pixel in base64, is kept; ``label`` names its class, "" none."""

    run: str
    pixels: str
    known: str
    label: str = ""
    copies: Annotated[int, Limits(1, 8)] = 4
    seed: Seed = 0
    thorough: bool = False


def routes(studio: Studio) -> list[BaseRoute]:
    return [
        route(studio, "/api/play/peers", _peers),
        route(studio, "/api/play/complete", _complete, ["POST"]),
        route(studio, "/api/play/near", _near, ["POST"]),
        route(studio, "/api/play/rate", _rate, ["POST"]),
    ]


async def _peers(studio: Studio, request: Request) -> Response:
    """The trained runs whose images have the shape and the levels of this one's, itself the first."""
    key = request.query_params.get("run", "")
    run = studio.workspace.run(key)
    spec = run.config.spec

    def found() -> list[dict[str, Any]]:
        entries = []
        for other in [key, *(each for each in studio.workspace.paths("runs") if each != key)]:
            try:
                peer = studio.workspace.run(other)
                theirs = peer.config.spec
                if (theirs.shape, theirs.levels) != (spec.shape, spec.levels) or not peer.has_checkpoint:
                    continue
            except (ValueError, OSError):
                continue
            cls = FAMILIES[peer.config.family]
            entries.append(
                {
                    "key": other,
                    "family": peer.config.family,
                    "data": printable(Path(peer.config.data.source).name),
                    "same": peer.config.data_fingerprint == run.config.data_fingerprint,
                    "completes": issubclass(cls, Completes) and not peer.config.spec.vector,
                    "how": cls.answers["complete"],
                    "classes": peer.config.spec.classes,
                }
            )
            if len(entries) >= PEERS:
                break
        return entries

    return JSONResponse(await studio.work(found))


async def _complete(studio: Studio, request: Request) -> Response:
    """Completions of an image of which a part is kept."""
    wanted = await asked(request, Fill)
    run = studio.workspace.run(wanted.run)
    spec = run.config.spec
    _, height, width = spec.image_shape
    x = image_of(run, wanted.pixels)
    kept = torch.from_numpy(bytes_of(wanted.known, height * width, "the mask").copy()).view(height, width) > 0
    if bool(kept.all()):
        raise ValueError("the whole image is kept: paint out what is to be drawn")

    def work(hearer: Hearer) -> None:
        model = trained(studio, run)
        if not isinstance(model, Completes):
            raise ValueError(f"{model.name} cannot draw from p(unknown | known)")
        named = wanted.label in run.config.class_names and spec.classes  # another data set may not know the class
        labels = torch.tensor([run.config.class_names.index(wanted.label)]) if named else None
        options, began = None if wanted.thorough else quicker(type(model).CompletionOptions), time.perf_counter()
        found = complete(
            model, x, kept.expand(spec.shape), wanted.copies, 16, labels, options,
            seed=wanted.seed, device=studio.models.device, progress=hearer.tell,
        )  # fmt: skip
        head = {"how": found.how, "exact": found.exact, "seconds": time.perf_counter() - began}
        if found.effective is not None:
            head["effective"] = float(found.effective.mean())
        hearer.give(pictures(found.images[0], spec.levels, **head))

    return Parts(work, long_work())


def quicker(cls: type) -> Any:
    """Options of a completion that takes a tenth of the usual steps, where its steps are many; None else."""
    names = {each.name for each in dataclasses.fields(cls)}
    return cls(steps=20, repeats=3) if {"steps", "repeats"} <= names else None


async def _near(studio: Studio, request: Request) -> Response:
    """The training images nearest to an image, by pixels or by features of a part of them."""
    wanted = await asked(request, About)
    run = studio.workspace.run(wanted.run)
    x = image_of(run, wanted.pixels)

    def work(hearer: Hearer) -> None:
        dataset, levels = data_of(run), run.config.spec.levels
        if wanted.features:
            key = f"{run.config.data!r} {run.config.data_fingerprint}"
            rows, reference, network = FEATURES.get(key, lambda: featured(dataset, levels, hearer))
            distances, found = closest(network(to_display(x, levels)), reference, min(NEAREST, len(reference)))
            near, distance, unit = rows[found[0].numpy()], distances[0], f"units of {network.name}"
        else:
            rows, unit = dataset.train, "grey levels, root mean square"
            near, distance = nearest_pixels(dataset, x, hearer)
            distance *= 255 / (levels - 1)
        head = {"distances": distance.tolist(), "rows": near.tolist(), "labels": labels_of(dataset, near), "unit": unit}
        among = f"{len(rows):,} of {len(dataset.train):,} training images" if len(rows) < len(dataset.train) else ""
        hearer.give(pictures(dataset.batch(near), levels, **head, among=among or f"{len(rows):,} training images"))

    return Parts(work, long_work())


def nearest_pixels(dataset: Dataset, x: Tensor, hearer: Hearer) -> tuple[Any, Tensor]:
    """Which training images are nearest to one, uint8 [1, C, H, W], and how far: root mean square over its values.

    In whole numbers, chunk by chunk, so that no copy of the set is made.
    """
    parts = []
    for start in range(0, len(dataset.train), CHUNK):
        chunk = dataset.batch(dataset.train[start : start + CHUNK]).flatten(1).to(torch.int16)
        difference = (chunk - x.flatten(1).to(torch.int16)).float()
        parts.append(difference.square().mean(1, dtype=torch.float64).sqrt())
        hearer.tell(start, len(dataset.train))
    distance, places = torch.cat(parts).sort(stable=True)
    return dataset.train[places[:NEAREST].numpy()], distance[:NEAREST]


def featured(dataset: Dataset, levels: int, hearer: Hearer) -> tuple[Any, Tensor, SmallFeatures]:
    """Some training images, their features [N, D], and what these are made by."""
    rows, network = np.sort(subset(dataset.train, FEATURED, 0)), SmallFeatures()
    parts = []
    for start in range(0, len(rows), 64):
        parts.append(network(to_display(dataset.batch(rows[start : start + 64]), levels)))
        hearer.tell(start, len(rows))
    return rows, torch.cat(parts), network


async def _rate(studio: Studio, request: Request) -> Response:
    """log p(x) of an image by a run, with its kind, or that it is undefined and why; with a map where there is one."""
    wanted = await asked(request, About)
    run = studio.workspace.run(wanted.run)
    x = image_of(run, wanted.pixels)

    def work(hearer: Hearer) -> None:
        hearer.tell(0, 1)
        model = calibrated(studio, run)
        found = log_likelihood(model, x, device=studio.models.device, progress=hearer.tell)
        head: dict[str, Any] = {"kind": found.kind, "reason": printable(found.reason), "flag": found.flag}
        if found.nats is not None and found.bits is not None:
            head |= {"nats": float(found.nats[0]), "bits": float(found.bits[0])}
        if isinstance(model, Orders):
            bits = surprise(model, x, device=studio.models.device).bits
            hearer.give(floats(bits[0], **head))
        else:
            hearer.give(part(head))

    return Parts(work, long_work())


def calibrated(studio: Studio, run: Run) -> Family:
    """The same with its log p(x) calibrated, once, on its training images if they are still there."""
    model, lock = studio.models.get(run)
    with lock:
        if model.calibration and model not in CALIBRATED:
            with contextlib.suppress(ValueError, OSError):  # without them it goes on, and says so in its answers
                calibrate(model, run, data_of(run))
            CALIBRATED.add(model)
    return model
