"""The variational bound of a denoising model, term by term."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import BLOCK, Progress, map_blocks
from trilemma.drawing import Picture, Sheet
from trilemma.families.diffusion import bound_terms
from trilemma.families.family import Denoises
from trilemma.images import check_images, to_unit
from trilemma.likelihood import checked_labels
from trilemma.metrics.likelihood import worse_than_uniform
from trilemma.noise import ImageNoise
from trilemma.number import Number
from trilemma.parallel import Ranks
from trilemma.questions.answer import Answer
from trilemma.questions.question import AboutImages, Context, Question, own
from trilemma.run import Run
from trilemma.validate import MOST, Limits


@dataclass(frozen=True)
class BoundTerms(AboutImages):
    """Every term of the variational bound."""

    count: Annotated[int, Limits(2, MOST)] | None = None
    """Evaluate about so many of the terms, at even distances of log t; by default all."""

    name: ClassVar[str] = "terms"
    title: ClassVar[str] = "Variational bound, term by term"
    sentence: ClassVar[str] = "Where is the variational bound spent: every term in bits per dimension, over t?"
    paper: ClassVar[str] = "Ho et al. 2020, Denoising diffusion probabilistic models, arXiv:2006.11239, equation 5"
    capabilities: ClassVar[tuple[type, ...]] = (Denoises,)

    @classmethod
    def routine(cls, run: Run) -> Question | None:
        return cls(n=8, count=60, labels=own(run))

    def answer(self, context: Context) -> Answer:
        batch, model = context.batch(self), context.calibrated
        assert isinstance(model, Denoises)
        terms = bound_by_time(
            model,
            batch.x,
            batch.conditions,
            count=self.count,
            seed=context.seed,
            where=context.where,
            progress=context.progress,
        )
        mean, error = terms.total
        bits = Number(mean, error, "bits/dim", "lower", len(batch.x), "bound", terms.how).finite()
        return Answer(
            self,
            context.run,
            kind="bound",
            numbers={"bits_per_dim": bits},
            reading=[terms.text, terms.how],
            flag=worse_than_uniform(mean, context.spec.levels),
            values={
                "timesteps": len(terms.mean) - 1,
                "decoder": {"time": terms.first, "how": terms.decoder},
                "mean_bits_per_dim": mean,
                "standard_error": bits.error,
                "terms": terms.mean.tolist(),
            },
            found=terms,
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        title = answer.title(f"the bound on {answer.protocol['images']}, term by term")
        return {"terms": draw_terms(answer.found, title)}


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
    model: Denoises,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    where: Ranks | None = None,
    progress: Progress | None = None,
) -> Terms:
    """Every term of the bound on each image, one draw each.

    Args:
        model: on its device; calibrated, if the bound is to be tight.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model, by default "no label".
        count: about how many of the terms between the ends to evaluate, at even distances of log t; by default
            all. A term falls about as 1/t, so that few are as good for a picture.
        where: the processes that share the images; by default this one alone.
        progress: told of the images done and of all.
    """
    check_images(images, model.spec)
    labels = checked_labels(model.spec, labels, len(images))
    T, first, levels = model.schedule.T, model.chain.first, model.spec.levels
    least = first + 1
    spread = np.arange(least, T + 1) if count is None or not 2 <= count < T - first else np.geomspace(least, T, count)
    times = sorted({round(float(t)) for t in spread})

    @torch.no_grad()
    def of_block(rows: range, progress: Progress | None) -> tuple[Tensor]:
        part = slice(rows.start, rows.stop)
        noise = ImageNoise(seed, rows, model.device)
        x0 = to_unit(images[part].to(model.device), levels)
        denoise = model.bound_denoiser(None if labels is None else labels[part].to(model.device))
        terms: list[Tensor] = []
        for _, nats in bound_terms(denoise, x0, model.schedule, noise, levels=levels, times=times, chain=model.chain):
            terms.append(nats)
            if progress:
                progress(len(terms), len(times) + 2)
        return (torch.stack(terms, 1),)

    alone = Ranks(0, 1, model.device)
    (nats,) = map_blocks(of_block, len(images), where or alone, block=BLOCK, progress=progress)
    found = nats / (model.spec.dims * math.log(2))  # [N, len(times) + 2]
    if len(times) < T - first:
        at, everywhere = np.log(times), np.log(np.arange(least, T + 1))
        between = [torch.from_numpy(np.interp(everywhere, at, row.numpy())) for row in found[:, 1:-1]]
        found = torch.cat([found[:, :1], torch.stack(between), found[:, -1:]], 1)
    none = found.new_zeros(len(found), first - 1)
    found = torch.cat([found[:, :1], none, found[:, 1:]], 1)
    return Terms(found, len(times), first, model.chain.told(model.schedule))


def draw_terms(terms: Terms, title: str) -> Sheet:
    """The terms over t, both axes by factors of ten, with what they have added up to."""
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
        plot.pen.text((plot.right - face.getlength(f"{part:g}") - 8, place - 16), f"{part:g}", fill=drawing.ORANGE)
        plot.pen.line([(plot.right - 4, place), (plot.right, place)], drawing.ORANGE)
    lines = [terms.text, terms.how]
    picture = drawing.below([drawing.words([title], 16), drawing.words(lines, 12), plot.finished()])
    return drawing.framed(picture)
