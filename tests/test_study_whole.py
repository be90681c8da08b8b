"""A study from its making to a comparison: its trials, votes of raters of known skill, what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blobs, write_blobs

from trilemma.cli import main
from trilemma.comparison.past import study_of
from trilemma.study.design import Study, Wanted, make, trials
from trilemma.study.results import results
from trilemma.study.simulate import Crowd, simulate
from trilemma.study.sitting import Sitting
from trilemma.study.vote import REAL, Vote
from trilemma.study.votes import Votes

SKILL = {"good": 0.0, "bad": 3.0}


def made(folder: Path, names: tuple[str, ...] = ("good", "bad"), **wanted: Any) -> Study:
    data = write_blobs(folder / "real.npz", count=600)
    for name in names:
        np.savez(folder / f"{name}.npz", images=blobs(60, seed=7)[0])
    sets = {name: str(folder / f"{name}.npz") for name in names}
    return make(folder / "study", None, sets, str(data), Wanted(**{"images": 40, "trials": 40, **wanted}))


def rehearse(study: Study, skill: dict[str, float], raters: int, crowd: Crowd | None = None) -> list[Vote]:
    asked = [
        Vote(code, i, study.form, t.role, t.source, t.item, "real", t.other, t.other_item, study.exposure)
        for code in (f"r{number:02d}" for number in range(raters))
        for i, t in enumerate(trials(study, code))
    ]
    return simulate(asked, skill, crowd, staircase=study.staircase)


def called(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0)


def test_votes_become_results_that_a_comparison_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made(tmp_path)
    sitting = Sitting(tmp_path / "study")
    code = sitting.begin().code
    rehearsed = rehearse(study, SKILL, 8)
    for vote in rehearsed:
        sitting.votes.add(vote)
    for number, trial in enumerate(trials(study, code)):  # one who says fake of everything that is not real
        state = sitting.vote(code, number, "real" if trial.source == REAL else "fake", 9.0)
    assert state.done and state.score == 1
    sitting.close()
    assert called("study", "results", str(tmp_path / "study")) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = study_of(tmp_path)
    rows = {row["source"]: row for row in found["rows"]}
    assert found["votes"] == 9 * 40 and found["raters"] == 9 and found["left_out"] == []
    assert rows["bad"]["verdict"] == "told" and rows["good"]["verdict"] in ("unclear", "alike")
    assert all(" ".join(line.split()) in said for line in found["readings"])
    # by hand, of the votes as they lie on the disk
    votes = Votes(tmp_path / "study")
    own = [v for v in votes.all() if v.role == "main"]
    votes.close()
    missed = np.mean([v.answer == "real" for v in own if v.source == "bad"])
    alarms = np.mean([v.answer == "fake" for v in own if v.source == REAL])
    assert rows["bad"]["error_rate"]["value"] == pytest.approx((missed + alarms) / 2)


@pytest.mark.parametrize("form", [{}, {"exposure": "250"}, {"form": "pairs"}, {"form": "pairs", "pair": "models"}])
def test_every_form_tells_a_good_source_from_a_bad_one(tmp_path: Path, form: dict[str, Any]) -> None:
    study = made(tmp_path, **form)
    found = results(rehearse(study, SKILL, 10), staircase=study.staircase, rounds=100)
    assert [row.source for row in found.rows] == ["good", "bad"]
    assert [difference.real for difference in found.differences] == [True] * len(found.differences) != []
    assert not found.left_out


def test_a_screen_that_is_late_is_no_staircase(tmp_path: Path) -> None:
    study = made(tmp_path, exposure="250")
    votes = rehearse(study, SKILL, 4)
    assert {vote.exposure for vote in votes} == {250.0}
    late = [replace(votes[0], exposure=312.0), *votes[1:]]
    found = results(late, staircase=study.staircase, rounds=50)
    assert all(row.exposure is None for row in found.rows)


def test_a_staircase_takes_longer_for_what_is_harder(tmp_path: Path) -> None:
    study = made(tmp_path, ("a",), exposure="staircase", trials=150, images=150)
    even = Crowd(criterion=1.0)  # favours neither answer at d′ 2
    times = []
    for skill in (6.0, 2.0):
        found = results(rehearse(study, {"a": skill}, 8, even), staircase=True, rounds=50)
        exposure = found.rows[0].exposure
        assert exposure is not None and exposure.number.value is not None
        times.append(exposure.number.value)
    assert times[0] + 50 < times[1]
