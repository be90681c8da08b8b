"""Praise needs evidence: what is said of a score beside real images, and which scores are printed as the best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_example import example
from rich.console import Console

from trilemma.data import Dataset
from trilemma.evaluation import Number, Protocol, Reference, evaluate
from trilemma.evaluation.metric import read
from trilemma.evaluation.standing import breakers, leaders
from trilemma.report.summary import triangle
from trilemma.report.tables import comparison, table

HIGHER = ("precision", "recall", "density", "coverage", "accuracy")


def beside(name: str, value: float, error: float, floor: float, n: int = 2000, better: str | None = None) -> str:
    """What is said of a score with this error beside a floor with the same."""
    better = better or ("higher" if name in HIGHER else "none")
    score = Number(value, error, better=better, n=n)  # type: ignore[arg-type]
    return read(name, score, replace(score, value=floor), None).reading


@pytest.mark.parametrize(
    ("name", "value", "error", "floor", "words"),
    [
        # shown to be alike: the interval of the difference lies within the margin
        ("precision", 0.74, 0.01, 0.75, "as good as held-out real images, to within 10 %"),
        ("fine_detail", 0.99, 0.02, 1.0, "as sharp as held-out real images, to within 10 %"),
        ("nearest_training", 29.5, 0.4, 30.0, "as far as held-out images are, to within 10 %"),
        ("train_closer", 0.505, 0.01, 0.0, "as often as chance would have it, to within 0.05"),
        ("authpct", 55.0, 1.0, 55.5, "no fewer than among held-out images, to within 5 points"),
        # neither a difference nor its absence is shown
        ("precision", 0.58, 0.1, 0.70, "not distinguishable from held-out real images at N = 2,000"),
        ("recall", 0.70, 0.05, 0.70, "not distinguishable from held-out real images at N = 2,000"),
        ("fine_detail", 1.0, 0.2, 1.1, "not distinguishable from held-out real images at N = 2,000"),
        ("train_closer", 0.5, 0.1, 0.0, "not distinguishable from chance at N = 2,000"),
        ("authpct", 50.0, 10.0, 55.0, "not distinguishable from held-out images at N = 2,000"),
        ("nearest_training", 30.0, 5.0, 30.0, "not distinguishable from held-out images at N = 2,000"),
        ("c_t", -0.2, 0.3, 0.0, "not distinguishable from held-out images in how near they are to the training set"),
        ("memorised", 0.0, 0.001, 0.0, "no more near copies than by chance; fewer than 0.15 % cannot be seen"),
        # different
        ("precision", 0.45, 0.02, 0.9, "50 % of what held-out real images reach"),
        ("fine_detail", 0.4, 0.02, 1.0, "blurred: 40 % of the fine detail"),
        ("fine_detail", 3.0, 0.02, 1.0, "noise that real images have not"),
        ("authpct", 10.0, 1.0, 55.0, "fewer than among held-out images: copying"),
        ("authpct", 80.0, 1.0, 55.0, "no fewer than among held-out images"),
        ("nearest_training", 3.0, 0.1, 30.0, "nearer than held-out images are"),
        ("train_closer", 0.9, 0.02, 0.0, "more often than chance"),
        ("c_t", -9.0, 0.3, 0.0, "nearer to the training set than held-out images are: copying"),
        ("c_t", 9.0, 0.3, 0.0, "farther from the training set than held-out images are: no copying"),
        ("memorised", 0.1, 0.01, 0.0, "samples that are too near to be chance"),
        # above real images: a warning
        ("precision", 1.0, 0.01, 0.75, "above held-out real images, which is a warning and no win: samples crowd"),
        ("density", 2.5, 0.05, 1.0, "above held-out real images, which is a warning and no win: samples crowd"),
        ("recall", 1.0, 0.01, 0.75, "above held-out real images, which is a warning and no win: a few outlying"),
    ],
)
def test_numbers_are_put_into_words(name: str, value: float, error: float, floor: float, words: str) -> None:
    assert beside(name, value, error, floor).startswith(words)


def test_fewer_images_earn_no_praise() -> None:
    for n, praised in ((4, False), (30, False), (300, True)):
        for name in ("precision", "fine_detail", "nearest_training", "train_closer"):
            value = 0.5 if name == "train_closer" else 0.9
            said = beside(name, value, 0.001, 0.9, n)
            assert said.startswith("as ") == praised, (name, n, said)
            assert praised or said.startswith("not distinguishable")
            assert praised or said.endswith(f"at N = {n}")


def test_a_distance_is_alike_within_the_mildest_rung_alone() -> None:
    rungs = [{"text": "blur, 0.5", "metrics": {"frechet": {"value": 1.5}}}]
    floor = Number(1.0, 0.05, better="lower", n=300)
    said = {e: read("frechet", replace(floor, value=1.1, error=e), floor, rungs).reading for e in (0.05, 0.5, 0.001)}
    assert said[0.05] == "as near as held-out real images, nearer than real images with blur 0.5"
    assert said[0.5] == "not distinguishable from held-out real images at N = 300"
    assert read("frechet", replace(floor, value=0.2), floor, rungs).reading.startswith("below held-out real images")
    assert read("kid", Number(0.0, 1e-4, better="lower", n=300), Number(1e-5, 1e-4, n=300), None).reading == (
        "not distinguishable from held-out real images at N = 300"
    )
    unknown = read("frechet", Number(1.1, None, better="lower", n=300), floor, rungs).reading
    assert unknown == "nearer than real images with blur 0.5 (1.5)"


def test_a_few_images_most_of_them_copies_are_not_praised(tmp_path: Path, blobs_data: Dataset) -> None:
    protocol = Protocol(n=16, reference=0, ladder="no", metrics="default,memorisation")
    real = Reference.prepare(blobs_data, protocol, "cpu")
    few = blobs_data.batch(np.concatenate([blobs_data.train[:12], blobs_data.test[:4]]))
    np.savez(tmp_path / "four.npz", images=few[8:12].permute(0, 2, 3, 1).numpy())
    for subject in (few, tmp_path / "four.npz"):
        metrics = evaluate(subject, real, device="cpu")["metrics"]
        readings = [metric["reading"] for metric in metrics.values() if metric["reading"]]
        assert readings
        assert not [said for said in readings if said.startswith("as ")], readings


# ------------------------------------------------------------------------------------------------------- the best


def scores(*values: float, error: float = 0.01, better: str = "higher") -> list[Number]:
    return [Number(value, error, better=better, n=1000) for value in values]


def test_the_leader_and_what_is_not_told_apart_from_it() -> None:
    assert leaders(scores(0.70, 0.72, 0.6)) == {0, 1}  # 0.02 apart, two standard errors of the difference are 0.028
    assert leaders([Number(5.0, better="lower"), Number(4.0, better="lower")]) == {1}
    assert leaders([Number(5.0, better="higher"), Number(4.0, better="higher")]) == {0}
    assert leaders(scores(0.2, 0.9, 0.5), lambda i, j: False) == set()  # tested, and not told apart


def test_flagged_undefined_and_lonely_values_never_lead() -> None:
    good, other = Number(1.0, better="lower"), Number(2.0, better="lower")
    assert leaders([Number(0.1, better="lower", flag="N is small"), good, other]) == {1}
    assert leaders([Number(0.1, better="lower", kind="undefined"), good, other]) == {1}
    assert leaders([Number(None, better="lower"), good]) == set()
    assert leaders([Number(0.5, better="none"), Number(0.4, better="none")]) == set()


def test_no_column_has_a_winner_that_has_won_nothing() -> None:
    real = Number(0.75, 0.01, better="higher", n=1000)
    assert leaders(scores(0.70, 0.70, 0.70), floor=real) == set()  # nobody is beaten
    assert leaders(scores(*7 * [0.0]), floor=real) == leaders(scores(*7 * [0.0])) == set()
    assert leaders(scores(0.03, 0.0, 0.0, error=0.001), floor=real) == set()  # told apart, but at the bottom
    assert leaders(scores(0.3, 0.0, 0.0, error=0.001), floor=real) == {0}
    assert leaders(scores(0.99, 0.95), floor=real) == set()  # both above real images
    assert leaders(scores(1.00, 0.60, 0.30), floor=real) == {1}  # the first is a warning
    assert leaders(scores(0.76, 0.60), floor=real) == {0}  # within two errors of the floor
    near = Number(5.0, 0.1, better="lower", n=1000)
    assert leaders(scores(1.0, 6.0, 9.0, error=0.1, better="lower"), floor=near) == {1}  # nearer than real: copies
    assert leaders(scores(6.0, 9.0, error=0.1, better="lower"), floor=near) == {0}


def test_the_tables_warn_where_a_score_is_above_real_images() -> None:
    report: dict[str, Any] = example()
    for family, precision in zip(report["families"], (0.999, 0.4, 0.3), strict=False):
        family["metrics"]["precision"] = {"value": precision, "error": 0.01, "better": "higher", "n": 1000}
        family["metrics"]["frechet"] = {"value": 5 * precision - 1, "error": 0.1, "better": "lower", "n": 1000}
        family["metrics"]["recall"] = {"value": 0.0, "error": 0.001, "better": "higher", "n": 1000}
    report["floor"] |= {"precision": {"value": 0.86, "error": 0.01, "better": "higher", "n": 1000}}
    html = comparison(report)
    assert "<strong>0.99" not in html and "<strong>0.000" not in html
    assert "<strong>0.40" in html
    assert html.count('<span class="flag">warning') == 3  # of the highest precision and the two lowest distances
    assert "a warning and no win" in html
    console = Console(width=160)
    with console.capture() as printed:
        console.print(table(report))
    assert "a warning and no win" in printed.get()


# The triangle


def corners(*rows: tuple[float, float, float]) -> list[list[Number]]:
    """Quality, coverage and images a second of rows, with errors of 0.02, 0.02 and 5 %."""
    share = [[Number(row[k], 0.02, better="higher", n=1000) for row in rows] for k in (0, 1)]
    return [*share, [Number(row[2], 0.05 * row[2], better="higher") for row in rows]]


@pytest.mark.parametrize(
    ("first", "wanted"),
    [
        ((0.93, 0.90, 250.0), {0}),  # as good as the slow one, a quarter of the speed of the fast one
        ((0.88, 0.90, 250.0), {0}),  # 0.05 below the slow one is within two errors of the difference
        ((0.86, 0.90, 250.0), set()),  # 0.07 is not
        ((0.93, 0.83, 250.0), set()),
        ((0.93, 0.90, 105.0), set()),  # a tenth of the fastest, but not surely
        ((0.93, 0.90, 25.0), set()),
    ],
)
def test_who_breaks_the_triangle(first: tuple[float, float, float], wanted: set[int]) -> None:
    slow, fast = (0.93, 0.90, 5.0), (0.5, 0.3, 1000.0)
    assert breakers(corners(first, slow, fast), [None, None]) == wanted


def test_nobody_breaks_the_triangle_by_default() -> None:
    """With two rows, where the best are far from real images, with a flag, and by a difference that was tested."""
    good, slow, fast = (0.93, 0.90, 250.0), (0.93, 0.90, 5.0), (0.5, 0.3, 1000.0)
    assert not breakers(corners(good, fast), [None, None])
    assert not breakers(corners((0.76, 0.76, 250.0), (0.6, 0.5, 5.0), fast), [None, None])
    scores = corners(good, slow, fast)
    scores[0][0] = replace(scores[0][0], flag="few images")
    assert not breakers(scores, [None, None])
    scores = corners(good, (0.94, 0.90, 5.0), fast)
    assert breakers(scores, [None, None]) == {0}
    assert not breakers(scores, [lambda i, j: True, None])


def test_the_page_says_who_breaks_it_or_that_none_does() -> None:
    report = example()
    families = [dict(report["families"][0]) for _ in range(3)]
    names = ("mutual_fidelity", "mutual_coverage", "images_per_second")
    for i, row in enumerate(((0.93, 0.90, 250.0), (0.93, 0.90, 5.0), (0.5, 0.3, 1000.0))):
        told = zip(names, row, (0.02, 0.02, 0.05 * row[2]), strict=True)
        scores = {name: {"value": v, "error": e, "better": "higher"} for name, v, e in told}
        families[i] |= {"metrics": scores, "title": "ABC"[i], "name": "abc"[i]}
    told = triangle(report | {"families": families, "differences": []})
    assert told.startswith("A breaks the triangle: surely above 75 % of held-out images in fidelity and coverage")
    families[0]["metrics"]["images_per_second"]["value"] = 20.0
    assert triangle(report | {"families": families, "differences": []}) == "No family breaks the triangle."
