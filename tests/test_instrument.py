"""The scale tests itself, and the page says first what it found."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from report_example import example

from trilemma.evaluation import Number
from trilemma.evaluation.ladder import distrust
from trilemma.evaluation.relative import relative, relative_rungs
from trilemma.metrics import passed
from trilemma.metrics.distortions import average, shuffle_blocks
from trilemma.report.page import render
from trilemma.report.scores import axes_of
from trilemma.report.summary import overall, sentence, undertrained, verdict


def rung(name: str, strength: float, fidelity: float, coverage: float = 0.5) -> dict[str, Any]:
    values = {"mutual_fidelity": fidelity, "mutual_coverage": coverage}
    metrics = {key: {"value": value, "error": 0.02} for key, value in values.items()}
    return {"name": name, "strength": strength, "text": f"{name} {strength:g}", "metrics": metrics}


FLOOR = {"mutual_fidelity": Number(0.8, 0.02), "mutual_coverage": Number(0.9, 0.02)}
SOUND = [rung("blur", 1, 0.5), rung("blur", 2, 0.2), rung("blur", 4, 0.0), rung("noise", 64, 0.1)]
SOUND += [rung("dropped classes", 0.3, 0.8, 0.6), rung("dropped classes", 0.9, 0.8, 0.1)]


def test_a_sound_scale_is_trusted() -> None:
    assert distrust(SOUND, FLOOR) == []
    assert distrust(None, FLOOR) == []


@pytest.mark.parametrize(
    ("rungs", "words"),
    [
        ([rung("blur", 2, 0.2), rung("blur", 4, 0.3)], "fidelity rises from 0.25 (blur 2) to 0.37 (blur 4)"),
        ([rung("noise", 64, 0.5)], "noise 64 leaves a fidelity of 0.62"),
        ([rung("averages", 8, 0.9)], "fidelity rises from 1.00 (real images) to 1.12 (averages 8)"),
        ([rung("dropped classes", 0.5, 0.8, 0.4), rung("dropped classes", 0.9, 0.8, 0.6)], "coverage rises from 0.44"),
    ],
)
def test_a_scale_that_praises_ruin_is_not(rungs: list[dict[str, Any]], words: str) -> None:
    assert any(words in reason for reason in distrust(rungs, FLOOR))


def test_dropped_classes_may_keep_their_fidelity_and_noise_its_coverage() -> None:
    rungs = [rung("dropped classes", 0.3, 0.8, 0.6), rung("noise", 8, 0.7, 0.5), rung("noise", 16, 0.5, 0.7)]
    assert distrust(rungs, FLOOR) == []


def test_a_floor_near_nothing_is_no_measuring_rod() -> None:
    low = {"mutual_fidelity": Number(0.1, 0.02), "mutual_coverage": Number(0.9, 0.02)}
    assert "0.10 only" in distrust(SOUND, low)[0]
    found = relative({"mutual_fidelity": Number(0.05, 0.01)}, low)["mutual_fidelity"]
    assert found.value is None
    assert found.flag == "refused: held-out images reach 0.10"


def test_corners_are_relative_to_held_out_images() -> None:
    found = relative({"mutual_fidelity": Number(0.4, 0.03), "precision": Number(0.5)}, FLOOR)
    assert found["mutual_fidelity"].value == pytest.approx(0.5)
    assert found["mutual_fidelity"].error == pytest.approx((0.03**2 + (0.5 * 0.02) ** 2) ** 0.5 / 0.8)
    assert found["precision"].value == 0.5
    real = relative(FLOOR, FLOOR)["mutual_fidelity"]
    assert (real.value, real.error) == (1.0, pytest.approx(0.02 / 0.8))
    assert relative_rungs([rung("blur", 4, 0.2)], FLOOR)[0]["metrics"]["mutual_fidelity"]["value"] == pytest.approx(
        0.25
    )


def test_averages_and_shuffled_blocks() -> None:
    images = torch.arange(4 * 16, dtype=torch.uint8).view(4, 1, 4, 4)
    assert average(images, 2)[0].equal(((images[0].int() + images[1].int()) / 2).round().to(torch.uint8))
    assert average(images, 2)[3].equal(((images[3].int() + images[0].int()) / 2).round().to(torch.uint8))
    moved = shuffle_blocks(images, 2)
    assert not moved.equal(images)
    blocks = [moved[0, 0, i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2)]
    assert all(any(block.equal(images[0, 0, i : i + 2, j : j + 2]) for block in blocks) for i in (0, 2) for j in (0, 2))


def test_a_classifier_passes_what_is_real_and_not_what_is_noise() -> None:
    g = torch.Generator().manual_seed(0)
    real, other = (torch.rand(200, 1, 8, 8, generator=g).mul(120).to(torch.uint8) for _ in range(2))
    assert passed(real, other).value > 0.6
    assert passed(real, other + 60).value < 0.2
    with pytest.raises(ValueError, match="32 images of each kind, not 20"):
        passed(real, other[:20])


# ---------------------------------------------------------------------------------------------------- the verdict


def with_scores(fidelity: list[float], coverage: list[float]) -> dict[str, Any]:
    report = copy.deepcopy(example())
    for family, f, c in zip(report["families"], fidelity, coverage, strict=True):
        family["metrics"]["mutual_fidelity"] |= {"value": f, "error": 0.02}
        family["metrics"]["mutual_coverage"] |= {"value": c, "error": 0.02}
    return report


def test_the_verdict_says_that_nobody_has_learnt() -> None:
    report = with_scores([0.02, 0.0, 0.05], [0.1, 0.0, 0.1])
    assert "none of the families has learnt these images: train longer" in overall(report)
    assert "Undertrained" in undertrained(report)
    assert "has not learnt these images" in sentence(report["families"][0])
    assert "5 % of the fidelity" in sentence(report["families"][2])


def test_the_verdict_names_who_leads_and_calls_nothing_equal_without_evidence() -> None:
    report = with_scores([0.5, 0.92, 0.7], [0.9, 0.6, 0.8])
    said = overall(report)
    assert "no family is shown to be as faithful and as broad" in said
    assert f"Most faithful: {report['families'][1]['title']}." in said
    assert f"Broadest: {report['families'][0]['title']}." in said
    draw = overall(with_scores([0.5, 0.52, 0.49], [0.9, 0.6, 0.8]))
    assert "Most faithful: none can be told from the others." in draw
    assert "92 % as faithful" in sentence(report["families"][1])  # 0.92 ± 0.02 is not surely above 0.9
    assert undertrained(report) == ""


def test_the_verdict_crowns_what_is_surely_as_good_as_held_out_images() -> None:
    report = with_scores([0.99, 0.5, 0.7], [0.97, 0.6, 0.8])
    assert f"the samples of {report['families'][0]['title']} are as faithful as held-out images" in overall(report)


def test_the_page_warns_above_the_triangle_and_changes_the_corner(tmp_path: Any) -> None:
    report = with_scores([0.5, 0.4, 0.7], [0.9, 0.6, 0.8])
    assert "This scale cannot be trusted" not in render(report, tmp_path)
    report["scale"] = {"distrust": ["fidelity rises from 0.2 to 0.9 (blur)"]}
    assert next(iter(axes_of(report))) == "mutual_fidelity"  # nothing to put in its place
    for family in report["families"]:
        family["metrics"]["passed"] = {"value": 0.1, "error": 0.01, "better": "higher"}
    assert next(iter(axes_of(report))) == "passed"
    page = render(report, tmp_path)
    assert page.index("This scale cannot be trusted") < page.index('class="cards"')
    assert "rises from 0.2 to 0.9 (blur)" in page


def test_a_report_without_fidelity_has_no_verdict() -> None:
    report = example()
    for family in report["families"]:
        del family["metrics"]["mutual_fidelity"]
    assert verdict(report) == ("", "")
