"""Questions to denoising models: their own mathematics, and the verb as a user types it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_blobs
from denoisers import exact
from PIL import Image
from tiny import call
from torch import Tensor

from trilemma import ask, drawing
from trilemma.data import load
from trilemma.drawing import Film
from trilemma.families.diffusion import Denoising, DiffusionConfig, DiffusionOptions, prior_term
from trilemma.families.diffusion.denoiser import read
from trilemma.families.diffusion.schedule import Schedule
from trilemma.images import to_unit
from trilemma.likelihood import log_likelihood
from trilemma.noise import ImageNoise, Noise
from trilemma.questions import Answer
from trilemma.questions.forward import end_moments, kolmogorov_smirnov, step_by_step
from trilemma.questions.invert import draw_interpolation, interpolate, invert, slerp
from trilemma.questions.ode import flow_likelihood
from trilemma.questions.reverse import reverse_chain
from trilemma.questions.strip import animate
from trilemma.questions.terms import bound_by_time
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.training import train


def test_the_exact_model_is_read_as_one() -> None:
    model, t = exact(), 300
    x = torch.randn(2, 1, 4, 4)
    estimate = model.estimate(x, t, None)
    a = float(model.schedule.alpha_bar[t])
    assert torch.allclose(estimate.x0, math.sqrt(a) * 0.09 / (a * 0.09 + 1 - a) * x, atol=1e-6)
    signal, sigma = float(model.schedule.signal[t]), float(model.schedule.sigma[t])
    assert torch.equal(read(estimate.x0, x, signal, sigma, "x0").x0, estimate.x0)


def test_the_equation_and_the_bound_on_a_gaussian() -> None:
    """Both say what the truth is, the equation more nearly."""
    model, n = exact(), 40
    x = ((0.3 * ImageNoise(0, range(n)).normal(1, 4, 4) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    density = torch.distributions.Normal(0.0, 0.3)
    truth = -(density.log_prob(to_unit(x, 256)) + math.log(2 / 255)).mean() / math.log(2)
    terms = bound_by_time(model, x)
    total, error = terms.total
    assert float(truth) < total + 3 * error < float(truth) + 1.2  # the small variance is not the best of a Gaussian
    assert terms.bits.shape == (n, 1001) and bool((terms.bits[:, 1:] >= -1e-12).all())
    assert "L_T" in terms.text
    told: list[tuple[int, int]] = []
    found = flow_likelihood(
        model, x, samples=2, dequantize="uniform", progress=lambda done, of: told.append((done, of))
    )
    assert found.answer.mean is not None
    assert found.answer.mean[0] == pytest.approx(float(truth), abs=0.02)
    assert found.noise < 0.02 and found.evaluations > 10
    assert told[-1] == (80, 80)
    mean = found.answer.mean[0]
    assert mean < total
    bound = log_likelihood(model, x, samples=1000, device="cpu")
    gap, doubt = found.below(bound)
    assert bound.mean is not None and gap == pytest.approx(bound.mean[0] - mean) and 0 < doubt < gap
    assert doubt < bound.mean[1]  # of the same images the difference is known better than either


def test_a_few_terms_tell_as_much_as_all() -> None:
    model = exact()
    x = ((0.3 * ImageNoise(0, range(40)).normal(1, 4, 4) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    every, few = bound_by_time(model, x), bound_by_time(model, x, count=60)
    assert every.evaluated == 999 and "one draw of every term" in every.how
    assert 40 < few.evaluated <= 60 and f"{few.evaluated} of the 999 terms" in few.how
    assert few.bits.shape == every.bits.shape
    assert few.total[0] == pytest.approx(every.total[0], rel=0.03)
    share_few, share_every = (terms.mean[:-1].cumsum(0) / terms.total[0] for terms in (few, every))
    assert (share_few - share_every).abs().max() < 0.03
    assert bound_by_time(exact(50), x[:2], count=60).evaluated == 49


def test_inversion_errs_less_with_more_steps() -> None:
    """DDIM's error on a Gaussian falls as 1/steps; x_T of its own data is standard normal."""
    model = exact()
    x = ((0.3 * ImageNoise(1, range(30)).normal(1, 4, 4) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    answer = invert(model, x, steps=(5, 20, 200))
    few, some, many = (float(row.mean()) for row in answer.errors)
    assert few > 2 * some > 4 * many
    assert many < 1.5
    assert answer.latent.square().mean() == pytest.approx(1, abs=0.25)
    with pytest.raises(ValueError, match="without noise on the way"):
        invert(model, x, options=DiffusionOptions(eta=1.0))


def test_interpolation_keeps_the_ends_and_the_radius() -> None:
    one, other = (ImageNoise(seed, range(2)).normal(3, 8, 8) for seed in (0, 1))
    assert torch.allclose(slerp(one, other, 0.0), one, atol=1e-5)
    assert torch.allclose(slerp(one, other, 1.0), other, atol=1e-5)
    assert slerp(one, other, 0.5).std() == pytest.approx(1, abs=0.05)
    x = torch.tensor([60, 200, 90, 130], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    rows = interpolate(exact(), x, between=3)
    assert rows.shape == (2, 5, 1, 4, 4)
    assert (rows[0, 0].float() - 60).abs().max() < 4 and (rows[0, -1].float() - 200).abs().max() < 4
    with pytest.raises(ValueError, match="even number of images, not 3"):
        interpolate(exact(), x[:3])
    sheet = draw_interpolation(rows, x, 256, "t")
    assert sheet.pixels().size == (sheet.width, sheet.height) and min(sheet.pixels().size) > 60


def test_the_film_ends_where_sampling_does(tmp_path: Path) -> None:
    model, options = exact(50), DiffusionOptions(steps=12, precision="fp32")
    film = reverse_chain(model, 3, options=options, seed=4)
    assert film.times == options.visits(model.schedule)
    drawn = sample(model, 3, seed=4, options=options)
    assert (drawn.images.int() - film.images.int()).abs().max() <= 1
    assert film.x_t.shape == film.other.shape == (12, 3, 1, 4, 4)
    few = film.thinned()
    assert len(few.times) == len(few.x_t) == len(few.other) == 10
    assert (few.times[0], few.times[-1]) == (film.times[0], film.times[-1])
    for name, kind in (("a.gif", "GIF"), ("b.apng", "PNG")):
        with Image.open(drawing.save(animate(film, 256), tmp_path / name)) as picture:
            assert picture.format == kind
            assert picture.n_frames == 12  # type: ignore[attr-defined]


# The end of the chain


@pytest.mark.parametrize("name", ["linear", "cosine", "snr", "flow"])
def test_the_end_of_every_chain_is_normal(name: str) -> None:
    """Moments and distribution of x_T, in one go and by single steps, of images with nothing normal about them."""
    schedule = Schedule.flow(1000) if name == "flow" else Schedule.named(name, 1000)  # type: ignore[arg-type]
    x0 = (ImageNoise(3, range(64)).uniform(1, 16, 16) < 0.2).float() * 2 - 1  # binary, and dark
    noise = ImageNoise(4, range(64))
    films = step_by_step(x0, schedule, [500, 1000], noise)
    closed = float(schedule.signal[-1]) * x0 + float(schedule.sigma[-1]) * noise.normal(1, 16, 16)
    for x_T in (closed, films[1]):
        found = end_moments(x_T, prior_term(x0, schedule))
        assert max(map(abs, found.deviations)) < 4.5 and found.p > 1e-4
        assert found.nats < 0.01 and (name != "flow" or found.nats == 0)
    half = end_moments(films[0], prior_term(x0, schedule))  # what the test would say of a chain that is too short
    if name != "linear":
        assert half.p < 1e-6 and max(map(abs, half.deviations)) > 6


def test_kolmogorov_smirnov_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for seed, shift in ((0, 0.0), (1, 0.02), (2, 0.05)):
        x = torch.randn(3000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift
        assert kolmogorov_smirnov(x) == pytest.approx(stats.kstest(x.numpy(), "norm", mode="asymp").pvalue, abs=0.02)


# The questions


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("denoising")
    data = load(write_blobs(folder / "blobs.npz"), progress=False)
    model, settings = {"width": 16, "multipliers": [1], "timesteps": 20}, {"batch": 8, "pictures": 0}
    return {
        name: train(
            name, data, out=folder / name, budget="2steps", conditional=True, model=model, settings=settings, say=print
        )
        for name in ("diffusion", "flow")
    }


@pytest.mark.parametrize("name", ["diffusion", "flow"])
@pytest.mark.parametrize(
    ("question", "fields", "keys"),
    [
        ("forward", {"n": 2}, "times end"),
        (
            "reverse",
            {"n": 2, "labels": "0,1", "options": {"steps": 4, "sampler": "heun"}},
            "samples options times",
        ),
        ("terms", {"n": 2, "labels": "true"}, "timesteps decoder mean_bits_per_dim standard_error terms"),
        (
            "ode",
            {"n": 2, "samples": 2, "dequantize": "uniform"},
            "nats bits_per_dim mean_bits_per_dim standard_error noise_bits_per_dim evaluations bound "
            "bound_minus_equation",
        ),
        ("invert", {"n": 2, "counts": (2, 5)}, "steps errors"),
        (
            "complete",
            {"n": 2, "copies": 1, "labels": 1, "options": {"steps": 3, "repeats": 2, "guidance": 1.5}},
            "effective_particles",
        ),
        ("complete", {"n": 1, "keep": "none", "copies": 1, "options": {"level": 0.4}}, "effective_particles"),
    ],
)
def test_every_question_is_answered(
    runs: dict[str, Run], name: str, question: str, fields: dict[str, Any], keys: str, tmp_path: Path
) -> None:
    found = ask(runs[name], question, **fields)
    record = found.save(tmp_path)
    assert record["family"] == name and set(keys.split()) <= set(record["values"])
    assert json.loads((tmp_path / f"{question}.json").read_text("utf-8")) == json.loads(json.dumps(record))
    assert found.lines() and (question == "ode") == (not found.figures)
    for figure in record["figures"].values():
        with Image.open(tmp_path / figure) as picture:
            assert min(picture.size) > 60


@pytest.mark.parametrize("name", ["diffusion", "flow"])
def test_options_are_laid_over_those_of_the_question(
    runs: dict[str, Run], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One option given leaves the others of inversion: DDIM, unclipped, float32."""
    seen: list[DiffusionOptions] = []
    decode = Denoising.decode

    def listening(self: Denoising, z: Tensor, noise: Noise, labels: Tensor | None, options: DiffusionOptions) -> Tensor:
        seen.append(options)
        return decode(self, z, noise, labels, options)

    monkeypatch.setattr(Denoising, "decode", listening)
    for more in ({}, {"spacing": "leading"}):
        ask(runs[name], "invert", counts=(3,), n=2, options=more or None)
        for options in seen:
            assert (options.sampler, options.clip, options.precision) == ("ddim", False, "fp32")
            assert options.spacing == ("leading" if more else "trailing")
        seen.clear()
    ask(runs[name], "invert", counts=(3,), n=2, options={"clip": "true"})
    assert seen[0].clip and seen[0].sampler == "ddim"


def test_the_equation_tells_its_noise_and_the_bound_beside_it(
    runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(**fields: Any) -> Answer:
        return ask(runs["diffusion"], "ode", n=2, tolerance=0.01, **fields)

    found = asked(samples=2)
    equation, bound, doubt = found.lines()
    assert doubt.startswith("! worse than guessing: all 256 levels equally likely would cost 8")  # a fresh network
    assert "of noise in that of one" in equation and "tolerance 0.01, 2 draws" in equation
    assert bound.startswith("≤") and "for the same (variational bound" in bound and "against the equation" in bound
    record, numbers = found.values, found.numbers
    assert record["noise_bits_per_dim"] > 0 and record["bound"]["kind"] == "bound"
    apart = record["bound"]["mean_bits_per_dim"] - record["mean_bits_per_dim"]
    assert record["bound_minus_equation"]["bits_per_dim"] == pytest.approx(apart)
    assert numbers["bits_per_dim"].value == record["mean_bits_per_dim"]
    assert numbers["bound_minus_equation"].value == record["bound_minus_equation"]["bits_per_dim"]
    assert "samples 2 or more" in asked().lines()[0]
    monkeypatch.setattr("trilemma.families.diffusion.ode.MOST", 2)
    with pytest.raises(ValueError, match=r"--tolerance 0\.1") as error:
        asked()
    assert "\n" not in str(error.value)


def test_vectors_are_asked_for_their_density(tmp_path: Path) -> None:
    """The equation gives the density of vectors; the questions that draw images say why they do not."""
    vectors = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    np.savez(tmp_path / "vectors.npz", images=vectors)
    run = train(
        "diffusion", load(tmp_path / "vectors.npz", progress=False), out=tmp_path / "run", budget="1steps",
        model={"timesteps": 20}, settings={"batch": 8, "pictures": 0}, say=print,
    )  # fmt: skip
    found = ask(run, "ode", n=2, tolerance=0.1)
    assert "density" in found.lines()[0] and "2 vectors" in found.lines()[0]
    for question in ("forward", "reverse", "terms", "invert"):
        with pytest.raises(ValueError, match="looks at images"):
            ask(run, question)


@pytest.mark.parametrize(
    ("question", "fields", "fault"),
    [
        ("terms", {"options": {}}, "has no 'options'"),
        ("terms", {"tolerance": 1}, "has no 'tolerance'"),
        ("invert", {"counts": (2, "x")}, "counts must be int"),
        ("invert", {"counts": (2, 0)}, "counts must be values at least 1"),
        ("invert", {"options": {"steps": 3}}, "leave out steps"),
        ("invert", {"options": {"sampler": "heun", "churn": "4"}}, "leave out the sampler ddpm, eta and churn"),
        ("complete", {"options": {"guidance": 3}}, "guidance 3 has nothing to lean to"),
        ("complete", {"options": {"guidance": 0}, "labels": "none"}, "guidance 0 has nothing to lean to"),
        ("invert", {"options": {"guidance": 3}}, "guidance 3 has nothing to lean to"),
        ("reverse", {"options": {"guidance": 3}, "labels": "none"}, "guidance 3 has nothing to lean to"),
        ("reverse", {"options": {"sampler": "ddpm", "eta": 1}}, "eta belongs to the sampler ddim"),
        ("complete", {"options": {"eta": 1}}, "eta belongs to the sampler ddim"),
        ("reverse", {"options": {"variance": "large"}}, "variance belongs to the sampler ddpm"),
        ("reverse", {"options": {"sampler": "heun", "churn": "4"}}, "with churn the times go up as well as down"),
        ("reverse", {"n": 0}, "n must be at least 1"),
        ("ode", {"tolerance": 0}, "tolerance must be above 0"),
        ("ode", {"samples": 0}, "samples must be at least 1"),
        ("reverse", {"options": {"sampler": "unipc"}}, "sampler"),
        ("reverse", {"options": {"strength": "3"}}, "has no option --strength"),
        ("complete", {"options": {"sampler": "ddim"}}, "ddpm"),
        ("curve", {"n": 16, "counts": (2,)}, "draw more images"),
    ],
)
def test_questions_out_of_place(runs: dict[str, Run], question: str, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises((ValueError, TypeError), match=fault) as error:
        ask(runs["diffusion"], question, **fields)
    assert "\n" not in str(error.value)


def test_a_film_goes_where_it_is_wanted(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """``--out film.gif`` is the animation; by default there are both, the strip first."""
    path, out = runs["flow"].path, tmp_path / "film.gif"
    code, _, err = call(capsys, "query", "reverse", path, "-n", 2, "--steps", 5, "--out", out)
    assert code == 0, err
    with Image.open(tmp_path / "film.gif") as film, Image.open(tmp_path / "film-strip.png") as strip:
        assert film.format == "GIF" and film.n_frames == 5 and strip.format == "PNG"  # type: ignore[attr-defined]
    found = ask(runs["flow"], "reverse", n=2, options={"steps": 5})
    assert isinstance(found.figures["film"], Film)
    assert found.save(tmp_path)["figures"] == {"strip": "reverse.png", "film": "reverse-film.gif"}


@pytest.mark.parametrize("steps", [(5, 51), (0, 5)])
def test_inversion_refuses_steps_that_the_model_has_not(steps: tuple[int, ...]) -> None:
    """They were clamped, and the answer named other counts than were asked for."""
    x = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"inversion takes 1 to 50 steps.*counts"):
        invert(exact(50), x, steps=steps)
    assert invert(exact(50), x).steps == [10, 20, 50]


def test_more_levels_of_attention_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="model.attention must be at most 3"):
        DiffusionConfig(attention=9)
