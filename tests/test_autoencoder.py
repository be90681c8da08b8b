"""The codes that an autoencoder remembers, and what its sampling options draw from them."""

from __future__ import annotations

import pytest
import torch
from coders import autoencoder, batch_noise, blobs
from torch import Tensor

from trilemma.families.autoencoder import MEMORY, Autoencoder, AutoencoderConfig, AutoencoderOptions
from trilemma.images import Spec
from trilemma.metrics.mixture import Mixture
from trilemma.noise import ImageNoise


def test_autoencoder_tracks_its_codes_and_samples_with_their_spread() -> None:
    spec = Spec((1, 8, 8))
    model = autoencoder(spec)
    x = blobs(spec, 64)
    (objective,) = model.objectives()
    for step in range(3):
        objective.loss(x, None, batch_noise(step, 64))
    z = model.encode(x).mean.detach()
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
    return model.draw_codes(what, model.codes, ImageNoise(0, range(count)))


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
