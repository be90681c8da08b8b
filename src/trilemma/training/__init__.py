"""Training: data and a config into a run folder."""

from trilemma.training.budget import Budget, Progress
from trilemma.training.distilled import distill
from trilemma.training.driver import make_config, train
from trilemma.training.imported import import_run
from trilemma.training.loop import Batches, Diverged, average, steps
from trilemma.training.recorder import Report

__all__ = [
    "Batches",
    "Budget",
    "Diverged",
    "Progress",
    "Report",
    "average",
    "distill",
    "import_run",
    "make_config",
    "steps",
    "train",
]
