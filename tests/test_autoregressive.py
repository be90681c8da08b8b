"""PixelCNN and PixelRNN: the order is kept, p(x) is a distribution, and the cached sampler draws from it."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trilemma.families.autoregressive import Autoregressive, AutoregressiveOptions, resample
from trilemma.families.conditionals import LogisticMixture, SoftmaxNLL, draw
from trilemma.families.pixelcnn import PixelCNN, PixelCNNConfig
from trilemma.families.pixelrnn import PixelRNN, PixelRNNConfig
from trilemma.images import Spec
from trilemma.nets import host
from trilemma.nets.gated import GatedLayer, GatedStacks
from trilemma.nets.masked import channel_groups, channel_mask, influence
from trilemma.nets.recurrent import LSTMScan, Sweep
from trilemma.noise import ImageNoise

NO_NOISE = ImageNoise(0, [])


VARIANTS = ("gated", "plain", "diagonal-bilstm", "row-lstm", "diagonal-lstm")
OUTPUTS = ("softmax", "mixture")


def build(
    spec: Spec, network: str = "gated", output: str = "softmax", *, seed: int = 0, spread: float = 0.3, **config: int
) -> Autoregressive:
    """A small model whose weights are far from zero, so that its conditionals are far from uniform."""
    small: dict[str, Any] = {"features": 10, "layers": 3, "head": 11, "first_kernel": 5, "mixtures": 3, **config}
    kinds = {"network": network, "output": output}
    model: Autoregressive
    torch.manual_seed(seed)
    if network in ("gated", "plain"):
        model = PixelCNN(PixelCNNConfig(**{"kernel": 3, **small}, **kinds), spec)  # type: ignore[arg-type]
    else:
        model = PixelRNN(PixelRNNConfig(**small, **kinds), spec)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model


def dependency(model: Autoregressive, position: tuple[int, int, int]) -> Tensor:
    """Which values the description of one (group, row, column) depends on, at eight random inputs: bool [G, H, W]."""
    model = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(0)
    groups, (channels, height, width) = model.conditional.groups, model.spec.shape
    features = torch.randn(8, 3 * channels, height, width, generator=generator, dtype=torch.float64)
    weights = torch.zeros(8, height, width, groups, model.conditional.outputs, dtype=torch.float64)
    group, row, column = position
    # Random weights, as a plain sum could cancel; several inputs, as a rectifier that is off passes no gradient.
    weights[:, row, column, group] = torch.randn(8, weights.shape[-1], generator=generator, dtype=torch.float64)
    labels = torch.ones(8, dtype=torch.int64) if model.spec.classes else None
    return influence(model.net, features, weights, labels).ne(0).any(0)


def all_binary_images(spec: Spec) -> Tensor:
    return torch.tensor(list(itertools.product((0, 1), repeat=spec.dims)), dtype=torch.uint8).view(-1, *spec.shape)


def test_masks_follow_the_paper() -> None:
    rgb = torch.arange(3)
    assert channel_mask(rgb, rgb, "A").tolist() == [[False] * 3, [True, False, False], [True, True, False]]
    assert channel_mask(rgb, rgb, "B").tolist() == [[True, False, False], [True, True, False], [True] * 3]
    assert channel_groups(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="A or B"):
        channel_mask(rgb, rgb, "C")


@pytest.mark.parametrize("network", ["gated", "diagonal-bilstm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_value_depends_on_exactly_the_earlier_ones(network: str, channels: int) -> None:
    # The gated net's field of kernels 5, 3, 3, 3 reaches 5 pixels each way: all of a 5 x 6 image.
    spec = Spec((channels, 5, 6), 2, classes=2)
    model = build(spec, network, layers=4 if network == "gated" else 1, head=32)
    order = torch.arange(spec.dims).view(5, 6, channels).permute(2, 0, 1)
    for channel, row, column in itertools.product(range(channels), range(5), range(6)):
        earlier = order < order[channel, row, column]
        seen = dependency(model, (channel, row, column))
        assert torch.equal(seen, earlier), f"value {channel, row, column} sees\n{seen.int()}"


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_nothing_sees_ahead(network: str, output: str) -> None:
    spec = Spec((3, 4, 5), 256, classes=2)
    model = build(spec, network, output, layers=2)
    groups = model.conditional.groups
    order = torch.arange(groups * 20).view(4, 5, groups).permute(2, 0, 1)
    for position in itertools.product(range(groups), (0, 2, 3), (0, 2, 4)):
        assert not (dependency(model, position) & (order >= order[position])).any(), position


def rows(*lines: str) -> Tensor:
    return torch.tensor([[mark == "#" for mark in line] for line in lines])


# What the pixel marked + sees in a 6 x 9 image, with a first kernel of 3 and one layer behind it.
FIELDS = {
    "gated": ("", "", "..#####..", "..#####..", "..##+....", ""),
    "plain": ("", "", "..#####..", "..####...", "..##+....", ""),
    "diagonal-lstm": ("######...", "######...", "######...", "######...", "####+....", ""),
    "diagonal-bilstm": ("#########", "#########", "#########", "#########", "####+....", ""),
    "row-lstm": ("#########", "########.", "#######..", ".#####...", "..##+....", ""),
}


@pytest.mark.parametrize("network", VARIANTS)
def test_receptive_fields_are_those_of_the_textbook(network: str) -> None:
    layers = 2 if network == "gated" else 1
    model = build(Spec((1, 6, 9), 2), network, first_kernel=3, layers=layers)
    expected = rows(*(line or "." * 9 for line in FIELDS[network]))
    seen = dependency(model, (0, 4, 4))[0]
    assert torch.equal(seen, expected), f"{network} sees\n{seen.int()}"


def test_plain_pixelcnn_has_a_blind_spot_and_the_gated_one_has_none() -> None:
    # Three kernels of 3 could reach 4 to the right in rows above; the plain net's reach grows by one a row only.
    plain = dependency(build(Spec((1, 8, 13), 2), "plain", first_kernel=3, layers=3), (0, 6, 4))[0]
    gated = dependency(build(Spec((1, 8, 13), 2), "gated", first_kernel=3, layers=4), (0, 6, 4))[0]
    assert plain[5].nonzero().max() < gated[5].nonzero().max()
    assert gated[5].nonzero().max() == 4 + 4


def test_dependency_finds_a_leak() -> None:
    model = build(Spec((3, 4, 4), 2))
    assert isinstance(model.net, GatedStacks)
    first = model.net.layers[0]
    assert isinstance(first, GatedLayer) and first.horizontal.mask is not None
    first.horizontal.mask.fill_(1)  # mask A undone
    assert dependency(model, (0, 1, 1))[:, 1, 1].any()
    with pytest.raises(ValueError, match="looks ahead"):
        model.check()


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_a_sound_model_passes_its_own_check(network: str, output: str) -> None:
    build(Spec((3, 5, 4), 256, 2), network, output).check()


@pytest.mark.parametrize(("shape", "classes"), [((1, 3, 3), 2), ((3, 2, 2), 0), ((3, 2, 2), 2)])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_probabilities_of_all_images_sum_to_one(
    network: str, output: str, shape: tuple[int, int, int], classes: int
) -> None:
    spec = Spec(shape, 2, classes)
    model, images = build(spec, network, output), all_binary_images(spec)
    sums = []
    for label in range(classes + 1):
        answer = model.log_likelihood(images, torch.full((len(images),), label) if classes else None, NO_NOISE)
        assert answer.kind == "exact" and answer.nats is not None
        assert answer.nats.std() > 0.1  # not the uniform model, which would sum to one in any case
        sums.append(answer.nats.double().exp().sum().item())
    assert sums == pytest.approx([1] * (classes + 1), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 2, 2)])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_sampler_frequencies_match_the_probabilities(network: str, output: str, shape: tuple[int, int, int]) -> None:
    spec, count = Spec(shape, 2, classes=2), 20_000
    model, images = build(spec, network, output, spread=0.2), all_binary_images(spec)
    answer = model.log_likelihood(images, torch.full((len(images),), 1), NO_NOISE)
    assert answer.nats is not None
    p = answer.nats.double().exp()
    samples = model.sample(ImageNoise(5, range(count)), torch.full((count,), 1)).flatten(1).long()
    observed = (samples * 2 ** torch.arange(spec.dims).flip(0)).sum(1).bincount(minlength=len(images))
    # Images so rare that the χ² law does not hold for them are counted together.
    expected = count * p / p.sum()
    common = expected >= 5
    merged = [torch.cat([counts[common], counts[~common].sum()[None]]) for counts in (observed, expected)]
    merged = [counts[merged[1] > 0] for counts in merged]
    assert chisquare(merged[0].numpy(), merged[1].numpy()).pvalue > 1e-4


@pytest.mark.parametrize(
    ("spec", "temperature"),
    [
        (Spec((1, 7, 7), 256), 1.0),
        (Spec((1, 6, 5), 256, 10), 1.0),
        (Spec((1, 5, 8), 2, 3), 1.0),
        (Spec((3, 4, 6), 256), 1.0),
        (Spec((3, 5, 4), 2, 4), 0.7),
        (Spec((1, 1, 5), 2), 1.0),
        (Spec((1, 5, 1), 2), 1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("few", [0, 8], ids=["torch", "numpy"])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_cached_and_naive_samplers_draw_the_same_pixels(
    network: str, output: str, few: int, spec: Spec, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "FEW", few)
    model = build(spec, network, output, spread=0.15)
    labels = torch.arange(6) % (spec.classes + 1) if spec.classes else None
    options = AutoregressiveOptions(temperature)
    cached = model.sample(ImageNoise(3, range(6)), labels, options)
    assert torch.equal(cached, model.sample_naive(ImageNoise(3, range(6)), labels, options))
    assert cached.dtype == torch.uint8 and tuple(cached.shape) == (6, *spec.shape)
    assert len(cached.unique()) > (1 if spec.levels == 2 else 20)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("network", VARIANTS)
def test_cached_sampling_costs_one_forward_pass(network: str, channels: int) -> None:
    spec = Spec((channels, 8, 7), 256)
    model = build(spec, network, features=12, head=12)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.nll(torch.zeros(1, *spec.shape, dtype=torch.uint8), None)
    with FlopCounterMode(display=False) as cached:
        model.sample(ImageNoise(0, range(16)))  # torch counts its own products only, and few images run on NumPy
    # The cached BiLSTM need not run its backward direction over the last row, which nobody sees.
    assert 0.8 < cached.get_total_flops() / 16 / forward.get_total_flops() < 1.1


def test_an_image_depends_on_its_seed_and_index_alone() -> None:
    model = build(Spec((1, 6, 6), 256, 3))
    together = model.sample(ImageNoise(9, range(8)), torch.arange(8) % 3)
    assert torch.equal(model.sample(ImageNoise(9, [5]), torch.tensor([2])), together[5:6])


@pytest.mark.parametrize("network", VARIANTS)
def test_uniform_model_has_exactly_eight_bits(network: str) -> None:
    spec = Spec((1, 9, 8), 256)
    model = build(spec, network)
    last = model.net.logits if isinstance(model.net, GatedStacks) else model.net.last  # type: ignore[attr-defined]
    for parameter in last.parameters():
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
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_every_parameter_is_used(network: str, output: str, spec: Spec) -> None:
    model = build(spec, network, output)
    (objective,) = model.objectives()
    assert len(list(objective.parameters)) == len(list(model.parameters()))
    x = torch.randint(0, spec.levels, (5, *spec.shape), dtype=torch.uint8)
    objective.loss(x, torch.arange(5) if spec.classes else None, NO_NOISE).total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("network", VARIANTS)
def test_learns_a_distribution_it_can_express(network: str) -> None:
    # Two images with equal probability: the least nll is log 2 nats, reached by copying the first pixel's choice.
    spec = Spec((1, 4, 4), 2)
    torch.manual_seed(0)
    model = build(spec, network, features=8, layers=2, head=8, spread=0)
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
    again = model.complete(torch.where(known, x, 7), known, ImageNoise(1, range(3)))
    assert torch.equal(again.images, x) and again.log_weights.tolist() == [0, 0, 0]
    other = model.complete(x, known, ImageNoise(2, range(3))).images
    assert torch.equal(other[:, :, :3], x[:, :, :3]) and not torch.equal(other, x)
    with pytest.raises(ValueError, match="known"):
        model.complete(x, known[0], ImageNoise(1, range(3)))
    with pytest.raises(ValueError, match="particles"):
        model.complete(x, known, ImageNoise(1, range(3)), particles=2)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_weights_of_a_completion_are_the_likelihood_of_what_follows(network: str, output: str) -> None:
    # All but the first pixel known: weight x p(first pixel) is p(image).
    spec = Spec((3, 2, 3), 2)
    model = build(spec, network, output)
    x = model.sample(ImageNoise(0, range(6)))
    known = torch.ones(spec.shape, dtype=torch.bool)
    known[:, 0, 0] = False
    done = model.complete(x, known, ImageNoise(3, range(6)))
    assert torch.equal(done.images[:, known], x[:, known])
    after = -model.nats(done.images, None).flatten(1).sum(1) + model.nats(done.images, None)[:, :, 0, 0].sum(1)
    assert done.log_weights.tolist() == pytest.approx(after.tolist(), abs=1e-4)


@pytest.mark.parametrize(("network", "temperature"), [*((network, 1.0) for network in VARIANTS), ("gated", 0.4)])
def test_particles_follow_the_posterior_of_an_arbitrary_mask(network: str, temperature: float) -> None:
    # Given the lower right of a 3 x 3 binary image, what precedes it must follow p(unknown | known), by enumeration.
    # At another temperature p is the law whose every conditional is raised to its inverse and made to sum to 1 again.
    spec = Spec((1, 3, 3), 2)
    model, images = build(spec, network, seed=1), all_binary_images(spec)
    known = torch.zeros(spec.shape, dtype=torch.bool)
    known[0, 1:, 1:] = True
    x = model.sample(ImageNoise(1, [0]))
    p = model.nats(images, None).double().neg().exp()  # of each value given those before it
    p, other = p ** (1 / temperature), (1 - p) ** (1 / temperature)
    law = (p / (p + other)).flatten(1).prod(1)
    fits = (images[:, known] == x[:, known]).all(1)
    posterior = law * fits / (law * fits).sum()
    sets, particles, options = 150, 40, AutoregressiveOptions(temperature)
    done = model.complete(
        x.expand(sets * particles, -1, -1, -1), known, ImageNoise(0, range(sets * particles)), None, options,
        particles=particles,
    )  # fmt: skip
    weights = done.log_weights.view(sets, particles).softmax(1).flatten() / sets
    places = (done.images.flatten(1).long() * 2 ** torch.arange(9).flip(0)).sum(1)
    found = torch.zeros(512, dtype=torch.float64).index_add_(0, places, weights)
    assert (found - posterior).abs().sum() / 2 < 0.04  # total variation
    if network == "gated" and temperature == 1:  # without weights the draws ignore what comes after them
        alone = model.complete(x.expand(6000, -1, -1, -1), known, ImageNoise(0, range(6000))).images
        places = (alone.flatten(1).long() * 2 ** torch.arange(9).flip(0)).sum(1)
        assert (places.bincount(minlength=512) / 6000 - posterior).abs().sum() / 2 > 0.08


def test_resampling_keeps_each_set_to_itself_and_follows_the_weights() -> None:
    log_weights = torch.tensor([[0.0, -50, -50, -1], [-50, -50, 0, -50], [0, 0, -1, 0]], dtype=torch.float64)
    index, uneven = resample(log_weights, torch.tensor([0.3, 0.9, 0.5]))
    assert uneven.tolist() == [True, True, False]
    assert index.tolist() == [0, 0, 0, 3, 6, 6, 6, 6, 8, 9, 10, 11]


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
        AutoregressiveOptions(temperature)


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


# The recurrence


def scan_by_hand(gates: Tensor, weight: Tensor, sweep: Sweep) -> Tensor:
    """Equation 3 pixel by pixel, through autograd."""
    height, width = sweep.size
    h: dict[int, Tensor] = {}
    c: dict[int, Tensor] = {}
    for where, start, stop in sweep.lines:
        for cell, _ in zip(list(range(height * width))[where], range(start, stop), strict=True):
            row, column = divmod(cell, width)
            z, before = gates[:, cell], torch.zeros_like(gates[:, cell, :, : weight.shape[2]])
            for o, (rows_, columns, position) in enumerate(sweep.before):
                if 0 <= row + rows_ < height and 0 <= column + columns < width:
                    neighbour = (row + rows_) * width + column + columns
                    z = z + h[neighbour] @ weight[:, o]
                    before = c[neighbour] if position == 0 else before
            out, forget, enter, g = z.chunk(4, -1)
            c[cell] = forget.sigmoid() * before + enter.sigmoid() * (g / 2).tanh()
            h[cell] = out.sigmoid() * c[cell].tanh()
    return torch.stack([h[cell] for cell in range(height * width)], 1)


@pytest.mark.parametrize("size", [(4, 5), (5, 3), (3, 1), (1, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("way", ["rows", "diagonals"])
def test_the_recurrence_and_its_gradient_are_those_of_autograd(way: str, size: tuple[int, int]) -> None:
    sweep = Sweep.rows(*size) if way == "rows" else Sweep.diagonals(*size)
    directions, generator = (1 if way == "rows" else 2), torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    gates = normal(directions, size[0] * size[1], 2, 12).requires_grad_()
    weight = normal(directions, len(sweep.before), 3, 12).requires_grad_()
    h, expected = LSTMScan.apply(gates, weight, sweep), scan_by_hand(gates, weight, sweep)
    torch.testing.assert_close(h, expected)
    direction = normal(*h.shape)
    found = torch.autograd.grad((h * direction).sum(), (gates, weight))
    wanted = torch.autograd.grad((expected * direction).sum(), (gates, weight), materialize_grads=True)
    torch.testing.assert_close(found, wanted)


# The mixture of logistics


@pytest.mark.parametrize("channels", [1, 3])
def test_mixture_sums_to_one_over_all_levels_also_at_the_extremes(channels: int) -> None:
    spec = Spec((channels, 1, 1), 256)
    mixture = LogisticMixture(spec, 4)
    for scale in (0.1, 1.0, 30.0):  # 30: means far off the range, scales beyond both limits
        description = scale * torch.randn(8, mixture.outputs, generator=torch.Generator().manual_seed(1)).double()
        pixel = torch.randint(0, 256, (8, channels), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
        for channel in range(channels):
            log_p = mixture.log_p(description, pixel, channel).log_softmax(1)
            raw = mixture.log_p(description, pixel, channel)
            given = raw.exp().sum(1)
            before = torch.ones(8, dtype=torch.float64)
            if channel:
                previous = mixture.log_p(description, pixel, channel - 1)
                before = previous.gather(1, pixel[:, channel - 1, None].long())[:, 0].exp()
            torch.testing.assert_close(given, before, rtol=1e-6, atol=1e-9)
            nats = mixture.nats(description[:, None, None, None], pixel[:, :, None, None])[:, channel, 0, 0]
            torch.testing.assert_close(-log_p.gather(1, pixel[:, channel, None].long())[:, 0], nats)
            assert torch.isfinite(nats).all()


def test_mixture_couples_the_channels() -> None:
    # One component whose mean of G follows R: p(G | R) must move with R, as PixelCNN++'s does.
    mixture = LogisticMixture(Spec((3, 1, 1), 256), 1)
    description = torch.zeros(2, mixture.outputs)
    description[:, 4:7] = -4.0  # narrow
    description[:, 7] = 10.0  # tanh of half of it, the coefficient of R in G, is nearly 1
    pixel = torch.tensor([[30, 0, 0], [220, 0, 0]], dtype=torch.uint8)
    assert mixture.log_p(description, pixel, 1).argmax(1).tolist() == pytest.approx([30, 220], abs=2)
    assert mixture.log_p(description, pixel, 2).argmax(1).tolist() == pytest.approx([127, 127], abs=1)
