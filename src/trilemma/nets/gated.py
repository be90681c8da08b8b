"""The gated PixelCNN, and the same stacks evaluated one value at a time.

van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", arXiv 1606.05328, section 2.2. Two
stacks keep the order without a blind spot: the vertical one sees all rows above, the horizontal one what stands to the
left in the row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trilemma.nets.host import Array, Ops, ops_for
from trilemma.nets.masked import Places, RowConv, channel_groups, gate, in_precision, owned


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
        shape: ``(groups, height, width)`` of one image.
        encoding: input features per group.
        outputs: numbers that describe the distribution of a group: as many as it has levels, for a softmax.
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
        outputs: int,
        *,
        features: int,
        layers: int,
        first_kernel: int,
        kernel: int,
        head: int,
        labels: int,
    ) -> None:
        super().__init__()
        groups, height, width = shape
        self.shape, self.encoding, self.per_group = shape, encoding, outputs
        image = torch.arange(groups).repeat_interleave(encoding)
        stack, hidden = channel_groups(features, groups), channel_groups(head, groups)
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
        self.place = Places(2 * features, height, width, labels)
        self.hidden = RowConv(stack, hidden, 0, "B", bias=True)
        self.logits = RowConv(hidden, torch.arange(groups).repeat_interleave(outputs), 0, "B", bias=True)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Input features [B, groups * encoding, H, W], group by group, to [B, H, W, groups, outputs]."""
        v = h = x
        for i, layer in enumerate(self.layers):
            v, h = layer(v, h, labels, self.place.at(labels) if i == 0 else None)
        logits: Tensor = self.logits(self.hidden(h).relu())
        return logits.permute(0, 2, 3, 1).reshape(len(x), *self.shape[1:], self.shape[0], self.per_group)

    def cached(self, labels: Tensor | None, count: int, dtype: torch.dtype) -> CachedStacks:
        """The net for ``count`` images side by side, one value at a time; ``labels`` int64 [count] or None."""
        return CachedStacks(self, labels, count, dtype)


class CachedStacks:
    """The gated stacks as a `CachedNet`: all arithmetic in ``dtype``, on a copy of the weights.

    The vertical stack runs once per row, over a slab of the rows that it still needs; the horizontal stack once per
    value, as plain matrix products towards the maps that the value's group owns.
    """

    def __init__(self, net: GatedStacks, labels: Tensor | None, count: int, dtype: torch.dtype) -> None:
        self.net, self.count = in_precision(net, dtype), count
        groups, _, self.width = net.shape
        self.layers = [layer for layer in self.net.layers if isinstance(layer, GatedLayer)]
        self.shares = [_Share(self.net, self.layers, group) for group in range(groups)]
        order = torch.cat([share.gates for share in self.shares])
        self.vertical = [_Vertical(layer, labels, order) for layer in self.layers]
        self.place = self.net.place.at(labels).movedim(-3, -1)  # [(N,) H, W, 2P]

        inputs = [layer.horizontal.weight.shape[1] for layer in self.layers]
        reaches = [layer.reach for layer in self.layers]
        maps, new = inputs[1], self.net.place.place.new_zeros
        # Positions before maps, with `reach` columns of zeros around a row, so that a window is one slice of memory.
        self.slabs = [
            new(count, layer.rows, layer.reach + self.width + layer.reach, i)
            for i, layer in zip(inputs, self.layers, strict=True)
        ]
        self.rows = [new(count, r + self.width, i) for i, r in zip(inputs, reaches, strict=True)]
        self.rows.append(new(count, self.width, maps))
        self.above: list[Tensor] = []  # per layer: what the vertical stack sends to the current row, [N, W, 2P]

        self.ops = ops_for(count, self.place.device)
        self.arrays = [self.ops.array(row) for row in self.rows]
        self.above_arrays: list[Array] = []
        self.gated = [self.ops.array(new(count, maps)) for _ in self.layers]
        self.hidden = self.ops.array(new(count, len(net.hidden.weight)))
        self.nothing = self.ops.array(new(1))
        for share in self.shares:
            share.convert(self.ops)

    def begin_row(self, row: int) -> None:
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
        self.above_arrays = [self.ops.array(above) for above in self.above]

    def outputs(self, column: int, group: int) -> Tensor:
        share, ops = self.shares[group], self.ops
        for i, layer in enumerate(self.layers):
            row, following = self.arrays[i], self.arrays[i + 1]
            context = row[:, column : column + layer.reach + 1].reshape(self.count, -1)
            z = ops.affine(self.above_arrays[i][:, column, share.span], context, share.horizontal[i])
            ops.gate(z, self.gated[i][:, share.maps])
            target = following[:, following.shape[1] - self.width + column, share.maps]
            before = self.nothing if layer.first else row[:, layer.reach + column, share.maps]
            ops.affine(before, self.gated[i], share.out[i], out=target)
        hidden = ops.affine(share.hidden_bias, self.arrays[-1][:, column], share.hidden_weight)
        ops.relu(hidden, out=self.hidden[:, share.hidden])
        return ops.tensor(ops.affine(share.logits_bias, self.hidden, share.logits_weight))

    def write(self, column: int, group: int, features: Tensor) -> None:
        start = group * self.net.encoding
        self.rows[0][:, self.layers[0].reach + column, start : start + self.net.encoding] = features

    def select(self, index: Tensor) -> None:
        for state in (*self.slabs, *self.rows, *self.above):
            state.copy_(state[index])


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
    """What one group owns of a net: its slices of the maps, and the weights towards them as matrices.

    Products run over all input maps: the weights from later groups are zeros, so it does not matter what their maps
    still hold from the row above.
    """

    def __init__(self, net: GatedStacks, layers: list[GatedLayer], group: int) -> None:
        def matrix(conv: RowConv) -> Tensor:  # [(reach + 1) * inputs, outputs], as the rows are laid out
            return conv.masked_weight().permute(3, 1, 2, 0).flatten(0, 2)

        groups, width = net.shape[0], len(layers[0].out.weight)
        self.maps, self.hidden = owned(width, groups, group), owned(len(net.hidden.weight), groups, group)
        self.gates = torch.arange(2 * width).view(2, width)[:, self.maps].flatten()  # before tanh, before sigmoid
        self.span = slice(2 * self.maps.start, 2 * self.maps.stop)  # where those stand in `CachedStacks.order`
        self.horizontal: list[Array] = [matrix(layer.horizontal)[:, self.gates].contiguous() for layer in layers]
        self.out: list[Array] = [matrix(layer.out)[:, self.maps].contiguous() for layer in layers]
        values = slice(group * net.per_group, (group + 1) * net.per_group)
        self.hidden_weight: Array = matrix(net.hidden)[:, self.hidden].contiguous()
        self.logits_weight: Array = matrix(net.logits)[:, values].contiguous()
        self.hidden_bias: Array = net.hidden.own_bias()[self.hidden]
        self.logits_bias: Array = net.logits.own_bias()[values]

    def convert(self, ops: Ops) -> None:
        """Turn the weights into what the inner loop computes with."""
        self.horizontal, self.out = [[ops.array(w) for w in weights] for weights in (self.horizontal, self.out)]
        self.hidden_weight, self.logits_weight = ops.array(self.hidden_weight), ops.array(self.logits_weight)
        self.hidden_bias, self.logits_bias = ops.array(self.hidden_bias), ops.array(self.logits_bias)
