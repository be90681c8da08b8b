"""The GAN: DCGAN's rules and their ablations, the contract, the alarms. The losses are in test_gan_losses.py."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trilemma.data import load
from trilemma.data.mixtures import MIXTURES
from trilemma.families.family import QUESTIONS
from trilemma.families.gan import GAN, GANConfig, GANOptions
from trilemma.families.gan.model import GRACE
from trilemma.images import Spec, from_unit, to_unit
from trilemma.metrics import nearest_distance
from trilemma.nets.dcgan import Discriminator, Generator
from trilemma.noise import BatchNoise, ImageNoise
from trilemma.training import train

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


@pytest.mark.parametrize(
    "config",
    [
        {"discriminator_steps": 0},
        {"label_smoothing": 0.5},
        {"label_smoothing": 0.1, "loss": "hinge"},
        {"gradient_penalty": -1.0},
        {"gradient_penalty": 0.0, "loss": "wasserstein"},
        {"gradient_penalty": 10.0, "discriminator_norm": "batch"},
        {"r1": -1.0},
        {"r1": 1.0, "discriminator_norm": "everywhere"},
        {"pack": 0},
        {"discriminator_width": 0},
    ],
    ids=str,
)
def test_bad_config_is_one_clear_line(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(config))) as refusal:
        gan(Spec((1, 8, 8)), **config)
    assert "\n" not in str(refusal.value)


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
    assert model.alarms({"critic(x)": 0.995, "critic(G(z))": 0.004}) == []  # no probabilities


def test_nearest_distance() -> None:
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert nearest_distance(corners).item() == pytest.approx((3 + 3 + 4) / 3)
    assert nearest_distance(corners.repeat(20, 1)).item() == pytest.approx(0, abs=1e-2)
    assert nearest_distance(corners[:1]).item() == 0


def collapse(model: GAN, modes: int) -> None:
    """Let the generator see only which of a few directions z lies nearest to."""
    directions = torch.randn(modes, model.config.latent, generator=torch.Generator().manual_seed(3))

    def forward(z: Tensor, labels: Tensor | None = None) -> Tensor:
        return original(3 * directions[(z @ directions.T).argmax(1)], labels)

    original = model.generator.forward
    model.generator.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize("modes", [0, 1, 3])
def test_alarm_when_the_modes_collapse(modes: int) -> None:
    """It sounds when the generator draws one image or three, and not when it draws as many as it is asked for."""
    model = gan(Spec((1, 12, 12)), latent=16)
    if modes:
        collapse(model, modes)
    with torch.no_grad():
        for p in model.generator.parameters():
            p.mul_(3 if p.ndim > 1 else 1)  # as contrasted as real images
    # Real images of the generator itself: whole, it is as diverse as they are.
    real = gan(Spec((1, 12, 12)), latent=16)
    with torch.no_grad():
        for p in real.generator.parameters():
            p.mul_(3 if p.ndim > 1 else 1)
        x = from_unit(real.generator(torch.randn(64, 16, generator=torch.Generator().manual_seed(1))), 256)
    loss = model.objectives()[0].loss
    logs = {name: value.item() for name, value in loss(x, None, batch_noise(64)).logs.items()}
    assert not model.alarms(logs | {"step": GRACE})  # at the start any generator draws one grey image
    logs["step"] = GRACE + 1
    assert bool(model.alarms(logs)) == bool(modes)
    assert not modes or "modes collapse" in model.alarms(logs)[0]
    assert modes or 0.8 < logs["diversity"] < 1.25


class Mixture(nn.Module):
    """A generator that draws some modes of a 2-D mixture exactly: z [B, 2] is the noise around a mode."""

    def __init__(self, spec: Spec, name: str, kept: int) -> None:
        super().__init__()
        self.law, self.spec, self.kept = MIXTURES[name], spec, kept

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        mode = torch.arange(len(z)) % self.kept * 3 % len(self.law.means)
        return self.spec.to_unit(torch.from_numpy(self.law.means)[mode].float() + self.law.sigma * z)


@pytest.mark.parametrize(
    ("name", "kept", "rings"), [("ring", 1, True), ("ring", 2, True), ("ring", 8, False), ("grid", 2, True)]
)
def test_alarm_when_modes_of_vectors_are_lost(name: str, kept: int, rings: bool) -> None:
    data = load(name)
    model = GAN(GANConfig(width=8, latent=2), data.spec())
    model.generator = Mixture(model.spec, name, kept)  # type: ignore[assignment]
    loss = model.objectives()[0].loss
    ratios = [
        loss(data.batch(data.train[128 * i : 128 * (i + 1)]), None, batch_noise(128, i)).logs["diversity"].item()
        for i in range(10)
    ]
    logs = {"diversity": sum(ratios) / 10}
    assert not model.alarms(logs | {"step": GRACE})
    assert bool(model.alarms(logs | {"step": GRACE + 1})) == rings
    assert not rings or "few of the modes" in model.alarms(logs | {"step": GRACE + 1})[0]


def test_the_alarm_counts_the_steps_of_a_run_and_not_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run is not silent for another `GRACE` steps."""
    monkeypatch.setattr(GAN, "alarms", lambda self, logs: [f"step {logs['step']}"])
    said: list[str] = []
    for budget in ("4steps", "6steps"):
        train(
            "gan", "ring", out=tmp_path / "gan", budget=budget, settings={"log_every": 2}, resume=True, device="cpu",
            say=said.append,
        )  # fmt: skip
    assert [line for line in said if line.startswith("step")] == ["step 2", "step 4", "step 6"]


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


# --- the guidelines, one by one --------------------------------------------------------------------------------------

ABLATIONS: list[dict[str, object]] = [
    {"strided": False},
    {"fully_connected": True},
    {"fully_connected": True, "discriminator_norm": "layer", "generator_norm": "none"},
    {"generator_norm": "everywhere", "discriminator_norm": "everywhere"},
    {"generator_norm": "none", "discriminator_norm": "none"},
    {"generator_activation": "leaky-relu", "discriminator_activation": "relu"},
    {"output": "linear"},
    {"discriminator_width": 4},
    {"pack": 3, "spectral_norm": True, "loss": "hinge"},
    {"pack": 2, "loss": "wasserstein"},
]


@pytest.mark.parametrize("config", ABLATIONS, ids=str)
@pytest.mark.parametrize("spec", [Spec((1, 16, 16)), Spec((3, 17, 12), classes=3)], ids=lambda s: str(s.shape))
def test_every_ablation_trains_every_parameter(spec: Spec, config: dict[str, object]) -> None:
    model = gan(spec, **config)
    x, labels = random_images(spec, 7), torch.arange(7) % 4 if spec.classes else None
    for objective in model.objectives():
        freeze_all_but(model, objective.parameters)
        loss = objective.loss(x, labels, batch_noise(7))
        loss.total.backward()
        assert all(math.isfinite(value.item()) for value in (loss.terms | loss.logs).values())
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in objective.parameters)
    assert model.sample(ImageNoise(0, range(3))).shape == (3, *spec.shape)


def test_each_switch_does_what_it_says() -> None:
    def leaves(**config: object) -> tuple[list[nn.Module], list[nn.Module]]:
        model = gan(Spec((1, 16, 16)), **config)
        return list(model.generator.layers), list(model.discriminator.layers)

    g, d = leaves(strided=False)
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in g)
    assert sum(isinstance(m, nn.MaxPool2d) for m in d) == 2
    assert all(m.stride == (1, 1) for m in (*g, *d) if isinstance(m, nn.Conv2d))
    g, d = leaves(generator_norm="everywhere", discriminator_norm="everywhere")
    assert isinstance(g[-1], nn.BatchNorm2d) and isinstance(d[1], nn.BatchNorm2d)
    g, d = leaves(generator_norm="none", discriminator_norm="none")
    assert not any(isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for m in (*g, *d))
    assert all(m.bias is not None for m in (*g, *d) if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
    g, d = leaves(fully_connected=True)
    assert isinstance(g[0], nn.Linear) and isinstance(d[-3], nn.Linear)
    g, d = leaves(generator_activation="leaky-relu", discriminator_activation="relu")
    assert any(isinstance(m, nn.LeakyReLU) for m in g) and not any(isinstance(m, nn.LeakyReLU) for m in d)
    with torch.no_grad():
        z = 1e4 * torch.randn(2, 6)
        assert gan(Spec((1, 16, 16)), generator_norm="none").generator(z).abs().max() <= 1
        assert gan(Spec((1, 16, 16)), generator_norm="none", output="linear").generator(z).abs().max() > 1


@pytest.mark.parametrize(
    "fields", [{"spectral_norm": True, "loss": "hinge", "pack": 2, "r1": 0.1}, {}], ids=["spectral", "default"]
)
def test_a_resumed_run_is_the_uninterrupted_one(fields: dict[str, object], tmp_path: Path) -> None:
    data = load("mnist", limit=64, progress=False)
    settings = {"batch": 16, "ema": 0.9, "pictures": 0}
    model = {"width": 8, "latent": 4, **fields}

    def run(name: str, *budgets: str) -> dict[str, Tensor]:
        for budget in budgets:
            done = train(
                "gan", data, out=tmp_path / name, budget=budget, model=model, settings=settings, resume=True, say=str
            )
        return done.load().model

    once, twice = run("once", "6steps"), run("twice", "3steps", "6steps")
    assert any(name.endswith(".u") for name in once) == ("spectral_norm" in fields)
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
