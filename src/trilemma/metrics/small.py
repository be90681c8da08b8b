"""Hand-made features of any image, which need nothing but this file and favour no data set."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.metrics.features import Features


class SmallFeatures(Features):
    """128 hand-made features for grey or colour images of any size: edges, contrast, colour and grain.

    Three views of an image, each pooled over a coarse grid so that a small shift costs little:

    - 96: edges in 6 directions on a 4x4 grid, at 32x32 pixels, relative to the local contrast (a histogram of
      oriented gradients in the spirit of Dalal & Triggs 2005, with signed directions and soft bins);
    - 24: mean and standard deviation of brightness and of two opponent colours on a 2x2 grid, at 32x32 pixels;
    - 8: root-mean-square detail of brightness in two octaves on a 2x2 grid, at the image's own resolution, where
      blur and noise show even if the image is large.

    Nothing is learnt, so nothing favours a data set. It always runs on the CPU in float32: it is fast enough, and its
    numbers do not depend on the device. A large image's aspect ratio is not kept.
    """

    name = "small-v1"
    dims = 128

    def _features(self, images: Tensor) -> Tensor:
        x = images.cpu().float() / 255
        red, green, blue = x[:, 0], x[:, x.shape[1] // 2], x[:, -1]  # a grey image is all three at once
        opponent = torch.stack([(red + green + blue) / 3, (red - green) / 2, (red + green) / 4 - blue / 2], 1)
        canvas = F.interpolate(opponent, (32, 32), mode="bilinear", antialias=True)
        quarters = canvas.view(-1, 3, 2, 16, 2, 16)
        mean, deviation = quarters.mean((3, 5)), quarters.std((3, 5))
        views = [
            _edges(canvas[:, :1]),
            mean * torch.tensor([0.5, 2, 2]).view(3, 1, 1),  # weights that balance the views, not the data sets
            deviation,
            2 * _detail(opponent[:, :1]),
        ]
        return 10 * torch.cat([view.flatten(1) for view in views], 1)  # 10: distances are pleasant to read


def _edges(brightness: Tensor) -> Tensor:
    """``[N, 1, 32, 32]`` to the mean edge strength in 6 directions on a 4x4 grid, ``[N, 6, 4, 4]``."""
    padded = F.pad(brightness, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    angle = torch.arange(6).view(6, 1, 1) * (math.pi / 3)
    strength = (across * angle.cos() + down * angle.sin()).relu()  # [N, 6, 32, 32]
    energy = F.avg_pool2d(across.square() + down.square(), 5, stride=1, padding=2, count_include_pad=False)
    return F.avg_pool2d(strength / (energy.sqrt() + 0.1), 8)  # 0.1: below that contrast, strength is absolute


def _detail(brightness: Tensor) -> Tensor:
    """``[N, 1, H, W]`` to the root-mean-square of what smoothing by 1 and by 2 pixels removes, ``[N, 2, 2, 2]``."""
    bands = []
    for reach in (1, 2):
        smooth = _smooth(brightness, reach)
        bands.append(F.adaptive_avg_pool2d((brightness - smooth).square(), 2).sqrt())
        brightness = smooth
    return torch.cat(bands, 1)


def _smooth(x: Tensor, reach: int) -> Tensor:
    """Convolve ``[N, 1, H, W]`` with (¼, ½, ¼) along both axes, its taps ``reach`` pixels apart."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    x = F.pad(x, (reach,) * 4, mode="replicate")
    x = F.conv2d(x, kernel.view(1, 1, 1, 3), dilation=reach)
    return F.conv2d(x, kernel.view(1, 1, 3, 1), dilation=reach)
