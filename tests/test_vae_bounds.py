"""The bounds of a VAE against models whose evidence is known."""

from __future__ import annotations

import math

import pytest
import torch
from coders import batch_noise, blobs, random_images, vae
from torch import Tensor

from trilemma.families.vae import VAE, gaussian_kl
from trilemma.images import Spec, to_unit
from trilemma.noise import ImageNoise


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
        ask = model.log_likelihood if samples else model.class_evidence
        answer = ask(many, None, ImageNoise(0, range(len(many))), samples)  # type: ignore[arg-type]
        assert answer.kind == "bound"
        assert answer.nats is not None
        return answer.nats.view(len(x), draws).mean(1)

    elbo, one, five, fifty = (mean_bound(k) for k in (None, 1, 5, 50))
    assert torch.allclose(evidence - elbo, gap, atol=0.25)
    assert torch.allclose((evidence - elbo).mean(), gap.mean(), atol=0.1)
    assert torch.allclose(one.mean(), elbo.mean(), atol=0.15)
    assert one.mean() < five.mean() < fifty.mean() < evidence.mean() + 0.02
    assert (evidence - fifty).mean() < 0.2 * gap.mean()
    usual = model.log_likelihood(x, None, ImageNoise(0, range(len(x))))
    assert usual.nats is not None and "100 draws" in usual.reason  # a single draw would be off by the whole gap
    assert (evidence - usual.nats).mean() < 0.1 * gap.mean()


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
    elbo = torch.stack([model.class_evidence(x, None, noise).nats for _ in range(200)]).mean(0)  # type: ignore[arg-type,misc]
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
    mu, logvar = model.moments(x)
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
