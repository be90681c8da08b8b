"""Vectors: data sets of them, what is exact about their densities, what is measured, and what refuses them."""

from __future__ import annotations

import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import call
from torch import Tensor

from trilemma.data import DataConfig, Dataset, load
from trilemma.data.mixtures import MIXTURES
from trilemma.evaluation import Protocol, evaluate
from trilemma.evaluation.law import true_nats
from trilemma.families import FAMILIES
from trilemma.families.diffusion.bound import variational_bound
from trilemma.families.diffusion.denoiser import Estimate
from trilemma.families.diffusion.flow_density import flow_log_density
from trilemma.families.diffusion.schedule import Schedule, rowwise
from trilemma.families.observation import Gaussian
from trilemma.images import Spec, check_images
from trilemma.metrics.spots import spots
from trilemma.noise import BatchNoise, ImageNoise
from trilemma.presets import VECTOR_GFLOP, configure, gflop
from trilemma.questions.density import density_map
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.training import Report, train
from trilemma.vectors import Plane, scatter

RING = Spec((2,), levels=0, center=(0.0, 0.0), scale=(0.7, 0.7))
VECTOR_NAMES = [name for name, cls in FAMILIES.items() if cls.vectors]
names = pytest.mark.parametrize("name", VECTOR_NAMES)
SMALL = {"batch": 32, "log_every": 2, "pictures": 0, "warmup": 2}


def table(path: Path, count: int = 200, dims: int = 3, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(5, [1.0, 10.0, 0.1][:dims], (count, dims)).astype(np.float32)
    np.savez(path, x_train=values, x_test=values[:50] + np.float32(0.01))
    return path


# ------------------------------------------------------------------------------------------------------------ data


def test_the_mixtures_are_what_was_published() -> None:
    ring, grid = load("ring"), load("grid")
    assert ring.images.dtype == np.float32
    assert (len(ring.train), len(ring.test)) == (50_000, 10_000)
    assert np.allclose(np.linalg.norm(MIXTURES["ring"].means, axis=1), 1)
    assert sorted(set(MIXTURES["grid"].means[:, 0])) == [-4, -2, 0, 2, 4]
    for data, modes, sigma in ((ring, 8, 0.01), (grid, 25, 0.05)):
        assert data.labels is not None
        assert len(data.class_names) == modes
        noise = data.images - MIXTURES[data.name].means[data.labels]
        assert np.abs(noise.std(0) / sigma - 1).max() < 0.01
        assert load(data.name).fingerprint == data.fingerprint
        assert data.spec().vector
        assert (data.spec().levels, data.spec(conditional=True).classes) == (0, modes)


def test_arrays_of_two_dimensions_are_vectors_only_if_they_are_floats(tmp_path: Path) -> None:
    data = load(table(tmp_path / "x.npz"))
    spec = data.spec()
    assert spec.shape == (3,)
    assert np.allclose(spec.scale, [1, 10, 0.1], rtol=0.2)
    unit = spec.to_unit(data.batch(data.train))
    assert torch.allclose(unit.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(unit.std(0, correction=0), torch.ones(3), atol=1e-4)
    assert torch.allclose(spec.from_unit(unit), data.batch(data.train), rtol=1e-5)
    np.save(tmp_path / "flat.npy", np.zeros((20, 784), np.uint8))
    with pytest.raises(ValueError, match="may be flattened images or vectors"):
        load(tmp_path / "flat.npy")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((20, 5, 5)).astype(np.float32))
    assert not load(tmp_path / "images.npy").vector


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_named_by_their_row(tmp_path: Path, value: float) -> None:
    values = np.zeros((20, 2))
    values[7, 1] = value
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=r"1 of 20 vectors hold a value that is not finite, the first is row 7"):
        load(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="vector 3 holds a value that is not finite"):
        check_images(torch.tensor([[0.0, 0.0]] * 3 + [[math.nan, 0.0]]), RING)


def test_csv_with_a_header_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,Label,b\n" + "".join(f"{i},{'xy'[i % 2]},{i * 0.5}\n" for i in range(40)))
    data = load(path)
    assert data.class_names == ("x", "y")
    assert data.images.shape == (40, 2)
    assert data.images[3].tolist() == [3, 1.5]
    path.write_text("1,2\n3,4\n5,oops\n")
    with pytest.raises(ValueError, match=r"line 3: 'oops' is not a number"):
        load(path)
    path.write_text("1,,3\n4,5,6\n")
    with pytest.raises(ValueError, match=r"line 1: column 2 is empty"):
        load(path)
    path.write_text("1,2\n3\n")
    with pytest.raises(ValueError, match=r"line 2: 1 cells, where the first line has 2"):
        load(path)


@pytest.mark.parametrize("option", [{"binarize": "fixed"}, {"size": (8, 8)}, {"color": "rgb"}, {"fit": "pad"}])
def test_options_of_images_say_nothing_to_vectors(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="ring holds vectors, and --"):
        load("ring", **option)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- densities


def test_the_gaussian_observation_is_a_density_in_the_units_of_the_data() -> None:
    spec = Spec((2,), levels=0, center=(3.0, -1.0), scale=(10.0, 0.1))
    observation = Gaussian(spec, "fixed", 0.5)
    x, mu = torch.tensor([[4.0, -1.2]]), torch.tensor([[0.2, -1.5]])
    law = torch.distributions.Normal(mu[0] * torch.tensor(spec.scale) + torch.tensor(spec.center),
                                     0.5 * torch.tensor(spec.scale))  # fmt: skip
    assert observation.nats(x, mu).item() == pytest.approx(-law.log_prob(x[0]).sum().item(), rel=1e-5)
    drawn = observation.draw(mu.expand(20_000, 2), torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(drawn.mean(0), law.mean, atol=0.1 * 0.5 * 10 * 0.1)
    assert torch.allclose(drawn.std(0), law.stddev, rtol=0.03)


COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)


def _exact(x_t: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x_t] of N(0, COVARIANCE) data, a row for each α and σ."""
    a, s = signal.double()[:, None, None], sigma.double()[:, None, None]
    marginal = a**2 * COVARIANCE + s**2 * torch.eye(2, dtype=torch.float64)
    return (a * COVARIANCE @ torch.linalg.solve(marginal, x_t.double()[..., None]))[..., 0]


def test_the_probability_flow_density_of_a_gaussian_is_exact() -> None:
    schedule = Schedule.named("cosine", 1000)

    def velocity(y: Tensor, phi: Tensor, rows: Tensor) -> Tensor:
        cosine, sine = phi.cos(), phi.sin()
        x0 = _exact(y, cosine, sine)
        # At φ = 0 the noise is what it is expected to be, not 0/0.
        marginal = cosine[:, None, None] ** 2 * COVARIANCE + sine[:, None, None] ** 2 * torch.eye(2).double()
        eps = sine[:, None] * torch.linalg.solve(marginal, y[..., None])[..., 0]
        return cosine[:, None] * eps - sine[:, None] * x0

    x = torch.tensor([[0.0, 0.0], [1.0, -0.5], [2.0, 1.5]], dtype=torch.float64)
    found, evaluations = flow_log_density(velocity, x, schedule, ImageNoise(0, range(3)), tolerance=1e-6)
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), COVARIANCE)
    assert torch.allclose(found, law.log_prob(x), atol=1e-4)
    assert bool((evaluations > 6).all())


def test_the_bound_is_below_the_density_and_near_it() -> None:
    schedule = Schedule.named("cosine", 1000)

    def denoise(x_t: Tensor, t: int | Tensor) -> Estimate:
        x0 = _exact(x_t, schedule.signal[t], schedule.sigma[t]).to(x_t)
        return Estimate(x0, x0, torch.ones_like(x0))

    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), COVARIANCE)
    x = _rows(64) @ torch.linalg.cholesky(COVARIANCE).T
    bound = variational_bound(denoise, x, schedule, ImageNoise(0, range(64)), levels=0, samples=999)
    gap = law.log_prob(x).mean() - bound.mean()
    error = float((law.log_prob(x) - bound).std()) / 8
    assert -3 * error < float(gap) < 0.1
    assert rowwise(torch.zeros(3), torch.zeros(3, 2)).shape == (3, 1)


def _rows(count: int) -> Tensor:
    return ImageNoise(1, range(count)).normal(2).double()


@pytest.mark.parametrize("name", ["vae", "diffusion", "flow"])  # those that say log p(x)
def test_a_shift_and_a_scale_of_the_data_move_the_density_by_its_volume(name: str) -> None:
    model_config = configure(name, "tiny", RING)[0]
    answers: list[Tensor] = []
    for center, scale in (((0.0, 0.0), (1.0, 1.0)), ((3.0, -2.0), (4.0, 0.5))):
        spec = Spec((2,), levels=0, center=center, scale=scale)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = FAMILIES[name](model_config, spec).eval()
        x = spec.from_unit(ImageNoise(2, range(4)).normal(2))
        with torch.no_grad():
            nats = model.log_likelihood(x, None, ImageNoise(0, range(4)), samples=3).nats
        assert nats is not None
        answers.append(nats)
    assert torch.allclose(answers[0], answers[1] + math.log(2.0), atol=1e-3)


# -------------------------------------------------------------------------------------------------------- training


@names
def test_training_reduces_the_loss_and_resumes_bit_by_bit(name: str, tmp_path: Path) -> None:
    data, settings = load("ring", limit=2000), SMALL | {"anneal": 0.0, "lr": 3e-3}

    def run(out: Path, last: int = 150) -> Run:
        def stop(report: Report) -> None:
            if report.step == last < 150:
                os.kill(os.getpid(), signal.SIGTERM)

        return train(name, data, out=out, budget="150steps", settings=settings, resume=True, device="cpu",
                     progress=stop, say=lambda line: None)  # fmt: skip

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "parts", 20).progress()["step"] == 20
    parts = run(tmp_path / "parts")
    one, other = whole.load(), parts.load()
    assert all(torch.equal(one.model[key], other.model[key]) for key in one.model)
    if name == "gan":
        return
    losses = []
    for model in (whole.build(), whole.model("cpu")):
        model.eval()
        noise = BatchNoise((0,), 1000, 0, 1000, torch.device("cpu"))
        with torch.no_grad():
            losses.append(float(model.objectives()[0].loss(data.batch(data.test[:1000]), None, noise).total))
    assert losses[1] < losses[0] - 0.01


@pytest.mark.parametrize("pack", [1, 3])
def test_a_packed_gan_of_vectors_with_labels_trains(pack: int, tmp_path: Path) -> None:
    model = {"pack": pack, "spectral_norm": True}
    data = load("ring", limit=500)
    run = train("gan", data, out=tmp_path, budget="4steps", conditional=True, model=model,
                settings=SMALL, device="cpu", say=lambda line: None)  # fmt: skip
    drawn = sample(run, 5, labels=[2], device="cpu")
    assert drawn.images.shape == (5, 2)
    assert torch.equal(sample(run, 3, labels=[2], device="cpu").images, drawn.images[:3])


@names
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_sizes_of_vectors_are_matched_for_compute(name: str, size: str) -> None:
    config = configure(name, size, RING)[0]
    assert gflop(name, config, RING) == pytest.approx(VECTOR_GFLOP[size], rel=0.25)


# ------------------------------------------------------------------------------------------------- what is measured


def test_spots_of_a_perfect_a_shrunken_and_a_collapsed_sampler() -> None:
    law = MIXTURES["ring"]
    means = torch.from_numpy(law.means)
    data = load("ring")
    perfect = spots(data.batch(data.test), means, law.sigma)
    assert perfect.perfect == pytest.approx(1 - math.exp(-4.5))
    assert abs(perfect.quality.known - perfect.perfect) < 4 * (perfect.quality.error or 0)
    assert (perfect.found, perfect.total) == (8, 8)
    shrunken = spots(means.repeat(100, 1), means, law.sigma)
    assert shrunken.quality.value == 1
    assert shrunken.frequencies.kl.value == pytest.approx(0, abs=1e-12)
    collapsed = spots(means[:2].repeat(50, 1), means, law.sigma)
    assert collapsed.found == 2
    assert collapsed.frequencies.kl.value == pytest.approx(math.log(4))
    beside = spots(means + 4 * law.sigma, means, law.sigma)
    assert (beside.found, beside.quality.value) == (0, 0)


def test_the_true_density_is_that_of_the_mixture() -> None:
    law = MIXTURES["grid"]
    at_mode = true_nats(law, torch.from_numpy(law.means[:1]))
    assert float(at_mode) == pytest.approx(-math.log(25) - math.log(2 * math.pi * 0.05**2), abs=1e-9)
    points = load("grid").batch(range(50_000, 60_000))
    entropy = math.log(25) + 1 + math.log(2 * math.pi * 0.05**2)  # the modes do not overlap
    assert -float(true_nats(law, points).mean()) == pytest.approx(entropy, abs=0.05)


@pytest.fixture(scope="module")
def ring_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = load("ring", limit=2000)
    out = tmp_path_factory.mktemp("vae") / "run"
    run = train(
        "vae", data, out=out, budget="20steps", settings=SMALL | {"pictures": 1}, device="cpu", say=lambda line: None
    )
    assert run.picture(20).is_file()
    return run


def test_a_narrow_column_far_from_zero_is_brought_to_zero(tmp_path: Path) -> None:
    values = 100_000.4 + 0.1 * np.random.default_rng(0).standard_normal((400, 2))
    np.savez(tmp_path / "far.npz", vectors=values.astype(np.float32))
    data = load(tmp_path / "far.npz")
    unit = data.spec().to_unit(data.batch(data.train))
    assert unit.mean(0).abs().max() < 0.1 and (unit.std(0) - 1).abs().max() < 0.1


def test_vectors_are_not_told_in_words() -> None:
    with pytest.raises(ValueError, match="no network for vectors reads captions"):
        FAMILIES["flow"](configure("flow", "tiny", RING)[0], replace(RING, vocabulary=20, length=4))


def test_the_divergence_can_be_asked_for_alone(ring_run: Run) -> None:
    record = evaluate(ring_run, protocol=Protocol(n=32, metrics="density_kl", likelihood_n=20), device="cpu")
    assert record["metrics"]["density_kl"]["value"] > 0 and "bits_per_dim" not in record["metrics"]


def test_a_single_vector_is_drawn_too(ring_run: Run) -> None:
    assert scatter(torch.zeros(1, 3), torch.zeros(1, 3)).dtype == torch.uint8


def test_the_class_of_a_density_is_checked(ring_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for labels, fault in (("3", "unconditional"), ("0,1", "unconditional|one density")):
        code, _, err = call(capsys, "query", "density", ring_run.path, "--labels", labels)
        assert code == 1 and re.search(fault, err) and len(err.strip().splitlines()) == 1, err


def test_an_evaluation_of_vectors(ring_run: Run) -> None:
    protocol = Protocol(n=200, reference=500, likelihood_n=40)
    record = evaluate(ring_run, protocol=protocol, device="cpu")
    metrics, floor = record["metrics"], record["floor"]
    assert {"frechet", "kernel", "precision", "recall", "mixture_modes", "high_quality", "density_kl"} <= metrics.keys()
    assert metrics["mixture_modes"]["n"] == 2500
    assert record["protocol"]["features"] == "vectors (standardised)"
    assert floor["mixture_modes"]["value"] == 8
    dims = 2 * math.log(2)
    gap = dims * (metrics["bits_per_dim"]["value"] - floor["bits_per_dim"]["value"])
    assert metrics["density_kl"]["value"] == pytest.approx(gap, rel=1e-3)
    assert record["pictures"] == {"samples": "samples.png"}
    assert "density" in {each["question"] for each in record["asked"]}
    assert all((ring_run.path / name).is_file() for name in record["pictures"].values())


def test_two_laws_of_a_flow_are_measured_and_told_apart(tmp_path: Path) -> None:
    data = load("ring", limit=2000)
    run = train(
        "flow", data, out=tmp_path / "run", budget="5steps", settings=SMALL, device="cpu", say=lambda line: None
    )
    asked = "bits_per_dim,density_kl,ode_bits_per_dim,ode_density_kl"
    record = evaluate(run, protocol=Protocol(n=16, metrics=asked, likelihood_n=12), device="cpu")
    metrics, floor = record["metrics"], record["floor"]
    chain, flow = metrics["bits_per_dim"], metrics["ode_bits_per_dim"]
    assert chain["kind"] == "bound" and "ancestral chain" in chain["note"] and "512 training images" in chain["note"]
    assert flow["kind"] == "estimate" and flow["n"] == 12 and "the law of samplers without noise" in flow["note"]
    assert "more for the same 12" in flow["note"] or "less for the same 12" in flow["note"]
    for name, score in (("density_kl", chain), ("ode_density_kl", flow)):
        gap = 2 * math.log(2) * (score["value"] - floor["bits_per_dim"]["value"])
        assert metrics[name]["value"] == pytest.approx(gap, rel=1e-3)
    assert len(record["per_image"]["ode_bits_per_dim"]) == 12
    only = evaluate(run, protocol=Protocol(n=16, metrics="ode-bits-per-dim", likelihood_n=3), device="cpu")
    assert set(only["metrics"]) == {"ode_bits_per_dim"}


def test_a_column_in_dollars_does_not_hide_one_in_years(tmp_path: Path) -> None:
    """Ages 20 spreads too high are far from real people, and a shift of a tenth of a spread in dollars is not."""
    rows = np.random.default_rng(0).standard_normal((600, 2)) * [40_000, 10] + [60_000, 40]
    np.savez(tmp_path / "people.npz", vectors=rows.astype(np.float32))
    data = load(tmp_path / "people.npz")
    protocol = Protocol(n=60, reference=0, metrics="frechet,precision,nearest_training")
    shifts = {"dollars": (4_000, 0), "years": (0, 200)}
    held_out = data.batch(data.test[:60])
    found = {
        name: evaluate(held_out + torch.tensor(shift, dtype=torch.float32), data, protocol=protocol, device="cpu")
        for name, shift in shifts.items()
    }
    assert found["years"]["protocol"]["features"] == "vectors (standardised)"
    scores = {name: record["metrics"] for name, record in found.items()}
    assert scores["years"]["frechet"]["value"] == pytest.approx(400, rel=0.1)
    assert scores["dollars"]["frechet"]["value"] < 0.5
    assert scores["years"]["precision"]["value"] == 0 < scores["dollars"]["precision"]["value"]
    assert scores["years"]["nearest_training"]["value"] > 10 > scores["dollars"]["nearest_training"]["value"]
    assert scores["years"]["nearest_training"]["unit"] == "spreads"


def test_what_looks_at_images_says_that_these_are_vectors(ring_run: Run) -> None:
    with pytest.raises(ValueError, match="--features inception look at images"):
        evaluate(ring_run, protocol=Protocol(n=32, features="inception"), device="cpu")
    record = evaluate(ring_run, protocol=Protocol(n=32, likelihood_n=4, metrics="accuracy,modes"), device="cpu")
    assert all("these are vectors" in record["metrics"][key]["note"] for key in ("accuracy", "modes"))


def test_the_density_of_a_model_is_one(ring_run: Run) -> None:
    """Summed over a plane with room around it, a wide density is about 1 (its bound, a little less)."""
    data: Dataset = load("ring", limit=2000)
    field = density_map(ring_run.model("cpu"), 3 * data.batch(data.test[:500]), side=24, samples=64)
    area = field.plane.side[0] * field.plane.side[1] / 24**2
    assert 0.8 < float(field.log_p.exp().sum()) * area < 1.05
    assert field.kind == "bound"


def test_a_gan_has_no_density_to_draw() -> None:
    model = FAMILIES["gan"](configure("gan", "tiny", RING)[0], RING)
    with pytest.raises(ValueError, match="no density to draw: a GAN's density is implicit"):
        density_map(model, torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))


# -------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_a_scatter_shows_every_point_in_the_plane_of_most_variance(dims: int) -> None:
    scale = torch.tensor([0.1, 0.2, 3.0, 0.1, 5.0])[:dims]
    real = ImageNoise(0, range(300)).normal(dims) * scale + 7
    plane = Plane.of(real)
    if dims > 2:
        assert plane.axes[4, 0].abs() > 0.99
        assert plane.axes[2, 1].abs() > 0.99
        assert "principal component 1" in plane.names[0]
    places = plane.place(real)
    assert bool(((places >= 0) & (places <= 1)).all())
    picture = scatter(real, real)
    assert picture.dtype == torch.uint8
    assert picture.shape[0] == 3


def test_annealing_of_a_gan_of_vectors_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load("ring", limit=500)
    run = train("gan", data, out=tmp_path / "g", budget="2steps", settings=SMALL, device="cpu", say=lambda line: None)
    quick = ["-n", 3, "--temperatures", 4, "--chains", 2, "--sigma", "0.05"]
    code, out, err = call(capsys, "query", "annealed", run.path, *quick)
    assert code == 0, err
    assert "log p(x) of 3 vectors of ring" in out
    assert "sigma in standard deviations of each value, with the observation noise sigma = 0.05" in out


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_values_may_be_parted_by_semicolons_and_tabs(mark: str, tmp_path: Path) -> None:
    lines = ['"a;b,c"' + mark + "height", *(f"{i}.5{mark}{2 * i}" for i in range(40))]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    dataset = load(DataConfig(source=str(tmp_path / "x.csv")), progress=False)
    assert dataset.images.shape == (40, 2)
    assert sorted(map(tuple, dataset.images.tolist()))[:2] == [(0.5, 0.0), (1.5, 2.0)]


def test_a_decimal_comma_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a;b\n" + "1,5;2,5\n" * 40)
    with pytest.raises(ValueError, match="line 2: '1,5' is not a number; decimals are written with a point"):
        load(DataConfig(source=str(tmp_path / "x.csv")), progress=False)
