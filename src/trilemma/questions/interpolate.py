"""What lies between two images: along lines and arcs between their codes, or between their noises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress
from trilemma.drawing import Picture
from trilemma.families.family import Decodes, Denoises, Distils, Family
from trilemma.noise import ImageNoise
from trilemma.questions import invert
from trilemma.questions.answer import Answer
from trilemma.questions.posterior import codes, decode
from trilemma.questions.question import AboutImages, Batch, Context
from trilemma.sampling import choose_labels
from trilemma.validate import MOST, Limits


@dataclass(frozen=True)
class Interpolate(AboutImages):
    """Interpolation between pairs of images: of those asked about the first half and the second, or with labels true
    pairs of one class; of noises each image and the next. A student of few steps leads no image back to its noise: it
    goes between noises that are drawn."""

    points: Annotated[int, Limits(2, MOST)] = 9
    """Pictures in a row, its ends among them."""
    options: Any = None
    """Sampling options where noises are decoded: of diffusion and flow by DDIM without clipping unless they say
    otherwise."""

    name: ClassVar[str] = "interpolate"
    title: ClassVar[str] = "Interpolation"
    sentence: ClassVar[str] = "What lies between two images, in the space of codes or of noise?"
    paper: ClassVar[str] = (
        "White 2016, Sampling generative networks, arXiv:1609.04468; "
        "Song et al. 2020, Denoising diffusion implicit models, arXiv:2010.02502"
    )
    capabilities: ClassVar = (Decodes | Denoises | Distils,)

    def answer(self, context: Context) -> Answer:
        if isinstance(context.model, Distils):
            return self._of_drawn(context, context.model)
        return self._of_codes(context) if isinstance(context.model, Decodes) else self._of_noises(context)

    def _of_codes(self, context: Context) -> Answer:
        if self.options:
            raise ValueError(f"codes are decoded without sampling options: leave out {', '.join(self.options)}")
        batch, first, second = self._pairs(context)
        a, b = batch.x[first], batch.x[second]
        told = None if batch.conditions is None else batch.conditions[first]
        found = interpolate(
            context.model, a, b, self.points, told, seed=context.seed, progress=context.progress
        )  # fmt: skip
        ends = {"from": [batch.indices[i] for i in first], "to": [batch.indices[i] for i in second]}
        return Answer(
            self,
            context.run,
            reading=[
                f"{len(a)} pairs of images of {batch.name}, in {self.points} points along a line and along an arc"
            ],
            values=ends,
            arrays={"straight": found.straight.numpy(), "spherical": found.spherical.numpy()},
            found=(found, a, b),
            protocol={"images": batch.name, **ends},
        )

    def _pairs(self, context: Context) -> tuple[Batch, list[int], list[int]]:
        """The images, and the rows of them that are the ends of each pair: with ``labels`` true as many pairs of one
        class, because what lies between two classes can be decoded as neither."""
        count = self.n or (self.most if self.images is None else None)
        own = isinstance(self.labels, str) and self.labels == "true"
        wide = 20 * count if own and count else self.n  # enough to find a second of each class
        batch = context.source(self.images, wide, self.most, self)
        if min(count or len(batch.x), len(batch.x)) < 2:
            raise ValueError("interpolation needs at least two images: raise n, or name a folder with more")
        if not own:
            pairs = len(batch.x) // 2
            return batch, list(range(pairs)), list(range(pairs, 2 * pairs))
        waiting: dict[int, int] = {}
        found: list[tuple[int, int]] = []
        for row, label in enumerate(batch.true_labels.tolist()):
            if label not in waiting:
                waiting[label] = row
            elif count is None or len(found) < count // 2:
                found.append((waiting.pop(label), row))
        if not found:
            raise ValueError(
                f"interpolation with labels true goes between images of one class, and none of {len(batch.x)} images "
                "share one: leave labels out, or name images with more of a class"
            )
        return batch, [pair[0] for pair in found], [pair[1] for pair in found]

    def _of_noises(self, context: Context) -> Answer:
        batch = context.batch(self)
        options, model = context.options(self.options, base=invert.DECODING), context.model
        assert isinstance(model, Denoises)
        rows = invert.interpolate(
            model, batch.x, batch.conditions,
            between=self.points - 2, options=options, progress=context.progress,
        )  # fmt: skip
        return Answer(
            self,
            context.run,
            reading=[f"{len(rows)} pairs of images of {batch.name}, in {self.points} points between their noises"],
            values={"points": self.points},
            arrays={"between": rows.numpy()},
            found=(rows, batch.x),
            protocol=batch.protocol,
        )

    def _of_drawn(self, context: Context, model: Distils) -> Answer:
        """Between pairs of drawn noises, along arcs."""
        if self.images is not None or self.labels == "true":
            raise ValueError("nothing leads from an image to its noise here: leave out images and labels true")
        options = context.options(self.options) or model.Options()
        pairs = max((self.n or self.most) // 2, 1)
        told = choose_labels(model.spec, pairs, context.seed, context.named(self.labels, self.text), pairs)
        model.check_conditions(options, told)
        given = None if told is None else told.to(model.device)
        z = model.latent(ImageNoise(context.seed, range(2 * pairs), model.device))
        columns = []
        for place in range(self.points):
            between = invert.slerp(z[0::2], z[1::2], place / (self.points - 1))
            columns.append(model.decode(between, ImageNoise(context.seed, range(pairs)), given, options).cpu())
            if context.progress:
                context.progress(place + 1, self.points)
        rows = torch.stack(columns, 1)
        steps = f"{options.steps} evaluation{'s' if options.steps > 1 else ''}"
        return Answer(
            self,
            context.run,
            reading=[f"{pairs} pairs of noises, in {self.points} points between them, {steps} each"],
            values={"points": self.points},
            arrays={"between": rows.numpy()},
            found=(rows, None),
            protocol={"seed": context.seed},
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        if isinstance(answer.found[0], Tensor) and answer.found[1] is None:
            rows = [drawing.tiles(row, answer.run.config.spec.levels) for row in answer.found[0]]
            head = drawing.words([answer.title("between drawn noises")], 16)
            return {"interpolation": drawing.framed(drawing.below([head, *rows], 8))}
        name, levels = answer.protocol["images"], answer.run.config.spec.levels
        if isinstance(answer.found[0], Interpolation):
            found, a, b = answer.found
            return {"interpolation": draw_interpolations(found, a, b, answer.title(f"interpolation, {name}"))}
        rows, images = answer.found
        title = answer.title(f"between pairs of {name}, in noise space")
        return {"interpolation": invert.draw_interpolation(rows, images, levels, title)}


def straight(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Codes on the straight lines between codes ``[N, latent]``: [N, steps, latent], both ends included."""
    t = torch.linspace(0, 1, steps, dtype=a.dtype)[:, None]
    return a[:, None] * (1 - t) + b[:, None] * t


def spherical(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The same along the arcs sin((1-t)θ)/sin θ · a + sin(tθ)/sin θ · b (Shoemake 1985; White 2016, arXiv 1609.04468).

    Draws of N(0, I) in many dimensions lie near a sphere; a straight line leaves it, an arc does not. Where the codes
    point the same way or opposite ways there is no one arc, and the line is taken.

    >>> spherical(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 3)[0].norm(dim=1).round(decimals=3).tolist()
    [2.0, 2.0, 2.0]
    """
    t = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    start, end = a.double()[:, None], b.double()[:, None]
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=2).clamp(-1, 1)[..., None]
    theta = cosine.acos()
    sine = theta.sin()
    arc = (((1 - t) * theta).sin() * start + (t * theta).sin() * end) / sine
    return torch.where(sine > 1e-4, arc, straight(a.double(), b.double(), steps)).to(a.dtype)


@dataclass(frozen=True)
class Interpolation:
    """From one image to another through the latent space.

    Attributes:
        straight, spherical: uint8 [N, steps, C, H, W].
        levels: of the images.
    """

    straight: Tensor
    spherical: Tensor
    levels: int


def interpolate(
    model: Family,
    a: Tensor,
    b: Tensor,
    steps: int = 9,
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Interpolation:
    """Decode what lies between the codes of images ``a`` and ``b``, uint8 [N, C, H, W], along lines and along arcs.

    ``labels`` [N] are the class of both ends, and of all between them, of a conditional model that `Decodes`: there is
    nothing to decode as between two classes, so pairs are of one class or none is told.

    Raises:
        ValueError: images or labels that do not fit, in one line.
    """
    if a.shape != b.shape or steps < 2:
        raise ValueError(f"interpolation needs pairs of images and at least 2 steps, not {len(a)}, {len(b)}, {steps}")
    both = None if labels is None else labels.repeat(2)
    z = codes(model, torch.cat([a, b]), both, seed=seed, progress=progress)
    many = None if labels is None else labels.repeat_interleave(steps)
    line, arc = (
        decode(model, path(z[: len(a)], z[len(a) :], steps).flatten(0, 1), many).view(len(a), steps, *model.spec.shape)
        for path in (straight, spherical)
    )
    return Interpolation(line, arc, model.spec.levels)


def draw_interpolations(found: Interpolation, a: Tensor, b: Tensor, title: str) -> Picture:
    """For each pair the two real images at the ends, the straight line above and the arc below."""
    rows = []
    for i in range(len(a)):
        start, end = drawing.tile(a[i], found.levels), drawing.tile(b[i], found.levels)
        blank = drawing.Sheet(*start.size)
        rows.append(drawing.beside([start, drawing.tiles(found.straight[i], found.levels), end], 12))
        rows.append(drawing.beside([blank, drawing.tiles(found.spherical[i], found.levels), blank], 12))
    words = ["real images at the ends; between their codes, above along a line, below along an arc"]
    return drawing.framed(drawing.below([drawing.words([title], 16), drawing.words(words, 12), *rows], 8))
