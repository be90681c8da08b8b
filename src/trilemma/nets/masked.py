"""Masked convolutions: the gated stacks of PixelCNN, and the same stacks evaluated one value at a time.

The order of the values is raster order over pixels and, inside a pixel, the order of its channels (R, G, B).
Two stacks keep it without a blind spot (van den Oord et al. 2016, "Conditional Image Generation with PixelCNN
Decoders", arXiv 1606.05328, section 2.2): the vertical one sees all rows above, the horizontal one what stands to the
left in the row. Every feature map of the horizontal stack belongs to a channel; inside a pixel it sees only the maps
of earlier channels (mask A) or also those of its own (mask B).

Kernels are cropped to the part that the order allows instead of being multiplied by zeros, so only the pixel itself
needs a mask.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLACES = 16
"""Maps from which each label mixes what it adds at every position."""


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


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2 of the paper).

    The vertical stack at row r sees rows above r only: the first layer looks at the ``reach`` rows above, later ones
    at ``reach`` rows above and their own. The last layer gates no vertical output, which nothing would read.
    """

    def __init__(self, inputs: Tensor, features: Tensor, reach: int, labels: int, first: bool, last: bool) -> None:
        super().__init__()
        width = len(features)
        self.reach, self.first, self.last = reach, first, last
        self.rows = reach if first else reach + 1
        self.vertical = nn.Conv2d(len(inputs), 2 * width, (self.rows, 2 * reach + 1), padding=(0, reach))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)  # vertical to horizontal
        self.horizontal = RowConv(inputs, features.repeat(2), reach, "A" if first else "B")
        self.out = RowConv(features, features, 0, "B")
        self.label = nn.Embedding(labels, 2 * width) if labels else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight)

    def forward(self, v: Tensor, h: Tensor, labels: Tensor | None, place: Tensor | None) -> tuple[Tensor, Tensor]:
        """``v``, ``h`` [B, inputs, H, W] to [B, P, H, W]; ``labels`` int64 [B]; ``place`` [(B,) 2P, H, W]."""
        above = F.pad(v, (0, 0, self.reach, 0))[:, :, : v.shape[2] + self.rows - 1]
        z = self.vertical(above)
        if place is not None:
            z = z + place
        if self.label is not None and labels is not None:
            z = z + self.label(labels)[:, :, None, None]
        y = self.out(gate(self.horizontal(h) + self.link(z)))
        return v if self.last else gate(z), y if self.first else h + y


class GatedStacks(nn.Module):
    """The gated PixelCNN: features of an image to the logits of every value given those before it.

    Args:
        shape: ``(channels, height, width)`` of one image.
        encoding: input features per channel.
        levels: number of values, the size of each softmax.
        features: feature maps of each stack.
        layers: gated layers, at least 2.
        first_kernel, kernel: odd kernel sizes of the first and of the later layers.
        head: hidden features of the two 1x1 layers before the softmax.
        labels: rows of the label embedding, 0 for an unconditional net.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        encoding: int,
        levels: int,
        *,
        features: int,
        layers: int,
        first_kernel: int,
        kernel: int,
        head: int,
        labels: int,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.shape, self.encoding, self.levels = shape, encoding, levels
        image = torch.arange(channels).repeat_interleave(encoding)
        stack, hidden = channel_groups(features, channels), channel_groups(head, channels)
        self.layers = nn.ModuleList(
            GatedLayer(
                image if i == 0 else stack,
                stack,
                (first_kernel if i == 0 else kernel) // 2,
                labels,
                first=i == 0,
                last=i == layers - 1,
            )
            for i in range(layers)
        )
        # Where a pixel stands is no part of the image, so every feature may know it.
        self.place = nn.Parameter(torch.zeros(2 * features, height, width))
        # A label may speak differently in every place (section 2.3, the map s = m(h)); here m is linear. Without it a
        # short training hardly hears the label, which is worth two nats among hundreds.
        rank = min(labels, PLACES)
        self.places = nn.Parameter(torch.zeros(rank, height, width, 2 * features)) if labels else None
        self.label = nn.Embedding(labels, rank) if labels else None
        self.hidden = RowConv(stack, hidden, 0, "B", bias=True)
        self.logits = RowConv(hidden, torch.arange(channels).repeat_interleave(levels), 0, "B", bias=True)

    def place_of(self, labels: Tensor | None) -> Tensor:
        """What each position adds to the first layer's gates: [2P, H, W], or [B, 2P, H, W] where there are labels."""
        if self.label is None or self.places is None or labels is None:
            return self.place
        spoken: Tensor = self.label(labels) @ self.places.flatten(1)
        return self.place + spoken.view(len(labels), *self.places.shape[1:]).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Input features [B, channels * encoding, H, W], channel by channel, to logits [B, H, W, channels, levels]."""
        v = h = x
        for i, layer in enumerate(self.layers):
            v, h = layer(v, h, labels, self.place_of(labels) if i == 0 else None)
        logits: Tensor = self.logits(self.hidden(h).relu())
        return logits.permute(0, 2, 3, 1).reshape(len(x), *self.shape[1:], self.shape[0], self.levels)


class CachedStacks:
    """The same net evaluated one value at a time in raster order, at the arithmetic cost of one forward pass.

    The vertical stack runs once per row, over a slab of the rows that it still needs; the horizontal stack once per
    value, as plain matrix products towards the maps that the value's channel owns. Call `begin_row` before every row,
    then `logits` and `write` for every column and channel, in order.

    Args:
        net: copied at construction, in ``dtype``.
        labels: int64 [N] or None.
        count: N, the images evaluated side by side.
        dtype: of all arithmetic.
    """

    def __init__(self, net: GatedStacks, labels: Tensor | None, count: int, dtype: torch.dtype) -> None:
        self.net, self.count = copy.deepcopy(net).to(dtype), count
        channels, _, self.width = net.shape
        self.layers = [layer for layer in self.net.layers if isinstance(layer, GatedLayer)]
        self.shares = [_Share(self.net, self.layers, channel) for channel in range(channels)]
        order = torch.cat([share.gates for share in self.shares])
        self.vertical = [_Vertical(layer, labels, order) for layer in self.layers]
        self.place = self.net.place_of(labels).movedim(-3, -1)  # [(N,) H, W, 2P]

        inputs = [layer.horizontal.weight.shape[1] for layer in self.layers]
        reaches = [layer.reach for layer in self.layers]
        maps, new = inputs[1], self.net.place.new_zeros
        # Positions before maps, with `reach` columns of zeros around a row, so that a window is one slice of memory.
        self.slabs = [
            new(count, layer.rows, layer.reach + self.width + layer.reach, i)
            for i, layer in zip(inputs, self.layers, strict=True)
        ]
        self.rows = [new(count, r + self.width, i) for i, r in zip(inputs, reaches, strict=True)]
        self.rows.append(new(count, self.width, maps))
        self.gated = [new(count, maps) for _ in self.layers]
        self.hidden = new(count, len(net.hidden.weight))
        self.above: list[Tensor] = []  # per layer: what the vertical stack sends to the current row, [N, W, 2P]

    def begin_row(self, row: int) -> None:
        """Run the vertical stack for ``row``; every row above has been written."""
        self.above = []
        v = self.rows[0][:, self.layers[0].reach :]  # the input row above, zeros at first
        for layer, slab, vertical in zip(self.layers, self.slabs, self.vertical, strict=True):
            slab[:, :-1] = slab[:, 1:].clone()
            slab[:, -1, layer.reach : layer.reach + self.width] = v
            maps, kernel = slab.shape[3], 2 * layer.reach + 1
            windows = slab.flatten(2).unfold(2, kernel * maps, maps).transpose(1, 2)  # [N, W, rows, kernel * maps]
            z = torch.addmm(vertical.bias, windows.reshape(self.count * self.width, -1), vertical.weight)
            z = z.view(self.count, self.width, -1) + vertical.shift
            if layer.first:
                z += self.place[..., row, :, :]
            sent = torch.addmm(vertical.link_bias, z.flatten(0, 1), vertical.link_weight)
            self.above.append(sent.view(self.count, self.width, -1))
            if not layer.last:
                v = gate(z, dim=2)

    def logits(self, column: int, channel: int) -> Tensor:
        """[N, levels] of one value of the current row; all earlier values have been written."""
        share = self.shares[channel]
        for i, layer in enumerate(self.layers):
            row, following = self.rows[i], self.rows[i + 1]
            context = row[:, column : column + layer.reach + 1].flatten(1)
            z = torch.addmm(self.above[i][:, column, share.span], context, share.horizontal[i])
            a, b = z.sigmoid_().chunk(2, 1)
            torch.mul(a.mul_(2).sub_(1), b, out=self.gated[i][:, share.maps])
            offset = following.shape[1] - self.width
            target = following[:, offset + column, share.maps]
            if layer.first:
                torch.mm(self.gated[i], share.out[i], out=target)
            else:
                torch.addmm(row[:, layer.reach + column, share.maps], self.gated[i], share.out[i], out=target)
        hidden = torch.addmm(share.hidden_bias, self.rows[-1][:, column], share.hidden_weight)
        torch.clamp(hidden, min=0, out=self.hidden[:, share.hidden])
        return torch.addmm(share.logits_bias, self.hidden, share.logits_weight)

    def write(self, column: int, channel: int, features: Tensor) -> None:
        """Enter the chosen value, as its input features [N, encoding]."""
        start = channel * self.net.encoding
        self.rows[0][:, self.layers[0].reach + column, start : start + self.net.encoding] = features


class _Vertical:
    """The vertical stack's weights of one layer as matrices, and what its label adds."""

    def __init__(self, layer: GatedLayer, labels: Tensor | None, order: Tensor) -> None:
        conv, link = layer.vertical, layer.link
        assert conv.bias is not None and link.bias is not None
        self.weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()  # [rows * kernel * inputs, 2P]
        self.bias = conv.bias
        self.link_weight, self.link_bias = link.weight[order, :, 0, 0].T.contiguous(), link.bias[order]
        self.shift = torch.zeros_like(conv.bias)
        if layer.label is not None and labels is not None:
            self.shift = layer.label(labels)[:, None]


class _Share:
    """What one channel owns of a net: its slices of the maps, and the weights towards them as matrices.

    Products run over all input maps: the weights from later channels are zeros, so it does not matter what their maps
    still hold from the row above.
    """

    def __init__(self, net: GatedStacks, layers: list[GatedLayer], channel: int) -> None:
        def owned(features: int) -> slice:
            owner = channel_groups(features, net.shape[0])
            start = int((owner < channel).sum())
            return slice(start, start + int((owner == channel).sum()))

        def matrix(conv: RowConv) -> Tensor:  # [(reach + 1) * inputs, outputs], as the rows are laid out
            return conv.masked_weight().permute(3, 1, 2, 0).flatten(0, 2)

        width = net.place.shape[0] // 2
        self.maps, self.hidden = owned(width), owned(len(net.hidden.weight))
        self.gates = torch.arange(2 * width).view(2, width)[:, self.maps].flatten()  # before tanh, before sigmoid
        self.span = slice(2 * self.maps.start, 2 * self.maps.stop)  # where those stand in `CachedStacks.order`
        self.horizontal = [matrix(layer.horizontal)[:, self.gates].contiguous() for layer in layers]
        self.out = [matrix(layer.out)[:, self.maps].contiguous() for layer in layers]
        values = slice(channel * net.levels, (channel + 1) * net.levels)
        self.hidden_weight = matrix(net.hidden)[:, self.hidden].contiguous()
        self.logits_weight = matrix(net.logits)[:, values].contiguous()
        self.hidden_bias = net.hidden.own_bias()[self.hidden]
        self.logits_bias = net.logits.own_bias()[values]


def dependency(net: GatedStacks, position: tuple[int, int, int], labels: Tensor | None = None) -> Tensor:
    """Which values of the image the logits of one value depend on: by gradient, in float64, at eight random inputs.

    Args:
        net: of any size.
        position: ``(channel, row, column)`` of the value asked about.
        labels: int64 [8] or None.

    Returns:
        bool [C, H, W].
    """
    channels, height, width = net.shape
    net = copy.deepcopy(net).to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, channels * net.encoding, height, width, generator=generator, dtype=torch.float64)
    x.requires_grad_()
    channel, row, column = position
    logits = net(x, labels)[:, row, column, channel]  # [8, levels]
    # Random weights, as a plain sum could cancel; several inputs, as a rectifier that is off passes no gradient.
    weights = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), x)
    seen: Tensor = gradient.view(8, channels, net.encoding, height, width).ne(0).any(2).any(0)
    return seen
