"""The run folder: whatever happens to a save, a whole checkpoint stands; what is foreign or damaged is refused."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from trilemma.data import Dataset
from trilemma.images import NotFinite
from trilemma.parallel import ranks
from trilemma.run import KEPT, Run, State, damage, fitting
from trilemma.training import make_config, train
from trilemma.training.loop import Learner


@pytest.fixture
def run(blobs_data: Dataset, tmp_path: Path) -> Run:
    settings = {"batch": 8, "pictures": 0}
    return train("vae", blobs_data, out=tmp_path / "run", budget="2steps", settings=settings, say=lambda line: None)


def stepped(state: State, step: int) -> State:
    return State(state.model, state.ema, state.optimizers, step, step * 8, float(step))


def test_keeps_the_last_two(run: Run) -> None:
    state = run.load()
    for step in (3, 4, 5):
        run.save(stepped(state, step))
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]
    assert KEPT == 2
    assert run.load().step == 5


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "no sums", "empty"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(run: Run, harm: str) -> None:
    newest = run.save(stepped(run.load(), 3))
    file = newest / "weights.safetensors"
    content = bytearray(file.read_bytes())
    if harm == "truncate":
        file.write_bytes(content[:-7])
    elif harm == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif harm == "remove":
        file.unlink()
    elif harm == "no sums":
        (newest / "checksums.json").unlink()
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    with pytest.warns(UserWarning, match="step-00000003 is damaged"):
        assert run.load().step == 2
    # A save after that keeps the whole one until there are two whole ones again.
    with pytest.warns(UserWarning, match="damaged"):
        state = run.load()
    run.save(stepped(state, 4))
    assert damage(run.path / "checkpoints" / "step-00000002") is None
    assert run.load().step == 4


def test_every_checkpoint_damaged_is_one_line(run: Run) -> None:
    for folder in (run.path / "checkpoints").iterdir():
        (folder / "state.json").write_text("{}")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match="no whole checkpoint: every one is damaged"),
    ):
        run.load()


def test_sigkill_at_any_moment_of_a_save_leaves_a_checkpoint(run: Run, tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from trilemma.run import Run, State
        run = Run.open(sys.argv[1])
        s = run.load()
        print("ready", flush=True)
        step = s.step
        while True:
            step += 1
            run.save(State(s.model, s.ema, s.optimizers, step, step * 8, float(step)))
        """
    )
    for delay in (0.0, 0.013, 0.05):
        command = [sys.executable, "-c", script, str(run.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert run.load().step >= 2
        run.model()


def test_a_full_disk_is_loud_and_leaves_the_old_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trilemma.run.confirm", full)
    with pytest.raises(OSError, match="No space left"):
        run.save(stepped(run.load(), 3))
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-00000002"]
    assert run.load().step == 2


def test_a_malicious_pickle_is_not_executed(run: Run, tmp_path: Path) -> None:
    witness = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(witness).touch, ())

    folder = run.checkpoint()
    (folder / "optimizers.pt").write_bytes(pickle.dumps(Evil()))
    sums = json.loads((folder / "checksums.json").read_text())
    sums["optimizers.pt"] = hashlib.sha256((folder / "optimizers.pt").read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(ValueError, match="optimizers.pt cannot be read") as error:
        run.load()
    assert "\n" not in str(error.value)
    assert not witness.exists()


def tamper(run: Run, name: str, content: bytes) -> None:
    """Replace a file of the newest checkpoint, checksum and all."""
    folder = run.checkpoint()
    (folder / name).write_bytes(content)
    sums = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").write_text(json.dumps(sums | {name: hashlib.sha256(content).hexdigest()}))


def _without_storage(value: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1).expand(value.shape)  # of the right shape, but every value is one and the same place


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("exp_avg", lambda v: torch.zeros(3), r"exp_avg .* is \[3\]"),
        ("exp_avg", lambda v: v.double(), r"exp_avg .*torch.float64, the config"),
        ("exp_avg_sq", lambda v: v - 1, "exp_avg_sq .* out of range"),
        ("exp_avg", lambda v: v * math.nan, "exp_avg .* out of range"),
        ("step", lambda v: -v - 1, "step .* out of range"),
        ("step", lambda v: 7, "step .* is int"),
        ("extra", lambda v: torch.zeros(()), "is not that of Adam"),
    ],
)
def test_optimiser_state_that_does_not_fit_is_refused(
    run: Run, key: str, change: Callable[[Any], Any], words: str
) -> None:
    optimizers = run.load().optimizers
    optimizers[0]["state"][0][key] = change(optimizers[0]["state"][0].get(key))
    buffer = io.BytesIO()
    torch.save(optimizers, buffer)
    tamper(run, "optimizers.pt", buffer.getvalue())
    learner = Learner.build(run, ranks("cpu"))
    with pytest.raises(ValueError, match=words) as error:
        learner.restore(run.load(), str(run.path))
    assert "\n" not in str(error.value)


def test_optimiser_state_lies_in_memory_of_its_own(run: Run) -> None:
    state = run.load()
    state.optimizers[0]["state"] = {
        i: {k: v if k == "step" else _without_storage(v) for k, v in values.items()}
        for i, values in state.optimizers[0]["state"].items()
    }
    state.optimizers[0]["param_groups"] = [{"params": "rubbish"}]
    learner = Learner.build(run, ranks("cpu"))
    learner.restore(state, str(run.path))
    for parameter, values in learner.optimizers[0].state.items():
        assert values["exp_avg"].stride() == parameter.stride()
    assert set(learner.optimizers[0].state) == set(learner.optimizers[0].param_groups[0]["params"])
    with pytest.raises(ValueError, match="of other parameters"):
        fitting(learner.optimizers[0], {"state": {10**6: {}}}, "here")


def test_weights_of_another_type_or_named_twice_are_refused(run: Run) -> None:
    weights = run.load().model
    name = next(iter(weights))
    tamper(run, "ema.safetensors", save({**weights, name: weights[name].double()}))
    with pytest.raises(ValueError, match=r"has type torch.float64, the config says torch.float32"):
        run.model()
    content = save({"a": torch.zeros(1), "b": torch.zeros(1)}).replace(b'"b"', b'"a"')
    tamper(run, "ema.safetensors", content)
    with pytest.raises(ValueError, match="it names 'a' twice"):
        run.model()
    tamper(run, "ema.safetensors", content[:20])
    with pytest.raises(ValueError, match="ema.safetensors cannot be read"):
        run.model()


@pytest.mark.parametrize(
    "content", ['{"step": -1, "images": 0, "seconds": 0}', '{"step": true, "images": 0, "seconds": 0}', "[]", "null",
                '{"step": 1, "images": 8, "seconds": NaN}', '{"step": 1, "images": 8}', "{"],
)  # fmt: skip
def test_counters_that_are_none_are_refused(run: Run, content: str) -> None:
    tamper(run, "state.json", content.encode())
    for read in (run.load, run.progress):
        with pytest.raises(ValueError, match="state.json"):
            read()


def test_weights_that_are_not_numbers_never_replace_good_ones(run: Run) -> None:
    state = stepped(run.load(), 3)
    good = next(iter(state.model.values())).clone()
    next(iter(state.model.values())).view(-1)[0] = math.nan
    with pytest.raises(NotFinite, match="not finite after step 3"):
        run.save(state)
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-00000002"]
    tamper(run, "ema.safetensors", save(state.model))  # as an older version may have saved
    with pytest.raises(NotFinite, match="weights that are not numbers"):
        run.model()
    assert torch.isfinite(good).all()


def test_a_disk_that_lies_is_found_out_by_what_was_meant(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checksum of the file as it was read would agree with the damage."""
    monkeypatch.setattr("trilemma.run.confirm", lambda file, content: file.truncate(5))
    folder = run.save(stepped(run.load(), 3))
    assert damage(folder) is not None


def test_litter_is_swept_when_the_run_is_held(run: Run) -> None:
    left = [run.path / ".partial-4711", run.path / "checkpoints" / ".partial-elsewhere-1-2"]
    for path in left:
        path.mkdir()
        (path / "half").touch()
    with run.lock():
        assert not any(path.exists() for path in left)


def test_config_and_weights_must_agree(run: Run) -> None:
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    config["model"]["latent"] += 1
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not belong to this config"):
        Run.open(run.path).model()


def test_a_newer_format_an_unknown_key_and_rubbish_are_refused(run: Run) -> None:
    path = run.path / "config.json"
    good = json.loads(path.read_text())
    for change, words in (
        ({"format": 99}, "written by a newer trilemma"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"family": "transformer"}, "names the family 'transformer'"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=words):
            Run.open(run.path)
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Run.open(run.path)
    with pytest.raises(ValueError, match="no such folder"):
        Run.open(run.path / "nowhere")


def test_two_processes_cannot_hold_one_run(run: Run) -> None:
    script = "import sys\nfrom trilemma.run import Run\nwith Run.open(sys.argv[1]).lock():\n    pass"
    with run.lock():
        other = subprocess.run(
            [sys.executable, "-c", script, str(run.path)], capture_output=True, text=True, check=False
        )
    assert "is in use by another process" in other.stderr
    assert str(os.getpid()) in other.stderr
    with run.lock():
        pass


def test_a_cut_off_log_line_is_left_out_and_a_rewind_drops_what_comes_again(run: Run) -> None:
    for step in (3, 4, 5):
        run.log({"step": step, "images": 8 * step})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "ima')
    assert [record["step"] for record in run.logs()][-3:] == [3, 4, 5]
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'\n\xff\n[1]\n{"step": 5, "images": 40, "loss": []}\n')
    with pytest.warns(UserWarning, match="4 damaged lines"):
        assert [record["step"] for record in run.logs()][-3:] == [3, 4, 5]
    with pytest.warns(UserWarning, match="damaged"):
        run.rewind_logs(5)
    run.rewind_logs(4)
    assert [record["step"] for record in run.logs()][-2:] == [3, 4]


def test_the_seed_decides_the_first_weights(blobs_data: Dataset, tmp_path: Path) -> None:
    built = [
        Run.create(tmp_path / str(i), make_config("vae", blobs_data, seed=seed)).build().state_dict()
        for i, seed in enumerate((0, 0, 1))
    ]
    before = torch.random.get_rng_state()
    assert all(torch.equal(built[0][key], built[1][key]) for key in built[0])
    assert any(not torch.equal(built[0][key], built[2][key]) for key in built[0])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("left", [["lock", ".partial-host-1-0"], ["lock", "tokenizer.json"], [".partial-host-1-0"]])
def test_a_run_whose_making_was_cut_short_is_made_again(left: list[str], blobs_data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.mkdir()
    for name in left:
        (path / name).write_text("half")
    config = make_config("vae", blobs_data)
    Run.create(path, config)
    assert Run.open(path).config == config


def test_a_folder_of_others_is_never_made_a_run(blobs_data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "tokenizer.json").write_text("somebody's")
    with pytest.raises(ValueError, match="is not a run folder"):
        Run.create(tmp_path / "new", make_config("vae", blobs_data))
