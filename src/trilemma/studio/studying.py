"""The user study: the raters' page and what it asks for, and a room of the studio to make studies and see them go.

The raters' routes (`rating`) stand alone behind a guard of their own in ``trilemma study serve`` (`alone`), or in the
studio. They answer with as many bytes whatever is true, and read every image from memory.
"""

from __future__ import annotations

import dataclasses
import secrets
import shlex
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from trilemma.run import zoo
from trilemma.studio.guard import Guard
from trilemma.studio.jobs import described
from trilemma.studio.listening import answer, listen, loopback
from trilemma.studio.room import Handler, Studio, asked, refusal, route
from trilemma.studio.training import source_of
from trilemma.studio.workspace import Unknown, safe_name
from trilemma.study.design import Wanted, open_study
from trilemma.study.sitting import Answer, Closed, Sitting, State, conclusions, standing
from trilemma.study.vote import Form
from trilemma.study.votes import Votes, as_text
from trilemma.text import printable

STATIC = Path(str(files("trilemma.studio") / "static"))
OPEN = 8
"""Studies whose images are kept in memory."""


@dataclass
class Sittings:
    """Studies that raters sit at, opened once; the least used is closed first.

    Attributes:
        find: the folder of a study by its name in the address; one-line ``ValueError`` where there is none.
    """

    find: Callable[[str], Path]
    _open: OrderedDict[Path, Sitting] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, name: str) -> Sitting:
        """The study of that name."""
        path = self.find(name)
        with self._lock:
            if path not in self._open:
                self._open[path] = Sitting(path)
                while len(self._open) > OPEN:
                    self._open.popitem(last=False)  # closed when nobody uses it any more
            self._open.move_to_end(path)
            return self._open[path]


# --------------------------------------------------------------------------------------------------------- raters


@dataclass(frozen=True)
class Begin:
    """A rater comes, or comes back with a code."""

    code: str = ""


@dataclass(frozen=True)
class Given:
    """What a rater says of one trial; see `Sitting.vote`."""

    code: str
    trial: int
    answer: Answer
    milliseconds: float
    shown: float | None = None


def rating(sittings: Sittings) -> list[BaseRoute]:
    """The routes of raters; there are none of anybody else."""
    limiter = CapacityLimiter(16)  # a vote waits for the disk, and others need not wait for it

    def to(work: Callable[[Sitting, Any], State], body: type[Any]) -> Handler:
        async def answer(_: Any, request: Request) -> Response:
            given: Any = await asked(request, body)

            def done() -> bytes:
                return work(sittings.get(request.path_params["study"]), given).text()

            try:
                return Response(await run_sync(done, limiter=limiter), media_type="application/json")
            except Closed as error:
                return refusal(403, str(error))
            except OSError as error:  # the page keeps the vote and sends it again
                return refusal(507, str(error))

        return answer

    async def page(_: Any, request: Request) -> Response:
        await run_sync(sittings.get, request.path_params["study"], limiter=limiter)
        return FileResponse(STATIC / "study" / "index.html", headers={"cache-control": "no-cache"})

    async def image(_: Any, request: Request) -> Response:
        code, address = request.path_params["code"], request.path_params["address"]

        def found() -> bytes | None:
            return sittings.get(request.path_params["study"]).image(code, address)

        content = await run_sync(found, limiter=limiter)
        if content is None:
            raise Unknown("there is no such image now")
        return Response(content, media_type="image/png", headers={"cache-control": "no-store"})

    here: Any = None  # these routes need nothing of the studio
    return [
        route(here, "/study/{study}/", page),
        route(here, "/study/{study}/begin", to(lambda sitting, given: sitting.begin(given.code), Begin), ["POST"]),
        route(
            here,
            "/study/{study}/vote",
            to(lambda sitting, given: sitting.vote(**dataclasses.asdict(given)), Given),
            ["POST"],
        ),
        route(here, "/study/{study}/image/{code}/{address}", image),
    ]


def alone(folder: Path, token: str = "", names: Sequence[str] = ()) -> Guard:
    """One study as an ASGI application of its own, with the raters' routes and nothing else."""
    name = slug(folder)

    def find(asked_for: str) -> Path:
        if asked_for != name:
            raise Unknown("there is no such study here")
        return folder

    async def home(request: Request) -> Response:
        return RedirectResponse(f"/study/{quote(name)}/", 303)

    sittings = Sittings(find)
    sittings.get(name)  # what is wrong with it is said before anybody comes
    static = Mount("/static/study", StaticFiles(directory=STATIC / "study"))
    routes = [Route("/", home), *rating(sittings), static]
    return Guard(Starlette(routes=routes), token, frozenset(each.lower() for each in names), samesite="lax")


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7870,
    names: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Serve one study to raters until a signal comes.

    Args:
        folder: of the study.
        host: the address to listen on; any but this machine's own asks for the token that is in the link.
        port: the port; where it is taken the next free one; 0 for any.
        names: host names by which it may be called from elsewhere.
        say: told the link.

    Raises:
        ValueError: no study, or an address that cannot be listened on, in one line.
    """
    outside = not loopback(host)
    token = secrets.token_urlsafe(18) if outside else ""
    app = alone(folder, token, names)
    listener = listen(host, port)
    shown = (socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host).lower()
    link = f"http://{shown}:{listener.getsockname()[1]}/study/{quote(slug(folder))}/"
    say(f"raters open {link}{f'?token={token}' if token else ''}")
    if outside:
        say("whoever has this link can take part, and what they send is not encrypted: for a network that you trust")
    say(f"votes are kept in {folder}; Ctrl-C closes the study, and the same command opens it again")
    answer(app, listener)


def slug(folder: Path) -> str:
    """The name of a study that is served alone, in its address."""
    return safe_name(folder.resolve().name)


# ----------------------------------------------------------------------------------------------------- the studio


@dataclass(frozen=True)
class Order:
    """A new study of runs and sets of samples that are there; the rest as in `Wanted`."""

    runs: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    against: str = ""
    name: str = "study"
    title: str = Wanted.title
    form: Form = "real-or-fake"
    pair: Literal["real", "models"] = "real"
    question: str = ""
    exposure: str = "unlimited"
    images: int = Wanted.images
    trials: int = Wanted.trials
    score: bool = True


@dataclass(frozen=True)
class Door:
    """Let raters in, or not."""

    study: str
    open: bool


def routes(studio: Studio) -> list[BaseRoute]:
    sittings = Sittings(lambda name: studio.workspace.path("studies", name.replace("~", "/")))
    return [
        route(studio, "/api/studies", _studies),
        route(studio, "/api/studies", _new, ["POST"]),
        route(studio, "/api/study", _study),
        route(studio, "/api/study/zoo", _shipped),
        route(studio, "/api/study/open", _open, ["POST"]),
        route(studio, "/api/study/votes", _votes),
        *rating(sittings),
    ]


def _zoo() -> dict[str, str]:
    """The runs that ship with the package and draw images: their families by ``zoo/NAME``."""
    found = {f"zoo/{name}": zoo(name).config for name in zoo()}
    return {key: config.family for key, config in found.items() if not config.spec.vector}


async def _shipped(studio: Studio, request: Request) -> Response:
    """The zoo, as runs that a study can be made of."""
    found = await studio.work(_zoo)
    return JSONResponse([{"key": key, "family": family} for key, family in found.items()])


async def _studies(studio: Studio, request: Request) -> Response:
    """The studies that are there, the newest first."""

    def found() -> list[dict[str, Any]]:
        entries = []
        for key, path in studio.workspace.paths("studies").items():
            try:
                entries.append(_entry(key, path))
            except (ValueError, OSError) as error:
                entries.append({"key": key, "error": printable(error)[:300]})
        return entries

    return JSONResponse(await studio.work(found))


def _entry(key: str, path: Path) -> dict[str, Any]:
    with closing(Votes(path)) as votes:
        about = standing(votes, open_study(path))
    serving = shlex.join(("trilemma", "study", "serve", str(path), "--host", "0.0.0.0"))
    return {"key": key, "link": f"/study/{quote(key.replace('/', '~'))}/", "command": serving, **about}


async def _study(studio: Studio, request: Request) -> Response:
    """One study with what its votes say."""
    key = request.query_params.get("study", "")

    def found() -> dict[str, Any]:
        path = studio.workspace.path("studies", key)
        with closing(Votes(path)) as votes:
            entry = _entry(key, path) | {"results": None, "line": ""}
            if votes.counts()[1]:
                try:
                    entry["results"] = conclusions(votes)
                except ValueError as error:  # of votes that do not count yet
                    entry["line"] = printable(error)
        return entry

    return JSONResponse(await studio.work(found))


async def _open(studio: Studio, request: Request) -> Response:
    """Let raters in, or close the door; who is in the middle can go on when it is opened again."""
    door = await asked(request, Door)

    def done() -> dict[str, Any]:
        path = studio.workspace.path("studies", door.study)
        with closing(Votes(path)) as votes:
            votes.open = door.open
        return _entry(door.study, path)

    return JSONResponse(await studio.work(done))


async def _votes(studio: Studio, request: Request) -> Response:
    """Every vote, as a file."""
    key, kind = request.query_params.get("study", ""), request.query_params.get("kind", "csv")

    def found() -> str:
        with closing(Votes(studio.workspace.path("studies", key))) as votes:
            return as_text(votes.all(), kind)

    name = f"{safe_name(key.rpartition('/')[2])}-votes.{kind}"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    media = "application/json" if kind == "json" else "text/csv"
    return Response(await studio.work(found), media_type=media, headers=headers)


async def _new(studio: Studio, request: Request) -> Response:
    """Make a study, as a job: drawing the images of a slow family takes a while."""
    order = await asked(request, Order)
    out = studio.workspace.place("studies", order.name)
    if out.exists():
        raise ValueError(f"there is a study {out.name!r} already: choose another name")
    argv = ["study", "new", str(out)]
    for key in order.runs:
        argv += ["--runs", key if key in _zoo() else str(studio.workspace.path("runs", key))]
    for name in order.samples:
        argv += ["--samples", f"{safe_name(name)}={source_of(studio, name)}"]
    argv += ["--against", source_of(studio, order.against)] if order.against else []
    for name in ("title", "form", "pair", "question", "exposure", "images", "trials"):
        value = getattr(order, name)
        if value != getattr(Wanted, name):
            argv.append(f"--{name}={value}")
    argv += [] if order.score else ["--no-score"]
    job = studio.queue.add(argv, f"study {out.name}", out=studio.workspace.key(out))
    return JSONResponse(described(studio.queue, job))
