"""Which pixels does a pixel truly depend on? The receptive field of a net, from its gradients."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trilemma.families.autoregressive import Autoregressive
from trilemma.families.family import Family, Progress
from trilemma.images import check_images
from trilemma.nets.masked import influence
from trilemma.noise import derive_seed
from trilemma.questions.order import autoregressive, checked_labels

BLOCK = 25_000
"""Values of images differentiated together."""


@dataclass(frozen=True)
class Field:
    """What one pixel depends on.

    Attributes:
        position: ``(row, column)`` of the pixel.
        support: bool [C, H, W], the values that some output of the pixel depends on, at one of the images at least;
            in a net that describes a pixel as a whole, all channels of a pixel together.
        influence: float64 [H, W], mean over the images of |∂ log p(pixel | all before) / ∂ input|, the Euclidean norm
            over the inputs that encode a pixel, in nats; in these inputs black and white are 2 apart.
        images: how many there were.
    """

    position: tuple[int, int]
    support: Tensor
    influence: Tensor
    images: int

    @property
    def pixels(self) -> Tensor:
        """bool [H, W]: the other pixels that are seen."""
        seen = self.support.any(0)
        seen[self.position] = False
        return seen

    @property
    def before(self) -> Tensor:
        """bool [H, W]: the pixels before this one in the order."""
        height, width = self.influence.shape
        row, column = self.position
        return torch.arange(height * width).view(height, width) < row * width + column

    @property
    def reach(self) -> tuple[int, int, int]:
        """How many pixels far the field extends upwards, to the left and to the right."""
        rows, columns = self.pixels.nonzero(as_tuple=True)
        row, column = self.position
        if not len(rows):
            return 0, 0, 0
        return row - int(rows.min()), max(0, column - int(columns.min())), max(0, int(columns.max()) - column)

    @property
    def text(self) -> str:
        """The field in one line."""
        up, left, right = self.reach
        seen, before = int(self.pixels.sum()), int(self.before.sum())
        share = f" ({seen / before:.0%})" if before else ""
        return (
            f"pixel {self.position} depends on {seen} of the {before} pixels before it{share}: "
            f"{up} up, {left} to the left, {right} to the right"
        )


def receptive_field(
    model: Family,
    images: Tensor,
    position: tuple[int, int] | None = None,
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Field:
    """The receptive field of a pixel, measured at images in float64 on the CPU.

    Whether a pixel depends on another is read from the derivative of its outputs, weighted by random numbers, and is
    exact; how much, from the derivative of its log-probability.

    Args:
        model: any variant of an autoregressive family.
        images: uint8 [N, C, H, W].
        position: ``(row, column)``, by default the centre.
        labels: int64 [N] for a conditional model, by default "no label".
        seed: of the weights.
        progress: told ``(images done, N)``.

    Raises:
        ValueError: the family is not autoregressive, a position outside the image, or images that do not fit.
    """
    model = autoregressive(model, "a receptive field")
    spec = model.spec
    check_images(images, spec)
    row, column = position or (spec.height // 2, spec.width // 2)
    if not (0 <= row < spec.height and 0 <= column < spec.width):
        raise ValueError(
            f"position {row},{column} is outside the image: rows are 0 to {spec.height - 1}, "
            f"columns 0 to {spec.width - 1}"
        )
    if not len(images):
        raise ValueError("there are no images to differentiate at")
    labels = checked_labels(model, labels, len(images))
    twin = copy.deepcopy(model).cpu().double().eval()
    generator = torch.Generator().manual_seed(derive_seed(seed, "receptive"))
    groups = torch.zeros(twin.conditional.groups, spec.height, spec.width, dtype=torch.bool)
    total = torch.zeros(spec.height, spec.width, dtype=torch.float64)
    size = max(1, BLOCK // spec.dims)
    for start in range(0, len(images), size):
        x = images[start : start + size].cpu()
        y = None if labels is None else labels[start : start + size]
        groups |= _sees(twin, x, y, (row, column), generator)
        total += _slope(twin, x, y, (row, column)).sum(0)
        if progress:
            progress(start + len(x), len(images))
    support = groups.repeat_interleave(spec.channels // len(groups), 0)
    return Field((row, column), support, total / len(images), len(images))


def _sees(
    model: Autoregressive, x: Tensor, labels: Tensor | None, position: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """bool [groups, H, W]: the inputs that the pixel's outputs depend on at one of the images."""
    net, conditional = model.net, model.conditional
    assert isinstance(net, nn.Module)
    weights = torch.zeros(len(x), *x.shape[2:], conditional.groups, conditional.outputs, dtype=torch.float64)
    pixel = weights[:, position[0], position[1]]
    pixel.copy_(torch.randn(pixel.shape, generator=generator, dtype=torch.float64))
    return (influence(net, model.image_features(x).double(), weights, labels) != 0).any(0)


def _slope(model: Autoregressive, x: Tensor, labels: Tensor | None, position: tuple[int, int]) -> Tensor:
    """|∂ log p(pixel | all before) / ∂ input| of every pixel: float64 [B, H, W]."""
    features = model.image_features(x).double().requires_grad_()
    with torch.enable_grad():
        nats = model.conditional.nats(model.net(features, labels), x)[:, :, position[0], position[1]]
        (gradient,) = torch.autograd.grad(nats.sum(), features)
    slope: Tensor = gradient.norm(dim=1)
    return slope


def decades(influence: Tensor, most: float = 6) -> tuple[float, float]:
    """Powers of ten that enclose the positive influences, ``most`` at the most, from the top."""
    positive = influence[influence > 0]
    if not len(positive):
        return -1.0, 0.0
    high = math.ceil(math.log10(float(positive.max())))
    low = math.floor(math.log10(float(positive.min())))
    return float(max(low, high - most, -300)) if low < high else high - 1.0, float(high)
