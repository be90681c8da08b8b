"""The recurrent layers of PixelRNN: Row LSTM and Diagonal BiLSTM.

van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", arXiv 1601.06759, section 3. Both are
convolutional LSTMs that walk over an image line by line (equation 3):

    [o, f, i, g] = σ(K_ss ⊛ h_before + K_is ⊛ x),   c = f ⊙ c_before + i ⊙ g,   h = o ⊙ tanh(c).

A line of the Row LSTM is a row of pixels, a line of the Diagonal LSTM an anti-diagonal. The paper skews the image to
make its diagonals into columns; here nothing is moved, since a diagonal of a row-major image *is* an evenly spaced
slice of it. All pixels of a line, all images and both directions are one batched product.

Features stand last and images stand before them, [H, W, B, F], so that a line is one block of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trilemma.nets.host import Array, ops_for
from trilemma.nets.masked import MaskedLinear, channel_groups, owned
from trilemma.nets.residual import Block, CachedBlock, label_shift, shares


@dataclass(frozen=True)
class Sweep:
    """The way of a recurrence over an image.

    Attributes:
        size: ``(height, width)``.
        lines: for each step, which cells ``row * width + column`` it computes, and between which positions of the
            line they stand.
        before: for each state-to-state weight, the offset of the pixel that it reads as ``(rows, columns, positions
            in the line before)``.
    """

    size: tuple[int, int]
    lines: tuple[tuple[slice, int, int], ...]
    before: tuple[tuple[int, int, int], ...]

    @property
    def positions(self) -> int:
        return max(stop for _, _, stop in self.lines)

    @classmethod
    def rows(cls, height: int, width: int) -> Sweep:
        """Row by row: each pixel reads the three nearest pixels of the row above (figure 4, left)."""
        lines = tuple((slice(row * width, (row + 1) * width), 0, width) for row in range(height))
        return cls((height, width), lines, ((-1, -1, -1), (-1, 0, 0), (-1, 1, 1)))

    @classmethod
    def diagonals(cls, height: int, width: int) -> Sweep:
        """Along anti-diagonals: each pixel reads its neighbours to the left and above (figure 4, right).

        Pixel (r, k - r) of diagonal k is cell k + r (width - 1): position r of the line.
        """
        lines = []
        for k in range(height + width - 1):
            start, stop = max(0, k - width + 1), min(height, k + 1)
            step = max(1, width - 1)
            first = k + start * (width - 1)
            lines.append((slice(first, first + (stop - start - 1) * step + 1, step), start, stop))
        return cls((height, width), tuple(lines), ((0, -1, 0), (-1, 0, -1)))


class LSTMScan(torch.autograd.Function):
    """The recurrence, with its own backward pass: (gates, weight) to h.

    ``gates`` [D, H·W, B, 4P] holds what the input adds to o, f, i, g of each of D directions; the part of g stands for
    2g, so that one sigmoid covers all four (tanh g = 2σ(2g) - 1). ``weight`` [D, O, P, 4P] is the state-to-state
    weight of each offset of the sweep. h is [D, H·W, B, P]. Outside the image the state is zero.

    Autograd would record a dozen small operations a line and add up the weight's gradient line by line; here a line
    costs few operations each way, and the weight's gradient is one product over all lines at the end.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, sweep: Sweep) -> Tensor:
        directions, cells, batch, _ = gates.shape
        features = weight.shape[2]
        offsets = [position for _, _, position in sweep.before]
        h = gates.new_empty(directions, cells, batch, features)
        line = gates.new_zeros(directions, sweep.positions + 2, batch, features)  # with a margin on either side
        c = line.clone()
        kept = []
        for where, start, stop in sweep.lines:
            z = gates[:, where].flatten(1, 2)
            for o, offset in enumerate(offsets):
                z = torch.baddbmm(z, line[:, 1 + start + offset : 1 + stop + offset].flatten(1, 2), weight[:, o])
            z.sigmoid_()
            out, forget, enter, g = z.chunk(4, 2)
            span = slice(1 + start, 1 + stop)
            c_before = c[:, span].flatten(1, 2).clone()
            c_new = torch.addcmul(forget * c_before, enter, 2 * g - 1)
            tanh_c = (2 * c_new).sigmoid_().mul_(2).sub_(1)
            h_new = (out * tanh_c).view(directions, stop - start, batch, features)
            line = torch.zeros_like(line)
            line[:, span] = h_new
            c[:, span] = c_new.view_as(h_new)
            h[:, where] = h_new
            kept.append((z, c_before, tanh_c))
        ctx.sweep, ctx.kept = sweep, kept
        ctx.save_for_backward(weight, h)
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, h = ctx.saved_tensors
        sweep: Sweep = ctx.sweep
        directions, cells, batch, features = h.shape
        back = weight.transpose(2, 3).contiguous()
        d_gates = h.new_empty(directions, cells, batch, 4 * features)
        carry = h.new_zeros(directions, sweep.positions + 2, batch, features)  # d h from the line after
        d_c = carry.clone()
        for (where, start, stop), (z, c_before, tanh_c) in zip(reversed(sweep.lines), reversed(ctx.kept), strict=True):
            span = slice(1 + start, 1 + stop)
            d_h = (grad[:, where] + carry[:, span]).flatten(1, 2)
            out, forget, enter, g = z.chunk(4, 2)
            d_cell = torch.addcmul(d_c[:, span].flatten(1, 2), d_h * out, 1 - tanh_c.square())
            d = torch.cat([d_h * tanh_c, d_cell * c_before, d_cell * (2 * g - 1), 2 * d_cell * enter], 2)
            d.mul_(z).mul_(1 - z)
            d_gates[:, where] = d.view(directions, stop - start, batch, -1)
            d_c[:, span] = (d_cell * forget).view(directions, stop - start, batch, -1)
            carry = torch.zeros_like(carry)
            for o, (_, _, offset) in enumerate(sweep.before):
                moved = carry[:, 1 + start + offset : 1 + stop + offset]
                moved += torch.bmm(d, back[:, o]).view_as(moved)
        d_weight = torch.stack([_outer(h, d_gates, offset[:2], sweep.size) for offset in sweep.before], 1)
        return d_gates, d_weight, None


def _outer(h: Tensor, d_gates: Tensor, offset: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Σ over pixels of h at the ``offset`` from the pixel, times d_gates at it: [D, P, 4P]."""
    (rows, columns), (height, width) = offset, size
    image = h.view(len(h), height, width, *h.shape[2:])
    margins = (max(0, -columns), max(0, columns), max(0, -rows), max(0, rows))
    moved = F.pad(image, (0, 0, 0, 0, *margins))
    moved = moved[:, margins[3] : margins[3] + height, margins[1] : margins[1] + width]
    return torch.bmm(moved.flatten(1, 3).transpose(1, 2), d_gates.flatten(1, 2))


def scan(gates: Tensor, weight: Tensor, sweep: Sweep) -> Tensor:
    """`LSTMScan` in float32 at least: rounded to bfloat16, a state would lose what it gathers over many lines."""
    precision = torch.promote_types(gates.dtype, torch.float32)
    kind = "cpu" if gates.is_meta else gates.device.type  # shapes alone have no arithmetic to choose
    with torch.autocast(kind, enabled=False):
        h: Tensor = LSTMScan.apply(gates.to(precision), weight.to(precision), sweep)  # type: ignore[no-untyped-call]
    return h


class RowLSTM(Block):
    """The Row LSTM (section 3.1): its view of the image is the triangle above the pixel, and the pixel to the left.

    The input-to-state convolution of width 3, masked B, sees the pixel to the left and the pixel itself; the
    state-to-state convolution sees three pixels of the row above.
    """

    images_first: ClassVar[bool] = False

    def __init__(self, features: int, groups: int, labels: int) -> None:
        super().__init__()
        self.features, self.groups = features, groups
        wide, narrow = channel_groups(2 * features, groups), channel_groups(features, groups)
        self.input = MaskedLinear(wide, narrow.repeat(4), "B", free=2 * features)
        self.state = state_weights(1, 3, features)
        self.leave = MaskedLinear(narrow, wide, "B")
        self.label = label_shift(labels, 4 * features)
        remember(self.input.bias)

    def forward(self, x: Tensor, image: Tensor, labels: Tensor | None) -> Tensor:
        height, width, batch, _ = x.shape
        left = F.pad(x, (0, 0, 0, 0, 1, 0))[:, :-1]
        gates = self.input(torch.cat([left, x], 3))
        if self.label is not None and labels is not None:
            gates = gates + self.label(labels)
        h = scan(gates.flatten(0, 1)[None], self.state, Sweep.rows(height, width))
        residual: Tensor = self.leave(h.view(height, width, batch, -1))
        return x + residual

    def cached(self, labels: Tensor | None, count: int, size: tuple[int, int]) -> CachedBlock:
        return _CachedRowLSTM(self, labels, count, size)


class _CachedRowLSTM(CachedBlock):
    def __init__(self, block: RowLSTM, labels: Tensor | None, count: int, size: tuple[int, int]) -> None:
        self.count, self.ops = count, ops_for(count, block.state.device)
        self.gates = GateShares(block, block.input, labels)
        weight = block.input.masked_weight()
        self.input = [self.ops.array(weight[gates].T.contiguous()) for gates in self.gates.gates]
        self.leave = shares(block.leave, block.groups, self.ops)
        self.above_weight = block.state[0].flatten(0, 1)  # [3P, 4P]
        self.h = self.above_weight.new_zeros(count, 1 + size[1] + 1, block.features)
        self.c = self.h[:, 1:-1].clone()
        self.h_array, self.c_array = self.ops.array(self.h), self.ops.array(self.c)
        self.above = self.c.new_zeros(count, size[1], 4 * block.features)
        self.above_array = self.ops.array(self.above)

    def begin_row(self, row: int, before: Tensor, image: Tensor) -> None:
        features = self.h.shape[2]
        windows = self.h.flatten(1).unfold(1, 3 * features, features)  # [N, W, 3P]: the row above
        self.above.copy_((windows @ self.above_weight + self.gates.bias)[..., self.gates.order])

    def step(self, column: int, group: int, before: Array, after: Array) -> None:
        maps, ops = self.gates.maps[group], self.ops
        x = before[:, column : column + 2].reshape(self.count, -1)  # the pixel to the left and the pixel
        z = ops.affine(self.above_array[:, column, self.gates.spans[group]], x, self.input[group])
        h = self.h_array[:, 1 + column]
        ops.lstm(z, self.c_array[:, column, maps], h[:, maps])
        self.leave[group].add(before[:, 1 + column], h, after[:, 1 + column])

    def states(self) -> Sequence[Tensor]:
        return (self.h, self.c, self.above)


class DiagonalLSTM(Block):
    """The Diagonal LSTM (section 3.2) in one direction or, as the Diagonal BiLSTM, in both.

    From the top left corner a pixel sees all above and to the left of it. In the other direction the recurrence runs
    from the top right corner; its map is shifted down by one row, so that it never sees ahead, and added. Together
    they see every pixel before. For that the other direction must read the pixels themselves beside their features:
    the features of a pixel do not know it, and without them the last pixel of the row above would be seen by nobody
    but its neighbours, which the paper does not mention.
    """

    images_first: ClassVar[bool] = False

    def __init__(self, features: int, groups: int, directions: int, inputs: int, labels: int) -> None:
        super().__init__()
        self.features, self.groups, self.directions = features, groups, directions
        wide, narrow = channel_groups(2 * features, groups), channel_groups(features, groups)
        self.input = MaskedLinear(wide, narrow.repeat(4), "B")
        # Shifted by a row, the other direction has nothing of its own pixel to hide.
        self.back = nn.Linear(2 * features + inputs, 4 * features) if directions == 2 else None
        self.state = state_weights(directions, 2, features)
        self.leave = MaskedLinear(narrow, wide, "B")
        self.label = label_shift(labels, 4 * features)
        for layer in (self.input, self.back):
            if layer is not None:
                remember(layer.bias)

    def forward(self, x: Tensor, image: Tensor, labels: Tensor | None) -> Tensor:
        height, width, batch, _ = x.shape
        gates = self.input(x)
        if self.label is not None and labels is not None:
            gates = gates + self.label(labels)
        both = (
            gates[None]
            if self.back is None
            else torch.stack([gates, self.back(torch.cat([x, image.to(x)], 3)).flip(1)])
        )
        h = scan(both.flatten(1, 2), self.state, Sweep.diagonals(height, width))
        h = h.view(self.directions, height, width, batch, -1)
        seen = h[0]
        if self.back is not None:
            seen = seen + F.pad(h[1, :-1].flip(1), (0, 0, 0, 0, 0, 0, 1, 0))
        residual: Tensor = self.leave(seen)
        return x + residual

    def cached(self, labels: Tensor | None, count: int, size: tuple[int, int]) -> CachedBlock:
        return _CachedDiagonalLSTM(self, labels, count, size)


class _CachedDiagonalLSTM(CachedBlock):
    """The left direction walks along the row with the pixels; the right one runs over a row once it is complete."""

    def __init__(self, block: DiagonalLSTM, labels: Tensor | None, count: int, size: tuple[int, int]) -> None:
        self.ops = ops = ops_for(count, block.state.device)
        self.gates = GateShares(block, block.input, labels)
        weight, (left, above) = block.input.masked_weight(), block.state[0]
        self.input = [ops.array(weight[gates].T.contiguous()) for gates in self.gates.gates]
        self.left_weight = [ops.array(left[:, gates].contiguous()) for gates in self.gates.gates]
        self.above_weight = above
        self.leave = shares(block.leave, block.groups, ops)
        self.h = above.new_zeros(count, 1 + size[1], block.features)  # one zero pixel on the left
        self.c = self.h.clone()
        self.above = above.new_zeros(count, size[1], 4 * block.features)
        self.back, self.back_state = block.back, block.state[-1]
        self.right = above.new_zeros(count, size[1] + 1, block.features)  # one on the right
        self.right_weight = ops.array(self.back_state[0].contiguous())
        self.h_array, self.c_array, self.above_array = ops.array(self.h), ops.array(self.c), ops.array(self.above)
        self.right_array = ops.array(self.right)
        self.seen = ops.array(self.right[:, 0].clone())

    def begin_row(self, row: int, before: Tensor, image: Tensor) -> None:
        self.above.copy_((self.h[:, 1:] @ self.above_weight + self.gates.bias)[..., self.gates.order])
        if self.back is not None and row:
            self._sweep_back(self.back, torch.cat([before[:, 1:], image], 2))

    def _sweep_back(self, back: nn.Linear, x: Tensor) -> None:
        """Run the right direction over the row above, from its right end."""
        z = self.ops.array(back(x) + self.right[:, :-1] @ self.back_state[1])  # its own state in the row above that
        c = self.ops.array(torch.zeros_like(self.right[:, 0]))
        for column in reversed(range(x.shape[1])):
            after = self.ops.affine(z[:, column], self.right_array[:, column + 1], self.right_weight)
            self.ops.lstm(after, c, self.right_array[:, column])

    def step(self, column: int, group: int, before: Array, after: Array) -> None:
        maps, ops = self.gates.maps[group], self.ops
        x, h = before[:, 1 + column], self.h_array[:, 1 + column]
        z = ops.affine(self.above_array[:, column, self.gates.spans[group]], x, self.input[group])
        z = ops.affine(z, self.h_array[:, column], self.left_weight[group])
        c = self.c_array[:, 1 + column, maps]
        c[:] = self.c_array[:, column, maps]
        ops.lstm(z, c, h[:, maps])
        self.seen[:, maps] = h[:, maps] + self.right_array[:, column, maps]
        self.leave[group].add(x, self.seen, after[:, 1 + column])

    def states(self) -> Sequence[Tensor]:
        return (self.h, self.c, self.above, self.right)


class GateShares:
    """Which of the maps and of the 4P gates each group owns, and where the gates stand when sorted by group."""

    def __init__(self, block: RowLSTM | DiagonalLSTM, layer: MaskedLinear, labels: Tensor | None) -> None:
        features, groups = block.features, block.groups
        self.maps = [owned(features, groups, group) for group in range(groups)]
        self.gates = [torch.arange(4 * features).view(4, features)[:, maps].flatten() for maps in self.maps]
        self.order = torch.cat(self.gates)
        self.spans = [slice(4 * maps.start, 4 * maps.stop) for maps in self.maps]
        self.bias = layer.bias
        if block.label is not None and labels is not None:
            self.bias = (block.label(labels) + layer.bias)[:, None]


def state_weights(directions: int, offsets: int, features: int) -> nn.Parameter:
    """State-to-state weights [D, O, P, 4P], uniform as torch initialises an LSTM."""
    bound = (offsets * features) ** -0.5
    return nn.Parameter(torch.empty(directions, offsets, features, 4 * features).uniform_(-bound, bound))


def remember(bias: nn.Parameter) -> None:
    """Start with the forget gate open: its bias is 1 (Jozefowicz et al. 2015)."""
    with torch.no_grad():
        bias.view(4, -1)[1] = 1.0
