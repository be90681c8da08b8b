"""Fréchet and kernel distances against closed forms, simulation and the square root of a matrix."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.metrics import (
    Gaussian,
    Moments,
    frechet_bias,
    frechet_distance,
    frechet_estimate,
    frechet_flag,
    frechet_infinity,
    kernel_distance,
)
from trilemma.metrics.kernel import unbiased_mmd


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(mean: Tensor, covariance: Tensor) -> Gaussian:
    return Gaussian(mean.double(), covariance.double(), 10**9)


def test_frechet_closed_forms() -> None:
    d = 12
    zero, one, identity = torch.zeros(d), torch.ones(d), torch.eye(d)
    assert frechet_distance(exact(zero, identity), exact(one, identity)) == pytest.approx(d)
    assert frechet_distance(exact(zero, identity), exact(zero, 4 * identity)) == pytest.approx(d)
    assert frechet_distance(exact(zero, identity), exact(zero, identity)) == 0
    # Rotating both changes nothing; rotating one of two unequal axes does: covariances that do not commute.
    a, b = torch.diag(torch.tensor([4.0, 1.0])), torch.tensor([[2.5, 1.5], [1.5, 2.5]])
    root = math.sqrt(2.5 * 4 + 2.5 + 2 * math.sqrt(4 * 4))  # tr √M of a 2x2 is √(tr M + 2 √det M)
    assert frechet_distance(exact(torch.zeros(2), a), exact(torch.zeros(2), b)) == pytest.approx(10 - 2 * root)


@pytest.mark.parametrize("seed", range(3))
def test_frechet_agrees_with_the_matrix_square_root(seed: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    d = 30
    x = normal(100, d, seed) @ normal(d, d, seed + 10)
    y = normal(80, d, seed + 20) @ normal(d, d, seed + 30) + normal(1, d, seed + 40)
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    shift = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = shift + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


def test_frechet_keeps_its_digits_on_a_steep_spectrum() -> None:
    scale = torch.arange(1, 61, dtype=torch.float64) ** -2.0  # condition number of a covariance: 1e7, of a product 1e14
    x, y = normal(200, 60, 0) * scale, 1.1 * normal(200, 60, 1) * scale
    centred_x, centred_y = (z - z.mean(0) for z in (x, y))
    root = torch.linalg.svdvals(centred_x @ centred_y.T).sum() / 199  # the same trace by another way
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_of_singular_covariances() -> None:
    d = 40
    x, y = normal(25, d, 0), normal(30, d, 1) + 0.5  # fewer images than dimensions
    low_rank = frechet_distance(x, y)
    assert frechet_distance(Gaussian.fit(x), Gaussian.fit(y)) == pytest.approx(low_rank, rel=1e-6)
    assert frechet_distance(Gaussian.fit(y), Gaussian.fit(x)) == pytest.approx(low_rank, rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    # Features that are always 0 (the colours of grey images) change nothing.
    tall_x, tall_y = normal(200, 6, 2), 2 * normal(200, 6, 3)
    padded = [torch.cat([z, torch.zeros(200, 3)], 1) for z in (tall_x, tall_y)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(tall_x, tall_y), rel=1e-9)


def test_gaussian_merges_parts() -> None:
    x = normal(50, 4, 0) * 3 + 7
    whole, merged = Gaussian.fit(x), Moments.of(x[:13]).add(x[13:]).gaussian()
    assert merged.n == 50
    torch.testing.assert_close(merged.mean, whole.mean)
    torch.testing.assert_close(merged.covariance, whole.covariance)
    np.testing.assert_allclose(whole.covariance, np.cov(x.numpy().T), rtol=1e-12)


def test_frechet_bias_is_what_simulation_shows() -> None:
    d, n = 8, 400
    law = exact(torch.zeros(d), torch.eye(d))
    single = np.mean([frechet_distance(law, normal(n, d, s)) for s in range(200)])
    assert single == pytest.approx(frechet_bias(d, n), rel=0.05)
    assert frechet_bias(d, n) == d / n + d * (d + 1) / (4 * n)
    double = np.mean([frechet_distance(normal(n, d, s), normal(n, d, s + 1000)) for s in range(200)])
    assert double == pytest.approx(frechet_bias(d, n, n), rel=0.05)
    assert frechet_bias(law, n) == pytest.approx(frechet_bias(d, n))

    scale = torch.tensor([3, 1, 0.3, 0.1], dtype=torch.float64)
    uneven = exact(torch.zeros(4), torch.diag(scale**2))
    shown = np.mean([frechet_distance(uneven, normal(n, 4, s) * scale) for s in range(300)])
    assert shown == pytest.approx(frechet_bias(uneven, n), rel=0.1)


def test_frechet_flag() -> None:
    assert (frechet_flag(2048, 2048) or "").startswith("refused")
    assert (frechet_flag(10_000, 2048) or "").startswith("warning")
    assert frechet_flag(50_000, 2048) is None


def test_moments_are_the_same_in_any_batches_and_shards(tmp_path: Path) -> None:
    x = (normal(700, 9, 0) @ normal(9, 9, 1)) * 3 + 1000  # far from 0, where plain sums of squares lose their digits
    whole = Gaussian.fit(x)
    for batch in (1, 64, 333):
        streamed = Moments.empty(9)
        for part in torch.split(x, batch):
            streamed = streamed.add(part)
        torch.testing.assert_close(streamed.gaussian().covariance, whole.covariance, rtol=1e-11, atol=0)
        torch.testing.assert_close(streamed.gaussian().mean, whole.mean, rtol=1e-13, atol=0)
    shards = [Moments.of(part) for part in torch.split(x, [0, 100, 350, 250])]
    left = shards[0].merge(shards[1]).merge(shards[2]).merge(shards[3])
    right = shards[0].merge(shards[1].merge(shards[2].merge(shards[3])))
    assert left.count == right.count == 700
    torch.testing.assert_close(left.scatter, right.scatter, rtol=1e-11, atol=0)
    real = normal(500, 9, 2)
    assert frechet_distance(left, real) == pytest.approx(frechet_distance(x, real), rel=1e-9)
    left.save(tmp_path / "moments.safetensors")
    loaded = Moments.load(tmp_path / "moments.safetensors")
    assert loaded.count == 700 and torch.equal(loaded.scatter, left.scatter) and torch.equal(loaded.mean, left.mean)


def test_moments_refuse_what_is_no_moments(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not moments")
    with pytest.raises(ValueError, match="no saved moments"):
        Moments.load(tmp_path / "text")
    with pytest.raises(ValueError, match="not saved moments"):
        Moments.from_state({"mean": torch.zeros(2)})
    with pytest.raises(ValueError, match="at least 2 images"):
        Moments.of(normal(1, 3, 0)).gaussian()
    with pytest.raises(ValueError, match="same in all 4 rows"):
        frechet_distance(Moments.of(torch.ones(4, 3)), normal(9, 3, 0))
    with pytest.raises(ValueError, match="NaN"):
        Moments.empty(3).add(torch.full((2, 3), math.nan))
    with pytest.raises(ValueError, match="dimensions"):
        Moments.empty(3).add(normal(4, 2, 0))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(Gaussian(torch.zeros(3), torch.full((3, 3), math.inf), 9), normal(9, 3, 1))


def simulated(d: int, n: int, scale: float, rounds: int) -> tuple[Gaussian, list[Tensor]]:
    return exact(torch.zeros(d), torch.eye(d)), [normal(n, d, s) * scale for s in range(rounds)]


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_distance_at_infinity_has_no_bias_and_an_honest_error(scale: float) -> None:
    d, n = 8, 240
    law, samples = simulated(d, n, scale, 40)
    truth = d * (scale - 1) ** 2
    found = [frechet_infinity(x, law, seed=s) for s, x in enumerate(samples)]
    values, errors = [e.value for e in found], [e.error or 0 for e in found]
    deviation = float(np.std(values))
    assert abs(np.mean(values) - truth) < 4 * deviation / math.sqrt(len(values))
    plain = np.mean([frechet_distance(x, law) for x in samples])
    assert plain - truth > 0.8 * frechet_bias(d, n)  # which is what was removed
    assert 0.7 * deviation < np.mean(errors) < 2 * deviation


def test_distance_has_an_honest_error() -> None:
    for scale in (1.0, 1.2):
        law, samples = simulated(12, 160, scale, 80)
        found = [frechet_estimate(x, law) for x in samples]
        assert np.mean([e.error for e in found]) == pytest.approx(np.std([e.value for e in found]), rel=0.25), scale
    assert found[0].value == frechet_distance(samples[0], law)
    assert frechet_estimate(samples[0][:8], samples[1][:8]).error is None  # no covariance, no derivative


def test_infinity_needs_images_and_sizes() -> None:
    with pytest.raises(ValueError, match="too few to extrapolate"):
        frechet_infinity(normal(30, 8, 0), normal(100, 8, 1))
    with pytest.raises(ValueError, match="at least 10"):
        frechet_infinity(normal(300, 8, 0), normal(100, 8, 1), sizes=5)


# Kernel distance


def test_kernel_distance_of_one_subset_is_its_definition() -> None:
    x, y = normal(7, 3, 0), normal(7, 3, 1) + 0.5

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(k(z[i], z[j]) for z in (x, y) for i, j in pairs if i != j) / 42
    assert unbiased_mmd(x, y).item() == pytest.approx(within - 2 * sum(k(x[i], y[j]) for i, j in pairs) / 49)


def test_kernel_distance_of_shifted_normals_is_its_closed_form() -> None:
    d = 5
    for shift in (0.0, 0.5):
        m = d * shift**2
        truth = 3 * m / d + 3 * m**2 / d**2 + (m**3 + 6 * m**2 + 3 * m * d + 6 * m) / d**3
        found = [kernel_distance(normal(400, d, s), normal(500, d, s + 99) + shift, subsets=30) for s in range(40)]
        values = [e.value for e in found]
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / math.sqrt(40)
        if not shift:
            assert min(values) < 0 < max(values)  # unbiased, so below 0 half of the time


@pytest.mark.parametrize("scale", [0.6, 1.0])
def test_kernel_distance_has_an_honest_error(scale: float) -> None:
    real = normal(400, 5, 0)
    found = [kernel_distance(scale * normal(200, 5, s + 1), real, subsets=30) for s in range(80)]
    assert np.mean([e.error for e in found]) == pytest.approx(np.std([e.value for e in found]), rel=0.25)


def test_kernel_distance_in_small_sets() -> None:
    found = kernel_distance(normal(10, 4, 0).float(), normal(30, 4, 1).float())
    assert math.isfinite(found.value) and (found.error or 0) > 0
    assert found == kernel_distance(normal(10, 4, 0).float(), normal(30, 4, 1).float())
    assert found != kernel_distance(normal(10, 4, 0).float(), normal(30, 4, 1).float(), seed=1)
    with pytest.raises(ValueError, match="at least 4 images"):
        kernel_distance(normal(3, 4, 0), normal(30, 4, 1))
    with pytest.raises(ValueError, match="2 subsets"):
        kernel_distance(normal(9, 4, 0), normal(30, 4, 1), subsets=1)
