"""The losses of the adversarial game, its penalties and packing, against closed forms."""

from __future__ import annotations

import copy
import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized

from trilemma.families.gan import GAN, GANConfig, discriminator_loss, generator_loss
from trilemma.families.gan.losses import LossName
from trilemma.families.gan.packing import by_class, filled, packed
from trilemma.families.gan.penalties import gradient_penalty, slopes, squared
from trilemma.images import Spec, to_unit
from trilemma.nets.dcgan import Discriminator
from trilemma.nets.spectral import normalise_spectrally
from trilemma.noise import BatchNoise, ImageNoise

LOSSES: tuple[LossName, ...] = get_args(LossName)
SPEC = Spec((1, 12, 10))


def gan(spec: Spec = SPEC, **config: object) -> GAN:
    torch.manual_seed(0)
    return GAN(GANConfig(**{"width": 8, "latent": 6, **config}), spec)  # type: ignore[arg-type]


def noise(count: int, *key: int) -> BatchNoise:
    return BatchNoise(("test", *key), count, 0, count, torch.device("cpu"))


class Doubled(ImageNoise):
    """Noise in float64, for a float64 model's losses; the same at every call."""

    def __init__(self, count: int) -> None:
        super().__init__(0, range(count))

    def normal(self, *shape: int) -> Tensor:
        return super().normal(*shape).double()


UNIT = {"center": (0.0, 0.0), "scale": (1.0, 1.0)}
"""Of vectors."""


def images(count: int, spec: Spec = SPEC) -> Tensor:
    return torch.randint(0, 256, (count, *spec.shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def normal_sample() -> Tensor:
    """A stratified sample of N(0, 1)."""
    return torch.special.ndtri((torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000)


# Losses


@pytest.mark.parametrize(("m", "js"), [(0.0, 0.0), (1.0, 0.111421), (2.0, 0.336831), (4.0, 0.632720)])
def test_value_at_the_optimal_discriminator(m: float, js: float) -> None:
    """V(D*) = -log 4 + 2 JS for N(0, 1) against N(m, 1), with D* = p/(p+q), whose logit is log p - log q."""
    x = normal_sample()

    def value(scale: float, shift: float) -> float:
        real, fake = (-0.5 * v.square() + 0.5 * (v - m).square() for v in (x, x + m))
        return -discriminator_loss(scale * real + shift, scale * fake + shift).item()

    assert value(1, 0) == pytest.approx(-math.log(4) + 2 * js, abs=3e-6)
    assert value(1, 0.1) < value(1, 0)
    assert value(1, -0.1) < value(1, 0)
    assert m == 0 or value(0.9, 0) < value(1, 0) > value(1.1, 0)


@pytest.mark.parametrize("m", [0.5, 2.0])
def test_hinge_at_its_optimum_is_two_minus_twice_the_total_variation(m: float) -> None:
    """Best is D = sign(p - q); TV of N(0, 1) and N(m, 1) is erf(m / √8)."""
    x = normal_sample()

    def loss(scale: float) -> float:
        return discriminator_loss(scale * (m / 2 - x).sign(), scale * (m / 2 - x - m).sign(), "hinge").item()

    assert loss(1) == pytest.approx(2 - 2 * math.erf(m / math.sqrt(8)), abs=1e-4)
    assert loss(0.9) > loss(1) < loss(1.1)
    assert discriminator_loss(torch.tensor([1.5]), torch.tensor([-2.0]), "hinge").item() == 0  # beyond the margin


def test_least_squares_at_its_optimum_is_a_pearson_divergence() -> None:
    """Mao et al. 2017, eq. 5 to 8: D* = (b p + a q) / (p + q), and with b - c = 1, b - a = 2 the generator's game is
    half of χ²(p + q ‖ 2q)."""
    p, q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    targets = (-1.0, 1.0, 0.0)
    a, b, c = targets
    best = (b * p + a * q) / (p + q)

    def expected(answers: Tensor) -> Tensor:
        """The mean over images is one over states, weighted by the two laws."""
        losses = [
            p[i] * discriminator_loss(answers[i : i + 1], torch.full((1,), a), "least-squares", targets=targets)
            + q[i] * discriminator_loss(torch.full((1,), b), answers[i : i + 1], "least-squares", targets=targets)
            for i in range(3)
        ]
        return torch.stack(losses).sum()

    for step in (-0.05, 0.05):
        assert all(expected(best + step * F.one_hot(torch.tensor(i), 3)) > expected(best) for i in range(3))
    of_generator = sum(
        (p[i] + q[i]) * generator_loss(best[i : i + 1], "least-squares", targets=targets) for i in range(3)
    )
    # Against 2q of states where D = -1, as the paper has it: ((p + q) - 2q)² / (p + q).
    assert float(of_generator) == pytest.approx(0.5 * float(((p - q).square() / (p + q)).sum()))
    assert c == 0


def test_wasserstein_of_two_points_is_their_distance() -> None:
    """Over slopes of at most 1 the best critic of a point at 0 and one at m is any with slope -1 between them."""
    for m in (0.25, 3.0):
        real, fake = torch.zeros(4), torch.full((4,), m)
        losses = [discriminator_loss(-slope * real, -slope * fake, "wasserstein").item() for slope in (0.5, 1.0)]
        assert losses == pytest.approx([-0.5 * m, -m])
        assert generator_loss(-fake, "wasserstein").item() == pytest.approx(m)


@pytest.mark.parametrize(("m", "js"), [(0.0, 0.0), (1.0, 0.111421), (2.0, 0.336831), (4.0, 0.632720)])
def test_relativistic_at_its_optimum_is_the_divergence_of_ordered_pairs(m: float, js: float) -> None:
    """To tell (real, generated) from (generated, real): D* = log p - log q as ever, and the least loss is log 2 - JS of
    the two laws of pairs. Of N(0, 1) and N(m/√2, 1) these are unit Gaussians at a distance of m."""
    step = m / math.sqrt(2)
    x = torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)
    real, fake = (-0.5 * v.square() + 0.5 * (v - step).square() for v in (x, x + step))
    real, fake = real.repeat_interleave(2000), fake.repeat(2000)  # every pair once

    def loss(scale: float, shift: float = 0.0) -> float:
        return discriminator_loss(scale * real + shift, scale * fake + shift, "relativistic").item()

    assert loss(1) == pytest.approx(math.log(2) - js, abs=2e-4)
    assert loss(1, 3.0) == pytest.approx(loss(1))  # only differences count
    assert m == 0 or loss(0.9) > loss(1) < loss(1.1)
    # G plays the same game from the other side.
    assert (
        generator_loss(fake, "relativistic", real=real).item() == discriminator_loss(fake, real, "relativistic").item()
    )


def test_generator_losses_at_half() -> None:
    half = torch.zeros(5)
    assert generator_loss(half, "nonsaturating").item() == pytest.approx(math.log(2))
    assert generator_loss(half, "minimax").item() == pytest.approx(-math.log(2))
    assert discriminator_loss(half, half).item() == pytest.approx(math.log(4))


def test_minimax_saturates_where_nonsaturating_does_not() -> None:
    """The slope with respect to the logit is D - 1 against -D."""
    for logit in (-12.0, 0.0, 3.0):
        slopes = []
        for kind in ("nonsaturating", "minimax"):
            logits = torch.tensor([logit], requires_grad=True)
            generator_loss(logits, kind).backward()  # type: ignore[arg-type]
            assert logits.grad is not None
            slopes.append(logits.grad.item())
        d = 1 / (1 + math.exp(-logit))
        assert slopes == pytest.approx([d - 1, -d], abs=1e-6)


def test_label_smoothing_is_one_sided() -> None:
    """The best D for real images alone answers 1 - s; fake images keep the label 0."""
    logits = torch.linspace(-6, 6, 401)
    far = torch.tensor([-100.0])
    losses = torch.stack([discriminator_loss(value[None], far, label_smoothing=0.1) for value in logits])
    assert torch.sigmoid(logits[losses.argmin()]).item() == pytest.approx(0.9, abs=0.01)
    assert discriminator_loss(torch.tensor([100.0]), far).item() == pytest.approx(0)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_finite_for_extreme_and_bfloat16_answers(loss: LossName) -> None:
    answers = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.bfloat16, requires_grad=True)
    for value in (
        discriminator_loss(answers, answers.flip(0), loss),
        generator_loss(answers, loss, real=answers.flip(0)),
    ):
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        value.backward()
        assert answers.grad is not None and torch.isfinite(answers.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_logs_say_what_the_answers_are(loss: LossName) -> None:
    logs = gan(loss=loss).objectives()[0].loss(images(4), None, noise(4)).logs
    probabilities = {"D(x)", "D(G(z))"} <= logs.keys()
    assert probabilities == (loss in ("nonsaturating", "minimax"))
    assert probabilities or {"critic(x)", "critic(G(z))"} <= logs.keys()


def test_the_relativistic_generator_needs_real_images() -> None:
    with pytest.raises(ValueError, match="give D's answers to real images too"):
        generator_loss(torch.zeros(2), "relativistic")


# Penalties


def test_gradient_penalty_of_a_linear_critic() -> None:
    """D(x) = w·x has slope w everywhere, whatever ε."""
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    real, fake = torch.randn(6, 2), torch.randn(6, 2)
    penalty = gradient_penalty(lambda x: x @ w, real, fake, torch.rand(6))
    assert penalty.item() == pytest.approx((5 - 1) ** 2)
    (slope,) = torch.autograd.grad(penalty, w)  # 2 (‖w‖ - 1) w / ‖w‖
    assert slope.tolist() == pytest.approx([2 * 4 * 0.6, 2 * 4 * 0.8])


def test_gradient_penalty_mixes_each_example_by_its_own_epsilon() -> None:
    """Of D(x) = ½ ‖x‖² the slope is x itself, so the penalty tells where it was taken."""
    real, fake = torch.full((3, 1, 1, 2), 5.0), torch.full((3, 1, 1, 2), 1.0)
    epsilon = torch.tensor([0.0, 0.25, 1.0])
    places: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        places.append(x.detach())
        return 0.5 * x.flatten(1).square().sum(1)

    found = gradient_penalty(critic, real, fake, epsilon)
    assert places[0][:, 0, 0, 0].tolist() == [1.0, 2.0, 5.0]
    expected = torch.tensor([1.0, 2.0, 5.0]) * math.sqrt(2)
    assert found.item() == pytest.approx((expected - 1).square().mean().item(), rel=1e-6)


def test_gradient_penalty_at_slope_zero_has_a_gradient() -> None:
    w = torch.zeros(2, requires_grad=True)
    gradient_penalty(lambda x: x @ w, torch.randn(4, 2), torch.randn(4, 2), torch.rand(4)).backward()
    assert w.grad is not None and torch.isfinite(w.grad).all()


def test_squared_slope_is_of_each_input_alone() -> None:
    x = torch.randn(5, 3, requires_grad=True)
    assert torch.allclose(squared(slopes((x**3).sum(1), x)), (9 * x**4).sum(1))


FUSED: list[dict[str, object]] = [
    {"loss": "relativistic"},
    {"loss": "relativistic", "pack": 3, "r1": 0.0},
    {"loss": "nonsaturating", "r2": 2.0},
    {"loss": "least-squares", "r1": 0.5, "r2": 1.0, "pack": 2},
]


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("config", FUSED, ids=str)
@pytest.mark.parametrize("shape", [SPEC.shape, (2,)], ids=str)
def test_one_pass_of_d_gives_both_penalties_and_the_gradient_of_g(
    config: dict[str, object], classes: int, shape: tuple[int, ...]
) -> None:
    """What D's step leaves for G's equals G's loss through the same D, and R1 and R2 are of each kind alone."""
    spec = Spec(shape, 256 if len(shape) == 3 else 0, classes=classes, **({} if len(shape) == 3 else UNIT))  # type: ignore[arg-type]
    model = gan(spec, **config, generator_norm="none").double()
    x = images(7, spec) if len(shape) == 3 else torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(7) % 4 if classes else None
    d, g = model.objectives()
    d.freeze_others(model)
    loss = d.loss(x, labels, Doubled(7))
    g.freeze_others(model)
    played = g.loss(x, labels, Doubled(7)).terms["generator"]
    found = torch.autograd.grad(played, list(g.parameters))

    pack = model.config.pack
    order = torch.arange(7) if labels is None or pack == 1 else by_class(labels)
    given = None if labels is None else labels[order]
    judged = None if given is None else filled(given, pack)
    real = packed(spec.to_unit(x[order]).double(), pack).requires_grad_()
    fake = packed(model.generator(Doubled(7).normal(model.config.latent), given), pack)
    answers = [model.discriminator(each, judged) for each in (real, fake)]
    for name, gamma, answer, each in zip(("R1", "R2"), model.config.slopes, answers, (real, fake), strict=True):
        assert (name in loss.terms) == (gamma > 0)
        if gamma:
            wanted = gamma / 2 * squared(slopes(answer, each)).mean()
            assert loss.terms[name].item() == pytest.approx(wanted.item(), rel=1e-9)
    direct = generator_loss(answers[1], model.config.loss, real=answers[0].detach(), targets=model.config.targets)
    assert played.item() == pytest.approx(direct.item(), rel=1e-9)
    for mine, theirs in zip(found, torch.autograd.grad(direct, list(g.parameters)), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-7, atol=1e-12)
        assert theirs.abs().max() > 0
    assert d.loss(x, labels, Doubled(7)).terms.keys() == loss.terms.keys()  # and nothing is left over


def test_without_r2_the_relativistic_generator_asks_d_itself() -> None:
    """Of pairs in the order of the batch, and D is not moved by it."""
    model = gan(loss="relativistic", r2=0.0, r1=0.0).double()
    x = images(4)
    _, g = model.objectives()
    g.freeze_others(model)
    found = g.loss(x, None, Doubled(4)).total
    fake = model.discriminator(model.generator(Doubled(4).normal(6)))
    real = model.discriminator(to_unit(x, 256).double())
    assert found.item() == pytest.approx(F.softplus(real - fake).mean().item(), rel=1e-6)
    found.backward()
    assert all(p.grad is not None for p in g.parameters)
    assert all(p.grad is None for p in model.discriminator.parameters())


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    "config",
    [{"loss": "wasserstein"}, {"r1": 10.0}, {"r1": 2.0, "loss": "hinge", "pack": 2}, {"loss": "relativistic"}],
    ids=str,
)
def test_penalties_differentiate_twice_under_bfloat16(config: dict[str, object], classes: int) -> None:
    """The gradient of the penalty with respect to D's weights equals that in float64, to what bfloat16 can carry."""
    spec = Spec(SPEC.shape, classes=classes)
    x, labels = images(8), torch.arange(8) % 4 if classes else None
    found = []
    for exact in (True, False):
        model = gan(spec, **config)
        model = model.double() if exact else model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        objective = model.objectives()[0]
        objective.freeze_others(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
            loss = objective.loss(x, labels, noise(8))
        (name,) = loss.terms.keys() & {"gradient penalty", "R1"}
        weights = [p for p in objective.parameters if p.ndim == 4]
        found.append([g.double().flatten() for g in torch.autograd.grad(loss.terms[name], weights)])
    for exactly, roughly in zip(*found, strict=True):
        assert F.cosine_similarity(exactly, roughly, dim=0) > 0.99
        assert (roughly.norm() / exactly.norm()).item() == pytest.approx(1, abs=0.05)


def test_norm_of_the_discriminator_suits_its_penalty() -> None:
    def kinds(**config: object) -> set[type]:
        norms = nn.BatchNorm2d | nn.GroupNorm
        return {type(m) for m in gan(Spec((1, 16, 16)), **config).discriminator.modules() if isinstance(m, norms)}

    assert kinds() == {nn.BatchNorm2d}
    assert kinds(loss="wasserstein") == kinds(r1=1.0) == kinds(discriminator_norm="layer") == {nn.GroupNorm}
    assert kinds(loss="relativistic") == set()
    assert kinds(spectral_norm=True) == kinds(spectral_norm=True, loss="wasserstein") == set()
    assert kinds(discriminator_norm="none") == set()


# Spectral normalisation


def test_spectral_norm_is_one_and_agrees_with_torch() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.Flatten(), nn.Linear(32, 5))
    theirs = copy.deepcopy(ours)
    normalise_spectrally(ours)
    for layer in theirs:
        if not isinstance(layer, nn.Flatten):
            parametrizations.spectral_norm(layer, n_power_iterations=1)
    x = torch.randn(4, 3, 4, 4)
    for net in (ours, theirs):
        for _ in range(60):
            net(x)
        assert torch.linalg.matrix_norm(net[0].weight.flatten(1), 2).item() == pytest.approx(1, abs=2e-3)
        assert torch.linalg.matrix_norm(net[2].weight, 2).item() == pytest.approx(1, abs=2e-3)
    assert torch.allclose(ours(x), theirs(x), atol=2e-3)


def test_spectral_norm_stays_in_float32_under_autocast_and_still_in_evaluation() -> None:
    net = Discriminator((1, 8, 8), 8, spectral=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert net.layers[0].weight.dtype == torch.float32
        twice = net(torch.ones(2, 1, 8, 8)).sum() + net(torch.zeros(2, 1, 8, 8)).sum()  # the buffer moves between
    twice.backward()
    assert all(p.grad is not None for p in net.parameters())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.eval()(torch.ones(2, 1, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert sum(name.endswith(".u") for name in before) == len([m for m in net.modules() if is_parametrized(m)])


# Packing


def test_packs_are_consecutive_images_stacked_as_channels() -> None:
    x = torch.arange(6 * 2 * 3).view(6, 2, 3, 1)
    two = packed(x, 2)
    assert two.shape == (3, 4, 3, 1)
    assert torch.equal(two[1], torch.cat([x[2], x[3]]))
    assert packed(x, 1) is x
    odd = packed(x[:5], 2)  # the last pack is filled with the first image
    assert odd.shape == (3, 4, 3, 1) and torch.equal(odd[2], torch.cat([x[4], x[0]]))
    assert packed(torch.arange(4.0).view(4, 1), 2).tolist() == [[0, 1], [2, 3]]  # vectors
    with pytest.raises(ValueError, match="fewer than one pack of 7"):
        packed(x, 7)


def test_packs_are_of_one_source_and_mostly_of_one_class() -> None:
    spec = Spec(SPEC.shape, classes=3)
    model = gan(spec, pack=2)
    seen: list[tuple[Tensor, Tensor]] = []
    model.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    x, labels = images(8, spec), torch.tensor([2, 0, 1, 0, 2, 1, 0, 0])
    loss = model.objectives()[0].loss(x, labels, noise(8))
    model.objectives()[1].loss(x, labels, noise(8))
    assert torch.isfinite(loss.total)
    for batch, given in seen:
        assert batch.shape == (4, 2, *SPEC.shape[1:])
        assert given.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    order = by_class(labels)
    assert torch.equal(seen[0][0], packed(to_unit(x[order], 256), 2))


def test_a_packed_discriminator_reads_the_label_of_each_place() -> None:
    torch.manual_seed(0)
    net = Discriminator((1, 8, 8), 8, classes=3, pack=2, norm="none")
    x = torch.randn(3, 2, 8, 8)
    answers = {pair: net(x, torch.tensor(pair * 3)) for pair in ((0, 1), (1, 0), (0, 0), (1, 1))}
    assert not torch.allclose(answers[0, 1], answers[1, 0], atol=1e-4)
    # Each place adds its own term.
    assert torch.allclose(answers[0, 1] + answers[1, 0], answers[0, 0] + answers[1, 1], atol=1e-5)


def test_packing_shows_a_collapse_that_single_images_hide() -> None:
    """Lin et al. 2018, section 4: of a law on half of the modes, TV to the whole is ½ and of pairs ¾."""

    def total_variation(p: Tensor, q: Tensor) -> float:
        return 0.5 * (p - q).abs().sum().item()

    whole, half = torch.full((4,), 0.25), torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert total_variation(whole, half) == 0.5
    assert total_variation(torch.outer(whole, whole), torch.outer(half, half)) == 0.75

    def every_pair(modes: int) -> Tensor:
        """Images, one-hot [2 · modes², 4, 1, 1], in which each ordered pair of modes stands side by side once."""
        pairs = torch.cartesian_prod(torch.arange(modes), torch.arange(modes))
        return torch.nn.functional.one_hot(pairs.flatten(), 4).float()[..., None, None]

    def best(packs: Tensor) -> Tensor:
        """The best discriminator: -1 where every image of a pack is one of the first two, 1 elsewhere."""
        seen = packs.view(len(packs), -1, 4).argmax(2)
        return torch.where((seen < 2).all(1), -1.0, 1.0)

    # The best hinge loss is 2 - 2 TV: of single images, and of the packs that D is shown.
    for pack, distance in ((1, 0.5), (2, 0.75)):
        real, fake = best(packed(every_pair(4), pack)), best(packed(every_pair(2), pack))
        assert discriminator_loss(real, fake, "hinge").item() == pytest.approx(2 - 2 * distance)
