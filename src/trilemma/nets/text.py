"""Captions for a network: a small transformer that reads them, and attention from pixels to what it read.

A caption is a row of token ids that begins with `START` and is filled up with `PADDING`, which nothing ever looks at.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.images import PADDING, START
from trilemma.nets.blocks import group_norm, zero

HEAD = 64
"""Channels of a head of attention."""


class Encoded(NamedTuple):
    """What was read of N captions.

    Attributes:
        tokens: float [N, L, size], a vector for each token.
        padding: bool [N, L], True where there is none.
        pooled: float [N, size], one for the whole.
    """

    tokens: Tensor
    padding: Tensor
    pooled: Tensor


class Encoder(nn.Module):
    """The base of what reads captions: int64 [N, length] → `Encoded` with vectors of ``size``."""

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        self.length, self.size = length, size

    def empty(self, count: int, device: torch.device) -> Tensor:
        """So many empty captions, int64 [N, length]."""
        rows = torch.full((count, self.length), PADDING, device=device)
        rows[:, 0] = START
        return rows


class TextEncoder(Encoder):
    """A transformer trained along with the network that it reads for (Vaswani et al. 2017, with norms first as in
    Xiong et al. 2020); the vector of the first token stands for the whole caption.

    Args:
        vocabulary: number of tokens, with the padding.
        length: tokens in a row.
        size: of the vectors, a multiple of 64.
        layers: of the transformer.
    """

    def __init__(self, vocabulary: int, length: int, size: int, layers: int) -> None:
        super().__init__(length, size)
        self.token = nn.Embedding(vocabulary, size)
        self.position = nn.Parameter(torch.randn(length, size))
        self.layers = nn.ModuleList(TextLayer(size) for _ in range(layers))
        self.norm = nn.LayerNorm(size)

    def forward(self, rows: Tensor) -> Encoded:
        padding = rows == PADDING
        x = self.token(rows) + self.position
        for layer in self.layers:
            x = layer(x, padding)
        x = self.norm(x)
        return Encoded(x, padding, x[:, 0])


class TextLayer(nn.Module):
    """Self-attention over tokens and a perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.wide, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """x [N, L, size], padding bool [N, L] → [N, L, size]."""
        q, k, v = (heads(part) for part in self.qkv(self.norm1(x)).chunk(3, 2))
        x = x + self.out(attend(q, k, v, padding))
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Residual attention from the pixels of [N, C, H, W] to the tokens of a text; starts as the identity."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(channels // HEAD, 1))
        self.norm = group_norm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(size, 2 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, text: Encoded) -> Tensor:
        n, c, height, width = x.shape
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # [N, HW, C]
        keys, values = self.key_value(text.tokens).chunk(2, 2)
        q, k, v = (heads(part, self.heads) for part in (self.query(pixels), keys, values))
        mixed = self.out(attend(q, k, v, text.padding))
        return x + mixed.transpose(1, 2).reshape(n, c, height, width)  # type: ignore[no-any-return]


def heads(x: Tensor, count: int = 0) -> Tensor:
    """[N, L, size] → [N, heads, L, size / heads], in heads of 64 unless told how many."""
    n, length, size = x.shape
    return x.view(n, length, count or size // HEAD, -1).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
    """Attention of q [N, heads, Q, d] to k and v [N, heads, L, d], blind to the padding, bool [N, L]: [N, Q, heads·d].

    The plain product: at these lengths it is as fast as a fused kernel, and on a CPU faster.
    """
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    weights = scores.masked_fill(padding[:, None, None], -math.inf).softmax(3)
    return (weights @ v).transpose(1, 2).flatten(2)
