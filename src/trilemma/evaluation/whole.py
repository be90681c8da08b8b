"""Two sets of images, whole against whole: which part of the real ones each metric is measured against.

No image of the real set is held out, because nobody learnt from it. Distances between laws take every image of both
sides. Their floor is the distance of one half of the real images from the other. What looks for near images, pair by
pair, takes halves too, so that samples and floor are judged by as many images, and at most `NEAR` of them; and what
looks for copies takes the split that a training has, with the larger part in the place of training images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trilemma.evaluation.stream import Pool
from trilemma.metrics import Moments

if TYPE_CHECKING:
    from trilemma.evaluation.metric import Metric
    from trilemma.evaluation.reference import Indices, Reference

NEAR = 10_000
"""Images compared pair by pair, at most."""


@dataclass(frozen=True, eq=False)
class Whole:
    """The real images, taken apart.

    Attributes:
        entire: all of them.
        halves: one half of them, the other half held out.
        near: the same, of as many on both sides, at most `NEAR`.
    """

    entire: Reference
    halves: Reference
    near: Reference

    def side(self, metric: Metric, real: Reference, held_out: bool) -> Reference:
        """What a metric is measured against: of samples, or of held-out images."""
        if metric.entire:
            return self.halves if held_out else self.entire
        return self.near if metric.group == "fidelity" else real


def taken_apart(real: Reference, everything: Pool, rows: Indices) -> Whole:
    """From a reference with its usual split, and the pool of all its images.

    Args:
        everything: of the images at ``rows``, which are in no order.
        rows: all images of the data set.
    """
    half = len(everything.features) // 2
    one, other = rows[:half], rows[half : 2 * half]
    halves = replace(
        real,
        dataset=replace(real.dataset, train=one, test=other),
        train=Pool.of(everything.features[:half]),
        held_out=Pool.of(everything.features[half : 2 * half]),
        train_indices=one,
        held_out_indices=other,
        part="images, a half of those",
        memo={},
    )
    n = min(half, NEAR)
    near = replace(
        halves,
        protocol=replace(real.protocol, n=max(n, 16)),
        held_out=Pool.of(halves.held_out.features[:n]),
        held_out_indices=other[:n],
        memo={},
    )
    return Whole(replace(halves, train=everything, train_indices=rows, part="images, all", memo={}), halves, near)


def first(pool: Pool, n: int) -> Pool:
    """The first n of a pool."""
    if pool.n <= n:
        return pool
    features = pool.features[:n]
    return Pool(len(features), features, pool.images[:n], Moments.of(features))
