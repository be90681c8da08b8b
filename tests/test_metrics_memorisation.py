"""Nearest neighbours, and whether planted copies are found and fresh samples left in peace."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.evaluation.parts.c_t import COPYING, DataCopying
from trilemma.metrics import authpct, c_t, closest, copies, index, nearest, train_closer
from trilemma.metrics.copying import scan


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_nearest_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, reference = normal(40, 9, 0), normal(200, 9, 1)
    reference[150] = queries[3]
    all_distances = torch.cdist(queries, reference, compute_mode="donot_use_mm_for_euclid_dist")
    for chunk in (2**23, 100):
        monkeypatch.setattr("trilemma.metrics.neighbours.CHUNK", chunk)
        distances, indices = nearest(queries, reference)
        assert (indices == all_distances.argmin(1)).all()
        torch.testing.assert_close(distances, all_distances.min(1).values)
        assert indices[3] == 150 and distances[3] == 0
    # Far from the origin, where the expanded square loses its digits.
    far_distances, _ = nearest(queries + 1e4, reference + 1e4)
    assert far_distances[3] == 0
    pixels = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8)
    assert nearest(pixels, pixels)[1].tolist() == [0, 1]


def test_train_closer_tells_copies_from_fresh_samples() -> None:
    train, test = normal(3000, 5, 0), normal(500, 5, 1)  # as usual, many more training images
    fresh = train_closer(normal(800, 5, 2), train, test)
    error = fresh.error or 0.0
    assert abs(fresh.known - 0.5) < 4 * error and 0.005 < error < 0.05
    copies = train_closer(train[:800] + 1e-3 * normal(800, 5, 3), train, test)
    assert copies.known > 0.99 and (copies.error or 0.0) > 0
    assert train_closer(test, train, test).value == 0
    ties = train_closer(normal(50, 5, 4), train, train)
    assert (ties.value, ties.error) == (0.5, pytest.approx(0.5 / math.sqrt(50)))


def test_train_closer_has_an_honest_error() -> None:
    sets = ((normal(100, 3, s), normal(300, 3, s + 500), normal(100, 3, s + 900)) for s in range(150))
    found = [train_closer(*each) for each in sets]
    shares, errors = [each.known for each in found], [each.error or 0.0 for each in found]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    # The sets are drawn anew as well, so the shares spread a little more than the error of the samples alone.
    assert 0.9 * np.mean(errors) < np.std(shares) < 1.6 * np.mean(errors)


def test_closest_are_the_k_nearest_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, reference = normal(30, 6, 0), normal(120, 6, 1)
    reference[7] = reference[90]  # a tie: the lower index comes first
    every = torch.cdist(queries, reference, compute_mode="donot_use_mm_for_euclid_dist")
    expected = every.sort(dim=1, stable=True)
    own = torch.cdist(reference, reference, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    for chunk in (2**23, 130):
        monkeypatch.setattr("trilemma.metrics.neighbours.CHUNK", chunk)
        distances, indices = closest(queries, reference, 4)
        torch.testing.assert_close(distances, expected.values[:, :4])
        assert torch.equal(indices, expected.indices[:, :4])
        distances, indices = closest(reference, reference, 2, others=True)
        torch.testing.assert_close(distances, own.sort(1).values[:, :2])
        assert indices[7, 0] == 90 and indices[90, 0] == 7 and distances[7, 0] == 0
    assert closest(queries, reference, 120)[0].shape == (30, 120)
    with pytest.raises(ValueError, match="119 neighbours to look for, not 120"):
        closest(reference, reference, 120, others=True)


@pytest.mark.parametrize("step", [0.0, 1e-9, 1e-6])
def test_closest_is_exact_where_float32_cannot_tell(step: float) -> None:
    """Forty rows closer together than the rounding of products, the nearest of them last."""
    reference = torch.cat([normal(1, 9, 0).expand(40, 9), 5 * normal(60, 9, 1)])
    reference[:40, 0] += step * torch.arange(40, 0, -1)
    query = reference[39:40].clone()
    query[0, 0] -= 1e-3
    distances, indices = closest(query, reference, 2)
    assert step == 0 or indices.tolist() == [[39, 38]]
    assert distances[0, 0] == (query - reference[39]).norm()


def test_authpct() -> None:
    train = normal(500, 4, 0)
    fresh, copied = authpct(normal(400, 4, 1), train), authpct(train[:400] + 1e-3 * normal(400, 4, 2), train)
    assert 40 < fresh.value < 75 and 1 < (fresh.error or 0) < 4
    assert copied.value == 0 and (copied.error or 0) > 0
    # the definition: farther from the nearest training image than that is from its own nearest
    samples = normal(50, 4, 3)
    between = torch.cdist(samples, train)
    own = torch.cdist(train, train).fill_diagonal_(torch.inf).min(1).values
    expected = (between.min(1).values > own[between.argmin(1)]).double().mean().item()
    assert authpct(samples, train).value == pytest.approx(100 * expected)


@pytest.mark.parametrize("cells", [1, 5])
def test_c_t_is_standard_normal_without_copying(cells: int) -> None:
    found = [
        c_t(normal(120, 2, s), normal(200, 2, s + 300), normal(150, 2, s + 600), cells=cells, seed=s) for s in range(40)
    ]
    values = np.array([e.value for e in found])
    assert {e.error for e in found} == {1.0}
    assert abs(values.mean()) < 4 / math.sqrt(40)
    assert 0.7 < values.std() < 1.4


def test_c_t_sees_both_directions() -> None:
    train, held_out = normal(400, 3, 0), normal(400, 3, 1)
    assert c_t(train[:300] + 0.05 * normal(300, 3, 2), train, held_out).value < -5
    assert c_t(2 * normal(300, 3, 3), train, held_out).value > 5
    with pytest.raises(ValueError, match="no cell of 5"):
        c_t(held_out[:9], train, held_out, cells=5)


def test_c_t_sees_that_a_tenth_of_the_samples_are_copies() -> None:
    train, held_out, samples = (normal(2000, 8, s) for s in range(3))
    assert abs(c_t(samples, train, held_out).value) < 3
    samples[:200] = train[:200]
    assert c_t(samples, train, held_out).value < COPYING == -3  # of 20 cells, whose mean alone is about -1.2
    assert "below −3 copying" in DataCopying.meaning


def test_c_t_is_the_mann_whitney_statistic() -> None:
    stats = pytest.importorskip("scipy.stats")
    train = normal(100, 2, 0)
    samples, held_out = (torch.cat([train[:8], normal(60, 2, s)]) for s in (1, 2))  # with ties at 0
    a, b = nearest(samples, train)[0].numpy(), nearest(held_out, train)[0].numpy()
    p = stats.mannwhitneyu(a, b, use_continuity=False, method="asymptotic").pvalue
    z = c_t(samples, train, held_out, cells=1).value
    assert math.erfc(abs(z) / math.sqrt(2)) == pytest.approx(p, rel=1e-9)


# The verdict on copies


def brute_force(n: int, m: int, observed: list[bool], values: list[float]) -> float:
    """P-value of `scan` by trying every order, with the places at its disposal."""
    hyper = pytest.importorskip("scipy.stats").hypergeom
    ends = [s for s in range(1, n + m + 1) if s == n + m or values[s - 1] < values[s]]

    def statistic(order: list[bool]) -> float:
        return min(float(hyper.sf(sum(order[:s]) - 1, n + m, n, s)) for s in ends)

    level = statistic(observed)
    orders = [[i in chosen for i in range(n + m)] for chosen in map(set, itertools.combinations(range(n + m), n))]
    return sum(statistic(order) <= level * (1 + 1e-9) for order in orders) / len(orders)


@pytest.mark.parametrize("ties", [False, True])
def test_the_scan_has_an_exact_p_value(ties: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        a, b = torch.rand(4, generator=generator), 0.2 + torch.rand(6, generator=generator)
        if ties:
            a, b = (5 * a).round(), (5 * b).round()
        values, order = torch.cat([a, b]).sort()
        assert scan(a, b)[0] == pytest.approx(brute_force(4, 6, (order < 4).tolist(), values.tolist()))


def test_fresh_samples_are_not_accused() -> None:
    """200 repeats at level 5 %: at most 18 false alarms, with a probability of 0.99."""
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        return torch.randn(n, 4, generator=generator)

    p_values = np.array([copies(draw(80), draw(120), draw(80)).p_value for _ in range(200)])
    assert (p_values < 0.05).sum() <= 18 and (p_values < 0.01).sum() <= 7
    assert (p_values < 0.5).sum() > 50  # nor is it asleep


@pytest.mark.parametrize("nearness", [0.0, 0.05])
def test_one_percent_of_copies_is_found(nearness: float) -> None:
    found = []
    for seed in range(4):
        train, held_out, samples = normal(3000, 12, seed), normal(1000, 12, seed + 50), normal(1000, 12, seed + 90)
        samples[::100] = train[100:110] + nearness * normal(10, 12, seed)
        verdict = copies(samples, train, held_out)
        found.append(verdict)
        assert verdict.found and "copies found" in verdict.text and "\n" not in verdict.text
        assert {pair.sample for pair in verdict.pairs[:10]} == set(range(0, 1000, 100))
        assert all(pair.train == 100 + pair.sample // 100 for pair in verdict.pairs[:10])
        assert verdict.exact == (0 if nearness else 10) and verdict.exact_held_out == 0
    assert np.mean([verdict.share for verdict in found]) == pytest.approx(0.01, abs=0.006)


def test_duplicates_among_real_images_are_no_copies() -> None:
    def law(n: int, seed: int) -> Tensor:
        x = normal(n, 6, seed)
        x[: n // 50] = 0.0  # two in a hundred images of this law are blank
        return x

    train, held_out = law(2000, 0), law(1000, 1)
    honest = copies(law(1000, 2), train, held_out)
    assert not honest.found and honest.exact == honest.exact_held_out == 20
    copying = law(1000, 3)
    copying[500:540] = train[500:540]
    assert copies(copying, train, held_out).found
    every_one = torch.zeros(50, 6, dtype=torch.float64)  # more ties than the scan has places
    assert copies(every_one, train, every_one).p_value == 1
    assert copies(every_one, train, held_out).exact == 50


def test_a_collapsed_model_is_not_accused_of_copying() -> None:
    """Fifty times the same fresh image is one piece of evidence; fifty times the same training image as well."""
    p_values = []
    for seed in range(60):
        train, held_out = normal(400, 5, seed), normal(300, 5, seed + 100)
        p_values.append(copies(normal(1, 5, seed + 200).expand(50, 5), train, held_out).p_value)
    assert sum(p < 0.05 for p in p_values) <= 8
    few = train[:4].repeat(50, 1)  # but a model that knows four training images is
    assert copies(few, train, held_out).found


def test_blurred_samples_are_no_copies() -> None:
    """Samples near the middle are nearer to all training images than held-out ones are, but to none in particular."""
    train, held_out = normal(1000, 20, 0), normal(500, 20, 1)
    middle = 0.3 * normal(500, 20, 2)
    assert nearest(middle, train)[0].median() < nearest(held_out, train)[0].median() - 0.5
    assert not copies(middle, train, held_out).found


def test_an_index_finds_nearly_all_neighbours_and_every_copy() -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(40, 24, generator=generator)
    reference = (centres.repeat(150, 1) + torch.randn(6000, 24, generator=generator)).float()
    queries = torch.cat([reference[100:110], centres.repeat(5, 1) + torch.randn(200, 24, generator=generator)])
    exact, rows = closest(queries, reference, 5)
    found, found_rows = closest(queries, reference, 5, index=True)
    assert (found_rows == rows).float().mean() > 0.95
    assert torch.equal(found_rows[:10, 0], torch.arange(100, 110)) and not found[:10, 0].any()
    same = found_rows == rows
    assert torch.equal(found[same], exact[same])  # what is found is measured exactly
    assert bool((found >= exact - 1e-12).all())
    own, own_rows = closest(reference[:500], reference[:500], 1, others=True, index=True)
    assert not (own_rows[:, 0] == torch.arange(500)).any() and bool((own > 0).all())


def test_an_index_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="trilemma\\[index\\]"):
        closest(torch.zeros(2, 3), torch.ones(4, 3), index=True)


def test_a_model_that_copies_few_images_always_is_said_to_and_fresh_samples_are_not() -> None:
    """Its copies of every training image leave no held-out image that is nearest to one."""
    train = normal(60, 8, 0)
    copier = train[torch.arange(400) % 60]
    found = copies(copier, train, normal(400, 8, 2))
    assert found.found
    assert found.share > 0.95
    half = copies(torch.cat([copier[:200], normal(200, 8, 3)]), train, normal(400, 8, 2))
    assert half.found
    assert half.share == pytest.approx(0.5, abs=0.1)


def test_few_training_images_give_no_false_alarms() -> None:
    p_values = [
        copies(normal(200, 6, 3 * trial), normal(40, 6, 3 * trial + 2), normal(200, 6, 3 * trial + 1)).p_value
        for trial in range(200)
    ]
    assert sum(p < 0.05 for p in p_values) <= 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)
