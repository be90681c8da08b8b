"""The autoencoder and the VAE: contract, observation models, bounds against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trilemma.families.autoencoder import MEMORY, Autoencoder, AutoencoderConfig, AutoencoderOptions
from trilemma.families.family import QUESTIONS, Family
from trilemma.families.observation import L2, Bernoulli, DiscretisedLogistic, discretised_logistic
from trilemma.families.vae import PATIENCE, VAE, VAEConfig, VAEOptions, gaussian_kl
from trilemma.images import Spec, to_unit
from trilemma.metrics.mixture import Mixture
from trilemma.nets.convnets import Decoder, Encoder, Ladder
from trilemma.noise import BatchNoise, ImageNoise

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 17, 23), (3, 8, 8)]
LOG_SCALES = [-7.0, -5.0, -1.0, 0.0, 4.0, 12.0]


def vae(spec: Spec, **config: object) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(**{"width": 8, "latent": 3, **config}), spec)  # type: ignore[arg-type]


def autoencoder(spec: Spec) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(width=8, latent=3), spec)


def random_images(spec: Spec, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, spec.levels, (count, *spec.shape), generator=generator, dtype=torch.uint8)


def blobs(spec: Spec, count: int) -> Tensor:
    """Bright discs at random places: something that can be learnt in seconds."""
    generator = torch.Generator().manual_seed(1)
    rows, columns = torch.arange(spec.height)[:, None], torch.arange(spec.width)[None]
    centres = torch.rand(count, 2, 1, 1, generator=generator) * torch.tensor([spec.height, spec.width])[:, None, None]
    near = (rows - centres[:, 0]).square() + (columns - centres[:, 1]).square() < (spec.height / 4) ** 2
    return (near[:, None].expand(-1, spec.channels, -1, -1) * (spec.levels - 1)).to(torch.uint8)


def batch_noise(step: int, count: int) -> BatchNoise:
    return BatchNoise(("test", step), count, 0, count, torch.device("cpu"))


def train(model: Family, images: Tensor, steps: int, lr: float = 2e-3) -> list[float]:
    """The bare loop: the losses of each step."""
    (objective,) = model.objectives()
    optimiser = torch.optim.Adam(objective.parameters, lr)
    losses = []
    for step in range(steps):
        loss = objective.loss(images, None, batch_noise(step, len(images))).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


# --- nets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "halvings", "seed"),
    [((28, 28), 2, (7, 7)), ((32, 32), 3, (4, 4)), ((17, 23), 2, (5, 6)), ((8, 8), 1, (4, 4)), ((64, 48), 3, (8, 6))],
)
def test_ladder_reaches_a_small_seed(size: tuple[int, int], halvings: int, seed: tuple[int, int]) -> None:
    ladder = Ladder.of(*size)
    assert (ladder.halvings, ladder.seed) == (halvings, seed)


def test_crop_inverts_pad() -> None:
    for size in [(17, 23), (28, 28), (5, 4), (9, 31), (1, 1)]:
        ladder = Ladder.of(*size)
        x = torch.randn(2, 3, *size)
        padded = ladder.pad(x)
        assert padded.shape[2:] == tuple(2**ladder.halvings * s for s in ladder.seed)
        assert torch.equal(ladder.crop(padded), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_encoder_and_decoder_shapes(shape: tuple[int, int, int]) -> None:
    encoder, decoder = Encoder(shape, 8, 1, 5, classes=3), Decoder(shape, 8, 1, 5, 2, classes=3)
    labels = torch.tensor([0, 3])
    z = encoder(torch.randn(2, *shape), labels)
    assert z.shape == (2, 5)
    assert decoder(z, labels).shape == (2, 2, *shape[1:])


# --- observation models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("log_s", LOG_SCALES)
def test_logistic_bins_sum_to_one(levels: int, log_s: float) -> None:
    mu = torch.tensor([-40.0, -1.3, -1.0, -0.5021, 0.0, 0.004, 1.0, 2.5], dtype=torch.float64)[:, None]
    x = torch.arange(levels)[None]
    log_p = discretised_logistic(x, mu, torch.full_like(mu, log_s), levels)
    assert torch.allclose(log_p.logsumexp(1), torch.zeros(len(mu), dtype=torch.float64), atol=1e-9)
    assert torch.allclose(
        discretised_logistic(x, mu.float(), torch.full_like(mu.float(), log_s), levels).logsumexp(1),
        torch.zeros(len(mu)),
        atol=2e-5,
    )


def test_logistic_bins_are_differences_of_the_cdf() -> None:
    mu, s = torch.tensor(0.1, dtype=torch.float64), 0.2
    edges = torch.cat([torch.tensor([-math.inf]), (torch.arange(255) + 0.5) * 2 / 255 - 1, torch.tensor([math.inf])])
    expected = torch.sigmoid((edges.double() - mu) / s).diff()
    log_p = discretised_logistic(torch.arange(256), mu, torch.tensor(math.log(s), dtype=torch.float64), 256)
    assert torch.allclose(log_p.exp(), expected, rtol=1e-5)  # the edges are float32
    assert log_p[0] > log_p[1]  # the tail


@pytest.mark.parametrize("scale", ["pixel", "channel"])
def test_logistic_is_finite_with_finite_gradients_at_the_extremes(scale: str) -> None:
    spec = Spec((1, 1, 4))
    model = DiscretisedLogistic(spec, scale)  # type: ignore[arg-type]
    for value in [-1e4, -30.0, 0.0, 30.0, 1e4]:
        decoded = torch.full((1, model.outputs, 1, 4), value, requires_grad=True)
        nats = model.nats(torch.tensor([[[[0, 1, 128, 255]]]], dtype=torch.uint8), decoded)
        nats.sum().backward()
        assert torch.isfinite(nats).all()
        assert decoded.grad is not None
        assert torch.isfinite(decoded.grad).all()
    for log_s in [-50.0, -7.0, 40.0]:
        mu_s = torch.tensor([0.3, log_s]).view(1, 2, 1, 1).expand(1, 2, 1, 4).clone().requires_grad_()
        nats = DiscretisedLogistic(spec, "pixel").nats(torch.tensor([[[[0, 1, 128, 255]]]], dtype=torch.uint8), mu_s)
        nats.sum().backward()
        assert torch.isfinite(nats).all()
        assert torch.isfinite(mu_s.grad).all()


def test_logistic_draws_follow_its_bins() -> None:
    model = DiscretisedLogistic(Spec((1, 1, 1)), "pixel")
    decoded = torch.tensor([0.7, 0.5]).view(1, 2, 1, 1)
    count = 20000
    uniform = ((torch.arange(count) + 0.5) / count).view(-1, 1, 1, 1)
    drawn = model.draw(decoded.expand(count, -1, -1, -1), uniform).flatten().long().bincount(minlength=256) / count
    mu, log_s = model.parts(decoded)
    expected = discretised_logistic(torch.arange(256), mu.flatten(), log_s.flatten(), 256).exp()
    assert (drawn - expected).abs().max() < 2 / count  # a stratified draw is off by at most one at either end


def test_bernoulli_against_its_definition() -> None:
    model = Bernoulli(Spec((1, 1, 3), levels=2))
    p = torch.tensor([0.2, 0.5, 0.9]).view(1, 1, 1, 3)
    x = torch.tensor([1, 0, 1], dtype=torch.uint8).view(1, 1, 1, 3)
    assert model.nats(x, torch.logit(p)).item() == pytest.approx(-math.log(0.2 * 0.5 * 0.9), rel=1e-6)
    assert model.mean(torch.logit(p)).flatten().tolist() == [0, 0, 1]
    assert model.draw(torch.logit(p), torch.full_like(p, 0.4)).flatten().tolist() == [0, 1, 1]


def test_l2_is_the_squared_distance_and_a_gaussian_of_variance_half() -> None:
    spec = Spec((1, 2, 2))
    model, x = L2(spec), random_images(spec, 3)
    decoded = torch.randn(3, 1, 2, 2)
    expected = (to_unit(x, 256) - decoded).square().sum((1, 2, 3))
    assert torch.allclose(model.nats(x, decoded), expected)
    gaussian = torch.distributions.Normal(decoded, math.sqrt(0.5)).log_prob(to_unit(x, 256)).sum((1, 2, 3))
    assert torch.allclose(-gaussian - 2 * math.log(math.pi), expected, atol=1e-5)


def test_bernoulli_refuses_grey_levels() -> None:
    with pytest.raises(ValueError, match="256 levels"):
        vae(Spec((1, 8, 8)), observation="bernoulli")


# --- bounds against closed forms -------------------------------------------------------------------------------------


def test_kl_closed_form_against_monte_carlo() -> None:
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.tensor([[0.5, -1.0]]), torch.tensor([[-0.7, 0.4]])
    eps = torch.randn(200_000, 2, generator=generator)
    z = mu + (0.5 * logvar).exp() * eps
    drawn = 0.5 * (z.square() - eps.square() - logvar).sum(1)
    error = drawn.std() / math.sqrt(len(drawn))
    assert abs(drawn.mean() - gaussian_kl(mu, logvar)) < 4 * error
    assert gaussian_kl(torch.zeros(1, 2), torch.zeros(1, 2)).item() == 0


class Affine(torch.nn.Module):
    """A net of one matrix on flattened inputs, with the bias ``b``; it stands in for an encoder or a decoder."""

    def __init__(self, weight: Tensor, b: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.b, self.shape = torch.nn.Parameter(weight), torch.nn.Parameter(b), shape

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return (x.flatten(1) @ self.weight.T + self.b).unflatten(1, self.shape)


class GaussianPixels(torch.nn.Module):
    """N(x; μ, σ²) of the undiscretised value, in the place of an observation model."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma, self.outputs = sigma, 1

    def nats(self, x: Tensor, decoded: Tensor) -> Tensor:
        normal = torch.distributions.Normal(decoded, self.sigma)
        return -normal.log_prob(to_unit(x, 256).double()).sum((1, 2, 3))


def linear_gaussian(exact: bool) -> tuple[VAE, Tensor, Tensor, Tensor]:
    """Probabilistic PCA as a VAE: the model, images, their exact log p(x) and the exact KL(q ‖ posterior)."""
    spec, latent, sigma = Spec((1, 2, 3)), 2, 0.3
    model = vae(spec, latent=latent).double()
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(spec.dims, latent, generator=generator, dtype=torch.float64) * 0.5
    bias = torch.randn(spec.dims, generator=generator, dtype=torch.float64) * 0.1
    precision = torch.eye(latent, dtype=torch.float64) + w.T @ w / sigma**2
    # The family's q has a diagonal covariance: turn z so that the posterior's is diagonal as well.
    w = w @ torch.linalg.eigh(precision).eigenvectors
    variance = 1 / (1 + (w.T @ w).diagonal() / sigma**2)
    to_mean = variance[:, None] * w.T / sigma**2
    off = 0.0 if exact else 0.35
    model.observation = GaussianPixels(sigma)  # type: ignore[assignment]
    model.decoder = Affine(w, bias, spec.shape)  # type: ignore[assignment]
    head = torch.cat([-to_mean @ bias + off, variance.log() + off])
    model.encoder = Affine(torch.cat([to_mean, torch.zeros_like(to_mean)]), head, (2 * latent,))  # type: ignore[assignment]
    x = random_images(spec, 6)
    covariance = w @ w.T + sigma**2 * torch.eye(spec.dims, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(bias, covariance).log_prob(to_unit(x, 256).double().flatten(1))
    gap = 0.5 * (off**2 / variance + math.exp(off) - 1 - off).sum().expand(len(x))
    return model, x, evidence, gap


def test_bounds_are_the_evidence_when_q_is_exact() -> None:
    model, x, evidence, _ = linear_gaussian(exact=True)
    one = model.log_likelihood(x, None, ImageNoise(0, range(len(x))), 1).nats
    assert one is not None
    assert torch.allclose(one, evidence, atol=1e-6)


def test_elbo_gap_is_the_kl_to_the_posterior_and_closes_with_importance_samples() -> None:
    model, x, evidence, gap = linear_gaussian(exact=False)
    draws = 400
    many = x.repeat_interleave(draws, 0)

    def mean_bound(samples: int | None) -> Tensor:
        answer = model.log_likelihood(many, None, ImageNoise(0, range(len(many))), samples)
        assert answer.kind == "bound"
        assert answer.nats is not None
        return answer.nats.view(len(x), draws).mean(1)

    elbo, one, five, fifty = (mean_bound(k) for k in (None, 1, 5, 50))
    assert torch.allclose(evidence - elbo, gap, atol=0.25)
    assert torch.allclose((evidence - elbo).mean(), gap.mean(), atol=0.1)
    assert torch.allclose(one.mean(), elbo.mean(), atol=0.15)
    assert one.mean() < five.mean() < fifty.mean() < evidence.mean() + 0.02
    assert (evidence - fifty).mean() < 0.2 * gap.mean()


def test_bound_holds_on_a_model_whose_evidence_is_summed() -> None:
    """One latent: log p(x) by quadrature over z, on the real networks and the discretised logistic."""
    spec = Spec((1, 5, 4))
    model = vae(spec, latent=1).double().eval()
    with torch.no_grad():
        model.decoder.head.weight *= 5
    x = random_images(spec, 3)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    log_prior = -0.5 * z.square().squeeze(1) - 0.5 * math.log(2 * math.pi) + math.log(16 / 4000)
    with torch.no_grad():
        decoded = model.decoder(z)
        evidence = torch.stack([(log_prior - model.observation.nats(image[None], decoded)).logsumexp(0) for image in x])
    noise = ImageNoise(0, range(3))
    elbo = torch.stack([model.log_likelihood(x, None, noise).nats for _ in range(200)]).mean(0)  # type: ignore[arg-type,misc]
    weighted = model.log_likelihood(x, None, noise, 3000).nats
    assert weighted is not None
    assert (elbo < evidence).all()
    assert torch.allclose(weighted, evidence, atol=0.15)


def test_loss_sums_over_dims_and_means_over_the_batch() -> None:
    spec = Spec((1, 8, 8), levels=2)
    model = vae(spec, beta=2.0)
    x = blobs(spec, 4)
    (objective,) = model.objectives()
    loss = objective.loss(x, None, batch_noise(0, 4))
    mu, logvar = model.encode(x)
    z = mu + (0.5 * logvar).exp() * batch_noise(0, 4).normal(3)
    logits = model.decoder(z)
    expected = -torch.distributions.Bernoulli(logits=logits).log_prob(x.float()).sum() / 4
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (0.5 * logvar).exp()), torch.distributions.Normal(0, 1)
    )
    assert loss.terms["reconstruction"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.terms["kl"].item() == pytest.approx(2 * kl.sum().item() / 4, rel=1e-4)
    again = objective.loss(x.repeat(2, 1, 1, 1), None, batch_noise(1, 8))
    assert again.terms["kl"].item() == pytest.approx(loss.terms["kl"].item(), rel=1e-5)  # twice the batch, same mean


# --- the contract ----------------------------------------------------------------------------------------------------

FAMILIES = [vae, autoencoder]


@pytest.mark.parametrize("make", FAMILIES)
def test_declares_everything(make: object) -> None:
    cls = VAE if make is vae else Autoencoder
    assert set(cls.answers) == set(QUESTIONS)
    assert all(
        answer.split()[0].strip(":,") in {"yes", "bound", "approximate", "no"} for answer in cls.answers.values()
    )
    assert cls.title
    assert cls.paper
    assert cls.gives_up
    assert cls.Config() == cls.Config()
    assert cls.Options() == cls.Options()


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", FAMILIES)
def test_shapes_gradients_and_state(make: object, shape: tuple[int, int, int], levels: int) -> None:
    spec = Spec(shape, levels, classes=3)
    model = make(spec)  # type: ignore[operator]
    x, labels = random_images(spec, 4), torch.tensor([0, 1, 2, 3])
    (objective,) = model.objectives()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective.loss(x, labels, batch_noise(0, 4))
    assert loss.total.dtype == torch.float32
    loss.total.backward()
    assert {id(p) for p in objective.parameters} == {id(p) for p in model.parameters()}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    for given in (labels, None):
        images = model.eval().sample(ImageNoise(0, range(4)), given)
        assert images.dtype == torch.uint8
        assert images.shape == (4, *shape)
        assert int(images.max()) < levels


@pytest.mark.parametrize("config", [{}, {"scale": "channel"}, {"observation": "l2"}, {"network": "dense"}])
@pytest.mark.parametrize("draw", ["mean", "sample"])
def test_vae_image_does_not_depend_on_its_batch(config: dict[str, str], draw: str) -> None:
    spec = Spec((1, 12, 10), classes=2)
    model = vae(spec, **config).double().eval()
    labels, options = torch.tensor([0, 1, 2, 1]), VAEOptions(draw=draw)  # type: ignore[arg-type]
    together = model.sample(ImageNoise(5, range(4)), labels, options)
    alone = model.sample(ImageNoise(5, [2]), labels[2:3], options)
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(together[1:2], alone)


def test_vae_likelihood_does_not_depend_on_the_batch_and_sees_labels() -> None:
    spec = Spec((1, 8, 8), classes=2)
    model = vae(spec).double().eval()
    x, labels = random_images(spec, 4), torch.tensor([0, 1, 2, 1])
    for samples in (None, 3):
        together = model.log_likelihood(x, labels, ImageNoise(5, range(4)), samples).nats
        alone = model.log_likelihood(x[2:3], labels[2:3], ImageNoise(5, [2]), samples).nats
        null = model.log_likelihood(x[2:3], None, ImageNoise(5, [2]), samples).nats
        other = model.log_likelihood(x[2:3], labels[:1], ImageNoise(5, [2]), samples).nats
        assert together is not None
        assert alone is not None
        assert other is not None
        assert null is not None
        assert together.shape == (4,)
        assert torch.allclose(together[2], alone[0], rtol=1e-12)
        assert torch.equal(alone, null)  # the label 2 is "no label"
        assert not torch.allclose(alone, other)


def test_undefined_likelihoods_say_why() -> None:
    spec = Spec((1, 8, 8))
    for model in (vae(spec, observation="l2"), autoencoder(spec)):
        answer = model.log_likelihood(random_images(spec, 2), None, ImageNoise(0, range(2)))
        assert answer.kind == "undefined"
        assert answer.nats is None
        assert answer.reason


def test_user_errors_are_one_clear_line() -> None:
    spec = Spec((1, 8, 8), classes=2)
    model = vae(spec).eval()
    with pytest.raises(ValueError, match=r"0 … 2"):
        model.sample(ImageNoise(0, [0]), torch.tensor([3]))
    with pytest.raises(ValueError, match="without labels"):
        vae(Spec((1, 8, 8))).sample(ImageNoise(0, [0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="at least 1"):
        model.log_likelihood(random_images(spec, 1), None, ImageNoise(0, [0]), 0)


def test_collapse_alarm() -> None:
    for logs in ({"rate": 0.05}, {"rate": 3.0, "active_units": 0.2}):
        model = vae(Spec((1, 8, 8)), beta=4.0)
        assert model.alarms({}) == []
        assert model.alarms({"rate": 1.0, "active_units": 3.0}) == []
        assert [model.alarms(logs) for _ in range(PATIENCE - 1)] == [[]] * (PATIENCE - 1)  # normal at the start
        (alarm,) = model.alarms(logs)
        assert "collapse" in alarm
        assert "none of the 3 latents" in alarm
        assert "now 4" in alarm


def test_a_collapsed_encoder_has_no_active_units() -> None:
    spec = Spec((1, 8, 8), levels=2)
    model, x = vae(spec), blobs(spec, 16)
    (objective,) = model.objectives()
    with torch.no_grad():
        model.encoder.head.weight.zero_()
    assert objective.loss(x, None, batch_noise(0, 16)).logs["active_units"] == 0
    with torch.no_grad():
        model.encoder.head.weight[1].normal_()
    assert objective.loss(x, None, batch_noise(0, 16)).logs["active_units"] == 1


def test_importance_weighted_loss_is_minus_the_bound_and_has_its_gradient() -> None:
    """∇ log 1/k Σ w = Σ w̃ ∇ log w with the normalised weights w̃ (Burda et al. 2015, eq. 14)."""
    spec, k = Spec((1, 6, 6), levels=2), 4
    model = vae(spec, importance=k, network="dense", width=12, depth=2).double()
    x = blobs(spec, 3)
    (objective,) = model.objectives()
    loss = objective.loss(x, None, batch_noise(0, 3))
    mu, logvar = model.encode(x)
    std = (0.5 * logvar).exp()
    z = mu[:, None] + std[:, None] * batch_noise(0, 3).normal(k, 3)
    normal = torch.distributions.Normal
    log_w = torch.distributions.Bernoulli(logits=model.decoder(z.flatten(0, 1)).view(3, k, -1)).log_prob(
        x.flatten(1)[:, None].double()
    ).sum(2) + (normal(0, 1).log_prob(z) - normal(mu[:, None], std[:, None]).log_prob(z)).sum(2)
    assert loss.terms["iwae"].item() == pytest.approx(-(log_w.exp().mean(1).log().mean()).item(), rel=1e-9)
    assert loss.logs["bits_per_dim"].item() == pytest.approx(loss.total.item() / (36 * math.log(2)))
    by_hand = -(log_w.softmax(1).detach() * log_w).sum(1).mean()
    ours = torch.autograd.grad(loss.total, list(model.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(by_hand, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_kl_warms_up_by_steps_of_training_and_a_resumed_run_goes_on() -> None:
    spec = Spec((1, 8, 8), levels=2)
    model, x = vae(spec, kl_warmup=4, beta=2.0), blobs(spec, 4)
    (objective,) = model.objectives()

    def weight() -> float:
        loss = objective.loss(x, None, batch_noise(0, 4))
        return (loss.terms["kl"] / loss.logs["rate"]).item()

    assert [weight() for _ in range(3)] == pytest.approx([0.5, 1.0, 1.5])
    assert model.eval() and weight() == pytest.approx(1.5)  # looking is not a step
    again = vae(spec, kl_warmup=4, beta=2.0)
    again.load_state_dict(model.state_dict())
    assert int(again.steps) == 3
    model.train()
    assert [weight() for _ in range(3)] == pytest.approx([2.0, 2.0, 2.0])
    assert "steps" not in vae(spec).state_dict()  # nothing new in a run without a warm-up


def test_free_bits_pay_nothing_below_their_threshold() -> None:
    spec = Spec((1, 8, 8), levels=2)
    model, x = vae(spec, free_bits=0.3), blobs(spec, 8)
    (objective,) = model.objectives()
    with torch.no_grad():
        model.encoder.head.weight.zero_()
        model.encoder.head.bias.copy_(torch.tensor([2.0, 0.1, 0.0, 0.0, 0.0, 0.0]))  # KLs of 2, 0.005 and 0 nats
    loss = objective.loss(x, None, batch_noise(0, 8))
    assert loss.terms["kl"].item() == pytest.approx(2.0 + 0.3 + 0.3, rel=1e-5)
    assert loss.logs["rate"].item() == pytest.approx(2.005, rel=1e-5)
    gradient = torch.autograd.grad(loss.terms["kl"], model.encoder.head.bias)[0]
    assert gradient[0].item() == pytest.approx(2.0)
    assert gradient[1] == gradient[2] == 0  # free: nothing pulls it to the prior


def test_fixed_scale_is_not_learnt() -> None:
    spec = Spec((1, 4, 4))
    model = vae(spec, scale="fixed", fixed_scale=0.1)
    mu, log_s = model.observation.parts(torch.zeros(1, 1, 4, 4))
    assert torch.allclose(log_s.exp(), torch.tensor(0.1))
    assert not any("scale" in name for name, _ in model.named_parameters())
    assert not any("scale" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"importance": 0}, "at least 1"), ({"beta": -1.0}, "0 or more"), ({"free_bits": 0.1, "importance": 5}, "free")],
)
def test_wrong_objectives_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VAEConfig(**wrong)  # type: ignore[arg-type]


def test_many_importance_samples_in_chunks_equal_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec((1, 8, 8), levels=2)
    model, x = vae(spec, network="dense", width=10, depth=2).double().eval(), blobs(spec, 3)
    answers = []
    for rows in (1, 7, 1000):
        monkeypatch.setattr("trilemma.families.vae.ROWS", rows)
        answers.append(model.log_likelihood(x, None, ImageNoise(0, range(3)), 23).nats)
    assert torch.allclose(answers[0], answers[1], rtol=1e-10)  # type: ignore[arg-type]
    assert torch.allclose(answers[0], answers[2], rtol=1e-10)  # type: ignore[arg-type]


def test_autoencoder_tracks_its_codes_and_samples_with_their_spread() -> None:
    spec = Spec((1, 8, 8))
    model = autoencoder(spec)
    x = blobs(spec, 64)
    (objective,) = model.objectives()
    for step in range(3):
        objective.loss(x, None, batch_noise(step, 64))
    z = model.encode(x).detach()
    assert torch.allclose(model.code_mean, z.mean(0), atol=1e-5)
    assert torch.allclose(model.code_square, z.square().mean(0), atol=1e-5)
    before = model.code_mean.clone()
    objective.loss(blobs(spec, 80)[64:], None, batch_noise(0, 16))
    assert not torch.equal(model.code_mean, before)
    frozen = model.code_mean.clone()
    model.eval()
    objective.loss(x, None, batch_noise(0, 64))
    assert torch.equal(model.code_mean, frozen)
    assert {"code_mean", "code_square"} <= set(model.state_dict())
    noise = ImageNoise(0, range(2))
    std = (model.code_square - model.code_mean.square()).sqrt()
    expected = model.decode(model.code_mean + std * ImageNoise(0, range(2)).normal(3))
    assert torch.equal(model.sample(noise), expected)


def remembering(codes: Tensor) -> Autoencoder:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(width=8, latent=codes.shape[1]), Spec((1, 8, 8))).eval()
    model.remember(codes)
    return model


def drawn_codes(model: Autoencoder, what: str, count: int = 4000) -> Tensor:
    return model._draw(ImageNoise(0, range(count)), what)


def test_autoencoder_remembers_the_last_codes_bit_by_bit() -> None:
    z = torch.randn(MEMORY + 300, 3, generator=torch.Generator().manual_seed(0))
    model = remembering(z[:100])
    assert torch.equal(model.codes, z[:100])
    model.remember(z[100:])
    assert torch.equal(model.codes, z[-MEMORY:])
    again = remembering(z[:1])
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.codes, model.codes)


def test_codes_are_drawn_from_what_the_option_names() -> None:
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(2, (MEMORY, 1), generator=generator).bool()
    spread = torch.tensor([[1.0, 0.0], [0.9, 0.3]])
    noise = torch.randn(MEMORY, 2, generator=generator) @ spread.T
    codes = torch.where(which, noise + 6, 0.2 * noise - 6)  # two clouds far from each other
    model = remembering(codes)
    prior, gaussian, mixture, real = (drawn_codes(model, kind) for kind in ("prior", "gaussian", "mixture", "real"))
    assert prior.mean(0).abs().max() < 0.1
    assert torch.allclose(prior.std(0), torch.ones(2), atol=0.1)
    for drawn in (gaussian, mixture, real):
        assert torch.allclose(drawn.mean(0), codes.mean(0), atol=0.5)
        assert torch.allclose(torch.cov(drawn.T), torch.cov(codes.T), rtol=0.1)
    between = ((codes.mean(0) - gaussian).norm(dim=1) < 3).float().mean()
    assert between > 0.2  # one Gaussian fills the gap
    assert ((codes.mean(0) - mixture).norm(dim=1) < 3).float().mean() < 0.01  # two do not
    share = (mixture.sum(1) > 0).float().mean()
    assert share == pytest.approx(float(which.float().mean()), abs=0.03)
    assert set(map(tuple, real.tolist())) <= set(map(tuple, codes.tolist()))
    assert torch.equal(drawn_codes(model, "mixture", 3), mixture[:3])
    fresh = autoencoder(Spec((1, 8, 8)))
    for kind in ("gaussian", "mixture", "real"):
        with pytest.raises(ValueError, match="has seen none: train it"):
            fresh.sample(ImageNoise(0, range(2)), None, AutoencoderOptions(codes=kind))  # type: ignore[arg-type]


def test_mixture_density_and_its_likelihood_rises() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.cat([torch.randn(400, 2, generator=generator), 0.3 * torch.randn(100, 2, generator=generator) + 4])
    one, two = Mixture.fit(x, 1), Mixture.fit(x, 2)
    normal = torch.distributions.MultivariateNormal(one.means[0], scale_tril=one.factors[0])
    assert torch.allclose(one.log_density(x), normal.log_prob(x.double()))
    assert torch.allclose(one.means[0], x.double().mean(0))
    assert two.log_density(x).mean() > one.log_density(x).mean() + 0.3
    assert sorted(two.weights.tolist()) == pytest.approx([0.2, 0.8], abs=0.02)
    assert len(Mixture.fit(x[:6], 9).weights) == 1  # few rows, few components
    with pytest.raises(ValueError, match="at least 2"):
        Mixture.fit(x[:1], 2)


def test_autoencoder_image_does_not_depend_on_its_batch() -> None:
    model = autoencoder(Spec((3, 9, 8), classes=2)).double().eval()
    labels = torch.tensor([0, 1, 2])
    together = model.sample(ImageNoise(1, range(3)), labels)
    assert torch.equal(together[1:2], model.sample(ImageNoise(1, [1]), labels[1:2]))


def test_a_decoder_that_went_black_still_learns() -> None:
    """Behind a tanh its gradient would vanish: a few first steps on mostly black images would end the training."""
    spec = Spec((1, 8, 8))
    white = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    for model in (autoencoder(spec), vae(spec, observation="l2")):
        torch.nn.init.constant_(model.decoder.head.bias, -20.0)  # type: ignore[arg-type, union-attr]
        (objective,) = model.objectives()
        objective.loss(white, None, batch_noise(0, 2)).terms["reconstruction"].backward()
        assert model.decoder.head.bias.grad.abs().item() > 1  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("make", FAMILIES)
def test_fifty_steps_learn_blobs(make: object, levels: int) -> None:
    spec = Spec((1, 12, 12), levels)
    model = make(spec)  # type: ignore[operator]
    losses = train(model, blobs(spec, 32), 50)
    assert losses[-1] < 0.6 * losses[0]
