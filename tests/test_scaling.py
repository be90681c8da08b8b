"""Laws of the number of images: known ones are found again, and their intervals hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from trilemma.metrics.scaling import fading, power_law

SIZES = [100, 300, 1000, 3000, 10_000]


def test_a_power_law_without_noise_is_found() -> None:
    found = power_law(SIZES, [2 + 50 * n**-0.7 for n in SIZES], [1e-3] * 5)
    assert found.parameters["a"] == pytest.approx(2, abs=0.05)
    assert found.parameters["c"] == pytest.approx(0.7, rel=0.05)
    assert found.at([500]) == pytest.approx([2 + 50 * 500**-0.7], rel=0.01)
    assert found.free == 2
    assert power_law(SIZES[:3], [50 * n**-0.7 for n in SIZES[:3]], [1e-3] * 3).parameters["a"] == 0.0


def test_it_is_the_weighted_least_squares_of_scipy() -> None:
    random = np.random.default_rng(0)
    errors = np.array([0.3, 0.2, 0.1, 0.1, 0.05])
    values = np.array([1 + 60 * n**-0.6 for n in SIZES]) + errors * random.normal(size=5)
    found = power_law(SIZES, values, errors)
    wanted, _ = curve_fit(
        lambda n, a, b, c: a + b * n**-c, SIZES, values, [1, 60, 0.6], sigma=errors,
        bounds=([0, 0, 0.1], [10, 1000, 3]),
    )  # fmt: skip
    own = found.at(SIZES)
    theirs = wanted[0] + wanted[1] * np.array(SIZES, float) ** -wanted[2]
    assert np.abs(own - theirs).max() < 0.02


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    random = np.random.default_rng(1)
    truth, errors = np.array([2 + 50 * n**-0.7 for n in SIZES]), np.array([0.2, 0.1, 0.05, 0.05, 0.05])
    held = []
    for trial in range(100):
        low, high = power_law(SIZES, truth + errors * random.normal(size=5), errors, 150, trial).band([1000, 30_000])
        held.append(
            (low <= [2 + 50 * n**-0.7 for n in (1000, 30_000)]) & (high >= [2 + 50 * n**-0.7 for n in (1000, 30_000)])
        )
    assert 0.85 <= np.mean([each[0] for each in held]) <= 1.0
    assert 0.80 <= np.mean([each[1] for each in held]) <= 1.0  # three times beyond the largest size


def test_a_law_that_is_wrong_shows_in_the_misfit() -> None:
    assert power_law(SIZES, [1, 9, 1, 9, 1], [0.1] * 5).misfit > 1000


def test_where_copies_fade() -> None:
    shares = [1 / (1 + (n / 400) ** 2) for n in SIZES]
    found = fading(SIZES, shares, [500] * 5, rounds=50)
    assert found.parameters["h"] == pytest.approx(400, rel=0.05)
    assert found.parameters["c"] == pytest.approx(2, rel=0.15)
    low, high = found.interval("h")
    assert 300 < low < 400 < high < 530


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: power_law([1, 2], [1, 2], [1, 1]), "at least 3 sizes, not 2"),
        (lambda: power_law([1, 2, 3], [1, 2, 3], [1, 0, 1]), "errors above 0"),
        (lambda: fading([1, 2, 3], [0, 0, 0], [9, 9, 9]), "all shares are 0"),
        (lambda: fading([1, 1, 3], [0.5, 0, 0], [9, 9, 9]), "at least 3 sizes"),
    ],
)
def test_what_cannot_be_fitted(call: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()  # type: ignore[operator]
