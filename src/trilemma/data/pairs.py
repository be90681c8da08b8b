"""mnist-pairs: two digits side by side, 28 x 56, and captions that say which stands where.

An exact test of whether a picture obeys its text: what each half shows can be read by a digit classifier. Of the
hundred ordered pairs ten never occur among the training images, so that the test split also asks for what has to be
put together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trilemma.data.arrays import from_arrays
from trilemma.data.config import DataConfig
from trilemma.data.dataset import Raw

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.integer[Any]]

NAME = "mnist-pairs"
SEED = 0
WORDS = ("a zero", "a one", "a two", "a three", "a four", "a five", "a six", "a seven", "an eight", "a nine")
TEMPLATES = (
    "{left} to the left of {right}",
    "{right} to the right of {left}",
    "{left} and then {right}",
    "{left} followed by {right}",
    "{left} on the left and {right} on the right",
    "{right} on the right and {left} on the left",
)
CLASSES = tuple(f"{left} {right}" for left in range(10) for right in range(10))

UNSEEN = frozenset(10 * left + (3 * left + 7) % 10 for left in range(10))
"""Pairs, as 10 · left + right, that no training image has: every digit once on either side, none beside itself."""


def load_pairs(digits: dict[str, npt.NDArray[np.uint8]], config: DataConfig, progress: bool) -> Raw:
    """60,000 training pairs of MNIST's training digits and 10,000 test pairs of its test digits.

    The label of an image is 10 · left + right. Test images are of all pairs, each as likely.
    """
    train = np.array(sorted(set(range(100)) - UNSEEN), np.int64)
    parts = [
        pairs(digits["x_train"], digits["y_train"], train, len(digits["x_train"]), SEED),
        pairs(digits["x_test"], digits["y_test"], np.arange(100), len(digits["x_test"]), SEED + 1),
    ]
    images, labels = [part[0] for part in parts], [part[1] for part in parts]
    raw = from_arrays(NAME, NAME, list(images), list(labels), np.array(CLASSES), config, progress, [])
    raw.captions = captions(np.concatenate(labels), SEED + 2)
    raw.notes.append("no training image has one of " + ", ".join(CLASSES[pair] for pair in sorted(UNSEEN)))
    return raw


def pairs(images: Pixels, labels: Numbers, allowed: Numbers, count: int, seed: int) -> tuple[Pixels, Numbers]:
    """``count`` pairs drawn from those ``allowed``: images uint8 [N, H, 2W] and which pair each is, int64 [N]."""
    random = np.random.RandomState(seed)  # whose stream NumPy promises never to change
    chosen = allowed[random.randint(len(allowed), size=count)]
    by_digit = [np.flatnonzero(labels == digit) for digit in range(10)]
    share = random.random_sample((count, 2))  # which image of its digit, as a share of them
    halves = [
        np.array([by_digit[d][int(u * len(by_digit[d]))] for d, u in zip(side, of, strict=True)])
        for side, of in ((chosen // 10, share[:, 0]), (chosen % 10, share[:, 1]))
    ]
    return np.concatenate([images[half] for half in halves], 2), chosen


def captions(labels: Numbers, seed: int) -> list[str]:
    """A caption for each pair, by one of `TEMPLATES`."""
    templates = np.random.RandomState(seed).randint(len(TEMPLATES), size=len(labels))
    return [caption(int(pair), int(template)) for pair, template in zip(labels, templates, strict=True)]


def caption(pair: int, template: int = 0) -> str:
    """What is said of a pair, 10 · left + right."""
    return TEMPLATES[template].format(left=WORDS[pair // 10], right=WORDS[pair % 10])
