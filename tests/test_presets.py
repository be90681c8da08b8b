"""The sizes are matched for compute: a training image costs every family as much."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trilemma.families import FAMILIES
from trilemma.images import Spec
from trilemma.noise import BatchNoise
from trilemma.presets import GFLOP, PRESETS, REFERENCE, SIZES, configure, gflop

names = pytest.mark.parametrize("name", list(FAMILIES))


@names
@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_matched_for_compute(name: str, size: str) -> None:
    config = configure(name, size)[0]
    assert gflop(name, config, REFERENCE) == pytest.approx(GFLOP[size], rel=0.25)
    for field, value in getattr(PRESETS[name], size).items():
        assert getattr(config, field) == value  # at the reference, the table is what one gets


@names
@pytest.mark.parametrize("spec", [Spec((3, 32, 32), classes=10), Spec((3, 64, 64)), Spec((1, 24, 40), levels=2)])
def test_the_match_holds_at_the_resolution_of_the_data(name: str, spec: Spec) -> None:
    expected = GFLOP["tiny"] * spec.height * spec.width / (28 * 28)
    assert gflop(name, configure(name, "tiny", spec)[0], spec) == pytest.approx(expected, rel=0.35)


@names
def test_the_count_on_shapes_is_the_count_of_a_real_step(name: str) -> None:
    # The other counter cannot follow a loss that differentiates inside.
    config = configure(name, model={"loss": "nonsaturating"} if name == "gan" else None)[0]
    model = FAMILIES[name](config, REFERENCE).train()
    x = torch.zeros(2, *REFERENCE.shape, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        for objective in model.objectives():
            objective.freeze_others(model)
            objective.loss(x, None, BatchNoise((0,), 2, 0, 2, torch.device("cpu"))).total.backward()
    assert counter.get_total_flops() / 2e9 == pytest.approx(gflop(name, config, REFERENCE))


def test_a_width_that_is_given_is_kept() -> None:
    assert configure("vae", "tiny", Spec((3, 64, 64)), {"width": 8})[0].width == 8


def test_every_family_has_a_row_and_every_row_a_family() -> None:
    assert PRESETS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("vector", [False, True])
def test_a_gan_of_another_loss_has_a_row_of_its_own(vector: bool) -> None:
    """The rate of the relativistic one is too high for the losses before it."""
    spec = Spec((2,), 0, center=(0.0, 0.0), scale=(1.0, 1.0)) if vector else REFERENCE
    model, train = configure("gan", "tiny", spec)
    assert model.loss == "relativistic" and train.betas[0] == 0
    model, train = configure("gan", "tiny", spec, {"loss": "hinge"})
    assert (model.loss, model.generator_norm, train.lr, train.betas[0]) == ("hinge", "batch", 5e-4, 0.5)
    assert configure("gan", "tiny", spec, {"loss": "relativistic"}) == configure("gan", "tiny", spec)
