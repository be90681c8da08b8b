"""Whether pictures obey their captions, where that can be read exactly: the two digits of mnist-pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trilemma.data import Dataset, load
from trilemma.data.pairs import NAME
from trilemma.evaluation.classifier import trained_classifier
from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.metrics.estimate import share_of
from trilemma.number import Number


class _Text(Metric):
    group = "captions"
    needs = ("images", "captions")
    better = "higher"

    def measure(self, of: Measured) -> Number | None:
        if not of.captioned:
            return None
        if not _readable(of):
            asked = [metric.name for metric in (Text, TextSeen, TextUnseen) if of.protocol.wants(metric.name)]
            why = f"undefined: only the captions of {NAME}, of an even width, can be checked by a digit classifier"
            return self.undefined(why) if asked[0] == self.name else None
        found = of.once("pairs", lambda: _read(of))
        rows = self.rows(found)
        if not rows.any():
            return None
        right = found.right[rows]
        told = (
            "a digit classifier on each half; chance is 1 %; the two digits are exchanged in "
            f"{100 * float(found.swapped.double().mean()):.1f} %"
        )
        return replace(share_of(float(right.sum()), len(right)), n=len(right), protocol=told)

    def rows(self, found: Pairs) -> Tensor:
        """Which images it is about, bool [N]."""
        return torch.ones_like(found.right)


class Text(_Text):
    name = "text_accuracy"
    head = "Text"
    meaning = (
        "Share of images that show both digits that their caption asked for, each on its side, as a digit classifier "
        "sees them (mnist-pairs); 1 % by chance."
    )
    misleads = "A classifier can be right about an ugly image, and guidance raises it at the cost of variety."
    source = "a classifier of its own, trained on MNIST's training images"
    order = 10


class TextSeen(_Text):
    name = "text_seen"
    head = "Text, seen"
    meaning = "The same for pairs of digits that training images show."
    misleads = "As above."
    source = "as for the whole"
    order = 11

    def rows(self, found: Pairs) -> Tensor:
        return found.seen


class TextUnseen(_Text):
    name = "text_unseen"
    head = "Text, unseen"
    meaning = "The same for the ten pairs that no training image shows: whether the parts are put together anew."
    misleads = "A tenth of the images only, so its error is three times as large."
    source = "as for the whole"
    order = 12

    def rows(self, found: Pairs) -> Tensor:
        return ~found.seen


@dataclass(frozen=True)
class Pairs:
    """What the images of captions show, bool [N] each.

    Attributes:
        right: both digits, each on its side.
        swapped: both, each on the other's side.
        seen: whether training images show the pair that was asked for.
    """

    right: Tensor
    swapped: Tensor
    seen: Tensor


def _readable(of: Measured) -> bool:
    dataset = of.real.dataset
    return dataset.config.source == NAME and dataset.labels is not None and of.sample.images.shape[3] % 2 == 0


def _read(of: Measured) -> Pairs:
    """Images asked for by the captions of the held-out images in turn."""
    real, images = of.real, of.sample.images
    assert real.dataset.labels is not None
    asked_for = real.held_out_indices[np.arange(len(images)) % len(real.held_out_indices)]
    pairs = torch.from_numpy(real.dataset.labels[asked_for])
    shown = read_pairs(images)
    right = shown == pairs
    swapped = shown == 10 * (pairs % 10) + pairs // 10
    return Pairs(right, swapped & ~right, seen(real.dataset, pairs))


def read_pairs(images: Tensor) -> Tensor:
    """What a digit classifier sees in the two halves of uint8 [N, C, H, 2W] images: 10 · left + right, int64 [N]."""
    height, width = images.shape[2:]
    classifier = trained_classifier(load("mnist", size=(height, width // 2), progress=False))
    grey = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    left, right = (classifier.labels(half.contiguous()) for half in torch.split(grey, width // 2, 3))
    return 10 * left + right


def seen(dataset: Dataset, pairs: Tensor) -> Tensor:
    """Which pairs training images have, bool [N]."""
    assert dataset.labels is not None
    return torch.isin(pairs, torch.from_numpy(np.unique(dataset.labels[dataset.train])))
