"""A folder of images, or a zip of one (never unpacked to disk).

Classes are the subfolders; ``train`` and ``test`` (or ``val``, ``validation``) at the top are the split. A
``metadata.jsonl`` or ``metadata.csv`` beside the images, as in the Hub's image-folder convention, gives captions
(``text``) and labels (``label`` or ``category``) by ``file_name``. Hidden files, ``__MACOSX`` and files of other kinds
are ignored. Links to folders are followed when they lead out of the folder, each target once.
"""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from trilemma.data.config import DataConfig
from trilemma.data.dataset import Raw, number_classes
from trilemma.data.decoded import Entry, decode
from trilemma.data.fit import SUFFIXES, reason

METADATA = ("metadata.jsonl", "metadata.csv")
CAPTION_KEYS = ("text", "caption")
LABEL_KEYS = ("label", "category", "class")
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing")
VALIDATION_NAMES = ("val", "valid", "validation")

MAX_FILE_BYTES = 2**28
BOMB_RATIO = 100
BOMB_BYTES = 2**30


def load_folder(path: Path, config: DataConfig, progress: bool) -> Raw:
    """Read a folder of images. Raises ``ValueError`` with one line where there are none."""
    files = list(_walk(path, "", {path.resolve()}, path.resolve()))
    entries = [_file_entry(name, file) for name, file in files if _is_image(name)]
    metadata = {name: partial(_read_file, file) for name, file in files if PurePosixPath(name).name in METADATA}
    return _load(path.resolve(), entries, metadata, config, progress)


def load_zip(path: Path, config: DataConfig, progress: bool) -> Raw:
    """Read a zip of a folder of images. Raises ``ValueError`` with one line where there are none."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is not a readable zip file: {reason(error)}") from error
    with archive:
        members = {info.filename: info for info in archive.infolist() if not info.is_dir() and _visible(info.filename)}
        unpacked = sum(info.file_size for info in members.values())
        if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * path.stat().st_size:
            raise ValueError(
                f"{path} would unpack to {unpacked / 2**30:.0f} GiB, like a zip bomb: give the images as a folder"
            )
        entries = [
            Entry(name, (info.file_size, info.CRC), partial(_open_member, archive, info))
            for name, info in sorted(members.items())
            if _is_image(name)
        ]
        metadata = {
            name: partial(_read_member, archive, info)
            for name, info in members.items()
            if PurePosixPath(name).name in METADATA
        }
        return _load(path.resolve(), entries, metadata, config, progress)


def _load(
    path: Path,
    entries: list[Entry],
    metadata: Mapping[str, Callable[[], bytes]],
    config: DataConfig,
    progress: bool,
) -> Raw:
    if not entries:
        raise ValueError(f"no images in {path}: looked for {' '.join(sorted(SUFFIXES))}, also in its subfolders")
    notes: list[str] = []
    records = _read_metadata(metadata, path)
    folders = _below_common([PurePosixPath(entry.name).parts[:-1] for entry in entries])
    is_test, folders, used = _own_split(folders, notes)
    entries = [entry for entry, use in zip(entries, used, strict=True) if use]
    if records:
        strangers = len(records.keys() - {entry.name for entry in entries})
        if strangers:
            notes.append(f"metadata: {strangers:,} of {len(records):,} rows name no image here")

    decoded = decode(entries, str(path), config, progress)
    rows = [records.get(entries[i].name, {}) for i in decoded.kept]
    captions = [_first(row, CAPTION_KEYS) for row in rows]
    classes = [_first(row, LABEL_KEYS) for row in rows]
    if not any(classes):
        classes = [folders[i][0] if folders[i] else "" for i in decoded.kept]
        if len(set(classes)) < 2:
            classes = []
    labels, class_names = number_classes(classes, notes)
    return Raw(
        path.stem if path.is_file() else path.name,
        decoded.images,
        labels,
        captions if any(captions) else None,
        class_names,
        None if is_test is None else is_test[decoded.kept],
        sorted_by_name=True,
        notes=decoded.notes + notes,
    )


def _below_common(folders: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Drop the leading folders that all images share: they say nothing about any one of them."""
    shared = 0
    while all(len(folder) > shared for folder in folders) and len({folder[shared] for folder in folders}) == 1:
        shared += 1
    return [folder[shared:] for folder in folders]


def _own_split(
    folders: list[tuple[str, ...]], notes: list[str]
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]] | None, list[tuple[str, ...]], list[bool]]:
    """Split by top folder: (is_test or None, the folders below it), of the images used, and which are used."""
    tops = [folder[0].lower() if folder else "" for folder in folders]
    held_out = next((names for names in (TEST_NAMES, VALIDATION_NAMES) if any(top in names for top in tops)), ())
    if not held_out or not any(top in TRAIN_NAMES for top in tops):
        return None, folders, [True] * len(folders)
    used = [top in TRAIN_NAMES or top in held_out for top in tops]
    if not all(used):
        notes.append(
            f"left out: {used.count(False):,} images that are neither in the train nor in the {held_out[0]} folder"
        )
    is_test = np.array([top in held_out for top, use in zip(tops, used, strict=True) if use])
    return is_test, [folder[1:] for folder, use in zip(folders, used, strict=True) if use], used


def _read_metadata(metadata: Mapping[str, Callable[[], bytes]], path: Path) -> dict[str, dict[str, Any]]:
    """Rows by image name, the name being relative to the whole source."""
    records: dict[str, dict[str, Any]] = {}
    for name, read in sorted(metadata.items()):
        try:
            text = read().decode("utf-8-sig")
        except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(f"cannot read {name} in {path}: {reason(error)}") from error
        for number, row in _rows(text, name, path):
            file_name = row.get("file_name")
            if not isinstance(file_name, str) or not file_name:
                raise ValueError(f"{name} in {path}, line {number}: there is no file_name")
            records[posixpath.normpath(posixpath.join(posixpath.dirname(name), file_name))] = row
    return records


def _rows(text: str, name: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if name.endswith(".csv"):
        table = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in table:
                yield table.line_num, row
        except csv.Error as error:
            raise ValueError(f"{name} in {path}, line {table.line_num}: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise ValueError(f"{name} in {path}, line {number}: each line must be one JSON object")
            yield number, value


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    value = next((row[key] for key in keys if row.get(key) is not None), "")
    return str(value).strip()


def _walk(folder: Path, prefix: str, seen: set[Path], root: Path) -> Iterator[tuple[str, Path]]:
    """(name relative to the source, path) of every visible file, in order of name."""
    try:
        found = sorted(os.scandir(folder), key=lambda item: item.name)
    except OSError as error:
        raise ValueError(f"cannot open the folder {folder}: {reason(error)}") from error
    for item in found:
        name = prefix + os.fsencode(item.name).decode("utf-8", "backslashreplace")  # names need not be text
        if not _visible(item.name):
            continue
        if not _is_folder(item):
            yield name, Path(item.path)
            continue
        if item.is_symlink():
            target = Path(item.path).resolve()
            if target in seen or target.is_relative_to(root) or root.is_relative_to(target):
                continue
            seen.add(target)
        yield from _walk(Path(item.path), name + "/", seen, root)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _file_entry(name: str, file: Path) -> Entry:
    try:
        status = file.stat()
        identity = (status.st_size, status.st_mtime_ns)
    except OSError:  # a dangling link; opening it will say so
        identity = (0, 0)
    return Entry(name, identity, partial(_open_file, file))


def _open_file(file: Path) -> BinaryIO:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise ValueError("not a regular file")
    if status.st_size == 0:
        raise ValueError("empty file")
    return file.open("rb")


def _read_file(file: Path) -> bytes:
    with _open_file(file) as handle:
        return handle.read()


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    return io.BytesIO(_read_member(archive, info))


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 1:
        raise ValueError("encrypted")
    if info.file_size == 0:
        raise ValueError("empty file")
    if info.file_size > MAX_FILE_BYTES:
        raise ValueError(f"unpacks to {info.file_size / 2**20:.0f} MiB")
    return archive.read(info)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
