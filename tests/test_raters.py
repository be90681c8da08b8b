"""What votes say: closed forms, examples from the papers, outside implementations and raters of known skill."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from trilemma.metrics.crossed import crossed, share_interval, t_quantile
from trilemma.metrics.exposure import LONGEST, SHORTEST, hype_time, next_exposure, threshold
from trilemma.metrics.preference import bradley_terry, maximum_likelihood, rater_effects
from trilemma.metrics.raters import (
    detection,
    error_rate,
    hype_infinity,
    krippendorff,
    probit,
    votes_needed,
)
from trilemma.number import Number

Z = NormalDist()


def balanced(votes: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raters, images and whether they are fake: 10 raters, each image seen by every rater."""
    images = np.tile(np.arange(votes // 10), 10)
    return np.repeat(np.arange(10), votes // 10), images, images % 2 == 0


def test_hype_is_the_mean_of_both_error_rates_whatever_the_share_of_fakes() -> None:
    said = np.array(
        [True] * 6 + [False] * 2 + [True] + [False]
    )  # 8 fakes of which 2 pass, 2 real of which 1 is doubted
    fake = np.array([True] * 8 + [False] * 2)
    found = hype_infinity(said, fake, np.arange(10) % 2, np.arange(10))
    assert found.fakes.number.value == pytest.approx(0.25)
    assert found.reals.number.value == pytest.approx(0.5)
    assert found.both.number.value == pytest.approx(0.375)
    assert found.both.low is not None and found.both.low < 0.375 < (found.both.high or 0)


def test_chance_is_half_and_sight_is_none() -> None:
    raters, images, fake = balanced()
    assert hype_infinity(fake, fake, raters, images).both.number.value == 0.0
    blind = hype_infinity(np.ones(200, bool), fake, raters, images)  # who calls all fake errs on all real ones
    assert (blind.fakes.number.value, blind.reals.number.value, blind.both.number.value) == (0.0, 1.0, 0.5)


def test_no_error_rate_is_without_error() -> None:
    raters, images, fake = balanced()
    found = hype_infinity(fake, fake, raters, images).both
    assert found.low == 0.0 and found.high is not None and 0.01 < found.high < 0.06
    assert found.number.error and found.number.error > 0
    trusting = hype_infinity(np.zeros(200, bool), fake, raters, images).both  # all fakes pass, no real one is doubted
    assert trusting.number.value == 0.5 and trusting.number.error == pytest.approx(math.sqrt(0.25 / 200), rel=0.01)


def test_d_prime_and_criterion_in_closed_form_with_the_log_linear_correction() -> None:
    raters, images, fake = balanced()
    said = np.where(fake, np.arange(200) % 20 < 16, np.arange(200) % 20 < 5)
    hits, alarms = int((said & fake).sum()), int((said & ~fake).sum())
    z_hit, z_alarm = Z.inv_cdf((hits + 0.5) / 101), Z.inv_cdf((alarms + 0.5) / 101)
    found = detection(said, fake, raters, images)
    assert found.d_prime.number.value == pytest.approx(z_hit - z_alarm)
    assert found.criterion.number.value == pytest.approx(-(z_hit + z_alarm) / 2)
    perfect = detection(fake, fake, raters, images)
    assert perfect.d_prime.number.value == pytest.approx(2 * Z.inv_cdf(100.5 / 101))
    single = math.sqrt(100.5 / 101 * (0.5 / 101) / 101) / Z.pdf(Z.inv_cdf(100.5 / 101))
    assert perfect.d_prime.number.error == pytest.approx(math.sqrt(2) * single)
    always_real = detection(np.zeros(200, bool), fake, raters, images)
    assert always_real.d_prime.number.value == pytest.approx(0.0)
    assert (always_real.criterion.number.value or 0) > 2


def test_krippendorff_by_the_example_of_his_paper() -> None:
    """Four observers, twelve units, missing answers: 0.743 (Krippendorff 2011)."""
    rows = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    answers = [[-1 if mark == "." else int(mark) for mark in row] for row in rows]
    assert krippendorff(answers).value == pytest.approx(0.743, abs=5e-4)


def test_krippendorff_at_the_ends() -> None:
    same = np.tile(np.arange(20) % 2, (3, 1))
    assert krippendorff(same).value == pytest.approx(1.0)
    against = np.stack((np.arange(20) % 2, 1 - np.arange(20) % 2))
    assert krippendorff(against).value == pytest.approx(1 - 39 / 20)  # D_o = 1, D_e = n / (2 (n - 1)) of n = 40 answers
    assert krippendorff(np.zeros((3, 20), int)).value is None
    assert krippendorff(np.diag(np.arange(5)) - 1).value is None


def test_bradley_terry_of_two_is_the_log_odds() -> None:
    strength = maximum_likelihood(np.array([[0.0, 30.0], [10.0, 0.0]]))[0]
    assert strength[0] - strength[1] == pytest.approx(math.log(3))


def test_bradley_terry_agrees_with_a_logistic_regression() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    wins = np.array([[0.0, 12, 7, 3], [5, 0, 9, 8], [4, 6, 0, 11], [9, 2, 5, 0]])

    def loss(free: np.ndarray) -> float:
        theta = np.append(free, -free.sum())
        return float((wins * np.log1p(np.exp(theta[None] - theta[:, None]))).sum())

    best = optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    assert maximum_likelihood(wins)[0] == pytest.approx(np.append(best, -best.sum()), abs=1e-4)


def test_who_always_wins_is_refused_by_likelihood_and_finite_with_half_a_vote() -> None:
    with pytest.raises(ValueError, match="no bound"):
        maximum_likelihood(np.array([[0.0, 5.0], [0.0, 0.0]]))
    votes = np.arange(40)
    found = bradley_terry(np.zeros(40, int), np.ones(40, int), votes % 5, np.stack((votes // 5, votes // 5), 1), 3)
    assert found.gaps[0, 1].number.value == pytest.approx(math.log(40.5 / 0.5))
    assert found.gaps[0, 1].number.error == pytest.approx(math.sqrt(1 / 40.5 + 1 / 0.5))  # of log odds
    assert found.strength[2].number.value is None and "compare" in found.strength[2].number.reason


def test_effects_of_raters_find_the_careless_and_the_one_sided() -> None:
    draw = np.random.default_rng(0)
    theta, sharpness = np.array([1.0, 0.2, -1.2]), np.array([1.4, 1.0, 0.0, 1.0])
    side = np.array([0.0, 0.0, 0.0, 1.5])
    who = np.repeat(np.arange(4), 400)
    left = draw.integers(3, size=1600)
    right = (left + draw.integers(1, 3, size=1600)) % 3
    p = 1 / (1 + np.exp(-(sharpness[who] * (theta[left] - theta[right]) + side[who])))
    found = rater_effects(left, right, draw.random(1600) < p, who, 3, 4)
    assert found is not None
    assert found.strength == pytest.approx(theta, abs=0.25)
    assert found.sharpness[2] < 0.35 and found.sharpness[0] > found.sharpness[1]
    assert found.side[3] == pytest.approx(1.5, abs=0.4) and abs(found.side[1]) < 0.4
    assert rater_effects(left[:40], right[:40], p[:40] > 0.5, who[:40], 3, 4) is None


def test_staircase_rests_at_three_quarters_right_and_its_mode_is_the_threshold() -> None:
    draw = np.random.default_rng(1)
    thresholds = []
    for _ in range(40):
        exposure, seen = 500.0, []
        for _ in range(400):
            seen.append(exposure)
            right = 0.5 + 0.5 / (1 + math.exp(-(exposure - 300) / 40))  # 75 % right at 300 ms
            exposure = next_exposure(exposure, bool(draw.random() < right))
        thresholds.append(threshold(seen[50:]))
    found = hype_time(thresholds)
    assert found.low is not None and found.high is not None
    assert found.low - 10 < 300 < found.high + 10
    assert next_exposure(SHORTEST, True) == SHORTEST and next_exposure(LONGEST, False) == LONGEST
    assert threshold([100, 130, 130, 100, 500]) == 115.0


def test_student_and_wilson_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for df in (2, 3, 5, 10, 30, 1000):
        assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=0.01)
    assert probit(np.array([0.1, 0.5])) == pytest.approx(stats.norm.ppf([0.1, 0.5]))
    wilson = stats.binomtest(13, 50).proportion_ci(method="wilson")
    ours = share_interval(0.26, math.sqrt(0.26 * 0.74 / 50), 1e9, 50, Number(0.26, n=50))
    assert (ours.low, ours.high) == pytest.approx((wilson.low, wilson.high))


def test_variance_of_crossed_effects_in_closed_form() -> None:
    """Additive effects, mean over a full table: σ_r² / R + σ_i² / I + σ_e² / (R I), here averaged over 60 tables."""
    draw = np.random.default_rng(2)
    rows, columns = 15, 25
    raters, images = np.repeat(np.arange(rows), columns), np.tile(np.arange(columns), rows)
    truth = 0.5**2 / rows + 0.4**2 / columns + 2.0**2 / (rows * columns)
    found = []
    for _ in range(60):
        value = (
            draw.normal(0, 0.5, rows)[raters] + draw.normal(0, 0.4, columns)[images] + draw.normal(0, 2, len(raters))
        )

        def mean(weights: np.ndarray, value: np.ndarray = value) -> np.ndarray:
            means: np.ndarray = (weights @ value / weights.sum(1))[:, None]
            return means

        found.append(float(crossed(mean, raters, images, rounds=100).error[0]) ** 2)
    assert np.mean(found) == pytest.approx(truth, rel=0.15)


def test_one_rater_has_no_interval() -> None:
    found = error_rate(np.array([True, False, True]), np.zeros(3, int), np.arange(3))
    assert found.low is None and found.number.error is None and found.number.flag


def test_votes_needed_brings_the_width_down() -> None:
    raters, images, _ = balanced(400)
    rate = error_rate(np.random.default_rng(3).random(400) < 0.4, raters, images)
    half = rate.half_width or 0
    assert votes_needed(rate, half) == 0 and votes_needed(rate, 2 * half) == 0
    assert votes_needed(rate, half / 2) == 1200
    with pytest.raises(ValueError, match="above 0"):
        votes_needed(rate, 0.0)


def test_bad_votes_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="no votes on real images"):
        hype_infinity([True], [True], [0], [0])
    with pytest.raises(ValueError, match="one answer for each image"):
        detection([True, False], [True], [0], [0])
    with pytest.raises(ValueError, match="two different sources"):
        bradley_terry([1], [1], [0], [[0, 0]], 2)
