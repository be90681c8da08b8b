"""Pictures on disk, and what a user is told of them: what the tests of the data room share."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trilemma.data import Dataset, load


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def fill(folder: Path, count: int = 12, size: tuple[int, int] = (8, 8), seed: int = 0) -> Path:
    """A folder of different RGB pictures."""
    for i in range(count):
        save(folder / f"{i:03}.png", pixels(*size, 3, seed=1000 * seed + i))
    return folder


def quiet(source: Any, **options: Any) -> Dataset:
    return load(source, progress=False, **options)


def message(source: Any, **options: Any) -> str:
    """What a user is told; always one line."""
    with pytest.raises(ValueError) as error:
        quiet(source, **options)
    text = str(error.value)
    assert "\n" not in text
    assert text
    return text


def row_of(dataset: Dataset, image: np.ndarray) -> int:
    """The index of the one image that is equal to ``[C, H, W]``."""
    found = [i for i, other in enumerate(dataset.images) if np.array_equal(other, image)]
    assert len(found) == 1
    return found[0]


def idx(path: Path, array: np.ndarray, header: tuple[int, ...] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *(header or array.shape)) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
