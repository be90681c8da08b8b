"""Compare: past comparisons with their one-file pages, and new ones of what is already there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute

from trilemma.report.page import POLICY
from trilemma.studio.jobs import described
from trilemma.studio.room import Studio, asked, route
from trilemma.studio.training import source_of
from trilemma.studio.workspace import Unknown, safe_name
from trilemma.text import printable


@dataclass(frozen=True)
class Wanted:
    """A comparison of runs and sets of samples that are there, against real images."""

    runs: tuple[str, ...]
    samples: tuple[str, ...] = ()
    against: str = ""
    name: str = "comparison"
    n: int = 1000


def routes(studio: Studio) -> list[BaseRoute]:
    return [
        route(studio, "/api/comparisons", _comparisons),
        route(studio, "/api/comparisons", _compare, ["POST"]),
        route(studio, "/comparison/report.html", _page),
    ]


async def _comparisons(studio: Studio, request: Request) -> Response:
    """Those that are there: their titles, their families, when they were made."""

    def found() -> list[dict[str, Any]]:
        entries = (_entry(key, studio) for key in studio.workspace.paths("comparisons"))
        return [entry for entry in entries if entry]

    return JSONResponse(await studio.work(found))


def _entry(key: str, studio: Studio) -> dict[str, Any] | None:
    folder = studio.workspace.path("comparisons", key)
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        names = [printable(family["title"]) for family in report["families"]]
        entry = {"key": key, "title": printable(report["title"]), "created": str(report["created"]), "families": names}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # of another program
    return entry | {"page": (folder / "report.html").is_file()}


async def _page(studio: Studio, request: Request) -> Response:
    """The one-file page of a comparison, under its own policy: it runs its one script and loads nothing."""
    path = studio.workspace.path("comparisons", request.query_params.get("comparison", "")) / "report.html"
    if not path.is_file():
        raise Unknown("this comparison has no page: make it anew")
    headers = {"content-security-policy": f"{POLICY}; frame-ancestors 'self'", "cache-control": "no-cache"}
    if request.query_params.get("save"):
        return FileResponse(path, headers=headers, filename=f"{safe_name(path.parent.name)}.html")
    return FileResponse(path, headers=headers)


async def _compare(studio: Studio, request: Request) -> Response:
    """Put runs and samples side by side, without training any."""
    wanted = await asked(request, Wanted)
    if len(wanted.runs) + len(wanted.samples) < 1:
        raise ValueError("choose the runs to compare")
    out = studio.workspace.place("comparisons", wanted.name)
    argv = ["compare", "--out", str(out), "-n", str(wanted.n)]
    for key in wanted.runs:
        argv += ["--runs", studio.workspace.words(key, studio.workspace.run(key))]
    for name in wanted.samples:
        argv += ["--samples", f"{safe_name(name)}={source_of(studio, name)}"]
    argv += ["--against", source_of(studio, wanted.against)] if wanted.against else []
    job = studio.queue.add(argv, f"compare {', '.join((*wanted.runs, *wanted.samples))}", out=studio.workspace.key(out))
    return JSONResponse(described(studio.queue, job))
