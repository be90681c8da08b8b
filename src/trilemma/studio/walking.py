"""The space of codes, or of noises: from images to codes, and back as fast as a finger moves.

The page mixes codes itself. Here they are made, of draws, of held-out images and of classes; decoded; and told apart by
the directions that matter.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import anyio
import numpy as np
import torch
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from torch import Tensor

from trilemma.data import subset
from trilemma.families.family import Decodes, Denoises, Distils, Encodes, Family
from trilemma.noise import ImageNoise, derive_seed
from trilemma.questions.invert import deterministic
from trilemma.questions.posterior import codes as codes_of
from trilemma.questions.posterior import project
from trilemma.run import Run
from trilemma.studio.room import Studio, asked, route
from trilemma.studio.stock import (
    MANY,
    Checked,
    check_amount,
    codes_kind,
    data_of,
    image_of,
    labels_of,
    long_work,
    quick_work,
    told,
    trained,
)
from trilemma.studio.streams import Hearer, Parts, floats, pictures
from trilemma.text import printable
from trilemma.validate import Limits, Seed

MOST = 16
"""Images whose codes are asked for at a time."""
PROBES = 512
"""Codes that say which directions matter."""


@dataclass(frozen=True)
class Picked(Checked):
    """One image that a page points at: a draw of the run by seed and index, a held-out image, or its pixels in base64.

    ``label`` is the class that it is taken for; None for no class.
    """

    seed: Seed | None = None
    index: Annotated[int, Limits(0, 2**31)] = 0
    held: Annotated[int, Limits(0, 2**31)] | None = None
    pixels: str = ""
    label: Annotated[int, Limits(0, 2**20)] | None = None


@dataclass(frozen=True)
class Codes:
    """Whose codes, or noises, are wanted."""

    run: str
    images: tuple[Picked, ...]


def routes(studio: Studio) -> list[BaseRoute]:
    return [
        route(studio, "/api/play/held", _held),
        route(studio, "/api/play/codes", _codes, ["POST"]),
        route(studio, "/api/play/decode", _decode, ["POST"]),
        route(studio, "/api/play/directions", _directions),
        route(studio, "/api/play/classes", _classes, ["POST"]),
    ]


async def _held(studio: Studio, request: Request) -> Response:
    """Some held-out images with their classes: ``count`` of a shuffled order, from ``start`` on."""
    run = studio.workspace.run(request.query_params.get("run", ""))
    start, count = _whole(request, "start", 0), max(1, _whole(request, "count", 24))
    check_amount(run, count)

    def found() -> bytes:
        dataset = data_of(run)
        rows = subset(dataset.test if len(dataset.test) else dataset.train, 0, 0)
        rows = np.take(rows, range(start, start + count), mode="wrap") if len(rows) > count else rows
        labels, held = labels_of(dataset, rows), "held-out" if len(dataset.test) else "training"
        classes = [printable(name) for name in dataset.class_names[:200]]
        head = {"held": rows.tolist(), "labels": labels, "what": held, "classes": classes, "of": len(dataset.test)}
        return pictures(dataset.batch(rows), run.config.spec.levels, **head)

    return Response(await studio.work(found), media_type="application/octet-stream")


def _whole(request: Request, name: str, usual: int) -> int:
    text = request.query_params.get(name, str(usual))
    if not text.isdigit() or len(text) > 9:
        raise ValueError(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


async def _codes(studio: Studio, request: Request) -> Response:
    """The codes, or the noises, of some images: float32 [N, D]."""
    wanted = await asked(request, Codes)
    run = studio.workspace.run(wanted.run)
    if not 1 <= len(wanted.images) <= MOST:
        raise ValueError(f"choose from 1 to {MOST} images, not {len(wanted.images)}")
    check_amount(run, len(wanted.images))

    def work(hearer: Hearer) -> None:
        model, total = trained(studio, run), len(wanted.images)
        found = []
        for done, picked in enumerate(wanted.images):
            found.append(code_of(model, run, picked, functools.partial(_inner, hearer, done, total)))
            hearer.tell(done + 1, total)
        hearer.give(floats(torch.cat(found)))

    return Parts(work, long_work())


def _inner(hearer: Hearer, before: int, total: int, done: int, of: int) -> None:
    """The progress of one of several things."""
    hearer.tell(before + done / max(of, 1), total)


def code_of(model: Family, run: Run, picked: Picked, progress: Callable[[int, int], None] | None = None) -> Tensor:
    """The code of an image that a page points at, float32 [1, D]; of a denoising family its noise x_T, flat.

    Of a draw from the prior it is the very code; else the encoder's, or one that is searched for, or the noise that
    deterministic DDIM leads back to.
    """
    if not isinstance(model, Decodes | Denoises | Distils):
        raise ValueError(f"{model.name} has no codes: its pixels are drawn one after the other")
    own = picked.seed is not None
    with torch.no_grad():
        if isinstance(model, Decodes) and model.prior and own:
            assert picked.seed is not None
            return ImageNoise(picked.seed, [picked.index]).normal(model.latent)
        if isinstance(model, Denoises | Distils) and own:
            assert picked.seed is not None
            return model.latent(ImageNoise(picked.seed, [picked.index], model.device)).flatten(1).float().cpu()
        if isinstance(model, Distils):
            raise ValueError(f"{model.name} has no way from an image back to its noise: choose among its samples")
        x = data_of(run).batch([_row(run, picked.held)]) if picked.held is not None else image_of(run, picked.pixels)
        labels = told(run, picked.label, 1)
        if isinstance(model, Denoises):
            y = None if labels is None else labels.to(model.device)
            options = deterministic(None, model)
            options = replace(options, steps=min(MANY, model.schedule.T))
            return model.encode(x.to(model.device), y, options).flatten(1).float().cpu()
    if isinstance(model, Encodes):
        return codes_of(model, x, labels).float()
    return project(model, x, labels, starts=4, steps=120, progress=progress).z.float()  # half of what a question takes


def _row(run: Run, held: int) -> int:
    if held >= len(data_of(run).images):
        raise ValueError(f"there is no image {held} in the data of this run")
    return held


async def _decode(studio: Studio, request: Request) -> Response:
    """The images of codes float32 [N, D], which are the body as they lie in memory; of noises in ``steps`` steps."""
    run = studio.workspace.run(request.query_params.get("run", ""))
    steps, label = _whole(request, "steps", 0), request.query_params.get("label", "")
    if label and not label.isdigit():
        raise ValueError(f"label must be a class's number, not {label[:40]!r}")
    kind, dims = codes_kind(run)
    content = await request.body()
    if kind is None:
        raise ValueError(f"{run.config.family} has no codes to decode")
    if not content or len(content) % (4 * dims):
        raise ValueError(f"codes must be a multiple of {4 * dims} bytes, not {len(content)}")
    z = torch.from_numpy(np.frombuffer(content, np.float32).reshape(-1, dims).copy())
    check_amount(run, len(z))
    if not bool(torch.isfinite(z).all()):
        raise ValueError("codes must be finite numbers")
    y = told(run, int(label) if label else None, len(z))
    if steps > 8:
        return Parts(lambda hearer: hearer.give(_decoded(studio, run, z, y, steps, hearer.tell)), long_work())
    async with quick_work():
        content = await run_sync(_decoded, studio, run, z, y, steps, limiter=anyio.CapacityLimiter(1))
    return Response(content, media_type="application/octet-stream")


def _decoded(
    studio: Studio, run: Run, z: Tensor, y: Tensor | None, steps: int, tell: Callable[[int, int], None] | None = None
) -> bytes:
    model = trained(studio, run)
    z, y = z.to(model.device), None if y is None else y.to(model.device)
    began = time.perf_counter()
    with torch.no_grad():
        if isinstance(model, Denoises):
            options = model.Options()
            options = deterministic(None, model) if options.method.noisy else options
            options = replace(options, steps=min(steps or MANY, model.schedule.T))
            if len(z) < 8:
                options = replace(options, precision="fp32")  # quicker for so few
            noise = ImageNoise(0, range(len(z)), model.device)
            images = model.decode(z.view(-1, *model.spec.shape), noise, y, options, tell)
        elif isinstance(model, Distils):
            noise = ImageNoise(0, [0] * len(z), model.device)  # what is added on the way is the same for every code
            images = model.decode(z.view(-1, *model.spec.shape), noise, y, replace(model.Options(), steps=steps or 2))
        else:
            assert isinstance(model, Decodes)
            images = model.decode(z, y)
    return pictures(images, run.config.spec.levels, seconds=time.perf_counter() - began)


async def _directions(studio: Studio, request: Request) -> Response:
    """Directions that matter in a space of codes, float32 [2 + 3, D]: see `directions`."""
    run = studio.workspace.run(request.query_params.get("run", ""))

    def work(hearer: Hearer) -> None:
        model = trained(studio, run)
        if not isinstance(model, Decodes):
            raise ValueError(f"{model.name} has no codes of few dimensions, whose directions could be told apart")
        known = (
            codes_of(model, data_of(run).batch(_some(run, PROBES)), progress=hearer.tell) if not model.prior else None
        )
        hearer.give(floats(torch.cat(directions(model, told(run, None, PROBES), known))))

    return Parts(work, long_work())


def _some(run: Run, count: int) -> Any:
    dataset = data_of(run)
    return subset(dataset.test if len(dataset.test) else dataset.train, count, 0)


def directions(model: Family, labels: Tensor | None, known: Tensor | None = None) -> tuple[Tensor, ...]:
    """What matters in a space of codes.

    Without ``known`` codes the prior is drawn and z regressed on the principal coordinates of the decoded images
    (Härkönen et al. 2020, GANSpace, arXiv:2004.02546, section 3.1, on pixels): the two directions that change images
    most. With them, where codes have no law, their own principal directions, as long as the codes spread.

    Args:
        model: one that `Decodes`.
        labels: of `PROBES` images, for a conditional one.
        known: codes [N, latent] of images.

    Returns:
        The two directions, float32 [2, latent]; the mean and the spread of the codes, [1, latent] each; and how much an
        image changes with each latent alone, [1, latent]: root mean square in grey levels when it moves by its spread.
    """
    assert isinstance(model, Decodes)
    if known is None:
        z = ImageNoise(derive_seed(0, "directions"), range(PROBES)).normal(model.latent)
        images = _rendered(model, z, labels).flatten(1)
        centred = images - images.mean(0)
        scores = torch.pca_lowrank(centred, q=min(6, *centred.shape), center=False, niter=3)[0][:, :2]
        found = (scores / scores.std(0).clamp_min(1e-9)).T @ z / len(z)
        found, mean, spread = (
            torch.nn.functional.normalize(found, dim=1),
            torch.zeros(model.latent),
            torch.ones(model.latent),
        )
    else:
        z, mean, spread = known, known.mean(0), known.std(0)
        _, sizes, axes = torch.linalg.svd(known - mean, full_matrices=False)
        found = (axes[:2].T * sizes[:2] / math.sqrt(len(known))).T
    change = torch.zeros(model.latent)
    few = z[:4]
    y = None if labels is None else labels[:1]
    for start in range(0, model.latent, 32):
        rows = range(start, min(start + 32, model.latent))
        moved = few.repeat(len(rows), 1, 1)
        moved[torch.arange(len(rows)), :, list(rows)] += spread[list(rows), None]
        both = _rendered(
            model, torch.cat([few, moved.flatten(0, 1)]), None if y is None else y.expand(4 * (1 + len(rows)))
        )
        difference = both[4:].view(len(rows), 4, -1) - both[:4].flatten(1)
        change[list(rows)] = 127.5 * difference.square().mean((1, 2)).sqrt()
    return found.float(), mean[None].float(), spread[None].float(), change[None]


def _rendered(model: Family, z: Tensor, labels: Tensor | None) -> Tensor:
    assert isinstance(model, Decodes)
    parts = []
    with torch.no_grad():
        for start in range(0, len(z), 64):
            y = None if labels is None else labels[start : start + 64].to(model.device)
            parts.append(model.render(z[start : start + 64].to(model.device), y).float().cpu())
    return torch.cat(parts)


@dataclass(frozen=True)
class Means(Checked):
    """Classes whose mean codes are wanted, of ``n`` held-out images each."""

    run: str
    classes: tuple[str, ...]
    n: Annotated[int, Limits(1, 200)] = 50


async def _classes(studio: Studio, request: Request) -> Response:
    """The mean codes of some classes: float32 [N, D]."""
    wanted = await asked(request, Means)
    run = studio.workspace.run(wanted.run)
    if not 1 <= len(wanted.classes) <= MOST:
        raise ValueError(f"choose from 1 to {MOST} classes, not {len(wanted.classes)}")

    def work(hearer: Hearer) -> None:
        model, dataset = trained(studio, run), data_of(run)
        if not isinstance(model, Encodes):
            raise ValueError(f"{model.name} has no encoder, which the mean code of a class needs: choose images")
        rows = dataset.test if len(dataset.test) else dataset.train
        found = []
        for done, name in enumerate(wanted.classes):
            if dataset.labels is None or name not in dataset.class_names:
                raise ValueError(f"{name[:40]!r} is no class of {printable(dataset.name)}")
            mine = rows[dataset.labels[rows] == dataset.class_names.index(name)]
            if not len(mine):
                raise ValueError(f"there is no image of class {name[:40]!r}")
            found.append(codes_of(model, dataset.batch(subset(mine, wanted.n, 0))).mean(0))
            hearer.tell(done + 1, len(wanted.classes))
        hearer.give(floats(torch.stack(found)))

    return Parts(work, long_work())
