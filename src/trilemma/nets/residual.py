"""The residual stack of "Pixel Recurrent Neural Networks": one masked convolution, blocks, and two 1x1 layers.

van den Oord, Kalchbrenner, Kavukcuoglu 2016, arXiv 1601.06759, table 1 and figure 5: a 7x7 convolution with mask A to
2h maps, residual blocks of convolutions (PixelCNN) or of LSTMs (PixelRNN, `nets/recurrent.py`), then two layers of
ReLU and a masked 1x1 convolution.

Every block takes and gives features in its own layout, features last; the cached net asks each for one value at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from trilemma.nets.host import Array, Ops, ops_for
from trilemma.nets.masked import MaskedConv, MaskedLinear, Places, channel_groups, in_precision, owned


class CachedBlock(ABC):
    """A block evaluated one value at a time. ``before`` and ``after`` are its input and output in the current row.

    ``before`` is [N, 1 + W, 2h], with one zero pixel on the left; ``after`` likewise. What happens once per row works
    on tensors, what happens for every value on arrays (`nets/host.py`).
    """

    @abstractmethod
    def begin_row(self, row: int, before: Tensor, image: Tensor) -> None:
        """``before`` and ``image``, the input features [N, W, F], still hold the row above; zeros in the first row."""

    @abstractmethod
    def step(self, column: int, group: int, before: Array, after: Array) -> None:
        """Write the group's maps of one pixel of ``after``."""

    @abstractmethod
    def states(self) -> Sequence[Tensor]:
        """All that is remembered, images first."""


class Block(nn.Module, ABC):
    """A residual block on 2h features. ``images_first`` says which layout it takes: [B, H, W, 2h] or [H, W, B, 2h]."""

    images_first: ClassVar[bool]

    @abstractmethod
    def forward(self, x: Tensor, image: Tensor, labels: Tensor | None) -> Tensor:
        """``x`` and the input features ``image`` in the block's layout, features last; ``labels`` int64 [B].

        The features of a pixel know only what precedes it; ``image`` is for those who look back from a later row.
        """

    @abstractmethod
    def cached(self, labels: Tensor | None, count: int, size: tuple[int, int]) -> CachedBlock:
        """The block for ``count`` images of ``size`` (height, width) side by side."""


class ConvBlock(Block):
    """ReLU, 1x1 to h maps, ReLU, 3x3, ReLU, 1x1 back to 2h (figure 5, left), all masked B.

    Stacked, it has a blind spot: what stands above and to the right of the kernels' joint cone is never seen.
    """

    images_first: ClassVar[bool] = True

    def __init__(self, features: int, groups: int, kernel: int, labels: int) -> None:
        super().__init__()
        self.features, self.groups = features, groups
        wide, narrow = channel_groups(2 * features, groups), channel_groups(features, groups)
        self.enter = MaskedLinear(wide, narrow, "B")
        self.conv = MaskedConv(narrow, narrow, kernel // 2, "B")
        self.leave = MaskedLinear(narrow, wide, "B")
        self.label = label_shift(labels, features)

    def forward(self, x: Tensor, image: Tensor, labels: Tensor | None) -> Tensor:
        y = self.conv(self.enter(x.relu()).relu().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.label is not None and labels is not None:
            y = y + self.label(labels)[:, None, None]
        residual: Tensor = self.leave(y.relu())
        return x + residual

    def cached(self, labels: Tensor | None, count: int, size: tuple[int, int]) -> CachedBlock:
        return _CachedConvBlock(self, labels, count, size)


class _CachedConvBlock(CachedBlock):
    def __init__(self, block: ConvBlock, labels: Tensor | None, count: int, size: tuple[int, int]) -> None:
        self.conv = CachedConv(block.conv, block.groups, count, size[1])
        if block.label is not None and labels is not None:
            self.conv.shift = block.label(labels)[:, None]
        self.ops = self.conv.ops
        self.enter, self.leave = (shares(layer, block.groups, self.ops) for layer in (block.enter, block.leave))
        self.line = self.conv.new_line()
        self.inner = self.ops.array(self.line)
        self.middle = self.ops.array(self.line.new_zeros(count, block.features))

    def begin_row(self, row: int, before: Tensor, image: Tensor) -> None:
        self.conv.begin_row(self.line)

    def step(self, column: int, group: int, before: Array, after: Array) -> None:
        enter, ops = self.enter[group], self.ops
        x = before[:, 1 + column]
        ops.relu(enter(ops.relu(x)), out=self.inner[:, self.conv.reach + column, enter.maps])
        ops.relu(self.conv.step(column, group, self.inner), out=self.middle[:, enter.maps])
        self.leave[group].add(x, self.middle, after[:, 1 + column])

    def states(self) -> Sequence[Tensor]:
        return (*self.conv.states(), self.line)


class ResidualStack(nn.Module):
    """Features of an image to the description of every value's distribution given those before it.

    Args:
        shape: ``(groups, height, width)`` of one image.
        encoding: input features per group.
        outputs: numbers that describe the distribution of a group.
        first_kernel: odd size of the first convolution.
        blocks: what stands between it and the head, on 2h features.
        features: h.
        head: hidden features of the two 1x1 layers.
        labels: rows of the label embeddings, 0 for an unconditional net.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        encoding: int,
        outputs: int,
        *,
        first_kernel: int,
        blocks: Sequence[Block],
        features: int,
        head: int,
        labels: int,
    ) -> None:
        super().__init__()
        groups, height, width = shape
        self.shape, self.encoding, self.per_group = shape, encoding, outputs
        image = torch.arange(groups).repeat_interleave(encoding)
        stack, hidden = channel_groups(2 * features, groups), channel_groups(head, groups)
        self.first = MaskedConv(image, stack, first_kernel // 2, "A")
        self.place = Places(2 * features, height, width, labels)
        self.blocks = nn.ModuleList(blocks)
        self.hidden = MaskedLinear(stack, hidden, "B")
        self.last = MaskedLinear(hidden, torch.arange(groups).repeat_interleave(outputs), "B")

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Input features [B, groups * encoding, H, W], group by group, to [B, H, W, groups, outputs]."""
        y = self.first(x) + self.place.at(labels)
        images_first = all(block.images_first for block in self._blocks())
        order = (0, 2, 3, 1) if images_first else (2, 3, 0, 1)
        y, image = y.permute(order).contiguous(), x.permute(order).contiguous()
        for block in self._blocks():
            y = block(y, image, labels)
        y = self.hidden(y.relu()).relu()
        if not images_first:
            y = y.permute(2, 0, 1, 3)
        outputs: Tensor = self.last(y)
        return outputs.reshape(*outputs.shape[:3], self.shape[0], self.per_group)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def cached(self, labels: Tensor | None, count: int, dtype: torch.dtype) -> CachedResidualStack:
        """The net for ``count`` images side by side, one value at a time; ``labels`` int64 [count] or None."""
        return CachedResidualStack(self, labels, count, dtype)


class CachedResidualStack:
    """The residual stack as a `CachedNet`: all arithmetic in ``dtype``, on a copy of the weights."""

    def __init__(self, net: ResidualStack, labels: Tensor | None, count: int, dtype: torch.dtype) -> None:
        self.net = net = in_precision(net, dtype)
        groups, height, width = net.shape
        self.first = CachedConv(net.first, groups, count, width)
        self.ops = self.first.ops
        self.place = net.place.at(labels).movedim(-3, -1)  # [(N,) H, W, 2h]
        self.blocks = [block.cached(labels, count, (height, width)) for block in net._blocks()]
        self.hidden, self.last = (shares(layer, groups, self.ops) for layer in (net.hidden, net.last))
        self.image = self.first.new_line()
        wide = self.image.new_zeros(count, 1 + width, len(net.first.weight))
        self.lines = [wide.clone() for _ in range(len(self.blocks) + 1)]
        self.maps = [owned(wide.shape[2], groups, group) for group in range(groups)]
        self.image_array = self.ops.array(self.image)
        self.arrays = [self.ops.array(line) for line in self.lines]
        self.middle = self.ops.array(wide.new_zeros(count, len(net.hidden.weight)))

    def begin_row(self, row: int) -> None:
        self.first.shift = self.place[..., row, :, :]
        self.first.begin_row(self.image)
        for block, line in zip(self.blocks, self.lines, strict=False):
            block.begin_row(row, line, self.image[:, self.first.reach :])

    def outputs(self, column: int, group: int) -> Tensor:
        ops, arrays = self.ops, self.arrays
        arrays[0][:, 1 + column, self.maps[group]] = self.first.step(column, group, self.image_array)
        for i, block in enumerate(self.blocks):
            block.step(column, group, arrays[i], arrays[i + 1])
        hidden = self.hidden[group]
        ops.relu(hidden(ops.relu(arrays[-1][:, 1 + column])), out=self.middle[:, hidden.maps])
        return ops.tensor(self.last[group](self.middle))

    def write(self, column: int, group: int, features: Tensor) -> None:
        start = group * self.net.encoding
        self.image[:, self.first.reach + column, start : start + self.net.encoding] = features

    def select(self, index: Tensor) -> None:
        blocks = [state for block in self.blocks for state in block.states()]
        for state in (*self.first.states(), self.image, *self.lines, *blocks):
            state.copy_(state[index])


class Share:
    """What one group owns of a masked linear layer: the slice of the output maps, and the weights towards them.

    Products run over all inputs: the weights from later groups are zeros, so it does not matter what their maps still
    hold from the row above.
    """

    def __init__(self, weight: Tensor, bias: Tensor, maps: slice, ops: Ops) -> None:
        self.maps, self.ops = maps, ops
        self.weight, self.bias = ops.array(weight[maps].T.contiguous()), ops.array(bias[maps])

    def __call__(self, x: Array) -> Array:
        return self.ops.affine(self.bias, x, self.weight)

    def add(self, before: Array, x: Array, after: Array) -> None:
        """after = before + the layer of x, in the group's maps."""
        out = after[:, self.maps]
        self.ops.affine(before[:, self.maps], x, self.weight, out=out)
        out += self.bias


def shares(layer: MaskedLinear, groups: int, ops: Ops) -> list[Share]:
    """The share of every group."""
    weight = layer.masked_weight()
    return [Share(weight, layer.bias, owned(len(weight), groups, group), ops) for group in range(groups)]


class CachedConv:
    """A `MaskedConv` evaluated one value at a time: what the rows above say, once per row; the rest, value by value."""

    def __init__(self, conv: MaskedConv, groups: int, count: int, width: int) -> None:
        weight = conv.masked_weight()
        outputs, inputs, _, kernel = weight.shape
        self.reach, self.width, self.count, self.kernel = conv.reach, width, count, kernel
        self.bias = conv.bias
        self.above_weight = weight[:, :, :-1].permute(2, 3, 1, 0).flatten(0, 2).contiguous()
        row = weight[:, :, -1, : conv.reach + 1].permute(2, 1, 0).flatten(0, 1)  # [(reach + 1) * inputs, outputs]
        self.maps = [owned(outputs, groups, group) for group in range(groups)]
        self.ops = ops_for(count, weight.device)
        self.row_weights = [self.ops.array(row[:, maps].contiguous()) for maps in self.maps]
        self.slab = weight.new_zeros(count, conv.reach, conv.reach + width + conv.reach, inputs)
        self.above = weight.new_zeros(count, width, outputs)
        self.above_array = self.ops.array(self.above)
        self.shift: Tensor | None = None

    def new_line(self) -> Tensor:
        """Zeros for a row of inputs, [N, reach + W, inputs]: the columns of the image stand behind the margin."""
        return self.slab.new_zeros(self.count, self.reach + self.width, self.slab.shape[3])

    def begin_row(self, line: Tensor) -> None:
        """``line`` still holds the row above."""
        self.slab[:, :-1] = self.slab[:, 1:].clone()
        self.slab[:, -1, : self.reach + self.width] = line
        inputs = self.slab.shape[3]
        windows = self.slab.flatten(2).unfold(2, self.kernel * inputs, inputs).transpose(1, 2)
        flat = torch.addmm(self.bias, windows.reshape(self.count * self.width, -1), self.above_weight)
        self.above = flat.view(self.count, self.width, -1)
        if self.shift is not None:
            self.above = self.above + self.shift
        self.above_array = self.ops.array(self.above)

    def step(self, column: int, group: int, line: Array) -> Array:
        """The group's maps of one pixel: [N, owned]."""
        context = line[:, column : column + self.reach + 1].reshape(self.count, -1)
        return self.ops.affine(self.above_array[:, column, self.maps[group]], context, self.row_weights[group])

    def states(self) -> Sequence[Tensor]:
        return (self.slab, self.above)


def label_shift(labels: int, features: int) -> nn.Embedding | None:
    """What each label adds to feature maps, zero at first; None for an unconditional net."""
    if not labels:
        return None
    embedding = nn.Embedding(labels, features)
    nn.init.zeros_(embedding.weight)
    return embedding
