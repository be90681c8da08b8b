"""Many image files to one memory-mapped array, decoded once and kept in the cache folder.

A cache entry is two files, ``KEY.raw`` (the pixels) and ``KEY.json`` (their shape and hash, which files were bad and
why). The key covers the names, sizes and times of the files and the options that decide the pixels. Both files are
written under another name and moved into place, the JSON last, so that processes which fill the cache at the same time
do not disturb each other; an entry that does not match its hash is made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import BinaryIO, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from trilemma.data.config import DataConfig
from trilemma.data.dataset import Indices, Loss, image_digests
from trilemma.data.fit import (
    DECOLOURED,
    ENLARGED,
    LOSSES,
    REDUCED,
    Pixels,
    depth_of,
    highest_value,
    open_image,
    read_image,
    reason,
    upright_size,
)
from trilemma.data.room import check_room, free_disk
from trilemma.files import partial
from trilemma.machine import cache_folder as cache_folder  # where everything above looks for it
from trilemma.text import printable

VERSION = 3  # of the cache; raise it when the same files and options would give other pixels
LARGEST_OWN_SIZE = 256
DEFAULT_SIDE = 64
CHUNK = 256
NAMED_BAD_FILES = 20

SETTLED = (None, errno.ENOENT, errno.ELOOP)
"""Errors of the file itself: without a number from the system they are the decoder's, and a link that leads nowhere
changes its identity when it is mended. All others, such as a network drive's, may be gone the next time."""

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One image file, wherever it lies.

    Attributes:
        name: for people, and unique in its source.
        identity: what changes when the file changes: its length and times, or a checksum.
        open: opens it for reading; may raise ``OSError`` or ``ValueError``.
    """

    name: str
    identity: tuple[int | str, ...]
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Decoded:
    """``images`` uint8 [M, C, H, W] of the M entries at ``kept``, and lines on what was done.

    ``resized`` images had another size, ``decoloured`` ones had colours that were taken from them.
    """

    images: Pixels
    kept: Indices
    notes: list[str]
    resized: int
    decoloured: int


@dataclass(frozen=True)
class Record:
    """What the JSON of a cache entry holds; ``passing`` says that an error in ``bad`` may be gone the next time."""

    shape: list[int]
    pixel_hash: str
    size_rule: str
    done: dict[str, int]
    bad: dict[str, str]
    passing: bool = False


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only once it is complete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob("*.part"):  # by a process that was killed
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > 24 * 3600:
                    left.unlink()
        temporary = partial(path)
        try:
            with temporary.open("x+b") as file:  # as open to others as the umask says
                yield file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot write to the cache {path.parent} ({reason(error)}): "
            "set TRILEMMA_CACHE to a folder that can be written and has room"
        ) from error


def with_progress(items: Sequence[T], what: str, progress: bool) -> Iterator[T]:
    """Iterate with a bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    yield from track(items, what, console=console, transient=True, disable=not (progress and console.is_terminal))


def decode(entries: Sequence[Entry], where: str, config: DataConfig, progress: bool) -> Decoded:
    """Decode all entries, or take them from the cache.

    Raises:
        ValueError: more than ``config.max_bad`` of them cannot be read, or the cache cannot be written.
    """
    options = [VERSION, where, config.size, config.fit, config.color, config.background]
    listing = json.dumps([options, [(entry.name, *entry.identity) for entry in entries]])
    key = hashlib.blake2b(listing.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    path = cache_folder() / "decoded" / f"{key}.raw"
    found = _from_cache(path)
    if found is None or found[1].passing:
        _decode_to(path, entries, where, config, progress)
        found = _from_cache(path)
        if found is None:
            raise ValueError(
                f"the cache {path.parent} does not give back what was written: set TRILEMMA_CACHE elsewhere"
            )
    images, record = found
    bad = record.bad
    _check_bad(bad, len(entries), where, config)
    notes = [f"size: {record.size_rule}"]
    for what, count in record.done.items():
        line = f"{count:,} of {len(images):,} images {what}"
        notes.append(Loss(line) if what in LOSSES else line)
    if bad:
        notes.append(Loss(f"left out: {len(bad):,} of {len(entries):,} files: {_named(bad)}"))
    kept = np.array([i for i, entry in enumerate(entries) if entry.name not in bad], np.int64)
    resized = record.done.get(ENLARGED, 0) + record.done.get(REDUCED, 0)
    return Decoded(images, kept, notes, resized, record.done.get(DECOLOURED, 0))


def _from_cache(path: Path) -> tuple[Pixels, Record] | None:
    try:
        record = Record(**json.loads(path.with_suffix(".json").read_text("utf-8")))
        if path.stat().st_size == math.prod(record.shape):
            images = np.memmap(path, np.uint8, "r", shape=tuple(record.shape))
            if _pixel_hash(images) == record.pixel_hash:
                return images, record
    except (OSError, ValueError, TypeError):
        pass  # absent or broken: it is made again
    return None


def _pixel_hash(images: Pixels) -> str:
    return hashlib.blake2b(image_digests(images).tobytes(), digest_size=16).hexdigest()


def _decode_to(path: Path, entries: Sequence[Entry], where: str, config: DataConfig, progress: bool) -> None:
    bad: dict[str, str] = {}
    passing = False
    done: Counter[str] = Counter()
    colourful = config.color == "rgb"
    channels = 1 if config.color == "grey" else 3
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; the policy in fit.py decides
        size, size_rule, depth = _measure(entries, config, pool, progress)
        check_room(len(entries), channels, size, free_disk(path.parent), f"the cache {path.parent}", where)

        def one(entry: Entry) -> tuple[Pixels, list[str]] | Exception:
            try:
                with entry.open() as file:
                    return read_image(file, size, config, depth, entry.name)
            except Exception as error:  # a decoder may raise anything on a broken file
                return error

        with written_atomically(path) as file:
            for entry, result in _mapped(one, entries, pool, "decoding images", progress):
                if isinstance(result, Exception):
                    bad[entry.name] = reason(result)
                    passing |= _may_pass(result)
                    continue
                pixels, remarks = result
                done.update(remarks)
                colourful = colourful or (channels == 3 and not (pixels == pixels[:1]).all())
                file.write(np.ascontiguousarray(pixels).data)
            _check_bad(bad, len(entries), where, config)
            if config.color == "auto" and not colourful:
                channels = 1
                _keep_first_channel(file, len(entries) - len(bad), size[0] * size[1])
    shape = [len(entries) - len(bad), channels, *size]
    images = np.memmap(path, np.uint8, "r", shape=tuple(shape))
    record = Record(shape, _pixel_hash(images), size_rule, dict(done), bad, passing)
    with written_atomically(path.with_suffix(".json")) as file:
        file.write(json.dumps(asdict(record)).encode())


def _keep_first_channel(file: BinaryIO, count: int, plane: int) -> None:
    """Turn a file of three-channel images into one of their first channels, in place."""
    for i in range(count):
        file.seek(3 * i * plane)
        channel = file.read(plane)
        file.seek(i * plane)  # never past what has been read
        file.write(channel)
    file.truncate(count * plane)


def _may_pass(error: Exception) -> bool:
    """Whether a file that could not be read may be readable the next time, as it is."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in SETTLED)


def _measure(
    entries: Sequence[Entry], config: DataConfig, pool: ThreadPoolExecutor, progress: bool
) -> tuple[tuple[int, int], str, int]:
    """The size to bring all images to, the rule behind it in words, and the bits of those that have more than 8."""

    def one(entry: Entry) -> tuple[tuple[int, int], int] | None:
        try:
            with entry.open() as file:
                image = open_image(file, entry.name)
                size = upright_size(image)
                file.seek(0)  # asked how it is turned, a PNG is loaded; once loaded, a TIFF does not say
                return size, highest_value(open_image(file, entry.name), file)
        except Exception:  # it will be named when it is decoded
            return None

    found = [result for _, result in _mapped(one, entries, pool, "measuring images", progress) if result]
    depth = depth_of(max((highest for _, highest in found), default=0))
    if config.size is not None:
        return config.size, f"{config.size[0]} x {config.size[1]} as asked, by {config.fit}", depth
    sizes = [size for size, _ in found]
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST_OWN_SIZE:
        return sizes[0], "the images' own", depth
    typical = median(min(size) for size in sizes) if sizes else DEFAULT_SIDE
    side = min(DEFAULT_SIDE, max(4, int(typical) // 4 * 4))
    why = "the images differ" if len(set(sizes)) > 1 else "the images are large"
    return (side, side), f"{side} x {side} because {why}, by {config.fit}", depth


def _mapped(
    function: Callable[[Entry], T], entries: Sequence[Entry], pool: ThreadPoolExecutor, what: str, progress: bool
) -> Iterator[tuple[Entry, T]]:
    """``function`` of every entry, in order, in threads; a chunk at a time, so that results never pile up."""
    for start in with_progress(range(0, len(entries), CHUNK), what, progress):
        chunk = entries[start : start + CHUNK]
        yield from zip(chunk, pool.map(function, chunk), strict=True)


def _check_bad(bad: dict[str, str], total: int, where: str, config: DataConfig) -> None:
    if len(bad) == total or len(bad) > config.max_bad * total:
        raise ValueError(
            f"{len(bad):,} of {total:,} image files in {where} cannot be read (max_bad allows {config.max_bad:.0%}): "
            f"{_named(bad)}; repair or remove them, or raise max_bad"
        )


def _named(bad: dict[str, str]) -> str:
    shown = [f"{printable(name)} ({why})" for name, why in list(bad.items())[:NAMED_BAD_FILES]]
    more = len(bad) - len(shown)
    return ", ".join(shown) + (f", and {more:,} more" if more else "")
