"""What every room of the studio has at hand: workspace, queue, open models, and routes that refuse in one line."""

from __future__ import annotations

import functools
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import anyio
import torch
from anyio.to_thread import run_sync
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trilemma.families import FAMILIES
from trilemma.families.family import Family
from trilemma.faults import in_words
from trilemma.parallel import ranks
from trilemma.report.marks import sign
from trilemma.run import Run
from trilemma.studio.guard import TooMuch
from trilemma.studio.jobs import Queue
from trilemma.studio.workspace import Unknown, Workspace
from trilemma.text import printable
from trilemma.validate import decode

T = TypeVar("T")
P = ParamSpec("P")

OPEN = 4
"""Models that are kept in memory."""


@dataclass
class Models:
    """Trained models, opened once and kept while they are in use; the least used goes first."""

    device: str = "auto"
    _open: OrderedDict[tuple[str, str], tuple[Family, threading.Lock]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, run: Run) -> tuple[Family, threading.Lock]:
        """The model of a run's newest checkpoint, and the lock to hold while it computes."""
        names = (folder.name for folder in (run.path / "checkpoints").glob("step-*"))
        key = str(run.path), max(names, default="")  # by its name alone: its checksums are read when it is opened
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        model = run.model(ranks(self.device).device)
        with self._lock:
            self._open[key] = self._open.get(key, (model, threading.Lock()))
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
            return self._open[key]


@dataclass
class Studio:
    """What the rooms share.

    Attributes:
        workspace: the folders; ``queue``: the long work; ``models``: those open for play.
    """

    workspace: Workspace
    queue: Queue
    models: Models = field(default_factory=Models)

    @functools.cached_property
    def limiter(self) -> anyio.CapacityLimiter:
        """How much is computed at a time for all pages together."""
        return anyio.CapacityLimiter(3)

    async def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute beside the loop that answers requests."""
        return await run_sync(functools.partial(function, *args, **kwargs), limiter=self.limiter)


Handler = Callable[[Studio, Request], Awaitable[Response]]


def route(studio: Studio, path: str, handler: Handler, methods: Sequence[str] = ("GET",)) -> Route:
    """A route whose errors are one line: 404 for what is not there, 413 for too much, 400 for what does not fit."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(studio, request)
        except TooMuch as error:
            return refusal(413, str(error))
        except Unknown as error:
            return refusal(404, str(error))
        except Exception as error:
            line = in_words(error)
            if line is None:
                import logging

                logging.getLogger("trilemma.studio").exception("while answering %s", printable(request.url.path))
                return refusal(500, "something broke that should not: the terminal of the studio says what")
            return refusal(400, line)

    return Route(path, answer, methods=list(methods))


def refusal(status: int, line: str) -> JSONResponse:
    """One line that says what is wrong."""
    return JSONResponse({"error": printable(line)[:600]}, status)


async def asked(request: Request, cls: type[T]) -> T:
    """The JSON body of a request as a frozen dataclass, checked like everything from outside."""
    try:
        record = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ValueError("the request holds no JSON") from None
    if not isinstance(record, Mapping):
        raise ValueError("the request must be a table of names and values")
    return decode(cls, record, "the request")


def png(picture: Image.Image, cache: bool = False) -> Response:
    """A picture as PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return Response(file.getvalue(), media_type="image/png", headers=CACHED if cache else None)


CACHED = {"cache-control": "private, max-age=31536000, immutable"}
"""For what never changes under its address."""


def families() -> list[dict[str, Any]]:
    """Every family with its words, its hue and the corners of its marker, as in the report."""
    return [
        {
            "name": name,
            "title": cls.title,
            "paper": cls.paper,
            "density": cls.density.value,
            "gives_up": cls.gives_up,
            "vectors": cls.vectors,
            "text": cls.reads_text,
            "hue": sign(name).hue,
            "marker": [[round(x, 3), round(y, 3)] for x, y in sign(name).vertices],
        }
        for name, cls in FAMILIES.items()
    ]


def device_words() -> str:
    """Where models compute, for people."""
    device = ranks("auto").device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
