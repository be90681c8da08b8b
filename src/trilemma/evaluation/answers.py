"""What a run says to questions: those that every evaluation asks, and those it was asked before."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import Tell
from trilemma.evaluation.subject import Subject
from trilemma.parallel import ranks
from trilemma.questions import Context, Question, answer, build, questions
from trilemma.run import Run
from trilemma.validate import read_json

FOLDER = "queries"
"""Of the answers beside an evaluation."""


def besides(names: str) -> list[Question]:
    """The questions of `Protocol.ask`: names, each with its argument after an equals sign, between commas.

    Raises:
        ValueError: there is no such question, or it has no argument, in one line.
    """
    known, found = questions(), []
    for part in filter(None, map(str.strip, names.split(","))):
        name, _, value = part.partition("=")
        if name not in known:
            raise ValueError(f"--ask names the question {name!r}: there are {', '.join(known)}")
        if value and not known[name].argument:
            raise ValueError(f"--ask {part}: the question {name} takes nothing behind an equals sign")
        found.append(build(known[name], {known[name].argument: value} if value else {}))
    return found


def ask_routine(subject: Subject, real: Reference, place: Path, device: str, tell: Tell | None) -> None:
    """Ask a run what every evaluation asks, each question as it says itself, and what `Protocol.ask` names besides.

    The answers are saved in ``place``.
    """
    run, model = subject.run, subject.model
    if run is None or model is None:
        return
    chosen = [cls.routine(run) for cls in questions().values() if cls.able(run) is None]
    chosen += [each for each in besides(real.protocol.ask) if each.able(run) is None]
    for question in filter(None, chosen):
        name = question.name
        progress = None if tell is None else (lambda done, total, name=name: tell(name, done, total))
        context = Context(run, real.protocol.seed, device, progress, place / FOLDER, (model, real.dataset))
        try:
            found = answer(question, context)
        except ValueError:
            continue  # there are too few images for it, or none of a kind that it needs
        if ranks(device).first:
            found.save(place / FOLDER)


def answers_of(run: Run, folder: Path | None = None) -> list[dict[str, Any]]:
    """The answers that lie in a folder, by default the run's own, each as its record; damaged ones are left out.

    One that was given before the run was trained on has a flag that says so.
    """
    folder = run.answers if folder is None else folder
    step, found = run.progress()["step"], {}
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(ValueError):
            record = read_json(path)
            if record.get("question") and isinstance(record.get("figures"), dict):
                if record.get("step") != step:
                    record["flag"] = f"asked after step {record.get('step')}, and the run has {step} now: ask again"
                found[record["question"]] = record
    return [found.pop(name) for name in questions() if name in found] + list(found.values())
