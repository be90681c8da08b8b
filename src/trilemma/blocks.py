"""Many images in blocks: what is computed of each block, on whichever process, put together in order on all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trilemma.parallel import Ranks

BLOCK = 64
"""Images computed together."""

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` inside what takes long."""


def map_blocks(
    compute: Callable[[range, Progress | None], tuple[Tensor, ...]],
    count: int,
    where: Ranks,
    *,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> tuple[Tensor, ...]:
    """What ``compute`` makes of rows 0 … count, block by block, shared among processes.

    Args:
        compute: from the rows of a block, and the progress inside it, to tensors [rows, …].
        count: how many rows there are, at least one.
        block: rows computed together; a row must not depend on its block, but for rounding.
        progress: told ``(rows done, count)``.

    Returns:
        Each of the tensors over all rows, [count, …], on the CPU and on every process.
    """
    mine: dict[int, tuple[Tensor, ...]] = {}
    for start in list(range(0, count, block))[where.rank :: where.size]:
        rows = range(start, min(start + block, count))
        mine[start] = tuple(part.cpu() for part in compute(rows, part_of(progress, start, len(rows), count)))
        if progress:
            progress(rows.stop, count)
    blocks: dict[int, tuple[Tensor, ...]] = {}
    for theirs in where.gather(mine):
        blocks |= theirs
    return tuple(torch.cat(part) for part in zip(*(blocks[start] for start in sorted(blocks)), strict=True))


def part_of(progress: Progress | None, before: int, share: int, total: int) -> Progress | None:
    """The progress of a part of some work, as that of all: ``before`` of ``total`` were done, the part is ``share``."""
    if progress is None:
        return None
    return lambda done, of: progress(before + share * done // of, total)
