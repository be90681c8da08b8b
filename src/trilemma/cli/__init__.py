"""The command line: a shell around the Python API. Nothing here imports torch until a verb runs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import cyclopts
from cyclopts import App, Parameter, Token

import trilemma
from trilemma.cli.interrupts import Interrupted, Interrupts, again
from trilemma.text import printable


def _converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """Texts to what a parameter takes; where that is a whole number, 2.7 is refused and not rounded."""
    if "int" in re.findall(r"\w+", str(kind)):
        for token in tokens:
            text = token.value.strip()
            if not re.fullmatch(r"[+-]?\d{1,18}|[+-]?0[xob]\w+|none", text, re.IGNORECASE):
                what = "a whole number" if not text.lstrip("+-").isdigit() else "smaller"
                raise ValueError(f"{token.keyword or 'a value'} must be {what}, not {token.value}")
    return cyclopts.convert(kind, tokens)


app = App(
    default_parameter=Parameter(converter=_converted),
    name="trilemma",
    help="""Every family of deep generative model, on your images, measured on one scale.

    Start with `trilemma compare mnist --conditional --out demo`, or with your own folder of images in place of mnist.
    Every verb has --help with examples.
    """,
    version=trilemma.__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # `main` has more to say
)
# The verbs live in modules that are imported when the verb is typed.
app.command("trilemma.cli.train:app", name="train", help="Train one family of model on a data set.")
app.command("trilemma.cli.sample:app", name="sample", help="Draw images from a trained run.")
app.command(
    "trilemma.cli.query:app",
    name="query",
    help="Ask a trained run: log p(x) of images, their codes, completions, what its samplers are worth, and more.",
)
app.command(
    "trilemma.cli.evaluate:app", name="evaluate", help="Measure a run, or a folder of images, against real images."
)
app.command("trilemma.cli.fid:app", name="fid", help="Print the FID of two sets of images, as papers print it.")
app.command(
    "trilemma.cli.compare:app",
    name="compare",
    help="Train several families under an equal budget and write one report, or put runs and images on one.",
)
app.command(
    "trilemma.cli.distill:app", name="distill", help="Make a student of a denoiser, which draws in a few evaluations."
)
app.command("trilemma.cli.studio:app", name="studio", help="Open a page to train, watch, play, ask and judge.")
app.command(
    "trilemma.cli.study:app", name="study", help="Let people judge which images are real, and read what they say."
)
app.command("trilemma.cli.report:app", name="report", help="Open a comparison that is there, and write its page anew.")
app.command("trilemma.cli.export:app", name="export", help="Write a trained denoiser for diffusers or as ONNX.")
app.command("trilemma.cli.import_model:app", name="import", help="Make a run of a diffusers DDPM folder.")
app.command(
    "trilemma.cli.check_family:app",
    name="check-family",
    help="Check a family of your own against the contract of all of them.",
)
app.command("trilemma.cli.data:app", name="data", help="Look at a data set as the models will see it.")
app.register_install_completion_command(help="Let the shell complete verbs, questions and flags.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; every expected failure is one line on standard error and a non-zero exit."""
    # Idle OpenMP threads that spin make a busy machine many times slower; it must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of processes that lose each other, one line is enough
    warnings.showwarning = _warn
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows fewer letters than a name has
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    with Interrupts(last=arguments is None) as interrupts:
        try:
            _run(words)
        except KeyboardInterrupt as error:
            interrupts.ignore()
            number = getattr(error, "number", signal.SIGINT)
            _fail("stopped; what was finished is saved, and this continues:", 128 + number, again(words))


def _run(words: list[str]) -> None:
    try:
        if any(".py:" in word for word in words):
            from trilemma.cli.own import own_families

            words = own_families(words)
        app(words, exit_on_error=False, print_error=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception as error:
        from trilemma.cli.errors import misuse
        from trilemma.faults import bug, in_words

        if isinstance(error, cyclopts.CycloptsError):
            _fail(misuse(error), 2)
        if os.environ.get("TRILEMMA_DEBUG"):
            raise
        if number := getattr(error, "number", 0):  # Stopped
            raise Interrupted(number) from None
        _fail(in_words(error) or bug(error))


def _fail(line: str, code: int = 1, command: str = "") -> None:
    """End with a line on what happened; ``command`` stands on a line of its own, to be copied."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"trilemma: {printable(line)}", *([printable(command)] if command else []), sep="\n", file=sys.stderr)
        sys.stderr.flush()
    raise SystemExit(code)


def _warn(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    print(f"trilemma: warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)
