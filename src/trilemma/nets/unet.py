"""A time-conditioned U-Net for images of any size (Ronneberger et al. 2015; Ho et al. 2020, appendix B)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.nets.blocks import Attention, ResidualBlock, TimeEmbedding, group_norm, with_extra, zero
from trilemma.nets.text import CrossAttention, Encoded, Encoder


class Stage(nn.Module):
    """A residual block, followed by self-attention where asked for, and by attention to a text where there is one."""

    def __init__(self, inputs: int, outputs: int, embedding: int, attention: bool, text: int = 0) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, embedding)
        self.attention = Attention(outputs) if attention else nn.Identity()
        self.reading = CrossAttention(outputs, text) if attention and text else None

    def forward(self, x: Tensor, embedding: Tensor, text: Encoded | None = None) -> Tensor:
        h: Tensor = self.attention(self.block(x, embedding))
        return h if self.reading is None or text is None else self.reading(h, text)  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Images, times and labels → one output per pixel and channel; the output starts at zero.

    Each level halves the resolution, rounding up; on the way back the nearest-neighbour doubling is cropped to the
    size of the skip it meets. So any height and width will do, and only the ``patch`` stem pads (by repeating the
    edge, and the output is cropped).

    Args:
        channels: image channels, in and out.
        width: channels of the first level, a multiple of 16.
        multipliers: width of each level as a multiple of ``width``, from high to low resolution.
        blocks: residual blocks a level, on the way down and again on the way up.
        attention: how many of the deepest levels have self-attention; 0 for none.
        classes: number of classes; their embedding has one more row for "no label". 0 for an unconditional net.
        patch: 2 works on 2 x 2 patches of pixels, as channels at half the resolution (Shi et al. 2016): four times
            cheaper at the same width; 1 works on the pixels.
        outputs: values per image channel, 2 for a network that also says a variance; they stand one after the other,
            [N, outputs·channels, H, W].
        text: what reads captions, in place of classes: the levels with self-attention look at its tokens, and all
            of them get its pooled vector with the time.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: int = 1,
        classes: int = 0,
        patch: int = 1,
        outputs: int = 1,
        text: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.patch = classes, patch
        self.embedding = embedding = 4 * width
        self.time = TimeEmbedding(width, embedding)
        self.label = nn.Embedding(classes + 1, embedding) if classes else None
        self.text = text
        self.told = None if text is None else nn.Linear(text.size, embedding)
        read = 0 if text is None else text.size
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)

        self.shrinks, self.downs, self.ups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        current, skips = width, []
        for level, multiplier in enumerate(multipliers):
            attend = level >= len(multipliers) - attention
            self.shrinks.append(nn.Conv2d(current, current, 3, stride=2, padding=1) if level else nn.Identity())
            stages = nn.ModuleList()
            for _ in range(blocks):
                stages.append(Stage(current, width * multiplier, embedding, attend, read))
                current = width * multiplier
                skips.append(current)
            self.downs.append(stages)
        self.middle = Stage(current, current, embedding, attention > 0, read)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            attend = level >= len(multipliers) - attention
            stages = nn.ModuleList()
            for _ in range(blocks):
                stages.append(Stage(current + skips.pop(), width * multiplier, embedding, attend, read))
                current = width * multiplier
            self.ups.append(stages)
        self.norm = group_norm(current)
        self.head = zero(nn.Conv2d(current, outputs * channels * patch**2, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """Args:
            x: float [N, channels, H, W].
            t: float [N], the time on a scale of 0 … 1000.
            labels: int64 [N] in ``0 … classes`` (the last meaning "no label"), or captions int64 [N, L] for ``text``;
                None for all "no label".
            extra: float [N, 4·width], what else conditions the network, added to the embedding of the time.

        Returns:
            [N, outputs·channels, H, W].
        """
        height, width = x.shape[2:]
        text = None if self.text is None else self.text(self.text.empty(len(x), x.device) if labels is None else labels)
        embedding = F.silu(with_extra(self.embed(t, labels, text), extra))
        h = self.stem(F.pixel_unshuffle(self.pad(x), self.patch))
        skips = []
        for shrink, stages in zip(self.shrinks, self.downs, strict=True):
            h = shrink(h)
            for stage in stages:  # type: ignore[attr-defined]
                h = stage(h, embedding, text)
                skips.append(h)
        h = self.middle(h, embedding, text)
        for stages in self.ups:
            for stage in stages:  # type: ignore[attr-defined]
                skip = skips.pop()
                if h.shape[2:] != skip.shape[2:]:
                    h = F.interpolate(h, scale_factor=2, mode="nearest")[:, :, : skip.shape[2], : skip.shape[3]]
                h = stage(torch.cat([h, skip], 1), embedding, text)
        out = F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch)
        return out[:, :, :height, :width]

    def at(self, t: Tensor, timesteps: int) -> Tensor:
        """The time t of a chain of so many steps on the scale of 0 … 1000."""
        return t * (1000 / timesteps)

    def embed(self, t: Tensor, labels: Tensor | None, text: Encoded | None = None) -> Tensor:
        """Times, and labels or texts → [N, 4·width]."""
        embedding: Tensor = self.time(t)
        if text is not None and self.told is not None:
            return embedding + self.told(text.pooled)  # type: ignore[no-any-return]
        if self.label is None:
            return embedding
        if labels is None:
            labels = torch.full((len(t),), self.classes, device=t.device)
        return embedding + self.label(labels)  # type: ignore[no-any-return]

    def pad(self, x: Tensor) -> Tensor:
        """Repeat the lower and right edges until ``patch`` divides the size."""
        bottom, right = -x.shape[2] % self.patch, -x.shape[3] % self.patch
        return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
