"""What training tells along the way: log lines, alarms, reports to a listener, TensorBoard."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trilemma.parallel import Ranks
from trilemma.run import Run
from trilemma.training.budget import Budget, Progress
from trilemma.training.loop import Learner


@dataclass(frozen=True)
class Report:
    """What a listener hears after each step: the counters, the share of the budget spent, and smoothed logs."""

    step: int
    images: int
    seconds: float
    spent: float
    images_per_second: float
    loss: float
    logs: Mapping[str, float]


Board = Callable[[Mapping[str, float], int], None]
"""Takes the means of a log line and its step."""


def tensorboard_writer(folder: Path) -> Callable[[], Board]:
    """Opens a TensorBoard log when called; a one-line ``ValueError`` at once if the extra is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError('--tensorboard needs an extra: pip install "trilemma[tensorboard]"')

    def open_board() -> Board:
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(folder))

        def board(means: Mapping[str, float], step: int) -> None:
            for name, value in means.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        return board

    return open_board


@dataclass
class Recorder:
    """Averages what the steps log, writes a line each ``log_every`` steps, and raises alarms."""

    run: Run
    learner: Learner
    where: Ranks
    say: Callable[[str], None]
    board: Board | None = None
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _count: int = 0
    _means: dict[str, float] = field(default_factory=dict)
    _smooth: dict[str, float] = field(default_factory=dict)
    _alarms: set[str] = field(default_factory=set)
    _mark: tuple[int, float] = (0, 0.0)

    def hear(self, logs: Mapping[str, Tensor], progress: Progress, limit: Budget) -> Report | None:
        """Take in one step; returns the report of this moment (on the first rank)."""
        for name, value in logs.items():
            self._sums[name] = self._sums[name] + value.float() if name in self._sums else value.float()
        self._count += 1
        images, seconds = self._mark  # before a line of the log moves it to this step
        if progress.step % self.run.config.train.log_every == 0 or not self._means:
            self.flush(progress, write=progress.step % self.run.config.train.log_every == 0)
        if not self.where.first:
            return None
        elapsed = progress.seconds - seconds
        terms = [v for name, v in self._means.items() if not name.startswith("gradient norm")]
        return Report(
            step=progress.step,
            images=progress.images,
            seconds=progress.seconds,
            spent=limit.spent(progress),
            images_per_second=(progress.images - images) / elapsed if elapsed > 0 else 0.0,
            loss=terms[0] if terms else math.nan,
            logs=self._means,
        )

    def flush(self, progress: Progress, write: bool = True) -> None:
        """Average what was heard since the last line, over steps and ranks; write it down."""
        if not self._count:
            return
        names = sorted(self._sums)
        values = self.where.mean(torch.stack([self._sums[name] for name in names]) / self._count).tolist()
        order = list(self._sums)
        self._means = {name: dict(zip(names, values, strict=True))[name] for name in order}
        if not write:
            return
        self._sums, self._count = {}, 0
        if self._mark[0] == 0 or progress.images - self._mark[0] > 50 * self.run.config.train.batch:
            self._mark = (progress.images, progress.seconds)
        if not self.where.first:
            return
        counters = {"step": progress.step, "images": progress.images, "seconds": round(progress.seconds, 3)}
        self.run.log(counters | {name: float(f"{value:.6g}") for name, value in self._means.items()})
        if self.board:
            self.board(self._means, progress.step)
        for name, value in self._means.items():
            self._smooth[name] = 0.7 * self._smooth.get(name, value) + 0.3 * value
        for alarm in self.learner.model.alarms(self._smooth | {"step": progress.step}):
            if alarm not in self._alarms:
                self._alarms.add(alarm)
                self.say(alarm)
                self.run.log({"step": progress.step, "images": progress.images, "alarm": alarm})
