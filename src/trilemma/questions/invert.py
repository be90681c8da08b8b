"""The noise as a code: images to their x_T and back (DDIM inversion), and interpolation between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress
from trilemma.drawing import Picture, Sheet
from trilemma.families.family import Denoises
from trilemma.images import check_images, from_unit, to_display
from trilemma.likelihood import checked_labels
from trilemma.noise import ImageNoise
from trilemma.number import Number
from trilemma.questions.answer import Answer
from trilemma.questions.forward import end_moments
from trilemma.questions.question import AboutImages, Context
from trilemma.validate import MOST, Limits

STEPS = (10, 20, 50, 100, 200)
"""Steps each way, in the table of inversion errors."""

DECODING: Mapping[str, Any] = {"sampler": "ddim", "clip": False, "precision": "fp32"}
"""Sampling options that lead from a noise to its image: DDIM as published, which encoding is the inverse of."""


@dataclass(frozen=True)
class Invert(AboutImages):
    """Images to their noise and back."""

    counts: Annotated[tuple[int, ...], Limits(1, MOST, count=1)] | None = None
    """The numbers of steps to go there and back with, such as 10,50; by default 10,20,50,100,200."""
    options: Any = None
    """How to decode, laid over DDIM without clipping in float32: sampling options of the run's family."""

    name: ClassVar[str] = "invert"
    title: ClassVar[str] = "Inversion"
    sentence: ClassVar[str] = "Lead images to their noise and back: what is lost with how many steps?"
    paper: ClassVar[str] = "Song et al. 2021, Denoising diffusion implicit models, arXiv:2010.02502"
    capabilities: ClassVar[tuple[type, ...]] = (Denoises,)
    most: ClassVar[int] = 6

    def answer(self, context: Context) -> Answer:
        batch, model = context.batch(self), context.model
        assert isinstance(model, Denoises)
        options = context.options(self.options, base=DECODING)
        found = invert(model, batch.x, batch.conditions, steps=self.counts, options=options, progress=context.progress)
        last = found.errors[-1]
        error = Number(
            float(last.mean()),
            float(last.std()) / len(last) ** 0.5 if len(last) > 1 else None,
            "grey levels",
            "lower",
            len(last),
            note=f"root mean square over pixels, {found.steps[-1]} steps",
        )
        return Answer(
            self,
            context.run,
            numbers={"inversion_error": error},
            reading=found.lines,
            values={"steps": found.steps, "errors": found.errors.tolist()},
            found=(found, batch.x),
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        found, x = answer.found
        title = answer.title(f"{answer.protocol['images']} to noise and back")
        return {"inversion": draw_inversion(found, x, answer.run.config.spec.levels, title)}


@dataclass(frozen=True)
class Inverted:
    """Images, their noise, and what comes back from it.

    Attributes:
        steps: of each way, for each row.
        back: uint8 [len(steps), N, C, H, W].
        latent: float [N, C, H, W], the x_T of the most steps.
        errors: float64 [len(steps), N], root mean square over pixels of image - back, in grey levels (0 … 255).
    """

    steps: list[int]
    back: Tensor
    latent: Tensor
    errors: Tensor

    @property
    def lines(self) -> list[str]:
        table = [
            f"{steps:>5} steps: error {float(row.mean()):.2f} grey levels (worst image {float(row.max()):.2f})"
            for steps, row in zip(self.steps, self.errors, strict=True)
        ]
        moments = end_moments(self.latent, torch.zeros(1))
        return [
            *table,
            f"x_T: mean {moments.mean:.3f}, variance {moments.variance:.3f} (0 and 1 for noise from the model's prior)",
        ]


def deterministic(options: Any | None, model: Denoises) -> Any:
    """The options for decoding a given noise: those of `DECODING`, or what is given, if it adds no noise."""
    chosen = options or replace(model.Options(), **DECODING)
    if chosen.method.noisy:
        raise ValueError(
            "noise decides the image only without noise on the way: leave out the sampler ddpm, eta and churn"
        )
    return chosen


def invert(
    model: Denoises,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    steps: Sequence[int] | None = None,
    options: Any | None = None,
    progress: Progress | None = None,
) -> Inverted:
    """Image → noise → image by DDIM, with as many steps back as there.

    Args:
        model: on its device.
        images: uint8 [N, C, H, W].
        steps: for each row of the answer; by default those of `STEPS` that the model has.
        options: how to decode, by default `DECODING`; encoding has neither guidance nor clipping.

    Raises:
        ValueError: steps beyond those of the model, options that add noise, or that set the number of steps beside
            ``steps``, in one line.
    """
    options = deterministic(options, model)
    if options.steps is not None or options.times is not None:
        raise ValueError("inversion goes there and back for each of counts steps: leave out steps and times")
    x = check_images(images, model.spec).to(model.device)
    checked = checked_labels(model.spec, labels, len(images))
    model.check_conditions(options, checked)
    given = None if checked is None else checked.to(model.device)
    T = model.schedule.T
    counts = sorted({min(count, T) for count in STEPS} if steps is None else set(steps))
    if not counts or counts[0] < 1 or counts[-1] > T:
        raise ValueError(
            f"inversion takes 1 to {T} steps, as this model has so many, not "
            f"{','.join(map(str, counts)) or 'none'}: give other counts"
        )
    back, errors, latent, done = [], [], torch.zeros(0), 0
    for count in counts:
        chosen = replace(options, steps=count)
        latent = model.encode(x, given, chosen)
        decoded = model.decode(latent, ImageNoise(0, range(len(x)), model.device), given, chosen)
        shown = (to_display(images.to(model.device), model.spec.levels), to_display(decoded, model.spec.levels))
        errors.append((shown[0].double() - shown[1].double()).square().flatten(1).mean(1).sqrt().cpu())
        back.append(decoded.cpu())
        done += count
        if progress:
            progress(done, sum(counts))
    return Inverted(counts, torch.stack(back), latent.cpu(), torch.stack(errors))


def draw_inversion(answer: Inverted, images: Tensor, levels: int, title: str) -> Sheet:
    """A column for each image: itself, its noise, and what came back after each number of steps."""
    scale = drawing.scale_for(max(images.shape[2:]), 64)
    rows = [(images, "image"), (from_unit(answer.latent / 2, levels), "its noise / 2")]
    rows += [(back, f"{steps} steps") for back, steps in zip(answer.back, answer.steps, strict=True)]
    drawn = [_row(pictures, name, levels, scale) for pictures, name in rows]
    parts = [drawing.words([title], 16), drawing.below(drawn, 4), drawing.words(answer.lines, 12)]
    return drawing.framed(drawing.below(parts))


def _row(pictures: Tensor, name: str, levels: int, scale: int) -> Sheet:
    shown = [drawing.magnified(pixels, scale) for pixels in drawing.rgb(pictures, levels)]
    return drawing.beside([drawing.words([name], 12, 90), *shown], 4)


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Along the great circle from one noise to another, [N, …]: a straight line would pass where no noise ever is."""
    flat = one.flatten(1), other.flatten(1)
    cosine = (flat[0] * flat[1]).sum(1) / (flat[0].norm(dim=1) * flat[1].norm(dim=1))
    angle = cosine.clamp(-1 + 1e-7, 1 - 1e-7).arccos().view(-1, *[1] * (one.ndim - 1))
    between: Tensor = (((1 - share) * angle).sin() * one + (share * angle).sin() * other) / angle.sin()
    return between


def interpolate(
    model: Denoises,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    between: int = 7,
    options: Any | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """From each image to the next through their noises: uint8 [N // 2, between + 2, C, H, W].

    Images 0 and 1 are the ends of the first row, 2 and 3 of the second, as they come back from their noise. A
    conditional model gets the first image's label in the first half and the second's in the other.

    Args:
        between: pictures between the ends.
        options: how to decode, by default `DECODING` in 100 steps.

    Raises:
        ValueError: an odd number of images, in one line.
    """
    options = deterministic(options, model)
    if len(images) < 2 or len(images) % 2:
        raise ValueError(f"interpolation is between pairs: give an even number of images, not {len(images)}")
    x = check_images(images, model.spec).to(model.device)
    checked = checked_labels(model.spec, labels, len(images))
    model.check_conditions(options, checked)
    given = None if checked is None else checked.to(model.device)
    steps = options.steps or min(100, model.schedule.T)
    options = options if options.times else replace(options, steps=steps)
    z = model.encode(x, given, options)
    columns = []
    for place in range(between + 2):
        share = place / (between + 1)
        between_z = slerp(z[0::2], z[1::2], share)
        y = None if given is None else given[(0 if share < 0.5 else 1) :: 2]
        noise = ImageNoise(0, range(len(between_z)), model.device)
        columns.append(model.decode(between_z, noise, y, options).cpu())
        if progress:
            progress(place + 1, between + 2)
    return torch.stack(columns, 1)


def draw_interpolation(rows: Tensor, images: Tensor, levels: int, title: str) -> Sheet:
    """A row for each pair: the first image, what lies between their noises, and the second image."""
    scale = drawing.scale_for(max(images.shape[2:]), 64)
    shown = []
    for i, row in enumerate(rows):
        ends = [drawing.magnified(drawing.rgb(images[k : k + 1], levels)[0], scale) for k in (2 * i, 2 * i + 1)]
        between = drawing.beside([drawing.magnified(pixels, scale) for pixels in drawing.rgb(row, levels)], 4)
        shown.append(drawing.beside([ends[0], between, ends[1]], 14))
    words = drawing.words(["outside the images, between them what comes from the noise between their noises"], 12)
    return drawing.framed(drawing.below([drawing.words([title], 16), *shown, words]))
