"""Queries of autoregressive models: the order is proved, and receptive fields are the textbook's."""

from __future__ import annotations

import pytest
import torch
from tiny import build, random_images
from torch import Tensor, nn

from trilemma.families.autoregressive import Autoregressive
from trilemma.families.pixelcnn import PixelCNN, PixelCNNConfig
from trilemma.families.pixelrnn import PixelRNN, PixelRNNConfig
from trilemma.images import Spec
from trilemma.noise import derive_seed
from trilemma.questions.causality import causality, few_places
from trilemma.questions.receptive import Field, draw_field, draw_fields, receptive_field

VARIANTS = [
    (PixelCNN, "gated"),
    (PixelCNN, "plain"),
    (PixelRNN, "diagonal-bilstm"),
    (PixelRNN, "diagonal-lstm"),
    (PixelRNN, "row-lstm"),
]


TEXTBOOK: tuple[tuple[str, str, type[Autoregressive], PixelCNNConfig | PixelRNNConfig], ...] = (
    (
        "Diagonal LSTM, one direction",
        "all above and to the left",
        PixelRNN,
        PixelRNNConfig(network="diagonal-lstm", features=4, first_kernel=3, head=4),
    ),
    (
        "Diagonal BiLSTM",
        "all pixels before",
        PixelRNN,
        PixelRNNConfig(network="diagonal-bilstm", features=4, first_kernel=3, head=4),
    ),
    (
        "Row LSTM",
        "a triangle above",
        PixelRNN,
        PixelRNNConfig(network="row-lstm", features=4, first_kernel=3, head=4),
    ),
    (
        "PixelCNN, plain",
        "a window with a blind spot",
        PixelCNN,
        PixelCNNConfig(network="plain", features=8, layers=6, first_kernel=5, kernel=3, head=8),
    ),
    (
        "PixelCNN, gated",
        "the window, no blind spot",
        PixelCNN,
        PixelCNNConfig(network="gated", features=8, layers=7, first_kernel=5, kernel=3, head=8),
    ),
)
"""Title, what the textbook says, and a small net of the kind. Both PixelCNNs have a window of 8 pixels each way."""


def textbook_field(title: str, size: tuple[int, int], seed: int = 0) -> Field:
    """The field of the centre in one of the `TEXTBOOK` nets, freshly initialised."""
    kind, config = next((kind, config) for name, _, kind, config in TEXTBOOK if name == title)
    spec = Spec((1, *size), 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "receptive comparison"))
        model = kind(config, spec)  # type: ignore[call-arg]
    generator = torch.Generator().manual_seed(derive_seed(seed, "receptive images"))
    images = torch.randint(2, (8, *spec.shape), generator=generator).to(torch.uint8)
    return receptive_field(model, images, seed=seed)


@pytest.mark.parametrize(("kind", "network"), VARIANTS)
@pytest.mark.parametrize("output", ["softmax", "mixture"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_variant_keeps_the_order(kind: type[Autoregressive], network: str, output: str, channels: int) -> None:
    spec = Spec((channels, 4, 6), 256 if output == "mixture" else 4, classes=3 * (channels == 3))
    model = build(kind, network, spec, output)
    outcome = causality(model)
    assert outcome.ok, outcome.text
    assert outcome.checked == outcome.places == 24 * model.groups
    assert outcome.require() is outcome
    assert "24" in outcome.text or "72" in outcome.text
    assert causality(model, positions=few_places(model)).ok


@pytest.mark.parametrize(
    ("network", "mask"),
    # Mask A of the first layer made B or worse, and features of G, which know R, sent to R.
    [("gated", "layers.0.horizontal"), ("gated", "hidden"), ("plain", "first"), ("plain", "blocks.1.enter")],
)
def test_a_flipped_mask_is_found_and_named(network: str, mask: str) -> None:
    model = build(PixelCNN, network, Spec((3, 4, 6), 4))
    net = model.net
    assert isinstance(net, nn.Module)
    layer = net.get_submodule(mask)
    layer.mask = torch.ones_like(layer.mask)  # type: ignore[assignment, arg-type]
    told: list[tuple[int, int]] = []
    outcome = causality(model, lambda done, total: told.append((done, total)))
    assert not outcome.ok
    assert outcome.leaks[0] == ((0, 0, 0), (0, 0, 0))
    assert told[-1] == (72, 72)
    quick = causality(model, positions=few_places(model))
    assert not quick.ok
    with pytest.raises(ValueError, match=r"looks ahead: value \(0, 0, 0\) sees \(\d, 0, \d\)"):
        quick.require()


def test_one_leaking_pixel_is_named_even_by_a_test_elsewhere() -> None:
    """A net in which one pixel alone sees a later one."""

    class Leaky(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
            outputs: Tensor = self.net(x, labels).clone()
            outputs[:, 1, 2] = outputs[:, 1, 2] + x[:, 0, 3, 1, None, None]
            return outputs

    model = build(PixelCNN, "gated", Spec((1, 4, 6), 2))
    model._net = Leaky(model._net)  # type: ignore[assignment, arg-type]
    outcome = causality(model)
    assert outcome.leaks == (((0, 1, 2), (0, 3, 1)),)
    assert causality(model, positions=[14]).leaks == outcome.leaks  # between the two
    assert causality(model, positions=[3, 20]).ok  # before and behind both: not seen from there


def test_places_lie_in_the_image() -> None:
    with pytest.raises(ValueError, match="0 to 23, not 3 to 24"):
        causality(build(PixelCNN, "gated", Spec((1, 4, 6), 2)), positions=[24, 3])


def test_receptive_fields_are_the_textbooks() -> None:
    size, (row, column) = (13, 17), (6, 8)
    rows, columns = torch.meshgrid(torch.arange(13), torch.arange(17), indexing="ij")
    up, across = row - rows, columns - column
    left = (up == 0) & (across < 0)
    fields = {title: textbook_field(title, size) for title, *_ in TEXTBOOK}
    for field in fields.values():
        assert not (field.pixels & ~field.before).any()
    # The first 3x3 convolution reaches one column to the right.
    one = fields["Diagonal LSTM, one direction"].pixels
    assert torch.equal(one, left | ((up > 0) & (across <= 1)))
    both = fields["Diagonal BiLSTM"]
    assert torch.equal(both.pixels, both.before)
    assert both.reach == (6, 8, 8)
    triangle = fields["Row LSTM"].pixels
    # A row up, the state-to-state convolution sees one column more; the first convolution one more to either side.
    # To the left, in every row, so does the input-to-state convolution.
    assert torch.equal(triangle & (up > 0), (up > 0) & (across >= -up - 2) & (across <= up))
    plain, gated = fields["PixelCNN, plain"].pixels, fields["PixelCNN, gated"].pixels
    window = left | (up > 0)
    assert torch.equal(gated, window & (up <= 8) & (across.abs() <= 8))
    blind = gated & ~plain
    assert blind.any()
    assert (up[blind] > 0).all()
    assert (across[blind] > up[blind]).all()  # above, to the right
    assert not (plain & ~gated).any()


def test_influence_is_the_derivative_of_the_log_probability() -> None:
    model = build(PixelRNN, "row-lstm", Spec((3, 5, 4), 256, classes=2), seed=1)
    images, labels = random_images(model.spec, 12), torch.tensor([0, 1, 2]).repeat(4)
    field = receptive_field(model, images, (3, 2), labels)
    assert field.support.shape == (3, 5, 4)
    # Inside its own pixel B depends on R and G; no value on B.
    assert field.support[:, 3, 2].tolist() == [True, True, False]
    assert not field.pixels[3, 2]
    assert (field.influence[field.pixels] > 0).all()
    assert not field.influence[~field.pixels & ~(torch.arange(20).view(5, 4) == 14)].any()
    # By finite differences along one input of one pixel.
    twin = build(PixelRNN, "row-lstm", model.spec, seed=1).double()
    features = twin.features(images).double()

    def nats(shift: float) -> Tensor:
        moved = features.clone()
        moved[:, :, 2, 1] += shift * direction
        log_p = twin.net(moved, labels)[:, 3, 2].log_softmax(-1)
        return -log_p.gather(-1, images[:, :, 3, 2, None].long()).sum((1, 2))

    slopes = torch.zeros(12, 9, dtype=torch.float64)
    for i in range(9):
        direction = torch.eye(9, dtype=torch.float64)[i]
        slopes[:, i] = (nats(1e-5) - nats(-1e-5)) / 2e-5
    assert float(field.influence[2, 1]) == pytest.approx(float(slopes.norm(dim=1).mean()), rel=1e-4)
    with pytest.raises(ValueError, match="position 5,0 is outside the image: rows are 0 to 4, columns 0 to 3"):
        receptive_field(model, images, (5, 0))
    assert min(draw_field(field, "PixelRNN").pixels().size) > 200


def test_the_comparison_is_one_picture() -> None:
    fields = {title: (says, textbook_field(title, (9, 11))) for title, says, *_ in TEXTBOOK}
    assert draw_fields(fields).width > 5 * 200
