"""The one training loop.

`steps` is a generator: each turn runs every objective of the family once (or its repeats) and yields what they logged.
It knows no family, draws nothing from global generators, and is a function of ``(config, step)``: the batch, the noise
and the dropped labels of step *n* are the same whether the run was interrupted before it, or how many processes share
the batch. `train` drives it: checkpoints, sample grids, the log, alarms, progress, and a safe stop.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trilemma import __version__
from trilemma.config import RunConfig, TrainConfig
from trilemma.data import DataConfig, Dataset, load
from trilemma.families.family import Family, Loss, Objective
from trilemma.images import grid, save_png
from trilemma.noise import BatchNoise, ImageNoise, Noise, derive_seed
from trilemma.parallel import Ranks, autocast, ranks
from trilemma.presets import configure
from trilemma.run import Run, State, is_run, load_weights, same_run


class Diverged(RuntimeError):
    """A loss or gradient stopped being a number; the last good checkpoint is kept."""


# Budgets


@dataclass(frozen=True)
class Budget:
    """How long to train: an amount of seconds, steps or images."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """``90s``, ``2m``, ``1.5h``, ``5000steps``, ``200kimages``, ``1Mimages``."""
        match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(s|m|h|[kM]?steps?|[kM]?images?)", text.strip())
        if not match or float(match[1]) <= 0:
            raise ValueError(f"budget {text!r} is not understood: write 90s, 2m, 1h, 5000steps or 1Mimages")
        amount, unit = float(match[1]), match[2]
        if unit in ("s", "m", "h"):
            return cls(amount * {"s": 1, "m": 60, "h": 3600}[unit], "seconds")
        factor = {"k": 1e3, "M": 1e6}.get(unit[0], 1)
        return cls(amount * factor, "images" if "image" in unit else "steps")

    def spent(self, progress: Progress) -> float:
        """The share of the budget that is used up; 1 or more when training is over."""
        return float(getattr(progress, self.unit)) / self.amount


@dataclass
class Progress:
    """Where training stands."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        return self.step


# Batches


@dataclass
class Batches:
    """An endless stream of training indices: one seeded permutation after another, a function of the position."""

    indices: Any  # int64 ndarray [N]
    seed: int
    _epochs: dict[int, Tensor] = field(default_factory=dict)

    def at(self, position: int, count: int) -> Tensor:
        """The dataset indices of stream positions ``position … position + count``."""
        size = len(self.indices)
        parts, stop = [], position + count
        while position < stop:
            epoch, offset = divmod(position, size)
            taken = min(size - offset, stop - position)
            parts.append(self._order(epoch)[offset : offset + taken])
            position += taken
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", epoch))
            order = torch.from_numpy(self.indices)[torch.randperm(len(self.indices), generator=generator)]
            self._epochs = {e: o for e, o in self._epochs.items() if e >= epoch - 1} | {epoch: order}
        return self._epochs[epoch]


# The loop


class _Step(nn.Module):
    """One objective as a module, so that DistributedDataParallel can average its gradients."""

    def __init__(self, family: Family, objective: Objective) -> None:
        super().__init__()
        self.family = family
        self.loss = objective.loss

    def forward(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        return self.loss(x, labels, noise)


@dataclass
class Learner:
    """A model in training: its objectives with their optimisers, its averaged copy, and the statistics it keeps."""

    model: Family
    ema: Family | None
    objectives: Sequence[Objective]
    optimizers: list[torch.optim.Optimizer]
    modules: list[nn.Module]
    statistics: list[Tensor]

    @classmethod
    def build(cls, run: Run, where: Ranks) -> Learner:
        settings = run.config.train
        model = run.build().to(where.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        objectives = list(model.objectives())
        ema = copy.deepcopy(model).eval().requires_grad_(False) if settings.ema else None
        # The fused kernel is several times faster on CPU and CUDA.
        fused = where.device.type in ("cpu", "cuda")
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(list(o.parameters), lr=settings.lr, betas=settings.betas, fused=fused) for o in objectives
        ]
        modules: list[nn.Module] = []
        for objective in objectives:
            objective.freeze_others(model)
            step = _Step(model, objective)
            # Buffers are averaged by the loop: to broadcast the first rank's would forget what the others saw.
            modules.append(DistributedDataParallel(step, broadcast_buffers=False) if where.size > 1 else step)
        kept = set(model.state_dict())
        statistics = [b for name, b in model.named_buffers() if name in kept and b.is_floating_point()]
        return cls(model, ema, objectives, optimizers, modules, statistics)

    def state(self, progress: Progress) -> State:
        return State(
            model=self.model.state_dict(),
            ema=self.ema.state_dict() if self.ema else None,
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            step=progress.step,
            images=progress.images,
            seconds=progress.seconds,
        )

    def restore(self, state: State, where: str) -> None:
        load_weights(self.model, state.model, where)
        if (self.ema is None) != (state.ema is None) or len(state.optimizers) != len(self.optimizers):
            raise ValueError(f"{where} does not belong to this config: averaged weights or optimisers are missing")
        if self.ema is not None and state.ema is not None:
            load_weights(self.ema, state.ema, where)
        for optimizer, saved in zip(self.optimizers, state.optimizers, strict=True):
            optimizer.load_state_dict(saved)


def learning_rate(settings: TrainConfig, step: int, spent: float) -> float:
    """The rate of the next step, ``step`` counted from 0 and ``spent`` the share of the budget that is used up."""
    rise = (step + 1) / (settings.warmup + 1)
    fall = (1 - spent) / settings.anneal if settings.anneal else 1.0
    return settings.lr * max(0.0, min(1.0, rise, fall))


def steps(
    learner: Learner, data: Dataset, config: RunConfig, progress: Progress, where: Ranks, limit: Budget | None = None
) -> Iterator[dict[str, Tensor]]:
    """Train for ever, one step a turn, updating ``progress``; yields the logged scalars of the step.

    ``limit`` is what the learning rate is annealed towards; without it the rate stays constant.

    Raises:
        Diverged: a loss or a gradient is not finite; the step's optimiser has not been run.
    """
    settings, spec = config.train, config.spec
    batches = Batches(data.train, derive_seed(config.seed, "batches"))
    rows = where.share(settings.batch)
    draws = max(objective.repeats for objective in learner.objectives)

    def noise(*key: int | str) -> BatchNoise:
        return BatchNoise((config.seed, progress.step, *key), settings.batch, rows.start, rows.stop, where.device)

    def batch(repeat: int) -> tuple[Tensor, Tensor | None]:
        position = progress.images + repeat * settings.batch
        indices = batches.at(position, settings.batch)[rows.start : rows.stop].numpy()
        cpu_noise = BatchNoise(
            (config.seed, progress.step, "binarise", repeat), settings.batch, rows.start, rows.stop, torch.device("cpu")
        )
        x = data.batch(indices, cpu_noise).to(where.device)
        if not spec.classes:
            return x, None
        labels = data.label_batch(indices)
        assert labels is not None
        labels = labels.to(where.device)
        dropped = noise("labels", repeat).uniform() < settings.label_dropout
        return x, torch.where(dropped, spec.classes, labels)

    while True:
        drawn = [batch(repeat) for repeat in range(draws)]
        logs: dict[str, Tensor] = {}
        # Clocks differ between processes: they take the first one's word for how far they are.
        spent = where.agree(limit.spent(progress)) if limit and settings.anneal else 0.0
        lr = learning_rate(settings, progress.step, spent)
        learner.model.train()
        for objective, optimizer, module in zip(learner.objectives, learner.optimizers, learner.modules, strict=True):
            objective.freeze_others(learner.model)
            for group in optimizer.param_groups:
                group["lr"] = lr
            for repeat in range(objective.repeats):
                x, labels = drawn[repeat]
                with autocast(where.device, settings.precision):
                    loss: Loss = module(x, labels, noise(objective.name, repeat))
                total = loss.total
                optimizer.zero_grad(set_to_none=True)
                total.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(objective.parameters, settings.clip or math.inf)
                if not bool(torch.isfinite(total.detach() + norm)):
                    raise Diverged(_culprit(objective, loss, progress))
                optimizer.step()
            logs |= {name: value.detach() for name, value in (loss.terms | loss.logs).items()}
            logs[f"gradient norm ({objective.name})"] = norm.detach()
        for statistic in learner.statistics if where.size > 1 else ():
            statistic.copy_(where.mean(statistic.clone()))
        if learner.ema is not None:
            average(learner.ema, learner.model, min(settings.ema, (1 + progress.step) / (10 + progress.step)))
        progress.step += 1
        progress.images += settings.batch * draws
        yield logs


def _culprit(objective: Objective, loss: Loss, progress: Progress) -> str:
    bad = [name for name, value in loss.terms.items() if not bool(torch.isfinite(value))]
    what = f"the loss term {bad[0]!r}" if bad else "the gradient"
    return (
        f"{what} of the {objective.name} objective is not finite at step {progress.step + 1}; the weights were not "
        "touched and the last checkpoint is kept: try a lower --train.lr or --train.precision fp32"
    )


@torch.no_grad()
def average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's: ema ← decay·ema + (1 − decay)·model. Buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), [p.detach() for p in model.parameters()], 1 - decay)
    for mine, theirs in zip(ema.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


# The driver


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


def train(
    family: str,
    data: Dataset | DataConfig | str | os.PathLike[str] = "mnist",
    *,
    out: str | os.PathLike[str],
    size: str = "tiny",
    budget: str = "2m",
    seed: int = 0,
    conditional: bool = False,
    model: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    device: str = "auto",
    listen: Callable[[Report], None] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Train a family on a data set, into a run folder.

    Args:
        family: a key of `FAMILIES`.
        data: a loaded `Dataset`, or what `load` takes.
        out: the run folder.
        size: the preset, ``tiny`` to ``large``.
        budget: the total to train for, ``90s``, ``5000steps`` or ``1Mimages``; a resumed run counts what it has done.
        seed: decides the initial weights, the batches and all noise.
        conditional: train P(x|y) on the data's labels.
        model: fields of the family's config that differ from the preset.
        settings: fields of `TrainConfig` that differ from the preset.
        resume: continue the run in ``out`` if there is one; its final weights equal those of an uninterrupted run.
        tensorboard: write the training log for TensorBoard too, into the run folder.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        listen: called after every step.
        say: called with alarms and other single lines.

    Returns:
        The run. If a signal stopped it early it is saved and can be resumed.

    Raises:
        ValueError: bad input, in one line.
        Diverged: the training broke down; the last good state is on disk.
    """
    limit = Budget.parse(budget)
    board = tensorboard_writer(Path(out) / "tensorboard") if tensorboard else None
    where = ranks(device)
    dataset = data if isinstance(data, Dataset) else load(data, progress=where.first)
    config = make_config(family, dataset, size=size, seed=seed, conditional=conditional, model=model, settings=settings)
    check_batch(config, dataset, where)
    if resume and is_run(out):
        run = Run.open(out)
        if difference := same_run(run.config, config):
            raise ValueError(f"cannot resume {out}: {difference}; leave that option out or choose another --out")
    else:
        run = Run.create(out, config) if where.first else Run(Path(out), config)
    where.wait()
    if not where.first:
        return _drive(run, dataset, limit, where, None, lambda line: None)
    with run.lock():
        return _drive(run, dataset, limit, where, listen, say, board)


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


def make_config(
    family: str,
    dataset: Dataset,
    *,
    size: str = "tiny",
    seed: int = 0,
    conditional: bool = False,
    model: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The whole config of a run, as `train` would save it."""
    spec = dataset.spec(conditional)
    model_config, train_config = configure(family, size, spec, model, settings)
    return RunConfig(
        family=family,
        size=size,
        seed=seed,
        spec=spec,
        data=dataset.config,
        model=model_config,
        train=train_config,
        data_fingerprint=dataset.fingerprint,
        class_names=dataset.class_names if conditional else (),
        version=__version__,
    )


def check_batch(config: RunConfig, dataset: Dataset, where: Ranks) -> None:
    """Refuse a batch that the data or the processes cannot fill."""
    batch = config.train.batch
    if len(dataset.train) < batch:
        raise ValueError(
            f"{dataset.name} has {len(dataset.train)} training images, fewer than one batch of {batch}: "
            f"add images or set --train.batch {max(1, len(dataset.train) // 2)}"
        )
    if batch % where.size:
        raise ValueError(f"--train.batch {batch} cannot be shared by {where.size} processes: use a multiple of it")


def _drive(
    run: Run,
    dataset: Dataset,
    limit: Budget,
    where: Ranks,
    listen: Callable[[Report], None] | None,
    say: Callable[[str], None],
    board: Callable[[], Board] | None = None,
) -> Run:
    learner, progress = Learner.build(run, where), Progress()
    learner.model.check()
    if run.has_checkpoint:
        state = run.load()
        learner.restore(state, str(run.path))
        progress = Progress(state.step, state.images, state.seconds)
    if where.first:
        run.rewind_logs(progress.step)
    where.wait()
    recorder = Recorder(run, learner, where, say, board() if board else None)
    saved = time.monotonic()
    pictures = run.config.train.pictures
    with Stop() as stop:
        loop = steps(learner, dataset, run.config, progress, where, limit)
        # The budget is checked by agreement: clocks differ between processes, decisions must not.
        while not where.agree(limit.spent(progress) >= 1) and not where.any(stop.asked):
            drawn = int(limit.spent(progress) * pictures)
            started = time.perf_counter()
            try:
                logs = next(loop)
            except Diverged:
                if where.first and not run.has_checkpoint:
                    run.save(learner.state(progress))
                raise
            progress.seconds += time.perf_counter() - started
            report = recorder.hear(logs, progress, limit)
            if not where.first:
                continue
            if listen and report:
                listen(report)
            if int(limit.spent(progress) * pictures) > drawn:
                draw(run, learner, dataset, progress)
            if time.monotonic() - saved > run.config.train.save_every:
                run.save(learner.state(progress))
                saved = time.monotonic()
        if stop.asked:
            say("stopping after this step; saving …")
        recorder.flush(progress)
        if where.first:
            run.save(learner.state(progress))
    where.wait()
    return run


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
        if progress.step % self.run.config.train.log_every == 0 or not self._means:
            self.flush(progress, write=progress.step % self.run.config.train.log_every == 0)
        if not self.where.first:
            return None
        images, seconds = self._mark
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
        for alarm in self.learner.model.alarms(self._smooth):
            if alarm not in self._alarms:
                self._alarms.add(alarm)
                self.say(alarm)
                self.run.log({"step": progress.step, "images": progress.images, "alarm": alarm})


class Stop:
    """Turns Ctrl-C and SIGTERM into a question the loop asks after each step, so that it stops between steps, saved.

    The handler only sets a flag: it may come at any instruction, also inside an import or a write.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        # Signals can be handled in the main thread only; elsewhere (a web studio) the caller stops the loop itself.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: object) -> None:
        self.asked = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def draw(run: Run, learner: Learner, dataset: Dataset, progress: Progress) -> None:
    """Save a grid of samples from fixed seeds; rows of classes where the model is conditional."""
    model = learner.ema if learner.ema is not None else learner.model
    training = model.training
    model.eval()
    spec, count = run.config.spec, 40
    device = model.device
    labels = torch.arange(count, device=device) % 10 % spec.classes if spec.classes else None
    with torch.no_grad():
        images = model.sample(ImageNoise(run.config.seed, range(count), device), labels)
    model.train(training)
    save_png(grid(images, levels=spec.levels, columns=10), run.picture(progress.step))


__all__ = ["Batches", "Budget", "Diverged", "Progress", "Report", "TrainConfig", "make_config", "steps", "train"]
