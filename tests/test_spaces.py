"""Several feature spaces at once: ratios to real images whose values are known, and the alarm for a score optimised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import trilemma
from trilemma.evaluation.parts import spaces as module
from trilemma.evaluation.stream import Pool
from trilemma.metrics import CustomFeatures, clip_mmd

NETWORKS = {
    "dinov2/coarse": lambda x: F.adaptive_avg_pool2d(x.float(), 2).flatten(1) / 255,
    "dinov2/fine": lambda x: x.float().diff(dim=-1).flatten(1)[:, ::9] / 255,
}


def images(n: int, seed: int) -> Tensor:
    """Grey images of coarse clouds and fine noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(n, 1, 3, 3, generator=generator), (12, 12), mode="bilinear")
    return ((coarse + 0.1 * torch.randn(n, 1, 12, 12, generator=generator)).clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture
def two_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(name: str, device: str) -> CustomFeatures:
        return CustomFeatures(NETWORKS[name], name, NETWORKS[name](images(1, 0)).shape[1])

    monkeypatch.setattr(module, "feature_network", network)


def evaluated(samples: Tensor, tmp_path: Path, spaces: str) -> dict:
    return trilemma.evaluate(
        samples.permute(0, 2, 3, 1).numpy(),
        images(1200, 1).permute(0, 2, 3, 1).numpy(),
        protocol={"n": 400, "reference": 600, "metrics": "frechet", "spaces": spaces, "ladder": "no"},
    )


@pytest.mark.usefixtures("two_networks")
def test_real_images_are_at_one_in_every_space(tmp_path: Path) -> None:
    record = evaluated(images(400, 2), tmp_path, "dinov2/coarse,dinov2/fine")
    found = record["metrics"]["spaces"]
    assert found["value"] == pytest.approx(1, abs=3 * found["error"] + 0.2) and not found["flag"]
    assert [space["features"] for space in record["spaces"]][1:] == ["dinov2/coarse", "dinov2/fine"]
    for space in record["spaces"][1:]:
        ratio = space["frechet"]["value"] / space["floor"]["value"]
        assert space["ratio"]["value"] == pytest.approx(ratio) and space["cmmd"] is None
    json.dumps(record)


def test_what_is_near_in_one_space_alone_raises_the_alarm() -> None:
    """The training images without their fine detail: nearer than held-out ones where only coarse pixels are seen."""
    training, held_out = images(400, 1), images(400, 2)
    smooth = F.interpolate(F.adaptive_avg_pool2d(training.float(), 2), (12, 12), mode="nearest").round().to(torch.uint8)
    found = []
    for name, function in NETWORKS.items():
        network = CustomFeatures(function, name, function(smooth).shape[1])
        found.append(module.space(network, *(Pool.of(network(each)) for each in (smooth, training, held_out))))
    assert (found[0].ratio.value or 0) < 0.2 and (found[1].ratio.value or 0) > 5
    said = module.optimised(found) or ""
    assert "nearer than real images in dinov2/coarse" in said and "far in dinov2/fine" in said


def test_the_alarm_is_for_one_below_and_another_above() -> None:
    def at(name: str, ratio: float) -> module.Space:
        number = trilemma.number.Number(ratio, 0.05)
        return module.Space(name, number, number, number)

    assert "optimised" in (module.optimised([at("a", 0.6), at("b", 3.0)]) or "")
    assert module.optimised([at("a", 0.95), at("b", 3.0)]) is None  # not below by its error
    assert module.optimised([at("a", 0.6), at("b", 1.2)]) is None
    assert module.optimised([at("a", 2.0), at("b", 3.0)]) is None


def test_cmmd_is_that_of_its_authors() -> None:
    """Against the equation as their code has it, in NumPy, on embeddings of length 1."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 8)) + 0.5, rng.normal(size=(70, 8))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
        return float(np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * 10.0**2)).mean())

    wanted = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    found = clip_mmd(torch.from_numpy(x), torch.from_numpy(y), rows=16)
    assert found.value == pytest.approx(wanted, rel=1e-9)
    again = [clip_mmd(torch.from_numpy(rng.normal(size=(50, 8)) + 0.5), torch.from_numpy(y)).value for _ in range(200)]
    assert found.error == pytest.approx(float(np.std(again)), rel=0.35)


def test_an_unknown_space_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="--spaces knows no features called 'resnet'"):
        trilemma.Protocol(spaces="resnet")
