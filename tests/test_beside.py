"""Runs, past comparisons and images from anywhere on one page, without training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blobs, write_blobs
from report_example import valid
from tiny import call

import trilemma
from trilemma.comparison import Past, compare, rebuild, rows
from trilemma.data import load
from trilemma.evaluation import Protocol, Reference, evaluate
from trilemma.report import overview
from trilemma.report.scores import axes_of, read
from trilemma.run import Run
from trilemma.training import train

QUICK = Protocol(n=32, reference=0, metrics="mutual_fidelity,mutual_coverage,frechet,images_per_second", ladder="no")
SETTINGS = {"batch": 16, "pictures": 0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two VAEs that differ in their seed, a conditional GAN, and fresh images of the same law."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRILEMMA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        data = load(write_blobs(folder / "data.npz"), progress=False)
        for name, family, seed in (("a/vae", "vae", 0), ("b/vae", "vae", 1), ("a/gan", "gan", 0)):
            train(
                family, data, out=folder / name, budget="2steps", seed=seed, settings=SETTINGS,
                conditional=family == "gan", say=lambda line: None,
            )  # fmt: skip
        np.savez(folder / "fresh.npz", images=blobs(40, seed=5)[0])
        yield folder


def report_of(page: Path) -> dict[str, Any]:
    return valid(json.loads(page.with_suffix(".json").read_text()))


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def never(*arguments: object, **more: object) -> None:
    raise AssertionError("measured again")


def test_runs_and_images_stand_on_one_page_as_evaluate_scores_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(home / "a") | files(home / "b")
    arguments: dict[str, Any] = {
        "runs": [home / "a" / "vae", str(home / "b" / "vae"), Run.open(home / "a" / "gan")],
        "samples": {
            "mine <b>": home / "fresh.npz",
            "mine -b-": str(home / "fresh.npz"),
            "noise": np.random.default_rng(0).random((32, 8, 8)),
        },
        "protocol": QUICK,
        "out": tmp_path / "page",
        "say": lambda line: None,
    }
    page = compare(**arguments)
    report = report_of(page)
    assert files(home / "a") | files(home / "b") == before  # nothing is written where the runs are
    names = [entry["name"] for entry in report["families"]]
    assert names == ["a/vae", "b/vae", "gan", "mine <b>", "mine -b-", "noise"]
    assert len({entry["place"] for entry in report["families"]}) == 6
    assert report["protocol"]["budget"] is None and not report["data"]["conditional"]
    # the same numbers as from `evaluate`, which knows nothing of comparisons
    real = Reference.prepare(load(home / "data.npz", progress=False), QUICK, "cpu")
    for name, subject in (("b/vae", home / "b" / "vae"), ("mine <b>", home / "fresh.npz")):
        entry = next(entry for entry in report["families"] if entry["name"] == name)
        alone = evaluate(subject, real, device="cpu", out=tmp_path / "alone")["metrics"]
        for key in ("mutual_fidelity", "frechet"):
            assert entry["metrics"][key]["value"] == alone[key]["value"]
    text = page.read_text()
    assert (
        "Three trained models and three sets of images" in text and "mine &lt;b&gt;" in text and "mine <b>" not in text
    )
    assert "None trained" not in text and "for None" not in text and "After None" not in text
    # again: all of it is there, for the images in memory too; another protocol is another evaluation
    monkeypatch.setattr(rows, "evaluate", never)
    assert report_of(compare(**arguments))["families"] == report["families"]
    with pytest.raises(AssertionError, match="measured again"):
        compare(**(arguments | {"protocol": replace(QUICK, seed=1)}))
    changed = np.random.default_rng(1).random((32, 8, 8))
    with pytest.raises(AssertionError, match="measured again"):
        compare(**(arguments | {"samples": {"noise": changed}}))


def test_the_evaluation_of_a_run_is_taken_where_it_lies_if_it_is_the_same(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "a" / "vae", tmp_path / "vae")
    made = evaluate(tmp_path / "vae", protocol=QUICK, device="cpu")
    monkeypatch.setattr(rows, "evaluate", never)
    page = compare(runs=[tmp_path / "vae"], protocol=QUICK, out=tmp_path / "page", device="cpu")
    entry = report_of(page)["families"][0]
    assert entry["metrics"] == made["metrics"]
    assert (tmp_path / "page" / entry["pictures"]["samples"]).is_file()  # the page's folder holds all it shows
    # drawn with other options, it says nothing of the run as it is
    record = json.loads((tmp_path / "vae" / "metrics.json").read_text())
    record["subject"]["options"] = {"steps": 3}
    (tmp_path / "vae" / "metrics.json").write_text(json.dumps(record))
    with pytest.raises(AssertionError, match="measured again"):
        compare(runs=[tmp_path / "vae"], protocol=QUICK, out=tmp_path / "other", device="cpu")


def test_a_comparison_is_extended_by_a_family_and_by_a_seed_wherever_it_lies(home: Path, tmp_path: Path) -> None:
    first: dict[str, Any] = {"budget": "2steps", "settings": SETTINGS, "protocol": QUICK, "say": lambda line: None}
    compare(home / "data.npz", families="vae", conditional=True, out=tmp_path / "was", **first)
    (tmp_path / "was").rename(tmp_path / "c")
    evaluated = (tmp_path / "c" / "vae" / "metrics.json").stat().st_mtime_ns
    page = compare(runs=[tmp_path / "c"], families="gan", say=lambda line: None)
    report = report_of(page)
    assert page.parent == tmp_path / "c" and [entry["name"] for entry in report["families"]] == ["vae", "gan"]
    assert report["protocol"]["budget"] == "2steps" and report["protocol"]["n"] == 32 and report["data"]["conditional"]
    assert Run.open(tmp_path / "c" / "gan").config.spec.classes == 3
    assert (tmp_path / "c" / "vae" / "metrics.json").stat().st_mtime_ns == evaluated
    page = compare(runs=tmp_path / "c", families="vae", seed=1, say=lambda line: None)
    report = report_of(page)
    assert [entry["name"] for entry in report["families"]] == ["vae", "gan", "vae-seed-1"]
    assert [entry["seed"] for entry in report["families"]] == [0, 0, 1]
    assert report["families"][2]["title"].endswith("(seed 1)")
    assert Past.open(tmp_path / "c").protocol == QUICK
    # further on in the same place: its row is not doubled, and the others have had less
    page = compare(runs=tmp_path / "c", families="vae", budget="3steps", say=lambda line: None)
    report = report_of(page)
    assert [entry["training"]["steps"] for entry in report["families"]] == [3, 2, 2]
    assert report["protocol"]["budget"] is None
    # trained anew in another folder, beside the same family of the first
    page = compare(runs=[tmp_path / "c"], families="gan", out=tmp_path / "e", say=lambda line: None)
    names = [entry["name"] for entry in report_of(page)["families"]]
    assert names == ["vae", "gan", "vae-seed-1", "gan (2)"] and (tmp_path / "e" / "gan" / "config.json").is_file()
    # with images beside, in another folder, and opened from there
    samples = {"mine": str(home / "fresh.npz")}
    page = compare(runs=[tmp_path / "c"], samples=samples, out=tmp_path / "d", say=lambda line: None)
    again = compare(runs=[tmp_path / "d"], say=lambda line: None)
    names = [entry["name"] for entry in report_of(again)["families"]]
    assert page == again and names == ["vae", "gan", "vae-seed-1", "mine"]


def test_a_page_is_written_anew_and_an_older_record_is_understood(home: Path, tmp_path: Path) -> None:
    page = compare(runs=[home / "a"], protocol=QUICK, out=tmp_path / "c", say=lambda line: None)
    report, text = report_of(page), page.read_text()
    assert [entry["name"] for entry in report["families"]] == ["gan", "vae"]  # a folder of runs
    page.unlink()
    assert rebuild(tmp_path / "c").read_text() == text
    del report["recipe"]
    for entry in report["families"]:
        del entry["place"], entry["family"], entry["seed"]
    page.with_suffix(".json").write_text(json.dumps(report))
    past = Past.open(tmp_path / "c")
    assert past.protocol == QUICK and past.data is not None and past.data.source == str(home / "data.npz")
    assert [row.run.path for row in past.rows if row.run] == [home / "a" / "gan", home / "a" / "vae"]
    assert rebuild(tmp_path / "c").is_file()


def test_the_overview_says_what_the_page_says(home: Path, tmp_path: Path) -> None:
    samples = {"mine": home / "fresh.npz"}
    page = compare(runs=[home / "a" / "vae"], samples=samples, protocol=QUICK, out=tmp_path, say=lambda line: None)
    report, found = report_of(page), overview(tmp_path)
    assert trilemma.overview(str(tmp_path)) == found
    assert set(found.axes) == {"quality", "coverage", "speed"} == set(axes_of(report).values())
    for row, entry in zip(found.rows, report["families"], strict=True):
        assert row.title in page.read_text() and row.sentence in page.read_text()
        for axis, mark in row.marks.items():
            assert mark.number == read(entry["metrics"], found.axes[axis])
        assert row.pictures["samples"].is_file()
    fast, images = found.rows
    assert fast.marks["speed"].share is not None and 0 < fast.marks["speed"].share < 1
    assert images.run is None and images.marks["speed"].share is None and images.marks["quality"].share is not None
    assert found.floor["quality"].number.value == 1 and "speed" not in found.floor
    assert all(sentence in page.read_text() for sentence in found.verdict.split(". "))
    page.with_suffix(".json").write_text("{}")
    with pytest.raises(ValueError, match="format"):
        overview(tmp_path)


def test_what_cannot_be_put_side_by_side_is_refused_in_a_line(home: Path, tmp_path: Path) -> None:
    write_blobs(tmp_path / "large.npz", 40, height=12, width=12)
    write_blobs(tmp_path / "other.npz", 40)
    for name in ("large", "other"):
        train(
            "vae", str(tmp_path / f"{name}.npz"), out=tmp_path / name, budget="1steps", settings=SETTINGS,
            say=lambda line: None,
        )  # fmt: skip
    vae = home / "a" / "vae"
    for arguments, words in (
        ({"samples": {"mine": home / "fresh.npz"}}, "--against"),
        ({"runs": [vae, tmp_path / "other"]}, "--against"),
        ({"runs": [vae, tmp_path / "large"], "against": home / "data.npz"}, "like with like"),
        ({"runs": [home / "nowhere"]}, "not a run folder"),
        ({"runs": [vae], "budget": "2m"}, "--families"),
        ({"runs": [vae], "data": "mnist", "against": "mnist"}, "twice"),
        ({"runs": [vae], "out": home / "data.npz"}, "is a file"),
        ({"runs": [vae], "families": "vea"}, "unknown family"),
    ):
        with pytest.raises(ValueError, match=words) as refused:
            compare(**({"out": tmp_path / "page", "protocol": QUICK} | arguments))  # type: ignore[arg-type]
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="out="):
        compare(runs=[vae])
    assert not (tmp_path / "page").exists()


def test_the_command_takes_runs_as_they_are_typed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("-n", 32, "--metrics", QUICK.metrics, "--ladder", "no", "--reference", 0, "--device", "cpu")
    page, named = tmp_path / "page", f"mine={home / 'fresh.npz'}"
    code, out, err = call(capsys, "compare", home / "a" / "vae", home / "b" / "vae", "--out", page, *quick)
    assert code == 0 and "a/vae" in out, err
    code, out, err = call(
        capsys, "compare", "--runs", f"good={home / 'a' / 'vae'}", home / "a" / "gan",
        "--samples", named, home / "fresh.npz", "--against", home / "data.npz", "--out", tmp_path / "two", *quick,
    )  # fmt: skip
    assert code == 0, err
    names = [entry["name"] for entry in report_of(tmp_path / "two" / "report.html")["families"]]
    assert names == ["good", "gan", "mine", "fresh"]
    (page / "report.html").unlink()
    code, out, err = call(capsys, "report", page)
    assert code == 0 and "b/vae" in out and (page / "report.html").is_file(), err
    for words, told in (
        (("compare", home / "data.npz", home / "fresh.npz", "--out", page), "one data set"),
        (("compare", home / "a" / "vae", "--samples", "=x"), "NAME=SOURCE"),
        (("report", home), "holds no comparison"),
        (("compare", "--samples", named), "--against"),
    ):
        code, out, err = call(capsys, *words)
        assert code == 1 and told in err and err.count("\n") == 1, err
