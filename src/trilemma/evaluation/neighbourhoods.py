"""What scores on the neighbourhoods of real images have in common: which real images, and too few of them."""

from __future__ import annotations

from torch import Tensor

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.reference import Reference
from trilemma.metrics import Manifold, Mutual, manifold_scores, mutual_nearness
from trilemma.number import Number


def rod(real: Reference) -> Tensor:
    """Features of the same real images for all that is scored, held-out ones too, however few of them there are."""
    return real.train.features[: max(real.protocol.n, real.protocol.k + 1)]


def too_few(of: Measured) -> bool:
    """Whether the k-th neighbour does not exist."""
    return min(len(of.sample.features), len(rod(of.real))) <= of.protocol.k


def refusal(of: Measured) -> Number:
    """What is said then."""
    n, reference, k = len(of.sample.features), len(rod(of.real)), of.protocol.k
    return Number(None, n=n, flag=f"refused: {min(n, reference)} images have no {k}-th neighbour")


def told(found: Number, of: Measured) -> Number:
    """A score with how it was made."""
    how = f"; k = {of.protocol.k}, {len(rod(of.real)):,} of them"
    return Number(found.value, found.error, n=len(of.sample.features), protocol=how)


def mutual(of: Measured) -> Mutual:
    """Mutual nearness, computed once."""
    return of.once("mutual", lambda: mutual_nearness(rod(of.real), of.sample.features, of.protocol.k))


def manifold(of: Measured) -> Manifold:
    """Precision, recall, density and coverage, computed once."""
    return of.once("manifold", lambda: manifold_scores(rod(of.real), of.sample.features, of.protocol.k))
