"""trilemma: every family of deep generative model, on your images, measured on one scale.

import trilemma

data = trilemma.load("photos/")                                   # or "mnist", an .npz, a zip, a Hub id
run = trilemma.train("diffusion", data, out="runs/diffusion", budget="10m")
run = trilemma.zoo("vae")                                         # or one that ships with the package
images = trilemma.sample(run, 64, seed=0).images                  # uint8 [64, C, H, W]
answer = trilemma.log_likelihood(run, images)                     # nats per image, and what kind of answer it is
page = trilemma.compare(data, out="report", budget="10m")         # all families, one page
page = trilemma.compare(runs=["runs/vae"], samples={"mine": "generated/"}, out="page")       # what is there, one page
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trilemma.comparison import compare
    from trilemma.data import Dataset, load
    from trilemma.evaluation import Protocol, evaluate
    from trilemma.evaluation.official import fid
    from trilemma.families import FAMILIES
    from trilemma.images import Spec, grid, save_png
    from trilemma.likelihood import log_likelihood
    from trilemma.questions import Answer, ask
    from trilemma.report import overview
    from trilemma.run import Run, zoo
    from trilemma.sampling import sample
    from trilemma.training import distill, train

# Names and where they live. They are imported when first asked for, so that `import trilemma` and the command's
# `--help` do not wait for torch. No module may bear the name of a function here: importing it would hide the function.
_HOMES = {
    "Answer": "trilemma.questions",
    "ask": "trilemma.questions",
    "compare": "trilemma.comparison",
    "Dataset": "trilemma.data",
    "load": "trilemma.data",
    "Protocol": "trilemma.evaluation",
    "distill": "trilemma.training",
    "evaluate": "trilemma.evaluation",
    "fid": "trilemma.evaluation.official",
    "FAMILIES": "trilemma.families",
    "Spec": "trilemma.images",
    "grid": "trilemma.images",
    "save_png": "trilemma.images",
    "log_likelihood": "trilemma.likelihood",
    "overview": "trilemma.report",
    "Run": "trilemma.run",
    "sample": "trilemma.sampling",
    "train": "trilemma.training",
    "zoo": "trilemma.run",
}

__all__ = [
    "FAMILIES",
    "Answer",
    "Dataset",
    "Protocol",
    "Run",
    "Spec",
    "__version__",
    "ask",
    "compare",
    "distill",
    "evaluate",
    "fid",
    "grid",
    "load",
    "log_likelihood",
    "overview",
    "sample",
    "save_png",
    "train",
    "zoo",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trilemma' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
