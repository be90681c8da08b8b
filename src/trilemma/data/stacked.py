"""Stacked MNIST: three random digits as the colours of one image, so that there are 1,000 modes one can count.

The protocol of Metz et al. 2017 (arXiv 1611.02163), Srivastava et al. 2017 (VEEGAN) and Lin et al. 2018 (PacGAN):
128,000 training images, each of three independent draws from the training digits. The 26,000 held-out ones, as many as
the protocol draws from a model, are made of test digits alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from trilemma.data.config import DataConfig
from trilemma.data.dataset import Dataset, Indices, Raw, image_digests
from trilemma.data.fit import Pixels

STACKED = "stacked-mnist"
TRAIN, TEST = 128_000, 26_000
SEED = 2018
FACTOR = 0x9E3779B97F4A7C15
"""Odd and large, so that the hashes of three digits mix."""


class Stacks:
    """What of an array ``uint8 [N, 3, H, W]`` a data set uses, composed when it is asked for: 50 MB instead of 360.

    Args:
        digits: uint8 [M, 1, H, W].
        chosen: int64 [N, 3], the digit of each channel.
    """

    def __init__(self, digits: Pixels, chosen: Indices) -> None:
        self.digits, self.chosen = digits[:, 0], chosen
        self.shape = (len(chosen), 3, *digits.shape[2:])

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: Any) -> Pixels:
        return cast(Pixels, self.digits[self.chosen[rows]])

    def __iter__(self) -> Iterator[Pixels]:
        return (self.digits[three] for three in self.chosen)


def stacked(mnist: Raw, config: DataConfig) -> Raw:
    """Stacks of the digits of MNIST, class 100 r + 10 g + b.

    Raises:
        ValueError: if they are asked for in grey.
    """
    if config.color == "grey":
        raise ValueError(f"{STACKED} is three digits in three colours: it cannot be had in grey, leave --color out")
    assert mnist.labels is not None and mnist.is_test is not None
    train, test = (drawn(np.flatnonzero(mnist.is_test == kind), count) for kind, count in ((0, TRAIN), (1, TEST)))
    chosen = np.concatenate([train, test])
    labels = mnist.labels[chosen] @ np.array([100, 10, 1])
    notes = [
        *mnist.notes,
        f"stacked: each image is three random digits; {TRAIN:,} of training and {TEST:,} of test digits",
    ]
    return Raw(
        STACKED,
        cast(Pixels, Stacks(cast(Pixels, mnist.images), chosen)),
        labels,
        class_names=tuple(f"{number:03d}" for number in range(1000)),
        is_test=np.repeat([False, True], [TRAIN, TEST]),
        notes=notes,
        # Of 60,000 digits and not of 128,000 stacks: a hash of three hashes.
        digests=image_digests(mnist.images)[chosen] @ np.array([FACTOR, FACTOR**2 % 2**64, 1], np.uint64),
        resized=mnist.resized and len(chosen),
    )


def drawn(indices: Indices, count: int) -> Indices:
    """``count`` threes of ``indices``, int64 [count, 3], with replacement.

    From raw words: those of a bit generator are promised never to change, what is made of them elsewhere is not.
    """
    words: npt.NDArray[np.uint64] = np.random.Philox(key=[SEED, len(indices)]).random_raw(3 * count)
    return indices[(words % np.uint64(len(indices))).astype(np.int64)].reshape(count, 3)


def is_stacked(dataset: Dataset) -> bool:
    """Whether the channels of these images are digits."""
    return dataset.config.source == STACKED
