"""Folders and zips: which files are read, how odd ones are treated, and the cache of what was decoded."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import fill, message, pixels, quiet, row_of, save
from PIL import Image

from trilemma.data import describe

pytestmark = pytest.mark.usefixtures("cache")


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
    assert any("2 of 3 images in 16 or 32 bits, read as 16-bit" in note for note in data.notes)


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
