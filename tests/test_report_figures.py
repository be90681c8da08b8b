"""How the report writes numbers, names leaders and draws its figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_example import Page, example, svg

from trilemma.families import FAMILIES
from trilemma.number import error_text, text
from trilemma.report import render
from trilemma.report.figures import Point, Scale, curve, scatter, speed_scale, triangle
from trilemma.report.marks import HUES, Sign, sign, signs
from trilemma.report.scores import compact, distance_name


@pytest.fixture
def report() -> dict[str, Any]:
    return example()


@pytest.mark.parametrize(
    ("value", "error", "written"),
    [
        (1.23456, 0.0123, "1.235 ±0.012"),
        (0.7134, 0.0098, "0.713 ±0.010"),
        (0.7134, 0.02, "0.71 ±0.02"),
        (48.31, 0.94, "48.3 ±0.9"),
        (12400.0, 310.0, "12,400 ±310"),
        (-3.21, 0.5, "\N{MINUS SIGN}3.2 ±0.5"),
        (0.0, None, "0 "),
        (0.91234, None, "0.912 "),
        (1234.5, None, "1,234 "),
        (0.00001234, None, "1.2e\N{MINUS SIGN}05 "),
        (0.5, 0.0, "0.500 "),
    ],
)
def test_a_value_has_the_decimals_its_error_warrants(value: float, error: float | None, written: str) -> None:
    assert f"{text(value, error)} {error_text(value, error)}" == written


@given(st.floats(-1e9, 1e9), st.one_of(st.none(), st.floats(1e-6, 1e9)))
@settings(deadline=None, max_examples=200)
def test_writing_a_number_loses_less_than_its_error(value: float, error: float | None) -> None:
    written = text(value, error).replace(",", "").replace("\N{MINUS SIGN}", "-")
    assert abs(float(written) - value) <= (0.5 * error if error else 0.0051 * abs(value)) + 5e-7 + 0.5 * (
        abs(value) >= 100
    )


def test_compact_counts() -> None:
    assert [compact(n) for n in (812, 9600, 76_800, 812_345, 1_234_567)] == [
        "812",
        "9,600",
        "76.8 k",
        "812 k",
        "1.23 M",
    ]


def test_only_inception_features_make_a_fid(report: dict[str, Any], tmp_path: Path) -> None:
    assert distance_name("small-v2") == "Fréchet distance"
    assert "FID" not in Page(render(report, tmp_path)).text
    report["protocol"]["features"] = "inception-2015-12-05/clean-fid"
    assert "FID" in Page(render(report, tmp_path)).text


def test_speed_scale_is_logarithmic_and_holds_every_speed() -> None:
    scale = speed_scale([41.2, 12_400.0, 0.0])
    assert 0 < scale(41.2) < scale(12_400.0) < 1
    assert scale(100.0) - scale(50.0) == pytest.approx(scale(2000.0) - scale(1000.0))
    assert 0 < speed_scale([7.0])(7.0) < 1
    assert speed_scale([]).low > 0


def test_ticks_lie_on_the_axis() -> None:
    for scale in (
        Scale(0, 53, 0, 1),
        Scale(-0.3, 0.012, 0, 1),
        Scale(3, 90_000, 0, 1, True),
        Scale(10, 40, 0, 1, True),
    ):
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 12
        assert all(-0.001 <= scale(tick) <= 1.001 for tick in ticks)


def test_the_triangle_puts_values_where_they_belong() -> None:
    drawn = svg(triangle([1.0, 0.0, None], [0.5, None, None], Sign(2, 2), [True, False, False], "a <label>"))
    assert drawn.get("aria-label") == "a <label>"
    marks = [e for e in drawn.iter() if "marker" in (e.get("class") or "")]
    assert ["hollow" in (e.get("class") or "") for e in marks] == [True, False]

    def middle(element: ElementTree.Element) -> list[float]:
        points = [tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", element.get("d") or "")]
        return [sum(axis) / len(points) for axis in zip(*points, strict=True)]

    assert middle(marks[0]) == pytest.approx([75, 21], abs=0.1)  # the quality corner
    assert middle(marks[1]) == pytest.approx([75, 79], abs=0.1)  # zero is the centre
    assert "floor" in {e.get("class") for e in drawn.iter()}
    svg(triangle([None, None, None], [None, None, None], Sign(0, 0), [False] * 3, "nothing"))


def test_names_in_the_scatter_do_not_cover_each_other() -> None:
    points = [Point(i, Sign(i, i), f"family number {i}", 1000.0 * 1.05**i, 10.0 + 0.1 * i) for i in range(4)]
    drawn = svg(scatter(points, 3.0, "Distance & more"))
    names = [e for e in drawn.iter() if "name" in (e.get("class") or "")]
    places = [(e.get("class"), float(e.get("x") or 0), float(e.get("y") or 0)) for e in names]
    assert len(set(places)) == 4
    for i, (side, x, y) in enumerate(places):
        assert all(abs(y - v) >= 16 or (side != other) or abs(x - u) >= 100 for other, u, v in places[:i])


@pytest.mark.parametrize(
    "points", [[[0, None], [10, 2.0]], [[5, 1.0]], [[0, 0.0], [9, 0.0]], [[0, 1e9], [50, 1.0], [99, 2]]]
)
def test_a_curve_of_any_kind_is_drawn_to_its_last_value(points: list[list[float | None]]) -> None:
    drawn = svg(curve(points, "loss <x>", Sign(1, 1), 99))
    last = [e.text for e in drawn.iter() if e.get("class") == "last"]
    assert last == [text(float(points[-1][1] or 0))]


def test_a_start_off_the_scale_is_said() -> None:
    points = [[i, 1000.0 if i == 0 else 1.0 + i / 1e4] for i in range(1000)]
    assert "starts at 1,000" in curve(points, "nll", Sign(0, 0), 999)
    assert len(curve(points * 50, "nll", Sign(0, 0), 999)) < 20_000  # long logs are thinned
    assert curve([[0, None]], "nll", Sign(0, 0), 1) == ""


def test_a_family_has_the_same_sign_on_every_page() -> None:
    """Its place, other rows and other pages do not change it; the studio shows the same."""
    built_in = {name: sign(name) for name in FAMILIES.built_in}
    assert len(set(built_in.values())) == len(built_in) >= 8
    rows = [{"name": f"{name} again", "family": name} for name in reversed(built_in)]
    assert signs(rows) == [built_in[row["family"]] for row in rows]
    assert signs([{"name": "vae"}]) == [sign("vae")]  # of an older report, which names no family
    room = pytest.importorskip("trilemma.studio.room")
    for entry in room.families():
        assert entry["hue"] == sign(entry["name"]).hue
        assert entry["marker"] == [[round(x, 3), round(y, 3)] for x, y in sign(entry["name"]).vertices]


def test_rows_of_one_family_share_its_colour_and_differ_by_mark() -> None:
    rows = [{"name": f"vae {i}", "family": "vae"} for i in range(8)]
    found = signs([*rows, {"name": "gan", "family": "gan"}, *({"name": f"set {i}", "family": ""} for i in range(3))])
    assert {each.hue for each in found[:8]} == {sign("vae").hue}
    assert found[0] == sign("vae") and found[8] == sign("gan")
    assert len(set(found)) == len(found)
    assert {each.css for each in found[9:]} == {"elsewhere"}


@given(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=12, unique=True))
@settings(deadline=None, max_examples=100)
def test_a_family_from_outside_never_has_the_sign_of_one_that_is_built_in(names: list[str]) -> None:
    others = [sign(name) for name in names if name not in FAMILIES.built_in]
    assert not {sign(name) for name in FAMILIES.built_in} & set(others)
    assert all(each.hue is not None and each.hue < HUES for each in others)
