"""Real images made worse on purpose: the scale on which a reader sees what a distance of 12 looks like."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from trilemma.images import to_pil
from trilemma.metrics.checks import check_labels

NOISE = (8.0, 16.0, 32.0, 64.0)
BLUR = (0.5, 1.0, 2.0, 4.0)
JPEG = (50.0, 75.0, 90.0, 97.0)
AVERAGES = (2.0, 4.0, 8.0)
BLOCKS = (2.0, 4.0, 8.0)
DROPPED = (0.1, 0.3, 0.5, 0.9)


@dataclass(frozen=True)
class Distortion:
    """One kind of damage at one strength.

    Attributes:
        name: ``noise``, ``blur``, ``jpeg``, ``averages``, ``blocks`` or ``dropped classes``.
        strength: noise: standard deviation in grey levels; blur: standard deviation in pixels, for an image of 32
            pixels; jpeg: 100 - quality; averages: images in each mean; blocks: how many along a side change places;
            dropped classes: share of the classes. Always: more is worse.
        text: both in words, as a label.
        apply: from ``uint8 [N, C, H, W]`` with values 0 … 255 to the same shape, the same for the same images. It
            needs labels ``[N]`` where classes are dropped.
        together: whether an image's fate depends on the others, so that all must be given at once.
    """

    name: str
    strength: float
    text: str
    apply: Callable[[Tensor], Tensor]
    together: bool = False


def distortions(labels: Tensor | None = None, classes: int = 0) -> list[Distortion]:
    """The ladder of every kind of damage, each kind from weak to strong.

    Args:
        labels: ``[N]`` classes of the images that will be distorted; None leaves dropped classes out.
        classes: how many classes there are.
    """
    found = [Distortion("noise", s, f"noise, σ {s:g} of 255", partial(add_noise, strength=s)) for s in NOISE]
    found += [Distortion("blur", s, f"blur, σ {s:g} px at 32 px", partial(blur, strength=s)) for s in BLUR]
    found += [Distortion("jpeg", s, f"JPEG quality {100 - s:g}", partial(jpeg, strength=s)) for s in JPEG]
    found += [Distortion("averages", s, f"mean of {s:g} images", partial(average, strength=s), True) for s in AVERAGES]
    found += [
        Distortion("blocks", s, f"{s:g} × {s:g} blocks shuffled", partial(shuffle_blocks, strength=s)) for s in BLOCKS
    ]
    if labels is not None and classes > 1:
        strengths = dict.fromkeys(min(classes - 1, max(1, round(share * classes))) / classes for share in DROPPED)
        found += [
            Distortion(
                "dropped classes",
                share,
                f"{round(share * classes)} of {classes} classes missing",
                partial(drop_classes, labels=labels, classes=classes, strength=share),
                together=True,
            )
            for share in strengths
        ]
    return found


def add_noise(images: Tensor, strength: float) -> Tensor:
    """Gaussian noise of that standard deviation in grey levels, clipped and rounded.

    The noise of an image is drawn from a seed made of its pixels, so it does not depend on the batch.
    """
    images = images.cpu()
    noise = torch.empty(images.shape)
    for image, drawn in zip(images, noise, strict=True):
        drawn.normal_(generator=torch.Generator().manual_seed(zlib.crc32(image.numpy().tobytes())))
    return (images + strength * noise).round().clamp(0, 255).to(torch.uint8)


def blur(images: Tensor, strength: float) -> Tensor:
    """Gaussian blur; the standard deviation is in pixels at a shorter side of 32 and grows with the image."""
    sigma = strength * min(images.shape[-2:]) / 32
    reach = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    taps = (taps / taps.sum()).view(1, 1, 1, -1)
    x = images.cpu().float().flatten(0, 1)[:, None]
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), taps)
    x = F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), taps.transpose(2, 3))
    return x.view(images.shape).round().clamp(0, 255).to(torch.uint8)


def jpeg(images: Tensor, strength: float) -> Tensor:
    """Saved as JPEG of quality 100 - strength (chroma at half resolution, as usual) and read again."""
    out = torch.empty_like(images, device="cpu")
    for i, image in enumerate(images):
        file = io.BytesIO()
        to_pil(image).save(file, format="JPEG", quality=round(100 - strength))
        pixels = np.array(Image.open(file))
        out[i] = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)
    return out


def average(images: Tensor, strength: float) -> Tensor:
    """Each image's mean with the next ones, ``strength`` in all, the last followed by the first."""
    x = images.cpu().float()
    return (sum(x.roll(-i, 0) for i in range(round(strength))) / round(strength)).round().to(torch.uint8)  # type: ignore[union-attr]


def shuffle_blocks(images: Tensor, strength: float) -> Tensor:
    """Cut into ``strength`` × ``strength`` equal blocks, in an order drawn once; what is left at the edges stays."""
    count = round(strength)
    height, width = images.shape[-2] // count, images.shape[-1] // count
    out = images.cpu().clone()
    if not height or not width:
        return out
    order = torch.randperm(count * count, generator=torch.Generator().manual_seed(count))
    for new, old in enumerate(order.tolist()):
        to, of = divmod(new, count), divmod(old, count)
        out[..., to[0] * height : (to[0] + 1) * height, to[1] * width : (to[1] + 1) * width] = images[
            ..., of[0] * height : (of[0] + 1) * height, of[1] * width : (of[1] + 1) * width
        ]
    return out


def drop_classes(images: Tensor, labels: Tensor, classes: int, strength: float, seed: int = 0) -> Tensor:
    """Images of that share of the classes, the last ones, replaced by random others: as many, but less diverse.

    Raises:
        ValueError: the labels do not fit the images, or no image would be left.
    """
    labels = check_labels(labels, len(images), classes)
    kept = (labels < classes - round(strength * classes)).nonzero()[:, 0]
    if not len(kept):
        raise ValueError(f"with {strength:.0%} of {classes} classes dropped, none of {len(images)} images is left")
    chosen = kept[torch.randint(len(kept), (len(images),), generator=torch.Generator().manual_seed(seed))]
    chosen[kept] = kept
    return images[chosen.to(images.device)]
