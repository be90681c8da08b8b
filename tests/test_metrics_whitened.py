"""Copies are found though they are changed, and smooth images, near to everything, are not called copies."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trilemma.data import load
from trilemma.images import to_display
from trilemma.metrics import Alike, Whitened, verdict
from trilemma.metrics.distortions import add_noise, blur


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Alike]:
    """Fresh digits, held-out ones, training images, and the null."""
    data = load("mnist")
    images = to_display(data.batch(data.train[:1300]), data.levels)
    fresh, held_out, train = images[:200], images[200:400], images[400:]
    return fresh, held_out, train, Alike(Whitened(train), held_out, train)


def shifted(x: Tensor, down: int, right: int) -> Tensor:
    return x.roll((down, right), (-2, -1))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: blur(x, 1.0),
        lambda x: shifted(x, 1, -1),
        lambda x: shifted(x, -2, 2),
        lambda x: x.flip(-1),
        lambda x: (0.7 * x.float()).to(torch.uint8),
        lambda x: add_noise(x, 8.0),
    ],
    ids=["exact", "blurred", "shifted", "shifted by 2", "mirrored", "darkened", "noisy"],
)
def test_changed_copies_are_found(change: Callable[[Tensor], Tensor]) -> None:
    fresh, _, train, alike = digits()
    planted = fresh.clone()
    planted[:8] = change(train[40:48])
    found = verdict(*alike.judge(planted), pairs=8)
    assert found.p_value < 0.005  # so that twice the p-value, of two looks, is below 0.01
    assert sum(pair.train == 40 + pair.sample for pair in found.pairs) >= 6


def ruined(x: Tensor, train: Tensor) -> dict[str, Tensor]:
    mush = torch.stack([train[i : i + 8].float().mean(0) for i in range(len(x))]).to(torch.uint8)
    kinds = {f"blur {s}": blur(x, s) for s in (1.0, 4.0)}
    return kinds | {
        "fresh": x,
        "mush": blur(mush, 6.0),
        "constant": x.float().mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(x),
        "one": x[:1].expand_as(x),
    }


def test_smooth_images_are_no_copies() -> None:
    fresh, _, train, alike = digits()
    p = {kind: verdict(*alike.judge(images)).p_value for kind, images in ruined(fresh, train).items()}
    assert all(value > 0.01 for value in p.values()), p


def test_a_training_image_is_not_its_own_copy() -> None:
    _, _, train, alike = digits()
    score, row, _ = alike.whitened.search(train[:6])
    assert row.tolist() == list(range(6)) and (score > 0.999).all()
    score, row, _ = alike.whitened.search(train[:6], own=torch.arange(6))
    assert (row != torch.arange(6)).all() and (score < 0.95).all()
    with pytest.raises(ValueError, match="2 training images are too few"):
        Whitened(train[:2])
