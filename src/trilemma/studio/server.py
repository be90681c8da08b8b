"""The server: rooms behind one guard, on this machine alone unless it is told otherwise."""

from __future__ import annotations

import contextlib
import os
import secrets
import webbrowser
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.resources import files
from pathlib import Path

import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from trilemma import __version__
from trilemma.studio import asking, closer, comparing, gallery, lab, playing, studying, training, uploads, walking
from trilemma.studio.guard import Guard
from trilemma.studio.jobs import Queue
from trilemma.studio.listening import answer, listen, loopback
from trilemma.studio.room import Studio, device_words, families, route
from trilemma.studio.workspace import Workspace

STATIC = Path(str(files("trilemma.studio") / "static"))

ROOMS = (gallery, training, asking, comparing, uploads, lab, playing, walking, closer, studying)
"""Each has ``routes(studio)``."""


def application(studio: Studio, token: str = "", names: Sequence[str] = ()) -> Guard:
    """The studio as an ASGI application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        studio.queue.open()
        yield
        studio.queue.close()

    rooms: list[BaseRoute] = [each for room in ROOMS for each in room.routes(studio)]
    routes = [
        Route("/", _page),
        route(studio, "/api/studio", _about),
        *rooms,
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), token, frozenset(name.lower() for name in names))


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _about(studio: Studio, request: Request) -> Response:
    about = {
        "version": __version__,
        "home": str(studio.workspace.home),
        "device": await studio.work(device_words),
        "slots": studio.queue.slots,
        "families": families(),
    }
    return JSONResponse(about)


def serve(
    home: Path,
    folders: Sequence[Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    names: Sequence[str] = (),
    browse: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the studio until a signal comes.

    Args:
        home: the folder where it writes.
        folders: where else it looks for runs.
        host: the address to listen on; any but this machine's own asks every visitor for a token.
        port: the port; where it is taken the next free one; 0 for any.
        names: host names by which it may be called from elsewhere.
        browse: open a browser.
        say: told the address.

    Raises:
        ValueError: the address cannot be listened on, in one line.
    """
    listener = listen(host, port)
    port = listener.getsockname()[1]
    outside = not loopback(host)
    token = secrets.token_urlsafe(24) if outside else ""
    slots = 1 if torch.cuda.is_available() else max(1, min(4, os.cpu_count() or 1))
    studio = Studio(Workspace(home.resolve(), [folder.resolve() for folder in folders]), Queue(home / "jobs", slots))
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/"
    say(f"the studio is at {address}{f'?token={token}' if token else ''}")
    if outside:
        say("whoever has this link can use it, and what they send is not encrypted: it is for a network that you trust")
    say(f"what it makes is in {home}; Ctrl-C closes it, trainings go on and are found again")
    if browse and not outside:
        with contextlib.suppress(Exception):
            webbrowser.open(address)
    answer(application(studio, token, names), listener)
