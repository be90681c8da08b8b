"""The one writer of files: what stands under a name is whole, the old one or the new one, whatever happens.

A file is written beside its place under a name that begins with `PARTIAL`, flushed to the disk, read back from the disk
and compared, and renamed. Its permissions are those that the user's umask leaves. What a process that was killed left
behind is swept when the next one writes into the same folder.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from PIL import Image

PARTIAL = ".partial-"
"""What the names of unfinished files and folders begin with."""

STALE = 24 * 3600
"""Seconds after which what a process of another machine left behind is taken for litter."""

_swept: set[str] = set()
_numbers = itertools.count()


def partial(path: Path) -> Path:
    """Where a file or folder belongs until it is whole: beside ``path``, under a name that is used once."""
    if (folder := os.path.realpath(path.parent)) not in _swept:
        _swept.add(folder)
        sweep(path.parent)
    return path.with_name(f"{PARTIAL}{_host()}-{os.getpid()}-{next(_numbers)}")


def sweep(folder: Path, all_of_them: bool = False) -> None:
    """Remove what killed processes left in ``folder``; ``all_of_them`` where a lock says that nobody else writes."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            with contextlib.suppress(OSError):
                if entry.name.startswith(PARTIAL) and (all_of_them or _abandoned(entry)):
                    remove(Path(entry.path))


def _abandoned(entry: os.DirEntry[str]) -> bool:
    host, _, rest = entry.name.removeprefix(PARTIAL).partition("-")
    pid = rest.partition("-")[0]
    if host == _host() and pid.isdigit():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE


def _host() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum())[:32] or "host"


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file open for writing that appears under its name once it is complete and on the disk. Parents are made.

    Raises:
        OSError: it cannot be written, in one line; what was there before is untouched.
    """
    path = Path(os.path.realpath(path))  # a link stays a link to the new file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = partial(path)
        try:
            with temporary.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            flush(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(path, error) from error


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> Path:
    """Replace a file atomically, and only by what the disk gives back when it is asked."""
    with replacing(path) as file:
        file.write(content)
        confirm(file, content)
    return Path(path)


def confirm(file: IO[bytes], content: bytes | memoryview) -> None:
    """Read an open file back from the disk; ``OSError`` if it is not ``content``.

    The pages are dropped from the system's cache first, so that it is the disk that answers, where that can be asked.
    """
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    view, place, size = memoryview(content), 0, 1 << 24
    while part := file.read(size):
        if part != view[place : place + size]:
            break
        place += len(part)
    if place != len(view):
        raise OSError("the disk gives back something else than what was written")


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Replace a text file, UTF-8, atomically; what is no valid Unicode (a class named after a file) becomes ?"""
    return write_bytes(path, text.encode("utf-8", "replace"))


def write_json(path: str | os.PathLike[str], record: Any) -> Path:
    """Replace a JSON file atomically; NaN is refused."""
    return write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def write_picture(path: str | os.PathLike[str], picture: Image.Image, kind: str = "PNG", **settings: Any) -> Path:
    """Replace a picture atomically; ``settings`` are Pillow's."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **({"optimize": True} | settings if kind == "PNG" else settings))
    return write_bytes(path, buffer.getbuffer())


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to be filled, which takes its place under its name once it is complete; one that was there is replaced.

    Raises:
        OSError: it cannot be written, in one line; what was there before is untouched.
    """
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = partial(path)
        old = fresh.with_name(f"{fresh.name}-old")
        remove(fresh)
        try:
            fresh.mkdir()
            yield fresh
            for file in fresh.rglob("*"):
                flush(file)
            flush(fresh)
            if path.exists():
                path.rename(old)
            fresh.rename(path)
            flush(path.parent)
        finally:
            if old.exists() and not path.exists():  # the second of the two renames did not come to pass
                old.rename(path)
            remove(old)
            remove(fresh)
    except OSError as error:
        cause = error.__cause__  # of a file in it, whose place nobody knows
        raise _unwritten(
            path, cause if isinstance(error, Unwritten) and isinstance(cause, OSError) else error
        ) from error


def _unwritten(path: Path, error: OSError) -> OSError:
    if isinstance(error, Unwritten):
        return error
    return Unwritten(f"{path} could not be written ({error.strerror or error}); what was there before is untouched")


class Unwritten(OSError):
    """A file could not be written; what was there before is untouched."""


def flush(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
