"""Students of few steps: against the closed form of a Gaussian, against their teachers, and as runs."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from denoisers import OneGaussian, ddpm, exact, spread
from tiny import call
from torch import Tensor

import trilemma
from trilemma.data import Dataset
from trilemma.families.diffusion import Consistency, ConsistencyConfig, ConsistencyOptions, Denoising, Diffusion, Flow
from trilemma.families.diffusion.consistency import COARSE, FINE, MEAN, SHARES, SPREAD, STEPS
from trilemma.families.diffusion.exchange import export_diffusers
from trilemma.families.diffusion.flow import FlowConfig
from trilemma.families.diffusion.model import DiffusionConfig
from trilemma.images import Spec, to_unit
from trilemma.noise import BatchNoise, ImageNoise
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.training import distill, import_run, train

SMALL = {"batch": 8, "log_every": 2, "pictures": 0, "warmup": 2}
S = 0.3
"""The standard deviation of the pixels of `OneGaussian`."""


class Exact(Consistency):
    """The consistency function of pixels N(0, S²): along a path x/α stays in proportion to √(S² + (σ/α)²)."""

    def jump(self, x_t: Tensor, level: Tensor, end: Tensor, labels: Tensor | None, weight: object = None) -> Tensor:
        alpha, _ = self.schedule.at(self.time(level), x_t)
        here, there = (S**2 + level**2).sqrt(), (S**2 + end**2).sqrt()
        # of x/α at s it is (there/here), which is 1 - s/t of f and s/t of x/α at t
        share = (there / here - end / level) / (1 - end / level)
        return x_t / alpha * share.view(-1, 1, 1, 1).to(x_t)


class Mean(Consistency):
    """The denoiser of the same pixels, the mean of x_0, in the place of a consistency function."""

    def jump(self, x_t: Tensor, level: Tensor, end: Tensor, labels: Tensor | None, weight: object = None) -> Tensor:
        alpha, _ = self.schedule.at(self.time(level), x_t)
        return x_t / alpha * (S**2 / (S**2 + level**2)).view(-1, 1, 1, 1).to(x_t)


def student(kind: type[Consistency] = Consistency, spec: Spec | None = None, **fields: object) -> Consistency:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ConsistencyConfig(**{"width": 16, "multipliers": (1,), **fields})  # type: ignore[arg-type]
        return kind(config, spec or Spec((1, 4, 4))).eval()


def pupil(teacher: Denoising, **fields: object) -> Consistency:
    config = ConsistencyConfig(**{**Consistency.student_of(teacher, "runs/teacher"), **fields})  # type: ignore[arg-type]
    made = Consistency(config, teacher.spec).eval()
    made.inherit(teacher)
    return made


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("path", [("flow", "velocity"), ("cosine", "v")])
def test_samples_of_the_exact_function_have_the_law_of_the_data(path: tuple[str, str], steps: int) -> None:
    """In any number of steps: 512 x 16 pixels, the scatter of whose variance is 1.6 %."""
    model = student(Exact, schedule=path[0], prediction=path[1], first=0.0)
    drawn = to_unit(sample(model, 512, options={"steps": steps, "clip": False}).images, 256)
    assert float(drawn.var()) == pytest.approx(S**2, rel=0.06)
    # The mean of x_0, which a denoiser gives, falls short of it in one jump.
    if steps == 1:
        blurred = sample(student(Mean, schedule=path[0], prediction=path[1], first=0.0), 512, options={"steps": 1})
        assert float(to_unit(blurred.images, 256).var()) < 0.01 * S**2


def test_along_the_teachers_path_the_exact_function_agrees_with_itself() -> None:
    """With a guided teacher x_r lies on the path of x_t, up to the error of one Euler step, and f is one image."""
    spec = Spec((1, 4, 4), classes=2)
    teacher = OneGaussian(DiffusionConfig(width=16, multipliers=(1,)), spec).eval()
    fields = Consistency.student_of(teacher, "runs/teacher")
    x = ((S * ImageNoise(1, range(64)).normal(1, 4, 4) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    found = {}
    for kind in (Exact, Mean):
        model = kind(ConsistencyConfig(**fields), spec)
        model.follow(teacher)
        model.begin(0.99)
        noise = BatchNoise((1,), 64, 0, 64, torch.device("cpu"))
        found[kind] = float(model.agreement(x, torch.zeros(64, dtype=torch.int64), noise).logs["distance"])
    assert found[Exact] < 0.03 * found[Mean]


TEACHERS = [
    pytest.param(lambda spec: Diffusion(DiffusionConfig(width=16, multipliers=(1,)), spec), id="v"),
    pytest.param(
        lambda spec: Diffusion(
            DiffusionConfig(width=16, multipliers=(1,), prediction="noise", schedule="linear", timesteps=100), spec
        ),
        id="noise",
    ),
    pytest.param(
        lambda spec: Diffusion(DiffusionConfig(width=16, multipliers=(1,), prediction="x0", schedule="snr"), spec),
        id="x0",
    ),
    pytest.param(
        lambda spec: Diffusion(
            DiffusionConfig(width=16, multipliers=(1,), objective="hybrid", variance="learned"), spec
        ),
        id="learned variance",
    ),
    pytest.param(lambda spec: Flow(FlowConfig(width=16, multipliers=(1,)), spec), id="flow"),
    pytest.param(lambda spec: ddpm(spec), id="ddpm network"),
]


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("make", TEACHERS)
def test_a_student_begins_as_its_teacher(make: object, classes: int) -> None:
    spec = Spec((1, 8, 8), classes=classes)
    teacher = make(spec).eval()  # type: ignore[operator]
    spread(teacher)
    made = pupil(teacher)
    x, labels = torch.randn(5, 1, 8, 8), (torch.arange(5) % 4 if classes else None)
    level = torch.tensor([0.05, 0.3, 1.0, 4.0, 15.0], dtype=torch.float64)
    weight = torch.linspace(1, 4, 5) if classes else None
    wanted = teacher.estimate(x, made.time(level), labels).x0
    assert torch.allclose(made.jump(x, level, 0.3 * level, labels, weight), wanted, atol=1e-5)
    assert (made.guide is not None) == bool(classes)


def test_guidance_reaches_the_images_and_nothing_outside_its_range_is_drawn() -> None:
    teacher = Flow(FlowConfig(width=16, multipliers=(1,)), Spec((1, 8, 8), classes=3))
    spread(teacher)
    made = pupil(teacher)
    drawn = [sample(made, 4, labels=[1], options={"guidance": w}, block=4).images for w in (1.0, 3.0)]
    assert torch.equal(*drawn)  # at first every weight is the teacher's 1
    spread(made)
    drawn = [sample(made, 4, labels=[1], options={"guidance": w}, block=4).images for w in (1.0, 3.0)]
    assert not torch.equal(*drawn)
    with pytest.raises(ValueError, match=r"^this student has learnt weights of guidance from 1 to 4, not 5$"):
        sample(made, 4, labels=[1], options={"guidance": 5.0})
    with pytest.raises(ValueError, match="nothing to lean to"):
        sample(made, 4, labels=[3], options={"guidance": 2.0})
    with pytest.raises(ValueError, match="has learnt no guidance"):
        sample(student(), 4, options={"guidance": 2.0})


def test_the_guided_teacher_leads() -> None:
    """x_0 and ε are those of u + w(c - u), with a weight for each row."""
    spec = Spec((1, 8, 8), classes=3)
    teacher = Flow(FlowConfig(width=16, multipliers=(1,)), spec).eval()
    spread(teacher)
    made = pupil(teacher)
    made.follow(teacher)
    x, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 3])
    level, weight = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64), torch.tensor([1.0, 2.5, 4.0])
    x0, eps = made.led(x, level, labels, weight)
    for i in range(3):
        one = teacher.estimate(x[i : i + 1], made.time(level[i : i + 1]), labels[i : i + 1], float(weight[i]))
        assert torch.allclose(x0[i], one.x0[0], atol=1e-4)
        assert torch.allclose(eps[i], one.eps[0], atol=1e-4)
    assert "teacher" not in "".join(made.state_dict())


def test_the_rate_comes_to_rest_between_the_parts_and_the_gap_halves() -> None:
    model = student(first=0.5, rate=0.2)
    rates = [model.begin(spent) for spent in (0.0, 0.3, 0.499, 0.5, 0.6, 0.999)]
    assert rates[0] == rates[1] == 1
    assert rates[2] < 0.01 and rates[3] < 0.01 and rates[5] < 0.01
    assert rates[4] == pytest.approx(0.2)
    gaps = []
    for spent in torch.linspace(0.5, 1, 101).tolist():
        model.begin(spent)
        gaps.append(model.gap)
    assert gaps[0] == COARSE and gaps[-1] == gaps[80] == FINE
    assert {b / a for a, b in itertools.pairwise(gaps)} == {1.0, 2.0}


def test_options_say_what_will_not_do() -> None:
    assert {ConsistencyOptions(steps=steps).steps for steps in STEPS} == {1, 2, 4, 8}
    with pytest.raises(ValueError, match=r"^steps must be 1, 2, 4 or 8, for which a student is trained, not 3$"):
        ConsistencyOptions(steps=3)
    for fields, words in (
        ({"schedule": "cosine"}, "belong together"),
        ({"schedule": "cosine", "prediction": "v"}, "only the schedule flow is trained from nothing"),
        ({"first": 1.0}, "there is no student"),
        ({"guidance": (1.0, 3.0)}, "that a teacher shows"),
    ):
        with pytest.raises(ValueError, match=words):
            ConsistencyConfig(**fields)  # type: ignore[arg-type]


def test_what_is_known_of_an_image_is_kept() -> None:
    model, spec = student(Exact), Spec((1, 4, 4))
    x = ImageNoise(2, range(6)).integers(256, *spec.shape).to(torch.uint8)
    known = torch.zeros(spec.shape, dtype=torch.bool)
    known[:, :2] = True
    done = model.complete(x, known, ImageNoise(0, range(6)))
    assert torch.equal(done.images[:, :, :2], x[:, :, :2])
    assert not torch.equal(done.images[:, :, 2:], x[:, :, 2:])
    assert not model.completion_method(known).exact


# Runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of few steps of training, without and with classes, and a GAN."""
    from conftest import write_blobs

    folder = tmp_path_factory.mktemp("students")
    data = write_blobs(folder / "blobs.npz", 400)
    for name, conditional in (("teacher", False), ("classes", True)):
        train(
            "diffusion", str(data), out=folder / name, budget="6steps", conditional=conditional, settings=SMALL,
            model={"width": 16, "multipliers": (1,), "prediction": "noise", "schedule": "linear"}, device="cpu",
            say=lambda line: None,
        )  # fmt: skip
    train("gan", str(data), out=folder / "gan", budget="2steps", settings=SMALL, device="cpu", say=lambda line: None)
    return folder


def taught(folders: Path, name: str, out: Path, budget: str, **more: object) -> Run:
    return distill(folders / name, out=out, budget=budget, settings=SMALL, device="cpu", say=lambda line: None, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["teacher", "classes"])
def test_distilling_in_parts_equals_distilling_at_once(folders: Path, tmp_path: Path, name: str) -> None:
    whole = taught(folders, name, tmp_path / "whole", "6steps")
    # The first part stops where the whole one was after as many steps of the same budget.
    stop = train_until(folders / name, tmp_path / "parts", 3)
    parts = taught(folders, name, tmp_path / "parts", "6steps", resume=True)
    assert stop == 3
    a, b = whole.load(), parts.load()
    assert a.step == b.step == 6
    assert all(torch.equal(a.model[key], b.model[key]) for key in a.model)
    assert a.ema is not None and b.ema is not None
    assert all(torch.equal(a.ema[key], b.ema[key]) for key in a.ema)
    teacher = Run.open(folders / name).load().ema
    assert teacher is not None
    moved = [key for key in teacher if not torch.equal(teacher[key], a.ema[f"{key}"])]
    assert moved, "the student was trained"


def train_until(teacher: Path, out: Path, steps: int) -> int:
    """Distil for a budget of 6 steps and stop after some, as a signal does; how many were done."""
    import os
    import signal

    def stop(report: object) -> None:
        if getattr(report, "step", 0) >= steps:
            os.kill(os.getpid(), signal.SIGTERM)

    settings = {**SMALL, "log_every": 1}
    run = distill(
        teacher, out=out, budget="6steps", settings={**settings}, device="cpu", say=lambda line: None, progress=stop
    )
    config = json.loads((out / "config.json").read_text("utf-8"))
    config["train"]["log_every"] = SMALL["log_every"]
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return int(run.progress()["step"])


def test_before_its_first_step_a_student_draws_what_its_teacher_estimates(folders: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "lr": 1e-12}
    run = distill(
        folders / "teacher", out=tmp_path / "s", budget="1steps", settings=settings, device="cpu", say=lambda line: None
    )
    made, teacher = run.model(), Run.open(folders / "teacher").model()
    assert isinstance(made, Consistency) and isinstance(teacher, Diffusion)
    z = ImageNoise(0, range(3)).normal(1, 8, 8)
    level = torch.full((3,), made.start, dtype=torch.float64)
    x = float(made.schedule.polar(made.time(level))[0][0].sin()) * z
    one = teacher.spec.from_unit(teacher.estimate(x, made.time(level), None).x0.clamp(-1, 1))
    drawn = made.decode(z, ImageNoise(0, range(3)), options=ConsistencyOptions(steps=1, precision="fp32"))
    assert (one.int() - drawn.int()).abs().max() <= 1


def test_a_student_is_a_run_like_every_other(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "student"
    code, said, err = call(
        capsys, "distill", folders / "classes", "--out", out, "--budget", "4steps", "--train.batch", 8, "--guidance",
        1, 3, "--device", "cpu", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(said)["step"] == 4
    run = Run.open(out)
    assert run.config.model.guidance == (1.0, 3.0) and run.config.model.teacher.endswith("classes")
    assert sample(run, 5, labels=[2], options={"steps": 4, "guidance": 2.0}).images.shape == (5, 1, 8, 8)
    answer = trilemma.ask(run, "interpolate", n=4, points=3)
    assert answer.arrays["between"].shape == (2, 3, 1, 8, 8)
    assert answer.figures
    assert trilemma.ask(run, "complete", n=2, copies=2).kind == "estimate"
    with pytest.raises(ValueError, match="log p.x. is undefined for consistency"):
        trilemma.ask(run, "classify")
    assert trilemma.log_likelihood(run, torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).kind == "undefined"
    # Nothing of the teacher is needed to draw.
    away = shutil.copytree(out, tmp_path / "elsewhere")
    assert sample(Run.open(away), 2).images.shape == (2, 1, 8, 8)


def test_the_curve_of_a_student_has_its_teacher(folders: Path, tmp_path: Path) -> None:
    run = taught(folders, "teacher", tmp_path / "student", "2steps")
    answer = trilemma.ask(run, "curve", n=160, counts=(1, 2))
    points = answer.values["points"]
    own = [(p["steps"], p["evaluations"]) for p in points if p["sampler"] == "student"]
    assert own == [(1, 1), (2, 2)]
    theirs = {p["sampler"] for p in points} - {"student"}
    assert theirs == {"teacher, ddim", "teacher, heun"}
    best = min(p["scores"]["frechet"][0] for p in points if p["sampler"] != "student")
    mine = min(p["scores"]["frechet"][0] for p in points if p["sampler"] == "student")
    assert answer.numbers["student_over_teacher"].value == pytest.approx(mine / best)
    assert answer.figures["curve"]
    again = trilemma.ask(run, "curve", n=160, counts=(1, 2))
    assert again.values["points"] == points
    with pytest.raises(ValueError, match="steps must be 1, 2, 4 or 8, .* not 9"):
        trilemma.ask(run, "curve", n=160, counts=(9,))


def test_what_cannot_be_distilled(folders: Path, tmp_path: Path, blobs_data: Dataset) -> None:
    out = tmp_path / "student"
    with pytest.raises(ValueError, match="is a gan, which has no denoiser to learn from: diffusion and flow have"):
        distill(folders / "gan", out=out)
    made = taught(folders, "teacher", tmp_path / "made", "1steps")
    with pytest.raises(
        ValueError, match=f"is a student of few steps already: distill its teacher .*{re.escape('teacher')}"
    ):
        distill(made, out=out)
    with pytest.raises(ValueError, match="there is no guidance to learn"):
        distill(folders / "teacher", out=out, guidance=(1.0, 2.0))
    with pytest.raises(ValueError, match="no longer holds the images"):
        distill(folders / "teacher", blobs_data, out=out)
    assert not out.exists()


def test_a_student_of_an_imported_model(tmp_path: Path, blobs_file: Path) -> None:
    """It does not know its images, so they are named; a path from elsewhere is the student's own."""
    pipeline = export_diffusers(ddpm(Spec((1, 8, 8)), schedule="linear", prediction="noise"), tmp_path / "pipeline")
    teacher = import_run(pipeline, tmp_path / "teacher")
    with pytest.raises(ValueError, match="does not know its images, as it was imported: name them after it"):
        distill(teacher, out=tmp_path / "s")
    run = distill(
        teacher, blobs_file, out=tmp_path / "s", budget="2steps", settings=SMALL, device="cpu", say=lambda line: None
    )
    assert (run.config.model.schedule, run.config.model.prediction) == ("linear", "noise")
    assert run.config.model.network == "ddpm" and run.config.model.timesteps == 60
    assert sample(run, 2, options={"steps": 2}).images.shape == (2, 1, 8, 8)


def test_a_student_of_captions(tmp_path: Path) -> None:
    data = trilemma.load("mnist-pairs", limit=120)
    teacher = train(
        "flow", data, out=tmp_path / "teacher", budget="1steps", text=True, settings=SMALL, device="cpu",
        model={"width": 16, "multipliers": (1,), "text_width": 64, "text_layers": 1}, say=lambda line: None,
    )  # fmt: skip
    run = distill(teacher, out=tmp_path / "s", budget="2steps", settings=SMALL, device="cpu", say=lambda line: None)
    assert run.config.spec == teacher.config.spec and run.config.model.guidance == (1.0, 4.0)
    caption = str(data.captions[0])  # type: ignore[index]
    drawn = sample(run, 2, text=caption, options={"steps": 2, "guidance": 2.0})
    assert drawn.images.shape == (2, *run.config.spec.shape)


def test_a_teacher_that_is_gone_is_said(folders: Path, tmp_path: Path) -> None:
    teacher = shutil.copytree(folders / "classes", tmp_path / "teacher")
    run = distill(teacher, out=tmp_path / "s", budget="1steps", settings=SMALL, device="cpu", say=lambda line: None)
    shutil.rmtree(teacher)
    with pytest.raises(ValueError, match="is not a run folder"):
        train("consistency", out=run.path, budget="2steps", resume=True, device="cpu", say=lambda line: None)
    answer = trilemma.ask(run, "curve", n=160, counts=(1,))
    assert "is no longer there" in answer.lines()[0]


@pytest.mark.slow
def test_few_steps_find_the_modes_of_the_ring(tmp_path: Path) -> None:
    """Half a minute: eight modes, and most of four jumps end within three standard deviations of one."""
    run = train("consistency", "ring", out=tmp_path / "ring", budget="2500steps", device="cpu", say=lambda line: None)
    centres = torch.tensor([[math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)] for k in range(8)])
    drawn = sample(run, 2000, options={"steps": 4}).images
    distance, mode = torch.cdist(drawn, centres).min(1)
    near = distance < 0.1
    assert float(near.float().mean()) > 0.6
    assert len(mode[near].unique()) == 8


def test_steps_end_where_they_should() -> None:
    """At tan(k·90°/n) to the power of 1.6; a step that starts at one of the ends goes to the next."""
    model, level = student(), torch.tensor([80.0, 1.0, 0.25, 0.01], dtype=torch.float64)
    for steps, wanted in (
        (1, [0, 0, 0, 0]),
        (2, [1, 0, 0, 0]),
        (4, [2.41421356**1.6, 0.41421356**1.6, 0.41421356**1.6, 0]),
    ):
        found = model.end(level, torch.full((4,), float(steps), dtype=torch.float64))
        assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-7)
    counts = model.steps(ImageNoise(0, range(4000)))
    for steps, share in zip(STEPS, SHARES, strict=True):
        assert float((counts == steps).double().mean()) == pytest.approx(share, abs=0.03)


def test_the_closed_form_follows_the_denoiser() -> None:
    """The two laws used here are one: a jump of no length is the mean of x_0."""
    model, teacher = student(Exact, schedule="cosine", prediction="v", first=0.0), exact()
    x, level = torch.full((1, 1, 4, 4), 0.2), torch.tensor([0.7], dtype=torch.float64)
    assert torch.allclose(
        model.jump(x, level, level - 1e-5, None), teacher.estimate(x, model.time(level), None).x0, atol=1e-4
    )


def test_a_target_is_the_image_where_the_step_ends() -> None:
    """With r = s the loss is that of a denoiser, with s = 0 that of a consistency model."""
    model = student(Mean, first=0.0)
    model.begin(0.99)
    x = ((S * ImageNoise(1, range(64)).normal(1, 4, 4) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    noise = BatchNoise((1,), 64, 0, 64, torch.device("cpu"))
    model.end = lambda level, steps: level - 1e-9  # type: ignore[method-assign]
    found = float(model.agreement(x, None, noise).logs["distance"])
    noise = BatchNoise((1,), 64, 0, 64, torch.device("cpu"))
    x0, eps = to_unit(x, 256), noise.normal(1, 4, 4)
    t = (MEAN + SPREAD * noise.normal()).double().exp().clamp(float(model.levels[1]), model.start)
    off = model.jump(model.noised(x0, eps, t), t, t, None) - x0
    assert found == pytest.approx(float(off.square().flatten(1).mean(1).sqrt().mean()), rel=0.01)
