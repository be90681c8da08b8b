"""What is log p(x)? Every family answers in nats over the same discrete image, and says what its answer is."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trilemma.bars import told
from trilemma.blocks import BLOCK
from trilemma.data import Dataset, load
from trilemma.data.memory import ImagesLike, images_like
from trilemma.families.family import Family, Likelihood, Progress
from trilemma.images import Spec, check_images
from trilemma.metrics.likelihood import bits_per_dim, worse_than_uniform
from trilemma.noise import ImageNoise, Noise, derive_seed
from trilemma.parallel import ranks
from trilemma.run import Run, opened


@dataclass(frozen=True)
class LogLikelihood:
    """log p(x) of a set of images, and what kind of answer it is.

    Attributes:
        kind: ``exact``, ``bound`` (from below), ``estimate`` or ``undefined``.
        reason: how it came about, or why there is none.
        nats: float64 [N], log p(x) of each image; None where undefined.
        dims: discrete values in an image.
        levels: of a value; 0 for vectors.
    """

    kind: str
    reason: str
    nats: Tensor | None
    dims: int
    levels: int = 0

    @property
    def bits(self) -> Tensor | None:
        """−log2 p(x) per dimension, float64 [N]; lower is better."""
        return None if self.nats is None else -self.nats / (self.dims * math.log(2))

    @property
    def mean(self) -> tuple[float, float] | None:
        """Mean bits per dimension with its standard error."""
        return None if self.nats is None else bits_per_dim(self.nats, self.dims)

    @property
    def flag(self) -> str | None:
        """Why the mean is not to be trusted, where it is worse than no model at all."""
        return None if self.mean is None else worse_than_uniform(self.mean[0], self.levels)


def log_likelihood(
    run: Run | Family | str | os.PathLike[str],
    images: ImagesLike,
    labels: int | Sequence[int] | Tensor | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | Literal["bar"] | None = None,
    block: int = BLOCK,
) -> LogLikelihood:
    """log p(x) of each image, or log p(x|y) if labels are given to a conditional model.

    Args:
        run: a run or its folder, which is calibrated on its own training images where its family knows of that, or a
            model loaded from one, which is taken as it is (see `calibrate`).
        images: uint8 [N, C, H, W] with the levels the model was trained on, or other images in memory of the model's
            shape: arrays and tensors of floats in [0, 1], PIL images, what yields batches (see `load`).
        labels: int64 [N], classes for a conditional model, or captions int64 [N, length] as `Run.tokens` reads them; by
            default "no class", that is P(x).
        samples: Monte-Carlo effort of families whose answer is not exact.
        seed: of the Monte-Carlo noise; that of image *i* depends on ``(seed, i)`` alone.
        device: where to compute.
        progress: told ``(images done, N)``; ``"bar"`` shows a bar, as a notebook does by default.
        block: images scored together.

    Raises:
        ValueError: images or labels the model does not take, in one line.
    """
    run = opened(run)
    model = calibrated(run, device) if isinstance(run, Run) else run
    x = images_like(images, model.spec)
    if labels is not None:
        labels = torch.as_tensor(labels, dtype=torch.int64)
        labels = labels.expand(len(x)) if labels.ndim == 0 else labels
    with told(progress, lambda bars: lambda done, total: bars.tell("", "log-likelihood", done, total)) as heard:
        return answered(
            model.log_likelihood, model, x, labels, samples=samples, seed=seed, device=device, progress=heard,
            block=block,
        )  # fmt: skip


def answered(
    ask: Callable[[Tensor, Any, Noise, int | None], Likelihood],
    model: Family,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    block: int = BLOCK,
) -> LogLikelihood:
    """What ``ask``, a method of the model like `Family.log_likelihood`, says of each image; see `log_likelihood`."""
    where = ranks(device)
    check_images(images, model.spec)
    if not len(images):
        raise ValueError("there are no images to score")
    labels = checked_labels(model.spec, labels, len(images))
    starts = [s for i, s in enumerate(range(0, len(images), block)) if i % where.size == where.rank]
    mine: dict[int, Likelihood] = {}
    for start in starts:
        rows = slice(start, min(start + block, len(images)))
        noise = ImageNoise(seed, range(rows.start, rows.stop), model.device)
        given = None if labels is None else labels[rows].to(model.device)
        with torch.no_grad():
            answer = ask(images[rows].to(model.device), given, noise, samples)
        mine[start] = Likelihood(
            answer.kind, None if answer.nats is None else answer.nats.double().cpu(), answer.reason
        )
        if progress:
            progress(rows.stop, len(images))
        if answer.nats is None:
            break
    answers: dict[int, Likelihood] = {}
    for theirs in where.gather(mine):
        answers |= theirs
    first = answers[min(answers)]
    parts = [answers[start].nats for start in sorted(answers)]
    nats = None if first.nats is None else torch.cat([part for part in parts if part is not None])
    return LogLikelihood(first.kind, first.reason, nats, model.spec.dims, model.spec.levels)


def calibrated(run: Run, device: str = "auto") -> Family:
    """The model of a run, calibrated on the run's own training images if they are still where they were."""
    model = run.model(ranks(device).device)
    if model.calibration:
        # Without them it goes on as it is, and says in its answers that nothing was chosen.
        with contextlib.suppress(ValueError, OSError):
            calibrate(model, run, load(run.config.data))
    return model


def calibrate(model: Family, run: Run, dataset: Dataset) -> None:
    """Let a model choose by training images of ``dataset`` what its log p(x) leaves open: see `Family.calibrate`.

    Which images, and their noise, are the same for every seed of a question, so that a model has one answer.
    """
    if not model.calibration:
        return
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(len(dataset.train))
    indices = dataset.train[order[: model.calibration]]
    labels = checked_labels(model.spec, run.conditions(dataset, indices), len(indices))
    noise = ImageNoise(derive_seed(0, "calibrate"), range(len(indices)), model.device)
    x = dataset.batch(indices).to(model.device)
    model.calibrate(x, None if labels is None else labels.to(model.device), noise)


def checked_labels(spec: Spec, labels: Tensor | None, count: int) -> Tensor | None:
    """int64 [N], or captions [N, length], on the CPU, "no label" where a conditional model is given none; None for an
    unconditional one.

    Raises:
        ValueError: labels for an unconditional model, of another number or out of range, in one line.
    """
    if labels is None:
        return spec.unlabelled(count) if spec.conditional else None
    if not spec.conditional:
        raise ValueError("this model is unconditional: leave the labels out, or train it with --conditional")
    if spec.vocabulary:
        if tuple(labels.shape) != (count, spec.length):
            raise ValueError("this model reads captions, not classes: give --text, or the tokens of `Run.tokens`")
        return labels.cpu()
    if tuple(labels.shape) != (count,):
        raise ValueError(f"there must be one label for each of {count} images, not {list(labels.shape)}")
    if not 0 <= int(labels.min()) <= int(labels.max()) <= spec.classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels must be from 0 to {spec.classes} ({spec.classes} meaning no label), not {found}")
    return labels.cpu()
