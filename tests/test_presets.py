"""The sizes are matched for compute: equal images, or equal time, is an equal chance."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trilemma.families import FAMILIES
from trilemma.images import Spec
from trilemma.noise import BatchNoise
from trilemma.presets import GFLOP, PRESETS, SIZES, configure
from trilemma.training import only


def gflop(name: str, size: str, spec: Spec, batch: int = 2) -> float:
    """Operations of one whole training step, forward and backward over all objectives, per image."""
    model = FAMILIES[name](configure(name, size)[0], spec).train()
    x = torch.zeros(batch, *spec.shape, dtype=torch.uint8)
    labels = torch.zeros(batch, dtype=torch.int64) if spec.classes else None
    noise = BatchNoise((0,), batch, 0, batch, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        for objective in model.objectives():
            only(model, objective)
            for _ in range(objective.repeats):
                objective.loss(x, labels, noise).total.backward()
    return counter.get_total_flops() / batch / 1e9


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", list(FAMILIES))
def test_sizes_are_matched_for_compute(name: str, size: str) -> None:
    assert gflop(name, size, Spec((1, 28, 28))) == pytest.approx(GFLOP[size], rel=0.35)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_match_holds_for_colour_at_another_resolution(name: str) -> None:
    expected = GFLOP["tiny"] * 32 * 32 / (28 * 28)
    assert gflop(name, "tiny", Spec((3, 32, 32), classes=10)) == pytest.approx(expected, rel=0.7)


def test_every_family_has_a_row_and_every_row_a_family() -> None:
    assert PRESETS.keys() == FAMILIES.keys()
    for name in FAMILIES:
        for size in SIZES:
            configure(name, size)


def test_larger_sizes_have_more_parameters() -> None:
    for name, cls in FAMILIES.items():
        counts = [
            sum(p.numel() for p in cls(configure(name, size)[0], Spec((1, 28, 28))).parameters()) for size in SIZES
        ]
        assert counts == sorted(counts), name
