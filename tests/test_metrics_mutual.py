"""Fidelity and coverage that the middle of a cloud cannot fool."""

import pytest
import torch
from torch import Tensor

from trilemma.metrics import manifold_scores, mutual_nearness


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_it_is_its_definition():
    real, fake = normal(400, 6, 0) * 1.2, torch.cat([normal(190, 6, 1), normal(1, 6, 2).repeat(30, 1)])
    x, y = real.double(), torch.unique(fake, dim=0).double()
    radius = torch.cdist(x, x).sort(1).values[:, 3]  # the first is the image itself
    reach = torch.cdist(y, y).sort(1).values[:, 20]  # ⌈191 / 10⌉
    between = torch.cdist(x, fake.double())
    which = [int((y == row).all(1).nonzero()) for row in fake.double()]
    near = between < radius[:, None]
    faithful = near.any(0) & ((between < reach[which]).sum(0) >= 400 / 300)
    found = mutual_nearness(real, fake, k=3)
    assert found.faithful.equal(faithful)
    assert found.fidelity.known == pytest.approx(faithful.double().mean().item())
    assert found.coverage.known == pytest.approx((near & faithful).any(1).double().mean().item())


@pytest.mark.parametrize("n", [100, 300, 2000])
def test_what_lies_in_the_middle_is_precise_but_not_faithful(n: int):
    real, held_out, shrunk = normal(n, 64, 0), normal(n, 64, 1), 0.5 * normal(n, 64, 2)
    assert manifold_scores(real, shrunk).precision.known > 0.9
    own, found = mutual_nearness(real, held_out), mutual_nearness(real, shrunk)
    assert own.fidelity.known > 0.65
    assert own.coverage.known > 0.85
    assert found.fidelity.known == found.coverage.known == 0


def test_fidelity_and_coverage_are_two_things():
    centres = 12 * normal(10, 32, 3)
    real, held_out = (centres.repeat(60, 1) + normal(600, 32, seed) for seed in (4, 5))
    one_class = centres[:1] + normal(600, 32, 6)
    own, found = mutual_nearness(real, held_out), mutual_nearness(real, one_class)
    assert found.fidelity.known > 0.9 * own.fidelity.known
    assert found.coverage.known == pytest.approx(0.1 * own.coverage.known, abs=0.01)


def test_repeated_samples_do_not_hide_each_other():
    real, few = normal(300, 32, 0), normal(3, 32, 1)
    alone = mutual_nearness(real, few)
    repeated = mutual_nearness(real, few.repeat(100, 1))
    assert repeated.fidelity.known == pytest.approx(alone.fidelity.known)
    assert repeated.fidelity.known > 0.5
    assert repeated.coverage.known < 0.15


def test_chunks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch):
    real, fake = normal(300, 16, 0), normal(200, 16, 1)
    whole = mutual_nearness(real, fake)
    monkeypatch.setattr("trilemma.metrics.mutual.CHUNK", 2**11)
    parts = mutual_nearness(real, fake)
    assert parts.faithful.equal(whole.faithful)
    assert parts.coverage.known == whole.coverage.known
    assert parts.fidelity.error == pytest.approx(whole.fidelity.error)


def test_errors_are_the_scatter_over_samples():
    """Over redrawn samples of one model, the real side fixed; a collapsed model too."""
    real = normal(300, 16, 0)
    few = normal(60, 16, 99)
    near = [0.9 * normal(300, 16, i + 1) for i in range(60)]
    chosen = [torch.randint(60, (300,), generator=torch.Generator().manual_seed(i)) for i in range(60)]
    collapsed = [few[rows] + 0.3 * normal(300, 16, i + 1) for i, rows in enumerate(chosen)]
    for samples in (near, collapsed):
        found = [mutual_nearness(real, each) for each in samples]
        for name in ("fidelity", "coverage"):
            values = torch.tensor([getattr(each, name).value for each in found])
            printed = torch.tensor([getattr(each, name).error for each in found])
            assert 0.7 < printed.mean() / values.std() < 1.4, name


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="k must be from 1 to 9"):
        mutual_nearness(normal(10, 4, 0), normal(10, 4, 1), k=10)
    with pytest.raises(ValueError, match="dimensions"):
        mutual_nearness(normal(10, 4, 0), normal(10, 5, 1))
