"""p(x|z): the bins of the discretised logistic, Bernoulli pixels and the plain L2 distance."""

from __future__ import annotations

import math

import pytest
import torch
from coders import LOG_SCALES, random_images, vae

from trilemma.families.observation import L2, Bernoulli, DiscretisedLogistic, discretised_logistic
from trilemma.images import Spec, to_unit


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
