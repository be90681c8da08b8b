"""How blurred are images? Their power at each spatial frequency, against that of real images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.metrics.estimate import jackknife_error
from trilemma.number import Number

BLOCK = 256
"""Images transformed together."""


@dataclass(frozen=True)
class Spectrum:
    """Radially averaged power of a set of images.

    Attributes:
        frequencies: float64 [F], in cycles per pixel, up to ½.
        power: float64 [F], mean squared modulus of the Fourier coefficients there, of pixels on [0, 1]; a set of
            independent pixels of variance v has v at every frequency, but for the first, which the removed mean lowers.
        n: number of images.
    """

    frequencies: Tensor
    power: Tensor
    n: int


def power_spectrum(images: Tensor) -> Spectrum:
    """The mean power spectrum of uint8 ``[N, C, H, W]`` images with values 0 … 255, N at least 1.

    Each image loses its mean and is faded to its edges by a Hann window, because an image is no period of a pattern:
    its opposite edges would count as one. Channels count alike. Rings of the frequency plane are 1 / min(H, W) wide;
    the one around 0 is left out.

    Raises:
        ValueError: other images, or smaller than 4 pixels a side, in one line.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(f"a spectrum needs uint8 images [N, C, H, W], not {images.dtype} {list(images.shape)}")
    height, width = images.shape[2:]
    if min(height, width) < 4:
        raise ValueError(f"a spectrum needs images of at least 4 x 4 pixels, not {height} x {width}")
    window = _hann(height)[:, None] * _hann(width)
    total = torch.zeros(height, width, dtype=torch.float64)
    for part in torch.split(images.cpu(), BLOCK):
        x = part.double() / 255
        weight = window / window.sum()
        x = (x - (x * weight).sum((2, 3), keepdim=True)) * window
        total += torch.fft.fft2(x).abs().square().mean(1).sum(0)
    power = total / len(images) / window.square().sum()
    radius = torch.sqrt(torch.fft.fftfreq(height).double()[:, None] ** 2 + torch.fft.fftfreq(width).double() ** 2)
    size = min(height, width)
    ring = (radius * size).round().long()
    count = size // 2
    kept = (ring >= 1) & (ring <= count)
    sums = torch.zeros(count + 1, dtype=torch.float64).index_add_(0, ring[kept], power[kept])
    places = torch.zeros(count + 1, dtype=torch.float64).index_add_(0, ring[kept], torch.ones_like(power[kept]))
    return Spectrum(torch.arange(1, count + 1, dtype=torch.float64) / size, sums[1:] / places[1:], len(images))


def sharpness(samples: Spectrum, real: Spectrum) -> float:
    """Power of the finer half of the frequencies, from ¼ cycle per pixel on, as a share of that of real images.

    1 is as sharp as real, 0 has no fine detail at all, above 1 there is noise that real images do not have; the
    geometric mean over the frequencies. NaN where the real images have no such power.

    Raises:
        ValueError: spectra of images of different sizes, in one line.
    """
    if len(samples.frequencies) != len(real.frequencies):
        raise ValueError("spectra of images of different sizes cannot be compared")
    fine = (real.frequencies >= 0.25) & (real.power > 0)
    if not bool(fine.any()):
        return math.nan
    return float((samples.power[fine] / real.power[fine]).log().mean().exp())


def sharpness_estimate(samples: Tensor, real: Spectrum, groups: int = 20) -> Number:
    """The `sharpness` of uint8 images ``[N, C, H, W]``, with its error by the jackknife over groups of images.

    Raises:
        ValueError: as `power_spectrum` and `sharpness`, or real images without fine detail, in one line.
    """
    groups = min(groups, len(samples))
    if groups < 2:
        raise ValueError(f"an error needs at least 2 images, not {len(samples)}")
    parts = [power_spectrum(part) for part in samples.tensor_split(groups)]
    powers = torch.stack([part.power * part.n for part in parts])
    counts = torch.tensor([part.n for part in parts], dtype=torch.float64)

    def share(power: Tensor, n: Tensor) -> float:
        return sharpness(Spectrum(parts[0].frequencies, power / n, int(n)), real)

    value = share(powers.sum(0), counts.sum())
    if math.isnan(value):
        raise ValueError("the real images have no fine detail")
    without = [share(powers.sum(0) - powers[i], counts.sum() - counts[i]) for i in range(groups)]
    return Number(value, jackknife_error(torch.tensor(without, dtype=torch.float64)))


def _hann(size: int) -> Tensor:
    return torch.hann_window(size + 2, periodic=False, dtype=torch.float64)[1:-1]
