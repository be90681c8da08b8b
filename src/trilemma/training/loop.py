"""The one loop: `steps` is a generator, each turn of which runs every objective of the family once, or its repeats.

It knows no family, draws nothing from global generators, and is a function of ``(config, step)``: the batch, the noise
and the dropped labels of step *n* are the same whether the run was interrupted before it, or how many processes share
the batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trilemma.config import RunConfig, TrainConfig
from trilemma.data import Dataset
from trilemma.data.captions import Tokens
from trilemma.families.family import Family, Loss, Objective
from trilemma.machine import autocast
from trilemma.noise import BatchNoise, Noise, derive_seed
from trilemma.parallel import Ranks
from trilemma.run import Run, State, fitting, load_weights
from trilemma.training.budget import Budget, Progress
from trilemma.training.learning import trained_on


class Diverged(RuntimeError):
    """A loss, a gradient or a weight stopped being a number; the last good checkpoint is kept."""


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
    tokens: Tokens | None = None

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
        return cls(model, ema, objectives, optimizers, modules, statistics, run.tokens())

    @property
    def shown(self) -> Family:
        """The model whose samples are looked at: the averaged one, where there is one."""
        return self.model if self.ema is None else self.ema

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
        load_weights(self.model, state.model, f"{where}/weights.safetensors")
        if (self.ema is None) != (state.ema is None) or len(state.optimizers) != len(self.optimizers):
            raise ValueError(f"{where} does not belong to this config: averaged weights or optimisers are missing")
        if self.ema is not None and state.ema is not None:
            load_weights(self.ema, state.ema, f"{where}/ema.safetensors")
        for optimizer, saved in zip(self.optimizers, state.optimizers, strict=True):
            optimizer.load_state_dict(fitting(optimizer, saved, f"{where}/optimizers.pt"))


def learning_rate(settings: TrainConfig, step: int, spent: float) -> float:
    """The rate of the next step, ``step`` counted from 0 and ``spent`` the share of the budget that is used up."""
    rise = (step + 1) / (settings.warmup + 1)
    fall = (1 - spent) / settings.anneal if settings.anneal else 1.0
    return settings.lr * max(0.0, min(1.0, rise, fall))


def steps(
    learner: Learner, data: Dataset, config: RunConfig, progress: Progress, where: Ranks, limit: Budget | None = None
) -> Iterator[dict[str, Tensor]]:
    """Train for ever, one step a turn, updating ``progress``; yields the logged scalars of the step.

    ``limit`` is what the learning rate is annealed towards, and what the family is told its share of; without it the
    rate stays constant.

    Raises:
        Diverged: a loss or a gradient is not finite; the optimiser of that objective has not been run.
    """
    settings, spec = config.train, config.spec
    batches = Batches(trained_on(data, settings), derive_seed(config.seed, "batches"))
    rows = where.share(settings.batch)
    draws = max(objective.repeats for objective in learner.objectives)
    captions = learner.tokens.rows(data.captions or []) if learner.tokens else None  # [N, length], of all images

    def noise(*key: int | str) -> BatchNoise:
        return BatchNoise((config.seed, progress.step, *key), settings.batch, rows.start, rows.stop, where.device)

    def batch(repeat: int) -> tuple[Tensor, Tensor | None]:
        position = progress.images + repeat * settings.batch
        indices = batches.at(position, settings.batch)[rows.start : rows.stop].numpy()
        cpu_noise = BatchNoise(
            (config.seed, progress.step, "binarise", repeat), settings.batch, rows.start, rows.stop, torch.device("cpu")
        )
        x = data.batch(indices, cpu_noise).to(where.device)
        if not spec.conditional:
            return x, None
        labels = data.label_batch(indices) if captions is None else captions[indices]
        assert labels is not None
        labels = labels.to(where.device)
        dropped = noise("labels", repeat).uniform() < settings.label_dropout
        null = spec.unlabelled(len(labels), where.device)
        return x, torch.where(dropped.view(-1, *[1] * (labels.ndim - 1)), null, labels)

    while True:
        drawn = [batch(repeat) for repeat in range(draws)]
        logs: dict[str, Tensor] = {}
        # Clocks differ between processes: they take the first one's word for how far they are.
        spent = where.agree(limit.spent(progress)) if limit else 0.0
        lr = learning_rate(settings, progress.step, spent) * learner.model.begin(spent)
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
            if len(loss.terms) > 1:  # with one term, that is the loss
                logs[f"loss ({objective.name})"] = total.detach()
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
    return diverged(f"{what} of the {objective.name} objective is not finite at step {progress.step + 1}")


def diverged(what: str) -> str:
    """The line of a training that broke down."""
    return f"{what}; what was saved before stands: try a lower --train.lr or --train.precision fp32"


@torch.no_grad()
def average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's: ema ← decay·ema + (1 − decay)·model. Buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), [p.detach() for p in model.parameters()], 1 - decay)
    for mine, theirs in zip(ema.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
