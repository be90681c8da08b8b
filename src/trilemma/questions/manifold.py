"""The whole of a 2-D latent space as one picture, and where the codes of images lie in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trilemma import drawing
from trilemma.drawing import Picture
from trilemma.families.family import Decodes, Encodes, Family
from trilemma.images import grid
from trilemma.number import text
from trilemma.questions.answer import Answer
from trilemma.questions.posterior import Encoded, decode, posterior
from trilemma.questions.question import AboutImages, Batch, Context
from trilemma.run import Run

SIDE = 20
"""Pictures each way."""

OKABE_ITO = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0),
    (86, 180, 233), (120, 94, 40), (0, 0, 0), (240, 228, 66), (150, 150, 150),
)  # fmt: skip
"""Ten colours that people with any kind of colour vision tell apart."""


@dataclass(frozen=True)
class Manifold(AboutImages):
    """The plane of a 2-D latent space, of one class where labels names one, and the codes of the images in it."""

    name: ClassVar[str] = "manifold"
    title: ClassVar[str] = "Latent manifold"
    sentence: ClassVar[str] = "What does the whole of a 2-D latent space look like, and where do images lie in it?"
    paper: ClassVar[str] = "Kingma & Welling 2013, Auto-encoding variational Bayes, appendix A, arXiv:1312.6114"
    capabilities: ClassVar[tuple[type, ...]] = (Decodes,)
    most: ClassVar[int] = 2000

    @classmethod
    def unable(cls, run: Run) -> str | None:
        latent = run.config.model.latent
        return None if latent == 2 else (
            f"it is a picture of a 2-D latent space, and this has {latent} dimensions: train with --model.latent 2, or "
            "ask traverse"
        )  # fmt: skip

    def answer(self, context: Context) -> Answer:
        label, model = self._one_class(context), context.model
        assert isinstance(model, Decodes)
        batch, known = None, None
        if isinstance(model, Encodes):
            batch = self._images(context, label)
            known = posterior(model, batch.x, batch.conditions, seed=context.seed, progress=context.progress)
        images = manifold(model, SIDE, label, known)
        of = "" if label is None else f" of class {[*context.config.class_names, 'none'][label]}"
        spread = "quantiles of N(0, 1) each way: every picture stands for an equal share of the prior"
        if not model.prior:
            spread = "evenly over the middle 90 % of the codes, z0 to the right and z1 upwards"
        reading, arrays = [f"the latent plane{of}, {spread}"], {"images": images.numpy()}
        if batch and known:
            low, high = known.mean.amin(0).tolist(), known.mean.amax(0).tolist()
            ends = [f"z{i} from {text(low[i])} to {text(high[i])}" for i in (0, 1)]
            reading.append(f"codes of {batch.words}: {', '.join(ends)}")
            arrays["codes"] = known.mean.numpy()
        return Answer(
            self, context.run, reading=reading, arrays=arrays, found=(images, known, batch, of, spread),
            protocol=batch.protocol if batch else {},
        )  # fmt: skip

    def _images(self, context: Context, label: int | None) -> Batch:
        """The images that are encoded: of one class as what they are, where the run knows classes."""
        given = context.source(self.images, self.n, self.most)
        dataset, indices = given.dataset, np.asarray(given.indices)
        if label is not None and (own := context.run.conditions(dataset, indices)) is not None:
            mine = own.numpy() == label
            indices = indices[mine] if mine.any() else indices
        conditions = context.conditions(self.labels, self.text, dataset, indices)
        return Batch(dataset.batch(indices), conditions, dataset.name, indices.tolist(), dataset)

    def _one_class(self, context: Context) -> int | None:
        """The class that the plane is drawn in; None where none was named."""
        if isinstance(self.labels, str) and self.labels == "true":
            raise ValueError(
                "a manifold is one plane, not images with a class of their own: name one class, such as labels 3"
            )
        given = context.named(self.labels, self.text)
        if given is None:
            return None
        if len(given) != 1:
            raise ValueError(f"a manifold is one plane: give labels one class, not {len(given)}")
        return int(given[0])

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        images, known, batch, of, spread = answer.found
        title = answer.title(f"the latent plane{of}")
        pictures = {"manifold": draw_manifold(images, answer.run.config.spec.levels, title, spread)}
        if known is not None:
            labels = batch.dataset.label_batch(batch.indices)
            words = f"codes of {len(batch.indices)} images of {batch.name}; circles: 1, 2 and 3 of N(0, I)"
            names = batch.dataset.class_names
            pictures["codes"] = draw_map(known.mean, labels, names, answer.title("codes"), words)
        return pictures


def manifold(model: Family, side: int = SIDE, label: int | None = None, known: Encoded | None = None) -> Tensor:
    """The images of a grid over a 2-D latent space, uint8 [side, side, C, H, W], top left first.

    The grid holds the quantiles of N(0, 1) each way (Kingma & Welling 2013, appendix A), the first latent from left to
    right and the second from bottom to top, so that each picture stands for an equal share of the prior; where there
    is no prior, it is even over the middle 90 % of the codes in ``known``.

    Raises:
        ValueError: another number of latents than 2, or no codes where there is no prior, in one line.
    """
    assert isinstance(model, Decodes)
    if model.latent != 2:
        raise ValueError(f"a manifold is a picture of a 2-D latent space, this has {model.latent} dimensions")
    share = (torch.arange(side) + 0.5) / side
    across = up = torch.special.ndtri(share)
    if not model.prior:
        if known is None:
            raise ValueError("this model has no prior over its codes: give the codes of some images")
        ends = torch.quantile(known.mean, torch.tensor([0.05, 0.95]), dim=0)
        across, up = (ends[0, i] + share * (ends[1, i] - ends[0, i]) for i in (0, 1))
    z = torch.stack([across.expand(side, side), up.flip(0)[:, None].expand(side, side)], -1)
    labels = None if label is None else torch.full((side * side,), label)
    return decode(model, z.flatten(0, 1), labels).view(side, side, *model.spec.shape)


def draw_manifold(images: Tensor, levels: int, title: str, words: str) -> Picture:
    """Images [side, side, C, H, W] without gaps, as a map."""
    scale = drawing.scale_for(max(images.shape[3:]), 32)
    tiled = grid(images.flatten(0, 1), levels=levels, columns=images.shape[1], gap=0, scale=scale)
    picture = drawing.magnified(drawing.rgb(tiled[None], 256)[0], 1)
    return drawing.framed(drawing.below([drawing.words([title], 16), drawing.words([words], 12), picture]))


def draw_map(codes: Tensor, labels: Tensor | None, names: Sequence[str], title: str, words: str) -> Picture:
    """2-D codes [N, 2] as points, coloured by class where there are labels; circles at 1, 2, 3 of N(0, I)."""
    ends = torch.quantile(codes, torch.tensor([0.003, 0.997]), dim=0)
    low, high = ends[0].clamp(max=-3.2), ends[1].clamp(min=3.2)
    half = float((high - low).max()) / 2  # as wide as high, so that circles are round
    (left, right), (lower, upper) = (
        (float(low[i] + high[i]) / 2 - half, float(low[i] + high[i]) / 2 + half) for i in (0, 1)
    )
    ticks = (drawing.steps(left, right, 6), drawing.steps(lower, upper, 6))
    plot = drawing.Plot((560, 558), (left, right), (lower, upper), ("z0", "z1"), ticks)
    for radius in (1, 2, 3):
        (west, south), (east, north) = plot.at(-radius, -radius), plot.at(radius, radius)
        plot.pen.ellipse((west, north, east, south), outline=drawing.FAINT)
    for i, (x, y) in enumerate(codes.tolist()):
        if left < x < right and lower < y < upper:
            colour = OKABE_ITO[int(labels[i]) % len(OKABE_ITO)] if labels is not None else drawing.BLUE
            across, up = plot.at(x, y)
            plot.pen.ellipse((across - 1.5, up - 1.5, across + 1.5, up + 1.5), fill=colour)
    parts = [drawing.words([title], 16), drawing.words([words], 12), plot.finished()]
    if labels is not None and len(names) <= len(OKABE_ITO):
        entries = [(drawing.swatch(colour, 10), name) for colour, name in zip(OKABE_ITO, names, strict=False)]
        parts += [drawing.key(entries[i : i + 5]) for i in range(0, len(entries), 5)]
    return drawing.framed(drawing.below(parts))
