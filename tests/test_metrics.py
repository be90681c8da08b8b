"""What all metrics share: their room, their refusals, and the smallest of them."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import trilemma.metrics
from trilemma.metrics import (
    Reach,
    authpct,
    bits_per_dim,
    bootstrap,
    c_t,
    closest,
    copies,
    frechet_distance,
    frechet_estimate,
    frechet_infinity,
    jackknife,
    jackknife_error,
    kernel_distance,
    left_out,
    manifold_scores,
    mean_of,
    nearest,
    share_of,
    train_closer,
    worse_than_uniform,
)
from trilemma.number import Number


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_metrics_know_images_numbers_and_the_machine_and_nothing_else() -> None:
    for path in Path(trilemma.metrics.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trilemma"):
                assert node.module.startswith(
                    (
                        "trilemma.metrics",
                        "trilemma.images",
                        "trilemma.noise",
                        "trilemma.machine",
                        "trilemma.files",
                        "trilemma.number",
                    )
                ), path


# Likelihood


def test_what_is_worse_than_no_model_is_said() -> None:
    assert worse_than_uniform(8.0, 256) is None and worse_than_uniform(-3.0, 0) is None
    assert "all 256 levels equally likely would cost 8 bits/dim" in (worse_than_uniform(416.8, 256) or "")
    assert "would cost 1 bits/dim" in (worse_than_uniform(1.01, 2) or "")


def test_bits_per_dim() -> None:
    assert bits_per_dim(torch.full((10,), -math.log(256) * 784), 784) == (pytest.approx(8), pytest.approx(0, abs=1e-6))
    mean, error = bits_per_dim(torch.tensor([-1.0, -3.0]) * math.log(2), 1)
    assert (mean, error) == (pytest.approx(2), pytest.approx(1))
    assert math.isnan(bits_per_dim(torch.tensor([-1.0]), 1)[1])
    assert bits_per_dim(torch.tensor([-math.inf, -1.0]), 1)[0] == math.inf


# Errors


def test_errors_of_means_and_shares() -> None:
    x = normal(400, 1, 0)[:, 0]
    found = mean_of(x)
    assert found.value == pytest.approx(x.mean().item())
    assert found.error == pytest.approx(x.std().item() / 20)
    assert mean_of(x[:1]).error is None
    by_resampling = bootstrap(lambda rows: x[rows].mean().item(), 400, rounds=300)
    by_leaving_out = jackknife(lambda rows: x[rows].mean().item(), 400, groups=40)
    assert by_resampling == pytest.approx(found.error, rel=0.15)
    assert by_leaving_out == pytest.approx(found.error, rel=0.3)
    assert jackknife(lambda rows: x[rows].mean().item(), 400, groups=400) == pytest.approx(found.error)
    assert share_of(30, 120) == Number(0.25, pytest.approx(math.sqrt(0.25 * 0.75 / 120), rel=0.02))
    assert 0 < (share_of(0, 50).error or 0) < 0.03
    with pytest.raises(ValueError, match="no images"):
        share_of(0, 0)
    with pytest.raises(ValueError, match="groups"):
        jackknife(lambda rows: 0.0, 5, groups=6)


def test_groups_left_out() -> None:
    kept = left_out(10, groups=3, rounds=4)
    assert kept.shape == (4, 3, 10)
    assert (kept.sum(1) == 2).all()  # each image is left out once in a division
    assert not torch.equal(kept[0], kept[1])
    values = torch.tensor([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]])
    assert jackknife_error(values) == pytest.approx(math.sqrt((jackknife_error(values[0]) ** 2 + 0) / 2))
    with pytest.raises(ValueError, match="groups"):
        left_out(2)


def test_error_of_a_reach_is_that_of_filled_boxes() -> None:
    """80 boxes, 160 balls: the variance of the number of filled ones is known (Feller, vol. 1, II.5)."""
    boxes, balls = 80, 160
    empty, both = (1 - 1 / boxes) ** balls, (1 - 2 / boxes) ** balls
    truth = math.sqrt(boxes * empty + boxes * (boxes - 1) * both - (boxes * empty) ** 2) / boxes
    found = []
    for s in range(40):
        hits = torch.randint(boxes, (balls,), generator=torch.Generator().manual_seed(s))
        reach = Reach(balls)
        for part in torch.split(hits == torch.arange(boxes)[:, None], 30):
            reach.add(part)
        found.append(reach.estimate())
    assert found[-1].value == pytest.approx(len(hits.unique()) / boxes)
    assert 0.9 * truth < np.mean([e.error for e in found]) < 1.2 * truth  # the plain jackknife has 1.7
    assert Reach(5).add(torch.ones(4, 5).bool()) is None
    with pytest.raises(ValueError, match="no places"):
        Reach(5).estimate()


# Misuse


def test_bad_features_are_refused() -> None:
    good, nan = normal(10, 3, 0), normal(10, 3, 1)
    nan[4, 1] = math.nan
    for bad, message in [
        (nan, "NaN or infinity in 1 of 10 rows"),
        (good[:, :2], "dimensions"),
        (good[:1], "at least 2"),
        (torch.ones(10, 3), "same in all 10 rows"),
        (good[0], r"matrix|dimensions"),
    ]:
        for metric in (frechet_distance, manifold_scores, frechet_estimate, kernel_distance):
            for pair in ((good, bad), (bad, good)):
                with pytest.raises(ValueError, match=message) as caught:
                    metric(*pair)
                assert "\n" not in str(caught.value)
    for k in (0, 10):
        with pytest.raises(ValueError, match="k must be from 1 to 9"):
            manifold_scores(good, good, k)
    with pytest.raises(ValueError, match="NaN"):
        nearest(nan, good)
    with pytest.raises(ValueError, match="at least 1"):
        train_closer(good, good, good[:0])
    for memorisation in (train_closer, copies, c_t):
        for sets in ((nan, good, good), (good, nan, good), (good, good, nan)):
            with pytest.raises(ValueError, match="NaN"):
                memorisation(*sets)
    with pytest.raises(ValueError, match="dimensions"):
        authpct(good, good[:, :2])
    with pytest.raises(ValueError, match="too few to say"):
        copies(good, good[:2], good)
    with pytest.raises(ValueError, match="NaN"):
        frechet_infinity(torch.cat([good, nan, good]), good)
    with pytest.raises(ValueError, match="10 neighbours to look for"):
        closest(good, good, 11)
    with pytest.raises(ValueError, match="diverged"):
        bits_per_dim(torch.tensor([math.nan]), 1)
    with pytest.raises(ValueError, match="vector"):
        bits_per_dim(torch.ones(2, 2), 1)
    with pytest.raises(ValueError, match="dims"):
        bits_per_dim(torch.ones(2), 0)
