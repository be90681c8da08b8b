"""Disentanglement scores of codes whose answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs
from test_cli import call
from torch import Tensor

from trilemma.data import load
from trilemma.questions.disentangle import (
    dci,
    disentanglement,
    information_gaps,
    mutual_information,
    read_factors,
    sparse_linear,
    sparse_logistic,
)
from trilemma.training import train


def grid_of_factors(copies: int = 12) -> Tensor:
    """All of 4 x 3 x 2 values, several times over in a random order, so that factors are independent."""
    parts = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(2)).repeat(copies, 1)
    return parts[torch.randperm(len(parts), generator=torch.Generator().manual_seed(0))].double()


def test_perfectly_disentangled_codes_score_one() -> None:
    factors = grid_of_factors()
    codes = torch.stack([-3 * factors[:, 1], factors[:, 2] + 5, 0.5 * factors[:, 0]], 1)
    answer = disentanglement(codes, factors)
    assert answer.gap == pytest.approx(1.0)
    assert answer.disentanglement == pytest.approx(1.0)
    assert answer.completeness == pytest.approx(1.0)
    assert answer.informativeness == pytest.approx(1.0)
    assert answer.information.argmax(0).tolist() == [2, 0, 1]
    assert answer.information.amax(0).tolist() == pytest.approx([math.log(4), math.log(3), math.log(2)])
    # A latent that says nothing changes nothing.
    more = disentanglement(torch.cat([codes, torch.zeros(len(codes), 1)], 1), factors)
    assert more.gap == pytest.approx(1.0)
    assert more.disentanglement == pytest.approx(1.0)


def test_a_factor_written_twice_has_no_gap_and_no_completeness() -> None:
    factors = grid_of_factors()[:, :2]
    codes = torch.stack([factors[:, 0], factors[:, 0], factors[:, 1], factors[:, 1]], 1)
    answer = disentanglement(codes, factors)
    assert answer.gap == pytest.approx(0.0, abs=1e-12)
    assert answer.disentanglement == pytest.approx(1.0)  # each latent still stands for one factor
    assert answer.completeness == pytest.approx(0.5, abs=0.02)  # over two of four latents: 1 - log 2 / log 4


def test_entangled_codes_score_low() -> None:
    factors = grid_of_factors()
    centred = (factors - factors.mean(0)) / factors.std(0)
    turn = torch.linalg.qr(torch.ones(3, 3, dtype=torch.float64) + torch.diag(torch.tensor([0.3, -1.2, 0.7])).double())[
        0
    ]
    turned = disentanglement(centred @ turn, factors)
    straight = disentanglement(centred, factors)
    assert turned.gap < 0.5 * straight.gap
    assert turned.disentanglement < 0.6
    nothing = disentanglement(torch.randn(len(factors), 3, generator=torch.Generator().manual_seed(1)), factors)
    assert nothing.gap < 0.1
    assert nothing.informativeness < 0.2  # 58 images judge: the standard error of an accuracy is 0.06


DSPRITES = (3, 6, 40, 32, 32)
"""Values of dSprites' factors: shape, scale, orientation, and where it lies across and down."""


def sprites(count: int = 5000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(0, values, (count,), generator=generator) for values in DSPRITES], 1).double()


def test_codes_that_are_factors_of_many_values_score_one() -> None:
    factors = sprites()
    answer = disentanglement(factors, factors)
    assert answer.gap >= 0.95
    assert (answer.gaps >= 0.95).all()
    assert answer.disentanglement >= 0.95
    assert answer.completeness >= 0.95
    assert (answer.scores >= 0.95).all()
    assert answer.informativeness == pytest.approx(float(answer.scores.mean()))


def test_random_codes_say_nothing_of_factors_of_many_values() -> None:
    factors = sprites()
    codes = torch.randn(len(factors), 5, generator=torch.Generator().manual_seed(1))
    answer = disentanglement(codes, factors)
    assert answer.gap < 0.05
    assert (answer.scores < 0.05).all()
    assert float(answer.importance.sum()) < 0.1


def test_a_turned_pair_of_positions_is_informative_and_not_disentangled() -> None:
    factors = sprites()[:, 3:]
    codes = torch.stack([factors.sum(1), factors[:, 0] - factors[:, 1]], 1)
    answer = disentanglement(codes, factors)
    assert answer.informativeness > 0.95
    assert answer.disentanglement < 0.05
    assert answer.completeness < 0.05
    assert answer.gap < 0.05


def test_dci_closed_forms() -> None:
    assert dci(torch.eye(4).double()) == pytest.approx((1.0, 1.0))
    assert dci(torch.ones(4, 4).double()) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert dci(torch.zeros(3, 2).double()) == (0.0, 0.0)
    # Latent 0 serves both factors alike (weight 2/3, score 0), latent 1 one of them (weight 1/3, score 1).
    importance = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double()
    assert dci(importance) == pytest.approx((1 / 3, 0.5))


def test_mutual_information_and_gap_closed_forms() -> None:
    a = torch.arange(8)
    assert mutual_information(a, a) == pytest.approx(math.log(8))
    assert mutual_information(a, a // 2) == pytest.approx(math.log(4))
    assert mutual_information(a % 2, a // 2) == pytest.approx(0.0, abs=1e-12)
    information = torch.tensor([[0.6, 0.0], [0.2, 0.4], [0.1, 0.3]])
    assert information_gaps(information, torch.tensor([0.8, 0.5])).tolist() == pytest.approx([0.5, 0.2])


def test_sparse_logistic_drops_what_does_not_help() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 5, generator=generator)
    y = (x[:, 1] > 0).long()
    weight, bias = sparse_logistic(x, y, 2, penalty=0.03)
    assert (weight.abs().sum(1) > 0).tolist() == [False, True, False, False, False]
    assert ((x @ weight + bias).argmax(1) == y).double().mean() > 0.95
    # At the optimum of a convex problem the gradient is within the penalty, and equal to it where a weight is not 0.
    gradient = x.T @ ((x @ weight + bias).softmax(1) - torch.nn.functional.one_hot(y, 2).float()) / len(x)
    assert (gradient.abs() <= 0.03 + 1e-4).all()
    assert torch.allclose(gradient[1].abs(), torch.full((2,), 0.03), atol=1e-4)


def test_sparse_linear_is_the_lasso() -> None:
    """On orthogonal columns the lasso is the soft threshold of the least-squares weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(400, 4, generator=generator))[0]
    x = torch.linalg.qr(x - x.mean(0))[0] * 20  # mean 0, spread 1, XᵀX = N
    y = x @ torch.tensor([0.9, -0.3, 0.04, 0.0]) + 2.0
    weight, bias = sparse_linear(x, y, penalty=0.05)
    assert weight.tolist() == pytest.approx([0.85, -0.25, 0.0, 0.0], abs=1e-4)
    assert float(bias) == pytest.approx(2.0, abs=1e-4)


def test_factors_from_a_file_and_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = blobs(120)
    path = tmp_path / "shapes.npz"
    factors = np.stack([labels, np.zeros(120, np.int64)], 1)
    np.savez(path, images=images, factors=factors, factor_names=np.array(["corner", "nothing"]))
    read, names = read_factors(path)
    assert names == ("corner", "nothing")
    assert np.array_equal(read.numpy(), factors)
    data = load(str(path), progress=False)
    run = train("vae", data, out=tmp_path / "run", budget="2steps", settings={"batch": 8, "pictures": 0},
                model={"width": 8, "latent": 3}, say=print)  # fmt: skip
    code, out, err = call(capsys, "query", run.path, "--disentangle", path, "-n", 100, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["factors"] == ["corner"]
    assert len(record["information"]) == 3
    assert 0 <= record["mutual_information_gap"] <= 1
    assert Path(record["picture"]).exists()
    np.savez(tmp_path / "plain.npz", images=images)
    code, _, err = call(capsys, "query", run.path, "--disentangle", tmp_path / "plain.npz")
    assert code != 0
    assert "has no array 'factors'" in err


def test_errors_are_one_line() -> None:
    with pytest.raises(ValueError, match="at least 50"):
        disentanglement(torch.zeros(10, 2), torch.zeros(10, 2))
    with pytest.raises(ValueError, match="no factor varies"):
        disentanglement(torch.zeros(60, 2), torch.zeros(60, 2))
