"""What a code costs and what it saves: rate against distortion, and how blurred the images become.

Alemi, Poole, Fischer, Dillon, Saurous & Murphy 2018, "Fixing a broken ELBO", arXiv 1711.00464: the ELBO is
-(rate + distortion), so all points of a line of slope -1 have one bound, and β chooses where on the curve of the best
codes a VAE ends up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from trilemma import drawing
from trilemma.families.family import Family
from trilemma.families.vae import VAE
from trilemma.metrics.spectrum import Spectrum
from trilemma.parallel import ranks
from trilemma.questions.decoders import opened
from trilemma.questions.posterior import distortion_unit, posterior
from trilemma.run import Run

LINES = (
    (32, 32, 32), (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233),
)  # fmt: skip
"""The first, dark, is for real images."""


@dataclass(frozen=True)
class RatePoint:
    """One VAE on the plane, means over images in nats.

    Attributes:
        beta: that it was trained with.
        rate: KL(q(z|x) ‖ p(z)).
        distortion: -log p(x|z), z ~ q(z|x).
        active: latents that vary over the images.
        latents: how many there are.
        sharpness: of its samples, as `trilemma.metrics.spectrum.sharpness`; None where it was not measured.
    """

    beta: float
    rate: float
    distortion: float
    active: int
    latents: int
    sharpness: float | None = None

    @property
    def bound(self) -> float:
        """rate + distortion: -log p(x) is at most this."""
        return self.rate + self.distortion


def rate_point(
    run: Run | Family, images: Tensor, labels: Tensor | None = None, *,
    seed: int = 0, device: str = "auto",
) -> RatePoint:  # fmt: skip
    """Where a VAE stands for some images, uint8 [N, C, H, W]; ``ValueError`` for another family or the L2 distance."""
    model = opened(run, ranks(device).device)
    if not isinstance(model, VAE) or distortion_unit(model) != "nats":
        raise ValueError("rate and distortion in nats are those of a vae with observation bernoulli or logistic")
    known = posterior(model, images, labels, seed=seed, device=str(model.device))
    assert known.rate is not None
    return RatePoint(
        model.config.beta,
        float(known.rate.sum()),
        float(known.distortion.mean()),
        int(known.active.sum()),
        len(known.active),
    )


def draw_rate_distortion(
    points: Sequence[RatePoint],
    path: str | os.PathLike[str],
    title: str,
    samples: Mapping[float, Tensor] | None = None,
    levels: int = 256,
) -> Path:
    """The curve as a PNG: each β at its rate and distortion, with the line of the best bound, and what it looks like.

    Args:
        points: one for each β.
        samples: β → uint8 [N, C, H, W], drawn as a row under the curve.
        levels: of the samples.
    """
    points = sorted(points, key=lambda point: point.rate)
    rates, distortions = [p.rate for p in points], [p.distortion for p in points]
    x, y = _span(rates, 0.08), _span(distortions, 0.12)
    names = ("rate KL(q(z|x) || p(z)), nats", "distortion -log p(x|z), nats")
    plot = drawing.Plot((560, 420), x, y, names, (drawing.steps(*x, 6), drawing.steps(*y, 6)))
    best = min(point.bound for point in points)
    ends = [(rate, best - rate) for rate in torch.linspace(*x, 200).tolist() if y[0] <= best - rate <= y[1]]
    if len(ends) > 1:
        plot.line(ends, drawing.FAINT, 1)
    plot.line(list(zip(rates, distortions, strict=True)), drawing.BLUE)
    for point in points:
        across, up = plot.at(point.rate, point.distortion)
        plot.pen.ellipse((across - 4, up - 4, across + 4, up + 4), fill=drawing.ORANGE)
        text, face = f"beta {point.beta:g}", drawing.font(12)
        place = min(across + 7, plot.right - face.getlength(text))  # within the picture
        plot.pen.text((place, up - 18), text, drawing.INK, face)
    lines = [f"grey: all codes with the best bound, rate + distortion = {best:.1f} nats"]
    for point in points:
        blur = "" if point.sharpness is None else f", fine detail of samples {100 * point.sharpness:.0f} % of real"
        lines.append(
            f"beta {point.beta:g}: rate {point.rate:.1f} + distortion {point.distortion:.1f} = {point.bound:.1f}, "
            f"{point.active} of {point.latents} latents active{blur}"
        )
    told = [
        "Rate: what the code says of an image. Distortion: what it leaves out. To the right codes say more and images",
        "are told apart; to the left (large beta) they say less, and what they leave out is averaged: blur.",
    ]
    parts = [drawing.words([title], 16), drawing.words(told, 12), plot.finished(), drawing.words(lines, 12)]
    parts += [_row(f"samples, beta {beta:g}", samples[beta], levels) for beta in sorted(samples)] if samples else []
    return drawing.save(drawing.framed(drawing.below(parts, 10)), path)


def _row(name: str, images: Tensor, levels: int) -> Image.Image:
    scale = drawing.scale_for(max(images.shape[2:]), 48)
    pictures = [drawing.magnified(picture, scale) for picture in drawing.rgb(images, levels)]
    return drawing.beside([drawing.words([name], 12, 130), drawing.beside(pictures, 3)], 4)


def draw_spectra(spectra: Mapping[str, Spectrum], path: str | os.PathLike[str], title: str) -> Path:
    """Power against frequency as a PNG, logarithmic in power; the first of ``spectra`` should be the real images'."""
    logs = {name: spectrum.power.clamp(min=1e-12).log10() for name, spectrum in spectra.items()}
    values = torch.cat(list(logs.values()))
    y = _span(values.tolist(), 0.05)
    ticks = (drawing.steps(0, 0.5, 5), drawing.steps(*y, 6))
    plot = drawing.Plot((560, 380), (0, 0.5), y, ("cycles per pixel", "log10 of the power"), ticks)
    entries = []
    for colour, (name, spectrum) in zip(LINES * len(spectra), spectra.items(), strict=False):
        plot.line(list(zip(spectrum.frequencies.tolist(), logs[name].tolist(), strict=True)), colour)
        entries.append((drawing.swatch(colour, 10), name))
    keys = [drawing.key(entries[i : i + 4]) for i in range(0, len(entries), 4)]
    parts = [drawing.words([title], 16), plot.finished(), *keys]
    return drawing.save(drawing.framed(drawing.below(parts, 10)), path)


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    wide = max(high - low, 1e-6)
    return low - margin * wide, high + margin * wide
