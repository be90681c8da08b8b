"""Whether what was asked for fits, before it is tried."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

SHARE = 0.9
"""Of what is free, that images may take."""


def free_memory() -> int | None:
    """Bytes of memory that a process can still have, None where the system does not say; a container's limit counts."""
    rooms = []
    with suppress(OSError, ValueError, LookupError):
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        rooms.append(1024 * int(fields["MemAvailable"].split()[0]))
    with suppress(OSError, ValueError, KeyError):
        group = Path("/sys/fs/cgroup")
        told = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
        used = int((group / "memory.current").read_text("ascii")) - int(told["file"])  # a cache of files gives way
        rooms.append(max(0, int((group / "memory.max").read_text("ascii")) - used))
    if not rooms:
        with suppress(OSError, ValueError, AttributeError):
            rooms.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(rooms, default=None)


def free_disk(folder: Path) -> int | None:
    """Bytes that can still be written below ``folder``, which need not be there yet."""
    place = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    with suppress(OSError):
        return shutil.disk_usage(place).free if place else None
    return None


def check_room(count: int, channels: int, size: tuple[int, int], free: int | None, room: str, where: str) -> None:
    """Refuse images that do not fit, and say which would.

    Args:
        count, channels, size: of the images, (height, width).
        free: bytes there are, None where that is not known.
        room: what they must fit into, in words, and ``where`` the images come from.

    Raises:
        ValueError: they do not fit, in one line.
    """
    needed = count * channels * size[0] * size[1]
    if free is None or needed <= SHARE * free:
        return
    scale = (SHARE * free / needed) ** 0.5
    height, width = (max(1, int(side * scale)) for side in size)
    raise ValueError(
        f"{count:,} images of {size[0]} x {size[1]} from {where} take {_gib(needed)}, and {room} has room for "
        f"{_gib(int(SHARE * free))}: --image-size {height}x{width} would fit"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**27 else f"{count / 2**20:,.1f} MiB"
