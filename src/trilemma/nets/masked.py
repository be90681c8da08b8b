"""Masked layers: what an autoregressive net is made of.

The order of the values is raster order over pixels and, inside a pixel, the order of its channels (R, G, B), or of its
*groups*: the parts of a pixel that the net must tell apart. Every feature map belongs to a group; inside a pixel it
sees only the maps of earlier groups (mask A) or also those of its own (mask B) (van den Oord et al. 2016, "Pixel
Recurrent Neural Networks", arXiv 1601.06759, section 3.4).

Kernels are cropped to the part that the order allows instead of being multiplied by zeros, so only the pixel itself,
and in a two-dimensional kernel what stands to its right, needs a mask.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLACES = 16
"""Maps from which each label mixes what it adds at every position."""


class CachedNet(Protocol):
    """A net evaluated one value at a time in raster order, from the same weights and at the cost of one forward pass.

    Call `begin_row` before every row, then `outputs` and `write` for every column and group, in order.
    """

    def begin_row(self, row: int) -> None:
        """Prepare ``row``; every row above has been written."""

    def outputs(self, column: int, group: int) -> Tensor:
        """[N, outputs] of one group of a pixel of the current row; everything before it has been written."""

    def write(self, column: int, group: int, features: Tensor) -> None:
        """Enter what was chosen for the group, as its input features [N, encoding]."""

    def select(self, index: Tensor) -> None:
        """Go on with images ``index``, int64 [N], in place of the present ones (a particle filter's resampling)."""


def channel_groups(features: int, channels: int) -> Tensor:
    """The image channel that each of ``features`` maps belongs to: int64 [features], ascending, near-equal shares."""
    return torch.arange(features) * channels // features


def channel_mask(outputs: Tensor, inputs: Tensor, kind: str) -> Tensor:
    """Which input maps an output map may see at its own pixel: bool [outputs, inputs].

    Args:
        outputs, inputs: the channel of each map, as from `channel_groups`.
        kind: "A", earlier channels only, or "B", earlier channels and its own.
    """
    if kind not in ("A", "B"):
        raise ValueError(f"the mask must be of kind A or B, not {kind!r}")
    return outputs[:, None] > inputs[None] if kind == "A" else outputs[:, None] >= inputs[None]


def gate(z: Tensor, dim: int = 1) -> Tensor:
    """tanh(a) * sigmoid(b) of the two halves of dimension ``dim`` (equation 2): [N, 2P, ...] to [N, P, ...].

    The first half holds 2a: tanh(a) = 2 sigmoid(2a) - 1 takes one fast sigmoid over both halves, and the weights
    before it absorb the factor 2.
    """
    a, b = z.sigmoid().chunk(2, dim)
    return (2 * a - 1) * b


class RowConv(nn.Module):
    """A convolution along the row that sees ``reach`` pixels to the left and, through a mask, the pixel itself.

    [B, inputs, H, W] to [B, outputs, H, W]; ``reach`` 0 is a masked 1x1 convolution.
    """

    mask: Tensor | None

    def __init__(self, inputs: Tensor, outputs: Tensor, reach: int, kind: str, bias: bool = False) -> None:
        super().__init__()
        conv = nn.Conv2d(len(inputs), len(outputs), (1, reach + 1))  # for torch's default initialisation
        self.reach = reach
        self.weight = nn.Parameter(conv.weight.detach())
        self.bias = nn.Parameter(torch.zeros(len(outputs))) if bias else None
        mask = torch.ones_like(self.weight)
        mask[:, :, 0, -1] = channel_mask(outputs, inputs, kind)
        # Mask B of a grey image allows everything: no multiplication then.
        self.register_buffer("mask", None if bool(mask.all()) else mask, persistent=False)

    def masked_weight(self) -> Tensor:
        return self.weight if self.mask is None else self.weight * self.mask

    def own_bias(self) -> Tensor:
        if self.bias is None:
            raise ValueError("this convolution has no bias")
        return self.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (self.reach, 0)), self.masked_weight(), self.bias)


class MaskedLinear(nn.Module):
    """A masked 1x1 convolution on features that stand last: [..., free + inputs] to [..., outputs].

    Args:
        inputs, outputs: the group of each map.
        kind: "A" or "B".
        free: further inputs, standing first, that belong to earlier pixels and are seen by all.
    """

    mask: Tensor | None

    def __init__(self, inputs: Tensor, outputs: Tensor, kind: str, free: int = 0) -> None:
        super().__init__()
        layer = nn.Linear(free + len(inputs), len(outputs))  # for torch's default initialisation
        self.weight = nn.Parameter(layer.weight.detach())
        self.bias = nn.Parameter(torch.zeros(len(outputs)))
        mask = torch.ones_like(self.weight)
        mask[:, free:] = channel_mask(outputs, inputs, kind)
        self.register_buffer("mask", None if bool(mask.all()) else mask, persistent=False)

    def masked_weight(self) -> Tensor:
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.masked_weight(), self.bias)


class MaskedConv(nn.Module):
    """A masked two-dimensional convolution: [B, inputs, H, W] to [B, outputs, H, W] (figure 2 of PixelRNN).

    It sees ``reach`` rows above, as far to either side, and ``reach`` pixels to the left in its own row.
    """

    mask: Tensor

    def __init__(self, inputs: Tensor, outputs: Tensor, reach: int, kind: str) -> None:
        super().__init__()
        conv = nn.Conv2d(len(inputs), len(outputs), (reach + 1, 2 * reach + 1))
        self.reach = reach
        self.weight = nn.Parameter(conv.weight.detach())
        self.bias = nn.Parameter(torch.zeros(len(outputs)))
        mask = torch.ones_like(self.weight)
        mask[:, :, -1, reach] = channel_mask(outputs, inputs, kind)
        mask[:, :, -1, reach + 1 :] = 0
        self.register_buffer("mask", mask, persistent=False)

    def masked_weight(self) -> Tensor:
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (self.reach, self.reach, self.reach, 0)), self.masked_weight(), self.bias)


class Places(nn.Module):
    """What each position, and each label at it, adds to feature maps: [outputs, H, W], or [B, outputs, H, W].

    Where a pixel stands is no part of the image, so every feature may know it. A label may speak differently in every
    place ("Conditional Image Generation with PixelCNN Decoders", section 2.3, the map s = m(h)); here m is linear.
    Without it a short training hardly hears the label, which is worth two nats among hundreds.
    """

    def __init__(self, outputs: int, height: int, width: int, labels: int) -> None:
        super().__init__()
        rank = min(labels, PLACES)
        self.place = nn.Parameter(torch.zeros(outputs, height, width))
        self.places = nn.Parameter(torch.zeros(rank, height, width, outputs)) if labels else None
        self.label = nn.Embedding(labels, rank) if labels else None

    def at(self, labels: Tensor | None) -> Tensor:
        """For labels int64 [B], or for no labels."""
        if self.label is None or self.places is None or labels is None:
            return self.place
        spoken: Tensor = self.label(labels) @ self.places.flatten(1)
        return self.place + spoken.view(len(labels), *self.places.shape[1:]).permute(0, 3, 1, 2)


def owned(features: int, groups: int, group: int) -> slice:
    """The maps, of ``features`` in all, that belong to a group."""
    owner = channel_groups(features, groups)
    start = int((owner < group).sum())
    return slice(start, start + int((owner == group).sum()))


Net = TypeVar("Net", bound=nn.Module)


def in_precision(net: Net, dtype: torch.dtype) -> Net:
    """The net itself if it has this precision, else a copy that does."""
    return net if next(net.parameters()).dtype == dtype else copy.deepcopy(net).to(dtype)


def influence(
    net: Callable[[Tensor, Tensor | None], Tensor], features: Tensor, weights: Tensor, labels: Tensor | None = None
) -> Tensor:
    """|∂ Σ weights · outputs / ∂ features|, the largest over an input's features: [B, groups, H, W].

    Args:
        net: features [B, groups · encoding, H, W] and labels to outputs [B, H, W, groups, outputs].
        features: its input.
        weights: like its outputs; zero where an output is not asked about.
        labels: int64 [B] or None.
    """
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        total = (net(features, labels) * weights).sum()
    (gradient,) = torch.autograd.grad(total, features)
    groups = weights.shape[3]
    return gradient.abs().view(len(features), groups, -1, *features.shape[2:]).amax(2)
