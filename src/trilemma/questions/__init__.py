"""One question, one file; and the registry from which command, API, record, page and documentation are made."""

from __future__ import annotations

import importlib
import os
import pkgutil
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from trilemma.blocks import Progress
from trilemma.plugins import defined, load_plugins
from trilemma.questions.answer import Answer, Table
from trilemma.questions.question import AboutImages, Batch, Context, Question, build
from trilemma.run import Run

__all__ = ["AboutImages", "Answer", "Batch", "Context", "Question", "Table", "answer", "ask", "build", "questions"]

MEASURING = ("trilemma.evaluation.curve", "trilemma.evaluation.guidance")
"""Questions that measure thousands of images live where measuring is, a floor above."""


def questions() -> dict[str, type[Question]]:
    """Every question by its name, in the order in which they are shown; those of plugins come last."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    for name in MEASURING:
        importlib.import_module(name)
    load_plugins()
    found = {cls.name: cls for cls in defined(Question)}
    return {name: found.pop(name) for name in ORDER if name in found} | found


ORDER = (
    "likelihood", "ode", "terms", "classify", "ood", "surprise", "complete", "causality", "receptive", "posterior",
    "interpolate", "traverse", "manifold", "arithmetic", "downstream", "disentangle", "codes", "rates", "annealed",
    "density", "forward", "reverse", "invert", "curve", "guidance", "gradients", "learning",
)  # fmt: skip
"""How they are listed; a name that is not here comes after them."""


def answer(question: Question, context: Context) -> Answer:
    """Ask a run; ``ValueError``, one line, where it cannot answer."""
    if reason := question.able(context.run):
        raise ValueError(f"{context.run.title} cannot be asked {question.name}: {reason}")
    context.notes.clear()
    found = question.answer(context)
    doubts = list(dict.fromkeys([*([found.flag] if found.flag else []), *context.notes]))
    return replace(found, flag="; ".join(doubts) or None)


def ask(
    run: Run | str | os.PathLike[str],
    question: str = "likelihood",
    /,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    **fields: Any,
) -> Answer:
    """Ask a trained run one question.

    >>> import trilemma
    >>> trilemma.ask("runs/pixelcnn", "complete", keep="left", copies=6).save()  # doctest: +SKIP

    Args:
        run: a run or its folder.
        question: its name; ``trilemma query RUN`` lists what a run can be asked.
        seed: of all that is random, and of the choice of images.
        device: where to compute.
        progress: told ``(done, total)``.
        **fields: what the question lets one choose: the fields of its class.

    Raises:
        TypeError: the question has no such field.
        ValueError: no such question or run, the run cannot answer, or a value that does not fit, in one line.
    """
    opened = run if isinstance(run, Run) else Run.open(Path(run))
    known = questions()
    if question not in known:
        near = get_close_matches(question, list(known), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"there is no question {question!r}: {hint}")
    context = Context(opened, seed, device, progress, opened.answers)
    return answer(build(known[question], fields), context)
