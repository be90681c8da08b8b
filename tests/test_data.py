"""The data room: what is read, how files of every kind are treated, the split, the cache, and what users are told."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import struct
import sys
import tarfile
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trilemma.data import DataConfig, Dataset, describe, embedded, load
from trilemma.data.dataset import image_digests, split_by_content
from trilemma.images import Spec
from trilemma.noise import BatchNoise, ImageNoise


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "the-cache"
    monkeypatch.setenv("TRILEMMA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load("mnist", progress=False)


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


# --- MNIST and the Dataset itself


def test_embedded_mnist_is_the_original(mnist: Dataset) -> None:
    assert mnist.images.shape == (70_000, 1, 28, 28)
    assert mnist.images.dtype == np.uint8
    assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
    assert mnist.labels is not None
    assert mnist.labels.dtype == np.int64
    # published counts per digit, training and test
    counts = [np.bincount(mnist.labels[part]).tolist() for part in (mnist.train, mnist.test)]
    assert counts[0] == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert counts[1] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # the mean and deviation that everybody normalises with
    values = mnist.images[mnist.train] / 255
    assert (round(float(values.mean()), 4), round(float(values.std()), 4)) == (0.1307, 0.3081)
    assert mnist.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.spec() == Spec((1, 28, 28), 256, 0)
    assert mnist.spec(conditional=True).classes == 10


def test_batches(mnist: Dataset) -> None:
    indices = mnist.test[[3, 0, 3]]
    for form in (indices, indices.tolist(), torch.from_numpy(indices)):
        x = mnist.batch(form)
        assert x.shape == (3, 1, 28, 28)
        assert x.dtype == torch.uint8
        assert torch.equal(x[0], x[2])
        assert np.array_equal(x[1].numpy(), mnist.images[60_000])
        assert mnist.label_batch(form).tolist() == [0, 7, 0]  # type: ignore[union-attr]
    x[:] = 7  # a batch is a copy
    assert not (mnist.images[indices] == 7).all()
    assert mnist.batch([]).shape == (0, 1, 28, 28)


def test_dynamic_binarisation_is_bernoulli_of_the_pixel(tmp_path: Path) -> None:
    images = np.stack([np.full((100, 100), value, np.uint8) for value in (0, 51, 204, 255)])
    np.save(tmp_path / "a.npy", images)
    data = quiet(tmp_path / "a.npy", binarize="dynamic")
    assert data.levels == 2
    assert data.spec().levels == 2
    noise = BatchNoise((0, "test"), 4, 0, 4, torch.device("cpu"))
    for x in (data.batch([0, 1, 2, 3]), data.batch([0, 1, 2, 3], noise)):
        assert set(x.unique().tolist()) <= {0, 1}
        assert x.dtype == torch.uint8
        mean = x.float().mean((1, 2, 3)).tolist()
        assert mean[0] == 0
        assert mean[3] == 1
        # 10,000 pixels: five standard errors are 0.02
        assert abs(mean[1] - 0.2) < 0.02
        assert abs(mean[2] - 0.8) < 0.02


def test_held_out_images_are_binarised_once_and_for_all() -> None:
    data = quiet("mnist", binarize="dynamic", limit=10)
    whole = data.batch(data.test[:20])
    assert torch.equal(whole[5:8], data.batch(data.test[5:8]))
    assert torch.equal(whole[[7]], data.batch([int(data.test[7])]))
    # the rule, from its parts
    u = ImageNoise(0, [int(data.test[7])]).uniform(1, 28, 28)
    assert torch.equal(whole[7], (u[0] < torch.from_numpy(data.images[data.test[7]]) / 255).to(torch.uint8))
    # with noise it is another draw each time
    noise = BatchNoise((0, 1), 20, 0, 20, torch.device("cpu"))
    assert not torch.equal(data.batch(data.test[:20], noise), data.batch(data.test[:20], noise))
    images, labels = data.testing()
    assert torch.equal(images[:20], whole)
    # fixed binarisation is the same draw, in training too
    fixed = quiet("mnist", binarize="fixed", limit=10)
    assert torch.equal(fixed.batch(data.test[:20], noise), whole) and fixed.levels == 2
    assert labels is not None
    assert len(labels) == 10_000


def test_threshold_binarisation(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[[0, 127]], [[128, 255]]], np.uint8))
    data = quiet(tmp_path / "a.npy", binarize="threshold")
    assert data.batch([0, 1]).tolist() == [[[[0, 0]]], [[[1, 1]]]]
    assert data.levels == 2


def test_limit_takes_the_first_training_images_and_keeps_the_test_split() -> None:
    data = quiet("mnist", limit=100)
    assert data.train.tolist() == list(range(100))
    assert len(data.test) == 10_000
    assert any("100 of 60,000" in note for note in data.notes)
    assert len(data.training()[0]) == 100


def test_limit_of_a_folder_is_a_fair_draw_of_its_classes(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "a", 40, seed=1)
    fill(tmp_path / "set" / "b", 40, seed=2)
    data = quiet(tmp_path / "set", limit=20)
    assert data.labels is not None
    assert set(data.labels[data.train]) == {0, 1}
    assert len(data.train) == 20
    assert set(data.train) <= set(quiet(tmp_path / "set").train)


def test_conditional_without_labels(tmp_path: Path) -> None:
    data = quiet(fill(tmp_path / "set"))
    with pytest.raises(ValueError, match="no labels"):
        data.spec(conditional=True)
    assert data.label_batch([0]) is None
    assert data.testing()[1] is None


def test_describe(mnist: Dataset) -> None:
    text = describe(mnist)
    for part in ("mnist", "60,000", "10,000", "28 x 28 grey", "256 levels", "10 classes", "1 (7,877)", "test split"):
        assert part in text


# --- the split and the fingerprint


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=120))
def test_the_split_by_content(values: list[int]) -> None:
    images = np.array(values, np.uint8).reshape(-1, 1, 1, 1)
    digests = image_digests(images)
    if len(set(values)) < 2:
        with pytest.raises(ValueError, match="add images"):
            split_by_content(digests, "x")
        return
    is_test = split_by_content(digests, "x")
    assert 1 <= is_test.sum() < len(values)
    side: dict[int, bool] = {}
    for value, held_out in zip(values, is_test.tolist(), strict=True):
        assert side.setdefault(value, held_out) == held_out  # equal images on one side


def test_the_split_is_about_a_tenth_and_stays_when_images_are_added(tmp_path: Path) -> None:
    images = pixels(4000, 4, 4)
    np.save(tmp_path / "all.npy", images)
    np.save(tmp_path / "half.npy", images[:2000])
    whole, half = quiet(tmp_path / "all.npy"), quiet(tmp_path / "half.npy")
    assert 320 < len(whole.test) < 480  # 400 ± 4 standard deviations
    assert half.test.tolist() == [i for i in whole.test if i < 2000]
    assert sorted([*whole.train, *whole.test]) == list(range(4000))


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one"), fill(tmp_path / "two")
    first = quiet(one)
    assert quiet(one).fingerprint == first.fingerprint == quiet(two).fingerprint
    with zipfile.ZipFile(tmp_path / "three.zip", "w") as archive:
        for file in sorted(one.iterdir()):
            archive.write(file, f"folder/{file.name}")
    assert quiet(tmp_path / "three.zip").fingerprint == first.fingerprint
    others = [quiet(one, **{key: value}) for key, value in (("binarize", "dynamic"), ("limit", 3), ("color", "grey"))]
    save(two / "003.png", pixels(8, 8, 3, seed=99))
    others.append(quiet(two))
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_shared_images_of_an_own_split_are_reported(tmp_path: Path) -> None:
    images = pixels(10, 4, 4)
    np.savez(tmp_path / "a.npz", x_train=images, x_test=images[:3])
    assert any("3 of the test images" in note for note in quiet(tmp_path / "a.npz").notes)


# --- folders and zips


def test_folder_of_classes(tmp_path: Path) -> None:
    for name, seed in (("10", 1), ("9", 2), ("0", 3)):
        fill(tmp_path / "set" / name, 5, seed=seed)
    data = quiet(tmp_path / "set")
    assert data.name == "set"
    assert data.images.shape == (15, 3, 8, 8)
    assert isinstance(data.images, np.memmap)
    assert data.class_names == ("0", "9", "10")  # in the order of the numbers
    ninth = row_of(data, pixels(8, 8, 3, seed=2003).transpose(2, 0, 1))
    assert data.labels is not None
    assert data.class_names[data.labels[ninth]] == "9"
    assert data.config.source == str(tmp_path / "set")


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val"), ("training", "validation")])
def test_split_subfolders(tmp_path: Path, names: tuple[str, str]) -> None:
    for number, part in enumerate(names):
        for label in ("cat", "dog"):
            fill(tmp_path / "set" / part / label, 3 + number, seed=10 * number + len(label) + (label == "dog"))
    data = quiet(tmp_path / "set")
    assert (len(data.train), len(data.test)) == (6, 8)
    assert data.class_names == ("cat", "dog")
    assert any("own" in note for note in data.notes)


def test_validation_images_stay_out_where_there_is_a_test_folder(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "val", "test")):
        fill(tmp_path / "set" / part, 4, seed=number)
    data = quiet(tmp_path / "set")
    assert (len(data.images), len(data.train), len(data.test)) == (8, 4, 4)
    assert data.labels is None
    assert any("left out: 4 images" in note for note in data.notes)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata(tmp_path: Path, kind: str) -> None:
    folder = fill(tmp_path / "set" / "pictures", 4)
    rows = [
        {"file_name": "000.png", "text": "a \u2028 dog", "category": "dog"},
        {"file_name": "./001.png", "text": "", "category": "cat"},
        {"file_name": "002.png", "text": "one, two", "category": "cat"},
        {"file_name": "003.png", "text": "three", "category": "dog"},
        {"file_name": "gone.png", "text": "nothing", "category": "bird"},
    ]
    with (folder / f"metadata.{kind}").open("w", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            file.write("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        else:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    data = quiet(tmp_path / "set")
    assert data.captions == ["a \u2028 dog", "", "one, two", "three"]
    assert data.class_names == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 0, 1]
    assert any("1 of 5 rows" in note for note in data.notes)
    assert "3 captions" in describe(data)


def test_partly_labelled_metadata_gives_no_labels(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set", 3)
    (folder / "metadata.jsonl").write_text('{"file_name": "000.png", "label": 0}\n')
    data = quiet(folder)
    assert data.labels is None
    assert any("2 of 3 images have none" in note for note in data.notes)


def test_broken_metadata_names_its_line(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set")
    (folder / "metadata.jsonl").write_text('{"file_name": "000.png"}\nnot json\n')
    assert "line 2" in message(folder)
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("name,text\n000.png,a\n")
    assert "file_name" in message(folder)


def test_zip_is_read_in_place_and_rubbish_in_it_ignored(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set" / "a", 3)
    fill(tmp_path / "set" / "b", 3, seed=1)
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "set").rglob("*.png")):
            archive.write(file, f"top/{file.relative_to(tmp_path / 'set')}")
        archive.write(folder / "000.png", "__MACOSX/top/a/._000.png")
        archive.writestr("top/a/.hidden.png", b"x")
        archive.write(folder / "000.png", "../outside.txt")
    before = {path for path in tmp_path.rglob("*") if "the-cache" not in path.parts}
    data = quiet(tmp_path / "all.zip")
    assert data.images.shape == (6, 3, 8, 8)
    assert data.class_names == ("a", "b")
    assert data.name == "all"
    assert {path for path in tmp_path.rglob("*") if "the-cache" not in path.parts} == before
    assert np.array_equal(data.images, quiet(tmp_path / "set").images)


def test_zip_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"{i}.png", bytes(2**20))
    monkeypatch.setattr("trilemma.data.folder.BOMB_BYTES", 2**20)
    assert "zip bomb" in message(tmp_path / "bomb.zip")
    # one overgrown member is only left out
    monkeypatch.setattr("trilemma.data.folder.BOMB_RATIO", 10**9)
    monkeypatch.setattr("trilemma.data.folder.MAX_FILE_BYTES", 2**19)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "a") as archive:
        for i in range(8):
            data = io.BytesIO()
            Image.fromarray(pixels(4, 4, seed=i)).save(data, "PNG")
            archive.writestr(f"good{i}.png", data.getvalue())
    assert len(quiet(tmp_path / "bomb.zip", max_bad=0.5).images) == 8


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    assert "zip" in message(tmp_path / "a.zip")


def test_links_pipes_and_hidden_files(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set" / "a", 4)
    fill(tmp_path / "elsewhere", 4, seed=1)
    fill(tmp_path / "set" / ".hidden", 2, seed=2)
    fill(tmp_path / "set" / "__MACOSX", 2, seed=3)
    save(tmp_path / "set" / "a" / "._000.png", pixels(8, 8))
    (tmp_path / "set" / "a" / "notes.txt").write_text("not an image")
    (folder / "up").symlink_to(tmp_path / "set")  # a loop
    (folder / "self").symlink_to(folder / "self")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)  # and one through the outside
    data = quiet(tmp_path / "set")
    assert len(data.images) == 8
    assert data.class_names == ("a", "b")
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to(tmp_path / "nothing.png")
    data = quiet(tmp_path / "set", max_bad=0.3)
    assert len(data.images) == 8
    assert any("pipe.png (not a regular file)" in note and "dangling.png" in note for note in data.notes)


def test_names_that_are_not_text(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set")
    try:
        (tmp_path / "set" / os.fsdecode(b"bad\xff\nname.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has no such names")
    data = quiet(folder, max_bad=0.5)
    assert len(data.images) == 12
    describe(data).encode()
    assert not any("\n" in note for note in data.notes)


# --- the policy for odd files


def one_of(folder: Path, **options: Any) -> np.ndarray:
    """The last image, in order of name, of a folder."""
    return np.asarray(quiet(folder, **options).images[-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    shown = pixels(6, 6, 3, seed=5)
    # how the stored picture follows from the one shown, by the EXIF standard: row 0 and column 0 are the visual …
    stored = {
        1: shown,  # top, left
        2: shown[:, ::-1],  # top, right
        3: shown[::-1, ::-1],  # bottom, right
        4: shown[::-1],  # bottom, left
        5: shown.transpose(1, 0, 2),  # left, top
        6: shown.transpose(1, 0, 2)[::-1],  # right, top
        7: shown.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
        8: shown.transpose(1, 0, 2)[:, ::-1],  # left, bottom
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    fill(tmp_path / "set", 3, (6, 6))
    save(tmp_path / "set" / "z.png", np.ascontiguousarray(stored), exif=exif)
    assert np.array_equal(one_of(tmp_path / "set"), shown.transpose(2, 0, 1))


def test_rotated_photographs_count_with_the_size_they_are_shown_in(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "set" / "a.png", pixels(10, 20, 3))
    save(tmp_path / "set" / "b.png", pixels(20, 10, 3, seed=1), exif=exif)
    data = quiet(tmp_path / "set")
    assert data.images.shape == (2, 3, 10, 20)
    assert "size: the images' own" in data.notes
    assert any("1 of 2 images turned upright" in note for note in data.notes)


def test_sixteen_bits(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    save(tmp_path / "set" / "a.png", pixels(8, 8))
    save(tmp_path / "set" / "b.png", values)
    save(tmp_path / "set" / "c.tif", values)
    data = quiet(tmp_path / "set")
    wanted = np.rint(values / 257).astype(np.uint8)
    assert data.images.shape == (3, 1, 8, 8)
    assert np.array_equal(data.images[1, 0], wanted)
    assert np.array_equal(data.images[2, 0], wanted)
    assert any("2 of 3 images 16-bit" in note for note in data.notes)


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    """A hand-made 16-bit RGB PNG, since Pillow writes none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + struct.pack(">6H", *(257 * v for v in (10, 20, 30, 200, 210, 220))) for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    fill(tmp_path / "set", 2, (2, 2))
    (tmp_path / "set" / "z.png").write_bytes(png)
    assert one_of(tmp_path / "set")[:, 0].tolist() == [[10, 200], [20, 210], [30, 220]]


def test_cmyk(tmp_path: Path) -> None:
    fill(tmp_path / "set", 2, (16, 16))
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "set" / "z.jpg", quality=100)
    red, green, blue = one_of(tmp_path / "set").reshape(3, -1).mean(1)
    assert red > 240
    assert green < 15
    assert blue < 15
    assert any("1 of 3 images CMYK" in note for note in quiet(tmp_path / "set").notes)


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.putpixel((0, 0), 2)
    fill(tmp_path / "set", 2, (4, 4))
    picture.save(tmp_path / "set" / "y.png")
    picture.save(tmp_path / "set" / "z.png", transparency=2)
    data = quiet(tmp_path / "set", background="#0000ff")
    assert data.images[2, :, 0, 0].tolist() == [0, 255, 0]
    assert data.images[2, :, 1, 1].tolist() == [255, 0, 0]
    assert data.images[3, :, 0, 0].tolist() == [0, 0, 255]
    assert data.images[3, :, 1, 1].tolist() == [255, 0, 0]
    assert any("1 of 4 images transparent, laid on #0000ff" in note for note in data.notes)


@pytest.mark.parametrize(("background", "seen"), [("white", 255), ("black", 0)])
def test_transparency_is_laid_on_the_background_before_resizing(tmp_path: Path, background: str, seen: int) -> None:
    hidden = np.zeros((16, 16, 4), np.uint8)
    hidden[..., 0] = 255  # red that nobody should ever see
    half = np.full((16, 16, 4), 100, np.uint8)
    half[..., 3] = 51  # a fifth opaque
    save(tmp_path / "set" / "a.png", hidden)
    save(tmp_path / "set" / "b.png", half)
    data = quiet(tmp_path / "set", size=(4, 4), background=background, color="rgb")
    assert (data.images[0] == seen).all()
    assert np.abs(data.images[1].astype(int) - round(0.2 * 100 + 0.8 * seen)).max() <= 1


def test_grey_is_found_out_from_the_pixels(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / "set" / f"{i}.png", np.repeat(pixels(8, 8, 1, seed=i), 3, axis=2))
    data = quiet(tmp_path / "set")
    assert data.images.shape == (5, 1, 8, 8)
    assert all(np.array_equal(data.images[i, 0], pixels(8, 8, 1, seed=i)[..., 0]) for i in range(5))
    assert quiet(tmp_path / "set", color="rgb").images.shape == (5, 3, 8, 8)
    save(tmp_path / "set" / "5.png", pixels(8, 8, 3))
    assert quiet(tmp_path / "set").images.shape == (6, 3, 8, 8)
    colour = quiet(tmp_path / "set", color="grey")
    luma = pixels(8, 8, 3) @ np.array([0.299, 0.587, 0.114])
    assert colour.images.shape == (6, 1, 8, 8)
    assert np.abs(colour.images[5, 0] - luma).max() <= 1


def test_crop_and_pad(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, :8], wide[:, 8:16], wide[:, 16:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    fill(tmp_path / "set", 2, (8, 8))
    save(tmp_path / "set" / "z.png", wide)
    cropped = one_of(tmp_path / "set", size=(8, 8))
    assert (cropped == np.array([0, 255, 0])[:, None, None]).all()  # the middle third
    padded = one_of(tmp_path / "set", size=(24, 24), fit="pad", background="white")
    assert (padded[:, :8] == 255).all()
    assert (padded[:, 16:] == 255).all()
    assert np.array_equal(padded[:, 8:16], wide.transpose(2, 0, 1))
    assert one_of(tmp_path / "set", size=(4, 10)).shape == (3, 4, 10)  # height comes first


def test_default_size(tmp_path: Path) -> None:
    own = quiet(fill(tmp_path / "same", 3, (20, 12)))
    assert own.images.shape[2:] == (20, 12)
    fill(tmp_path / "mixed", 3, (30, 40))
    save(tmp_path / "mixed" / "z.png", pixels(300, 200, 3))
    mixed = quiet(tmp_path / "mixed")
    assert mixed.images.shape[2:] == (28, 28)  # 30, down to a multiple of 4
    assert any("28 x 28 because the images differ" in note for note in mixed.notes)
    large = quiet(fill(tmp_path / "large", 2, (300, 260)))
    assert large.images.shape[2:] == (64, 64)
    assert any("because the images are large" in note for note in large.notes)


def test_broken_files_are_named_counted_and_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set" / "a", 20)
    fill(tmp_path / "set" / "b", 20, seed=1)
    whole = save(tmp_path / "whole.png", pixels(64, 64, 3, seed=7)).read_bytes()
    jpeg = save(tmp_path / "whole.jpg", pixels(64, 64, 3, seed=7)).read_bytes()
    bad = {
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "text.jpg": b"<html>not found</html>",
        "flipped.png": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "float.tif")
    data = quiet(tmp_path / "set", max_bad=0.2)
    (note,) = (note for note in data.notes if note.startswith("left out"))
    assert note.startswith("left out: 8 of 48 files")
    assert "a/empty.png (empty file)" in note
    assert all(name in note for name in [*bad, "float.tif"])
    assert data.images.shape == (40, 3, 8, 8)
    assert data.labels is not None
    assert np.bincount(data.labels).tolist() == [20, 20]  # labels still belong to their images
    assert np.array_equal(data.images[20], pixels(8, 8, 3, seed=1000).transpose(2, 0, 1))
    assert data.labels[20] == 1
    text = message(tmp_path / "set")
    assert "8 of 48" in text
    assert "empty.png" in text
    assert "max_bad" in text
    # the limit is also kept when the pixels come from the cache
    assert len(quiet(tmp_path / "set", max_bad=0.2).images) == 40
    assert "8 of 48" in message(tmp_path / "set", max_bad=0.1)


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(b"")
    assert "1 of 1" in message(tmp_path / "set", max_bad=1.0)


def test_decompression_bombs(tmp_path: Path) -> None:
    def bomb(side: int) -> bytes:
        def chunk(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        body = zlib.compress(bytes(1000))
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    folder = fill(tmp_path / "set", 20)
    (folder / "big.png").write_bytes(bomb(9_000))
    (folder / "huge.png").write_bytes(bomb(60_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = quiet(folder, max_bad=0.1)
    assert len(data.images) == 20
    (note,) = (note for note in data.notes if note.startswith("left out"))
    assert "big.png (9000 x 9000 pixels are too many)" in note
    assert "huge.png" in note


def test_a_broken_exif_tag_does_not_cost_the_picture(tmp_path: Path) -> None:
    fill(tmp_path / "set", 2)
    save(tmp_path / "set" / "z.jpg", pixels(8, 8, 3), exif=b"Exif\0\0" + b"II*\0" + b"\xff" * 12)
    assert len(quiet(tmp_path / "set").images) == 3


def test_large_photographs_are_reduced_well(tmp_path: Path) -> None:
    """JPEG's shortcut for small sizes gives what full decoding and resizing gives, within a few grey values."""
    y, x = np.mgrid[0:600, 0:900]
    smooth = np.stack([x * 255 / 900, y * 255 / 600, 128 + 100 * np.sin(x / 40)], -1).astype(np.uint8)
    fill(tmp_path / "set", 2, (32, 32))
    save(tmp_path / "set" / "z.jpg", smooth, quality=95, subsampling=0)
    got = one_of(tmp_path / "set", size=(32, 32)).astype(int)
    with Image.open(tmp_path / "set" / "z.jpg") as photograph:
        exact = photograph.crop((150, 0, 750, 600)).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.abs(got - np.asarray(exact, int).transpose(2, 0, 1)).max() <= 6


# --- the cache


def test_the_cache_is_used_and_rebuilt_when_broken(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "set")
    first = quiet(folder)
    (raw,) = cache.rglob("*.raw")
    (record,) = cache.rglob("*.json")
    decoded: list[int] = []
    from trilemma.data import decoded as module

    original = module.read_image

    def counting(*arguments: Any) -> Any:
        decoded.append(1)
        return original(*arguments)

    monkeypatch.setattr(module, "read_image", counting)
    assert quiet(folder).fingerprint == first.fingerprint
    assert not decoded

    pixels_before = raw.read_bytes()
    faults: list[Callable[[], object]] = [
        lambda: raw.write_bytes(pixels_before[:-1]),
        lambda: raw.write_bytes(pixels_before[:100] + bytes([pixels_before[100] ^ 1]) + pixels_before[101:]),
        lambda: raw.write_bytes(b""),
        lambda: raw.unlink(),
        lambda: record.write_text("{"),
        lambda: record.write_text("[]"),
        lambda: record.write_text(record.read_text().replace('"shape": [12', '"shape": [-12')),
        lambda: record.unlink(),
    ]
    for fault in faults:
        fault()
        decoded.clear()
        again = quiet(folder)
        assert again.fingerprint == first.fingerprint
        assert again.notes == first.notes
        assert len(decoded) == 12
    assert not list(cache.rglob("*.part"))

    # a change of a file, or of an option, is another entry
    save(folder / "000.png", pixels(8, 8, 3, seed=50))
    assert quiet(folder).fingerprint != first.fingerprint
    decoded.clear()
    quiet(folder, size=(4, 4))
    assert len(decoded) == 12
    decoded.clear()
    quiet(folder, size=(4, 4), binarize="dynamic", limit=2)  # these do not change the pixels kept
    assert not decoded


def test_two_processes_may_fill_the_cache_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    for i in range(30):
        save(tmp_path / "set" / f"{i}.png", pixels(8, 8, seed=i))
    with ThreadPoolExecutor(4) as pool:
        prints = {data.fingerprint for data in pool.map(quiet, [tmp_path / "set"] * 4)}
    assert len(prints) == 1


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path / "file" / "below"))
    assert "TRILEMMA_CACHE" in message(fill(tmp_path / "set"))


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
        ({"x_train": np.full((4, 2, 2), np.nan)}, "[0, 1]"),
        ({"x_train": np.full((4, 2, 2), -1)}, "0 to 255"),
        ({"x_train": np.full((4, 2, 2), "a")}, "numbers"),
        ({"x_train": pixels(4, 2)}, "[N, H, W]"),
        ({"x_train": pixels(4, 5, 5, 5)}, "[N, H, W]"),
        ({"x_train": pixels(0, 5, 5)}, "no images"),
        ({"x_train": pixels(4, 2, 2), "x_test": pixels(4, 3, 3)}, "differ"),
        ({"x_train": pixels(4, 2, 2), "x_test": pixels(0, 2, 2)}, "0 test images"),
        ({"x_train": pixels(4, 2, 2), "y_train": np.arange(3)}, "4 labels"),
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


def idx(path: Path, array: np.ndarray, header: tuple[int, ...] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *(header or array.shape)) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


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


# --- sets by name, from a file in the cache or a false network


class Response(io.BytesIO):
    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content))}


def no_network(address: str) -> Any:
    raise OSError(101, "Network is unreachable")


def test_a_named_set_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_open_address", no_network)
    for name in ("fashion-mnist", "cifar10"):
        text = message(name)
        assert "network is unreachable" in text
        assert f"{name}.npz" in text
        assert str(cache) in text
    cache.mkdir()
    (cache / "cifar10.npz").write_bytes(b"broken")
    assert "cannot download" in message("cifar10")


def test_a_named_set_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_open_address", no_network)
    cache.mkdir()
    images = np.zeros((70_000, 28, 28), np.uint8)
    images[:, 0, :2] = np.arange(70_000, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    labels = (np.arange(70_000) % 10).astype(np.uint8)
    parts = {
        "x_train": images[:60_000],
        "y_train": labels[:60_000],
        "x_test": images[60_000:],
        "y_test": labels[60_000:],
    }
    np.savez(cache / "fashion-mnist.npz", **parts)
    data = quiet("fashion-mnist")
    assert data.class_names[9] == "Ankle boot"
    assert len(data.test) == 10_000


def test_fashion_mnist_is_downloaded_checked_and_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrays = {
        "x_train": np.zeros((60_000, 28, 28), np.uint8), "y_train": np.zeros(60_000, np.uint8),
        "x_test": np.ones((10_000, 28, 28), np.uint8), "y_test": np.ones(10_000, np.uint8),
    }  # fmt: skip
    served = {}
    for key, (name, _) in list(embedded.FASHION_FILES.items()):
        served[name] = idx(tmp_path / name, arrays[key]).read_bytes()
        monkeypatch.setitem(embedded.FASHION_FILES, key, (name, hashlib.md5(served[name]).hexdigest()))
    asked: list[str] = []

    def opener(address: str) -> Response:
        asked.append(address)
        return Response(served[address.rsplit("/", 1)[1]])

    got = embedded.fetch("fashion-mnist", False, opener)
    assert all(np.array_equal(got[key], arrays[key]) for key in arrays)
    assert len(asked) == 4
    again = embedded.fetch("fashion-mnist", False, no_network)  # now from the cache
    assert np.array_equal(again["x_test"], arrays["x_test"])
    assert not list(cache.glob("*.part"))

    (cache / "fashion-mnist.npz").unlink()
    served["t10k-labels-idx1-ubyte.gz"] += b"x"
    with pytest.raises(ValueError, match="not the published file"):
        embedded.fetch("fashion-mnist", False, opener)
    assert not list(cache.iterdir())


def test_cifar10_records(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
            records = np.zeros((10_000, 3073), np.uint8)
            records[:, 0] = number
            records[:, 1 : 1 + 1024] = 10  # red
            records[:, 1 + 32] = 99  # red, second row, first column
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = records.nbytes
            archive.addfile(info, io.BytesIO(records.tobytes()))
    monkeypatch.setattr(embedded, "CIFAR10_MD5", hashlib.md5(packed.getvalue()).hexdigest())
    got = embedded._cifar10(lambda address: Response(packed.getvalue()), False)  # type: ignore[arg-type]
    embedded._check(got, "cifar10")
    assert got["x_train"][0, 0, 0].tolist() == [10, 0, 0]
    assert got["x_train"][0, 1, 0].tolist() == [99, 0, 0]
    assert got["y_train"][[0, 10_000, 49_999]].tolist() == [0, 1, 4]
    assert got["y_test"][0] == 5


# --- the Hub, through a stand-in for the datasets package, and the real one where it is installed


class Table:
    """As much of ``datasets.Dataset`` as is used."""

    def __init__(self, split: str, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self.split, self.columns, self.features, self._fingerprint = split, columns, features, "f" + split

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        return self.columns[key] if isinstance(key, str) else {name: c[key] for name, c in self.columns.items()}

    def cast_column(self, name: str, kind: Any) -> Table:
        assert kind.decode is False
        return self


def stand_in(loaded: Callable[[str, str | None], Any]) -> types.ModuleType:
    module = types.ModuleType("datasets")

    class HubImage:
        def __init__(self, decode: bool = True) -> None:
            self.decode = decode

    class ClassLabel:
        def __init__(self, names: list[str]) -> None:
            self.names = names

    module.Image, module.ClassLabel, module.load_dataset = HubImage, ClassLabel, loaded  # type: ignore[attr-defined]
    return module


def encoded(seed: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(pixels(6, 6, 3, seed=seed)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_hub_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert 'pip install "trilemma[hub]"' in message("owner/name")


def test_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(name: str, configuration: str | None) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nand a long story")

    monkeypatch.setitem(sys.modules, "datasets", stand_in(loaded))
    text = message("owner/name")
    assert "Couldn't reach the Hub" in text
    assert "pass a folder" in text


def test_hub_columns_splits_and_broken_images(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def loaded(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        features = {"id": None, "img": module.Image(), "label": module.ClassLabel(["cat", "dog"]), "text": None}

        def table(split: str, count: int, seed: int) -> Table:
            images = [encoded(seed + i) for i in range(count)]
            columns = {"id": list(range(count)), "img": images, "label": [i % 2 for i in range(count)]}
            return Table(split, columns | {"text": [f"{split} {i}" for i in range(count)]}, features)

        tables = {"train": table("train", 6, 0), "validation": table("validation", 2, 10), "test": table("test", 4, 20)}
        tables["train"].columns["img"][2] = {"bytes": b"rubbish", "path": None}
        tables["test"].columns["img"][0] = None
        return tables

    module = stand_in(loaded)
    monkeypatch.setitem(sys.modules, "datasets", module)
    data = quiet("owner/name:small", max_bad=0.3)
    assert asked == [("owner/name", "small")]
    assert data.images.shape == (8, 3, 6, 6)
    assert (len(data.train), len(data.test)) == (5, 3)
    assert data.class_names == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 1, 0, 1, 1, 0, 1]
    assert data.captions is not None
    assert data.captions[5] == "test 1"
    assert np.array_equal(data.images[7], pixels(6, 6, 3, seed=23).transpose(2, 0, 1))
    assert any("train/2" in note and "test/0 (no image)" in note for note in data.notes)
    assert "splits not used: validation" in data.notes
    assert quiet("hub:name", max_bad=0.3).fingerprint == data.fingerprint
    assert asked[-1] == ("name", None)


def test_the_real_datasets_package(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for part, seed in (("train", 1), ("test", 2)):
        for number, label in enumerate(("cat", "dog")):
            fill(tmp_path / "owner" / "set" / part / label, 3, seed=10 * seed + number)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "owner")
        patch.setenv("HF_HOME", str(tmp_path / "hf"))
        data = quiet(f"hub:{tmp_path / 'owner' / 'set'}")
    assert data.images.shape == (12, 3, 8, 8)
    assert data.class_names == ("cat", "dog")
    assert len(data.test) == 6
    direct = quiet(tmp_path / "owner" / "set")
    assert sorted(image_digests(data.images)) == sorted(image_digests(direct.images))


# --- what a user is told


def test_wrong_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean mnist" in message("mnits")
    assert "did you mean fashion-mnist" in message("fashion_mnist")
    assert "did you mean cifar10" in message("CIFAR-10")
    (tmp_path / "pictures").mkdir()
    assert "did you mean pictures" in message("picturs")
    assert "no images" in message("pictures")
    assert "no file, folder or data set" in message("pictures/cats")  # not taken for an id of the Hub
    assert "Hub" in message("zzzzzz")
    assert "empty" in message("")
    assert "single image" in message(save(tmp_path / "a.png", pixels(4, 4)))
    (tmp_path / "b.tar").write_bytes(b"x")
    assert "no data set" in message("b.tar")
    message("a\0b")
    message("x" * 5000)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"size": (0, 8)}, "size"),
        ({"size": 8}, "(height, width)"),
        ({"size": (8, 8, 3)}, "size"),
        ({"size": (8.5, 8)}, "size"),
        ({"fit": "squash"}, "crop, pad"),
        ({"color": "gray"}, "auto, grey, rgb"),
        ({"binarize": "static"}, "dynamic"),
        ({"background": "whitish"}, "background"),
        ({"limit": 0}, "limit"),
        ({"max_bad": 5.0}, "max_bad"),
    ],
)
def test_wrong_options(option: dict[str, Any], said: str) -> None:
    assert said in message("mnist", **option)


def test_config_survives_json_and_options_override_it(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set")
    data = quiet(DataConfig(str(folder), size=(4, 6), color="grey"), color="rgb")
    assert data.config == DataConfig(str(folder), size=(4, 6), color="rgb")
    assert data.images.shape == (12, 3, 4, 6)
    again = DataConfig(**json.loads(json.dumps(data.config.__dict__)))
    assert again == data.config
    assert hash(again) == hash(data.config)
    assert quiet(again).fingerprint == data.fingerprint
