"""Small data for everybody: seconds, no network, nothing outside the test's own folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trilemma.data import Dataset, load

collect_ignore = ["user_script.py"]  # read by type checkers, and by test_face.py

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that no other test has filled."""
    folder = tmp_path / "the-cache"
    monkeypatch.setenv("TRILEMMA_CACHE", str(folder))
    return folder


def blobs(
    count: int, channels: int = 1, height: int = 8, width: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares on dark ground, in one of three corners: images with something to learn, and their class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    images = random.integers(0, 40, (count, height, width, channels))
    for image, label in zip(images, labels, strict=True):
        top, left = ((1, 1), (1, width - 4), (height - 4, 1))[label]
        image[top : top + 3, left : left + 3] = random.integers(180, 256)
    return images.astype(np.uint8), labels


def write_blobs(path: Path, count: int = 160, channels: int = 1, height: int = 8, width: int = 8) -> Path:
    images, labels = blobs(count, channels, height, width)
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture
def blobs_file(tmp_path: Path) -> Path:
    return write_blobs(tmp_path / "blobs.npz")


@pytest.fixture
def blobs_data(blobs_file: Path) -> Dataset:
    return load(blobs_file, progress=False)
