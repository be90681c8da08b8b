"""Play with a run: what it can, samples, and the chain that they come by.

The page keeps what it plays with. A request says everything (a run, seeds, pixels, codes), so nothing is remembered
between two of them but open models and data sets (`stock.py`). What a run can is asked of its family's capabilities,
never of its name. `walking.py` has the space of codes, `closer.py` what every other run makes of one image.
"""

from __future__ import annotations

import dataclasses
import io
import shlex
import time
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from trilemma.config import parse_text
from trilemma.families import FAMILIES
from trilemma.families.family import Decodes, Denoises, Distils, Encodes, Family
from trilemma.questions.reverse import reverse_chain
from trilemma.run import Run
from trilemma.sampling import choose_labels, parse_labels, read_text, sample
from trilemma.studio.asking import form
from trilemma.studio.room import Studio, asked, route
from trilemma.studio.stock import (
    FEW,
    MANY,
    VALUES,
    Checked,
    check_amount,
    codes_kind,
    from_page,
    long_work,
    quick_work,
    trained,
)
from trilemma.studio.streams import Hearer, Parts, pictures
from trilemma.validate import Limits, Seed

SLIDERS = {"steps": (1, 100), "guidance": (0, 8), "temperature": (0.2, 2), "churn": (0, 40)}
"""Where a slider goes whose option has no range of its own, or one beyond use."""
ADVANCED = ("times", "spacing", "clip", "precision")
"""Options that a page folds away, with those of one sampler alone that have no slider."""
TIMES = 64
"""Times of a chain that a scrubber stops at."""


@dataclass(frozen=True)
class Draw(Checked):
    """Some samples; ``options`` are texts, as flags are."""

    run: str
    n: Annotated[int, Limits(1, 2000)] = 16
    seed: Seed = 0
    labels: str = ""
    text: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def routes(studio: Studio) -> list[BaseRoute]:
    return [
        route(studio, "/api/play", _about),
        route(studio, "/api/play/draw", _draw, ["POST"]),
        route(studio, "/api/play/npz", _npz, ["POST"]),
        route(studio, "/api/play/chain", _chain, ["POST"]),
    ]


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
        "no_class": spec.classes,
    }


def options_form(cls: type[Family]) -> list[dict[str, Any]]:
    """The sampling options of a family, each with its kind, range and help, and the samplers that it belongs to."""
    given = {each.name: each for each in dataclasses.fields(cls.Options)}
    entries = form(cls.Options)
    for entry in entries:
        name = entry["name"]
        entry["samplers"] = [owner.name for owner in given[name].metadata.get("samplers", ())]
        if entry["kind"] in ("whole", "number") and (name in SLIDERS or entry.get("most") is not None):
            least: Any = entry.get("least")
            most: Any = entry.get("most")
            low, high = SLIDERS.get(name, (least or 0, most))
            low, high = max(low, low if least is None else least), min(high, high if most is None else most)
            entry |= {"low": low, "high": high, "step": 1 if entry["kind"] == "whole" else 0.05}
        entry["fold"] = name in ADVANCED or (bool(entry["samplers"]) and "low" not in entry)
    return entries


async def _draw(studio: Studio, request: Request) -> Response:
    """Samples, as pictures or points, with how far they are while they are drawn."""
    wanted = await asked(request, Draw)
    run = studio.workspace.run(wanted.run)
    check_amount(run, wanted.n)
    options, rows = await studio.work(_read, run, wanted)
    command = _command(wanted, studio.workspace.words(wanted.run, run))
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


def _command(wanted: Draw, where: str) -> str:
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


async def _chain(studio: Studio, request: Request) -> Response:
    """x_t and the estimate of x_0 along the chain of some samples: [times, 2, N, …], the last two the images."""
    wanted = await asked(request, Draw)
    run = studio.workspace.run(wanted.run)
    spec = run.config.spec
    if wanted.n > (2000 if spec.vector else 12) or wanted.n * spec.dims > 2**17:
        raise ValueError(f"at most {min(12, 2**17 // spec.dims)} samples at a time along a chain, not {wanted.n}")
    options, rows = await studio.work(_read, run, wanted)
    command = _command(wanted, studio.workspace.words(wanted.run, run)).replace(" sample", " query reverse", 1)

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
        hearer.give(pictures(shown, spec.levels, **head, command=command))

    return Parts(work, long_work())
