"""The command line: a shell around the Python API. Nothing here imports torch until a verb runs."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App

import trilemma
from trilemma.text import printable

app = App(
    name="trilemma",
    help="""Every family of deep generative model, on your images, measured on one scale.

    Start with `trilemma compare mnist --conditional --out demo`, or with your own folder of images in place of mnist.
    Every verb has --help with examples.
    """,
    version=trilemma.__version__,
    help_format="markdown",
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
app.command(
    "trilemma.cli.compare:app",
    name="compare",
    help="Train several families under an equal budget and write one report.",
)
app.command("trilemma.cli.export:app", name="export", help="Write a trained denoiser for diffusers or as ONNX.")
app.command("trilemma.cli.import_model:app", name="import", help="Make a run of a diffusers DDPM folder.")
app.command("trilemma.cli.data:app", name="data", help="Look at a data set as the models will see it.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; every expected failure is one line on standard error and a non-zero exit."""
    # Idle OpenMP threads that spin make a busy machine many times slower; it must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = _warn
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows fewer letters than a name has
            stream.reconfigure(errors="backslashreplace")
    try:
        app(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        _fail("stopped; what was finished is saved", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, OSError) as error:
        if os.environ.get("TRILEMMA_DEBUG"):
            raise
        _fail(str(error) or type(error).__name__)
    except RuntimeError as error:
        # Diverged and Stopped say all there is to say; any other RuntimeError is a bug and shows its traceback.
        if not type(error).__module__.startswith("trilemma."):
            raise
        _fail(str(error))


def _fail(line: str, code: int = 1) -> None:
    print(f"trilemma: {printable(line)}", file=sys.stderr)
    raise SystemExit(code)


def _warn(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    print(f"trilemma: warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)
