"""Nearest neighbours, and the question they answer: did the model copy its training images?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trilemma.metrics.features import check_features, check_same_dims

CHUNK = 2**23  # distances held at once: 64 MiB


def nearest(queries: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest row of ``reference`` ``[M, d]`` for each of ``queries`` ``[N, d]`` (features, or flattened pixels).

    Returns:
        ``(distances, indices)``: float64 ``[N]`` Euclidean distances and int64 ``[N]`` rows of ``reference``. The
        distance is that of the difference itself, so a copy is at exactly 0.

    Raises:
        ValueError: the dimensions differ, a set is empty, or a value is NaN or infinite.
    """
    check_same_dims(queries.shape[-1], reference.shape[-1])
    queries = check_features(queries, "queries", least=1)
    reference = check_features(reference, "reference", least=1, convert=False)
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    indices = torch.zeros(len(queries), dtype=torch.int64)
    distances = torch.zeros_like(best)
    rows = max(1, CHUNK // len(queries))
    for start in range(0, len(reference), rows):
        part = reference[start : start + rows].double()
        # |q|² is the same for every candidate; expanding the square loses digits, so a winner is measured again.
        partial = torch.addmm(part.square().sum(1), queries, part.T, alpha=-2)
        values, winners = partial.min(1)
        closer = values < best
        best = torch.where(closer, values, best)
        indices[closer] = winners[closer] + start
        distances[closer] = (queries[closer] - part[winners[closer]]).norm(dim=1)
    return distances, indices


def train_closer(samples: Tensor, train: Tensor, test: Tensor) -> tuple[float, float]:
    """How much more often a sample's nearest real image is a training image than a held-out one, as a share.

    Training and held-out images are exchangeable to a model that has memorised nothing, so its samples are nearest
    to either in proportion to their numbers n and m. Counting each training hit as 1/n and each held-out hit as 1/m
    makes that 0.5 whatever the sizes; a model that returns its training images gets 1. (Thinning the training set
    to m images would do so too, but would throw away most of the images that copies are copies of.)

    Args:
        samples, train, test: features (or flattened pixels) ``[N, d]``, ``[n, d]``, ``[m, d]``. Ties count half.

    Returns:
        ``(share, standard_error)``; the error is that of the finite number of samples.

    Raises:
        ValueError: as `nearest`.
    """
    to_train, _ = nearest(samples, train)
    to_test, _ = nearest(samples, test)
    count = len(to_train)
    train_hits = ((to_train < to_test).sum() + 0.5 * (to_train == to_test).sum()).item()

    def share(p: float) -> float:
        return (p / len(train)) / (p / len(train) + (1 - p) / len(test))

    p = (train_hits + 0.5) / (count + 1)  # keeps the error above 0 when all hits are on one side
    slope = share(p) * (1 - share(p)) / (p * (1 - p))  # d share / d p
    return share(train_hits / count), slope * math.sqrt(p * (1 - p) / count)
