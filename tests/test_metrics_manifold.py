"""Precision, recall, density and coverage against their definitions and the package of their authors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.metrics import Manifold, expected_coverage, manifold_scores


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Four = tuple[float, float, float, float]


def naive(real: Tensor, fake: Tensor, k: int) -> Four:
    """The definitions, word for word."""

    def radius(x: Tensor, i: int) -> float:
        return sorted((x[i] - x[j]).norm().item() for j in range(len(x)) if j != i)[k - 1]

    def distance(i: int, j: int) -> float:
        return (real[i] - fake[j]).norm().item()

    reals, fakes = range(len(real)), range(len(fake))
    around_real, around_fake = [radius(real, i) for i in reals], [radius(fake, j) for j in fakes]
    return (
        sum(any(distance(i, j) < around_real[i] for i in reals) for j in fakes) / len(fake),
        sum(any(distance(i, j) < around_fake[j] for j in fakes) for i in reals) / len(real),
        sum(distance(i, j) < around_real[i] for i in reals for j in fakes) / k / len(fake),
        sum(min(distance(i, j) for j in fakes) < around_real[i] for i in reals) / len(real),
    )


def as_tuple(scores: Manifold) -> Four:
    """Precision, recall, density and coverage."""
    return scores.precision.known, scores.recall.known, scores.density.known, scores.coverage.known


@pytest.mark.parametrize("k", [1, 3])
def test_manifold_is_its_definition(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(23, 3, 0), normal(17, 3, 1) * 0.7 + 0.5
    expected = naive(real, fake, k)
    assert as_tuple(manifold_scores(real, fake, k)) == pytest.approx(expected)
    monkeypatch.setattr("trilemma.metrics.manifold.CHUNK", 40)  # a chunk of one or two rows
    assert as_tuple(manifold_scores(real, fake, k)) == pytest.approx(expected)


def test_manifold_agrees_with_prdc() -> None:
    prdc = pytest.importorskip("prdc")
    real, fake = normal(300, 16, 0), normal(250, 16, 1) * 0.9 + 0.2
    theirs = prdc.compute_prdc(real.numpy(), fake.numpy(), nearest_k=5)
    ours = manifold_scores(real, fake, k=5)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(ours, name).value == pytest.approx(theirs[name]), name


def test_manifold_of_identical_laws() -> None:
    assert expected_coverage(10_000, 10_000) == pytest.approx(0.969, abs=5e-4)
    scores = [manifold_scores(normal(400, 4, s), normal(400, 4, s + 100)) for s in range(20)]
    assert np.mean([s.density.value for s in scores]) == pytest.approx(1, abs=0.03)
    assert np.mean([s.coverage.value for s in scores]) == pytest.approx(expected_coverage(400, 400), abs=0.005)


def test_precision_and_recall_are_not_swapped() -> None:
    real = normal(400, 4, 0)
    real[200:] += 20  # two modes
    one_mode = manifold_scores(real, normal(400, 4, 1))
    assert one_mode.precision.known > 0.9 and one_mode.recall.known < 0.6 and one_mode.coverage.known < 0.6
    fake = normal(400, 4, 2)
    fake[200:] += 20
    fake[::2] += 100  # every other one is rubbish
    rubbish = manifold_scores(real, fake)
    assert rubbish.precision.known < 0.6 and rubbish.recall.known > 0.9 and rubbish.density.known < 0.7


def test_manifold_balls_are_open() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0]])  # with k=1 every radius is 1
    fake = torch.tensor([[3.0], [-1.0]])  # exactly on the rims; their own radius is 4
    assert as_tuple(manifold_scores(real, fake, k=1)) == (0, 1, 0, 0)


@pytest.mark.parametrize("model", ["shifted", "repeating"])
def test_manifold_errors_are_those_of_redrawn_samples(model: str) -> None:
    real, known, places = normal(200, 3, 0), normal(60, 3, 1), torch.Generator().manual_seed(0)
    found = []
    for s in range(60):
        repeated = known[torch.randint(60, (160,), generator=places)]
        found.append(manifold_scores(real, repeated if model == "repeating" else 0.9 * normal(160, 3, s + 2) + 0.7))
    for name in ("precision", "recall", "density", "coverage"):
        deviation = np.std([getattr(scores, name).value for scores in found])
        errors = np.mean([getattr(scores, name).error for scores in found])
        assert 0.75 * deviation < errors < 1.33 * deviation, name


def test_manifold_of_few_and_of_equal_samples_has_errors() -> None:
    real, fake = normal(200, 3, 0), normal(6, 3, 1)
    for scores in (manifold_scores(real, fake), manifold_scores(real, fake[torch.arange(200) % 6])):
        four = scores.precision, scores.recall, scores.density, scores.coverage
        assert all(0 < (each.error or 0) < 1 for each in four)


def test_manifold_is_exact_where_float32_is_not() -> None:
    """Copies lie exactly on rims: the k-th neighbour of a real is at its radius, and so not inside."""
    real = normal(300, 40, 0).float() + 300
    expected = naive_by_float64(real.double(), real.double().clone(), 3)
    assert as_tuple(manifold_scores(real, real.clone(), 3)) == pytest.approx(expected, abs=0)
    spread = torch.cat([1e-4 * normal(100, 40, 1), 1e4 * normal(100, 40, 2)]).float()  # norms 10^8 apart
    other = torch.cat([1e-4 * normal(100, 40, 3), 1e4 * normal(100, 40, 4)]).float()
    expected = naive_by_float64(spread.double(), other.double(), 3)
    assert as_tuple(manifold_scores(spread, other, 3)) == pytest.approx(expected, abs=0)


def naive_by_float64(real: Tensor, fake: Tensor, k: int) -> Four:
    def distances(x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")

    def radii(x: Tensor) -> Tensor:
        return distances(x, x).sort(1).values[:, k]

    between = distances(real, fake)
    inside = between < radii(real)[:, None]
    return (
        inside.any(0).double().mean().item(),
        (between < radii(fake)).any(1).double().mean().item(),
        inside.double().sum(0).mean().item() / k,
        inside.any(1).double().mean().item(),
    )


def test_manifold_of_duplicates() -> None:
    real, fake = normal(60, 3, 0), normal(60, 3, 1)
    real[:20], fake[:20] = real[0], fake[0]  # balls of radius 0 hold nothing, not even their own copies
    scores = manifold_scores(real, fake)
    assert as_tuple(scores) == pytest.approx(naive(real, fake, 5))
