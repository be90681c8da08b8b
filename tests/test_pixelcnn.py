"""PixelCNN: the order is kept, p(x) is a distribution, and the cached sampler draws from it."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trilemma.families.pixelcnn import PixelCNN, PixelCNNConfig, PixelCNNOptions, SoftmaxNLL, draw
from trilemma.images import Spec
from trilemma.nets.masked import GatedLayer, channel_groups, channel_mask, dependency
from trilemma.noise import ImageNoise

NO_NOISE = ImageNoise(0, [])


def build(spec: Spec, seed: int = 0, spread: float = 0.3, **config: int) -> PixelCNN:
    """A small model whose weights are far from zero, so that its conditionals are far from uniform."""
    small = {"features": 10, "layers": 3, "head": 11, "first_kernel": 5, "kernel": 3}
    model = PixelCNN(PixelCNNConfig(**{**small, **config}), spec)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model


def all_binary_images(spec: Spec) -> Tensor:
    return torch.tensor(list(itertools.product((0, 1), repeat=spec.dims)), dtype=torch.uint8).view(-1, *spec.shape)


def test_masks_follow_the_paper() -> None:
    rgb = torch.arange(3)
    assert channel_mask(rgb, rgb, "A").tolist() == [[False] * 3, [True, False, False], [True, True, False]]
    assert channel_mask(rgb, rgb, "B").tolist() == [[True, False, False], [True, True, False], [True] * 3]
    assert channel_groups(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="A or B"):
        channel_mask(rgb, rgb, "C")


@pytest.mark.parametrize("channels", [1, 3])
def test_every_value_depends_on_exactly_the_earlier_ones(channels: int) -> None:
    # The field of kernels 5, 3, 3, 3 reaches 5 pixels each way: all of a 5 x 6 image.
    spec = Spec((channels, 5, 6), 2, classes=2)
    net = build(spec, layers=4).net
    order = torch.arange(spec.dims).view(5, 6, channels).permute(2, 0, 1)
    for channel, row, column in itertools.product(range(channels), range(5), range(6)):
        earlier = order < order[channel, row, column]
        seen = dependency(net, (channel, row, column), torch.ones(8, dtype=torch.int64))
        assert torch.equal(seen, earlier), f"value {channel, row, column} sees\n{seen.int()}"


def test_receptive_field_in_a_larger_image() -> None:
    # Kernels 5, 3, 3 reach 4 pixels: a 4 x 9 block above (no blind spot in it) and 4 pixels to the left.
    expected = torch.zeros(1, 11, 13, dtype=torch.bool)
    expected[0, 2:6, 2:11] = True
    expected[0, 6, 2:6] = True
    assert torch.equal(dependency(build(Spec((1, 11, 13))).net, (0, 6, 6)), expected)


def test_dependency_finds_a_leak() -> None:
    net = build(Spec((3, 4, 4), 2)).net
    first = net.layers[0]
    assert isinstance(first, GatedLayer) and first.horizontal.mask is not None
    first.horizontal.mask.fill_(1)  # mask A undone
    assert dependency(net, (0, 1, 1))[:, 1, 1].any()


@pytest.mark.parametrize(("shape", "classes"), [((1, 3, 3), 0), ((1, 3, 3), 3), ((3, 2, 2), 0), ((3, 2, 2), 2)])
def test_probabilities_of_all_images_sum_to_one(shape: tuple[int, int, int], classes: int) -> None:
    spec = Spec(shape, 2, classes)
    model, images = build(spec), all_binary_images(spec)
    sums = []
    for label in range(classes + 1):
        answer = model.log_likelihood(images, torch.full((len(images),), label) if classes else None, NO_NOISE)
        assert answer.kind == "exact" and answer.nats is not None
        assert answer.nats.std() > 0.3  # not the uniform model, which would sum to one in any case
        sums.append(answer.nats.double().exp().sum().item())
    assert sums == pytest.approx([1] * (classes + 1), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 1, 2)])
def test_sampler_frequencies_match_the_probabilities(shape: tuple[int, int, int]) -> None:
    spec, count = Spec(shape, 2, classes=2), 20_000
    model, images = build(spec, spread=0.2), all_binary_images(spec)
    answer = model.log_likelihood(images, torch.full((len(images),), 1), NO_NOISE)
    assert answer.nats is not None
    p = answer.nats.double().exp()
    samples = model.sample(ImageNoise(5, range(count)), torch.full((count,), 1)).flatten(1).long()
    observed = (samples * 2 ** torch.arange(spec.dims).flip(0)).sum(1).bincount(minlength=len(images))
    assert chisquare(observed.numpy(), (count * p / p.sum()).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("spec", "temperature"),
    [
        (Spec((1, 7, 7), 256), 1.0),
        (Spec((1, 6, 5), 256, 10), 1.0),
        (Spec((1, 5, 8), 2, 3), 1.0),
        (Spec((3, 4, 6), 256), 1.0),
        (Spec((3, 5, 4), 2, 4), 0.7),
        (Spec((1, 1, 5), 2), 1.0),
    ],
    ids=str,
)
def test_cached_and_naive_samplers_draw_the_same_pixels(spec: Spec, temperature: float) -> None:
    model = build(spec, layers=4)
    labels = torch.arange(6) % (spec.classes + 1) if spec.classes else None
    options = PixelCNNOptions(temperature)
    cached = model.sample(ImageNoise(3, range(6)), labels, options)
    assert torch.equal(cached, model.sample_naive(ImageNoise(3, range(6)), labels, options))
    assert cached.dtype == torch.uint8 and tuple(cached.shape) == (6, *spec.shape)
    assert len(cached.unique()) > (1 if spec.levels == 2 else 20)


@pytest.mark.parametrize("channels", [1, 3])
def test_cached_sampling_costs_one_forward_pass(channels: int) -> None:
    spec = Spec((channels, 8, 7), 256)
    model = PixelCNN(PixelCNNConfig(features=12, head=12), spec)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.nll(torch.zeros(1, *spec.shape, dtype=torch.uint8), None)
    with FlopCounterMode(display=False) as cached:
        model.sample(ImageNoise(0, [0]))
    assert 0.9 < cached.get_total_flops() / forward.get_total_flops() < 1.1


def test_an_image_depends_on_its_seed_and_index_alone() -> None:
    model = build(Spec((1, 6, 6), 256, 3))
    together = model.sample(ImageNoise(9, range(8)), torch.arange(8) % 3)
    assert torch.equal(model.sample(ImageNoise(9, [5]), torch.tensor([2])), together[5:6])


def test_uniform_model_has_exactly_eight_bits() -> None:
    spec = Spec((1, 9, 8), 256)
    model = build(spec)
    for parameter in model.net.logits.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.arange(4 * spec.dims).remainder(256).to(torch.uint8).view(4, *spec.shape)
    nats = model.log_likelihood(x, None, NO_NOISE).nats
    assert nats is not None
    assert (-nats / (spec.dims * math.log(2))).tolist() == pytest.approx([8] * 4, abs=1e-6)
    assert model.loss(x, None, NO_NOISE).logs["bits_per_dim"].item() == pytest.approx(8, abs=1e-6)


def test_loss_is_the_mean_of_the_likelihood_also_under_autocast() -> None:
    spec = Spec((3, 5, 4), 256, 4)
    model = build(spec, spread=0.1)
    x, labels = torch.randint(0, 256, (6, *spec.shape), dtype=torch.uint8), torch.arange(6) % 5
    nats = model.log_likelihood(x, labels, NO_NOISE).nats
    assert nats is not None
    assert model.loss(x, labels, NO_NOISE).total.item() == pytest.approx(-nats.mean().item(), rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.loss(x, labels, NO_NOISE).total
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(-nats.mean().item(), rel=1e-2)


def test_likelihood_does_not_depend_on_how_it_is_split() -> None:
    model = build(Spec((1, 100, 100), 2), layers=2)  # 5 images at a time
    x = torch.randint(0, 2, (7, 1, 100, 100), dtype=torch.uint8)
    whole = model.log_likelihood(x, None, NO_NOISE).nats
    last = model.log_likelihood(x[6:], None, NO_NOISE).nats
    assert whole is not None and last is not None
    assert whole[6:].tolist() == pytest.approx(last.tolist(), rel=1e-5)
    empty = model.log_likelihood(x[:0], None, NO_NOISE).nats
    assert empty is not None and empty.shape == (0,)


def test_softmax_nll_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SoftmaxNLL, "PIECE", 64)  # several pieces, the last one short
    logits = (5 * torch.randn(50, 7)).requires_grad_()
    targets, weights = torch.randint(0, 7, (50,)), torch.rand(50)
    reference = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    nll = SoftmaxNLL.apply(logits, targets)
    torch.testing.assert_close(nll, reference)
    (expected,) = torch.autograd.grad(reference @ weights, logits)
    torch.testing.assert_close(torch.autograd.grad(nll @ weights, logits)[0], expected)


@pytest.mark.parametrize("spec", [Spec((1, 6, 6), 256), Spec((3, 5, 6), 2, 4)], ids=str)
def test_every_parameter_is_used(spec: Spec) -> None:
    model = build(spec)
    (objective,) = model.objectives()
    assert len(list(objective.parameters)) == len(list(model.parameters()))
    x = torch.randint(0, spec.levels, (5, *spec.shape), dtype=torch.uint8)
    objective.loss(x, torch.arange(5) if spec.classes else None, NO_NOISE).total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_learns_a_distribution_it_can_express() -> None:
    # Two images with equal probability: the least nll is log 2 nats, reached by copying the first pixel's choice.
    spec = Spec((1, 4, 4), 2)
    torch.manual_seed(0)
    model = PixelCNN(PixelCNNConfig(features=8, layers=3, head=8, first_kernel=5), spec)
    checks = torch.arange(16).view(1, 4, 4).add(torch.arange(4)[:, None]).remainder(2).to(torch.uint8)
    x = torch.stack([checks, 1 - checks])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss = model.loss(x, None, NO_NOISE).total
        loss.backward()
        optimizer.step()
    assert math.log(2) - 1e-4 < loss.item() < 0.72
    drawn = model.sample(ImageNoise(0, range(200)))
    halves = [(drawn == image).flatten(1).all(1).float().mean().item() for image in x]
    assert sum(halves) > 0.95 and min(halves) > 0.35


def test_conditions() -> None:
    spec = Spec((1, 4, 4), 2, 3)
    model = build(spec)
    x = torch.randint(0, 2, (4, 1, 4, 4), dtype=torch.uint8)
    null, none, two = (
        model.log_likelihood(x, labels, NO_NOISE).nats for labels in (torch.full((4,), 3), None, torch.full((4,), 2))
    )
    assert null is not None and none is not None and two is not None
    assert torch.equal(null, none) and not torch.allclose(null, two)
    with pytest.raises(ValueError, match="shape"):
        model.sample(ImageNoise(0, range(4)), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="from 0 to 3"):
        model.sample(ImageNoise(0, range(2)), torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="without classes"):
        build(Spec((1, 4, 4), 2)).log_likelihood(x, torch.zeros(4, dtype=torch.int64), NO_NOISE)


def test_completion_keeps_what_is_known_and_draws_the_rest() -> None:
    spec = Spec((3, 6, 5), 256)
    model = build(spec)
    x = model.sample(ImageNoise(1, range(3)))
    known = torch.zeros(spec.shape, dtype=torch.bool)
    known[:, :3] = True
    # Given the upper half of a sample and the same noise, the lower half comes out again.
    assert torch.equal(model.complete(torch.where(known, x, 7), known, ImageNoise(1, range(3))), x)
    other = model.complete(x, known, ImageNoise(2, range(3)))
    assert torch.equal(other[:, :, :3], x[:, :, :3]) and not torch.equal(other, x)
    with pytest.raises(ValueError, match="known"):
        model.complete(x, known[0], ImageNoise(1, range(3)))


def test_draw_inverts_the_distribution_function() -> None:
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().expand(5, 4)  # a value of probability 0 is never drawn
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 1 - 2**-24])
    assert draw(logits, uniform, 1.0).tolist() == [0, 0, 2, 2, 3]
    assert draw(logits, uniform, 0.01).tolist()[1:] == [2] * 4
    assert draw(torch.zeros(2, 256), torch.tensor([0.5, 1 - 2**-24]), 1.0).tolist() == [128, 255]


def test_progress_counts_rows() -> None:
    calls: list[tuple[int, int]] = []
    build(Spec((1, 3, 2), 2)).sample(ImageNoise(0, range(2)), progress=lambda done, rows: calls.append((done, rows)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        PixelCNNOptions(temperature)


@pytest.mark.parametrize(("field", "value"), [("kernel", 4), ("first_kernel", 1), ("layers", 1), ("features", 2)])
def test_bad_config(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        PixelCNNConfig(**{field: value})


def test_bad_images() -> None:
    model = build(Spec((1, 4, 4), 2))
    with pytest.raises(ValueError, match="2 levels"):
        model.log_likelihood(torch.full((1, 1, 4, 4), 9, dtype=torch.uint8), None, NO_NOISE)
    with pytest.raises(ValueError, match="shape"):
        model.log_likelihood(torch.zeros(1, 1, 5, 4, dtype=torch.uint8), None, NO_NOISE)
