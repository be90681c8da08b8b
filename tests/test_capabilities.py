"""Each capability keeps its contract in every family that declares it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trilemma.families import FAMILIES
from trilemma.families.family import (
    Completes,
    Decodes,
    Denoises,
    Encodes,
    Family,
    FitsCodes,
    Observes,
    Orders,
    Plays,
)
from trilemma.images import Spec
from trilemma.noise import BatchNoise, ImageNoise
from trilemma.presets import configure

SPECS = (Spec((3, 8, 8), classes=3), Spec((1, 8, 10), levels=2))


def able(capability: type) -> list[Any]:
    declared = [name for name, cls in FAMILIES.items() if issubclass(cls, capability)]
    return [pytest.param(name, spec, id=f"{name}-{spec.levels}") for name in declared for spec in SPECS]


def build(name: str, spec: Spec) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[name](configure(name, "tiny")[0], spec)
    return model.eval().requires_grad_(False)


def batch(spec: Spec, count: int = 3) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(spec.levels, (count, *spec.shape), generator=generator).to(torch.uint8)
    return x, torch.arange(count) % spec.classes if spec.classes else None


def noise(count: int = 3) -> ImageNoise:
    return ImageNoise(0, range(count))


@pytest.mark.parametrize(("name", "spec"), able(Encodes))
def test_encodes(name: str, spec: Spec) -> None:
    model, (x, y) = build(name, spec), batch(spec)
    code = model.encode(x, y)
    assert code.mean.shape == (3, model.config.latent) and bool(code.mean.isfinite().all())
    assert code.std is None or (code.std.shape == code.mean.shape and bool((code.std > 0).all()))
    lost = model.distortion(x, code.mean, y)
    assert lost.shape == (3,) and bool(lost.isfinite().all()) and model.distortion_unit
    assert torch.allclose(model.encode(x[1:2], None if y is None else y[1:2]).mean, code.mean[1:2], atol=1e-5)


@pytest.mark.parametrize(("name", "spec"), able(Decodes))
def test_decodes(name: str, spec: Spec) -> None:
    model, (_, y) = build(name, spec), batch(spec)
    z = torch.randn(3, model.latent, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert model.latent == model.config.latent
    drawn, images = model.render(z, y), model.decode(z.detach(), y)
    assert drawn.shape == images.shape == (3, *spec.shape) and images.dtype == torch.uint8
    assert int(images.max()) < spec.levels
    (slope,) = torch.autograd.grad(drawn.sum(), z)
    assert float(slope.abs().max()) > 0
    assert type(model).prior is not issubclass(type(model), FitsCodes)


@pytest.mark.parametrize(("name", "spec"), able(FitsCodes))
def test_fits_codes(name: str, spec: Spec) -> None:
    model = build(name, spec)
    codes = torch.randn(200, model.latent, generator=torch.Generator().manual_seed(3)) * 2 + 1
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn = model.draw_codes("gaussian", codes, ImageNoise(0, range(400)))
    assert drawn.shape == (400, model.latent)
    assert float((drawn.mean(0) - codes.mean(0)).abs().max()) < 0.6
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "spec"), able(Observes))
def test_observes(name: str, spec: Spec) -> None:
    model, (x, y) = build(name, spec), batch(spec)
    if model.lacks_density(model.config):
        pytest.skip("no density with this config")
    z = torch.randn(3, model.latent, generator=torch.Generator().manual_seed(4))
    seen = model.observed(x, noise())
    nats = model.log_observation(seen, z, y, 0.1)
    assert nats.shape == (3,) and bool(nats.isfinite().all())
    drawn = model.draw_observation(z, y, noise(), 0.1)
    assert drawn.shape == seen.shape and drawn.dtype == seen.dtype
    if spec.levels > 2:  # what the code itself draws is more probable than noise; of two levels noise is all there is
        assert float((model.log_observation(drawn, z, y, 0.1) - nats).mean()) > 0


@pytest.mark.parametrize(("name", "spec"), able(Orders))
def test_orders(name: str, spec: Spec) -> None:
    model, (x, y) = build(name, spec), batch(spec)
    nats = model.nats(x, y)
    assert nats.shape == x.shape
    whole = model.log_likelihood(x, y, noise()).nats
    assert torch.allclose(nats.flatten(1).sum(1), -whole, rtol=1e-4)
    given = model.conditionals(model.features(x), y)
    assert given.shape == (3, *spec.shape[1:], model.groups, model.outputs)
    # The last value is in no condition but its own.
    changed = x.clone()
    changed[:, -1, -1, -1] = spec.levels - 1 - changed[:, -1, -1, -1]
    assert torch.allclose(model.nats(changed, y)[..., :-1, :], nats[..., :-1, :], atol=1e-5)


@pytest.mark.parametrize(("name", "spec"), able(Plays))
def test_plays(name: str, spec: Spec) -> None:
    model, (x, y) = build(name, spec), batch(spec, 4)
    judged = model.judge(x, y)
    assert judged.shape == (4,)
    alone = model.judge(x[2:3], None if y is None else y[2:3])
    assert torch.allclose(judged[2:3], alone, atol=1e-5)  # what is judged beside it changes nothing
    model.player.requires_grad_(True)
    logits = model.judge_samples(BatchNoise((0,), 4, 0, 4, torch.device("cpu")), y)
    losses = model.generator_losses(logits)
    assert losses and model.probabilities(model.config) in (True, False)
    for loss in losses.values():
        slopes = torch.autograd.grad(loss, list(model.player.parameters()), retain_graph=True, allow_unused=True)
        assert any(slope is not None and float(slope.abs().max()) > 0 for slope in slopes)


@pytest.mark.parametrize(("name", "spec"), able(Denoises))
def test_denoises(name: str, spec: Spec) -> None:
    model, (_, y) = build(name, spec), batch(spec)
    assert isinstance(model, Family)
    x_T = model.latent(noise())
    assert x_T.shape == (3, *spec.shape)
    t = model.schedule.T // 2
    alpha, sigma = model.schedule(t)
    estimate = model.denoiser(y)(x_T, t)
    assert torch.allclose(alpha * estimate.x0 + sigma * estimate.eps, x_T, atol=1e-3)
    rows = model.denoiser(y)(x_T, torch.full((3,), t))
    assert torch.allclose(rows.x0, estimate.x0, atol=1e-4)
    images = model.decode(x_T, noise(), y, model.Options(steps=2, precision="fp32"))
    assert images.shape == (3, *spec.shape) and images.dtype == torch.uint8


@pytest.mark.parametrize(("name", "spec"), able(Completes))
def test_completes(name: str, spec: Spec) -> None:
    model, (x, y) = build(name, spec), batch(spec)
    known = torch.zeros(spec.shape, dtype=torch.bool)
    known[:, : spec.height // 2] = True
    options = model.CompletionOptions(steps=2) if isinstance(model, Denoises) else model.CompletionOptions()
    method = model.completion_method(known, options)
    assert method.text and not (method.exact and method.weighted)
    found = model.complete(x, known, noise(), y, options)
    assert torch.equal(found.images[:, known], x[:, known])  # kept to the bit
    assert found.images.shape == x.shape and int(found.images.max()) < spec.levels
    assert found.log_weights.shape == (3,)
