"""The GAN: the game's closed forms, DCGAN's rules, the contract."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trilemma.families.family import QUESTIONS
from trilemma.families.gan import GAN, GANConfig, GANOptions, discriminator_loss, generator_loss
from trilemma.images import Spec, to_unit
from trilemma.nets.convnets import Discriminator, Generator
from trilemma.noise import BatchNoise, ImageNoise

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 17, 23), (3, 8, 8)]


def gan(spec: Spec, **config: object) -> GAN:
    torch.manual_seed(0)
    return GAN(GANConfig(**{"width": 8, "latent": 6, **config}), spec)  # type: ignore[arg-type]


def random_images(spec: Spec, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, spec.levels, (count, *spec.shape), generator=generator, dtype=torch.uint8)


def batch_noise(count: int, *key: int) -> BatchNoise:
    return BatchNoise(("test", *key), count, 0, count, torch.device("cpu"))


def freeze_all_but(model: GAN, parameters: object) -> None:
    """As the training loop does."""
    wanted = {id(p) for p in parameters}  # type: ignore[attr-defined]
    for p in model.parameters():
        p.requires_grad_(id(p) in wanted)
        p.grad = None


# --- the game --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "js"), [(0.0, 0.0), (1.0, 0.111421), (2.0, 0.336831), (4.0, 0.632720)])
def test_value_at_the_optimal_discriminator(m: float, js: float) -> None:
    """V(D*) = -log 4 + 2 JS for N(0, 1) against N(m, 1), with D* = p/(p+q), whose logit is log p - log q."""
    quantiles = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    x = torch.special.ndtri(quantiles)  # a stratified sample of N(0, 1)

    def value(scale: float, shift: float) -> float:
        real, fake = (-0.5 * v.square() + 0.5 * (v - m).square() for v in (x, x + m))
        return -discriminator_loss(scale * real + shift, scale * fake + shift).item()

    assert value(1, 0) == pytest.approx(-math.log(4) + 2 * js, abs=3e-6)
    assert value(1, 0.1) < value(1, 0)
    assert value(1, -0.1) < value(1, 0)
    assert m == 0 or value(0.9, 0) < value(1, 0) > value(1.1, 0)


def test_generator_losses_at_half() -> None:
    half = torch.zeros(5)
    assert generator_loss(half, "nonsaturating").item() == pytest.approx(math.log(2))
    assert generator_loss(half, "minimax").item() == pytest.approx(-math.log(2))
    assert discriminator_loss(half, half).item() == pytest.approx(math.log(4))


def test_minimax_saturates_where_nonsaturating_does_not() -> None:
    gradients = {}
    for kind in ("nonsaturating", "minimax"):
        logits = torch.tensor([-12.0], requires_grad=True)
        generator_loss(logits, kind).backward()  # type: ignore[arg-type]
        gradients[kind] = logits.grad.item()  # type: ignore[union-attr]
    assert gradients["nonsaturating"] == pytest.approx(-1, abs=1e-4)
    assert -1e-4 < gradients["minimax"] < 0  # the same direction, hardly any push


def test_label_smoothing_is_one_sided() -> None:
    """The best D for real images alone answers 1 - s; fake images keep the label 0."""
    logits = torch.linspace(-6, 6, 20001)
    far = torch.tensor([-100.0])
    losses = torch.stack([discriminator_loss(value[None], far, 0.1) for value in logits[::50]])
    assert torch.sigmoid(logits[::50][losses.argmin()]).item() == pytest.approx(0.9, abs=0.01)
    assert discriminator_loss(torch.tensor([100.0]), far, 0.0).item() == pytest.approx(0)


def test_losses_are_finite_for_extreme_and_bfloat16_logits() -> None:
    logits = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.bfloat16, requires_grad=True)
    for loss in (
        discriminator_loss(logits, logits, 0.1),
        *(generator_loss(logits, k) for k in ("nonsaturating", "minimax")),
    ):  # type: ignore[arg-type]
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        loss.backward()
        assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


# --- the networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_is_neither_at_the_output_of_g_nor_at_the_input_of_d(shape: tuple[int, int, int]) -> None:
    generator = [m for m in Generator(shape, 8, 6).modules() if not list(m.children())]
    discriminator = [m for m in Discriminator(shape, 8).modules() if not list(m.children())]
    assert isinstance(generator[-1], nn.ConvTranspose2d)
    assert generator[-1].out_channels == shape[0]
    assert isinstance(discriminator[0], nn.Conv2d)
    assert discriminator[0].in_channels == shape[0]
    assert not isinstance(discriminator[1], nn.BatchNorm2d)
    for layers in (generator, discriminator):
        assert not any(isinstance(m, nn.MaxPool2d | nn.AvgPool2d | nn.Dropout) for m in layers)
    leaks = [m.negative_slope for m in discriminator if isinstance(m, nn.LeakyReLU)]
    assert leaks
    assert set(leaks) == {0.2}


def test_initial_weights_are_normal_with_deviation_0_02() -> None:
    torch.manual_seed(0)
    for net in (Generator((1, 32, 32), 32, 16), Discriminator((1, 32, 32), 32)):
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.weight.numel() > 4000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_gradients(shape: tuple[int, int, int], levels: int) -> None:
    spec = Spec(shape, levels, classes=3)
    model = gan(spec)
    x, labels = random_images(spec, 4), torch.tensor([0, 1, 2, 3])
    seen: set[int] = set()
    for objective in model.objectives():
        freeze_all_but(model, objective.parameters)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = objective.loss(x, labels, batch_noise(4))
        assert loss.total.dtype == torch.float32
        loss.total.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in objective.parameters)
        wanted = {id(p) for p in objective.parameters}
        assert all(p.grad is None for p in model.parameters() if id(p) not in wanted)
        seen |= wanted
    assert seen == {id(p) for p in model.parameters()}
    for given in (labels, None):
        images = model.sample(ImageNoise(0, range(4)), given)
        assert images.dtype == torch.uint8
        assert images.shape == (4, *shape)
        assert int(images.max()) < levels


def test_real_and_generated_images_go_through_d_in_separate_batches() -> None:
    spec = Spec((1, 8, 8))
    model = gan(spec)
    batches: list[Tensor] = []
    model.discriminator.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    x = random_images(spec, 4)
    loss = model.objectives()[0].loss(x, None, batch_noise(4))
    assert [len(b) for b in batches] == [4, 4]
    assert torch.equal(batches[0], to_unit(x, 256))
    assert not batches[1].requires_grad
    assert 0 < loss.logs["D(x)"] < 1
    assert 0 < loss.logs["D(G(z))"] < 1


# --- the contract ----------------------------------------------------------------------------------------------------


def test_declares_everything() -> None:
    assert set(GAN.answers) == set(QUESTIONS)
    assert all(
        answer.split()[0].strip(":,") in {"yes", "bound", "approximate", "no"} for answer in GAN.answers.values()
    )
    assert GAN.Config() == GANConfig()
    assert GAN.Options() == GANOptions()
    answer = gan(Spec((1, 8, 8))).log_likelihood(random_images(Spec((1, 8, 8)), 2), None, ImageNoise(0, range(2)))
    assert answer.kind == "undefined"
    assert answer.nats is None
    assert answer.reason


def test_k_discriminator_steps() -> None:
    d, g = gan(Spec((1, 8, 8)), discriminator_steps=5).objectives()
    assert (d.name, d.repeats, g.name, g.repeats) == ("discriminator", 5, "generator", 1)


@pytest.mark.parametrize("config", [{"discriminator_steps": 0}, {"label_smoothing": 0.5}])
def test_bad_config_is_one_clear_line(config: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(config))):
        gan(Spec((1, 8, 8)), **config)


def test_image_does_not_depend_on_its_batch_even_in_training_mode() -> None:
    model = gan(Spec((1, 12, 10), classes=2)).double().train()
    for objective in model.objectives():  # so that the running statistics are not the initial ones
        objective.loss(random_images(model.spec, 8), None, _Doubled(8))
    labels = torch.tensor([0, 1, 2, 1])
    together = model.sample(ImageNoise(5, range(4)), labels)
    alone = model.sample(ImageNoise(5, [2]), labels[2:3])
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(together[1:2], alone)
    assert model.generator.training  # as it was


class _Doubled(ImageNoise):
    """Noise in float64, for a float64 model's losses."""

    def __init__(self, count: int) -> None:
        super().__init__(0, range(count))

    def normal(self, *shape: int) -> Tensor:
        return super().normal(*shape).double()


def test_alarm_when_the_discriminator_has_won() -> None:
    model = gan(Spec((1, 8, 8)))
    assert model.alarms({}) == []
    assert model.alarms({"D(x)": 0.99, "D(G(z))": 0.2}) == []
    (alarm,) = model.alarms({"D(x)": 0.995, "D(G(z))": 0.004})
    assert "discriminator has won" in alarm


@pytest.mark.parametrize("loss", ["nonsaturating", "minimax"])
def test_fifty_steps_learn_blobs(loss: str) -> None:
    """Each player's own loss falls when it plays alone, and played together the generator finds the pixel mean."""
    spec = Spec((1, 12, 12))
    model = gan(spec, loss=loss)
    rows = torch.arange(12)[:, None]
    columns = torch.arange(12)[None]
    disc = ((rows - 5.5).square() + (columns - 5.5).square() < 16)[None, None]
    x = (disc * 255).to(torch.uint8).expand(32, -1, -1, -1).contiguous()
    optimisers = [torch.optim.Adam(o.parameters, 2e-3, betas=(0.5, 0.999)) for o in model.objectives()]
    first = to_unit(model.sample(ImageNoise(0, range(32))), 256)
    losses = []
    for step in range(50):
        for objective, optimiser in zip(model.objectives(), optimisers, strict=True):
            freeze_all_but(model, objective.parameters)
            value = objective.loss(x, None, batch_noise(32, step)).total
            value.backward()
            optimiser.step()
        losses.append(value.item())
    last = to_unit(model.sample(ImageNoise(0, range(32))), 256)
    error = [(images - to_unit(x, 256)).square().mean().item() for images in (first, last)]
    assert all(math.isfinite(value) for value in losses)
    assert error[1] < 0.5 * error[0]
