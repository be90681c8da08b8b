"""Semantic vector arithmetic: a - b + c of mean codes (Radford et al. 2015, arXiv 1511.06434, section 6.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress
from trilemma.data import Dataset, subset
from trilemma.drawing import Picture, Still
from trilemma.families.family import Decodes, Encodes, Family
from trilemma.noise import ImageNoise, derive_seed
from trilemma.questions.answer import Answer
from trilemma.questions.posterior import codes, decode
from trilemma.questions.question import Context, Question
from trilemma.validate import MOST_IMAGES, Limits

Indices = np.ndarray[Any, Any]

ENCODED, SEARCHED = 200, 16
"""Images of a class, where n is not given: by an encoder, and by the slower search for each code."""


@dataclass(frozen=True)
class Arithmetic(Question):
    """A - B + C on mean codes, and the real images whose codes are nearest to it."""

    expression: str
    """A-B+C on mean codes of classes such as 9-4+1, or of images by their numbers such as @12,40-@7+@3."""
    images: Any = None
    """Anything that train takes; by default the run's own data."""
    n: Annotated[int, Limits(1, MOST_IMAGES)] | None = None
    """At most so many held-out images of each class; by default 200, or 16 where there is no encoder."""

    name: ClassVar[str] = "arithmetic"
    title: ClassVar[str] = "Vector arithmetic on codes"
    sentence: ClassVar[str] = "What do the codes of A less those of B and those of C besides decode to?"
    paper: ClassVar[str] = (
        "Radford et al. 2015, Unsupervised representation learning with deep convolutional generative adversarial "
        "networks, arXiv:1511.06434"
    )
    capabilities: ClassVar[tuple[type, ...]] = (Decodes,)
    argument: ClassVar[str] = "expression"

    def answer(self, context: Context) -> Answer:
        most = ENCODED if isinstance(context.model, Encodes) else SEARCHED
        batch = context.source(self.images, self.n, most)
        dataset, n = batch.dataset, len(batch.indices)
        groups, names = parse_arithmetic(self.expression, dataset, n, context.seed)
        pool = subset(held_out(dataset), 4 * n, context.seed)
        found = arithmetic(
            context.model,
            [dataset.batch(group) for group in groups],
            dataset.batch(pool),
            seed=context.seed,
            progress=context.progress,
        )
        near = pool[found.indices.numpy()]
        values = {
            "groups": [group.tolist() for group in groups],
            "names": names,
            "z": found.z.tolist(),
            "neighbours": near.tolist(),
        }
        what, labels = f"images {', '.join(map(str, near.tolist()))}", dataset.label_batch(near)
        if labels is not None:
            values["neighbour_classes"] = [dataset.class_names[label] for label in labels.tolist()]
            what = f"images of {', '.join(values['neighbour_classes'])}"
        return Answer(
            self,
            context.run,
            reading=[f"nearest codes are those of {what}"],
            values=values,
            found=found,
            protocol={"images": dataset.name},
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        names = answer.values["names"]
        return {"arithmetic": draw_arithmetic(answer.found, names, answer.title("{} - {} + {}".format(*names)))}


def held_out(dataset: Dataset) -> Indices:
    """The held-out images, or all where nothing was held out."""
    return dataset.test if len(dataset.test) else np.arange(len(dataset.images))


def parse_arithmetic(text: str, dataset: Dataset, n: int, seed: int) -> tuple[list[Indices], list[str]]:
    """``9-4+1`` to at most ``n`` held-out images of each class, ``@12,40-@7+@3`` to images by their number."""
    groups, parts = [], _parts(text, dataset.class_names)
    for part in parts:
        if part.startswith("@"):
            numbers = [number.strip().lstrip("@") for number in part.split(",")]
            if not all(number.isdigit() and int(number) < len(dataset.images) for number in numbers):
                raise ValueError(f"expression {part!r}: image numbers are 0 to {len(dataset.images) - 1}")
            groups.append(np.array([int(number) for number in numbers], np.int64))
            continue
        if dataset.labels is None or part not in dataset.class_names:
            classes = ", ".join(dataset.class_names[:20]) or "none"
            raise ValueError(f"expression {part!r} is not a class; there are {classes}")
        rows = held_out(dataset)
        mine = rows[dataset.labels[rows] == dataset.class_names.index(part)]
        if not len(mine):
            raise ValueError(f"expression {part!r}: {dataset.name} has no held-out image of this class")
        groups.append(subset(mine, min(n, len(mine)), seed))
    return groups, parts


def _parts(text: str, names: Sequence[str]) -> list[str]:
    """A, B and C of A-B+C, where a class may have signs in its name (``T-shirt/top``)."""
    minus, plus = ([i for i, sign in enumerate(text) if sign == wanted] for wanted in "-+")
    splits = [[text[:i], text[i + 1 : j], text[j + 1 :]] for i in minus for j in plus if i < j]
    splits = [parts for split in splits if all(parts := [part.strip() for part in split])]
    known = [parts for parts in splits if all(part in names or re.fullmatch(r"@[@\d,\s]+", part) for part in parts)]
    if not splits:
        raise ValueError(f"expression {text!r} is not understood: write A-B+C, such as 9-4+1 or @12,40-@7+@3")
    if len(known) > 1:
        raise ValueError(f"expression {text!r} can be read in {len(known)} ways: name images by number, as @12-@7+@3")
    return known[0] if known else splits[0]


@dataclass(frozen=True)
class Analogy:
    """a - b + c in the latent space.

    Attributes:
        means: uint8 [3, C, H, W], decoded from the mean code of each group.
        result: uint8 [C, H, W], decoded from their a - b + c.
        around: uint8 [copies, C, H, W], decoded from codes near it (Radford et al. 2015, figure 7).
        neighbours: uint8 [k, C, H, W], the given images whose codes are nearest to it.
        indices: int64 [k], which of the pool they are.
        z: float32 [latent], the code.
        levels: of the images.
    """

    means: Tensor
    result: Tensor
    around: Tensor
    neighbours: Tensor
    indices: Tensor
    z: Tensor
    levels: int


def arithmetic(
    model: Family,
    groups: Sequence[Tensor],
    pool: Tensor,
    *,
    copies: int = 8,
    k: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Analogy:
    """Mean codes of three groups of images, a - b + c, decoded, beside the nearest images of a pool.

    A conditional model is told no label: its code has to say everything.

    Args:
        model: of a family that `Decodes`; where it has no encoder, the codes of images are searched for.
        groups: three sets of uint8 [N, C, H, W]: a, b, c. Means of several images say more than single ones.
        pool: uint8 [M, C, H, W], in which neighbours are looked for.
        copies: codes drawn around the result, with a tenth of the pool's spread in each latent.
        k: neighbours shown.

    Raises:
        ValueError: not three groups, an empty one, or images that do not fit, in one line.
    """
    if len(groups) != 3 or not all(len(group) for group in groups):
        raise ValueError("arithmetic a - b + c needs three groups of at least one image each")
    z = codes(model, torch.cat([*groups, pool]), seed=seed, progress=progress)
    *parts, rest = torch.split(z, [*map(len, groups), len(pool)])
    means = torch.stack([part.mean(0) for part in parts])
    wanted = means[0] - means[1] + means[2]
    noise = ImageNoise(derive_seed(seed, "around"), range(copies)).normal(len(wanted))
    around = wanted + 0.1 * rest.std(0, correction=0) * noise
    shown = decode(model, torch.cat([means, wanted[None], around]))
    indices = (rest - wanted).norm(dim=1).argsort()[: min(k, len(pool))]
    return Analogy(shown[:3], shown[3], shown[4:], pool[indices], indices, wanted, model.spec.levels)


def draw_arithmetic(found: Analogy, names: Sequence[str], title: str) -> Picture:
    """The equation, codes around its result, and the nearest real images."""
    pictures: list[Still] = []
    for sign, image, name in zip(("", "-", "+"), found.means, names, strict=True):
        if sign:
            pictures.append(drawing.words([sign], 24))
        pictures.append(drawing.below([drawing.tile(image, found.levels), drawing.words([name], 12)], 2))
    pictures += [drawing.words(["="], 24), drawing.tile(found.result, found.levels)]
    rows = [
        drawing.words([title], 16),
        drawing.beside(pictures, 8),
        drawing.words(["decoded from codes near the result"], 12),
        drawing.tiles(found.around, found.levels),
        drawing.words(["real images with the nearest codes"], 12),
        drawing.tiles(found.neighbours, found.levels),
    ]
    return drawing.framed(drawing.below(rows, 8))
