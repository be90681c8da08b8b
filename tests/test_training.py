"""The loop: budgets, batches, averages, resuming bit by bit, stopping, breaking down, and many processes."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes
from conftest import write_blobs
from torch import Tensor, nn

from trilemma.config import TrainConfig
from trilemma.data import Dataset
from trilemma.families import FAMILIES
from trilemma.run import Run, State
from trilemma.training import Batches, Budget, Diverged, Report, average, loop, recorder, train
from trilemma.training.loop import learning_rate

SMALL = {"batch": 8, "log_every": 2, "pictures": 0, "warmup": 2, "anneal": 0.0}
"""A rate that does not depend on the budget, so that runs of different budgets begin alike."""
names = pytest.mark.parametrize("name", list(FAMILIES))


def fit(name: str, data: Dataset, out: Path, budget: str, **more: object) -> Run:
    settings = {**SMALL, **more.pop("settings", {})}  # type: ignore[dict-item]
    return train(name, data, out=out, budget=budget, settings=settings, device="cpu", say=lambda line: None, **more)  # type: ignore[arg-type]


def tensors(state: State) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by name: weights, averages and optimisers."""
    found = {f"model.{k}": v for k, v in state.model.items()} | {f"ema.{k}": v for k, v in (state.ema or {}).items()}
    for i, optimizer in enumerate(state.optimizers):
        for key, slots in optimizer["state"].items():
            found |= {f"optimizer.{i}.{key}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    return found


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("90s", 90, "seconds"),
        ("2m", 120, "seconds"),
        ("1.5h", 5400, "seconds"),
        ("5000steps", 5000, "steps"),
        ("1step", 1, "steps"),
        ("2ksteps", 2000, "steps"),
        ("200kimages", 2e5, "images"),
        ("1Mimages", 1e6, "images"),
    ],
)
def test_budgets(text: str, amount: float, unit: str) -> None:
    assert Budget.parse(text) == Budget(amount, unit)


@pytest.mark.parametrize("text", ["", "2", "0s", "-1m", "2 weeks", "5Mm", "steps"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="write 90s, 2m"):
        Budget.parse(text)


def test_batches_go_through_every_image_once_an_epoch() -> None:
    batches = Batches(np.arange(100, 110), seed=1)
    stream = batches.at(0, 30).tolist()
    assert all(sorted(stream[start : start + 10]) == list(range(100, 110)) for start in (0, 10, 20))
    assert stream[:10] != stream[10:20]
    # A function of the position: reading on from the middle, or in other pieces, changes nothing.
    again = Batches(np.arange(100, 110), seed=1)
    assert again.at(7, 9).tolist() == stream[7:16]
    assert again.at(0, 4).tolist() == stream[:4]


def test_average_is_what_it_says_and_copies_buffers() -> None:
    model, ema = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(5.0)  # type: ignore[union-attr]
    average(ema, model, 0.9)
    assert ema.weight.tolist() == pytest.approx([1.2, 1.2])
    assert ema.running_mean.tolist() == [5.0, 5.0]  # type: ignore[union-attr]


@names
def test_resumed_run_equals_the_uninterrupted_one_bit_by_bit(name: str, blobs_data: Dataset, tmp_path: Path) -> None:
    # 160 images are about 18 batches: the interruptions are in the middle of the first epoch, at a log line and
    # between two, and in the second epoch.
    # It is stopped by a signal, since what a step is may depend on the share of the budget.
    whole = fit(name, blobs_data, tmp_path / "whole", "25steps", conditional=True)
    for last in (1, 7, 20, 25):

        def stop(report: Report, last: int = last) -> None:
            if report.step == last < 25:
                os.kill(os.getpid(), signal.SIGTERM)

        parts = fit(name, blobs_data, tmp_path / "parts", "25steps", conditional=True, resume=True, progress=stop)
        assert parts.progress()["step"] == last
    expected, got = tensors(whole.load()), tensors(parts.load())
    assert expected.keys() == got.keys()
    assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    assert any(key.startswith("ema.") for key in got)
    assert [r["step"] for r in whole.logs()] == [
        r["step"] for r in parts.logs() if r["step"] % 2 == 0 or r["step"] == 25
    ]


@names
def test_training_lowers_the_loss_or_at_least_moves(name: str, blobs_data: Dataset, tmp_path: Path) -> None:
    run = fit(name, blobs_data, tmp_path / "run", "40steps", settings={"lr": 1e-3})
    logs = [record for record in run.logs() if "alarm" not in record]
    assert logs[-1]["step"] == 40
    assert all(math.isfinite(v) for record in logs for v in record.values())
    term = next(iter(k for k in logs[0] if k not in ("step", "images", "seconds")))
    if name not in ("gan", "consistency"):  # a game has no loss that must fall, and a student changes its loss
        first, last = (sum(r[term] for r in part) / 3 for part in (logs[:3], logs[-3:]))
        assert last < first


def test_gan_takes_k_discriminator_steps(blobs_data: Dataset, tmp_path: Path) -> None:
    run = fit("gan", blobs_data, tmp_path / "gan", "3steps", model={"discriminator_steps": 2})
    discriminator, generator = run.load().optimizers
    counts = [{int(slot["step"]) for slot in o["state"].values()} for o in (discriminator, generator)]
    assert counts == [{6}, {3}]
    assert run.progress()["images"] == 3 * 2 * 8


def test_budget_of_seconds_and_pictures(blobs_data: Dataset, tmp_path: Path) -> None:
    heard: list[Report] = []
    run = fit("vae", blobs_data, tmp_path / "vae", "1s", settings={"pictures": 2}, progress=heard.append)
    assert 1 <= run.progress()["seconds"] < 3
    assert len(list((run.path / "samples").glob("*.png"))) == 2
    assert heard[-1].spent >= 1
    assert heard[-1].images_per_second > 0


class _Broken(nn.Module):
    """A loss that stops being a number at a given step."""

    def __init__(self, inner: nn.Module, at: int) -> None:
        super().__init__()
        self.inner, self.at, self.calls = inner, at, 0

    def forward(self, *inputs: object) -> object:
        loss = self.inner(*inputs)
        self.calls += 1
        if self.calls == self.at:
            loss.terms["reconstruction"] = loss.terms["reconstruction"] * math.nan
        return loss


def test_a_nan_stops_before_the_optimiser_and_keeps_the_last_good_state(
    blobs_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = fit("vae", blobs_data, tmp_path / "good", "4steps")
    build = loop.Learner.build

    def broken(run: Run, where: object) -> loop.Learner:
        learner = build(run, where)  # type: ignore[arg-type]
        learner.modules = [_Broken(module, 5) for module in learner.modules]
        return learner

    monkeypatch.setattr(loop.Learner, "build", broken)
    with pytest.raises(Diverged, match="reconstruction.* is not finite at step 5"):
        fit("vae", blobs_data, tmp_path / "bad", "9steps")
    expected, got = tensors(good.load()), tensors(Run.open(tmp_path / "bad").load())
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_alarms_are_said_once_and_logged(blobs_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(FAMILIES["vae"], "alarms", lambda self, logs: [f"watch {sorted(logs)[0]}"])
    run = train("vae", blobs_data, out=tmp_path / "vae", budget="6steps", settings=SMALL, device="cpu", say=said.append)
    assert len(said) == 1
    assert [record["alarm"] for record in run.logs() if "alarm" in record] == said


def test_tensorboard_is_an_extra(blobs_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(recorder.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"trilemma\[tensorboard\]"):
            fit("vae", blobs_data, tmp_path / "none", "2steps", tensorboard=True)
    assert not (tmp_path / "none").exists()
    pytest.importorskip("tensorboard")
    fit("vae", blobs_data, tmp_path / "run", "4steps", tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_bad_requests_are_one_line(blobs_data: Dataset, tmp_path: Path) -> None:
    fit("vae", blobs_data, tmp_path / "run", "1steps")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    cases = [
        ({"name": "vea", "out": "x"}, "unknown family 'vea'"),
        ({"out": "x", "size": "huge"}, "unknown size 'huge'"),
        ({"out": "x", "model": {"widht": 3}}, "unknown key 'widht'"),
        ({"out": "x", "settings": {"batch": 4000}}, "fewer than one batch of 4000"),
        ({"out": "run"}, "already holds a run: add --resume"),
        ({"out": "run", "resume": True, "seed": 1}, "seed is 0 in the run, 1 was asked for"),
        ({"out": "other"}, "is not a run folder"),
    ]
    for changes, words in cases:
        arguments = {"name": "vae", "data": blobs_data, "budget": "1steps", **changes}
        arguments["out"] = tmp_path / str(arguments["out"])
        with pytest.raises(ValueError, match=words) as error:
            fit(**arguments)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()


COMMAND = [sys.executable, "-m", "trilemma", "train"]


def heard() -> None:
    """Signals that this process was started to ignore, as by nohup, are none of a child's business."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_the_run_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    data, out = write_blobs(tmp_path / "blobs.npz"), tmp_path / "run"
    command = [
        *COMMAND,
        "vae",
        str(data),
        "--out",
        str(out),
        "--budget",
        "1h",
        "--train.batch",
        "8",
        "--train.log-every",
        "1",
    ]
    with subprocess.Popen(
        command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=heard
    ) as process:
        while process.poll() is None and not (out / "metrics.jsonl").exists():
            pass
        process.send_signal(number)
        for _ in range(9):  # further ones do no harm
            process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "stopping after this step" in errors
    assert shlex.split(errors.strip().splitlines()[-1]) == [*command, "--resume"]
    done = Run.open(out).progress()
    assert done["step"] >= 1
    steps = int(done["step"]) + 2
    command = [*COMMAND, "vae", str(data), "--out", str(out), "--resume", "--json", "--budget", f"{steps}steps"]
    command += ["--train.batch", "8", "--train.log-every", "1"]
    again = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["step"] == steps


def test_a_step_that_ruins_the_weights_is_not_saved(blobs_data: Dataset, tmp_path: Path) -> None:
    settings = {"lr": 1e38, "warmup": 0}
    with pytest.raises(Diverged, match=r"is not finite after step 1; what was saved before stands"):
        fit("vae", blobs_data, tmp_path / "run", "1steps", settings=settings)
    assert not Run.open(tmp_path / "run").has_checkpoint


def test_of_two_trainings_that_begin_in_one_folder_one_is_refused(blobs_data: Dataset, tmp_path: Path) -> None:
    """Also where the other has locked it and not written anything yet."""
    out = tmp_path / "run"
    script = "import sys\nfrom trilemma.run import lock\nwith lock(sys.argv[1]):\n print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ValueError, match="in use by another process"):
            fit("vae", blobs_data, out, "1steps")
        assert [path.name for path in out.iterdir()] == ["lock"]
        other.communicate(b"\n")
    assert fit("vae", blobs_data, out, "1steps").progress()["step"] == 1


def test_an_error_of_one_process_ends_the_others_with_one_line(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        "import sys\nfrom trilemma.parallel import join\n"
        "try:\n"
        "    with join('cpu') as where:\n"
        "        where.wait()\n"
        "        if where.first:\n"
        "            raise ValueError('the disk is full')\n"
        "        import time; time.sleep(600)\n"
        "except ValueError as error:\n"
        "    sys.exit(str(error))\n"
    )
    began = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=environment()
            | {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            | {"TORCH_CPP_LOG_LEVEL": "ERROR"},  # as the command line sets it
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=120)[1].strip() for process in processes]
    assert errors == ["the disk is full", ""]
    assert [process.returncode for process in processes] == [1, 1]
    assert time.monotonic() - began < 100


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """For families without batch norm the same global batch gives the same weights."""
    pytest.importorskip("tokenizers")
    data = write_blobs(tmp_path / "blobs.npz")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    command += [two_processes.__file__, str(data), str(tmp_path / "two")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in [*two_processes.FAMILIES_WITHOUT_BATCH_NORM, "captions"]:
        told = name == "captions"
        run = (
            two_processes.fit_captions(str(data), tmp_path / "one")
            if told
            else two_processes.fit(name, str(data), tmp_path / "one")
        )
        one = run.load()
        two = Run.open(tmp_path / "two" / name).load()
        assert (one.step, one.images) == (two.step, two.images)
        for mine, theirs in ((one.model, two.model), (one.ema, two.ema)):
            assert mine is not None
            assert theirs is not None
            assert max(float((mine[key] - theirs[key]).abs().max()) for key in mine) < 1e-5, name


def test_the_rate_rises_stays_and_falls() -> None:
    settings = TrainConfig(lr=0.1, warmup=9, anneal=0.5)
    rates = [learning_rate(settings, step, step / 100) for step in (0, 4, 9, 50, 75, 100, 120)]
    assert rates == pytest.approx([0.01, 0.05, 0.1, 0.1, 0.05, 0, 0])
    assert learning_rate(TrainConfig(lr=0.1, warmup=0), 10**6, 0.999) == 0.1
