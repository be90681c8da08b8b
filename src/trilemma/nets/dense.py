"""Fully connected encoders and decoders, with the interface of the convolutional ones (`convnets.py`).

The networks of the first variational autoencoders (Kingma & Welling 2013, section 5; Burda et al. 2015, section 5):
on 28 x 28 binary digits a step costs a hundredth of a convolutional one.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from trilemma.nets.convnets import embed, label_embedding


def layers(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """``depth`` hidden layers of ``width`` tanh units, Glorot's initial weights (Glorot & Bengio 2010, eq. 16)."""
    sizes = [inputs, *[width] * depth, outputs]
    modules: list[nn.Module] = []
    for below, above in pairwise(sizes):
        linear = nn.Linear(below, above)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.Tanh()]
    return nn.Sequential(*modules[:-1])


class DenseEncoder(nn.Module):
    """Images ``[B, C, H, W]``, or vectors, and labels to ``[B, outputs]``; arguments as `Encoder`."""

    def __init__(self, shape: tuple[int, ...], width: int, depth: int, outputs: int, classes: int = 0) -> None:
        super().__init__()
        self.label = label_embedding(classes, width)
        self.layers = layers(math.prod(shape) + (width if classes else 0), width, depth, outputs)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        if (label := embed(self.label, labels, len(x))) is not None:
            x = torch.cat([x, label], 1)
        out: Tensor = self.layers(x)
        return out


class DenseDecoder(nn.Module):
    """``[B, latent]`` and labels to ``[B, outputs, H, W]`` (to ``[B, outputs]`` where ``shape`` is that of vectors),
    linear at the end; as `Decoder`."""

    def __init__(
        self, shape: tuple[int, ...], width: int, depth: int, latent: int, outputs: int, classes: int = 0
    ) -> None:
        super().__init__()
        self.shape = (outputs, *shape[1:])
        self.label = label_embedding(classes, width)
        self.layers = layers(latent + (width if classes else 0), width, depth, math.prod(self.shape))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if (label := embed(self.label, labels, len(z))) is not None:
            z = torch.cat([z, label], 1)
        out: Tensor = self.layers(z)
        return out.view(-1, *self.shape)
