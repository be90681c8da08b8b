"""Ask: every question that a run can be asked, in forms made from the questions' fields, as the command's flags are."""

from __future__ import annotations

import dataclasses
import re
import secrets
import shlex
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from trilemma.faults import bug, in_words
from trilemma.questions import Context, Question, answer, build, questions
from trilemma.run import Run
from trilemma.studio.room import Studio, asked, route
from trilemma.studio.training import BUILT_IN
from trilemma.studio.workspace import Unknown
from trilemma.validate import Limits, Seed, field_texts, limits_of, parse_fields

KEPT = 24
"""Answers that are kept for the page."""
SIDE_BY_SIDE = 2
"""Questions that are answered at a time."""


@dataclass(frozen=True)
class Asked:
    """A question as the page asks it: the fields as texts."""

    run: str
    question: str
    fields: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    seed: Seed = 0


class Cancelled(Exception):
    """A person does not want to wait for it."""


@dataclass
class Task:
    """A question that is being answered, or was."""

    question: str
    run: str
    command: str
    done: float = 0.0
    total: float = 1.0
    status: Literal["running", "done", "failed", "cancelled"] = "running"
    error: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def heard(self, done: float, total: float) -> None:
        """Take note of progress; the place where a question that nobody waits for ends."""
        self.done, self.total = done, total
        if self.cancelled.is_set():
            raise Cancelled


TASKS: OrderedDict[str, Task] = OrderedDict()
LOCK = threading.Lock()
TURN = threading.BoundedSemaphore(SIDE_BY_SIDE)


def routes(studio: Studio) -> list[BaseRoute]:
    return [
        route(studio, "/api/questions", _questions),
        route(studio, "/api/ask", _ask, ["POST"]),
        route(studio, "/api/ask/{key}", _task),
        route(studio, "/api/ask/{key}/cancel", _cancel, ["POST"]),
        route(studio, "/api/ask/{key}/figure", _figure),
    ]


async def _questions(studio: Studio, request: Request) -> Response:
    """Every question, whether this run can be asked it, and its form."""
    run = studio.workspace.run(request.query_params.get("run", ""))

    def found() -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "title": cls.title,
                "sentence": cls.sentence,
                "paper": cls.paper,
                "unable": cls.able(run),
                "fields": form(cls),
            }
            for name, cls in questions().items()
        ]

    return JSONResponse(await studio.work(found))


def form(cls: type[Question]) -> list[dict[str, Any]]:
    """The fields of a question as a page shows them: what kind each is, its help, its default and its range."""
    hints, texts = get_type_hints(cls), field_texts(cls)
    entries = []
    for each in dataclasses.fields(cls):
        if each.name in ("options", "text"):
            continue
        kind, choices = _kind(hints[each.name])
        default = None if each.default is dataclasses.MISSING else each.default
        entry: dict[str, Any] = {"name": each.name, "help": texts.get(each.name, ""), "kind": kind, "choices": choices}
        entry["default"] = ",".join(map(str, default)) if isinstance(default, tuple) else default
        if limits := limits_of(cls).get(each.name):
            entry |= {"least": _edge(limits, "least"), "most": _edge(limits, "most")}
        if each.name == "images" or (each.name == "other" and hints[each.name] is Any):
            entry["kind"] = "data"
        entries.append(entry)
    return entries


def _edge(limits: Limits, side: str) -> float | None:
    value = getattr(limits, side)
    return None if value is None or abs(value) >= 2**20 else value


def _kind(hint: Any) -> tuple[str, list[str]]:
    options = [option for option in (get_args(hint) or (hint,)) if option is not type(None)]
    if get_origin(hint) is Literal:
        return "choice", [str(option) for option in get_args(hint)]
    if options == [bool]:
        return "switch", []
    if options == [int]:
        return "whole", []
    return ("number", []) if options in ([float], [int, float]) else ("text", [])


async def _ask(studio: Studio, request: Request) -> Response:
    """Begin to answer."""
    wanted = await asked(request, Asked)
    run = studio.workspace.run(wanted.run)
    known = questions()
    if wanted.question not in known:
        raise Unknown(f"there is no question {wanted.question[:40]!r}")
    question, words = await studio.work(read, studio, known[wanted.question], wanted)
    if reason := question.able(run):
        raise ValueError(f"{wanted.run} cannot be asked {question.name}: {reason}")
    task = Task(
        question.name,
        wanted.run,
        shlex.join(["trilemma", "query", question.name, studio.workspace.words(wanted.run, run), *words]),
    )
    key = secrets.token_hex(8)
    with LOCK:
        TASKS[key] = task
        for old in [name for name, each in TASKS.items() if each.status != "running"][: max(0, len(TASKS) - KEPT)]:
            del TASKS[old]
        if len(TASKS) > KEPT:
            del TASKS[key]
            raise ValueError("too many questions at a time: wait for an answer, or cancel one")
    threading.Thread(target=_answer, args=(studio, task, run, question, wanted.seed), daemon=True).start()
    return JSONResponse({"task": key, "command": task.command})


def read(studio: Studio, cls: type[Question], wanted: Asked) -> tuple[Question, list[str]]:
    """A question from the texts of a form, and the flags that would ask the same in a terminal."""
    texts: dict[str, str] = {}
    about: dict[str, str] = {}
    words: list[str] = []
    for name, value in wanted.fields.items():
        if value is None or value == "":
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if own := studio.workspace.data().get(text):
            about[name] = text = str(own)
        elif text not in BUILT_IN:
            _no_path(name, text)
        texts[name] = text
        if name == cls.argument:
            words.insert(0, text)
        elif value is not False:
            flag = "-n" if name == "n" else f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [flag, text]
    options = {name: str(value) for name, value in wanted.options.items() if value not in (None, "")}
    for name, text in options.items():
        _no_path(name, text)
        words += [f"--{name.replace('_', '-')}", text]
    fields = parse_fields(cls, {k: v for k, v in texts.items() if k not in about}, f"the question {cls.name}") | about
    words += ["--seed", str(wanted.seed)] if wanted.seed else []
    return build(cls, fields | ({"options": options} if options else {})), words


def _no_path(name: str, text: str) -> None:
    """A page names no files: ``ValueError`` for what would be taken for one."""
    if re.search(r"[/\\\0]", text) or Path(text).exists():
        raise ValueError(f"{name} cannot be {text[:80]!r} here: choose a data set, or drop one on the page")


def _answer(studio: Studio, task: Task, run: Run, question: Question, seed: int) -> None:
    try:
        while not TURN.acquire(timeout=0.2):
            if task.cancelled.is_set():
                raise Cancelled
        try:
            found = answer(question, Context(run, seed, studio.models.device, task.heard, run.answers))
            task.record = found.save()
            for name, file in task.record["figures"].items():
                task.figures[name] = Path(file).suffix[1:], (run.answers / file).read_bytes()
            task.status = "done"
        finally:
            TURN.release()
    except Cancelled:
        task.status = "cancelled"
    except Exception as error:  # of whatever kind, it is of this task alone
        task.error, task.status = in_words(error) or bug(error), "failed"


def _known(request: Request) -> Task:
    task = TASKS.get(request.path_params["key"])
    if task is None:
        raise Unknown("that answer is no longer kept: ask again")
    return task


async def _task(studio: Studio, request: Request) -> Response:
    """How an answer stands, or the answer."""
    task = _known(request)
    plain = {"status": task.status, "done": task.done, "total": task.total, "error": task.error}
    return JSONResponse(
        plain | {"question": task.question, "run": task.run, "command": task.command, "answer": task.record}
    )


async def _cancel(studio: Studio, request: Request) -> Response:
    """Do not wait for it."""
    _known(request).cancelled.set()
    return JSONResponse({})


async def _figure(studio: Studio, request: Request) -> Response:
    """A figure of an answer."""
    figures: Mapping[str, tuple[str, bytes]] = _known(request).figures
    name = request.query_params.get("name", "")
    if name not in figures:
        raise Unknown("there is no such figure")
    kind, content = figures[name]
    return Response(content, media_type=f"image/{'svg+xml' if kind == 'svg' else kind}")
