"""The report: nothing a user named can break the page, and it needs nothing outside."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from report_example import Page, contrast, example, family, metric
from rich.console import Console

from trilemma.images import save_png
from trilemma.report import render, table, write
from trilemma.report.marks import ANSWER_MARKS
from trilemma.report.page import POLICY


@pytest.fixture
def report() -> dict[str, Any]:
    return example()


# ----------------------------------------------------------------------------------------------------- the page


def test_the_page_needs_nothing_from_outside(report: dict[str, Any], tmp_path: Path) -> None:
    save_png(torch.zeros(3, 9, 12, dtype=torch.uint8), tmp_path / "real.png")
    html = render(report, tmp_path)
    page = Page(html)
    assert page.all("script") == [{}]  # one, which is inside and which the policy names by its hash
    policy = next(meta["content"] or "" for meta in page.all("meta") if meta.get("http-equiv"))
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*)", policy) == [f"'sha256-{digest}'"]
    assert policy == POLICY
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
    assert len(page.all("script")) == 1
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


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_both_themes_have_the_contrast_of_wcag_aa(theme: int) -> None:
    style = files("trilemma.report").joinpath("report.css").read_text(encoding="utf-8")
    block = re.findall(r":root(?:|:not\(.paper\)) \{(.*?)\}", style, re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    for ground in ("paper", "card"):
        for text in ("ink", "soft", "link", "yes", "bound", "approximate", "no"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for mark in [*(f"hue{i}" for i in range(8)), "strong-line"]:
            assert contrast(colours[mark], colours[ground]) >= 3, (mark, ground)
    assert contrast(colours["ink"], colours["calm"]) >= 4.5
