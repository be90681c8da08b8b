"""The report: numbers are written honestly, nothing a user named can break the page, and it needs nothing outside."""

from __future__ import annotations

import copy
import io
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from trilemma.images import save_png
from trilemma.report import render, table, write
from trilemma.report.calibration import Rung, _spread, ladder
from trilemma.report.figures import Point, Scale, curve, scatter, speed_scale, triangle, triangle_key
from trilemma.report.marks import ANSWER_MARKS, MARKERS, badge
from trilemma.report.scores import Score, compact, distance_name, error_text, leaders, number


def metric(value: float | None, error: float | None = None, better: str = "higher", **other: Any) -> dict[str, Any]:
    empty = {"unit": "", "n": 2000, "kind": None, "note": "", "flag": None}
    return {"value": value, "error": error, "better": better, **empty, **other}


def family(name: str, distance: float, kind: str | None) -> dict[str, Any]:
    bits = metric(1.23, 0.01, "lower", kind=kind, note=f"how {name} is scored")
    if kind is None:
        bits = metric(None, None, "lower", kind="undefined", note=f"{name} defines no density")
    return {
        "name": name,
        "title": f"The {name} family",
        "paper": "Somebody 2016, arXiv:1606.05328, and https://example.org/paper.",
        "density": "implicit",
        "gives_up": "something",
        "answers": {
            "sample": "yes, in one pass",
            "p(x)": "bound: an ELBO",
            "complete": "approximate",
            "classify": "no",
        },
        "parameters": 812_345,
        "config": {"model.width": 32},
        "options": {"steps": 50},
        "training": {
            "seconds": 75.1,
            "steps": 1200,
            "images": 76_800,
            "images_per_second": 1023.0,
            "curves": {"loss": [[i * 64, 1 / (i + 1)] for i in range(200)]},
            "alarms": ["it went slowly"],
        },
        "metrics": {
            "frechet": metric(distance, 0.3, "lower"),
            "precision": metric(0.712, 0.01),
            "coverage": metric(0.5, 0.01, note="k = 5, of all"),
            "nearest_training": metric(31.5, None, "none", unit="grey levels"),
            "train_closer": metric(0.5, 0.01, "none"),
            "images_per_second": metric(100 * distance, 2.0),
            "bits_per_dim": bits,
        },
        "pictures": {"samples": f"{name}/samples.png"},
    }


@pytest.fixture
def report() -> dict[str, Any]:
    floor = {"frechet": metric(3.1, 0.1, "lower"), "precision": metric(0.86, 0.01), "coverage": metric(0.96, 0.01)}
    return {
        "format": 1,
        "title": "A comparison",
        "created": "2026-11-22T15:04:05+00:00",
        "version": "0.1.0",
        "command": "trilemma compare mnist",
        "data": {
            "name": "mnist",
            "shape": [1, 28, 20],
            "levels": 256,
            "class_names": [str(i) for i in range(10)],
            "conditional": True,
            "train": 60_000,
            "test": 10_000,
            "notes": ["unchanged"],
        },
        "protocol": {
            "budget": "75s",
            "size": "tiny",
            "seed": 0,
            "n": 2000,
            "features": "small-v1",
            "dims": 128,
            "split": "the original one",
            "device": "cpu",
            "threads": 2,
            "hardware": "a computer",
        },
        "floor": floor,
        "pictures": {"real": "real.png"},
        "families": [family("one", 12.0, "exact"), family("two", 20.0, "bound"), family("three", 30.0, None)],
    }


class Page(HTMLParser):
    """Checks that tags nest, and gathers the text, the elements and every address that a browser would fetch."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert [tag] == self.open[-1:], f"</{tag}> closes nothing"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# ------------------------------------------------------------------------------------------------------ numbers


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
    assert f"{number(value, error)} {error_text(value, error)}" == written


@given(st.floats(-1e9, 1e9), st.one_of(st.none(), st.floats(1e-6, 1e9)))
@settings(deadline=None, max_examples=200)
def test_writing_a_number_loses_less_than_its_error(value: float, error: float | None) -> None:
    text = number(value, error).replace(",", "").replace("\N{MINUS SIGN}", "-")
    assert abs(float(text) - value) <= (0.5 * error if error else 0.0051 * abs(value)) + 5e-7 + 0.5 * (
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


def test_the_leader_and_what_is_not_told_apart_from_it() -> None:
    scores = [Score(0.70, 0.01, better="higher"), Score(0.72, 0.01, better="higher"), Score(0.6, 0.01, better="higher")]
    assert leaders(scores) == {0, 1}  # 0.02 apart, two standard errors of the difference are 0.028
    assert leaders([Score(5.0, better="lower"), Score(4.0, better="lower")]) == {1}
    assert leaders([Score(5.0, better="higher"), Score(4.0, better="higher")]) == {0}


def test_flagged_undefined_and_lonely_values_never_lead() -> None:
    good, other = Score(1.0, better="lower"), Score(2.0, better="lower")
    assert leaders([Score(0.1, better="lower", flag="N is small"), good, other]) == {1}
    assert leaders([Score(0.1, better="lower", kind="undefined"), good, other]) == {1}
    assert leaders([Score(None, better="lower"), good]) == set()
    assert leaders([Score(0.5, better="none"), Score(0.4, better="none")]) == set()


def test_only_inception_features_make_a_fid(report: dict[str, Any], tmp_path: Path) -> None:
    assert distance_name("small-v1") == "Fréchet distance"
    assert "FID" not in Page(render(report, tmp_path)).text
    report["protocol"]["features"] = "inception-2015-12-05/clean-fid"
    assert "FID" in Page(render(report, tmp_path)).text


# ------------------------------------------------------------------------------------------------------ drawings


def svg(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # raises where the markup is not well formed


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
    drawn = svg(triangle([1.0, 0.0, None], [0.5, None, None], 2, [True, False, False], "a <label>"))
    assert drawn.get("aria-label") == "a <label>"
    marks = [e for e in drawn.iter() if "marker" in (e.get("class") or "")]
    assert ["hollow" in (e.get("class") or "") for e in marks] == [True, False]

    def middle(element: ElementTree.Element) -> list[float]:
        points = [tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", element.get("d") or "")]
        return [sum(axis) / len(points) for axis in zip(*points, strict=True)]

    assert middle(marks[0]) == pytest.approx([110, 28], abs=0.1)  # the quality corner
    assert middle(marks[1]) == pytest.approx([110, 118], abs=0.1)  # zero is the centre
    assert "floor" in {e.get("class") for e in drawn.iter()}
    svg(triangle([None, None, None], [None, None, None], 0, [False] * 3, "nothing"))
    svg(triangle_key([0.86, 0.96, None], speed_scale([1.0, 1e6])))


def test_names_in_the_scatter_do_not_cover_each_other() -> None:
    points = [Point(i, f"family number {i}", 1000.0 * 1.05**i, 10.0 + 0.1 * i) for i in range(4)]
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
    drawn = svg(curve(points, "loss <x>", 1, 99))
    last = [e.text for e in drawn.iter() if e.get("class") == "last"]
    assert last == [number(float(points[-1][1] or 0))]


def test_a_start_off_the_scale_is_said() -> None:
    points = [[i, 1000.0 if i == 0 else 1.0 + i / 1e4] for i in range(1000)]
    assert "starts at 1,000" in curve(points, "nll", 0, 999)
    assert len(curve(points * 50, "nll", 0, 999)) < 20_000  # long logs are thinned
    assert curve([[0, None]], "nll", 0, 1) == ""


def test_sixteen_families_differ_by_marker_and_hue() -> None:
    assert len({badge(i) for i in range(16)}) == 16
    assert len(MARKERS) == 8


# ----------------------------------------------------------------------------------------------------- the page


def test_the_page_needs_nothing_from_outside(report: dict[str, Any], tmp_path: Path) -> None:
    save_png(torch.zeros(3, 9, 12, dtype=torch.uint8), tmp_path / "real.png")
    html = render(report, tmp_path)
    page = Page(html)
    assert not page.all("script")
    assert "@import" not in html
    assert "url(" not in html
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.all("img"))
    assert all((link["href"] or "").startswith("data:") for link in page.all("link"))
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))
    assert [(image["width"], image["height"]) for image in page.all("img")] == [("12", "9")]
    addresses = {a["href"] for a in page.all("a") if not (a["href"] or "").startswith("#")}
    assert addresses >= {"https://arxiv.org/abs/1606.05328", "https://example.org/paper"}
    assert all(re.fullmatch(r"https://(arxiv\.org/abs/[\d.]+|example\.org/paper)", a or "") for a in addresses)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    targets = {(a["href"] or "")[1:] for a in page.all("a") if (a["href"] or "").startswith("#")}
    assert len(ids) == len(set(ids))
    assert targets <= set(ids)


def test_every_string_is_escaped(report: dict[str, Any], tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script> \"& <b onload=x>"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {poison(k) if "." in k or k == "loss" or k == "p(x)" else k: poison(v) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return f"{value} {hostile}" if isinstance(value, str) else value

    spoilt = poison(copy.deepcopy(report))
    for scores in [spoilt["floor"], *(f["metrics"] for f in spoilt["families"])]:
        for entry in scores.values():  # words with a fixed meaning
            entry.update(better=entry["better"].split()[0], flag=hostile)
    page = Page(render(spoilt, tmp_path))
    assert not page.all("script")
    assert "onload" not in {k for _, attributes in page.elements for k in attributes}
    assert page.text.count("<script>alert('x')</script>") > 30
    Console(file=io.StringIO()).print(table(spoilt))


def test_values_kinds_reasons_and_flags_are_all_on_the_page(report: dict[str, Any], tmp_path: Path) -> None:
    report["families"][0]["metrics"]["precision"]["flag"] = "N is below 10 d"
    html = render(report, tmp_path)
    text = Page(html).text
    for said in (
        "not defined",
        "three defines no density",
        "N is below 10 d",
        "≤ 1.230",
        "how two is scored",
        "Here: k = 5, of all.",
        "20 \N{MULTIPLICATION SIGN} 28 pixels, grey",  # the shape is 28 high and 20 wide
        "75 seconds",
        "22 November 2026, 15:04 UTC",
    ):
        assert said in text
    assert "<strong>12.0</strong>" in html
    assert "<strong>20.0</strong>" not in html
    assert html.count("it went slowly") == 3
    for word in ANSWER_MARKS:
        assert f'<td class="{word}"' in html
    assert text.count("held-out real images 3.1") == 2  # the wide and the narrow drawing


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.parametrize("measured", [True, False])
def test_any_number_of_families_measured_or_not(
    report: dict[str, Any], tmp_path: Path, count: int, measured: bool
) -> None:
    report["families"] = [family(f"family-{i}", 10.0 + i, "exact") for i in range(count)]
    if not measured:
        report.update(floor={}, pictures={})
        for item in report["families"]:
            item["metrics"] = {key: metric(None, note="it broke") for key in item["metrics"]} if count < 9 else {}
            item["parameters"] = None  # as of a run that diverged before its first checkpoint
            item.update(pictures={}, options={}, config={})
            item["training"].update(curves={}, alarms=[], images_per_second=None)
    page = Page(render(report, tmp_path))
    assert len(page.all("article")) == count
    Console(file=io.StringIO()).print(table(report))


@pytest.mark.parametrize(("classes", "said"), [(3, ""), (10, "0 · 1 · 2"), (1000, "8 · 9.")])
def test_columns_are_named_where_they_are_classes(
    report: dict[str, Any], tmp_path: Path, classes: int, said: str
) -> None:
    report["data"]["class_names"] = [str(i) for i in range(classes)]
    text = Page(render(report, tmp_path)).text
    assert said in text
    assert ("Columns, from the left" in text) == (classes >= 10)
    report["data"]["conditional"] = False
    assert "Columns, from the left" not in Page(render(report, tmp_path)).text


def test_pictures_come_from_the_folder_alone_and_are_png(report: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "report"
    save_png(torch.zeros(1, 4, 4, dtype=torch.uint8), tmp_path / "outside.png")
    save_png(torch.zeros(1, 4, 4, dtype=torch.uint8), folder / "one" / "samples.png")
    save_png(torch.zeros(1, 4, 8, dtype=torch.uint8), folder / "one" / "neighbours.png")
    (folder / "two").mkdir()
    (folder / "two" / "samples.png").write_text("<svg onload=alert(1)>")
    report["pictures"]["real"] = "../outside.png"
    report["families"][0]["pictures"]["neighbours"] = "one/neighbours.png"
    report["floor"]["nearest_training"] = metric(30.0, None, "none", unit="grey levels")
    report["families"][2]["pictures"]["samples"] = str(tmp_path / "outside.png")
    page = Page(render(report, folder))
    assert len(page.all("img")) == 3  # the first family's samples, small and large, and its neighbours
    assert "Median distance 31.5 grey levels; of held-out real images 30.0." in page.text
    assert page.text.count("No sample grid") == 2


# ------------------------------------------------------------------------------------------------------ writing


def test_write_gives_strict_json_and_the_page(report: dict[str, Any], tmp_path: Path) -> None:
    report["data"]["class_names"] = ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "broken \udcff name"]
    path = write(report, tmp_path / "new" / "folder")
    assert path.name == "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((path.parent / "report.json").read_text()) == report
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(report, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    spoilt = copy.deepcopy(report)
    spoilt["families"][1]["metrics"]["recall"] = metric(float("nan"))
    with pytest.raises(ValueError, match=r"\['families'\]\[1\]\['metrics'\]\['recall'\]\['value'\]"):
        write(spoilt, tmp_path)
    with pytest.raises(ValueError, match="format 2"):
        render({**report, "format": 2}, tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write({**report, "title": "another"}, path.parent)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_terminal_table_fits_eighty_columns(report: dict[str, Any]) -> None:
    report["families"][0]["name"] = "[red]markup"
    out = io.StringIO()
    Console(file=out, width=80).print(table(report))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "[red]markup" in out.getvalue()
    assert "three defines no density" in out.getvalue()
    assert any("12.0" in line and "0.71" in line and "1.23" in line for line in lines)


# --------------------------------------------------------------------------------------------------- readability


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_both_themes_have_the_contrast_of_wcag_aa(theme: int) -> None:
    style = files("trilemma.report").joinpath("report.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    for ground in ("paper", "card"):
        for text in ("ink", "soft", "link", "yes", "bound", "approximate", "no"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for mark in [*(f"hue{i}" for i in range(8)), "strong-line"]:
            assert contrast(colours[mark], colours[ground]) >= 3, (mark, ground)
    assert contrast(colours["ink"], colours["calm"]) >= 4.5


# ------------------------------------------------------------------------------------- calibration and differences


def rungs(metrics: dict[str, list[float]]) -> list[dict[str, Any]]:
    found = []
    for name, strengths in (("noise", (8.0, 64.0)), ("jpeg", (50.0, 97.0)), ("dropped classes", (0.1, 0.9))):
        for i, strength in enumerate(strengths):
            text = (
                f"{round(10 * strength)} of 10 classes missing" if name == "dropped classes" else f"{name} {strength}"
            )
            values = {key: {"value": each[i], "error": 0.1} for key, each in metrics.items()}
            found.append({"name": name, "strength": strength, "text": text, "metrics": values})
    return found


def test_models_stand_on_the_scale_of_distorted_images(report: dict[str, Any], tmp_path: Path) -> None:
    assert "looks like" not in Page(render(report, tmp_path)).text
    report["ladder"] = rungs({"frechet": [5.0, 60.0], "precision": [0.9, 0.1]})
    save_png(torch.zeros(1, 6, 18, dtype=torch.uint8), tmp_path / "ladder" / "noise-8.png")
    report["ladder"][0]["picture"] = "ladder/noise-8.png"
    html = render(report, tmp_path)
    page = Page(html)
    assert "What a Fréchet distance looks like" in page.text
    assert len(page.all("image")) == 2  # the wide and the narrow drawing
    assert all((image["href"] or "").startswith("data:image/png;base64,") for image in page.all("image"))
    drawings = [svg(text) for text in re.findall(r'<svg class="scatter ladder".*?</svg>(?=</div>)', html, re.DOTALL)]
    assert len(drawings) == 4  # distance and precision
    for drawn in drawings:
        assert len([e for e in drawn.iter() if (e.get("class") or "") == "rung"]) == 6
        names = [e.text for e in drawn.iter() if (e.get("class") or "").startswith("name")]
        assert len(names) == 3
        assert "q 50" in {e.text for e in drawn.iter()}


def test_a_model_between_two_rungs_is_drawn_between_them() -> None:
    steps = [Rung("noise", "σ 8", "weak", 2.0), Rung("noise", "σ 64", "strong", 50.0)]
    drawn = svg(ladder(steps, [Point(0, "a model", 10.0, 0.0, 1.0)], 0.5, "Distance", "lower", 900))
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


def difference(a: str, b: str, real: bool, metric_name: str = "frechet", note: str = "") -> dict[str, Any]:
    p = 0.001 if real else 0.41
    return {
        "metric": metric_name, "a": a, "b": b, "difference": -8.0, "error": 5.0, "p": p, "real": real,
        "paired": False, "note": note,
    }  # fmt: skip


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


def test_what_the_likelihood_says_of_other_images_is_on_the_page(report: dict[str, Any], tmp_path: Path) -> None:
    assert "Does it know its own data?" not in render(report, tmp_path)
    report["families"][0]["ood"] = {
        "own": "digits",
        "other": "<coats>",
        "kind": "exact",
        "n": 500,
        "m": 400,
        "auroc": {"value": 0.321, "error": 0.011},
        "typicality": {"value": 0.9, "error": None},
        "verdict": "the model finds the other images MORE likely than its own kind",
    }
    page = render(report, tmp_path)
    for words in (
        "Does it know its own data?",
        "0.321 ± 0.011",
        "0.900;",
        "MORE likely",
        "&lt;coats&gt;",
        "400 images",
    ):
        assert words in page


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
