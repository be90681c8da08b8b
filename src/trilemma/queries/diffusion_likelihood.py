"""The likelihood of a denoising model, looked at closely: the bound term by term, and the probability-flow equation."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trilemma.families.diffusion import EXACT, Dequantize, bound_terms
from trilemma.families.family import Family, Progress
from trilemma.images import check_images, to_unit
from trilemma.noise import ImageNoise, derive_seed
from trilemma.queries import drawing
from trilemma.queries.diffusion_chain import denoising
from trilemma.queries.likelihood import BLOCK, Answer, checked_labels


@dataclass(frozen=True)
class Terms:
    """The variational bound on images, term by term (Ho et al. 2020, eq. 5).

    Attributes:
        bits: float64 [N, T+1], L_0 (the discrete decoder), L_1 … L_{T-1} and L_T in bits/dim; a row adds up to the
            bound of its image. Below the time of the decoder there are no steps, and 0 stands for them.
        evaluated: how many of the steps were; those between are read off the line that joins their neighbours.
        first: the time of the decoder.
        decoder: the decoder in words.
    """

    bits: Tensor
    evaluated: int
    first: int = 1
    decoder: str = ""

    @property
    def mean(self) -> Tensor:
        """float64 [T+1]."""
        return self.bits.mean(0)

    @property
    def total(self) -> tuple[float, float]:
        """The bound in bits/dim, and its standard error over the images."""
        rows = self.bits.sum(1)
        return float(rows.mean()), float(rows.std()) / math.sqrt(len(rows)) if len(rows) > 1 else math.nan

    @property
    def text(self) -> str:
        mean, (total, error), T = self.mean, self.total, len(self.mean) - 1
        half = max(int((mean[:-1].cumsum(0) < total / 2).sum()), self.first - 1)
        return (
            f"at most {total:.4f} ± {error:.4f} bits/dim = L_0 {float(mean[0]):.4f} (discrete decoder) + "
            f"L_{self.first} … L_{T - 1} {float(mean[1:-1].sum()):.4f} + L_T {float(mean[-1]):.2g}; "
            f"half of it by t = {half + 1} of {T}"
        )

    @property
    def how(self) -> str:
        """What was computed, in a line."""
        steps = self.bits.shape[1] - 1 - self.first
        which = "every term" if self.evaluated == steps else f"{self.evaluated} of the {steps} terms"
        return f"{len(self.bits)} images, one draw of {which}" + (f"; {self.decoder}" if self.decoder else "")


def bound_by_time(
    model: Family,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Terms:
    """Every term of the bound on each image, one draw each.

    Args:
        model: of a denoising family, on its device; calibrated, if the bound is to be tight.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model, by default "no label".
        count: about how many of the terms between the ends to evaluate, at even distances of log t; by default
            all. A term falls about as 1/t, so that few are as good for a picture.
        progress: told ``(terms done, all)``.
    """
    model = denoising(model, "the bound by its terms")
    check_images(images, model.spec)
    labels = checked_labels(model.spec, labels, len(images))
    T, first, rows, done = model.schedule.T, model.chain.first, [], 0
    least = first + 1
    spread = np.arange(least, T + 1) if count is None or not 2 <= count < T - first else np.geomspace(least, T, count)
    times = sorted({round(float(t)) for t in spread})
    total = (len(times) + 2) * -(-len(images) // BLOCK)
    for start in range(0, len(images), BLOCK):
        stop = min(start + BLOCK, len(images))
        noise = ImageNoise(seed, range(start, stop), model.device)
        x0 = to_unit(images[start:stop].to(model.device), model.spec.levels)
        given = None if labels is None else labels[start:stop].to(model.device)
        terms = []
        with torch.no_grad():
            denoise, levels = model.bound_denoiser(given), model.spec.levels
            for _, nats in bound_terms(
                denoise, x0, model.schedule, noise, levels=levels, times=times, chain=model.chain
            ):
                terms.append(nats)
                done += 1
                if progress:
                    progress(done, total)
        rows.append(torch.stack(terms, 1))
    found = torch.cat(rows) / (model.spec.dims * math.log(2))  # [N, len(times) + 2]
    if len(times) < T - first:
        at, everywhere = np.log(times), np.log(np.arange(least, T + 1))
        between = [torch.from_numpy(np.interp(everywhere, at, row.numpy())) for row in found[:, 1:-1]]
        found = torch.cat([found[:, :1], torch.stack(between), found[:, -1:]], 1)
    none = found.new_zeros(len(found), first - 1)
    found = torch.cat([found[:, :1], none, found[:, 1:]], 1)
    return Terms(found, len(times), first, model.chain.told(model.schedule))


def draw_terms(terms: Terms, path: str | os.PathLike[str], title: str) -> Path:
    """A PNG of the terms over t, both axes by factors of ten, with what they have added up to."""
    mean = terms.mean
    T = len(mean) - 1
    values = torch.cat([mean[:1].expand(terms.first), mean[terms.first : -1]]).clamp(min=1e-12)
    whole = mean.sum()
    low = math.floor(math.log10(max(float(values.min()), float(values.max()) * 1e-6)))
    high = math.ceil(math.log10(float(values.max())))
    decades = [float(k) for k in range(math.floor(math.log10(T)) + 1)]
    plot = drawing.Plot(
        (560, 360),
        (0, math.log10(T)),
        (low, max(high, low + 1)),
        ("t (the term L_{t-1})", "bits/dim of one term (blue, left); share of the bound spent (orange, right)"),
        (decades, [float(k) for k in range(low, max(high, low + 1) + 1)]),
        lambda k: f"{10.0**k:g}",
    )
    top = max(high, low + 1)
    places = [math.log10(t) for t in range(1, T + 1)]
    bits = values.log10().clamp(low, top).tolist()
    plot.line(list(zip(places, bits, strict=True)), drawing.BLUE)
    share = (mean[:-1].cumsum(0) / whole).clamp(0, 1) * (top - low) + low
    plot.line(list(zip(places, share.tolist(), strict=True)), drawing.ORANGE)
    face = drawing.font(12)
    for part in (0.0, 0.5, 1.0):  # the scale of the orange line
        place = plot.at(0, low + part * (top - low))[1]
        plot.pen.text((plot.right - face.getlength(f"{part:g}") - 8, place - 16), f"{part:g}", drawing.ORANGE, face)
        plot.pen.line([(plot.right - 4, place), (plot.right, place)], drawing.ORANGE)
    lines = [terms.text, terms.how]
    picture = drawing.below([drawing.words([title], 16), drawing.words(lines, 12), plot.finished()])
    return drawing.save(drawing.framed(picture), path)


@dataclass(frozen=True)
class FlowAnswer:
    """log P(x) by the probability-flow equation.

    Attributes:
        answer: the same form as of any likelihood, its nats averaged over ``samples`` draws.
        noise: mean over the images of the standard error that the draws (dequantisation and probe) leave in an
            image's bits/dim; NaN for one draw.
        evaluations: of the network per draw, a mean over the images.
    """

    answer: Answer
    noise: float
    evaluations: float

    def below(self, bound: Answer) -> tuple[float, float]:
        """How many bits/dim the equation gives less than another answer for the same images, with its standard error.

        The images are the same, so what they differ in among themselves is no part of the error.
        """
        if bound.bits is None or self.answer.bits is None:
            return math.nan, math.nan
        gaps = bound.bits - self.answer.bits
        return float(gaps.mean()), float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan


def flow_likelihood(
    model: Family,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    samples: int = 1,
    dequantize: Dequantize = "decoder",
    tolerance: float = 1e-4,
    seed: int = 0,
    progress: Progress | None = None,
) -> FlowAnswer:
    """log P(x) of each image by the probability-flow equation, a lower bound in expectation and nearly tight.

    Of vectors it is the density itself, up to the solver's tolerance, and nothing is dequantised.

    Args:
        model: of a denoising family, on its device.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model, by default "no label".
        samples: draws of the dequantisation and of the probe for each image.
        dequantize, tolerance: see `Denoising.flow_log_likelihood`.
        progress: told ``(draws done, all)``.
    """
    model = denoising(model, "the probability-flow equation")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be a number above 0, not {tolerance}")
    check_images(images, model.spec)
    labels = checked_labels(model.spec, labels, len(images))
    draws, costs = [], []
    for sample in range(samples):
        nats = []
        for start in range(0, len(images), BLOCK):
            stop = min(start + BLOCK, len(images))
            noise = ImageNoise(derive_seed(seed, "flow", sample), range(start, stop), model.device)
            given = None if labels is None else labels[start:stop].to(model.device)
            x = images[start:stop].to(model.device)
            found, cost = model.flow_log_likelihood(x, given, noise, dequantize=dequantize, tolerance=tolerance)
            nats.append(found)
            costs.append(cost.double())
            if progress:
                progress(sample * len(images) + stop, samples * len(images))
        draws.append(torch.cat(nats))
    drawn = torch.stack(draws)  # [samples, N]
    way = model.chain.told(model.schedule) if dequantize == "decoder" else "uniform dequantisation"
    reason = (
        f"probability-flow equation, the law of samplers without noise, Hutchinson's trace, {way}, "
        f"tolerance {tolerance:g}, {samples} draw{'s' * (samples > 1)} an image"
    )
    if model.spec.vector:
        trace = "exact trace" if model.spec.dims <= EXACT else "Hutchinson's trace"
        reason = f"density by the probability-flow equation, the law of samplers without noise, {trace}, "
        reason += f"tolerance {tolerance:g}"
    unit = model.spec.dims * math.log(2)
    left = float((drawn.std(0) / math.sqrt(samples)).mean()) / unit if samples > 1 else math.nan
    kind = "estimate" if model.spec.vector else "bound"
    answer = Answer(kind, reason, drawn.mean(0), model.spec.dims, model.spec.levels)
    return FlowAnswer(answer, left, float(torch.cat(costs).mean()))
