import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from trilemma.images import NotFinite, Spec, check_images, from_unit, grid, save_png, to_display, to_unit


@pytest.mark.parametrize("levels", [2, 256])
def test_levels_survive_the_way_to_floats_and_back(levels: int) -> None:
    images = torch.arange(levels, dtype=torch.uint8).reshape(1, 1, 1, levels)
    assert float(to_unit(images, levels).min()) == -1
    assert float(to_unit(images, levels).max()) == 1
    assert torch.equal(from_unit(to_unit(images, levels), levels), images)


def test_display_of_binary_images_is_black_and_white() -> None:
    assert to_display(torch.tensor([0, 1], dtype=torch.uint8), 2).tolist() == [0, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_holds_every_image_in_its_place(channels: int, tmp_path: Path) -> None:
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, channels, 4, 6).clone()
    picture = grid(images, columns=3, gap=2)
    assert picture.shape == (channels, 2 * 6 + 2, 3 * 8 + 2)
    assert picture[0, 2, 2] == 0
    assert picture[0, 8, 2] == 3
    assert Image.open(save_png(picture, tmp_path / "a" / "grid.png")).size == (26, 14)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 1, 4, 4), "uint8"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "shape"),
        (torch.full((2, 1, 4, 4), 7, dtype=torch.uint8), "value 7"),
    ],
)
def test_wrong_images_get_one_line(images: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        check_images(images, Spec((1, 4, 4), levels=2))
    assert "\n" not in str(error.value)


def test_nan_is_no_pixel() -> None:
    values = torch.zeros(1, 1, 2, 2)
    values[0, 0, 1, 1] = math.nan
    for levels in (2, 256):
        with pytest.raises(NotFinite, match="not numbers"):
            from_unit(values, levels)
    assert from_unit(torch.full((1,), math.inf), 256).tolist() == [255]
