"""Questions to denoising models: their own mathematics, and the verb as a user types it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import write_blobs
from PIL import Image
from test_cli import call
from torch import Tensor

from trilemma.data import load
from trilemma.families.diffusion import Denoising, Diffusion, DiffusionConfig, DiffusionOptions, prior_term
from trilemma.families.diffusion.denoiser import read
from trilemma.families.diffusion.schedule import Schedule
from trilemma.families.vae import VAE, VAEConfig
from trilemma.images import Spec, to_unit
from trilemma.noise import ImageNoise, Noise
from trilemma.queries.diffusion_chain import (
    animate,
    end_moments,
    forward_chain,
    kolmogorov_smirnov,
    reverse_chain,
    step_by_step,
)
from trilemma.queries.diffusion_latent import interpolate, invert, slerp
from trilemma.queries.diffusion_likelihood import bound_by_time, flow_likelihood
from trilemma.queries.likelihood import log_likelihood
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.training import train


class OneGaussian(Diffusion):
    """A model whose denoiser is exact for pixels N(0, 0.3²), without a network."""

    def predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        at = t.double().cpu()
        low = at.floor().long().clamp(max=self.schedule.T - 1)
        share = at - low
        angle = (1 - share) * self.schedule.angle[low] + share * self.schedule.angle[low + 1]
        signal, sigma = (f(angle)[:, None, None, None].to(x_t) for f in (torch.cos, torch.sin))
        x0 = signal * 0.09 / (signal**2 * 0.09 + sigma**2) * x_t
        return signal * (x_t - signal * x0) / sigma - sigma * x0


def exact(timesteps: int = 1000) -> OneGaussian:
    return OneGaussian(DiffusionConfig(width=16, multipliers=(1,), timesteps=timesteps), Spec((1, 4, 4))).eval()


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


def test_the_film_ends_where_sampling_does(tmp_path: Path) -> None:
    model, options = exact(50), DiffusionOptions(steps=12, precision="fp32")
    film = reverse_chain(model, 3, options=options, all_frames=True, seed=4)
    assert film.times == options.visits(model.schedule)
    drawn = sample(model, 3, seed=4, options=options)
    assert (drawn.images.int() - film.images.int()).abs().max() <= 1
    assert film.x_t.shape == film.other.shape == (12, 3, 1, 4, 4)
    for name, kind in (("a.gif", "GIF"), ("b.apng", "PNG")):
        with Image.open(animate(film, 256, tmp_path / name)) as picture:
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


# The verb


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
    ("arguments", "picture"),
    [
        (["--forward", "-n", 2], "forward.png"),
        (["--reverse", "-n", 2, "--labels", "0,1", "--steps", 4, "--sampler", "heun"], "reverse.png"),
        (["--terms", "-n", 2, "--labels", "true"], "terms.png"),
        (["--ode", "-n", 2, "--samples", 2, "--dequantize", "uniform"], None),
        (["--invert", "-n", 2, "--counts", "2,5"], "inversion.png"),
        (["--interpolate", "-n", 2, "--steps", 3, "--labels", "true"], "interpolation.png"),
        (["--interpolate", "-n", 2, "--times", "20,9,4", "--points", 3], "interpolation.png"),
        (
            ["--complete", "-n", 2, "--copies", 1, "--steps", 3, "--repeats", 2, "--guidance", 1.5, "--labels", 1],
            "completion.png",
        ),
        (["--complete", "-n", 1, "--keep", "none", "--level", 0.4, "--copies", 1], "completion.png"),
    ],
)
def test_every_question_is_answered(
    runs: dict[str, Run], name: str, arguments: list[object], picture: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "query", runs[name].path, *arguments, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["family"] == name
    if picture:
        assert Path(record["picture"]) == runs[name].path / picture
        assert min(Image.open(record["picture"]).size) > 60
    code, out, err = call(capsys, "query", runs[name].path, *arguments)
    assert code == 0, err
    assert len(out.splitlines()) >= 1


@pytest.mark.parametrize("name", ["diffusion", "flow"])
def test_options_are_laid_over_those_of_the_question(
    runs: dict[str, Run], name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One option given leaves the others of inversion and interpolation: DDIM, unclipped, float32."""
    seen: list[DiffusionOptions] = []
    decode = Denoising.decode

    def listening(self: Denoising, z: Tensor, noise: Noise, labels: Tensor | None, options: DiffusionOptions) -> Tensor:
        seen.append(options)
        return decode(self, z, noise, labels, options)

    monkeypatch.setattr(Denoising, "decode", listening)
    for arguments in (["--invert", "--counts", 3], ["--interpolate", "--points", 4]):
        for more in ([], ["--spacing", "leading"]):
            code, out, err = call(capsys, "query", runs[name].path, *arguments, *more, "-n", 2, "--json")
            assert code == 0, err
            if "--points" in arguments:
                assert len(seen) == json.loads(out)["points"] == 4
            for options in seen:
                assert (options.sampler, options.clip, options.precision) == ("ddim", False, "fp32")
                assert options.spacing == ("leading" if more else "trailing")
            seen.clear()
    code, _, err = call(capsys, "query", runs[name].path, "--invert", "--counts", 3, "--clip", "true", "-n", 2)
    assert code == 0 and seen[0].clip and seen[0].sampler == "ddim", err


def test_the_equation_tells_its_noise_and_the_bound_beside_it(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("query", runs["diffusion"].path, "--ode", "-n", 2, "--tolerance", 0.01)
    code, out, err = call(capsys, *line, "--samples", 2)
    assert code == 0, err
    equation, bound, doubt = out.splitlines()
    assert doubt.startswith("! worse than guessing: all 256 levels equally likely would cost 8")  # a fresh network
    assert "of noise in that of one" in equation and "tolerance 0.01, 2 draws" in equation
    assert bound.startswith("≤") and "for the same (variational bound" in bound and "against the equation" in bound
    record = json.loads(call(capsys, *line, "--samples", 2, "--json")[1])
    assert record["noise_bits_per_dim"] > 0 and record["bound"]["kind"] == "bound"
    apart = record["bound"]["mean_bits_per_dim"] - record["mean_bits_per_dim"]
    assert record["bound_minus_equation"]["bits_per_dim"] == pytest.approx(apart)
    assert "--samples 2 or more" in call(capsys, *line)[1]
    monkeypatch.setattr("trilemma.families.diffusion.ode.MOST", 2)
    code, _, err = call(capsys, *line)
    assert code == 1 and "--tolerance 0.1" in err and len(err.strip().splitlines()) == 1, err


def test_questions_out_of_place(runs: dict[str, Run], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = runs["diffusion"].path
    for arguments, fault in (
        (["--terms", "--steps", 3], "--steps says nothing to --terms"),
        (["--forward", "--reverse"], "one question at a time"),
        (["--invert", "--counts", "2,x"], "write numbers of steps"),
        (["--invert", "--steps", 3], "leave out --steps"),
        (["--complete", "--guidance", 3], "guidance 3 has nothing to lean to"),
        (["--complete", "--guidance", 0, "--labels", "none"], "guidance 0 has nothing to lean to"),
        (["--invert", "--guidance", 3], "guidance 3 has nothing to lean to"),
        (["--interpolate", "--guidance", 3], "guidance 3 has nothing to lean to"),
        (["--reverse", "--guidance", 3, "--labels", "none"], "guidance 3 has nothing to lean to"),
        (["--reverse", "--sampler", "ddpm", "--eta", 1], "eta belongs to the sampler ddim"),
        (["--complete", "--eta", 1], "eta belongs to the sampler ddim"),
        (["--reverse", "--variance", "large"], "variance belongs to the sampler ddpm"),
        (["--ode", "--tolerance", 0], "tolerance must be a number above 0"),
        (["--terms", "--tolerance", 1], "--tolerance says nothing to --terms"),
        (["--interpolate", "--points", 1], "--points must be at least 2"),
        (["--reverse", "--sampler", "unipc"], "sampler"),
        (["--reverse", "--strength", 3], "has no option --strength"),
        (["--complete", "--sampler", "ddim"], "ddpm"),
        (["--curve", "-n", 16, "--counts", "2"], "draw more images"),
        (["--interpolate", "-n", 3], "even number"),
    ):
        code, _, err = call(capsys, "query", path, *arguments)
        assert code == 1, arguments
        assert fault in err and len(err.strip().splitlines()) == 1, (arguments, err)
    out = tmp_path / "film.gif"
    assert call(capsys, "query", path, "--reverse", "-n", 2, "--steps", 5, "--out", out)[0] == 0
    with Image.open(out) as film:
        assert film.format == "GIF"
    vae = VAE(VAEConfig(), Spec((1, 8, 8)))
    with pytest.raises(ValueError, match="vae does not, diffusion, flow do"):
        forward_chain(vae, torch.zeros(1, 1, 8, 8).byte())


@pytest.mark.parametrize("steps", [(5, 51), (0, 5)])
def test_inversion_refuses_steps_that_the_model_has_not(steps: tuple[int, ...]) -> None:
    """They were clamped, and the answer named other counts than were asked for."""
    x = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"inversion takes 1 to 50 steps.*--counts"):
        invert(exact(50), x, steps=steps)
    assert invert(exact(50), x).steps == [10, 20, 50]


def test_more_levels_of_attention_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="model.attention must be at most 3"):
        DiffusionConfig(attention=9)
