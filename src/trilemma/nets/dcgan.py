"""The networks of DCGAN (Radford et al. 2015, arXiv 1511.06434), for any image size, each guideline a switch.

The defaults are the paper's guidelines (section 3): strided and fractionally strided convolutions instead of pooling;
batch norm in both nets but not at the generator's output or the discriminator's input; no fully connected hidden
layers; ReLU with a Tanh output in the generator; LeakyReLU of slope 0.2 in the discriminator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.nets.convnets import Ladder, Seed, embed, label_embedding
from trilemma.nets.spectral import normalise_spectrally

Activation = Literal["relu", "leaky-relu"]
Norm = Literal["batch", "layer", "none"]

HIDDEN = 8
"""Units of a fully connected hidden layer, in widths."""


class Generator(nn.Module):
    """``[B, latent]`` and labels to images on [-1, 1]; the label embedding is appended to z.

    Args:
        shape: ``(C, H, W)`` of the images.
        width: channels at half resolution; they double with each halving, up to eight times the width.
        latent: length of z.
        classes: number of labels; 0 for none.
        strided: climb by fractionally strided convolutions, or else by repeating pixels before a convolution.
        fully_connected: a hidden layer between z and the first feature map.
        norm: of every layer but the last.
        norm_output: of the last layer too.
        activation: of every layer but the last.
        output: ``tanh``, or ``linear``, whose values may leave [-1, 1].
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        latent: int,
        classes: int = 0,
        *,
        strided: bool = True,
        fully_connected: bool = False,
        norm: Norm = "batch",
        norm_output: bool = False,
        activation: Activation = "relu",
        output: Literal["tanh", "linear"] = "tanh",
    ) -> None:
        super().__init__()
        self.ladder, self.output = Ladder.of(*shape[1:]), output
        channels = self.ladder.channels(width)[::-1]
        # Labels start small beside z: as large as z, their steady gradient drowns it and each class is one image.
        self.label = label_embedding(classes, width, std=0.1)
        inputs = latent + (width if classes else 0)
        bias = norm == "none"  # a norm takes a bias away again
        layers: list[nn.Module] = []
        if fully_connected:
            layers += [nn.Linear(inputs, HIDDEN * width, bias), *norm_of_rows(norm, HIDDEN * width), act(activation)]
            inputs = HIDDEN * width
        layers += [Seed(inputs, channels[0], self.ladder, bias), *norm_of_maps(norm, channels[0]), act(activation)]
        for below, above in pairwise(channels):
            layers += [*up(below, above, strided, bias), *norm_of_maps(norm, above), act(activation)]
        layers += up(channels[-1], shape[0], strided, True)
        layers += norm_of_maps("batch", shape[0]) if norm_output else []
        self.layers = nn.Sequential(*layers)
        self.layers.apply(init_dcgan)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if (label := embed(self.label, labels, len(z))) is not None:
            z = torch.cat([z, label], 1)
        image: Tensor = self.ladder.crop(self.layers(z))
        return torch.tanh(image) if self.output == "tanh" else image


class Discriminator(nn.Module):
    """Images on [-1, 1] and labels to one number each, ``[B]``: the logit of "this is real", or a critic's value.

    A label enters as a projection (Miyato & Koyama 2018, "cGANs with projection discriminator", eq. 4): the inner
    product of its embedding with the features, here of every place and not their sum over places, which on small
    images learns classes much later. With ``pack`` images judged at once (Lin et al. 2018) the input is
    ``[B, pack * C, H, W]``, the labels are ``[B * pack]``, and each place in the pack has an embedding of its own.

    Args:
        shape: ``(C, H, W)`` of one image.
        width, classes: as in `Generator`.
        pack: images that are judged together.
        strided: halve by strided convolutions, or else by the maximum of 2 x 2 pixels after a convolution.
        fully_connected: a hidden layer between the last feature map and the answer.
        norm: of every layer but the first.
        norm_input: of the first layer too.
        activation: of every layer.
        spectral: divide every weight by its largest singular value.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        classes: int = 0,
        *,
        pack: int = 1,
        strided: bool = True,
        fully_connected: bool = False,
        norm: Norm = "batch",
        norm_input: bool = False,
        activation: Activation = "leaky-relu",
        spectral: bool = False,
    ) -> None:
        super().__init__()
        self.ladder, self.pack = Ladder.of(*shape[1:]), pack
        channels = self.ladder.channels(width)
        first: Norm = norm if norm_input else "none"
        layers = [*down(pack * shape[0], width, strided, first == "none"), *norm_of_maps(first, width), act(activation)]
        for above, below in pairwise(channels):
            layers += [*down(above, below, strided, norm == "none"), *norm_of_maps(norm, below), act(activation)]
        features = channels[-1] * math.prod(self.ladder.seed)
        if fully_connected:
            hidden = HIDDEN * width
            layers += [
                nn.Flatten(),
                nn.Linear(features, hidden, norm == "none"),
                *norm_of_rows(norm, hidden),
                act(activation),
            ]
            features = hidden
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(features, 1)
        self.label = label_embedding(classes, pack * features, std=0.02)
        self.apply(init_dcgan)
        if spectral:
            normalise_spectrally(self)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.layers(self.ladder.pad(x))
        weight, label = self.head.weight, embed(self.label, labels, len(x) * self.pack)
        if label is not None:
            # Of each image the embedding that belongs to its place in the pack: [B, image, place, features].
            each = label.view(len(x), self.pack, self.pack, -1)
            label = each.diagonal(dim1=1, dim2=2).sum(-1)
        if features.ndim == 4:
            # Channels vary fastest in the maps. Rows in that order are no copy, and neither are their gradients, whose
            # other order would make the activation's backward pass ten times slower.
            size = features.shape[1:]
            features, weight = rows(features), rows(weight.view(-1, *size))
            label = label if label is None else rows(label.reshape(-1, *size))
        logits = F.linear(features, weight, self.head.bias).squeeze(1)
        return logits if label is None else logits + (label * features).sum(1)


def rows(maps: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, H * W * C]``."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def up(below: int, above: int, strided: bool, bias: bool) -> list[nn.Module]:
    """Twice the resolution."""
    if strided:
        return [nn.ConvTranspose2d(below, above, 4, 2, 1, bias=bias)]
    return [nn.Upsample(scale_factor=2), nn.Conv2d(below, above, 3, padding=1, bias=bias)]


def down(above: int, below: int, strided: bool, bias: bool) -> list[nn.Module]:
    """Half the resolution."""
    if strided:
        return [nn.Conv2d(above, below, 4, 2, 1, bias=bias)]
    return [nn.Conv2d(above, below, 3, padding=1, bias=bias), nn.MaxPool2d(2)]


def norm_of_maps(norm: Norm, channels: int) -> list[nn.Module]:
    """Of feature maps: over batch and places, or over channels and places of each image alone."""
    made: dict[Norm, Callable[[], list[nn.Module]]] = {
        "batch": lambda: [nn.BatchNorm2d(channels)],
        "layer": lambda: [nn.GroupNorm(1, channels)],
        "none": list,
    }
    return made[norm]()


def norm_of_rows(norm: Norm, units: int) -> list[nn.Module]:
    """The same of vectors."""
    if norm == "none":
        return []
    return [nn.BatchNorm1d(units) if norm == "batch" else nn.LayerNorm(units)]


def act(activation: Activation) -> nn.Module:
    return nn.ReLU() if activation == "relu" else nn.LeakyReLU(0.2)


def init_dcgan(module: nn.Module) -> None:
    """N(0, 0.02) for weights, N(1, 0.02) for the gains of batch norm, 0 for biases."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
