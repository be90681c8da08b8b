"""Stacked MNIST's 1,000 modes, by the published protocol: 26,000 samples, a digit classifier on each channel."""

from __future__ import annotations

import contextlib
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from trilemma.data import load, subset
from trilemma.data.decoded import cache_folder, written_atomically
from trilemma.data.stacked import is_stacked
from trilemma.evaluation.classifier import trained_classifier
from trilemma.evaluation.measured import ALONE, Measured
from trilemma.evaluation.metric import Metric, named
from trilemma.evaluation.parts.classes import counted, kl_number, modes_number
from trilemma.evaluation.reference import Reference, content_key, supply
from trilemma.evaluation.stream import UNIT, Supply, Tell
from trilemma.evaluation.subject import drawn_from
from trilemma.metrics import Classifier, Modes, stacked_labels
from trilemma.number import Number
from trilemma.parallel import Ranks


class _Stacked(Metric):
    group = "labelled"
    default, by_name, shared = False, True, True
    source = "Lin et al. 2018, arXiv:1712.04086"

    def wanted(self, real: Reference) -> bool:
        """By name, or by default where the data are stacked MNIST; one of them with the other."""
        asked = named(real.protocol.metrics)
        usual = is_stacked(real.dataset) and bool(asked & {"default", "all", self.group})
        return usual or real.protocol.wants(StackedModes.name, StackedKL.name)

    def measure(self, of: Measured) -> Number:
        found = of.once("stacked", lambda: _counted(of))
        if found is None:
            return Number(None, note="undefined, because stacked MNIST has three channels and these have not")
        n, modes = found
        return self.state(modes, n, f"an MNIST classifier on each channel; {n:,} images")

    @abstractmethod
    def state(self, found: Modes | ValueError, n: int, how: str) -> Number:
        """Its own of the two numbers."""


class StackedModes(_Stacked):
    name = "stacked_modes"
    head = "Stacked modes"
    meaning = "Of the 1,000 combinations of three digits in the colour channels of stacked MNIST, those that occur."
    misleads = "It grows with N: the protocol of the papers is 26,000 samples. One sample covers a mode."
    better = "higher"
    order = 65

    def state(self, found: Modes | ValueError, n: int, how: str) -> Number:
        return modes_number(found, n, how)


class StackedKL(_Stacked):
    name = "stacked_kl"
    head = "Stacked KL"
    meaning = "How far the frequencies of those 1,000 combinations are from uniform, in nats."
    misleads = "A perfect sampler has 0.019 at 26,000 samples, and more at fewer; a blurry digit counts as it is read."
    better = "lower"
    order = 66

    def state(self, found: Modes | ValueError, n: int, how: str) -> Number:
        return kl_number(found, n, how)


def _counted(of: Measured) -> tuple[int, Modes | ValueError] | None:
    """How many images there were, and their modes; None of images that have not three channels."""
    labels = _held_out(of.real) if of.subject is None else _drawn(of)
    return None if labels is None else (len(labels), counted(labels, 1000, None))


def _drawn(of: Measured) -> Tensor | None:
    """The modes of a run's first ``modes_n`` samples, or of the images that there are; on every process."""
    assert of.subject is not None
    images = of.subject.supply
    if of.subject.model is not None:
        images = drawn_from(of.subject.model, of.protocol.modes_n, of.protocol.seed, None, of.options).supply
    if len(images.shape) != 3 or images.shape[0] != 3:
        return None
    classifier = of.where.agree(_digit_classifier(images.shape[1], images.shape[2], of.where.first))
    return _seen(images, classifier, of.where, of.tell)


def _held_out(real: Reference) -> Tensor | None:
    """The modes of as many held-out stacks, kept in the cache by content."""
    if real.dataset.vector or real.dataset.spec().channels != 3:
        return None
    rows = subset(real.dataset.test, real.protocol.modes_n, real.protocol.seed)
    path = cache_folder() / "modes" / f"{content_key(real.dataset, rows, 'stacked', 1)}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        return torch.from_numpy(np.load(path, allow_pickle=False))
    shown = supply(real.dataset, rows)
    classifier = _digit_classifier(shown.shape[1], shown.shape[2], True)
    assert classifier is not None
    seen = _seen(shown, classifier, ALONE, None)
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as file:
            np.save(file, seen.numpy())
    return seen


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
