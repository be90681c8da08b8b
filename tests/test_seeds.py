"""Several training seeds: the pooled record, the rule of differences by simulation, and a comparison of them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from conftest import write_blobs
from report_example import valid
from scipy import stats
from tiny import call

from trilemma.comparison import Past, compare
from trilemma.evaluation.difference import differences
from trilemma.evaluation.seeds import pooled
from trilemma.metrics.student import two_sided


def record(value: float | None, error: float | None = 0.1, **more: Any) -> dict[str, Any]:
    score = {"value": value, "error": error, "better": "lower", "flag": more.pop("flag", None), "kind": None, "n": 100}
    return {"metrics": {"frechet": score}, "flags": [], "per_image": {}, "floor": {}, "ladder": None, **more}


@pytest.mark.parametrize("t", [0.0, 0.1, 1.0, 2.5, 7.0, 40.0])
@pytest.mark.parametrize("freedom", [1.0, 1.3, 2.0, 3.7, 10.0, 400.0])
def test_p_values_of_students_law(t: float, freedom: float) -> None:
    assert two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9)
    assert two_sided(-t, freedom) == two_sided(t, freedom)
    assert two_sided(t) == pytest.approx(2 * stats.norm.sf(t), rel=1e-9)


# One record of several


def test_the_mean_over_seeds_has_both_errors() -> None:
    found = pooled({0: record(10.0, 0.3), 1: record(12.0, 0.4), 2: record(14.0, 0.5)})["metrics"]["frechet"]
    assert found["value"] == 12.0
    assert found["seeds"] == {
        "of": [0, 1, 2], "values": [10.0, 12.0, 14.0], "spread": 2.0,
        "images": pytest.approx(math.sqrt((0.09 + 0.16 + 0.25) / 3)), "error": pytest.approx(2 / math.sqrt(3)),
    }  # fmt: skip
    assert found["error"] == pytest.approx(math.hypot(found["seeds"]["images"], found["seeds"]["error"]))
    assert "mean of 3 training seeds" in found["protocol"]


def test_one_seed_is_what_it_is() -> None:
    assert pooled({0: record(10.0)}) == record(10.0)
    assert pooled({0: {}, 1: record(10.0)}) == record(10.0)  # the other broke down
    assert pooled({0: {}}) == {}


def test_a_seed_that_is_flagged_or_has_no_value_is_not_hidden() -> None:
    flagged = pooled({0: record(1.0), 7: record(2.0, flag="all samples are the same image")})["metrics"]["frechet"]
    assert flagged["flag"] == "seed 7: all samples are the same image"
    missing = pooled({0: record(1.0), 7: record(None)})["metrics"]["frechet"]
    assert (missing["value"], missing["flag"]) == (None, "no value for seed 7")
    suspicious = {0: record(1.0), 1: record(1.0) | {"flags": ["copies"]}}
    assert pooled(suspicious)["flags"] == ["seed 1: copies"]


def test_values_of_the_same_images_are_means_over_the_seeds() -> None:
    one, other = (record(1.0) | {"per_image": {"bits_per_dim": values}} for values in ([1.0, 2.0], [3.0, 6.0]))
    assert pooled({0: one, 1: other})["per_image"] == {"bits_per_dim": [2.0, 4.0]}


# The rule


def recipes(
    generator: random.Random, count: int, seeds: int, spreads: tuple[float, ...], together: float, gap: float = 0.0
) -> dict[str, Any]:
    """Scores of recipes whose error over images is 1, of which a share is the same for all seeds of a recipe."""
    scores = {}
    for model in range(count):
        common = generator.gauss(0, 1)
        values = [
            gap * (model == 0)
            + generator.gauss(0, spreads[model % len(spreads)])
            + math.sqrt(together) * common
            + math.sqrt(1 - together) * generator.gauss(0, 1)
            for _ in range(seeds)
        ]
        scores[str(model)] = pooled({i: record(value, 1.0) for i, value in enumerate(values)})["metrics"]["frechet"]
    return scores


@pytest.mark.parametrize("together", [0.0, 1.0])
@pytest.mark.parametrize("spreads", [(0.0,), (1.0,), (5.0,), (5.0, 1.0), (30.0,)])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_recipes_are_told_apart_in_one_of_twenty_comparisons(
    seeds: int, spreads: tuple[float, ...], together: float
) -> None:
    """Whatever the spread over seeds beside the error over images, and whether seeds err together or not."""
    generator = random.Random(1)
    for count in (2, 4):
        alarms = sum(
            any(d.real for d in differences("frechet", recipes(generator, count, seeds, spreads, together)))
            for _ in range(400)
        )
        assert alarms / 400 <= 0.085  # 5 % and three standard errors of 400 comparisons


def test_by_images_alone_equal_recipes_are_told_apart_nearly_always_and_real_differences_are_still_found() -> None:
    generator = random.Random(2)
    rounds = [recipes(generator, 2, 3, (10.0,), 0.0) for _ in range(200)]
    alone = [{k: {**v, "seeds": None, "error": 1.0} for k, v in scores.items()} for scores in rounds]
    assert sum(differences("frechet", scores)[0].real for scores in alone) > 100
    assert sum(differences("frechet", scores)[0].real for scores in rounds) < 20
    far = [recipes(generator, 2, 3, (10.0,), 0.0, gap=60.0) for _ in range(200)]
    assert sum(differences("frechet", scores)[0].real for scores in far) > 150


def test_the_parts_of_the_error_by_hand() -> None:
    a, b = (pooled({i: record(v, 3.0) for i, v in enumerate(values)})["metrics"]["frechet"] for values in (
        [10.0, 12.0, 14.0], [20.0, 21.0, 22.0],
    ))  # fmt: skip
    (found,) = differences("frechet", {"a": a, "b": b})
    seeds = stdev([10, 12, 14]) ** 2 / 3 + stdev([20, 21, 22]) ** 2 / 3
    assert found.images == pytest.approx(math.sqrt(18))
    assert found.seeds == pytest.approx(math.sqrt(seeds))
    assert found.error == pytest.approx(math.sqrt(18 + seeds))
    assert found.freedom == pytest.approx(stats.ttest_ind([10, 12, 14], [20, 21, 22], equal_var=False).df)
    once = record(5.0)["metrics"]["frechet"]
    (mixed,) = differences("frechet", {"a": a, "once": once})
    assert "once was trained once" in mixed.note
    assert mixed.freedom == pytest.approx(2.0)
    (neither,) = differences("frechet", {"once": once, "other": record(5.1)["metrics"]["frechet"]})
    assert (neither.seeds, neither.freedom, neither.note) == (None, None, "")


# The comparison


def made(out: Path, data: Path | None, **more: Any) -> dict[str, Any]:
    settings = dict(batch=16, precision="fp32", pictures=0) if data else None
    families = more.pop("families", "autoencoder")
    page = compare(
        data, out=out, families=families, budget="4steps" if data else None, device="cpu", say=lambda line: None,
        protocol=dict(n=32, metrics="kernel,bits_per_dim", ladder="no", likelihood_n=16) if data else None,
        settings=settings, **more,
    )  # fmt: skip
    return valid(json.loads(page.with_suffix(".json").read_text("utf-8")))


def test_a_comparison_of_several_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_blobs(tmp_path / "blobs.npz"), tmp_path / "out"
    report = made(out, data, seeds=2)
    (row,) = report["families"]
    assert (row["name"], [each["seed"] for each in row["seeds"]]) == ("autoencoder", [0, 1])
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["autoencoder", "autoencoder-seed-1"]
    values = [each["metrics"]["kernel"]["value"] for each in row["seeds"]]
    assert values[0] != values[1]
    assert row["metrics"]["kernel"]["value"] == pytest.approx(fmean(values))
    assert row["metrics"]["kernel"]["seeds"]["values"] == values
    assert "Over training seeds" in (out / "report.html").read_text("utf-8")
    # another seed and another family: what is there is taken, and what is new has as many seeds
    begun = {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}
    measured = {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.json")}
    report = made(out, None, runs=[out], seeds=3, families="")
    assert [each["seed"] for each in report["families"][0]["seeds"]] == [0, 1, 2]
    assert all(path.stat().st_mtime_ns == then for path, then in (begun | measured).items())
    report = made(out, None, runs=[out], families="gan")
    assert {row["name"]: len(row["seeds"]) for row in report["families"]} == {"autoencoder": 3, "gan": 3}
    assert {d["freedom"] is not None for d in report["differences"]} == {True}
    assert Past.open(out).seeds == 3
    code, shown, _ = call(capsys, "report", out)
    assert code == 0
    assert "Traceback" not in shown


def test_seeds_that_cannot_be(tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "blobs.npz")
    with pytest.raises(ValueError, match="seeds must be from 1 to 100, not 0"):
        made(tmp_path / "out", data, seeds=0)
