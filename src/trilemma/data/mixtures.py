"""The 2-D mixtures of Gaussians on which lost modes are counted: drawn, not read.

``ring`` is eight Gaussians of standard deviation 0.01 on the unit circle, ``grid`` 25 of 0.05 at spacing 2, as
published (Srivastava et al. 2017, VEEGAN, arXiv 1705.07761, section 4.1; Lin et al. 2018, PacGAN, arXiv 1712.04086,
section 4.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trilemma.data.dataset import Raw, Vectors

TRAINING, TEST = 50_000, 10_000


@dataclass(frozen=True)
class Law:
    """Equally likely round Gaussians: float64 ``means`` [K, 2] and one standard deviation ``sigma``."""

    means: npt.NDArray[np.float64]
    sigma: float


def _ring() -> Law:
    angles = 2 * math.pi * np.arange(8) / 8
    return Law(np.stack([np.cos(angles), np.sin(angles)], 1), 0.01)


def _grid() -> Law:
    side = np.arange(-4.0, 5.0, 2.0)
    return Law(np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2), 0.05)


MIXTURES = {"ring": _ring(), "grid": _grid()}


def draw(name: str) -> Raw:
    """50,000 training and 10,000 test points of a mixture, always the same; the label is the mode."""
    law, count = MIXTURES[name], TRAINING + TEST
    random = np.random.RandomState(len(law.means))  # whose stream NumPy promises never to change
    labels = random.randint(0, len(law.means), count)
    points: Vectors = (law.means[labels] + law.sigma * random.standard_normal((count, 2))).astype(np.float32)
    notes = [f"drawn: {len(law.means)} Gaussians of standard deviation {law.sigma:g}, equally likely"]
    return Raw(
        name,
        points,
        labels.astype(np.int64),
        class_names=tuple(map(str, range(len(law.means)))),
        is_test=np.arange(count) >= TRAINING,
        notes=notes,
    )
