"""Runs measured in many ways: the speed-quality curve and the sweep of guidance, and going on after a kill."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, write_blobs
from PIL import Image
from test_cli import call
from test_diffusion_queries import exact
from torch import Tensor

from trilemma.data import Dataset, load
from trilemma.evaluation import Protocol
from trilemma.evaluation.stream import Supply
from trilemma.evaluation.subject import Subject
from trilemma.evaluation.sweeps import Bench, kept
from trilemma.families.diffusion import Diffusion, DiffusionConfig, DiffusionOptions, Flow, FlowConfig
from trilemma.families.diffusion.denoiser import Estimate
from trilemma.images import Spec, to_unit
from trilemma.metrics import Classifier, train_classifier
from trilemma.queries import curve, guidance
from trilemma.queries.sweep import Ledger, Point, sweep
from trilemma.report.denoising import denoising
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.training import train


def points() -> list[Point]:
    frechet = {("ddim", 1): 90.0, ("ddim", 10): 5.4, ("ddim", 100): 5.0, ("heun", 5): 5.45, ("heun", 50): 4.99}
    evaluations = {("heun", 5): 9, ("heun", 50): 99}
    return [
        Point(name, steps, evaluations.get((name, steps), steps), 0.01 * steps, {"frechet": (value, 0.1)})
        for (name, steps), value in frechet.items()
    ]


# The curve


def test_the_cheapest_good_sampler_is_named(tmp_path: Path) -> None:
    cheap, best = curve.cheapest(points())
    assert (cheap.sampler, cheap.steps) == ("heun", 5)  # 9 evaluations, 5.45 ≤ 1.1 · 4.99
    assert (best.sampler, best.steps) == ("heun", 50)
    assert curve.verdict(points()).startswith("cheapest within 10% of the best: heun in 5 steps (9 evaluations")
    floor = {"frechet": (3.0, None), "precision": (0.9, 0.1), "recall": (0.9, 0.1)}
    assert len(curve.table(points(), floor)) == 7
    assert "5.45 ± 0.1" in "".join(curve.table(points()))
    assert min(Image.open(curve.draw_curve(points(), floor, tmp_path / "c.png", "t", "p")).size) > 300
    with pytest.raises(ValueError, match="draw more images"):
        curve.cheapest([Point("ddim", 1, 1, 1.0, {"frechet": (None, None)})])


def test_every_sampler_has_its_points_and_no_two_are_the_same() -> None:
    model, spec = exact(200), Spec((1, 4, 4))
    own = curve.ways(model, DiffusionOptions())
    assert {way.sampler for way in own} == {"ddim", "ddpm", "heun", "dpm-solver"}
    assert [way.steps for way in own] == sorted(way.steps for way in own)
    assert {way.steps for way in own} == {1, 2, 5, 10, 20, 50, 100}  # it has no 1000
    flow = Flow(FlowConfig(width=16, multipliers=(1,), timesteps=50), spec)
    assert {way.sampler for way in curve.ways(flow, flow.Options())} == {"euler", "ddpm", "heun", "dpm-solver"}
    noisy = curve.ways(model, DiffusionOptions(eta=1.0))
    assert {(way.sampler, way.eta) for way in noisy} == {
        ("ddim", 1), ("ddpm", 0), ("heun", 0), ("dpm-solver", 0), ("euler", 0),
    }  # fmt: skip
    with pytest.raises(ValueError, match="between 1 and the 200"):
        curve.ways(model, DiffusionOptions(), counts=(2000,))


@dataclass(frozen=True)
class FewOptions(DiffusionOptions):
    """Those of a student that takes at most four steps."""

    def visits(self, schedule: object) -> list[int]:
        if (self.steps or 4) > 4:
            raise ValueError("a student takes at most 4 steps")
        return super().visits(schedule)  # type: ignore[arg-type]


def test_a_model_of_few_evaluations_has_a_curve() -> None:
    class Student(Diffusion):
        samplers = ("ddim",)
        Options = FewOptions

    student = Student(DiffusionConfig(width=16, multipliers=(1,)), Spec((1, 4, 4)))
    assert [(way.sampler, way.steps) for way in curve.ways(student, FewOptions())] == [("ddim", 1), ("ddim", 2)]


def test_the_curve_of_an_exact_model_falls() -> None:
    """Scored by the error of the variance, more steps are better, and all samplers get there."""
    model = exact()

    def measure(options: DiffusionOptions, progress: object) -> tuple[dict[str, tuple[float, None]], float]:
        drawn = sample(model, 256, options=options)
        return {"frechet": (abs(float(to_unit(drawn.images, 256).var()) / 0.09 - 1), None)}, 0.1

    told: list[tuple[int, int]] = []
    ways = curve.ways(model, DiffusionOptions(), ("ddim", "dpm-solver"), (1, 4, 40))
    found = sweep(ways, model.schedule, measure, progress=lambda done, of: told.append((done, of)))
    assert [(p.sampler, p.steps) for p in found] == [(s, c) for c in (1, 4, 40) for s in ("ddim", "dpm-solver")]
    assert found[0].frechet > 0.9 > found[2].frechet > found[4].frechet
    assert told == []  # a measure that tells nothing


# Guidance


class TwoClasses(Diffusion):
    """Pixels N(m_y, s²) with m = -0.4, 0.4 for the classes and 0 for none: guidance moves the mean, exactly."""

    def estimate(self, x_t: Tensor, t: int, labels: Tensor | None, guidance: float = 1.0) -> Estimate:
        assert labels is not None
        s2, a, v = 0.04, float(self.schedule.signal[t]), float(self.schedule.variance[t])
        mean = torch.tensor([-0.4, 0.4, 0.0])[labels].view(-1, 1, 1, 1)
        pulled = guidance * mean  # u + w(c - u) of estimates that are linear in the mean, u's being 0
        x0 = pulled + a * s2 / (a**2 * s2 + v) * (x_t - a * pulled)
        return Estimate(x0, (x_t - a * x0) / v**0.5)


def test_guidance_by_its_convention() -> None:
    """At w the samples of a class have w times its mean: w = 0 forgets the class, 1 is the class."""
    model = TwoClasses(DiffusionConfig(width=16, multipliers=(1,)), Spec((1, 4, 4), classes=2)).eval()
    ways = guidance.ways(model, DiffusionOptions(steps=20), (0.0, 1.0, 2.0))

    def measure(options: DiffusionOptions, progress: object) -> tuple[dict[str, tuple[float, None]], float]:
        images = sample(model, 256, labels=[1], options=options).images
        return {"frechet": (float(to_unit(images, 256).mean()), None)}, 0.1

    means = [point.frechet for point in sweep(ways, model.schedule, measure)]
    assert means == pytest.approx([0.0, 0.4, 0.8], abs=0.03)
    with pytest.raises(ValueError, match="class-conditional"):
        guidance.ways(exact(), DiffusionOptions())


def test_the_weight_scales_what_the_class_says() -> None:
    """The model's own estimate is u + w(c - u) of its network's outputs, read together."""
    model = Diffusion(DiffusionConfig(width=16, multipliers=(1,)), Spec((1, 8, 8), classes=3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        x, labels = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2, 0])
        c, u = (model.estimate(x, 500, given).x0 for given in (labels, torch.full_like(labels, 3)))
        assert not torch.allclose(c, u, atol=1e-3)
        for w in (0.0, 0.5, 3.0):
            assert torch.allclose(model.estimate(x, 500, labels, w).x0, u + w * (c - u), atol=1e-4)


def test_the_picture_of_a_sweep(tmp_path: Path) -> None:
    found = [
        Point("ddim", 5, 5, 0.1, {"frechet": (5.0 + w, 0.1), "precision": (0.5, 0.1), "recall": (0.5 - w / 20, 0.1),
                                  "accuracy": (0.1 + w / 10, 0.01)}, w)
        for w in (0.0, 1.0, 3.0)
    ]  # fmt: skip
    floor = dict.fromkeys(("frechet", "precision", "recall", "accuracy"), (0.9, 0.01))
    rows = torch.zeros(3, 4, 1, 8, 8, dtype=torch.uint8)
    with Image.open(guidance.draw_guidance(found, floor, rows, 256, tmp_path / "g.png", "t", "p")) as picture:
        assert min(picture.size) > 400
    assert len(guidance.table(found, floor)) == 5
    assert "lowest Fréchet 5 at w = 0" in guidance.verdict(found) and "(40.0%) at w = 3" in guidance.verdict(found)


# Going on


def test_a_ledger_keeps_what_was_measured(tmp_path: Path) -> None:
    path, asked = tmp_path / "curve.jsonl", []

    def measure(options: DiffusionOptions, progress: object) -> tuple[dict[str, tuple[float, float]], float]:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(options.steps)
        return {"frechet": (float(options.steps or 0), 0.5)}, 0.25

    model = exact(50)
    ways = curve.ways(model, DiffusionOptions(), ("ddim",), (1, 2, 5))
    book = Ledger(path, {"n": 10})
    with pytest.raises(KeyboardInterrupt):
        sweep(ways, model.schedule, measure, known=book.points, keep=book.add)
    path.write_text(path.read_text() + '{"protocol": {"n": 10}, "poi')  # a kill in the middle of a line
    asked.clear()
    again = Ledger(path, {"n": 10})
    found = sweep(ways, model.schedule, measure, known=dict(again.points), keep=again.add)
    assert asked == [5]
    assert [(p.steps, p.frechet, p.scores["frechet"][1]) for p in found] == [(1, 1, 0.5), (2, 2, 0.5), (5, 5, 0.5)]
    assert len(Ledger(path, {"n": 10}).points) == 3
    assert not Ledger(path, {"n": 11}).points  # another protocol


def test_images_of_an_unfinished_point_are_kept(tmp_path: Path) -> None:
    drawn: list[int] = []

    def fresh() -> Subject:
        blocks: list[tuple[int, float]] = []

        def draw(start: int, stop: int) -> Tensor:
            drawn.append(start)
            blocks.append((stop - start, 0.5))
            return torch.full((stop - start, 1, 2, 2), start, dtype=torch.uint8)

        return Subject(Supply(6, (1, 2, 2), draw), None, {}, blocks=blocks)

    first = kept(fresh(), tmp_path / "parts").supply
    assert first.draw(0, 2).unique().tolist() == [0] and first.draw(2, 4).unique().tolist() == [2]
    (tmp_path / "parts" / "2-4.npz").write_bytes(b"PK\x03\x04 cut off")
    again = kept(fresh(), tmp_path / "parts")
    assert [int(again.supply.draw(i, i + 2).unique()) for i in (0, 2, 4)] == [0, 2, 4]
    assert drawn == [0, 2, 2, 4]
    assert again.blocks == [(2, 0.5)] * 3


# The verbs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sweeps")
    data = load(write_blobs(folder / "blobs.npz", 400), progress=False)
    return train(
        "diffusion", data, out=folder / "run", budget="2steps", conditional=True,
        model={"width": 16, "multipliers": [1], "timesteps": 20}, settings={"batch": 8, "pictures": 0}, say=print,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly trained: how good it is, is not what is tested here."""

    def trained(dataset: Dataset) -> Classifier:
        x, labels = dataset.training()
        assert labels is not None
        return train_classifier(x, labels, len(dataset.class_names), steps=5)

    monkeypatch.setattr("trilemma.evaluation.sweeps.trained_classifier", trained)


@pytest.mark.parametrize(
    ("arguments", "count", "name"),
    [
        (["--curve", "--counts", "1,3"], 8, "curve"),
        (["--curve", "--sampler", "heun", "--counts", 2], 1, "curve-heun"),
        (["--guidance-sweep", "--weights", "2,0", "--steps", 2], 2, "guidance"),
    ],
)
def test_sweeps_answer_and_remember(
    run: Run,
    arguments: list[object],
    count: int,
    name: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    picture = tmp_path / f"{name}.png"
    line = ("query", run.path, *arguments, "-n", 140, "--out", picture)
    code, out, err = call(capsys, *line, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["known_before"] == 0 and len(record["points"]) == count
    assert record["protocol"]["n"] == 140 and record["floor"]["n"] > 0 and record["distance"] == "Fréchet"
    assert min(Image.open(picture).size) > 400
    assert json.loads(picture.with_suffix(".json").read_text())["points"] == record["points"]
    assert not picture.with_name(f"{name}-parts").exists()
    if name == "guidance":
        assert [point["guidance"] for point in record["points"]] == [0, 2]
        assert all(0 <= point["scores"]["accuracy"][0] <= 1 for point in record["points"])
    code, out, err = call(capsys, *line)
    assert code == 0, err
    assert f"{count} of {count} points were there" in out


def test_samplers_that_add_other_noise_are_points_of_their_own(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """DDIM at eta 0 and 1, and DDPM's two variances, stand in one ledger, one table and one plot."""
    picture = tmp_path / "curve.png"
    ways = [("ddim",), ("ddim", "--eta", 1), ("ddpm", "--variance", "small"), ("ddpm", "--variance", "large")]
    for known, way in enumerate(ways):
        line = ("query", run.path, "--curve", "--counts", 3, "-n", 140, "--out", picture, "--sampler", *way)
        code, out, err = call(capsys, *line, "--json")
        assert code == 0, err
        assert json.loads(out)["known_before"] == known
    record = json.loads(picture.with_suffix(".json").read_text())
    found = {Point(**point).label: point["scores"]["frechet"][0] for point in record["points"]}
    assert set(found) == {"ddim", "ddim eta=1", "ddpm small", "ddpm large"}
    assert found["ddim eta=1"] == pytest.approx(found["ddpm small"], rel=0.02)  # the same, but for rounding
    assert len(set(found.values()) - {found["ddim eta=1"]}) >= 2
    code, out, err = call(capsys, "query", run.path, "--curve", "--counts", 3, "-n", 140, "--out", picture,
                          "--sampler", "ddim")  # fmt: skip
    assert code == 0 and "4 of 4 points were there" in out and "ddim eta=1 " in out, err
    assert len({len(line) for line in out.splitlines() if line.startswith(("sampler", "dd"))}) == 1


def test_the_report_shows_what_was_asked(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The bound is drawn by every evaluation that asks for it; a sweep is shown if it is of the weights as they are."""
    out = tmp_path / "out"
    evaluate = (
        "evaluate",
        run.path,
        "-n",
        16,
        "--steps",
        2,
        "--metrics",
        "precision,bits_per_dim",
        "--likelihood-n",
        2,
    )
    line = ("query", run.path, "--guidance-sweep", "--weights", "1", "--steps", 2, "-n", 140)
    assert call(capsys, *line, "--out", out / "guidance.png")[0] == 0
    code, _, err = call(capsys, *evaluate, "--out", out)
    assert code == 0, err
    pictures = json.loads((out / "metrics.json").read_text())["pictures"]
    assert pictures["terms"] == "bound.png" and pictures["guidance"] == "guidance.png" and "curve" not in pictures
    page = denoising({"title": "Diffusion", "pictures": pictures}, out)
    assert page.count("<figure>") == 2 and "u + w(c − u)" in page
    assert denoising({"title": "GAN", "pictures": {"samples": "s.png"}}, out) == ""
    record = json.loads((out / "guidance.json").read_text())
    record["protocol"]["weights"] = "others"  # the run was trained on since
    (out / "guidance.json").write_text(json.dumps(record))
    assert call(capsys, *evaluate, "--out", out)[0] == 0
    assert "guidance" not in json.loads((out / "metrics.json").read_text())["pictures"]


def test_sweeps_out_of_place(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, fault in (
        (["--curve", "-n", 16, "--counts", "2"], "draw more images"),
        (["--curve", "--counts", "2,0"], "write numbers of steps"),
        (["--curve", "--counts", "21", "-n", 140], "between 1 and the 20"),
        (["--curve", "--times", "20,3", "-n", 140], "leave out --times"),
        (["--guidance-sweep", "--weights", "1,nan"], "write numbers of weights"),
        (["--guidance-sweep", "--counts", "2"], "--counts says nothing to --guidance-sweep"),
        (["--terms", "--reference", "2"], "--reference says nothing to --terms"),
        (["--invert", "--sampler", "heun", "--churn", "4"], "leave out --sampler ddpm, --eta and --churn"),
        (["--reverse", "--sampler", "heun", "--churn", "4"], "with churn the times go up as well as down"),
    ):
        code, _, err = call(capsys, "query", run.path, *arguments)
        assert code == 1, arguments
        assert fault in err and len(err.strip().splitlines()) == 1, (arguments, err)


def test_a_family_without_steps_has_no_curve(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    images, labels = blobs(80)
    np.savez(tmp_path / "blobs.npz", images=images, labels=labels)
    run = train("vae", tmp_path / "blobs.npz", out=tmp_path / "vae", budget="1steps", settings={"pictures": 0})
    code, _, err = call(capsys, "query", run.path, "--curve")
    assert code == 1 and "samples in one way" in err and len(err.strip().splitlines()) == 1, err


def test_a_point_of_one_image_does_not_end_a_sweep(run: Run, tmp_path: Path) -> None:
    bench = Bench.prepare(run, Protocol(n=140, reference=200), tmp_path, "cpu")
    held_out = bench.real.held_out
    same = replace(held_out, features=held_out.features[:1].expand_as(held_out.features))
    assert same.constant
    assert bench.scores(same, None)["frechet"] == (None, None)
