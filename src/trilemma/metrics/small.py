"""Features of any image that need only this package: a small network taught by Inception and by ruined images."""

from __future__ import annotations

import hashlib
from importlib.resources import as_file, files
from itertools import pairwise

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from trilemma.metrics.features import Features

NAME = "small-v2"
WIDTHS = (32, 64, 128, 192)
DIMS = 128
LEAST, MOST = 32, 64  # pixels of the longer side that the network was taught on


class SmallFeatures(Features):
    """128 learnt features of grey or colour images of any size.

    A convolutional network of 1.4 million parameters (2.8 MB in half precision) that predicts the 128 principal
    components of the official FID Inception's features from images of 32 to 64 pixels, in Inception's own units, so
    that its Fréchet distance reads like an FID without being one. It was taught on CIFAR-10, Fashion-MNIST, MNIST,
    emoji, drawings, photographs and shapes, on all of these ruined in fifteen ways, and on samples of models that had
    not finished training; at the same time it learnt to name classes and to say how an image was ruined. The images,
    the recipe and their licences are in ``benchmarks/small_features.py``.

    The longer side is brought to 32 pixels where it is shorter and to 64 where it is longer; the aspect ratio is kept.
    So of large images it does not see what is finer than at 64 pixels: there take Inception's.
    It always runs on the CPU in float32: it is fast enough, and its numbers do not depend on the device.
    """

    name = NAME
    dims = DIMS

    def __init__(self) -> None:
        with as_file(files("trilemma.metrics") / f"{NAME}.safetensors") as path:
            state = load_file(path)
            self.weights = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self._network = Network().eval()
        self._network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _features(self, images: Tensor) -> Tensor:
        x = images.cpu().expand(-1, 3, -1, -1).float()
        longer = max(x.shape[2:])
        wanted = min(max(longer, LEAST), MOST)
        if wanted != longer:
            size = [max(1, round(side * wanted / longer)) for side in x.shape[2:]]
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        features: Tensor = self._network(((x - 127.5) / 64).contiguous(memory_format=torch.channels_last))
        return features


class Network(nn.Module):
    """From float32 ``[N, 3, H, W]`` to ``[N, 128]``: a stem, and three stages that halve the image.

    Each stage is a 3 × 3 convolution of stride 2 and a residual block of two more. What is read are the means over
    places of the last two stages. Batch normalisation, with which it was trained, is folded into the convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, padding=1)
        pairs = list(pairwise(WIDTHS))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.first = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for _, b in pairs)
        self.second = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for _, b in pairs)
        self.read = nn.Linear(WIDTHS[-2] + WIDTHS[-1], DIMS)

    def forward(self, x: Tensor) -> Tensor:
        x, means = self.stem(x).relu_(), []
        for down, first, second in zip(self.down, self.first, self.second, strict=True):
            x = down(x).relu_()
            x = (x + second(first(x).relu_())).relu_()
            means.append(x.mean((2, 3)))
        features: Tensor = self.read(torch.cat(means[-2:], 1))
        return features
