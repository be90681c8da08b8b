"""What was typed amiss, in one line, with what was likely meant."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

OPTIONS = {
    "epochs": "--budget, such as 20000steps or 1Mimages", "epoch": "--budget, such as 20000steps or 1Mimages",
    "iterations": "--budget 20000steps", "iters": "--budget 20000steps", "steps": "--budget 20000steps",
    "max-steps": "--budget 20000steps", "time": "--budget 2m",
    "learning-rate": "--train.lr", "bs": "--train.batch", "batch-size": "--train.batch",
    "latent-dim": "--model.latent", "z-dim": "--model.latent", "channels": "--model.width",
    "img-size": "--image-size", "resolution": "--image-size", "grayscale": "--color grey", "output": "--out",
    "output-dir": "--out", "outdir": "--out", "o": "--out", "num-samples": "-n", "num": "-n", "count": "-n",
    "gpu": "--device cuda", "cuda": "--device cuda", "dataset": "the data set itself, without a flag",
    "data": "the data set itself, without a flag", "class-cond": "--conditional", "real": "--against",
    "n": "--limit", "classes": "--labels", "class": "--labels", "family": "--families", "name": "--out",
}  # fmt: skip
"""What hands type from habit, and what it is called here."""


def misuse(error: CycloptsError) -> str:
    """One line on a command that does not parse, with what was likely meant."""
    text = re.sub(r"^Invalid value for (\S+): \1 ", r"\1 ", " ".join(str(error).split()))
    verb = error.command_chain[0] if error.command_chain else ""
    if isinstance(error, UnknownCommandError):
        words = list(error.unused_tokens or ())
        if verb == "train" and words and (meant := _family(words[0].lower())):
            return f"train has no family {words[0]!r}; did you mean {meant}?"
        return text
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        extra = error.unused_tokens[0]
        if extra.startswith("-"):
            return unknown_option(verb, extra, _flags(error))
        if verb == "compare":
            return f"compare takes one data set, and families after --families, with commas: what is {extra!r}?"
        if verb == "evaluate":
            return f"evaluate takes one thing to measure; did you mean --against {extra}?"
        return f"{verb} has no place for {extra!r}: trilemma {verb} --help lists what it takes"
    if isinstance(error, UnknownOptionError):
        return unknown_option(verb, error.token.keyword or error.token.value, _flags(error))
    if isinstance(error, MissingArgumentError):
        flag, known, drawing = error.keyword or "", _flags(error), _sampling_options()
        if flag in drawing:
            return f"{flag} needs a value: trilemma sample --help lists the sampling options"
        if flag.startswith("--") and flag not in known:  # taken for a sampling option, which no signature names
            return unknown_option(verb, flag, [*known, *drawing])
        if wanted := re.search(r"parameter (\S+) requires", text):
            command = " ".join(error.command_chain or ())
            return f"{command} needs {wanted[1]}: trilemma {command} --help says what it is"
    return text


def unknown_option(verb: str, flag: str, known: Sequence[str]) -> str:
    """One line on a flag that a verb does not have, with the one that was likely meant."""
    flag = flag.split("=")[0]
    if verb == "query" and (question := _question(flag.lstrip("-"))):
        return f"query has no option {flag}: a question follows the verb, as in trilemma query {question} RUN"
    meant = _meant(flag.lstrip("-").replace("_", "-").lower(), known)
    if meant:
        return f"{verb} has no option {flag}; did you mean {meant}?"
    which = f"{verb} FAMILY" if verb == "train" else verb
    return f"{verb} has no option {flag}: trilemma {which} --help lists those that it has"


def _meant(name: str, known: Sequence[str]) -> str | None:
    """The flag that was likely meant: the last part of one, one of another tool's name, or one spelt nearly so."""
    if tails := [flag for flag in known if flag.endswith(f".{name}")]:
        return tails[0]
    habit = OPTIONS.get(name)
    if habit and (not habit.startswith("-") or habit.split()[0].rstrip(",") in known):
        return habit
    by_name = {flag.lstrip("-").rpartition(".")[2]: flag for flag in known}
    close = get_close_matches(name, by_name, 1, 0.75)
    return by_name[close[0]] if close else None


def _question(name: str) -> str | None:
    """The question that was likely meant, or None."""
    from trilemma.questions import questions

    return next(iter(get_close_matches(name, list(questions()), 1, 0.8)), None)


def _family(name: str) -> str | None:
    """The family that others call so, with the flags that make it that, or None."""
    from trilemma.families import FAMILIES

    for family in FAMILIES.values():
        if name in family.known_as:
            return f"{family.name} {family.known_as[name]}".strip()
    return None


def _sampling_options() -> list[str]:
    """The flags that no signature names, because each family has its own."""
    from trilemma.families import FAMILIES

    names = {field.name for family in FAMILIES.values() for field in dataclasses.fields(family.Options)}
    return [f"--{name.replace('_', '-')}" for name in sorted(names)]


def refuse_unknown(verb: str, app: App, options: Iterable[str], also: Sequence[str] = ()) -> None:
    """A one-line ``ValueError`` for what was taken for a sampling option and is none of any family, nor among ``also``.

    Args:
        verb: the word that was typed, and ``app`` its command.
        options: names as Python has them.
        also: further flags that the verb takes in this way.
    """
    drawing = [*_sampling_options(), *also]
    for name in options:
        if (flag := f"--{name.replace('_', '-')}") not in drawing:
            raise ValueError(unknown_option(verb, flag, [*flags_of(app), *drawing]))


def flags_of(app: App | None) -> list[str]:
    """Every flag that the signature of a command names."""
    arguments = app.assemble_argument_collection() if app else ()
    return [name for argument in arguments for name in argument.names if name.startswith("-")]


def _flags(error: CycloptsError) -> list[str]:
    """Those of the command that was typed."""
    return flags_of(error.app)
