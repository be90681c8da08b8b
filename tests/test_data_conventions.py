"""What is read by convention, what is lost and said, and what two data sets agree on."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from files import fill, message, pixels, quiet, save
from PIL import Image

from trilemma.data import dataset as dataset_module
from trilemma.data import decoded, describe, room
from trilemma.data.config import DataConfig
from trilemma.data.dataset import number_classes
from trilemma.data.decoded import Entry, decode
from trilemma.evaluation.misuse import trained_on_held_out
from trilemma.run import Run
from trilemma.text import printable


def rows(folder: Path, records: list[dict[str, object]], name: str = "metadata.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return folder


# ---------------------------------------------------------------------------------------------- captions and labels


def test_captions_beside_the_images(tmp_path: Path) -> None:
    fill(tmp_path / "txt", 3)
    for i, text in enumerate(("a dog", "a cat\na second line", "")):
        (tmp_path / "txt" / f"{i:03}.txt").write_text(text, "utf-8")
    data = quiet(tmp_path / "txt")
    assert data.captions == ["a dog", "a cat", ""]
    assert "captions: 1 images have several, of which the first is used" in data.losses
    fill(tmp_path / "boxes", 3)
    (tmp_path / "boxes" / "000.txt").write_text("0 0.5 0.5 0.1 0.1", "utf-8")
    assert quiet(tmp_path / "boxes").captions is None


@pytest.mark.parametrize("name", ["metadata.json", "metadata.jsonl"])
@pytest.mark.parametrize("key", ["text", "caption", "prompt"])
def test_metadata_by_its_names(tmp_path: Path, name: str, key: str) -> None:
    fill(tmp_path / "set", 3)
    (tmp_path / "set" / "\u00e9.png").write_bytes((tmp_path / "set" / "002.png").read_bytes())
    (tmp_path / "set" / "002.png").unlink()
    names = ["000.png", ".\\001.png", "e\u0301.png"]  # as Windows and as macOS write them
    records = [{"file_name": file, key: f"picture {i}"} for i, file in enumerate(names)]
    if name == "metadata.json":
        (tmp_path / "set" / name).write_text(json.dumps(records), "utf-8")
    else:
        rows(tmp_path / "set", records)
    assert quiet(tmp_path / "set").captions == ["picture 0", "picture 1", "picture 2"]


def test_lists_tables_and_rows_that_come_twice(tmp_path: Path) -> None:
    first = {"file_name": "000.png", "text": ["a", "b"], "label": 2.0, "artist": "x"}
    rows(fill(tmp_path / "set", 3), [first, first, {"file_name": "001.png", "label": 10.0}])
    rows(tmp_path / "set", [{"file_name": "002.png", "label": True}], "metadata.json")
    data = quiet(tmp_path / "set")
    assert data.captions == ["a", "", ""]
    assert data.class_names == ("10", "2", "true")
    assert "metadata: 1 rows name an image again: the last row of each counts" in data.losses
    assert "metadata: columns not used: artist" in data.notes
    rows(tmp_path / "set", [{"file_name": "000.png", "text": {"en": "a"}}])
    assert "line 1: a caption must be text" in message(tmp_path / "set")
    rows(tmp_path / "set", [{"file_name": "000.png", "label": [1, 0]}])
    assert "line 1: a label must be one name or number" in message(tmp_path / "set")


def test_metadata_that_is_of_no_use_says_why(tmp_path: Path) -> None:
    rows(fill(tmp_path / "set", 3), [{"file_name": "elsewhere/000.png", "text": "a"}])
    data = quiet(tmp_path / "set")
    assert data.captions is None
    assert data.no_captions == "metadata.jsonl is there, but none of its rows names an image of the folder"
    assert "metadata: 1 of 1 rows name no image here, such as elsewhere/000.png" in data.losses


def test_shards_of_stylegan_are_no_classes(tmp_path: Path) -> None:
    for shard in ("00000", "00001"):
        fill(tmp_path / "set" / shard, 3, seed=int(shard))
    names = [f"{shard}/{i:03}.png" for shard in ("00000", "00001") for i in range(3)]
    labels = [[name, i % 2 + 5] for i, name in enumerate(names)]
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"labels": labels}), "utf-8")
    data = quiet(tmp_path / "set")
    assert data.class_names == ("5", "6")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"labels": None}), "utf-8")
    assert quiet(tmp_path / "set").labels is None


def test_class_numbers_do_not_depend_on_the_hash_seed() -> None:
    assert number_classes(["1", "2", "01"], [])[1] == ("01", "1", "2")
    assert number_classes(["1", "-1", "10"], [])[1] == ("-1", "1", "10")


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "train" / "cat", 3)
    fill(tmp_path / "set" / "test" / "cat", 1, seed=1)
    fill(tmp_path / "set" / "test" / "[b]\x1b[2J", 1, seed=2)
    data = quiet(tmp_path / "set")
    assert "no training image has the class [b]?[2J: a model cannot learn it" in data.losses
    assert "\x1b" not in describe(data)
    assert printable("a\nb\u202e\udcff\u200d猫") == "a?b??\u200d猫"


# ------------------------------------------------------------------------------------------------ archives, folders


def test_zips_of_windows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i, folder in enumerate(("cats", "dogs", "dogs")):
            file = io.BytesIO()
            Image.fromarray(pixels(8, 8, 3, seed=i)).save(file, "PNG")
            archive.writestr(f"set\\{folder}\\{i}.png", file.getvalue())
    assert quiet(tmp_path / "set.zip").class_names == ("cats", "dogs")


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "set", 4)
    for name in ("a.heic", "b.psd", "c", "readme.md", "Thumbs.db"):
        (tmp_path / "set" / name).write_bytes(b"x")
    run = fill(tmp_path / "set" / "runs" / "vae" / "samples", 2, seed=1).parent
    for name in ("config.json", "metrics.jsonl"):
        (run / name).write_text("{}", "utf-8")
    data = quiet(tmp_path / "set")
    assert len(data.images) == 4
    assert data.losses == (
        "left out: folders that trilemma wrote itself: runs/vae",
        "left out: 3 files of kinds that are not read: 1 .heic, 1 .psd, 1 without a suffix",
    )
    assert "not images: 1 .md" in data.notes
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "state.json").write_text("{}", "utf-8")
    assert "was written by trilemma itself" in message(run)


def test_frames_sizes_and_colours_are_counted(tmp_path: Path) -> None:
    fill(tmp_path / "set", 3)
    frames = [Image.fromarray(pixels(16, 8, seed=i)) for i in range(2)]
    frames[0].save(tmp_path / "set" / "film.gif", save_all=True, append_images=frames[1:])
    data = quiet(tmp_path / "set", size=(8, 8), color="grey")
    assert (data.resized, data.decoloured) == (1, 3)
    assert any("1 of 4 images of several frames" in loss for loss in data.losses)
    np.savez(tmp_path / "set.npz", images=np.stack([pixels(16, 16, 3, seed=i) for i in range(4)]))
    data = quiet(tmp_path / "set.npz", size=(8, 8), color="grey")
    assert (data.resized, data.decoloured) == (4, 4)


# --------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path: Path, orientation: int) -> None:
    """Tiff 6.0, tag 274: what stands in row 0 and column 0 of the file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = pixels(6, 10, seed=3)
    fill(tmp_path / "set", 2, (10, 6) if orientation >= 5 else (6, 10))
    save(tmp_path / "set" / "z.tif", stored, exif=exif)
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.T, 6: stored[::-1].T, 7: stored[::-1, ::-1].T, 8: stored[:, ::-1].T,
    }[orientation]  # fmt: skip
    assert np.array_equal(quiet(tmp_path / "set").images[2, 0], upright)


@pytest.mark.parametrize(("highest", "depth"), [(200, 8), (4000, 12), (65535, 16)])
def test_wide_greys_are_read_by_what_they_span(tmp_path: Path, highest: int, depth: int) -> None:
    values = np.linspace(0, highest, 128).astype(np.uint16).reshape(2, 8, 8)
    for i, image in enumerate(values):
        save(tmp_path / "set" / f"{i}.png", image)
    np.save(tmp_path / "set.npy", values)
    wanted = np.rint(values * (255 / (2**depth - 1))).astype(np.uint8)
    folder, array = quiet(tmp_path / "set"), quiet(tmp_path / "set.npy")
    assert np.array_equal(folder.images[:, 0], wanted)
    assert np.array_equal(array.images[:, 0], wanted)
    assert any(f"read as {depth}-bit" in note for note in folder.notes)


def test_a_grey_that_is_seen_through(tmp_path: Path) -> None:
    values = np.full((8, 8), 30000, np.uint16)
    values[:4] = 65535
    Image.fromarray(values).save(tmp_path / "plain.png")
    png = (tmp_path / "plain.png").read_bytes()
    chunk = b"tRNS" + (30000).to_bytes(2, "big")
    import zlib

    chunk = (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    place = png.index(b"IDAT") - 4
    fill(tmp_path / "set", 2)
    (tmp_path / "set" / "z.png").write_bytes(png[:place] + chunk + png[place:])
    image = quiet(tmp_path / "set", background="black", color="grey").images[2, 0]
    assert (image[4:] == 0).all()
    assert (image[:4] == 255).all()


# -------------------------------------------------------------------------------------------------- arrays and tables


def test_arrays_by_convention_and_members_that_are_not_needed(tmp_path: Path) -> None:
    images = np.stack([pixels(8, 8, 3, seed=i) for i in range(6)])
    np.savez(tmp_path / "adm.npz", images, np.arange(6) % 2)
    assert quiet(tmp_path / "adm.npz").class_names == ("0", "1")
    np.savez(tmp_path / "more.npz", images=images, meta=np.array([{"a": 1}], dtype=object))
    assert "arrays not used: meta" in quiet(tmp_path / "more.npz").losses
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as archive:
        archive.writestr("images", b"\x80\x04K\x01.")  # a pickle
    assert "pickles are never loaded" in message(tmp_path / "bytes.npz")
    np.savez(tmp_path / "levels.npz", images=images, levels=np.array([2, 2]))
    assert "levels must be one whole number" in message(tmp_path / "levels.npz")
    np.savez(tmp_path / "names.npz", images=images, labels=np.array([0.0, 2.0, 10.0] * 2))
    assert quiet(tmp_path / "names.npz").class_names == ("0", "2", "10")
    np.savez(tmp_path / "hair.npz", images=images / 255 * 1.0000001)
    assert np.array_equal(quiet(tmp_path / "hair.npz").images, images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("head", ["0,1", "2019,2020", "x,inf", "x,y"])
def test_a_header_is_no_vector(tmp_path: Path, head: str) -> None:
    (tmp_path / "a.csv").write_text(f"{head}\n" + "".join(f"{i}.5,{i}.25\n" for i in range(30)), "utf-8")
    assert quiet(tmp_path / "a.csv").images.shape == (30, 2)


@pytest.mark.parametrize("head", ["", ",x,y\n", ",0,1\n", "Unnamed: 0,x,y\n"])
def test_a_column_that_counts_the_rows_is_not_learnt(tmp_path: Path, head: str) -> None:
    (tmp_path / "a.csv").write_text(head + "".join(f"{i},{i}.5,{i}.25\n" for i in range(30)), "utf-8")
    data = quiet(tmp_path / "a.csv")
    assert data.images.shape == (30, 2)
    assert data.images[1].tolist() == [1.5, 1.25]
    assert any("column 1" in loss for loss in data.losses)


def test_whole_numbers_are_data_where_all_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("".join(f"{3 * i},{i * i}\n" for i in range(30)), "utf-8")
    assert quiet(tmp_path / "a.csv").images.shape == (30, 2)
    (tmp_path / "a.csv").write_text("1_0,2.5\n3.5,4.5\n", "utf-8")
    assert "'1_0' is not a number" in message(tmp_path / "a.csv")


# ------------------------------------------------------------------------------------------------ the cache, the room


def test_a_file_of_equal_size_and_time_is_read_again(tmp_path: Path) -> None:
    fill(tmp_path / "set", 3)
    file = tmp_path / "set" / "000.png"
    Image.fromarray(pixels(8, 8, 3, seed=7)).save(file.with_suffix(".bmp"))
    file.unlink()
    file = file.with_suffix(".bmp")
    before, time = quiet(tmp_path / "set").images[0].copy(), file.stat()
    Image.fromarray(pixels(8, 8, 3, seed=8)).save(file)
    os.utime(file, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert file.stat().st_size == time.st_size
    assert not np.array_equal(quiet(tmp_path / "set").images[0], before)


def test_an_error_of_the_drive_is_not_remembered() -> None:
    broken = [True]

    def opened(i: int) -> io.BytesIO:
        if i == 0 and broken[0]:
            raise OSError(5, "Input/output error")
        file = io.BytesIO()
        Image.fromarray(pixels(8, 8, 3, seed=i)).save(file, "PNG")
        file.seek(0)
        return file

    entries = [Entry(f"{i}.png", (i,), lambda i=i: opened(i)) for i in range(4)]  # type: ignore[misc]
    config = DataConfig(max_bad=0.5)
    assert len(decode(entries, "a drive", config, False).kept) == 3
    broken[0] = False
    assert len(decode(entries, "a drive", config, False).kept) == 4


def test_images_that_do_not_fit_are_refused_with_what_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.stack([pixels(8, 8, seed=i) for i in range(10)]))
    monkeypatch.setattr("trilemma.data.arrays.free_memory", lambda: 10 * 100 * 100)
    assert quiet(tmp_path / "a.npy", size=(90, 90)).images.shape == (10, 1, 90, 90)
    told = message(tmp_path / "a.npy", size=(200, 100))
    assert "--image-size 134x67 would fit" in told
    fill(tmp_path / "set", 3)
    monkeypatch.setattr(decoded, "free_disk", lambda folder: 1000)
    assert "--image-size 10x10 would fit" in message(tmp_path / "set", size=(64, 64))
    assert (room.free_memory() or 1) > 0


# ------------------------------------------------------------------------------------------------ two sets of images


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    for i, name in enumerate(("b", "c", "a")):
        fill(tmp_path / "set" / name, 3, seed=i)
    data = quiet(tmp_path / "set")
    assert data.class_names == ("a", "b", "c")
    spec = SimpleNamespace(vocabulary=0, classes=4)
    config = SimpleNamespace(spec=spec, class_names=("c", "b", "a", "d"), data_fingerprint="x")
    run = SimpleNamespace(config=config, path="runs/x")
    found = Run.conditions(run, data, [0, 3, 8])  # type: ignore[arg-type]
    assert found is not None
    assert found.tolist() == [2, 1, 0]
    config.class_names = ("c", "b", "x", "d")
    with pytest.raises(ValueError, match="matched by their names, and runs/x does not know a of set"):
        Run.conditions(run, data, [0])  # type: ignore[arg-type]


def test_data_that_changed_since_the_training_is_flagged(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "train", 6)
    fill(tmp_path / "set" / "test", 4, seed=1)
    old = quiet(tmp_path / "set")
    run = SimpleNamespace(config=SimpleNamespace(data=old.config, data_fingerprint=old.fingerprint))
    assert trained_on_held_out(run, SimpleNamespace(dataset=old)) == []  # type: ignore[arg-type]
    for a, b in (("train", "x"), ("test", "train"), ("x", "test")):
        (tmp_path / "set" / a).rename(tmp_path / "set" / b)
    new = quiet(tmp_path / "set")
    real = SimpleNamespace(dataset=new, test_digests=dataset_module.image_digests(new.images[new.test]))
    (flag,) = trained_on_held_out(run, real)  # type: ignore[arg-type]
    assert "is no longer what the run was trained on" in flag


def png(values: np.ndarray, more: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """A 16-bit colour PNG of [H, W, 2 | 3 | 4], which Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = [(b"IHDR", header), *(more or []), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize(("highest", "depth"), [(255, 8), (4095, 12), (65535, 16)])
def test_wide_colours_are_read_by_what_they_span(tmp_path: Path, channels: int, highest: int, depth: int) -> None:
    values = np.random.default_rng(channels).integers(0, highest + 1, (3, 4, 5, channels)).astype(np.uint16)
    values[0, 0, 0, 0] = highest
    if channels in (2, 4):
        values[..., -1] = 65535  # opaque, whatever the colours span
    for i, image in enumerate(values):
        (tmp_path / f"{i}.png").write_bytes(png(image))
    data = quiet(tmp_path)
    colours = values[..., :1] if channels == 2 else values[..., :3]
    assert np.array_equal(data.images, np.rint(colours * (255 / (2**depth - 1))).transpose(0, 3, 1, 2))
    assert any(f"3 of 3 images in 16 or 32 bits, read as {depth}-bit" in note for note in data.notes)


def test_one_wide_colour_that_is_seen_through(tmp_path: Path) -> None:
    values = np.full((2, 2, 3), 4095, np.uint16)
    values[0, 0] = (1, 2, 3)
    for i in range(2):
        values[1, 1, 0] = 100 * i
        (tmp_path / f"{i}.png").write_bytes(png(values, [(b"tRNS", struct.pack(">3H", 1, 2, 3))]))
    data = quiet(tmp_path, background="#102030")
    assert data.images[0, :, 0, 0].tolist() == [16, 32, 48]
    assert data.images[0, :, 0, 1].tolist() == [255, 255, 255]


def test_icons_targas_and_files_without_a_suffix_are_read(tmp_path: Path) -> None:
    array = pixels(16, 16, 3)
    for i, name in enumerate(("a.ico", "b.tga", "c", "d.png")):
        kind = {"a.ico": "ICO", "b.tga": "TGA"}.get(name, "PNG")
        array[0, 0] = i
        Image.fromarray(array).save(tmp_path / name, kind)
    (tmp_path / "LICENSE").write_text("words")
    data = quiet(tmp_path)
    assert data.images[:, :, 0, 0].tolist() == [[i] * 3 for i in range(4)]
    assert np.array_equal(data.images[1, :, 1:], array.transpose(2, 0, 1)[:, 1:])
    assert data.losses == ("left out: 1 files of kinds that are not read: 1 without a suffix",)


def test_a_csv_of_a_spreadsheet_is_read_in_its_own_encoding(tmp_path: Path) -> None:
    text = "größe,y\n" + "".join(f"{i},{2 * i}.5\n" for i in range(9))
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / f"{encoding}.csv").write_text(text, encoding)
        data = quiet(tmp_path / f"{encoding}.csv")
        assert data.images.tolist() == [[i, 2 * i + 0.5] for i in range(9)]
        assert "columns: größe, y" in data.notes
    (tmp_path / "latin.csv").write_text(text, "latin-1")
    assert message(tmp_path / "latin.csv").endswith("save it as UTF-8")


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
def test_a_turned_tiff_is_said_to_be(tmp_path: Path, compression: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    fill(tmp_path / "set", 2, (10, 6))
    save(tmp_path / "set" / "z.tif", pixels(6, 10, seed=3), exif=exif, compression=compression)
    assert "1 of 3 images turned upright by their EXIF tag" in quiet(tmp_path / "set").notes
