"""Convolutional encoders and decoders for any image size and number of channels.

They, and the DCGAN pair (`dcgan.py`), walk the same `Ladder`: an image is halved until its smaller side is 4 to 7
pixels (28 → 14 → 7, 32 → 16 → 8 → 4), and a decoder climbs back up. Sizes that do not divide are padded on the way in
and cropped on the way out. Channels double with each halving, up to eight times the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Ladder:
    """How an image of ``size`` is halved ``halvings`` times down to a map of ``seed`` pixels.

    ``2**halvings * seed`` is at least ``size`` in both directions; the rest is padding.
    """

    size: tuple[int, int]
    halvings: int
    seed: tuple[int, int]

    @classmethod
    def of(cls, height: int, width: int) -> Ladder:
        halvings = max(1, int(math.log2(min(height, width) / 4))) if min(height, width) > 4 else 1
        step = 2**halvings
        return cls((height, width), halvings, (math.ceil(height / step), math.ceil(width / step)))

    def channels(self, width: int) -> list[int]:
        """Channels at each level, from half the image's resolution down to the seed."""
        return [width * min(2**level, 8) for level in range(self.halvings)]

    def pad(self, x: Tensor) -> Tensor:
        """``[B, C, *size]`` to ``[B, C, 2^n seed]``, repeating the edge pixels on all sides."""
        extra = [2**self.halvings * s - n for s, n in zip(self.seed, self.size, strict=True)]
        if not any(extra):
            return x
        top, left = extra[0] // 2, extra[1] // 2
        return F.pad(x, (left, extra[1] - left, top, extra[0] - top), mode="replicate")

    def crop(self, x: Tensor) -> Tensor:
        """The inverse of `pad`."""
        top, left = ((n - size) // 2 for n, size in zip(x.shape[2:], self.size, strict=True))
        return x[:, :, top : top + self.size[0], left : left + self.size[1]]


class LabelEmbedding(nn.Embedding):
    """One row for each class and, as the last, one for "no label".

    Called with int64 [B] labels, or with None for "no label" throughout; returns ``[B, dims]``.
    """

    def __init__(self, classes: int, dims: int, std: float = 1.0) -> None:
        super().__init__(classes + 1, dims)
        nn.init.normal_(self.weight, std=std)

    def forward(self, labels: Tensor | None, count: int) -> Tensor:  # type: ignore[override]
        null = self.num_embeddings - 1
        if labels is None:
            return self.weight[null].expand(count, -1)
        # In training the labels come from the data set; looking at them would make a GPU wait.
        if not self.training and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= null:
            raise ValueError(
                f"labels must lie in 0 … {null} ({null} for no label), not {int(labels.min())} … {int(labels.max())}"
            )
        return super().forward(labels)


def label_embedding(classes: int, dims: int, std: float = 1.0) -> LabelEmbedding | None:
    """None for an unconditional net, so that it has no unused parameters."""
    return LabelEmbedding(classes, dims, std) if classes else None


def embed(embedding: LabelEmbedding | None, labels: Tensor | None, count: int) -> Tensor | None:
    """``[count, dims]``, or None in an unconditional net, which must not be given labels that it would ignore."""
    if embedding is not None:
        return embedding(labels, count)  # type: ignore[no-any-return]
    if labels is not None:
        raise ValueError("this model was trained without labels: leave them out, or train a conditional model")
    return None


class Residual(nn.Module):
    """``x + conv(silu(conv(silu(x))))``, the identity at first: it trains without normalisation, so that an image
    never depends on the batch around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + hidden


class Encoder(nn.Module):
    """Images to vectors: ``[B, C, H, W]`` on [-1, 1] and labels to ``[B, outputs]``.

    Args:
        shape: ``(C, H, W)`` of the images.
        width: channels at half resolution.
        depth: residual blocks at each resolution.
        outputs: length of the vector.
        classes: number of labels the encoder sees; 0 for none.
    """

    def __init__(self, shape: tuple[int, ...], width: int, depth: int, outputs: int, classes: int = 0) -> None:
        super().__init__()
        self.ladder = Ladder.of(*shape[1:])
        channels = self.ladder.channels(width)
        self.stem = nn.Conv2d(shape[0], width, 4, 2, 1)
        # As large as the features: an encoder that sees the label faintly writes the class into the code, and then
        # codes drawn without an image show another class than they are asked for.
        self.label = label_embedding(classes, width)
        layers: list[nn.Module] = []
        for level, count in enumerate(channels):
            if level:
                layers += [nn.SiLU(), nn.Conv2d(channels[level - 1], count, 4, 2, 1)]
            layers += [Residual(count) for _ in range(depth)]
        self.levels = nn.Sequential(*layers, nn.SiLU())
        self.head = nn.Linear(channels[-1] * math.prod(self.ladder.seed), outputs)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        hidden = self.stem(self.ladder.pad(x))
        if (label := embed(self.label, labels, len(x))) is not None:
            hidden = hidden + label[:, :, None, None]
        out: Tensor = self.head(self.levels(hidden).flatten(1))
        return out


class Decoder(nn.Module):
    """Vectors to images, the mirror of `Encoder`: ``[B, latent]`` and labels to ``[B, outputs, H, W]``.

    ``outputs`` is the number of channels of the result, which is linear: the caller says what the numbers mean.
    """

    def __init__(
        self, shape: tuple[int, ...], width: int, depth: int, latent: int, outputs: int, classes: int = 0
    ) -> None:
        super().__init__()
        self.ladder = Ladder.of(*shape[1:])
        channels = self.ladder.channels(width)
        self.label = label_embedding(classes, width)
        self.seed = Seed(latent + (width if classes else 0), channels[-1], self.ladder)
        layers: list[nn.Module] = []
        for count, above in zip(channels[::-1], [*channels[-2::-1], max(width // 2, 8)], strict=True):
            layers += [Residual(count) for _ in range(depth)]
            layers += [nn.SiLU(), nn.ConvTranspose2d(count, above, 4, 2, 1)]
        self.levels = nn.Sequential(*layers, nn.SiLU())
        self.head = nn.Conv2d(max(width // 2, 8), outputs, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if (label := embed(self.label, labels, len(z))) is not None:
            z = torch.cat([z, label], 1)
        return self.ladder.crop(self.head(self.levels(self.seed(z))))


class Seed(nn.Module):
    """A vector to the smallest feature map: what a fractionally strided convolution does to a 1 x 1 map."""

    def __init__(self, inputs: int, channels: int, ladder: Ladder, bias: bool = True) -> None:
        super().__init__()
        self.size = ladder.seed
        self.linear = nn.Linear(inputs, channels * math.prod(ladder.seed), bias=bias)

    def forward(self, z: Tensor) -> Tensor:
        # Channels vary fastest: the result is a channels-last map without a copy.
        rows: Tensor = self.linear(z).unflatten(1, (*self.size, -1))
        return rows.permute(0, 3, 1, 2)
