"""From votes to results, with raters of known skill as the oracle, and the part of the page that shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_example import Page, example

from trilemma.comparison.past import study_of
from trilemma.metrics.exposure import SHORTEST
from trilemma.metrics.raters import detection, hype_infinity
from trilemma.report import render
from trilemma.study.results import Results, results
from trilemma.study.simulate import Crowd, simulate, trials
from trilemma.study.vote import REAL

SKILL = {"one": 2.0, "two": 0.8, "three": 0.0}


def study(**settings: Any) -> Results:
    careless = settings.pop("careless", ())
    return results(simulate(trials(list(SKILL), **settings), SKILL, careless=careless), rounds=100)


def test_simulated_votes_have_the_rates_of_their_closed_form() -> None:
    crowd = Crowd(image=0.4, skill=0.2, bias=0.4, lapse=0.1)
    votes = simulate(trials(list(SKILL), raters=250, each=10, images=1000), SKILL, crowd)
    for source, d_prime in {**SKILL, REAL: 0.0}.items():
        said = [vote.answer == "real" for vote in votes if vote.source == source]
        assert np.mean(said) == pytest.approx(crowd.passes(d_prime), abs=0.035)
    pairs = simulate(trials(["one"], form="pairs", raters=250, each=10, images=1000), SKILL, crowd)
    assert np.mean([not vote.right for vote in pairs]) == pytest.approx(crowd.preferred(2.0, 0.0), abs=0.035)


def test_the_design_is_balanced_and_shows_no_image_twice() -> None:
    asked = trials(["a", "b"], raters=3, each=5, images=8, checks=4)
    for rater in ("r00", "r01", "r02"):
        own = [vote for vote in asked if vote.rater == rater]
        assert [vote.trial for vote in own] == list(range(24))
        main = [(vote.source, vote.item) for vote in own if vote.role == "main"]
        assert len(set(main)) == 20 and sum(source == REAL for source, _ in main) == 10


def test_the_best_comes_first_and_is_alike_to_real_images_and_the_others_are_told() -> None:
    found = study(raters=30, each=40, images=200)
    assert [row.source for row in found.rows] == ["three", "two", "one"]
    assert [row.verdict for row in found.rows] == ["alike", "told", "told"]
    crowd = Crowd()
    for row in found.rows:
        assert row.error_rate is not None and row.error_rate.low is not None and row.error_rate.high is not None
        assert row.error_rate.low - 0.01 < crowd.error_rate(SKILL[row.source]) < row.error_rate.high + 0.01
    assert len(found.differences) == 3 and all(difference.real for difference in found.differences)
    assert any("27.6 %" in line for line in found.readings)
    assert found.agreement.value is not None and 0.1 < found.agreement.value < 0.5


def test_few_votes_tell_nothing_apart_and_more_are_asked_for() -> None:
    votes = simulate(trials(["a", "b"], raters=4, each=5), {"a": 0.2, "b": 0.2})
    found = results(votes, rounds=100)
    assert {row.verdict for row in found.rows} == {"unclear"}
    assert all((row.needed or 0) > 50 for row in found.rows)
    assert any("cannot be told apart" in line for line in found.readings)


def test_pairs_order_the_sources_and_count_against_real_images() -> None:
    found = study(form="pairs", raters=20, each=15)
    assert [row.source for row in found.rows] == ["three", "two", "one"]
    strengths = [row.strength.number.known for row in found.rows if row.strength]
    assert strengths == sorted(strengths, reverse=True)
    assert found.rows[0].error_rate is not None
    assert found.rows[0].error_rate.number.value == pytest.approx(0.5, abs=0.1)
    assert all(rater.sharpness is not None for rater in found.raters)
    assert not any("27.6 %" in line for line in found.readings)  # which is of single images


def test_who_fails_the_checks_is_left_out_and_named() -> None:
    found = study(raters=8, each=10, checks=8, careless=["r03"])
    assert found.left_out == ("r03",)
    assert any("r03" in line and "left out" in line for line in found.readings)
    assert found.votes == 7 * 60
    without = results(
        [vote for vote in simulate(trials(list(SKILL), raters=8, each=10, checks=8), SKILL, careless=["r03"])
         if vote.rater != "r03"], rounds=100,
    )  # fmt: skip
    assert without.rows == found.rows
    everyone = [f"r{i:02d}" for i in range(8)]
    with pytest.raises(ValueError, match="every rater failed"):
        study(raters=8, each=10, checks=20, careless=everyone)


def test_who_calls_everything_fake_is_left_out() -> None:
    votes = simulate(trials(["a"], raters=4, each=20, checks=8), {"a": 3.0})
    lazy = [replace(vote, answer="fake") if vote.rater == "r01" else vote for vote in votes]
    lazy = [replace(v, source="a", item=90 + v.trial) if v.role == "check" and v.rater == "r01" else v for v in lazy]
    found = results(lazy, rounds=50)
    assert found.raters[1].passed == found.raters[1].checks == 8  # the easy images are fakes
    assert found.left_out == ("r01",)
    assert any(line.startswith("1 rater called nearly every image fake") and "r01" in line for line in found.readings)
    assert found.rows == results([vote for vote in votes if vote.rater != "r01"], rounds=50).rows
    few = [vote for vote in lazy if vote.rater != "r01" or vote.trial < 15]  # too few to say so
    assert not results(few, rounds=50).left_out


def test_practice_counts_nowhere_and_no_votes_are_refused() -> None:
    votes = simulate(trials(["a"], raters=3, each=5), {"a": 1.0})
    assert results([*votes, *(replace(vote, role="practice") for vote in votes)], rounds=50).votes == len(votes)
    with pytest.raises(ValueError, match="nobody has judged"):
        results([replace(vote, role="practice") for vote in votes])
    with pytest.raises(ValueError, match="no d′ for a"):
        simulate(votes, {})


def test_a_staircase_has_a_threshold_of_one_source_alone() -> None:
    easy = results(simulate(trials(["a"], raters=10, each=40, timed=True), {"a": 5.0}, Crowd(criterion=2.5)), rounds=50)
    assert easy.rows[0].exposure is not None
    hard = results(simulate(trials(["a"], raters=10, each=40, timed=True), {"a": 0.2}), rounds=50)
    assert hard.rows[0].exposure is not None
    assert SHORTEST <= easy.rows[0].exposure.number.known < hard.rows[0].exposure.number.known
    assert easy.limited and any("limited time" in line for line in easy.readings)
    mixed = study(raters=5, each=10, timed=True)
    assert all(row.exposure is not None and row.exposure.number.value is None for row in mixed.rows)


def test_one_rater_gives_rates_and_no_verdict() -> None:
    found = study(raters=1, each=10)
    assert all(row.verdict == "unknown" and row.needed is None for row in found.rows)
    assert all(row.error_rate is not None and row.error_rate.number.value is not None for row in found.rows)


def test_results_are_plain_values_and_stand_on_the_page(tmp_path: Path) -> None:
    plain = json.loads(json.dumps(study(raters=10, each=20, images=40).to_json(), allow_nan=False))
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.json").write_text(json.dumps(plain), encoding="utf-8")
    report = example() | {"study": study_of(tmp_path)}
    page = Page(render(report, tmp_path))
    rows = {row["reading"] for row in plain["rows"]}
    for line in plain["readings"]:
        assert (line in page.text) == (line not in rows)  # which the table says
    assert "What people say" in page.text and "The three family" in page.text
    assert "people" in {part.get("id") for part in page.all("details")}
    assert "What people say" not in Page(render(example(), tmp_path)).text


def test_names_in_a_study_are_escaped_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    plain = study(raters=4, each=5).to_json()
    plain["rows"][0]["source"] = plain["readings"][0] = "<script>alert(1)</script>"
    page = Page(render(example() | {"study": plain}, tmp_path))
    assert len(page.all("script")) == 1 and page.text.count("<script>") == 2
    (tmp_path / "study").mkdir()
    assert study_of(tmp_path) == {}
    for broken in ("{", "[]", '{"format": 1, "rows": [{}]}', '{"format": 9, "rows": []}'):
        (tmp_path / "study" / "results.json").write_text(broken, encoding="utf-8")
        fault = study_of(tmp_path)
        assert "damaged" in fault["fault"]
        assert "damaged" in Page(render(example() | {"study": fault}, tmp_path)).text


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_intervals_hold_the_truth_as_often_as_they_say(count: int) -> None:
    """95 ± 2 % over raters and images drawn anew; the quick count allows for its own chance."""
    crowd, held = Crowd(), {"rate": 0, "fakes": 0, "d_prime": 0}
    for seed in range(count):
        votes = simulate(trials(["a"], raters=15, each=15, images=40, seed=seed), {"a": 1.2}, crowd, seed=seed)
        codes = {code: i for i, code in enumerate(sorted({vote.rater for vote in votes}))}
        arrays = (
            [vote.answer == "fake" for vote in votes], [vote.source != REAL for vote in votes],
            [codes[vote.rater] for vote in votes], [vote.item for vote in votes],
        )  # fmt: skip
        hype, seeing = hype_infinity(*arrays, rounds=100, seed=seed), detection(*arrays, rounds=100, seed=seed)
        for name, found, truth in (
            ("rate", hype.both, crowd.error_rate(1.2)), ("fakes", hype.fakes, crowd.passes(1.2)),
            ("d_prime", seeing.d_prime, crowd.d_prime(1.2)),
        ):  # fmt: skip
            assert found.low is not None and found.high is not None
            held[name] += found.low <= truth <= found.high
    allowed = 0.02 if count >= 600 else 0.06
    for name, hits in held.items():
        assert abs(hits / count - 0.95) <= allowed, (name, hits / count)
