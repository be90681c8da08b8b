"""Play with a run: draw, walk through its codes or noises, follow the reverse chain, complete what a hand has drawn,
and ask every other run about one image.

The page keeps what it plays with. A request says everything (a run, seeds, pixels, codes), so nothing is remembered
here between two of them but open models and data sets, a few of each. What a run can is asked of its family's
capabilities, never of its name.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import io
import math
import shlex
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import anyio
import numpy as np
import torch
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from torch import Tensor

from trilemma.config import parse_text
from trilemma.data import Dataset, load, subset
from trilemma.families import FAMILIES
from trilemma.families.family import Completes, Decodes, Denoises, Distils, Encodes, Family, Orders
from trilemma.images import Spec, to_display
from trilemma.likelihood import calibrate, log_likelihood
from trilemma.metrics.neighbours import closest
from trilemma.metrics.small import SmallFeatures
from trilemma.noise import ImageNoise, derive_seed
from trilemma.questions.complete import complete
from trilemma.questions.invert import deterministic
from trilemma.questions.posterior import codes as codes_of
from trilemma.questions.posterior import project
from trilemma.questions.reverse import reverse_chain
from trilemma.questions.surprise import surprise
from trilemma.run import Run
from trilemma.sampling import choose_labels, parse_labels, read_text, sample
from trilemma.studio.asking import form
from trilemma.studio.room import Studio, asked, route
from trilemma.studio.streams import SIDE_BY_SIDE, Hearer, Parts, floats, part, pictures
from trilemma.text import printable
from trilemma.validate import Limits, Seed, check_limits

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

SLIDERS = {"steps": (1, 100), "guidance": (0, 8), "temperature": (0.2, 2), "churn": (0, 40)}
"""Where a slider goes whose option has no range of its own, or one beyond use."""
ADVANCED = ("times", "spacing", "clip", "precision")
"""Options that a page folds away, with those of one sampler alone that have no slider."""
FEW, MANY = 4, 50
"""Steps from a noise to its image, while somebody drags and when it rests; a student takes 1 and 2."""
SETS = 3
"""Data sets that are kept open."""
PEERS = 24
"""Runs that are asked about one image at most."""
TIMES = 64
"""Times of a chain that a scrubber stops at."""
MOST = 16
"""Images whose codes are asked for at a time."""
NEAREST = 8
"""Training images shown beside a sample."""
FEATURED = 2000
"""Training images among which features look for the nearest."""
CHUNK = 2048
"""Training images compared at a time."""
VALUES = 2**18
"""Values of all images of one answer, but for the chain: 64 images of 64 x 64."""
PROBES = 512
"""Codes that say which directions matter."""

HELD_TO = "it needs the data that the run was trained on, and they are no longer there"


# -------------------------------------------------------------------------------------------------- what is asked


@dataclass(frozen=True)
class Checked:
    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True)
class Draw(Checked):
    """Some samples; ``options`` are texts, as flags are."""

    run: str
    n: Annotated[int, Limits(1, 2000)] = 16
    seed: Seed = 0
    labels: str = ""
    text: str = ""
    options: dict[str, Any] = field(default_factory=dict)


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


@dataclass(frozen=True)
class About:
    """One image by its pixels, and which run is asked about it."""

    run: str
    pixels: str
    features: bool = False


@dataclass(frozen=True)
class Fill(Checked):
    """An image of which ``known``, 0 or 1 for each pixel in base64, is kept."""

    run: str
    pixels: str
    known: str
    copies: Annotated[int, Limits(1, 8)] = 4
    seed: Seed = 0
    label: Annotated[int, Limits(0, 2**20)] | None = None
    thorough: bool = False


def routes(studio: Studio) -> list[BaseRoute]:
    return [
        route(studio, "/api/play", _about),
        route(studio, "/api/play/draw", _draw, ["POST"]),
        route(studio, "/api/play/npz", _npz, ["POST"]),
        route(studio, "/api/play/held", _held),
        route(studio, "/api/play/codes", _codes, ["POST"]),
        route(studio, "/api/play/decode", _decode, ["POST"]),
        route(studio, "/api/play/directions", _directions),
        route(studio, "/api/play/classes", _classes, ["POST"]),
        route(studio, "/api/play/chain", _chain, ["POST"]),
        route(studio, "/api/play/peers", _peers),
        route(studio, "/api/play/complete", _complete, ["POST"]),
        route(studio, "/api/play/near", _near, ["POST"]),
        route(studio, "/api/play/rate", _rate, ["POST"]),
    ]


# ------------------------------------------------------------------------------------------------- what is shared


class Table:
    """The few last of some things that are slow to make."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock, self._making = threading.Lock(), threading.Lock()

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """What is kept under a key, or made now, by one at a time."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._making:
            if key not in self._kept:
                made = make()
                with self._lock:
                    self._kept[key] = made
                    while len(self._kept) > self._most:
                        self._kept.popitem(last=False)
            with self._lock:
                return self._kept.get(key) or make()


DATA, FEATURES = Table(SETS), Table(SETS)
CALIBRATED: weakref.WeakSet[Family] = weakref.WeakSet()


@functools.cache
def long_work() -> anyio.CapacityLimiter:
    """How much that takes long is computed at a time, for all pages together."""
    return anyio.CapacityLimiter(SIDE_BY_SIDE)


@functools.cache
def quick_work() -> anyio.CapacityLimiter:
    """The same of what is answered while somebody drags: it waits for nothing long."""
    return anyio.CapacityLimiter(SIDE_BY_SIDE)


def data_of(run: Run) -> Dataset:
    """The data of a run; one-line ``ValueError`` where they are no longer there."""
    config = run.config
    try:
        found: Dataset = DATA.get(
            f"{config.data!r} {config.data_fingerprint}", lambda: load(config.data, progress=False)
        )
    except OSError:
        raise ValueError(HELD_TO) from None
    return found


def trained(studio: Studio, run: Run) -> Family:
    """The model of a run, open."""
    return studio.models.get(run)[0]


def calibrated(studio: Studio, run: Run) -> Family:
    """The same with its log p(x) calibrated, once, on its training images if they are still there."""
    model, lock = studio.models.get(run)
    with lock:
        if model.calibration and model not in CALIBRATED:
            with contextlib.suppress(ValueError, OSError):  # without them it goes on, and says so in its answers
                calibrate(model, run, data_of(run))
            CALIBRATED.add(model)
    return model


def check_amount(run: Run, n: int) -> None:
    """``ValueError`` for more images than one page is sent at a time."""
    dims = run.config.spec.dims
    if n * dims > max(VALUES, dims):
        raise ValueError(f"at most {max(1, VALUES // dims)} images of this size at a time, not {n}")


def bytes_of(text: str, count: int, what: str) -> Bytes:
    """Base64 to so many bytes."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError(f"{what} are not base64") from None
    if len(content) != count:
        raise ValueError(f"{what} must be {count:,} bytes, not {len(content):,}")
    return np.frombuffer(content, np.uint8)


def from_page(spec: Spec, shown: Bytes) -> Tensor:
    """Images uint8 [N, C, H, W] in the levels of a run, from the pixels [N, H, W, C] that a page shows."""
    channels, height, width = spec.image_shape
    x = torch.from_numpy(shown.reshape(-1, height, width, channels).copy()).permute(0, 3, 1, 2).contiguous()
    return x if spec.levels == 256 else (x.float() * ((spec.levels - 1) / 255)).round().to(torch.uint8)


def image_of(run: Run, pixels: str) -> Tensor:
    """An image uint8 [1, C, H, W] in the levels of a run, from its pixels in base64."""
    spec = run.config.spec
    return from_page(spec, bytes_of(pixels, math.prod(spec.image_shape), "the pixels"))


def told(run: Run, label: int | None, count: int) -> Tensor | None:
    """The condition of so many images of one class, or of none; None of an unconditional run."""
    spec = run.config.spec
    if not spec.conditional:
        return None
    if label is None or spec.vocabulary:
        return spec.unlabelled(count)
    if label > spec.classes:
        raise ValueError(f"class {label} is out of range: this run has {spec.classes} classes")
    return torch.full((count,), label)


# ------------------------------------------------------------------------------------------------------ what it can


async def _about(studio: Studio, request: Request) -> Response:
    """What one can play at with a run."""
    run = studio.workspace.run(request.query_params.get("run", ""))
    return JSONResponse(await studio.work(about, run))


def about(run: Run) -> dict[str, Any]:
    """What a family can, and its sampling options as a page shows them."""
    spec, cls = run.config.spec, FAMILIES[run.config.family]
    kind, dims = codes_kind(run)
    return {
        "options": options_form(cls),
        "n": 600 if spec.vector else max(1, min(24, VALUES // spec.dims)),
        "codes": kind,
        "dims": dims,
        "prior": not issubclass(cls, Decodes) or cls.prior,
        "encodes": issubclass(cls, Encodes) or issubclass(cls, Denoises),
        "steps": [1, 2] if issubclass(cls, Distils) else [FEW, MANY],
        "chain": issubclass(cls, Denoises),
        "means": issubclass(cls, Encodes),
        "completes": issubclass(cls, Completes) and not spec.vector,
        "orders": issubclass(cls, Orders),
        "density": cls.density.value,
        "no_class": spec.classes,
    }


def codes_kind(run: Run) -> tuple[str | None, int]:
    """What decides an image of a run: a ``code``, or the ``noise`` that a chain begins with, and its dimensions."""
    cls, spec = FAMILIES[run.config.family], run.config.spec
    if spec.vector or not issubclass(cls, Decodes | Denoises | Distils):
        return None, 0
    return ("code", run.config.model.latent) if issubclass(cls, Decodes) else ("noise", spec.dims)


def options_form(cls: type[Family]) -> list[dict[str, Any]]:
    """The sampling options of a family, each with its kind, range and help, and the samplers that it belongs to."""
    given = {each.name: each for each in dataclasses.fields(cls.Options)}
    entries = form(cls.Options)
    for entry in entries:
        name = entry["name"]
        entry["samplers"] = [owner.name for owner in given[name].metadata.get("samplers", ())]
        if entry["kind"] in ("whole", "number") and (name in SLIDERS or entry.get("most") is not None):
            least, most = entry.get("least"), entry.get("most")
            low, high = SLIDERS.get(name, (least or 0, most))
            low, high = max(low, low if least is None else least), min(high, high if most is None else most)
            entry |= {"low": low, "high": high, "step": 1 if entry["kind"] == "whole" else 0.05}
        entry["fold"] = name in ADVANCED or (bool(entry["samplers"]) and "low" not in entry)
    return entries


# ------------------------------------------------------------------------------------------------------------- draw


async def _draw(studio: Studio, request: Request) -> Response:
    """Samples, as pictures or points, with how far they are while they are drawn."""
    wanted = await asked(request, Draw)
    run = studio.workspace.run(wanted.run)
    check_amount(run, wanted.n)
    options, rows = await studio.work(_read, run, wanted)
    command = _command(wanted, run)
    limiter = quick_work() if request.query_params.get("quick") else long_work()

    def work(hearer: Hearer) -> None:
        model = trained(studio, run)
        began = time.perf_counter()
        found = sample(
            model, wanted.n, seed=wanted.seed, labels=rows, options=options, device=studio.models.device,
            progress=hearer.tell, block=wanted.n,
        )  # fmt: skip
        head = {
            "seconds": time.perf_counter() - began,
            "labels": None if found.labels is None else found.labels.tolist(),
            "command": command,
        }
        hearer.give(pictures(found.images, run.config.spec.levels, **head))

    return Parts(work, limiter)


def _read(run: Run, wanted: Draw) -> tuple[Any, Any]:
    """Options and conditions from the texts of a form."""
    family = FAMILIES[run.config.family]
    texts = {name: _text(value) for name, value in wanted.options.items() if value not in (None, "")}
    options = parse_text(family.Options, texts, family.name) if texts else None
    if wanted.text:
        return options, read_text(run, [wanted.text], wanted.labels or None)
    return options, parse_labels(wanted.labels or None, run.config.class_names)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _command(wanted: Draw, run: Run) -> str:
    where = wanted.run if wanted.run.startswith("zoo/") else str(run.path)
    words = ["trilemma", "sample", where, "-n", str(wanted.n), "--seed", str(wanted.seed)]
    words += ["--labels", wanted.labels] if wanted.labels else []
    words += ["--text", wanted.text] if wanted.text else []
    for name, value in wanted.options.items():
        words += [f"--{name.replace('_', '-')}", _text(value)] if value not in (None, "") else []
    return shlex.join(words)


async def _npz(studio: Studio, request: Request) -> Response:
    """Samples that the page has, as the file that ``trilemma sample --out samples.npz`` writes."""
    run = studio.workspace.run(request.query_params.get("run", ""))
    spec = run.config.spec
    size = spec.dims * (4 if spec.vector else 1)
    content = await request.body()
    if not content or len(content) % size:
        raise ValueError(f"the samples must be a multiple of {size} bytes, not {len(content)}")
    labels = [int(each) for each in request.query_params.get("labels", "").split(",") if each.isdigit()]
    shown = np.frombuffer(content, np.uint8)
    arrays: dict[str, Any] = {"labels": np.array(labels or [-1] * (len(content) // size), np.int64)}
    if spec.vector:
        arrays["vectors"] = shown.view(np.float32).reshape(-1, *spec.shape)
    else:
        arrays |= {"images": from_page(spec, shown).numpy(), "levels": np.array(spec.levels)}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    headers = {"content-disposition": 'attachment; filename="samples.npz"'}
    return Response(file.getvalue(), media_type="application/octet-stream", headers=headers)


# -------------------------------------------------------------------------------------------------- codes and noises


async def _held(studio: Studio, request: Request) -> Response:
    """Some held-out images with their classes: ``count`` of a shuffled order, from ``start`` on."""
    run = studio.workspace.run(request.query_params.get("run", ""))
    start, count = _whole(request, "start", 0), max(1, _whole(request, "count", 24))
    check_amount(run, count)

    def found() -> bytes:
        dataset = data_of(run)
        rows = subset(dataset.test if len(dataset.test) else dataset.train, 0, 0)
        rows = np.take(rows, range(start, start + count), mode="wrap") if len(rows) > count else rows
        labels, held = _labels(dataset, rows), "held-out" if len(dataset.test) else "training"
        classes = [printable(name) for name in dataset.class_names[:200]]
        head = {"held": rows.tolist(), "labels": labels, "what": held, "classes": classes, "of": len(dataset.test)}
        return pictures(dataset.batch(rows), run.config.spec.levels, **head)

    return Response(await studio.work(found), media_type="application/octet-stream")


def _labels(dataset: Dataset, rows: Any) -> list[str]:
    """The names of the classes of images, where they have any."""
    labels = dataset.label_batch(rows)
    return [] if labels is None else [printable(dataset.class_names[label]) for label in labels.tolist()]


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


# -------------------------------------------------------------------------------------------------- the reverse chain


async def _chain(studio: Studio, request: Request) -> Response:
    """x_t and the estimate of x_0 along the chain of some samples: [times, 2, N, …], the last two the images."""
    wanted = await asked(request, Draw)
    run = studio.workspace.run(wanted.run)
    spec = run.config.spec
    if wanted.n > (2000 if spec.vector else 12) or wanted.n * spec.dims > 2**17:
        raise ValueError(f"at most {min(12, 2**17 // spec.dims)} samples at a time along a chain, not {wanted.n}")
    options, rows = await studio.work(_read, run, wanted)

    def work(hearer: Hearer) -> None:
        model = trained(studio, run)
        if not isinstance(model, Denoises):
            raise ValueError(f"{model.name} has no chain from noise to images")
        chosen = options or model.Options()
        chosen = chosen if chosen.steps or chosen.times else replace(chosen, steps=min(MANY, model.schedule.T))
        labels = choose_labels(spec, wanted.n, wanted.seed, rows, wanted.n)
        found = reverse_chain(model, wanted.n, labels=labels, options=chosen, seed=wanted.seed, progress=hearer.tell)
        found = found.thinned(TIMES)
        both = torch.stack([found.x_t, found.other], 1).flatten(0, 2)
        shown = torch.cat([spec.from_unit(both), found.images, found.images])
        head = {"times": [*found.times, 0], "n": wanted.n, "T": model.schedule.T}
        hearer.give(pictures(shown, spec.levels, **head, command=_asking("reverse", wanted, run)))

    return Parts(work, long_work())


def _asking(question: str, wanted: Draw, run: Run) -> str:
    return _command(wanted, run).replace("trilemma sample", f"trilemma query {question}", 1)


# ------------------------------------------------------------------------------------------------ every other family


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
        options, began = None if wanted.thorough else quicker(type(model).CompletionOptions), time.perf_counter()
        found = complete(
            model, x, kept.expand(spec.shape), wanted.copies, 16, told(run, wanted.label, 1), options,
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
        head = {"distances": distance.tolist(), "rows": near.tolist(), "labels": _labels(dataset, near), "unit": unit}
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
