"""What a run learns along the way: the images it is measured on, the schedule, the best, and when to stop."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_blobs
from tiny import call
from torch import Tensor

from trilemma.config import TrainConfig
from trilemma.data import Dataset, load
from trilemma.families import FAMILIES
from trilemma.number import Number
from trilemma.questions import ask
from trilemma.run import Run
from trilemma.training import learning as room
from trilemma.training import train
from trilemma.training.budget import Budget, Progress
from trilemma.training.learning import Snapshot, Watcher, best, over, parts, quantity, snapshots

NOTHING = Number(None)


def snapshot(step: int, loss: float | None = None, distance: float | None = None) -> Snapshot:
    return Snapshot(step, 8 * step, 1.0 * step, 0.01, 64, Number(loss), Number(distance), NOTHING, NOTHING, NOTHING)


def held_out(share: float) -> TrainConfig:
    return TrainConfig(validation=share)


@pytest.fixture
def many(tmp_path: Path) -> Dataset:
    return load(write_blobs(tmp_path / "many.npz", 600), progress=False)


def fit(data: Dataset, out: Path, budget: str = "150steps", name: str = "vae", **settings: Any) -> Run:
    shared = {"batch": 16, "precision": "fp32", "pictures": 0, "warmup": 2}
    model = dict(width=4, latent=2) if name in ("vae", "autoencoder") else dict(width=8, latent=4)
    return train(
        name, data, out=out, budget=budget, model=model, settings={**shared, **settings}, device="cpu",
        say=lambda line: None,
    )  # fmt: skip


@pytest.fixture
def costless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every snapshot can be afforded."""
    monkeypatch.setattr(room, "TIME", 1e6)


# Which images


def test_what_is_held_out_is_of_the_training_images_and_never_of_the_test_images(many: Dataset) -> None:
    train_on, validation = parts(many, held_out(0.2))
    assert sorted([*train_on, *validation]) == sorted(many.train)
    assert not set(train_on) & set(validation)
    assert not set(many.test) & {*train_on.tolist(), *validation.tolist()}
    assert len(validation) == pytest.approx(0.2 * len(many.train), rel=0.02)
    everything, none = parts(many, held_out(0.0))
    assert everything is many.train
    assert not len(none)


def test_equal_images_are_held_out_together_whatever_their_order(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (200, 6, 6), np.uint8)
    doubled = np.concatenate([images, images])[np.random.default_rng(1).permutation(400)]
    np.savez(tmp_path / "doubled.npz", images=doubled)
    data = load(tmp_path / "doubled.npz", progress=False)
    train_on, validation = parts(data, held_out(0.3))
    content = [{np.asarray(data.images[i]).tobytes() for i in side} for side in (train_on, validation)]
    assert not content[0] & content[1]
    assert abs(len(validation) / len(data.train) - 0.3) < 0.02


def test_too_few_to_measure_anything_are_refused(many: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds out \d+: at least 16 are needed") as error:
        fit(many, tmp_path / "run", validation=0.01)
    assert "\n" not in str(error.value)


def test_the_training_never_sees_what_is_held_out(
    many: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costless: None
) -> None:
    seen: set[int] = set()
    taken = Dataset.batch

    def batch(self: Dataset, indices: Any, noise: Any = None) -> Tensor:
        if noise is not None:  # a batch of training
            seen.update(torch.as_tensor(indices).tolist())
        else:
            looked.update(torch.as_tensor(indices).tolist())
        return taken(self, indices, noise)

    looked: set[int] = set()
    monkeypatch.setattr(Dataset, "batch", batch)
    fit(many, tmp_path / "run", validation=0.2)
    train_on, validation = parts(many, held_out(0.2))
    assert seen == set(train_on.tolist())  # 150 steps of 16 are five epochs
    assert looked & set(validation.tolist())
    assert not looked & set(many.test.tolist())


# What is measured


def test_a_training_is_the_same_with_snapshots_as_without(
    many: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TIME", 1e6)
    watched = fit(many, tmp_path / "watched", "80steps", validation=0.2)
    assert [each.step for each in snapshots(watched)] == [50, 71, 80]  # √2 apart, and the last
    monkeypatch.setattr(room, "TIME", 0.0)
    blind = fit(many, tmp_path / "blind", "80steps", validation=0.2)
    assert snapshots(blind) == []
    one, other = watched.load(), blind.load()
    assert all(torch.equal(one.model[name], other.model[name]) for name in one.model)
    assert one.ema is not None
    assert other.ema is not None
    assert all(torch.equal(one.ema[name], other.ema[name]) for name in one.ema)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_is_watched(name: str, many: Dataset, tmp_path: Path, costless: None) -> None:
    model = {
        "vae": dict(width=4, latent=2), "autoencoder": dict(width=4, latent=2), "gan": dict(width=8, latent=4),
        "pixelcnn": dict(features=4, layers=2, head=4), "pixelrnn": dict(features=4, layers=1, head=4),
    }.get(name, dict(width=16, multipliers=(1,)))  # fmt: skip
    run = train(
        name, many, out=tmp_path / "run", budget="50steps", model=model, device="cpu", conditional=True,
        settings=dict(batch=16, precision="fp32", pictures=0, validation=0.2), say=lambda line: None,
    )  # fmt: skip
    (found,) = snapshots(run)
    assert found.step == 50
    assert found.distance.value is not None
    assert found.distance.value > 0
    assert found.fidelity.value is not None
    assert found.coverage.value is not None
    assert found.copied.value is not None
    followed = len(run.build().objectives()) == 1 and FAMILIES[name].steady
    assert (found.loss.value is not None) == followed
    assert run.at("best").progress()["step"] == 50


def test_the_held_out_loss_is_that_of_the_model(many: Dataset, tmp_path: Path, costless: None) -> None:
    """Of an autoencoder it is the mean squared error of the reconstruction, which needs no noise."""
    run = fit(many, tmp_path / "run", "50steps", name="autoencoder", validation=0.2)
    (found,) = snapshots(run)
    model = run.model()
    _, validation = parts(many, run.config.train)
    x = many.batch(validation)
    with torch.no_grad():
        unit = model.spec.to_unit(x)
        wanted = (unit - model.render(model.encode(x).mean)).square().flatten(1).sum(1).mean()  # type: ignore[operator]
    assert found.loss.value == pytest.approx(float(wanted), rel=1e-5)
    assert found.loss.n == len(validation)


class Teller:
    """In the place of a trained model: it draws the images that it is given, in turn."""

    training, device = False, torch.device("cpu")

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def sample(self, noise: Any, labels: Any = None) -> Tensor:
        rows = torch.tensor([noise._generators[i].integers(len(self.images)) for i in range(noise.count)])
        return self.images[rows]

    def objectives(self) -> list[Any]:
        return []


def watcher(data: Dataset, out: Path, share: float) -> Watcher:
    run = fit(data, out, "1steps", validation=share)
    made = Watcher(run, data, Budget.parse("100steps"))
    made.n = 64
    return made


def test_known_answers_copies_of_training_images_and_fresh_real_ones(tmp_path: Path) -> None:
    """Who draws training images is found out; who draws others of the same kind, whom nobody trained on, is not."""
    data = load("mnist", limit=400, progress=False)
    of = watcher(data, tmp_path / "run", 0.3)
    copier = of._measured(Teller(data.batch(of.train)), Progress(50, 800, 1.0))  # type: ignore[arg-type]
    honest = of._measured(Teller(data.batch(data.test[:2000])), Progress(50, 800, 1.0))  # type: ignore[arg-type]
    assert copier.copied.value is not None
    assert copier.copied.value > 0.9
    assert honest.copied.value == 0
    for found in (copier, honest):
        assert found.fidelity.value == pytest.approx(1.0, abs=0.15)
        assert found.coverage.value == pytest.approx(1.0, abs=0.3)
        assert found.distance.error is not None
        assert abs(found.distance.value or 9.0) < 5 * found.distance.error + 0.05


# What it costs


def test_a_snapshot_waits_until_it_can_be_afforded(many: Dataset, tmp_path: Path) -> None:
    made = watcher(many, tmp_path / "run", 0.2)
    made.limit, made.cost = Budget.parse("1000s"), 2.0  # 5 % of it are 50 s
    assert not made._affordable(Progress(60, 1, 39.0), False)  # 5 % of 39 s are less than 2
    assert made._affordable(Progress(60, 1, 40.0), False)
    made.spent = 47.0
    assert not made._affordable(Progress(60, 1, 990.0), False)  # nothing would be left for the last one
    assert made._affordable(Progress(60, 1, 1000.0), True)
    made.spent = 48.5
    assert not made._affordable(Progress(60, 1, 1000.0), True)


@pytest.mark.slow
def test_snapshots_take_no_more_than_their_share(many: Dataset, tmp_path: Path) -> None:
    run = fit(many, tmp_path / "run", "40s", validation=0.2)
    record = snapshots(run)
    assert record
    assert sum(each.took for each in record) <= 1.2 * room.TIME * run.progress()["seconds"]


def test_a_resumed_run_goes_on_with_its_record(many: Dataset, tmp_path: Path, costless: None) -> None:
    fit(many, tmp_path / "run", "75steps", validation=0.2)
    run = train("vae", many, out=tmp_path / "run", budget="120steps", resume=True, device="cpu", say=lambda line: None)
    assert [each.step for each in snapshots(run)] == [50, 71, 75, 107, 120]
    run.rewind_logs(100)
    assert [each.step for each in snapshots(run)] == [50, 71, 75]


# The best, and when to stop


def test_the_best_is_by_the_held_out_loss_and_else_by_the_distance() -> None:
    both = [snapshot(50, 3.0, 1.0), snapshot(71, 2.0, 0.5), snapshot(100, 2.5, 0.1)]
    assert quantity(both)[0] == "loss"
    assert best(both) is both[1]
    lossless = [replace(each, loss=NOTHING) for each in both]
    assert quantity(lossless)[0] == "distance"
    assert best(lossless) is lossless[2]
    assert best([]) is None
    assert best([snapshot(50)]) is None


@pytest.mark.parametrize(
    ("losses", "steps", "wanted"),
    [
        ([3, 2, 1, 0.9], [50, 71, 100, 142], False),  # still better
        ([1, 2, 3], [50, 71, 100], False),  # twice as long, but two worse ones only
        ([1, 2, 3, 4], [50, 60, 70, 80], False),  # three worse ones, but not twice as long
        ([1, 2, 3, 4], [50, 71, 100, 142], True),
        ([1, 2, 3, 0.5], [50, 71, 100, 142], False),  # the best is the last
        ([1, 1, 1, 1], [50, 71, 100, 142], True),  # no better is not better
        ([None, None, None, None], [50, 71, 100, 142], False),
    ],
)
def test_the_rule_of_early_stopping_by_hand(losses: Sequence[float | None], steps: list[int], wanted: bool) -> None:
    record = [snapshot(step, loss) for step, loss in zip(steps, losses, strict=True)]
    assert over(record) == wanted


def test_early_stopping_ends_a_training_that_gets_worse(
    many: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costless: None
) -> None:
    measured = Watcher._measured

    def worse(self: Watcher, model: Any, progress: Progress) -> Snapshot:
        return replace(measured(self, model, progress), loss=Number(float(progress.step)))

    monkeypatch.setattr(Watcher, "_measured", worse)
    said: list[str] = []
    run = train(
        "vae", many, out=tmp_path / "run", budget="5000steps", stop="early", model=dict(width=4, latent=2),
        settings=dict(batch=16, precision="fp32", pictures=0), device="cpu", say=said.append,
    )  # fmt: skip
    assert run.config.train.validation == 0.1
    assert [each.step for each in snapshots(run)] == [50, 71, 101, 143]
    assert run.progress()["step"] == 143
    assert run.stopped == 0
    assert any("stopped early" in line for line in said)
    assert run.at("best").progress()["step"] == 50
    again = train("vae", many, out=run.path, budget="5000steps", resume=True, device="cpu", say=said.append)
    assert again.progress()["step"] == 143  # it stays where it ended


def test_the_best_checkpoint_is_the_model_of_its_moment(many: Dataset, tmp_path: Path, costless: None) -> None:
    whole = fit(many, tmp_path / "whole", "100steps", validation=0.2, ema=0.0)
    then = fit(many, tmp_path / "then", f"{int(whole.at('best').progress()['step'])}steps", validation=0.2, ema=0.0)
    assert all(
        torch.equal(value, then.model().state_dict()[name])
        for name, value in whole.at("best").model().state_dict().items()
    )
    assert whole.at().place == whole.path / "best"
    assert whole.at("last").place == whole.path
    with pytest.raises(ValueError, match="there is no checkpoint 'first'"):
        whole.at("first")


# Asking


def test_the_question_reads_the_record(many: Dataset, tmp_path: Path, costless: None) -> None:
    run = fit(many, tmp_path / "run", "150steps", validation=0.2)
    found = ask(run, "learning")
    assert found.values["chosen_by"] == "loss"
    assert [each["step"] for each in found.values["snapshots"]] == [50, 71, 101, 143, 150]
    assert found.flag is None
    assert found.numbers["best_step"].value == min(snapshots(run), key=lambda each: each.loss.known).step
    record = found.save(tmp_path / "answer")
    assert (tmp_path / "answer" / record["figures"]["learning"]).is_file()
    json.dumps(record, allow_nan=False)


def test_a_run_without_a_record_says_so(many: Dataset, tmp_path: Path) -> None:
    found = ask(fit(many, tmp_path / "run", "60steps", log_every=10), "learning")
    assert found.flag is not None
    assert "--train.validation 0.1" in found.flag
    assert found.values["steps"] == [10, 20, 30, 40, 50, 60]
    assert all(math.isfinite(value) for value in found.values["loss"])


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], costless: None) -> None:
    data, run = write_blobs(tmp_path / "many.npz", 600), tmp_path / "run"
    typed = ["--budget", "60steps", "--train.batch", 16, "--model.width", 4, "--train.pictures", 0]
    assert call(capsys, "train", "vae", data, "--out", run, *typed, "--stop", "early")[0] == 0
    code, out, _ = call(capsys, "query", "learning", run)
    assert code == 0
    assert "best at step" in out
    code, out, _ = call(capsys, "sample", run, "--checkpoint", "best", "-n", 4)
    assert code == 0
    assert (run / "best" / "samples-0.png").is_file()
    code, out, err = call(
        capsys, "evaluate", run, "--checkpoint", "best", "-n", 32, "--metrics", "kernel", "--ladder", "no"
    )
    assert (code, err) == (0, err)
    assert (run / "best" / "metrics.json").is_file()
    assert not (run / "metrics.json").exists()
    code, _, err = call(capsys, "sample", "zoo/vae", "--checkpoint", "best")
    assert code != 0
    assert "has no checkpoint best" in err
