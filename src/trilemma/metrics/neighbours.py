"""Nearest neighbours: exact, in chunks, or out of an index for large sets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trilemma.metrics.checks import check_features, check_same_dims
from trilemma.metrics.index import candidates as indexed

CHUNK = 2**23  # distances held at once: 32 MiB in float32
CACHED = 2**17  # float64 values worked on at once: 1 MiB stays in the processor's cache
EXACTLY = 1024  # queries searched again in float64 at once: 32 MiB of distances to 4,096 rows
SPARE = 3  # candidates beyond the k nearest that are measured again


def closest(
    queries: Tensor, reference: Tensor, k: int = 1, *, others: bool = False, index: bool = False
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of ``reference`` ``[M, d]`` for each of ``queries`` ``[N, d]``, nearest first.

    Features, or flattened pixels. Candidates are found with float32 products, in chunks, and measured again in
    float64 by the difference itself, so that a copy is at exactly 0. Where rounding could have hidden a nearer row
    behind the candidates, the search is repeated in float64; the answer is exact either way.

    Args:
        others: leave out row i of ``reference`` for query i, by index: for the neighbours of a set within itself.
        index: search an index instead of every row (`metrics.index`): much faster on large sets. A neighbour may be
            missed, so distances may be too large; those that are found are exact.

    Returns:
        float64 ``[N, k]`` Euclidean distances and int64 ``[N, k]`` rows of ``reference``.

    Raises:
        ValueError: the dimensions differ, there are fewer than k rows, or a value is NaN or infinite.
    """
    check_same_dims(queries.shape[-1], reference.shape[-1])
    queries = check_features(queries, "queries", least=1, convert=False)
    reference = check_features(reference, "reference", least=1, convert=False)
    if not 1 <= k <= len(reference) - others:
        raise ValueError(f"there are {len(reference) - others} neighbours to look for, not {k}")
    if index:
        return _by_index(queries, reference, k, others)
    centre = mean_row(reference)  # distances do not change, and their rounding error shrinks
    near = centred(reference, centre)
    norms = squared_norms(near)
    distances = torch.empty(len(queries), k, dtype=torch.float64)
    indices = torch.empty(len(queries), k, dtype=torch.int64)
    unsure: list[Tensor] = []
    rows = max(1, CHUNK // len(reference))
    for start in range(0, len(queries), rows):
        part = queries[start : start + rows]
        offset = start if others else None
        q = centred(part, centre)
        found = _search(part, q, reference, near, norms, k, offset)
        distances[start : start + rows], indices[start : start + rows] = found[:2]
        unsure.append(start + found[2].nonzero()[:, 0])
    # All of them at once: each search makes a float64 copy of the whole reference, piece by piece.
    for again in torch.split(torch.cat(unsure), EXACTLY):
        distances[again], indices[again] = _exactly(queries[again], reference, centre, k, again, others)
    return distances, indices


def _by_index(queries: Tensor, reference: Tensor, k: int, others: bool) -> tuple[Tensor, Tensor]:
    """The k nearest of what an index finds."""
    count = min(4 * (k + SPARE), len(reference))
    found = indexed(queries, reference, count)
    own = torch.arange(len(queries))[:, None]
    missing = (found < 0) | ((found == own) if others else False)
    # What is missing stands at the end, as the farthest of those that were found.
    order = missing.int().sort(dim=1, stable=True).indices
    found, missing = found.gather(1, order), missing.gather(1, order)
    if bool(missing[:, k - 1].any()):
        raise ValueError(f"the index found fewer than {k} neighbours of some image: search exactly")
    last = (~missing).sum(1, keepdim=True) - 1
    return _measure(queries, reference, torch.where(missing, found.gather(1, last), found), k, missing)


def nearest(queries: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest row of ``reference`` for each of ``queries``: `closest` with k = 1, as ``[N]`` and ``[N]``."""
    distances, indices = closest(queries, reference)
    return distances[:, 0], indices[:, 0]


def mean_row(x: Tensor) -> Tensor:
    """Mean of rows ``[N, d]`` as float64 ``[d]``, without a float64 copy of all of them."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for part in torch.split(x, max(1, CACHED // x.shape[1])):
        total += part.double().sum(0)
    return total / len(x)


def centred(x: Tensor, centre: Tensor) -> Tensor:
    """Rows less a float64 centre, as float32."""
    out = torch.empty(x.shape, dtype=torch.float32)
    rows = max(1, CACHED // x.shape[1])
    for start in range(0, len(x), rows):
        out[start : start + rows] = x[start : start + rows].double() - centre
    return out


def squared_norms(x: Tensor) -> Tensor:
    """Of rows ``[N, d]``, ``[N]``, without a copy of them."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=1)
    return norms.square_()


def rounding(d: int) -> float:
    """How far a squared distance by float32 products may be off, as a multiple of the squared norms of both rows.

    The worst case grows as d; sums in blocks are found to stay ten times below this.
    """
    return 4 * torch.finfo(torch.float32).eps * math.sqrt(d)


def _search(
    queries: Tensor, q: Tensor, reference: Tensor, near: Tensor, norms: Tensor, k: int, offset: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances and indices of k neighbours, and for which queries they are not certain."""
    squared = torch.addmm(norms, q, near.T, alpha=-2)  # less |q|², which is the same for every candidate
    if offset is not None:
        squared.diagonal(offset).fill_(torch.inf)
    count = min(k + SPARE, len(near) - (offset is not None))
    values, candidates = squared.topk(count, largest=False)
    distances, indices = _measure(queries, reference, candidates, k)
    if count == len(near) - (offset is not None):
        return distances, indices, torch.zeros(len(q), dtype=torch.bool)
    # With |r| ≤ |q| + D, a row beyond the last candidate v is at D²(1 + 2c) ≥ v - 3c|q|² or more.
    own, c = squared_norms(q).double(), rounding(q.shape[1])
    safe = (values[:, -1].double() + own - 3 * c * own) / (1 + 2 * c)
    return distances, indices, (distances[:, -1].square() >= safe) & (distances[:, -1] > 0)


def _exactly(
    queries: Tensor, reference: Tensor, centre: Tensor, k: int, own: Tensor, others: bool
) -> tuple[Tensor, Tensor]:
    """The same by float64 products throughout, for the few rows that need it."""
    q = queries.double() - centre
    count = min(k + SPARE, len(reference) - others)
    best = torch.empty(len(q), 0, dtype=torch.float64)
    candidates = torch.empty(len(q), 0, dtype=torch.int64)
    for start in range(0, len(reference), 4096):
        r = reference[start : start + 4096].double() - centre
        squared = torch.addmm(r.square().sum(1), q, r.T, alpha=-2)
        if others:
            squared.masked_fill_(torch.arange(start, start + len(r)) == own[:, None], torch.inf)
        values, winners = squared.topk(min(count, len(r)), largest=False)
        best, candidates = torch.cat([best, values], 1), torch.cat([candidates, winners + start], 1)
        best, order = best.topk(min(count, best.shape[1]), largest=False)
        candidates = candidates.gather(1, order)
    return _measure(queries, reference, candidates, k)


def _measure(
    queries: Tensor, reference: Tensor, candidates: Tensor, k: int, missing: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Distances to candidate rows ``[N, count]`` by their differences; the k nearest, in a tie the lower index."""
    candidates, places = candidates.sort(1)
    distances = torch.empty(candidates.shape, dtype=torch.float64)
    rows = max(1, CACHED // (candidates.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        distances[part] = (queries[part, None].double() - reference[candidates[part]].double()).norm(dim=2)
    if missing is not None:
        distances.masked_fill_(missing.gather(1, places), torch.inf)
    order = distances.sort(dim=1, stable=True).indices[:, :k]
    return distances.gather(1, order), candidates.gather(1, order)
