"""What the report says of numbers: the scale of distorted images, differences, flags, copies, likelihoods, spectra."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from report_example import Page, difference, example, metric, rungs, svg
from rich.console import Console

from trilemma.images import save_png
from trilemma.report import render, table
from trilemma.report.calibration import Rung, _spread, ladder
from trilemma.report.figures import Point
from trilemma.report.marks import Sign


@pytest.fixture
def report() -> dict[str, Any]:
    return example()


def test_models_stand_on_the_scale_of_distorted_images(report: dict[str, Any], tmp_path: Path) -> None:
    assert "look like" not in Page(render(report, tmp_path)).text
    report["ladder"] = rungs({"frechet": [5.0, 60.0], "precision": [0.9, 0.1]})
    save_png(torch.zeros(1, 6, 18, dtype=torch.uint8), tmp_path / "ladder" / "noise-8.png")
    report["ladder"][0]["picture"] = "ladder/noise-8.png"
    html = render(report, tmp_path)
    page = Page(html)
    assert "What the scores look like" in page.text
    assert len(page.all("image")) == 2  # the wide and the narrow drawing
    assert all((image["href"] or "").startswith("data:image/png;base64,") for image in page.all("image"))
    drawings = [svg(text) for text in re.findall(r'<svg class="scatter ladder".*?</svg>(?=</div>)', html, re.DOTALL)]
    assert len(drawings) == 4  # distance and precision
    for drawn in drawings:
        assert len([e for e in drawn.iter() if (e.get("class") or "") == "rung"]) == 6
        names = [e.text for e in drawn.iter() if (e.get("class") or "").startswith("name")]
        assert len(names) == 3
        assert "q 50" in {e.text for e in drawn.iter()}


def test_the_scale_is_drawn_where_there_are_too_few_images_for_a_distance(
    report: dict[str, Any], tmp_path: Path
) -> None:
    report["ladder"] = rungs({"frechet": [5.0, 60.0], "precision": [0.9, 0.1], "kernel": [0.1, 2.0]})
    for rung in report["ladder"]:
        rung["metrics"]["frechet"]["value"] = None
    for item in report["families"]:
        item["metrics"]["frechet"] = metric(None, None, "lower", flag="refused: 33 images do not determine it")
        item["metrics"]["kernel"] = metric(1.0, 0.1, "lower")
    save_png(torch.zeros(1, 6, 18, dtype=torch.uint8), tmp_path / "ladder" / "noise-8.png")
    report["ladder"][0]["picture"] = "ladder/noise-8.png"
    html = render(report, tmp_path)
    open_part = html.split('id="scale"')[1].split("<details>")[0]
    assert 'data-name="scale-kernel"' in open_part and 'data-name="scale-precision"' not in open_part
    assert open_part.count("<image ") == 2  # with its pictures, wide and narrow


def test_a_model_between_two_rungs_is_drawn_between_them() -> None:
    steps = [Rung("noise", "σ 8", "weak", 2.0), Rung("noise", "σ 64", "strong", 50.0)]
    drawn = svg(ladder(steps, [Point(0, Sign(0, 0), "a model", 10.0, 0.0, 1.0)], 0.5, "Distance", "lower", 900))
    marks = [e for e in drawn.iter() if (e.get("class") or "").startswith("drop")]
    dots = [float(e.get("cx") or 0) for e in drawn.iter() if e.get("class") == "rung"]
    here = float(re.findall(r"M([\d.]+),", marks[0].get("d") or "")[0])
    assert dots[0] < here < dots[1]
    assert "(log)" in (next(e.text for e in drawn.iter() if e.tag == "text") or "")


@given(
    st.lists(st.tuples(st.floats(0, 500), st.floats(5, 90)), min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=100)
def test_thumbnails_keep_their_order_and_do_not_overlap(pairs: list[tuple[float, float]]) -> None:
    places, widths = sorted(place for place, _ in pairs), [width for _, width in pairs]
    moved = _spread(places, widths, 0.0, 600.0)
    for (a, u), (b, v) in zip(zip(moved, widths, strict=True), list(zip(moved, widths, strict=True))[1:], strict=False):
        assert b - a >= (u + v) / 2 - 1e-6
    assert moved[0] >= widths[0] / 2 - 1e-6
    if sum(widths) + 3 * len(widths) < 600:
        assert moved[-1] <= 600 - widths[-1] / 2 + 1e-6


def test_what_cannot_be_told_apart_is_said_and_shares_the_lead(report: dict[str, Any], tmp_path: Path) -> None:
    report["differences"] = [
        difference("one", "two", False), difference("one", "three", True), difference("two", "three", True),
        difference("one", "two", True, "bits_per_dim", "the larger value is only a bound"),
    ]  # fmt: skip
    html = render(report, tmp_path)
    text = Page(html).text
    assert "one and \N{NO-BREAK SPACE}two" in text
    assert "2 of 3" in text
    assert "only a bound" in text
    assert "<strong>12.0</strong>" in html
    assert "<strong>20.0</strong>" in html  # beyond two standard errors by itself, but the test says otherwise
    out = io.StringIO()
    Console(file=out, width=80).print(table(report))
    assert "Fréchet: one and two cannot be told apart at N = 2,000" in out.getvalue()


def test_fid_is_found_under_its_own_name(report: dict[str, Any], tmp_path: Path) -> None:
    report["protocol"]["features"] = "inception-2015-12-05/clean-fid"
    for item in [*report["families"]]:
        item["metrics"]["fid"] = item["metrics"].pop("frechet")
    report["floor"]["fid"] = report["floor"].pop("frechet")
    report["differences"] = [difference("one", "two", False, "fid")]
    html = render(report, tmp_path)
    assert ">FID</a>" in html
    assert "<strong>12.0</strong>" in html
    assert "What a FID" not in html  # no ladder, no section


def test_flags_copies_and_classes_of_a_family_are_shown(report: dict[str, Any], tmp_path: Path) -> None:
    first = report["families"][0]
    first["flags"] = ["60 of 60 images are identical to training images"]
    first["memorisation"] = {"p_value": 0.001, "pixels": {"text": "copies found: about 3 %"}}
    first["pictures"]["closest_pixels"] = "closest.png"
    save_png(torch.zeros(3, 9, 12, dtype=torch.uint8), tmp_path / "closest.png")
    first["per_class"] = {
        "labels": "asked for",
        "classes": {"cat": {"n": 12, "frechet": {"value": 3.0, "error": 0.5, "flag": "warning: few"}}},
    }
    page = Page(render(report, tmp_path))
    for said in ("Distrust these numbers", "identical to training images", "copies found: about 3 %", "3.0 *", "cat"):
        assert said in page.text
    assert len(page.all("img")) == 1


def test_whatever_a_run_was_asked_is_on_the_page(report: dict[str, Any], tmp_path: Path) -> None:
    assert "Does it know its own data?" not in render(report, tmp_path)
    (tmp_path / "queries").mkdir()
    save_png(torch.zeros(3, 9, 12, dtype=torch.uint8), tmp_path / "queries" / "ood.png")
    report["families"][0]["asked"] = [
        {
            "question": "ood",
            "title": "Does it know its own data?",
            "sentence": "Are images of another source less likely?",
            "caption": "Two histograms.",
            "reading": ["the model finds <coats> MORE likely than its own kind", "AUROC 0.321 ± 0.011"],
            "flag": "asked long ago",
            "tables": {"by source": {"heads": ["source", "bits/dim"], "rows": [["<coats>", "2.1"]]}},
            "figures": {"ood": "ood.png"},
            "folder": "queries",
        }
    ]
    page = Page(render(report, tmp_path))
    for words in (
        "Does it know its own data?",
        "The model finds <coats> MORE likely",
        "AUROC 0.321",
        "Asked long ago.",
    ):
        assert words in page.text
    assert "2.1" in page.text and len(page.all("img")) == 1


def test_spectra_are_drawn_where_they_were_measured(report: dict[str, Any], tmp_path: Path) -> None:
    assert "How sharp" not in render(report, tmp_path)
    frequencies = [i / 20 for i in range(1, 11)]
    report["families"][1]["spectrum"] = {
        "frequencies": frequencies,
        "power": [0.1 / (i + 1) for i in range(9)] + [0.0],
        "real": [0.1] * 10,
    }
    report["families"][1]["metrics"]["fine_detail"] = metric(0.123, 0.004, "none")
    page = Page(render(report, tmp_path))
    assert "How sharp the samples are" in page.text
    assert "0.123" in page.text
    assert any("0.111 times at the finest" in (attrs.get("aria-label") or "") for _, attrs in page.elements)
