"""Completion by a denoiser: RePaint against exact conditionals, image to image, and the verb."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trilemma.families.diffusion import Diffusion, DiffusionConfig, Flow, FlowConfig, base
from trilemma.families.diffusion.denoiser import Estimate
from trilemma.families.diffusion.repaint import RePaintOptions, repaint
from trilemma.families.diffusion.samplers import DDPM
from trilemma.families.diffusion.schedule import Schedule
from trilemma.families.family import Completes
from trilemma.images import Spec, from_unit
from trilemma.noise import BatchNoise, ImageNoise
from trilemma.questions.complete import complete, known_part

CPU = torch.device("cpu")


def variance_of(made: Diffusion | Flow, asked: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The reverse variance that a completion by the model is drawn with."""
    kinds: list[str] = []

    def listening(*arguments: Any) -> Tensor:
        kinds.append(arguments[7].variance)
        return repaint(*arguments)

    monkeypatch.setattr(base, "repaint", listening)
    x, options = torch.zeros((1, *made.spec.shape), dtype=torch.uint8), RePaintOptions(steps=3, variance=asked)  # type: ignore[arg-type]
    made.complete(x, known_part("top", made.spec), ImageNoise(0, [0]), None, options)
    return kinds[0]


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_the_variance_of_a_completion(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learned one where there is one, else the large; a learned one that there is not is refused."""
    made = model(kind, Spec((1, 6, 6)))
    assert variance_of(made, "auto", monkeypatch) == variance_of(made, "large", monkeypatch) == "large"
    assert variance_of(made, "small", monkeypatch) == "small"
    with pytest.raises(ValueError, match="learned no variance"):
        variance_of(made, "learned", monkeypatch)
    if kind == "diffusion":
        net = {"width": 16, "multipliers": (1,), "timesteps": 40}
        learned = Diffusion(DiffusionConfig(objective="hybrid", variance="learned", **net), made.spec)  # type: ignore[arg-type]
        assert [variance_of(learned, asked, monkeypatch) for asked in ("auto", "learned", "large")] == [
            "learned", "learned", "large",
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_repaint_on_a_correlated_gaussian(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pixels of correlation 0.9, one known: the other follows p(unknown | known) with repeats, and not without.

    Drawn with the variance that completion takes by itself.
    """
    kind: Any = variance_of(model("flow" if name == "flow" else "diffusion", Spec((1, 6, 6))), "auto", monkeypatch)
    schedule = Schedule.flow(1000) if name == "flow" else Schedule.named("cosine", 1000)
    s, rho, n, given = 0.5, 0.9, 3000, 0.6
    covariance = s**2 * torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)

    def denoise(x_t: Tensor, t: int) -> Estimate:
        a, v = float(schedule.alpha_bar[t]), float(schedule.variance[t])
        gain = math.sqrt(a) * covariance @ torch.linalg.inv(a * covariance + v * torch.eye(2, dtype=torch.float64))
        x0 = x_t @ gain.T
        return Estimate(x0, (x_t - math.sqrt(a) * x0) / math.sqrt(v))

    x0 = torch.tensor([given, 0.0], dtype=torch.float64).expand(n, 1, 1, 2)
    known = torch.tensor([True, False]).view(1, 1, 2)
    mean, variance = rho * given, s**2 * (1 - rho**2)
    bias = {}
    for repeats in (1, 10):
        noise = BatchNoise((name, repeats), n, 0, n, CPU)
        times = schedule.times(30, "trailing")
        x = repaint(denoise, schedule, times, x0, known, noise, repeats, DDPM(kind))
        assert bool((x[..., 0] == given).all())
        bias[repeats] = float(x[..., 1].mean()) - mean, float(x[..., 1].var()) / variance
    assert abs(bias[1][0]) > 0.05, bias
    assert abs(bias[10][0]) < 0.07, bias
    assert bias[10][1] == pytest.approx(1, abs=0.3), bias


def test_a_low_level_keeps_the_image() -> None:
    """From little noise the image comes back; with the exact denoiser of one image any level leads to it."""
    schedule = Schedule.named("cosine", 100)
    image = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)

    def denoise(x_t: Tensor, t: int) -> Estimate:
        return Estimate(image, (x_t - float(schedule.signal[t]) * image) / float(schedule.sigma[t]))

    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    for level in (0.1, 1.0):
        options = RePaintOptions(level=level, steps=20)
        x = repaint(denoise, schedule, options.times_below(schedule), -image, nothing, ImageNoise(0, [0]), 5)
        assert torch.allclose(x, image, atol=1e-5)


def model(kind: str, spec: Spec) -> Diffusion | Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = {"width": 16, "multipliers": (1,), "timesteps": 40}
        made = Diffusion(DiffusionConfig(**net), spec) if kind == "diffusion" else Flow(FlowConfig(**net), spec)  # type: ignore[arg-type]
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
@pytest.mark.parametrize("keep", ["top", "left", "grid2", "none"])
def test_the_verb_completes_with_any_mask(kind: str, keep: str) -> None:
    spec = Spec((1, 6, 6), classes=2)
    made = model(kind, spec)
    assert isinstance(made, Completes)
    x = ImageNoise(1, range(3)).integers(256, 1, 6, 6).to(torch.uint8)
    known = known_part(keep, spec)
    options = RePaintOptions(steps=4, repeats=2, guidance=2.0)
    labels = torch.tensor([0, 1, 2])
    answer = complete(made, x, known, 2, labels=labels, options=options, indices=[4, 5, 6])
    assert answer.images.shape == (3, 2, 1, 6, 6)
    assert answer.effective is None and not answer.exact
    assert "approximate" in answer.how and ("RePaint" in answer.how) == (keep != "none")
    for copy in (0, 1):
        assert torch.equal(answer.images[:, copy][:, known], x[:, known])
    assert not torch.equal(answer.images[:, 0], answer.images[:, 1])
    alone = complete(made, x[1:2], known, 2, labels=labels[1:2], options=options, indices=[5])
    assert (alone.images[0].int() - answer.images[1].int()).abs().max() <= 1
    # What is not kept is not looked at.
    other = torch.where(known, x, 255 - x)
    assert torch.equal(
        complete(made, other, known, 2, labels=labels, options=options, indices=[4, 5, 6]).images, answer.images
    )


def test_levels_stay_near_the_image() -> None:
    made, x = model("diffusion", Spec((1, 6, 6))), torch.full((1, 1, 6, 6), 200, dtype=torch.uint8)
    known = known_part("none", made.spec)
    far = [
        (complete(made, x, known, 8, options=RePaintOptions(steps=10, level=level)).images.float() - 200).abs().mean()
        for level in (0.05, 1.0)
    ]
    assert far[0] < 25 < far[1]
    assert "noise level 0.05" in complete(made, x, known, 1, options=RePaintOptions(level=0.05)).how


def test_grids_and_mistakes() -> None:
    spec = Spec((3, 7, 9))
    grid = known_part("grid4", spec)
    assert grid[0].nonzero().tolist() == [[0, 0], [0, 4], [0, 8], [4, 0], [4, 4], [4, 8]]
    assert bool((grid[0] == grid[2]).all())
    assert from_unit(torch.zeros(1), 256).item() == 128
    for bad in ({"repeats": 0}, {"level": 0.0}, {"level": 1.5}, {"sampler": "ddim"}, {"steps": 0}):
        with pytest.raises(ValueError):
            RePaintOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unconditional"):
        complete(
            model("flow", Spec((1, 6, 6))),
            torch.zeros(1, 1, 6, 6).byte(),
            known_part("top", Spec((1, 6, 6))),
            labels=torch.zeros(1).long(),
        )
