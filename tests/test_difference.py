"""When a difference between two models is real: closed forms, and the rate of false alarms by simulation."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from trilemma.evaluation import differences, judge
from trilemma.evaluation.difference import holm, two_sided


def score(value: float | None, error: float | None = 0.1, **other: Any) -> dict[str, Any]:
    return {"value": value, "error": error, "better": "lower", "flag": None, "kind": None, **other}


def test_p_values_of_the_normal_law() -> None:
    assert two_sided(1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)
    assert two_sided(-1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)
    assert two_sided(0.0, 1.0) == 1.0
    assert (two_sided(0.0, 0.0), two_sided(1.0, 0.0)) == (1.0, 0.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x .01, 2 x .03, then never falling
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_two_models_that_differ_and_two_that_do_not() -> None:
    found = differences("frechet", {"a": score(10.0), "b": score(10.2), "c": score(14.0)})
    assert {(d.a, d.b): d.real for d in found} == {("a", "b"): False, ("a", "c"): True, ("b", "c"): True}
    assert found[0].difference == pytest.approx(-0.2)
    assert found[0].error == pytest.approx(0.1 * math.sqrt(2))


def test_what_cannot_be_compared_is_left_out() -> None:
    scores = {
        "a": score(1.0), "no value": score(None), "no error": score(2.0, None), "flagged": score(3.0, flag="small N"),
        "no direction": score(4.0, better="none"), "b": score(9.0),
    }  # fmt: skip
    assert [(d.a, d.b) for d in differences("x", scores)] == [("a", "b")]
    assert differences("x", {"a": score(1.0)}) == []


def test_the_same_images_tell_models_apart_that_other_images_do_not() -> None:
    """Images differ by much more than models do: only the differences image by image see it."""
    generator = random.Random(0)
    images = [generator.gauss(3.0, 1.0) for _ in range(200)]
    better, worse = images, [bits + generator.gauss(0.05, 0.05) for bits in images]
    error = 1.0 / math.sqrt(200)
    scores = {
        "better": score(sum(better) / 200, error, kind="exact"),
        "worse": score(sum(worse) / 200, error, kind="exact"),
    }
    (unpaired,) = differences("bits_per_dim", scores)
    (paired,) = differences("bits_per_dim", scores, {"better": better, "worse": worse})
    assert not unpaired.real
    assert paired.real
    assert paired.paired
    assert paired.error < unpaired.error / 5
    (cut,) = differences("bits_per_dim", scores, {"better": better, "worse": worse[:100]})
    assert not cut.paired


def test_a_larger_bound_is_no_proof() -> None:
    exact, bound = score(1.0, kind="exact"), score(2.0, kind="bound")
    assert "only a bound" in differences("bits_per_dim", {"a": exact, "b": bound})[0].note
    assert differences("bits_per_dim", {"a": score(3.0, kind="exact"), "b": bound})[0].note == ""


def test_five_equal_models_are_told_apart_in_one_of_twenty_comparisons() -> None:
    generator = random.Random(1)
    alarms = 0
    for _ in range(400):
        scores = {str(i): score(generator.gauss(0, 1.0), 1.0) for i in range(5)}
        alarms += any(d.real for d in differences("x", scores))
    assert alarms / 400 < 0.07  # at most 5 % over all ten pairs together


def test_records_of_several_models_are_judged_metric_by_metric() -> None:
    records = {
        "a": {"metrics": {"frechet": score(1.0), "kernel": score(5.0)}, "per_image": {}},
        "b": {"metrics": {"frechet": score(9.0)}},
        "never trained": {},
    }
    assert [(d["metric"], d["a"], d["b"], d["real"]) for d in judge(records)] == [("frechet", "a", "b", True)]
