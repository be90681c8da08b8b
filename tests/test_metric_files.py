"""A metric is one file: what is built in says all of itself, and one outside the package is found like it."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs

import trilemma.metrics
from trilemma.data import load
from trilemma.evaluation import Measured, Protocol, Reference
from trilemma.evaluation.metric import Metric, choose, find, groups, metrics
from trilemma.evaluation.parts.fine_detail import FineDetail
from trilemma.evaluation.stream import Pool, Supply
from trilemma.evaluation.subject import Subject
from trilemma.number import Number

BRIGHTNESS = """
from trilemma.evaluation import Measured, Metric
from trilemma.metrics import mean_of
from trilemma.number import Number


class Brightness(Metric):
    name = "brightness"
    head = "Brightness"
    group = "looks"
    meaning = "Mean grey level of the images."
    misleads = "A grey wall is as bright as a face."
    source = "nobody"
    better = "higher"
    unit = "grey levels"

    def measure(self, of: Measured) -> Number:
        images = of.sample.images
        return self.number(lambda: mean_of(images.flatten(1).double().mean(1)), len(images), "over all channels")
"""

USED = """
import json, sys
from pathlib import Path
import trilemma
from trilemma.cli.evaluate import app, shown
from trilemma.report import table
from rich.console import Console

out = Path(sys.argv[1])
record = trilemma.evaluate("fresh.npz", "real.npz", protocol=trilemma.Protocol(n=40, metrics="looks"), out=out)
wide = Console(width=200, file=open(out / "shown.txt", "w", encoding="utf-8"))
wide.print(shown(record))
assert "`looks`: brightness" in app.help_epilogue
try:
    trilemma.Protocol(metrics="brigthness")
except ValueError as error:
    assert "brightness" in str(error), error
page = trilemma.compare(
    "real.npz", out=out / "report", families=["vae", "gan"], budget="2steps",
    protocol=trilemma.Protocol(n=40, metrics="mutual_fidelity,brightness", ladder="no"),
    settings={"batch": 16, "pictures": 0}, say=lambda line: None,
)
"""


def test_a_metric_of_one_file_outside_is_measured_listed_explained_and_shown(tmp_path: Path) -> None:
    (tmp_path / "brightness.py").write_text(BRIGHTNESS, encoding="utf-8")
    for name, count, seed in (("real", 300, 0), ("fresh", 40, 1)):
        np.savez(tmp_path / f"{name}.npz", images=blobs(count, seed=seed)[0])
    (tmp_path / "out").mkdir()
    environment = os.environ | {"TRILEMMA_PLUGINS": str(tmp_path / "brightness.py")}
    ran = subprocess.run(
        [sys.executable, "-c", USED, "out"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    record = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    number, floor = (record[part]["brightness"] for part in ("metrics", "floor"))
    assert set(record["metrics"]) == {"brightness"}
    assert number["value"] == pytest.approx(blobs(40, seed=1)[0].mean())
    assert (number["unit"], number["better"], number["n"]) == ("grey levels", "higher", 40)
    assert number["note"] == "Mean grey level of the images."
    assert number["error"] > 0 and floor["value"] > 0 and number["reading"]
    assert "Mean grey level of the images." in (tmp_path / "out" / "shown.txt").read_text("utf-8")
    page = (tmp_path / "out" / "report" / "report.html").read_text("utf-8")
    assert '<a href="#means-brightness">Brightness</a>' in page
    assert "Mean grey level of the images. <em>When it misleads:</em> A grey wall" in page
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text("utf-8"))
    assert any(difference["metric"] == "brightness" for difference in report["differences"])


def test_every_metric_says_all_of_itself() -> None:
    known = metrics()
    orders = [(metric.table, metric.order) for metric in known.values()]
    assert len(set(orders)) == len(orders), "two columns at one place"
    for metric in known.values():
        assert metric.needs and metric.group and metric.head and metric.source, metric.name
        if {"features"} & set(metric.needs):
            assert metric.needs == ("features",)  # and nothing else: it is measured of rungs and of classes too
        assert metric.better != "none" or metric.table != "first"
    counts = {group: len(each) for group, each in groups().items()}
    assert counts == {"fidelity": 12, "model": 3, "memorisation": 5, "captions": 3, "mixture": 5, "labelled": 7}
    assert all(metric.name in choose(metric.name) for metric in known.values())
    assert find("fid") is not None and find("fid").name == "frechet"  # type: ignore[union-attr]
    assert find("") is None


def test_the_pages_first_table_and_the_order_of_the_record() -> None:
    first = [metric.name for metric in metrics().values() if metric.table == "first"]
    assert first == [
        "frechet", "mutual_fidelity", "mutual_coverage", "bits_per_dim", "memorised", "images_per_second"
    ]  # fmt: skip
    assert list(metrics())[:6] == first
    second = [metric.name for metric in metrics().values() if metric.table == "second"]
    assert second == [
        "text_accuracy", "text_seen", "text_unseen", "mixture_modes", "high_quality", "mixture_kl", "density_kl",
        "ode_density_kl", "ode_bits_per_dim", "passed", "precision", "recall", "density", "coverage", "kernel",
        "frechet_infinity", "spaces", "fine_detail", "accuracy", "modes", "mode_kl", "cas", "stacked_modes",
        "stacked_kl", "authpct", "c_t", "train_closer", "nearest_training",
    ]  # fmt: skip


def test_two_metrics_of_one_name_are_refused() -> None:
    twin = type("Twin", (FineDetail,), {"name": "fine_detail"})
    with pytest.raises(ValueError, match="two metrics of the name 'fine_detail'"):
        metrics()
    del twin.name
    assert metrics()["fine_detail"].head == "Fine detail"


def test_fine_detail_is_lost_by_blur_and_refused_where_there_is_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", images=blobs(5000)[0])
    dataset = load(tmp_path / "real.npz", progress=False)
    reference = Reference.prepare(dataset, Protocol(n=60, reference=100), "cpu")
    images = reference.held_out_images

    def measured(shown: torch.Tensor, reference: Reference = reference) -> tuple[Number, dict[str, list[float]]]:
        drawn = Subject(Supply(len(shown), (1, 8, 8), lambda a, b: shown[a:b]), None, {})
        pool = Pool(len(shown), torch.empty(0), shown, reference.held_out.moments)
        of = Measured(reference, pool, drawn)
        return FineDetail().measure(of), FineDetail().record(of)["spectrum"]

    number, plain = measured(images)
    assert abs(number.known - 1) < 5 * (number.error or 0.0)
    assert len(plain["frequencies"]) == len(plain["power"]) == len(plain["real"]) == 4
    blurred = ((images.int() + images.int().roll(1, 3)) // 2).to(torch.uint8)
    assert measured(blurred)[0].known < 0.8 * number.known
    number, plain = measured(images[:, :, :2], replace(reference, memo={}))
    assert number.value is None
    assert "refused" in str(number.flag)
    assert plain == {}


def test_a_number_that_is_not_there_says_why() -> None:
    assert Number.read({"value": 2.0, "error": 0.5, "later": 1}) == Number(2.0, 0.5)
    assert Number.read(None) == Number(None)
    assert not Number.read({}).defined
    with pytest.raises(ValueError, match="there is no number here: too few images"):
        Number(None, note="too few images").known  # noqa: B018
    assert issubclass(FineDetail, Metric)


def test_no_circle_in_the_room_of_functions() -> None:
    """Imports inside functions count: a circle is one wherever it is closed."""
    room = Path(trilemma.metrics.__file__).parent
    imports = {
        path.stem: {
            node.module.rpartition(".")[2]
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trilemma.metrics.")
        }
        for path in room.glob("*.py")
        if path.stem != "__init__"
    }
    assert list(graphlib.TopologicalSorter(imports).static_order())
