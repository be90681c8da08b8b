"""Networks for vectors ``[B, D]``: a denoiser that knows the time, and the pair of a GAN.

They always compute in float32, whatever autocast says: they are small, and bfloat16 has no room for a narrow mode
beside a wide one.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.nets.blocks import TimeEmbedding, with_extra, zero
from trilemma.nets.convnets import embed, label_embedding
from trilemma.nets.spectral import normalise_spectrally

OCTAVES = 6
"""Frequencies in which a denoiser sees each value, from half a period over the unit range up by factors of two."""


class Block(nn.Module):
    """Layer norm, SiLU and a linear layer, twice; the embedding shifts and scales in between. The identity at first."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), zero(nn.Linear(width, width))
        self.modulation = nn.Linear(embedding, 2 * width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = self.modulation(embedding).chunk(2, 1)
        inner = self.first(F.silu(self.first_norm(h)))
        out: Tensor = h + self.second(F.silu(self.second_norm(inner) * (1 + scale) + shift))
        return out


class TimeMLP(nn.Module):
    """Vectors, times and labels → ``outputs`` values for each value; the interface of `UNet`, and 0 at first.

    Beside the values the net sees their sines and cosines in `OCTAVES` frequencies (Tancik et al. 2020, "Fourier
    features let networks learn high frequency functions", arXiv 2006.10739), without which narrow modes take long.

    Args:
        dims: D.
        width: units of a layer, an even number.
        blocks: residual blocks, of two layers each.
        classes: number of classes; 0 for an unconditional net.
        outputs: values for each value, one block of D after the other: ``[B, outputs·D]``.
    """

    def __init__(self, dims: int, *, width: int, blocks: int, classes: int = 0, outputs: int = 1) -> None:
        super().__init__()
        self.classes, self.embedding = classes, width
        self.time = TimeEmbedding(width, width)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.stem = nn.Linear(dims * (1 + 2 * OCTAVES), width)
        self.blocks = nn.ModuleList(Block(width, width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = zero(nn.Linear(width, outputs * dims))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """x float [B, D], t float [B] on a scale of 0 … 1000, labels int64 [B] and extra [B, width] as in `UNet`."""
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            embedding = self.time(t)
            if self.label is not None:
                if labels is None:
                    labels = torch.full((len(t),), self.classes, device=t.device)
                embedding = embedding + self.label(labels)
            embedding = F.silu(with_extra(embedding, extra))
            h = self.stem(torch.cat([x, *waves(x)], 1))
            for block in self.blocks:
                h = block(h, embedding)
            out: Tensor = self.head(F.silu(self.norm(h)))
        return out

    def at(self, t: Tensor, timesteps: int) -> Tensor:
        """The time t of a chain of so many steps on the scale of 0 … 1000."""
        return t * (1000 / timesteps)


def waves(x: Tensor, octaves: int = OCTAVES) -> list[Tensor]:
    """Sines and cosines of π/2 · 2^k · x, k = 0 … octaves - 1."""
    angles = [x * (math.pi / 2 * 2**k) for k in range(octaves)]
    return [wave for angle in angles for wave in (angle.sin(), angle.cos())]


class VectorGenerator(nn.Module):
    """``[B, latent]`` and labels to vectors ``[B, D]``: hidden layers with batch norm (or none) and ReLU, a linear end.

    The kind of network in which mode collapse is studied on 2-D mixtures (Srivastava et al. 2017, VEEGAN; Lin et al.
    2018, PacGAN, section 4.1).
    """

    def __init__(self, dims: int, width: int, depth: int, latent: int, classes: int = 0, *, norm: bool = True) -> None:
        super().__init__()
        self.label = label_embedding(classes, width, std=0.1)
        sizes = [latent + (width if classes else 0), *[width] * depth]
        layers: list[nn.Module] = []
        for below, above in pairwise(sizes):
            layers += [nn.Linear(below, above, bias=not norm), *([nn.BatchNorm1d(above)] if norm else []), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dims))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu" if z.is_meta else z.device.type, enabled=False):
            if (label := embed(self.label, labels, len(z))) is not None:
                z = torch.cat([z, label], 1)
            out: Tensor = self.layers(z)
        return out


class VectorDiscriminator(nn.Module):
    """Vectors and labels to the logits of "this is real": hidden layers with leaky ReLU, no norm.

    ``[B, pack·D]`` and ``[B·pack]`` labels to ``[B]``: ``pack`` vectors stand side by side and are judged together. A
    label enters as a projection on the features, as in the image discriminator. Beside the values it may see their
    sines and cosines in some ``octaves``, as `TimeMLP` does.
    """

    def __init__(
        self,
        dims: int,
        width: int,
        depth: int,
        classes: int = 0,
        *,
        pack: int = 1,
        spectral: bool = False,
        octaves: int = 0,
    ) -> None:
        super().__init__()
        self.pack, self.octaves = pack, octaves
        layers: list[nn.Module] = []
        for below, above in pairwise([pack * dims * (1 + 2 * octaves), *[width] * depth]):
            layers += [nn.Linear(below, above), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, 1)
        self.label = label_embedding(classes, pack * width, std=0.02)
        if spectral:
            normalise_spectrally(self)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            features = self.layers(torch.cat([x, *waves(x, self.octaves)], 1) if self.octaves else x)
            logits: Tensor = self.head(features).squeeze(1)
            if (label := embed(self.label, labels, len(x) * self.pack)) is not None:
                # Of each vector the embedding that belongs to its place in the pack: [B, vector, place, features].
                each = label.view(len(x), self.pack, self.pack, -1)
                logits = logits + (each.diagonal(dim1=1, dim2=2).sum(-1) * features).sum(1)
        return logits
