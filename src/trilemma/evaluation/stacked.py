"""Stacked MNIST's 1,000 modes, by the published protocol: 26,000 samples, a digit classifier on each channel."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.data import load, subset
from trilemma.data.decoded import cache_folder, written_atomically
from trilemma.data.stacked import is_stacked
from trilemma.evaluation.labelled import mode_metrics, trained_classifier
from trilemma.evaluation.reference import Reference, content_key, supply
from trilemma.evaluation.stream import UNIT, Supply, Tell
from trilemma.evaluation.subject import Subject, drawn_from
from trilemma.metrics import Classifier, stacked_labels
from trilemma.number import Number
from trilemma.parallel import Ranks

KEYS = ("stacked_modes", "stacked_kl")


def wants_stacked(real: Reference) -> bool:
    """Whether they are asked for: by name, or by default where the data are stacked MNIST."""
    asked = {name.strip() for name in real.protocol.metrics.split(",")}
    return real.protocol.wants(*KEYS) or (is_stacked(real.dataset) and bool(asked & {"default", "all", "labelled"}))


def stacked_metrics(
    subject: Subject, real: Reference, options: Any | None, where: Ranks, tell: Tell | None = None
) -> dict[str, Number]:
    """Modes and KL of a run's first ``modes_n`` samples, or of the images that there are; on every process."""
    if not wants_stacked(real):
        return {}
    protocol = real.protocol
    drawn = subject.supply
    if subject.model is not None:
        drawn = drawn_from(subject.model, protocol.modes_n, protocol.seed, None, options).supply
    if len(drawn.shape) != 3 or drawn.shape[0] != 3:
        return _undefined()
    classifier = where.agree(_digit_classifier(drawn.shape[1], drawn.shape[2], where.first))
    return _metrics(_seen(drawn, classifier, where, tell))


def stacked_floor(real: Reference) -> dict[str, Number]:
    """The same of as many held-out stacks, kept in the cache by content."""
    if not wants_stacked(real):
        return {}
    if real.dataset.vector or real.dataset.spec().channels != 3:
        return _undefined()
    rows = subset(real.dataset.test, real.protocol.modes_n, real.protocol.seed)
    path = cache_folder() / "modes" / f"{content_key(real.dataset, rows, 'stacked', 1)}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        return _metrics(torch.from_numpy(np.load(path, allow_pickle=False)))
    shown = supply(real.dataset, rows)
    classifier = _digit_classifier(shown.shape[1], shown.shape[2], True)
    assert classifier is not None
    alone = Ranks(0, 1, torch.device("cpu"))
    seen = _seen(shown, classifier, alone, None)
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as file:
            np.save(file, seen.numpy())
    return _metrics(seen)


def _digit_classifier(height: int, width: int, first: bool) -> Classifier | None:
    """Of MNIST at this size; the first process trains it, or finds it in the cache, for all."""
    return trained_classifier(load("mnist", size=(height, width), progress=False)) if first else None


def _seen(images: Supply, classifier: Classifier, where: Ranks, tell: Tell | None) -> Tensor:
    """The mode of each image, int64 [N], shared among the processes in units of whole sampler blocks."""
    mine: dict[int, Tensor] = {}
    for number, start in enumerate(range(0, images.n, UNIT)):
        stop = min(start + UNIT, images.n)
        if number % where.size == where.rank:
            x = images.draw(start, stop)
            mine[start] = stacked_labels(*(classifier.labels(x[:, c : c + 1].contiguous()) for c in range(3)))
        if tell:
            tell("modes of stacked MNIST", stop, images.n)
    found: dict[int, Tensor] = {}
    for part in where.gather(mine):
        found |= part
    return torch.cat([found[start] for start in sorted(found)])


def _metrics(seen: Tensor) -> dict[str, Number]:
    how = f"an MNIST classifier on each channel; {len(seen):,} images"
    found = mode_metrics(seen, 1000, None, how)
    return {f"stacked_{key.removeprefix('mode_')}": metric for key, metric in found.items()}


def _undefined() -> dict[str, Number]:
    return {
        key: Number(None, note="undefined, because stacked MNIST has three channels and these have not") for key in KEYS
    }
