"""Candidates for nearest neighbours out of an index, for sets too large to be searched row by row.

The index is faiss's inverted file with one byte for each dimension (Johnson, Douze, Jégou 2019, "Billion-scale
similarity search with GPUs", arXiv 1702.08734): a query looks into the nearest of about √M cells only. It may miss a
neighbour; the distances of those it finds are measured exactly by whoever asked.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

PART = 2**16
"""Rows converted to float32 at once."""


def candidates(queries: Tensor, reference: Tensor, count: int) -> Tensor:
    """For each row of ``queries`` [N, d] the rows of ``reference`` [M, d] that are probably its nearest.

    Returns:
        int64 [N, count], nearest first; -1 where fewer were found.

    Raises:
        ValueError: faiss is not installed, in one line.
    """
    if find_spec("faiss") is None:
        raise ValueError('searching by an index needs an extra: pip install "trilemma[index]"')
    import faiss

    size, dims = reference.shape
    cells = max(1, round(math.sqrt(size)))
    index: Any = faiss.index_factory(dims, f"IVF{cells},SQ8")
    # Forty rows a cell are enough to place it; evenly spaced, so that nothing is random.
    rows = torch.linspace(0, size - 1, min(size, 40 * cells)).long()
    index.train(_floats(reference[rows]))
    for start in range(0, size, PART):
        index.add(_floats(reference[start : start + PART]))
    index.nprobe = max(16, cells // 16)
    found = [index.search(_floats(part), count)[1] for part in torch.split(queries, PART)]
    return torch.from_numpy(np.concatenate(found))


def _floats(x: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(x.float().numpy())
