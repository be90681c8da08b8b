"""A folder of images, or a zip of one (never unpacked to disk).

Classes are the subfolders; ``train`` and ``test`` (or ``val``, ``validation``) at the top are the split. Files beside
the images may say more (`trilemma.data.annotations`). Hidden files and ``__MACOSX`` are ignored, files of other kinds
are named in a note. Folders that trilemma wrote itself (runs, reports, evaluations) are left out, lest a model be
trained on its own samples. Links to folders are followed when they lead out of the folder, each target once.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from trilemma.data.annotations import read_annotations
from trilemma.data.config import DataConfig
from trilemma.data.dataset import Loss, Raw, examples, number_classes
from trilemma.data.decoded import Entry, decode
from trilemma.data.fit import SUFFIXES, begins_like_an_image, open_image, reason
from trilemma.text import printable

TRAIN_NAMES = ("train", "training", "train_set", "training_set")
TEST_NAMES = ("test", "testing", "test_set", "testing_set")
VALIDATION_NAMES = ("val", "valid", "validation", "validation_set")

RUBBISH = ("thumbs.db", "desktop.ini")
"""Files that systems leave behind, in lower case."""
PLAIN_KINDS = (
    ".txt",
    ".md",
    ".json",
    ".jsonl",
    ".csv",
    ".html",
    ".py",
    ".log",
    ".xml",
    ".yaml",
    ".yml",
    ".toml",
    ".pdf",
)
"""Suffixes of files that are surely no pictures, so that nobody misses them."""

WRITTEN_BY_US = (
    ("config.json", ("lock", "metrics.jsonl", "checkpoints")),
    ("report.json", ("report.html",)),
    ("metrics.json", ("samples.png",)),
)
"""A folder with the first of these and any of the others beside it is a run, a report or an evaluation."""

MAX_FILE_BYTES = 2**28
BOMB_RATIO = 100
BOMB_BYTES = 2**30


def load_folder(path: Path, config: DataConfig, progress: bool) -> Raw:
    """Read a folder of images. Raises ``ValueError`` with one line where there are none."""
    files = dict(_walk(path, "", {path.resolve()}, path.resolve()))
    return _load(
        path.resolve(),
        list(files),
        lambda name: _file_entry(name, files[name]),
        lambda name: partial(_read_file, files[name]),
        config,
        progress,
        [],
    )


def load_zip(path: Path, config: DataConfig, progress: bool) -> Raw:
    """Read a zip of a folder of images. Raises ``ValueError`` with one line where there are none."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is not a readable zip file: {reason(error)}") from error
    with archive:
        # some programs write Windows' backslashes, which the format does not allow
        listed = [(info.filename.replace("\\", "/"), info) for info in archive.infolist()]
        listed = [(name, info) for name, info in listed if not name.endswith("/") and _visible(name)]
        members = dict(listed)
        unpacked = sum(info.file_size for info in members.values())
        if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * path.stat().st_size:
            raise ValueError(
                f"{path} would unpack to {unpacked / 2**30:.0f} GiB, like a zip bomb: give the images as a folder"
            )
        notes: list[str] = []
        if twice := len(listed) - len(members):
            notes.append(Loss(f"left out: {twice:,} files of the zip that have the name of a later one"))

        def entry(name: str) -> Entry:
            info = members[name]
            return Entry(name, (info.file_size, info.CRC), partial(_open_member, archive, info))

        def read(name: str) -> Callable[[], bytes]:
            return partial(_read_member, archive, members[name])

        return _load(path.resolve(), sorted(members), entry, read, config, progress, notes)


def _load(
    path: Path,
    names: list[str],
    entry: Callable[[str], Entry],
    reader: Callable[[str], Callable[[], bytes]],
    config: DataConfig,
    progress: bool,
    notes: list[str],
) -> Raw:
    """The data set of all visible files, by name."""
    names = _without_our_own(names, path, notes)
    pictures = {name for name in names if _is_image(name) or (not _kind(name) and _looks_like_one(entry(name)))}
    images = [name for name in names if name in pictures]
    others = [name for name in names if name not in pictures and PurePosixPath(name).name.lower() not in RUBBISH]
    if not images:
        there = f"; of other kinds there are {_kinds(others)}" if others else ""
        looked = " ".join(sorted(SUFFIXES))
        raise ValueError(f"no images in {path}: looked for {looked}, also in its subfolders{there}")
    said = read_annotations({name: reader(name) for name in others}, images, path)
    _name_the_rest([name for name in others if name not in said.used], notes)
    folders = _below_common([PurePosixPath(name).parts[:-1] for name in images])
    is_test, folders, used = _own_split(folders, notes)
    images = [name for name, use in zip(images, used, strict=True) if use]

    decoded = decode([entry(name) for name in images], str(path), config, progress)
    kept = [images[i] for i in decoded.kept]
    captions = [said.captions.get(name, "") for name in kept]
    classes = [said.labels.get(name, "") for name in kept]
    if not any(classes):
        classes = [folders[i][0] if folders[i] else "" for i in decoded.kept]
        if len(set(classes)) < 2 or said.sharded:
            classes = []
    notes += said.notes
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
        resized=decoded.resized,
        decoloured=decoded.decoloured,
        no_captions=said.no_captions,
    )


def _without_our_own(names: list[str], path: Path, notes: list[str]) -> list[str]:
    """Without the files of runs, reports and evaluations that lie among the images."""
    tops: dict[str, set[str]] = {}  # of each folder, what lies in it
    for name in names:
        parts = PurePosixPath(name).parts
        for i, part in enumerate(parts):
            tops.setdefault("/".join(parts[:i]), set()).add(part)
    own = {
        folder
        for folder, inside in tops.items()
        for sign, others in WRITTEN_BY_US
        if sign in inside and not inside.isdisjoint(others)
    }
    if "" in own and not tops[""].isdisjoint({"checkpoints", "report.html"}):
        raise ValueError(f"{path} was written by trilemma itself: give the images, not a run or a report")
    own.discard("")
    if not own:
        return names
    outermost = [folder for folder in sorted(own) if not any(map(own.__contains__, _above(folder)))]
    notes.append(Loss(f"left out: folders that trilemma wrote itself: {examples(outermost)}"))
    return [name for name in names if not any(map(own.__contains__, _above(name)))]


def _above(name: str) -> list[str]:
    """The folders that a file or folder lies in."""
    return [str(parent) for parent in PurePosixPath(name).parents]


def _name_the_rest(others: list[str], notes: list[str]) -> None:
    """Note which files are no images, more loudly where they may be pictures of a kind that is not read."""
    perhaps = [name for name in others if _kind(name) not in PLAIN_KINDS]
    if perhaps:
        notes.append(Loss(f"left out: {len(perhaps):,} files of kinds that are not read: {_kinds(perhaps)}"))
    if plain := [name for name in others if _kind(name) in PLAIN_KINDS]:
        notes.append(f"not images: {_kinds(plain)}")


def _kinds(names: Collection[str]) -> str:
    """Files counted by their suffix: ``30 .heic, 5 without a suffix``."""
    counts = Counter(_kind(name) or "without a suffix" for name in names)
    shown = [f"{count:,} {printable(kind)}" for kind, count in counts.most_common(10)]
    return ", ".join(shown) + (f" and {len(counts) - 10} other kinds" if len(counts) > 10 else "")


def _kind(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


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
        kinds = f"neither in the train nor in the {held_out[0]} folder"
        notes.append(Loss(f"left out: {used.count(False):,} images that are {kinds}"))
    is_test = np.array([top in held_out for top, use in zip(tops, used, strict=True) if use])
    return is_test, [folder[1:] for folder, use in zip(folders, used, strict=True) if use], used


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
        identity = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)  # a copy may bring its old time with it
    except OSError:  # a dangling link; opening it will say so
        identity = (0, 0, 0)
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


def _looks_like_one(file: Entry) -> bool:
    """Whether a file whose name does not say what it is begins like an image."""
    try:
        with file.open() as opened:
            return begins_like_an_image(opened.read(16))
    except Exception:  # what cannot be opened is named among the files that are not read
        return False


def _visible(name: str) -> bool:
    """Whether no part of a name is hidden. Nothing is written by it, so that an archive's ``..`` does no harm."""
    parts = PurePosixPath(name).parts
    return not any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)


class Originals:
    """The images of a folder or a zip of one, each in its own size, as Pillow decodes it to RGB and nothing more.

    That is what programs do that measure a folder: no turning upright, no background behind transparency, no rule for
    16 bits. `load_folder` is for what is to be learnt.

    Attributes:
        names: of the files, in order.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_dir():
            files = dict(_walk(path, "", {path.resolve()}, path.resolve()))
            self._open: Callable[[str], BinaryIO] = lambda name: _open_file(files[name])
            names = list(files)
        else:
            try:
                archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise ValueError(f"{path} is not a readable zip file: {reason(error)}") from error
            members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            self._open = lambda name: _open_member(archive, members[name])
            names = sorted(name for name in members if _visible(name))
        self.names = [name for name in _without_our_own(names, path, []) if _is_image(name)]
        if not self.names:
            raise ValueError(f"no images in {path}: looked for {' '.join(sorted(SUFFIXES))}, also in its subfolders")

    def __iter__(self) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
        """uint8 [3, H, W]; ``ValueError`` with the name of a file that is no image."""
        for name in self.names:
            try:
                with self._open(name) as file:
                    pixels = np.asarray(open_image(file, name).convert("RGB"))
            except Exception as error:  # decoders raise all sorts
                raise ValueError(f"{printable(name)} in {self._path} cannot be read: {reason(error)}") from None
            yield np.ascontiguousarray(pixels.transpose(2, 0, 1))
