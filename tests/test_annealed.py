"""Annealed importance sampling against models whose evidence is known: it brackets log p(x), and closes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trilemma.families.diffusion import Diffusion, DiffusionConfig
from trilemma.families.gan import GAN, GANConfig
from trilemma.families.vae import VAE, VAEConfig
from trilemma.images import Spec
from trilemma.noise import ImageNoise, derive_seed
from trilemma.questions.annealed import Settings, annealed, bracket, schedule
from trilemma.questions.decoders import Joint, unit_interval
from trilemma.questions.hamiltonian import Point, move

SIGMA = 0.1
LATENT = 3


class Linear(torch.nn.Module):
    """x = W z + b as an image, in the place of a generator or a decoder."""

    def __init__(self, weight: Tensor, bias: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.weight, self.bias, self.shape = torch.nn.Parameter(weight), torch.nn.Parameter(bias), shape

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return (z @ self.weight.T + self.bias).view(-1, *self.shape)


def linear_gaussian() -> tuple[GAN, torch.distributions.MultivariateNormal]:
    """A GAN with a linear generator, and the law of its images on [0, 1] with observation noise."""
    spec = Spec((1, 3, 4))
    model = GAN(GANConfig(width=4, latent=LATENT), spec)
    generator = torch.Generator().manual_seed(1)
    w, b = torch.randn(spec.dims, LATENT, generator=generator) * 0.5, torch.randn(spec.dims, generator=generator) * 0.1
    model.generator = Linear(w, b, spec.shape)  # type: ignore[assignment]
    slope = 255 / 2 / 256
    covariance = (slope * w.double()) @ (slope * w.double()).T + SIGMA**2 * torch.eye(spec.dims, dtype=torch.float64)
    return model, torch.distributions.MultivariateNormal(unit_interval(b.double(), 256), covariance)


def exact(law: torch.distributions.MultivariateNormal, model: GAN, x: Tensor, seed: int = 0) -> Tensor:
    """log p of the values that `annealed` sees."""
    u = ImageNoise(derive_seed(seed, "dequantise"), range(len(x))).uniform(*model.spec.shape)
    return law.log_prob(((x.float() + u) / 256).double().flatten(1))


def images(law: torch.distributions.MultivariateNormal, count: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        drawn = law.sample((count,))
    return (drawn * 256).floor().clamp(0, 255).to(torch.uint8).view(count, 1, 3, 4)


def test_schedule_is_a_sigmoid_from_0_to_1() -> None:
    betas = schedule(100)
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (betas.diff() > 0).all()
    assert torch.allclose(betas + betas.flip(0), torch.ones(101, dtype=torch.float64))
    assert betas.diff()[0] < 0.2 * betas.diff().max()


def test_brackets_the_evidence_of_a_linear_gaussian_model_and_closes() -> None:
    model, law = linear_gaussian()
    x = images(law, 24)
    truth = exact(law, model, x)
    gaps = []
    for temperatures in (8, 40, 200):
        answer = annealed(model, x, settings=Settings(temperatures, chains=4, leapfrogs=5, sigma=SIGMA))
        error = (answer.forward - truth).std() / math.sqrt(len(x))
        assert (answer.forward - truth).mean() < 4 * error
        assert (answer.backward - truth).mean() > -4 * error
        gaps.append(answer.gap)
    assert gaps[0] > gaps[1] > gaps[2] > -0.05
    assert gaps[2] < 0.15 * gaps[0]
    assert torch.allclose(answer.forward.mean(), truth.mean(), atol=0.5)
    assert torch.allclose(answer.backward.mean(), truth.mean(), atol=0.5)
    assert answer.kind == "estimate"
    assert "sigma = 0.1" in answer.reason
    assert not answer.exact
    assert not answer.discrete
    assert 0.4 < answer.acceptance < 0.95
    assert (answer.effective >= 1 - 1e-9).all() and (answer.effective <= 4 + 1e-9).all()


def test_simulated_images_are_bracketed_from_exact_posterior_draws() -> None:
    model, law = linear_gaussian()
    noise = ImageNoise(derive_seed(3, "bracket"), range(24))
    with torch.no_grad():
        z = noise.normal(LATENT)
        x = unit_interval(model.generator(z), 256) + SIGMA * noise.normal(1, 3, 4)
    truth = law.log_prob(x.double().flatten(1)).mean()
    few, many = (
        bracket(model, 24, settings=Settings(temperatures, chains=4, leapfrogs=5, sigma=SIGMA), seed=3)
        for temperatures in (12, 300)
    )
    assert few.exact and many.exact
    assert few.forward.mean() < truth < few.backward.mean()
    assert few.gap > 2 * many.gap > -0.2
    assert abs(many.forward.mean() - truth) < 0.4
    assert abs(many.backward.mean() - truth) < 0.4


def small_vae(levels: int = 2, classes: int = 0) -> VAE:
    torch.manual_seed(0)
    model = VAE(VAEConfig(network="dense", width=12, depth=1, latent=1), Spec((1, 4, 4), levels, classes))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter *= 3
    return model


def test_vae_with_one_latent_against_quadrature() -> None:
    model = small_vae()
    x = (torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    z = torch.linspace(-8, 8, 4001)[:, None]
    log_prior = -0.5 * z.square()[:, 0] - 0.5 * math.log(2 * math.pi) + math.log(16 / 4000)
    with torch.no_grad():
        decoded = model.decoder(z)
        truth = torch.stack(
            [(log_prior - model.observation.nats(row.expand(4001, 1, 4, 4), decoded)).logsumexp(0) for row in x]
        )
    for start in ("prior", "encoder"):  # that they differ is for the tests of the encoder's start below
        answer = annealed(model, x, settings=Settings(60, 64, 4, start))  # type: ignore[arg-type]
        assert answer.kind == "bound"
        assert answer.discrete
        assert torch.allclose(answer.forward, truth.double(), atol=0.25)
        assert torch.allclose(answer.backward, truth.double(), atol=0.25)
    assert all(parameter.requires_grad for parameter in model.parameters())  # as it was
    assert model.training


VECTORS = Spec((4,), 0, center=(1.0, -2.0, 0.5, 0.0), scale=(3.0, 0.5, 1.0, 2.0))


class Exact(torch.nn.Module):
    """The moments of p(z|x) of a linear decoder with noise SIGMA, in the place of an encoder."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        variance = 1 / (1 + w.square().sum(0) / SIGMA**2)  # w has orthogonal columns
        self.gain, self.centre, self.logvar = w * variance / SIGMA**2, b, variance.log()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        mean = (x - self.centre) @ self.gain
        return torch.cat([mean, self.logvar.expand_as(mean)], 1)


def linear_vectors(kind: str) -> tuple[VAE | GAN, torch.distributions.MultivariateNormal]:
    """A model of vectors with a linear decoder of two latents, and the law of its vectors in their own units."""
    generator = torch.Generator().manual_seed(1)
    w = torch.linalg.qr(torch.randn(4, 2, generator=generator)).Q * torch.tensor([0.9, 0.6])
    b = torch.randn(4, generator=generator) * 0.1
    linear = Linear(w, b, (4,))  # type: ignore[arg-type]
    model: VAE | GAN
    if kind == "gan":
        model = GAN(GANConfig(width=4, latent=2), VECTORS)
        model.generator = linear  # type: ignore[assignment]
    else:
        fixed = {"scale": "fixed", "fixed_scale": SIGMA}
        model = VAE(VAEConfig(network="dense", width=4, latent=2, **fixed), VECTORS)  # type: ignore[arg-type]
        model.decoder, model.encoder = linear, Exact(w, b)  # type: ignore[assignment]
    scale = torch.tensor(VECTORS.scale).double()
    unit = w.double() @ w.double().T + SIGMA**2 * torch.eye(4).double()
    mean = torch.tensor(VECTORS.center).double() + scale * b.double()
    return model, torch.distributions.MultivariateNormal(mean, scale[:, None] * unit * scale)


def vectors(law: torch.distributions.MultivariateNormal, count: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return law.sample((count,)).float()


@pytest.mark.parametrize(("kind", "start"), [("gan", "prior"), ("vae", "prior"), ("vae", "encoder")])
def test_brackets_the_density_of_vectors_in_their_own_units(kind: str, start: str) -> None:
    model, law = linear_vectors(kind)
    x = vectors(law, 16)
    truth = law.log_prob(x.double())
    settings = Settings(100, 4, 4, start, SIGMA)  # type: ignore[arg-type]
    answer = annealed(model, x, settings=settings)
    assert torch.allclose(answer.forward.mean(), truth.mean(), atol=0.5)
    assert torch.allclose(answer.backward.mean(), truth.mean(), atol=0.5)
    assert not answer.discrete
    own = bracket(model, 16, settings=settings)
    assert -0.3 < own.gap < 1
    assert own.forward.mean() == pytest.approx(-float(law.entropy()), abs=4 * math.sqrt(4 / 2 / 16))


def test_start_from_the_encoder_is_exact_at_once_when_the_encoder_is() -> None:
    """With q = p(z|x) the ratio p(x, z) / q(z) is p(x) for every z: one temperature and one chain are enough."""
    model, law = linear_vectors("vae")
    x = vectors(law, 8)
    truth = law.log_prob(x.double())
    answer = annealed(model, x, settings=Settings(1, 1, 1, "encoder"))
    assert torch.allclose(answer.forward, truth, atol=1e-3)
    assert torch.allclose(answer.backward, truth, atol=1e-3)
    prior = annealed(model, x, settings=Settings(1, 1, 1, "prior"))
    assert (truth - prior.forward).mean() > 10


def test_start_from_the_encoder_of_images_is_nearer_than_from_the_prior() -> None:
    """An encoder that points at the right code, on images: at one temperature it must beat the prior."""
    torch.manual_seed(0)
    spec = Spec((1, 4, 4))
    model = VAE(VAEConfig(network="dense", width=4, latent=2, scale="fixed", fixed_scale=0.05), spec)
    w = torch.linalg.qr(torch.randn(16, 2)).Q
    model.decoder = Linear(w, torch.zeros(16), spec.shape)  # type: ignore[assignment]
    model.encoder = Exact(w, torch.zeros(16))  # type: ignore[assignment]
    model.encoder.forward = lambda x, labels=None: Exact.forward(model.encoder, x.flatten(1))  # type: ignore[method-assign, arg-type]
    x = model.decode(torch.randn(12, 2) * 0.5)
    few = {start: annealed(model, x, settings=Settings(1, 1, 1, start)) for start in ("prior", "encoder")}  # type: ignore[arg-type]
    assert few["encoder"].forward.mean() > few["prior"].forward.mean() + 10
    assert few["encoder"].discrete


def test_a_move_leaves_its_density_as_it_is() -> None:
    """From exact draws of q^½ p^½, a Gaussian here, many moves end in draws of it."""
    model, law = linear_gaussian()
    count = 4000
    x = images(law, 1)
    values = (x.float() + 0.5) / 256
    zero = torch.zeros(1, LATENT)
    target = Joint(model.requires_grad_(False), values, None, zero, torch.ones_like(zero), SIGMA, False)
    assert isinstance(model.generator, Linear)
    w, slope = model.generator.weight.double(), 255 / 2 / 256
    precision = torch.eye(LATENT, dtype=torch.float64) + 0.5 * slope**2 * w.T @ w / SIGMA**2
    covariance = precision.inverse()
    centre = unit_interval(model.generator.bias.double(), 256)
    mean = covariance @ (slope * w.T @ (values.double().flatten() - centre)) * 0.5 / SIGMA**2
    noise = ImageNoise(0, range(count))
    z = mean + noise.normal(LATENT).double() @ torch.linalg.cholesky(covariance).T
    rows = torch.zeros(count, dtype=torch.int64)
    point = Point.at(target, rows, z.float())
    moved = []
    for _ in range(4):
        point, probability = move(target, rows, point, 0.5, torch.tensor([0.15]), 4, noise)
        moved.append(float(probability.mean()))
    assert 0.3 < min(moved) < 0.99  # some are refused: the test would not see a missing correction otherwise
    drawn = point.z.double()
    spread = covariance.diagonal().sqrt()
    assert ((drawn.mean(0) - mean).abs() < 4 * spread / math.sqrt(count)).all()
    correlations = (torch.cov(drawn.T) - covariance) / spread / spread[:, None]
    assert correlations.abs().max() < 5 * math.sqrt(2 / count)


def test_an_image_depends_on_seed_and_number_alone_and_labels_matter() -> None:
    model = small_vae(classes=2)
    x = (torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    settings = Settings(6, 2, 2)
    together = annealed(model, x, torch.tensor([0, 1, 2]), settings)
    fewer = annealed(model, x[:2], torch.tensor([0, 1]), settings)
    assert torch.allclose(together.forward[:2], fewer.forward, atol=1e-5)
    assert not torch.allclose(annealed(model, x[:2], None, settings).forward, fewer.forward)
    told: list[tuple[int, int]] = []
    annealed(model, x, None, settings, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (18, 18)


def test_errors_are_one_line() -> None:
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    spec = Spec((1, 8, 8))
    with pytest.raises(ValueError, match="diffusion has none, vae and gan do"):
        annealed(Diffusion(DiffusionConfig(width=16, multipliers=(1,)), spec), x)
    with pytest.raises(ValueError, match="l2"):
        annealed(VAE(VAEConfig(width=8, observation="l2"), spec), x)
    with pytest.raises(ValueError, match="no images"):
        annealed(VAE(VAEConfig(width=8), spec), x[:0])
    with pytest.raises(ValueError, match="at least 1 chains"):
        Settings(chains=0)
    with pytest.raises(ValueError, match="sigma"):
        Settings(sigma=0)
    with pytest.raises(ValueError, match="no encoder to start"):
        annealed(GAN(GANConfig(width=4, latent=2), spec), x, settings=Settings(start="encoder"))
    with pytest.raises(ValueError, match="unconditional"):
        annealed(VAE(VAEConfig(width=8), spec), x, torch.tensor([0, 1]))
