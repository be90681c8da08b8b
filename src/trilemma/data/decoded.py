"""Many image files to one memory-mapped array, decoded once and kept in the cache folder.

A cache entry is two files, ``KEY.raw`` (the pixels) and ``KEY.json`` (their shape and hash, which files were bad and
why). The key covers the names, sizes and times of the files and the options that decide the pixels. Both files are
written under another name and moved into place, the JSON last, so that processes which fill the cache at the same time
do not disturb each other; an entry that does not match its hash is made again.
"""

from __future__ import annotations

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
from trilemma.data.dataset import Indices, image_digests
from trilemma.data.fit import Pixels, open_image, read_image, reason, upright_size
from trilemma.files import partial
from trilemma.machine import cache_folder as cache_folder  # where everything above looks for it

VERSION = 1  # of the cache; raise it when the same files and options would give other pixels
LARGEST_OWN_SIZE = 256
DEFAULT_SIDE = 64
CHUNK = 256
NAMED_BAD_FILES = 20

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One image file, wherever it lies.

    Attributes:
        name: for people, and unique in its source.
        identity: what changes when the file changes: its length and time, or a checksum.
        open: opens it for reading; may raise ``OSError`` or ``ValueError``.
    """

    name: str
    identity: tuple[int | str, ...]
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Decoded:
    """``images`` uint8 [M, C, H, W] of the M entries at ``kept``, and lines on what was done."""

    images: Pixels
    kept: Indices
    notes: list[str]


@dataclass(frozen=True)
class Record:
    """What the JSON of a cache entry holds."""

    shape: list[int]
    pixel_hash: str
    size_rule: str
    done: dict[str, int]
    bad: dict[str, str]


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
    if found is None:
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
    notes += [f"{count:,} of {len(images):,} images {what}" for what, count in record.done.items()]
    if bad:
        notes.append(f"left out: {len(bad):,} of {len(entries):,} files: {_named(bad)}")
    kept = np.array([i for i, entry in enumerate(entries) if entry.name not in bad], np.int64)
    return Decoded(images, kept, notes)


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
    done: Counter[str] = Counter()
    colourful = config.color == "rgb"
    channels = 1 if config.color == "grey" else 3
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; the policy in fit.py decides
        size, size_rule = _common_size(entries, config, pool, progress)

        def one(entry: Entry) -> tuple[Pixels, list[str]] | str:
            try:
                with entry.open() as file:
                    return read_image(file, size, config)
            except Exception as error:  # a decoder may raise anything on a broken file
                return reason(error)

        with written_atomically(path) as file:
            for entry, result in _mapped(one, entries, pool, "decoding images", progress):
                if isinstance(result, str):
                    bad[entry.name] = result
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
    record = Record(shape, _pixel_hash(images), size_rule, dict(done), bad)
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


def _common_size(
    entries: Sequence[Entry], config: DataConfig, pool: ThreadPoolExecutor, progress: bool
) -> tuple[tuple[int, int], str]:
    """The size to bring all images to, and the rule behind it in words."""
    if config.size is not None:
        return config.size, f"{config.size[0]} x {config.size[1]} as asked, by {config.fit}"

    def one(entry: Entry) -> tuple[int, int] | None:
        try:
            with entry.open() as file:
                return upright_size(open_image(file))
        except Exception:  # it will be named when it is decoded
            return None

    sizes = [size for _, size in _mapped(one, entries, pool, "measuring images", progress) if size]
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST_OWN_SIZE:
        return sizes[0], "the images' own"
    typical = median(min(size) for size in sizes) if sizes else DEFAULT_SIDE
    side = min(DEFAULT_SIDE, max(4, int(typical) // 4 * 4))
    why = "the images differ" if len(set(sizes)) > 1 else "the images are large"
    return (side, side), f"{side} x {side} because {why}, by {config.fit}"


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
    printable = {"".join(c if c.isprintable() else "?" for c in name): why for name, why in bad.items()}
    shown = [f"{name} ({why})" for name, why in list(printable.items())[:NAMED_BAD_FILES]]
    more = len(bad) - len(shown)
    return ", ".join(shown) + (f", and {more:,} more" if more else "")
