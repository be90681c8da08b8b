"""Which arithmetic is quicker here: timed once, remembered, recorded in a run, and the same for every process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import trilemma
from trilemma import machine
from trilemma.data import Dataset
from trilemma.machine import autocast
from trilemma.metrics import classifier
from trilemma.run import Run
from trilemma.training import train

CPU = torch.device("cpu")
SMALL = {"batch": 8, "pictures": 0, "warmup": 2, "anneal": 0.0}
"""A rate that does not depend on the budget, so that runs of different budgets begin alike."""


@pytest.fixture(autouse=True)
def _forgotten(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_chosen", {})


def say_times(monkeypatch: pytest.MonkeyPatch, bf16: float, fp32: float) -> list[torch.device]:
    """Let this be a fresh process on a machine that takes so long; the list grows by one with each timing."""
    asked: list[torch.device] = []

    def times(device: torch.device) -> dict[str, float]:
        asked.append(device)
        return {"bf16": bf16, "fp32": fp32}

    monkeypatch.setattr(machine, "times", times)
    monkeypatch.setattr(machine, "_chosen", {})
    return asked


@pytest.mark.parametrize(("bf16", "choice"), [(0.4, "bf16"), (0.79, "bf16"), (0.95, "fp32"), (8.0, "fp32")])
def test_bf16_is_chosen_with_a_clear_margin_alone(bf16: float, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    say_times(monkeypatch, bf16, 1.0)
    assert machine.quicker(CPU) == choice
    for precision, wanted in (("auto", choice == "bf16"), ("bf16", True), ("fp32", False)):
        with autocast(CPU, precision):
            assert torch.is_autocast_enabled("cpu") == wanted


def test_it_is_timed_once_and_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)  # the tests themselves may run as on another machine
    asked = say_times(monkeypatch, 0.4, 1.0)
    assert [machine.quicker(CPU) for _ in range(3)] == ["bf16"] * 3
    assert len(asked) == 1
    asked = say_times(monkeypatch, 9.0, 1.0)  # another process, at a bad moment
    assert machine.quicker(CPU) == "bf16" and not asked
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # another machine, as far as speed goes
    assert machine.quicker(CPU) == "fp32" and len(asked) == 1
    assert len(json.loads((cache / "arithmetic.json").read_text())) == 2


@pytest.mark.parametrize("left", ["", "{", "[]", "null", '{"KEY": 3}', '{"KEY": {"arithmetic": "fp8"}}', "\x00\xff"])
def test_a_damaged_cache_costs_another_timing(left: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = say_times(monkeypatch, 0.4, 1.0)
    cache.mkdir()
    (cache / "arithmetic.json").write_text(left.replace("KEY", machine.fingerprint(CPU)), encoding="latin-1")
    assert machine.quicker(CPU) == "bf16" and len(asked) == 1
    monkeypatch.setattr(machine, "_chosen", {})
    assert machine.quicker(CPU) == "bf16" and len(asked) == 1  # mended


def test_a_cache_that_cannot_be_written_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path / "file" / "inside"))
    say_times(monkeypatch, 0.4, 1.0)
    assert machine.quicker(CPU) == "bf16"


def test_both_are_timed_without_a_trace() -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    found = machine.times(CPU)
    assert set(found) == {"bf16", "fp32"} and all(0 < taken < 5 for taken in found.values())
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_sampler_may_be_the_first_to_ask(mode: Any) -> None:
    with mode():
        assert min(machine.times(torch.device("cpu")).values()) > 0


def test_without_units_for_it_bf16_is_not_chosen(tmp_path: Path) -> None:
    """As on an ordinary computer: PyTorch would emulate the products, ten times as slowly."""
    capped = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "TRILEMMA_CACHE": str(tmp_path)}
    code = "import torch; from trilemma import machine as m; print(m.quicker(torch.device('cpu')), m.units(), sep='|')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **capped}, capture_output=True, text=True, check=True)
    choice, units = done.stdout.strip().split("|")
    assert choice == "fp32"
    assert "amx" not in units and "bf16" not in units


def test_a_run_goes_on_in_the_arithmetic_that_it_began_in(
    blobs_data: Dataset, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def fit(name: str, budget: str, resume: bool = False, **more: object) -> Run:
        return train(
            "vae", blobs_data, out=tmp_path / name, budget=budget, settings=SMALL | more, resume=resume, device="cpu",
            say=told.append,
        )  # fmt: skip

    say_times(monkeypatch, 0.4, 1.0)
    whole, begun = fit("whole", "6steps"), fit("begun", "3steps")
    assert begun.config.train.precision == Run.open(begun.path).config.train.precision == "bf16"
    assert not any("bf16" in line for line in told)
    say_times(monkeypatch, 9.0, 1.0)
    (cache / "arithmetic.json").unlink()
    resumed = fit("begun", "6steps", resume=True)
    assert sum("in bf16, as it began, which is slower here" in line for line in told) == 1
    mine, theirs = resumed.load().model, whole.load().model
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert fit("new", "1step").config.train.precision == "fp32"
    with pytest.raises(ValueError, match=r"train\.precision is 'bf16' in the run, 'fp32' was asked for"):
        fit("begun", "7steps", resume=True, precision="fp32")


@pytest.mark.parametrize(("bf16", "dtype"), [(0.4, torch.bfloat16), (9.0, torch.float32)])
def test_the_classifier_too_is_trained_in_the_quicker_one(
    bf16: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_times(monkeypatch, bf16, 1.0)
    seen: list[torch.dtype] = []
    forward = classifier.Network.forward

    def watched(self: classifier.Network, x: torch.Tensor) -> torch.Tensor:
        logits = forward(self, x)
        seen.append(logits.dtype)
        return logits

    monkeypatch.setattr(classifier.Network, "forward", watched)
    images = torch.arange(8 * 64).remainder(255).to(torch.uint8).reshape(8, 1, 8, 8)
    classifier.train_classifier(images, torch.arange(8) % 2, 2, steps=1)
    assert seen == [dtype]


def test_no_other_place_chooses_an_arithmetic() -> None:
    source = Path(trilemma.__file__).parent
    files = [*source.rglob("*.py"), *(source.parents[1] / "benchmarks").glob("*.py")]
    chooses = re.compile(r"torch\.bfloat16|_bf16_supported|autocast\([^)]*enabled=True")
    assert not [path.name for path in files if path.name != "machine.py" and chooses.search(path.read_text("utf-8"))]
