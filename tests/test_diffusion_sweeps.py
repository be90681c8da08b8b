"""Runs measured under many settings: the speed-quality curve and the sweep of guidance, and going on after a kill."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import blobs, write_blobs
from denoisers import exact
from PIL import Image
from tiny import call
from torch import Tensor

from trilemma import ask
from trilemma.data import Dataset, load
from trilemma.evaluation import Protocol, curve, guidance
from trilemma.evaluation.stream import Supply
from trilemma.evaluation.subject import Subject
from trilemma.evaluation.sweeps import Bench, Ledger, Point, kept, sweep
from trilemma.families.diffusion import Diffusion, DiffusionConfig, DiffusionOptions, Flow, FlowConfig
from trilemma.families.diffusion.denoiser import Estimate
from trilemma.images import Spec, to_unit
from trilemma.metrics import Classifier, train_classifier
from trilemma.questions import Answer, Context
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


def test_the_cheapest_good_sampler_is_named() -> None:
    cheap, best = curve.cheapest(points())
    assert (cheap.sampler, cheap.steps) == ("heun", 5)  # 9 evaluations, 5.45 ≤ 1.1 · 4.99
    assert (best.sampler, best.steps) == ("heun", 50)
    assert curve.verdict(points()).startswith("cheapest within 10% of the best: heun in 5 steps (9 evaluations")
    floor = {"frechet": (3.0, None), "precision": (0.9, 0.1), "recall": (0.9, 0.1)}
    lines = curve.table(points(), floor).lines()
    assert len(lines) == 7 and "held-out real images" in lines[-1]
    assert "5.45 ± 0.10" in "".join(curve.table(points()).lines())
    assert min(curve.draw_curve(points(), floor, "t", "p").pixels().size) > 300
    with pytest.raises(ValueError, match="draw more images"):
        curve.cheapest([Point("ddim", 1, 1, 1.0, {"frechet": (None, None)})])


def test_every_sampler_has_its_points_and_no_two_are_the_same() -> None:
    model, spec = exact(200), Spec((1, 4, 4))
    own = curve.settings(model, DiffusionOptions())
    assert {each.sampler for each in own} == {"ddim", "ddpm", "heun", "dpm-solver"}
    assert [each.steps for each in own] == sorted(each.steps for each in own)
    assert {each.steps for each in own} == {1, 2, 5, 10, 20, 50, 100}  # it has no 1000
    flow = Flow(FlowConfig(width=16, multipliers=(1,), timesteps=50), spec)
    assert {each.sampler for each in curve.settings(flow, flow.Options())} == {"euler", "ddpm", "heun", "dpm-solver"}
    noisy = curve.settings(model, DiffusionOptions(eta=1.0))
    assert {(each.sampler, each.eta) for each in noisy} == {
        ("ddim", 1), ("ddpm", 0), ("heun", 0), ("dpm-solver", 0), ("euler", 0),
    }  # fmt: skip
    with pytest.raises(ValueError, match="between 1 and the 200"):
        curve.settings(model, DiffusionOptions(), counts=(2000,))


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
    assert [(each.sampler, each.steps) for each in curve.settings(student, FewOptions())] == [("ddim", 1), ("ddim", 2)]


def test_the_curve_of_an_exact_model_falls() -> None:
    """Scored by the error of the variance, more steps are better, and all samplers get there."""
    model = exact()

    def measure(options: DiffusionOptions, progress: object) -> tuple[dict[str, tuple[float, None]], float]:
        drawn = sample(model, 256, options=options)
        return {"frechet": (abs(float(to_unit(drawn.images, 256).var()) / 0.09 - 1), None)}, 0.1

    told: list[tuple[int, int]] = []
    settings = curve.settings(model, DiffusionOptions(), ("ddim", "dpm-solver"), (1, 4, 40))
    found = sweep(settings, model.schedule, measure, progress=lambda done, of: told.append((done, of)))
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
    settings = guidance.settings(model, DiffusionOptions(steps=20), (0.0, 1.0, 2.0))

    def measure(options: DiffusionOptions, progress: object) -> tuple[dict[str, tuple[float, None]], float]:
        images = sample(model, 256, labels=[1], options=options).images
        return {"frechet": (float(to_unit(images, 256).mean()), None)}, 0.1

    means = [point.frechet for point in sweep(settings, model.schedule, measure)]
    assert means == pytest.approx([0.0, 0.4, 0.8], abs=0.03)


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


def test_the_picture_of_a_sweep() -> None:
    found = [
        Point("ddim", 5, 5, 0.1, {"frechet": (5.0 + w, 0.1), "precision": (0.5, 0.1), "recall": (0.5 - w / 20, 0.1),
                                  "accuracy": (0.1 + w / 10, 0.01)}, w)
        for w in (0.0, 1.0, 3.0)
    ]  # fmt: skip
    floor = dict.fromkeys(("frechet", "precision", "recall", "accuracy"), (0.9, 0.01))
    rows = torch.zeros(3, 4, 1, 8, 8, dtype=torch.uint8)
    assert min(guidance.draw_guidance(found, floor, rows, 256, "t", "p").pixels().size) > 400
    assert len(guidance.table(found, floor).lines()) == 5
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
    settings = curve.settings(model, DiffusionOptions(), ("ddim",), (1, 2, 5))
    book = Ledger(path, {"n": 10})
    with pytest.raises(KeyboardInterrupt):
        sweep(settings, model.schedule, measure, known=book.points, keep=book.add)
    path.write_text(path.read_text() + '{"protocol": {"n": 10}, "poi')  # a kill in the middle of a line
    asked.clear()
    again = Ledger(path, {"n": 10})
    found = sweep(settings, model.schedule, measure, known=dict(again.points), keep=again.add)
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


# The questions


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
    ("question", "fields", "count", "name"),
    [
        ("curve", {"counts": "1,3"}, 8, "curve"),
        ("curve", {"sampler": "heun", "counts": "2"}, 1, "curve-heun"),
        ("guidance", {"weights": "2,0", "steps": "2"}, 2, "guidance"),
    ],
)
def test_sweeps_answer_and_remember(
    run: Run,
    question: str,
    fields: dict[str, str],
    count: int,
    name: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    picture = tmp_path / f"{name}.png"
    arguments = [word for key, value in fields.items() for word in (f"--{key}", value)]
    line = ["query", question, str(run.path), *arguments, "-n", "140", "--out", str(picture)]
    code, out, err = call(capsys, *line, "--json")
    assert code == 0, err
    record = json.loads(out)
    values = record["values"]
    assert values["known_before"] == 0 and len(values["points"]) == count
    assert values["protocol"]["n"] == 140 and values["floor"]["n"] > 0 and values["distance"] == "Fréchet"
    assert min(Image.open(picture).size) > 400
    assert json.loads(picture.with_suffix(".json").read_text())["values"]["points"] == values["points"]
    assert len(picture.with_suffix(".jsonl").read_text().splitlines()) == count
    assert not picture.with_name(f"{name}-parts").exists()
    best = record["numbers"]["lowest_frechet" if question == "guidance" else "best_frechet"]
    assert best["value"] == min(point["scores"]["frechet"][0] for point in values["points"])
    if question == "guidance":
        assert [point["guidance"] for point in values["points"]] == [0, 2]
        assert all(0 <= point["scores"]["accuracy"][0] <= 1 for point in values["points"])
    assert f"{count} of {count} points were there" in call(capsys, *line)[1]


def test_a_stopped_sweep_goes_on_where_it_stopped(run: Run, tmp_path: Path) -> None:
    """The point that is finished is not measured again, and the answer is that of a sweep in one go."""
    asked = curve.Curve(n=140, reference=140, counts=(1, 2), options={"sampler": "ddim"})

    def stop(done: int, total: int) -> None:
        if 3 * done > total:  # the second point takes two of three evaluations
            raise KeyboardInterrupt

    folder = tmp_path / "answers"
    with pytest.raises(KeyboardInterrupt):
        asked.answer(Context(run, 0, "cpu", stop, folder))
    assert len((folder / "curve.jsonl").read_text().splitlines()) == 1
    assert any((folder / "curve-parts").iterdir())
    again, whole = asked.answer(Context(run, 0, "cpu", None, folder)), asked.answer(Context(run, 0, "cpu"))
    assert again.values["known_before"] == 1 and whole.values["known_before"] == 0 and whole.values["ledger"] is None
    assert [point["scores"] for point in again.values["points"]] == [
        point["scores"] for point in whole.values["points"]
    ]
    assert not (folder / "curve-parts").exists()


def test_samplers_that_add_other_noise_are_points_of_their_own(run: Run, tmp_path: Path) -> None:
    """DDIM at eta 0 and 1, and DDPM's two variances, stand in one ledger, one table and one plot."""

    def asked(**options: Any) -> Answer:
        question = curve.Curve(n=140, counts=(3,), options=options)
        return question.answer(Context(run, folder=tmp_path / "curve.png"))

    kinds = [{"sampler": "ddim"}, {"sampler": "ddim", "eta": 1}, {"sampler": "ddpm", "variance": "small"},
            {"sampler": "ddpm", "variance": "large"}]  # fmt: skip
    for known, options in enumerate(kinds):
        answer = asked(**options)
        assert answer.values["known_before"] == known
    found = {Point(**point).label: point["scores"]["frechet"][0] for point in answer.values["points"]}
    assert set(found) == {"ddim", "ddim eta=1", "ddpm small", "ddpm large"}
    assert found["ddim eta=1"] == pytest.approx(found["ddpm small"], rel=0.02)  # the same, but for rounding
    assert len(set(found.values()) - {found["ddim eta=1"]}) >= 2
    lines = asked(sampler="ddim").lines()
    assert "4 of 4 points were there" in "".join(lines) and any(line.startswith("ddim eta=1 ") for line in lines)
    assert len({len(line) for line in lines if line.startswith(("sampler", "dd"))}) == 1


@pytest.mark.parametrize(
    ("question", "fields", "fault"),
    [
        ("curve", {"n": 16, "counts": (2,)}, "draw more images"),
        ("curve", {"counts": (2, 0)}, "counts must be values at least 1"),
        ("curve", {"counts": (21,), "n": 140}, "between 1 and the 20"),
        ("curve", {"options": {"times": "20,3"}, "n": 140}, "leave out times"),
        ("guidance", {"weights": (1, float("nan"))}, "weights must be"),
        ("guidance", {"weights": (1, -1)}, "weights must be values at least 0"),
        ("guidance", {"counts": (2,)}, "has no 'counts'"),
        ("terms", {"reference": 2}, "has no 'reference'"),
    ],
)
def test_sweeps_out_of_place(run: Run, question: str, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises((ValueError, TypeError), match=fault) as error:
        ask(run, question, **fields)
    assert "\n" not in str(error.value)


def test_who_has_no_curve_and_no_guidance(tmp_path: Path) -> None:
    images, labels = blobs(80)
    np.savez(tmp_path / "blobs.npz", images=images, labels=labels)
    small = {"batch": 8, "pictures": 0}
    vae = train("vae", tmp_path / "blobs.npz", out=tmp_path / "vae", budget="1steps", settings=small)
    for question in ("guidance", "forward"):
        with pytest.raises(ValueError, match="it needs a denoiser, which vae does not have; diffusion and flow do"):
            ask(vae, question)
    with pytest.raises(ValueError, match="a denoiser or a student of few steps, which vae does not have"):
        ask(vae, "curve")
    model = {"width": 16, "multipliers": [1], "timesteps": 20}
    plain = train("flow", tmp_path / "blobs.npz", out=tmp_path / "flow", budget="1steps", model=model, settings=small)
    with pytest.raises(ValueError, match="class-conditional"):
        ask(plain, "guidance")


def test_a_point_of_one_image_does_not_end_a_sweep(run: Run) -> None:
    bench = Bench.prepare(Context(run, device="cpu"), Protocol(n=140, reference=200), "curve")
    held_out = bench.real.held_out
    same = replace(held_out, features=held_out.features[:1].expand_as(held_out.features))
    assert same.constant
    assert bench.scores(same, None)["frechet"] == (None, None)
