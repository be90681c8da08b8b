"""Whether pictures obey their captions, where that can be read exactly: the two digits of mnist-pairs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trilemma.data import Dataset, load
from trilemma.data.pairs import NAME
from trilemma.evaluation.glossary import ENTRIES
from trilemma.evaluation.labelled import trained_classifier
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import Pool
from trilemma.metrics.estimate import share_of
from trilemma.number import Number

KEYS = ("text_accuracy", "text_seen", "text_unseen")


def text_metrics(sample: Pool, real: Reference, captioned: bool) -> dict[str, Number]:
    """How many images show what their captions say: all of them, and those of pairs with and without training images.

    Args:
        sample: with its images, asked for by the captions of the held-out images in turn.
        captioned: whether it was; the numbers are left out where nobody asked by caption.
    """
    asked = [key for key in KEYS if real.protocol.wants(key)]
    if not asked or not captioned:
        return {}
    dataset, size = real.dataset, sample.images.shape[2:]
    if dataset.config.source != NAME or dataset.labels is None or size[1] % 2:
        why = f"undefined: only the captions of {NAME}, of an even width, can be checked by a digit classifier"
        return {asked[0]: Number(None, better="higher", note=why)}
    asked_for = real.held_out_indices[np.arange(len(sample.images)) % len(real.held_out_indices)]
    pairs = torch.from_numpy(dataset.labels[asked_for])
    shown = read_pairs(sample.images)
    right = shown == pairs
    swapped = shown == 10 * (pairs % 10) + pairs // 10
    swapped &= ~right
    told = f"a digit classifier on each half; chance is 1 %; the two digits are exchanged in {_percent(swapped)}"
    rows = dict(zip(KEYS, (torch.ones_like(right), seen(dataset, pairs), ~seen(dataset, pairs)), strict=True))
    return {key: _share(key, right[rows[key]], told) for key in asked if rows[key].any()}


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


def _share(key: str, right: Tensor, told: str) -> Number:
    found = share_of(float(right.sum()), len(right))
    return Number(found.value, found.error, "", "higher", len(right), None, ENTRIES[key].meaning, protocol=told)


def _percent(flags: Tensor) -> str:
    return f"{100 * float(flags.double().mean()):.1f} %"
