"""The U-Net of Ho et al. 2020 in the form their models are exchanged in: diffusers' UNet2DModel, name for name.

Our own `UNet` is faster at equal arithmetic; this one exists so that weights can be taken from and given to others.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.nets.blocks import with_extra

EPS = 1e-6
"""Of every normalisation."""


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the embedding is added in between."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """Residual self-attention over the pixels, in one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # [N, HW, C]
        weights = (self.to_q(tokens) @ self.to_k(tokens).transpose(1, 2) / math.sqrt(x.shape[1])).softmax(-1)
        return x + self.to_out[0](weights @ self.to_v(tokens)).transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class Resample(nn.Module):
    """A convolution that halves the resolution, with zeros below and to the right, or that follows its doubling."""

    def __init__(self, channels: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(channels, channels, 3, stride=2 if down else 1, padding=0 if down else 1)

    def forward(self, x: Tensor) -> Tensor:
        resized = F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(resized)  # type: ignore[no-any-return]


class Level(nn.Module):
    """The residual blocks of one resolution on the way down or up, and the resampling after them."""

    def __init__(
        self, inputs: list[int], outputs: int, embedding: int, groups: int, attention: bool, resample: str | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(size, outputs, embedding, groups) for size in inputs])
        self.attentions = nn.ModuleList([SpatialAttention(outputs, groups) for _ in inputs] if attention else [])
        self.downsamplers = nn.ModuleList([Resample(outputs, True)] if resample == "down" else [])
        self.upsamplers = nn.ModuleList([Resample(outputs, False)] if resample == "up" else [])

    def block(self, i: int, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.resnets[i](x, embedding)
        return self.attentions[i](h) if len(self.attentions) else h  # type: ignore[no-any-return]


class Middle(nn.Module):
    def __init__(self, channels: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups)])
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, embedding, groups) for _ in range(2)])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, embedding)), embedding)  # type: ignore[no-any-return]


class TimeMLP(nn.Module):
    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(features, size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))  # type: ignore[no-any-return]


class DDPMUNet(nn.Module):
    """Images, times and labels → one output per pixel and channel (Ho et al. 2020, appendix B).

    Args:
        channels: image channels, in and out.
        width, multipliers, blocks: channels of the levels, and residual blocks a level on the way down (one more up).
        attention: the levels with self-attention, from 0, the highest resolution; the middle always has it.
        classes: number of classes; their embedding has one more row for "no label". 0 for an unconditional net.
        groups: of every normalisation; must divide every number of channels.
        outputs: values per image channel.

    The height and width must be multiples of 2^(levels - 1).
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        classes: int = 0,
        groups: int = 32,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.width, self.classes, self.levels = width, classes, len(multipliers)
        sizes, embedding, last = [width * m for m in multipliers], 4 * width, len(multipliers) - 1
        self.embedding = embedding
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.time_embedding = TimeMLP(width, embedding)
        self.class_embedding = nn.Embedding(classes + 1, embedding) if classes else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        current, skips = width, [width]
        for level, size in enumerate(sizes):
            resample = "down" if level < last else None
            inputs = [current] + [size] * (blocks - 1)
            self.down_blocks.append(Level(inputs, size, embedding, groups, level in attention, resample))
            skips += [size] * (blocks + (level < last))
            current = size
        self.mid_block = Middle(current, embedding, groups)
        for level, size in reversed(list(enumerate(sizes))):
            inputs = []
            for _ in range(blocks + 1):
                inputs.append(current + skips.pop())
                current = size
            resample = "up" if level else None
            self.up_blocks.append(Level(inputs, size, embedding, groups, level in attention, resample))
        self.conv_norm_out = nn.GroupNorm(groups, current, EPS)
        self.conv_out = nn.Conv2d(current, outputs * channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def at(self, t: Tensor, timesteps: int) -> Tensor:
        """The time as this network was told it: counted from 0."""
        return t - 1

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """x float [N, C, H, W], t float [N] from 0, labels int64 [N] or None → [N, outputs·C, H, W]; ``extra`` float
        [N, embedding] is added to the embedding of the time."""
        embedding = F.silu(with_extra(self.embed(t, labels), extra))
        h = self.conv_in(x)
        skips = [h]
        for level in self.down_blocks:
            for i in range(len(level.resnets)):  # type: ignore[arg-type]
                h = level.block(i, h, embedding)  # type: ignore[operator]
                skips.append(h)
            for resample in level.downsamplers:  # type: ignore[union-attr]
                h = resample(h)
                skips.append(h)
        h = self.mid_block(h, embedding)
        for level in self.up_blocks:
            for i in range(len(level.resnets)):  # type: ignore[arg-type]
                h = level.block(i, torch.cat([h, skips.pop()], 1), embedding)  # type: ignore[operator]
            for resample in level.upsamplers:  # type: ignore[union-attr]
                h = resample(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))  # type: ignore[no-any-return]

    def embed(self, t: Tensor, labels: Tensor | None) -> Tensor:
        half = self.width // 2
        rates = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10_000) / (half - 1)))
        phases = t.float()[:, None] * rates
        features = torch.cat([phases.sin(), phases.cos()], 1).to(self.time_embedding.linear_1.weight.dtype)
        embedding: Tensor = self.time_embedding(features)
        if self.class_embedding is None:
            return embedding
        if labels is None:
            labels = torch.full((len(t),), self.classes, device=t.device)
        return embedding + self.class_embedding(labels)  # type: ignore[no-any-return]
