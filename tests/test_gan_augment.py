"""Non-leaky augmentation: what is done to an image, when, and that a run goes on with it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.data import load
from trilemma.families.gan import GAN, GANConfig
from trilemma.families.gan.augment import DRAWS, MOST, SPEED, Change, adapt
from trilemma.images import Spec
from trilemma.noise import BatchNoise, Noise
from trilemma.training import train
from trilemma.training.driver import make_config

MIRROR, QUARTER, SHIFT, SCALE, TURN, CONTRAST, SATURATION, BRIGHTNESS = range(8)


class Chosen(Noise):
    """One image to which one thing is done, by so much on [0, 1)."""

    def __init__(self, what: int, *how: float) -> None:
        self.count, self.device = 1, torch.device("cpu")
        self.row = torch.cat([torch.ones(8), torch.full((DRAWS - 8,), 0.5)])
        self.row[what] = 0
        self.row[8 + what] = how[0]
        if len(how) > 1:
            self.row[16] = how[1]

    def normal(self, *shape: int) -> Tensor:
        raise NotImplementedError

    def uniform(self, *shape: int) -> Tensor:
        return self.row[None]


def changed(x: Tensor, what: int, *how: float) -> Tensor:
    return Change.draw(Chosen(what, *how), torch.tensor(0.5), tuple(x.shape[1:]))(x)


def image(height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size", [(16, 16), (17, 17), (12, 20)])
def test_moves_of_pixels_are_exact(size: tuple[int, int]) -> None:
    x = image(*size)
    assert torch.allclose(changed(x, MIRROR, 0.1), x.flip(3), atol=1e-5)
    assert torch.allclose(changed(x, MIRROR, 0.9), x, atol=1e-5)  # half of the time
    turned = [changed(x, QUARTER, u) for u in (0.1, 0.3, 0.6, 0.9)]
    wanted = [torch.rot90(x, k, (2, 3)) for k in ((0, 1, 2, 3) if size[0] == size[1] else (0, 0, 2, 2))]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(turned, wanted, strict=True))
    across, down = (math.floor(side * 0.125 * 0.9 + 0.5) for side in reversed(size))
    moved = changed(x, SHIFT, 0.95, 0.05)  # an eighth of each side at most, by whole pixels
    assert across > 0 and down > 0
    assert torch.allclose(moved[..., down:, :-across], x[..., :-down, across:], atol=1e-5)


def test_a_turn_is_one_of_pixels_whatever_the_shape() -> None:
    """A bright spot on the middle row of a wide image is, turned by a quarter, on the middle column, as far away."""
    x = torch.full((1, 1, 21, 41), -1.0)
    x[0, 0, 10, 26] = 1  # 6 pixels right of the middle
    turned = changed(x, TURN, 0.25)  # by -π/2
    place = (turned + 1)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(21.0), torch.arange(41.0), indexing="ij")
    centre = [float((place * axis).sum() / place.sum()) for axis in (rows, columns)]
    assert centre[1] == pytest.approx(20, abs=0.1)
    assert abs(centre[0] - 10) == pytest.approx(6, abs=0.1)


def test_scale_and_colours() -> None:
    x = image()
    grown = changed(x, SCALE, 0.99999)  # no further than three standard deviations of 0.2 octaves
    side = 2**-0.6
    place = torch.tensor([[[side, 0, 0], [0, side, 0]]])
    wanted = F.grid_sample(x, F.affine_grid(place, list(x.shape), align_corners=False), align_corners=False)
    assert torch.allclose(grown, wanted, atol=1e-4)
    one = torch.special.ndtr(torch.tensor(1.0)).item()  # a standard deviation
    assert torch.allclose(changed(x, CONTRAST, one), x * 2**0.5, atol=1e-4)
    assert torch.allclose(changed(x, BRIGHTNESS, one), x + 0.2, atol=1e-4)
    grey = x.mean(1, keepdim=True)
    assert torch.allclose(changed(x, SATURATION, one), grey + 2 * (x - grey), atol=1e-3)


def test_each_change_comes_as_often_as_asked() -> None:
    noise = BatchNoise(("often",), 4000, 0, 4000, torch.device("cpu"))
    assert torch.equal(Change.draw(noise, torch.tensor(0.0), (3, 8, 8)).place[0], torch.eye(2, 3))
    change = Change.draw(noise, torch.tensor(0.3), (3, 8, 8))
    for values, still in ((change.gain, 1), (change.saturation, 1), (change.offset, 0)):
        assert (values != still).float().mean().item() == pytest.approx(0.3, abs=0.03)
    mirrored = torch.linalg.det(change.place[:, :, :2]) < 0
    assert mirrored.float().mean().item() == pytest.approx(0.15, abs=0.03)


def test_p_follows_what_d_knows() -> None:
    p = torch.tensor(0.1)
    adapt(p, torch.ones(500), torch.zeros(500), relativistic=False)
    assert p.item() == pytest.approx(0.1 + 500 / SPEED)
    adapt(p, torch.tensor([1.0, -1.0]), torch.zeros(2), relativistic=False)  # r = 0: no better than guessing
    assert p.item() == pytest.approx(0.1 + 498 / SPEED)
    below = torch.full((500,), -2.0)
    adapt(p, below + 1, below, relativistic=True)  # negative answers, yet every pair is told
    assert p.item() == pytest.approx(0.1 + 998 / SPEED)
    for _ in range(200):
        adapt(p, torch.ones(500), torch.zeros(500), relativistic=False)
    assert p.item() == pytest.approx(MOST)
    for _ in range(200):
        adapt(p, -torch.ones(500), torch.zeros(500), relativistic=False)
    assert p.item() == 0


@pytest.mark.parametrize("loss", ["relativistic", "nonsaturating"])
def test_d_sees_no_image_as_it_is_and_g_draws_them_upright(loss: str) -> None:
    torch.manual_seed(0)
    spec = Spec((1, 12, 12))
    model = GAN(GANConfig(width=8, latent=4, loss=loss, augment="adaptive", pack=2), spec)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    model.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x = torch.randint(0, 256, (8, 1, 12, 12), dtype=torch.uint8)
    noise = BatchNoise(("seen",), 8, 0, 8, torch.device("cpu"))
    real = spec.to_unit(x).view(4, 2, 12, 12)
    for p, alike in ((0.0, True), (1.0, False)):
        assert model.augmentation is not None
        model.augmentation.fill_(p)
        seen.clear()
        for objective in model.objectives():
            objective.freeze_others(model)
            objective.loss(x, None, noise).total.backward()
        assert torch.allclose(seen[0][:4], real, atol=1e-5) == alike
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_few_images_are_augmented_by_default_and_a_run_goes_on_with_its_p(tmp_path: Path) -> None:
    few, many = load("mnist", limit=64, progress=False), load("mnist", limit=6000, progress=False)
    assert make_config("gan", few).model.augment == "adaptive"
    assert make_config("gan", few, model={"augment": "none"}).model.augment == "none"
    assert make_config("gan", many).model.augment == make_config("gan", load("ring")).model.augment == "none"

    def run(name: str, *budgets: str) -> dict[str, Tensor]:
        settings, model = {"batch": 16, "pictures": 0}, {"width": 8, "latent": 4}
        for budget in budgets:
            done = train(
                "gan", few, out=tmp_path / name, budget=budget, model=model, settings=settings, resume=True, say=str
            )
        return done.load().model

    once, twice = run("once", "6steps"), run("twice", "3steps", "6steps")
    assert once["augmentation"] > 0
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
