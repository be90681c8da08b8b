"""Arrays and idx files: layouts, other kinds of pixels, splits, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import idx, message, pixels, quiet

from trilemma.images import Spec

pytestmark = pytest.mark.usefixtures("cache")


# --- arrays


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW", "NHW1", "N1HW"])
def test_layouts(tmp_path: Path, layout: str) -> None:
    images = pixels(20, 3 if "C" in layout else 1, 6, 5)
    array = {"NHW": images[:, 0], "NHWC": images.transpose(0, 2, 3, 1), "NHW1": images.transpose(0, 2, 3, 1)}
    np.save(tmp_path / "a.npy", array.get(layout, images))
    np.savez(tmp_path / "b.npz", images=array.get(layout, images), labels=np.arange(20) % 3)
    assert np.array_equal(quiet(tmp_path / "a.npy").images, images)
    data = quiet(tmp_path / "b.npz")
    assert np.array_equal(data.images, images)
    assert data.class_names == ("0", "1", "2")
    assert np.array_equal(data.batch(data.test).numpy(), images[data.test])


def test_tiny_images_are_read_in_our_own_order(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(10, 1, 3, 3))
    np.save(tmp_path / "b.npy", pixels(10, 3, 3, 1))
    assert quiet(tmp_path / "a.npy").images.shape == (10, 1, 3, 3)
    assert quiet(tmp_path / "b.npy").images.shape == (10, 1, 3, 3)


def test_own_split_and_classes_of_an_npz(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        x_train=pixels(12, 4, 4, 3), y_train=np.arange(12)[:, None] % 2,
        x_test=pixels(5, 4, 4, 3, seed=1), y_test=np.zeros((5, 1), int),
        classes=np.array(["cat", "dog"]), extra=np.zeros(3),
    )  # fmt: skip
    data = quiet(tmp_path / "a.npz")
    assert data.train.tolist() == list(range(12))
    assert data.test.tolist() == list(range(12, 17))
    assert data.class_names == ("cat", "dog")
    assert data.spec(True) == Spec((3, 4, 4), 256, 2)
    assert "arrays not used: extra" in data.notes


@pytest.mark.parametrize(
    ("array", "wanted", "note"),
    [
        (np.linspace(0, 1, 16).reshape(4, 2, 2), np.rint(np.linspace(0, 1, 16) * 255), "floats"),
        (np.arange(16).reshape(4, 2, 2) % 3 == 0, 255 * (np.arange(16) % 3 == 0), "0 and 1"),
        ((np.arange(16).reshape(4, 2, 2) % 3 // 2).astype(np.uint8), 255 * (np.arange(16) % 3 // 2), "0 and 1"),
        (np.arange(16).reshape(4, 2, 2) * 16, np.arange(16) * 16, ""),
        ((np.arange(16) * 4369).reshape(4, 2, 2).astype(np.uint16), np.arange(16) * 17, "16-bit"),
    ],
)
def test_pixels_of_other_kinds(tmp_path: Path, array: np.ndarray, wanted: np.ndarray, note: str) -> None:
    np.save(tmp_path / "a.npy", array)
    data = quiet(tmp_path / "a.npy")
    assert data.images.ravel().tolist() == wanted.tolist()
    assert data.images.dtype == np.uint8
    assert any(note in line for line in data.notes)


def test_training_and_test_pixels_are_scaled_together(tmp_path: Path) -> None:
    dark = np.arange(12, dtype=np.uint8).reshape(3, 2, 2) % 2
    np.savez(tmp_path / "a.npz", x_train=pixels(5, 2, 2), x_test=dark)
    assert quiet(tmp_path / "a.npz").images[5:].max() == 1


def test_array_conversions(tmp_path: Path) -> None:
    images = pixels(6, 8, 8, 4)
    images[1:, ..., 3] = 0
    np.save(tmp_path / "a.npy", images)
    data = quiet(tmp_path / "a.npy", background="#010203", size=(4, 6))
    assert data.images.shape == (6, 3, 4, 6)
    assert (data.images[1:] == np.array([1, 2, 3])[:, None, None]).all()
    np.save(tmp_path / "b.npy", pixels(6, 8, 8))
    assert quiet(tmp_path / "b.npy", color="rgb").images.shape == (6, 3, 8, 8)
    np.save(tmp_path / "c.npy", pixels(6, 8, 8, 3))
    assert quiet(tmp_path / "c.npy", color="grey").images.shape == (6, 1, 8, 8)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x_train": np.full((4, 2, 2), -1.0)}, "[0, 1]"),
        ({"x_train": np.full((4, 2, 2), np.nan)}, "leave out the images that hold NaN"),
        ({"x_train": np.full((4, 2, 2), -1)}, "0 to 255"),
        ({"x_train": np.full((4, 2, 2), "a")}, "numbers"),
        ({"x_train": pixels(4, 2)}, "[N, H, W]"),
        ({"x_train": pixels(4, 5, 5, 5)}, "[N, H, W]"),
        ({"x_train": pixels(0, 5, 5)}, "no images"),
        ({"x_train": pixels(4, 2, 2), "x_test": pixels(4, 3, 3)}, "differ"),
        ({"x_train": pixels(4, 2, 2), "x_test": pixels(0, 2, 2)}, "0 test images"),
        ({"x_train": pixels(4, 2, 2), "y_train": np.arange(3)}, "4 labels"),
        ({"x_train": pixels(4, 2, 2), "y_train": np.eye(4)}, "of one-hot labels save .argmax(1)"),
        ({"x_train": np.full((4, 2, 2), 200.0)}, "divide them by 255"),
        ({"images": pixels(4, 2, 2), "labels": np.arange(4), "classes": np.array(["a", "b"])}, "from 0 to 1"),
        ({"images": pixels(4, 2, 2), "labels": np.arange(4) - 1, "classes": np.array(list("abcd"))}, "from 0 to 3"),
        ({"images": pixels(1, 2, 2)}, "add images"),
        ({"pictures": pixels(4, 2, 2)}, "pictures"),
    ],
)
def test_wrong_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    assert said in message(tmp_path / "a.npz")


class Evil:
    def __reduce__(self) -> Any:
        return (os.putenv, ("TRILEMMA_PWNED", "1"))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    array = np.array([Evil()], object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "b.npz", x_train=array)
    (tmp_path / "c.npz").write_bytes(b"\x80\x04.")
    for name in ("a.npy", "b.npz", "c.npz"):
        assert "pickles are never loaded" in message(tmp_path / name)


def test_cut_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=pixels(4, 20, 20))
    np.save(tmp_path / "a.npy", pixels(4, 20, 20))
    for name in ("a.npz", "a.npy"):
        content = (tmp_path / name).read_bytes()
        for keep in (0, 10, len(content) // 2):
            (tmp_path / name).write_bytes(content[:keep])
            assert name in message(tmp_path / name)


# --- idx


@pytest.mark.parametrize("end", ["-idx{}-ubyte", "-idx{}-ubyte.gz", ".idx{}-ubyte"])
def test_idx_folder_and_file(tmp_path: Path, end: str) -> None:
    train, test = pixels(20, 5, 6), pixels(7, 5, 6, seed=1)
    for part, images in (("train", train), ("t10k", test)):
        idx(tmp_path / "set" / f"{part}-images{end.format(3)}", images)
        idx(tmp_path / "set" / f"{part}-labels{end.format(1)}", np.arange(len(images), dtype=np.uint8) % 4)
    data = quiet(tmp_path / "set")
    assert np.array_equal(data.images[data.train, 0], train)
    assert np.array_equal(data.images[data.test, 0], test)
    assert data.class_names == ("0", "1", "2", "3")
    assert data.labels is not None
    assert data.labels[21] == 1
    one = quiet(tmp_path / "set" / f"train-images{end.format(3)}")
    assert one.images.shape == (20, 1, 5, 6)
    assert one.labels is not None
    assert 1 <= len(one.test) < 20


def test_wrong_idx(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    idx(path, pixels(4, 5, 5), header=(5, 5, 5))
    assert "fewer bytes" in message(path)
    idx(path, pixels(4, 5, 5), header=(3, 5, 5))
    assert "more bytes" in message(path)
    idx(path, pixels(4, 5, 5), header=(2**31, 2**10, 2**10))
    assert "GiB" in message(path)
    path.write_bytes(b"\x89PNG and more")
    assert "idx" in message(path)
    path.write_bytes(b"")
    assert "idx" in message(path)
    idx(path, pixels(4, 5, 5))
    idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3, np.uint8))
    assert "4 labels" in message(path)
