"""Which pixels does a pixel depend on? The receptive field of a net, from its gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress
from trilemma.drawing import Colour, Picture, Sheet
from trilemma.families.family import Orders
from trilemma.images import check_images
from trilemma.likelihood import checked_labels
from trilemma.nets.masked import influence
from trilemma.noise import derive_seed
from trilemma.number import Number
from trilemma.questions.answer import Answer
from trilemma.questions.causality import in_double
from trilemma.questions.question import AboutImages, Context, Question, own
from trilemma.run import Run

BLOCK = 25_000
"""Values of images differentiated together."""

SEEN: Colour = (86, 144, 196)
UNSEEN: Colour = (232, 196, 160)
AFTER: Colour = (244, 244, 244)
HATCH: Colour = (190, 140, 90)
FRAME: Colour = (200, 30, 30)


@dataclass(frozen=True)
class Receptive(AboutImages):
    """The receptive field of a pixel."""

    position: str = ""
    """ROW,COLUMN of the pixel, counted from 0, such as 14,10; by default the centre."""

    name: ClassVar[str] = "receptive"
    title: ClassVar[str] = "Receptive field"
    sentence: ClassVar[str] = "Which pixels does a pixel depend on, and how strongly?"
    capabilities: ClassVar[tuple[type, ...]] = (Orders,)
    most: ClassVar[int] = 16

    @classmethod
    def routine(cls, run: Run) -> Question | None:
        return cls(n=8, labels=own(run))

    def answer(self, context: Context) -> Answer:
        model, position = context.model, _position(self.position)
        assert isinstance(model, Orders)
        batch = context.batch(self)
        field = receptive_field(
            model, batch.x, position, batch.conditions, seed=context.seed, progress=context.progress
        )
        up, left, right = field.reach
        seen, before = int(field.pixels.sum()), int(field.before.sum())
        return Answer(
            self,
            context.run,
            kind="exact",
            numbers={"seen": Number(seen, unit="pixels", n=field.images, note=f"of the {before} pixels before it")},
            reading=[field.text],
            values={
                "position": list(field.position),
                "seen": seen,
                "before": before,
                "reach": {"up": up, "left": left, "right": right},
                "pixels": field.pixels.int().tolist(),
                "influence": field.influence.tolist(),
            },
            found=field,
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        return {"receptive": draw_field(answer.found, answer.title(answer.protocol["images"]))}


@dataclass(frozen=True)
class Field:
    """What one pixel depends on.

    Attributes:
        position: ``(row, column)`` of the pixel.
        support: bool [C, H, W], the values that some output of the pixel depends on, at one of the images at least;
            in a net that describes a pixel as a whole, all channels of a pixel together.
        influence: float64 [H, W], mean over the images of |∂ log p(pixel | all before) / ∂ input|, the Euclidean norm
            over the inputs that encode a pixel, in nats; in these inputs black and white are 2 apart.
        images: how many there were.
    """

    position: tuple[int, int]
    support: Tensor
    influence: Tensor
    images: int

    @property
    def pixels(self) -> Tensor:
        """bool [H, W]: the other pixels that are seen."""
        seen = self.support.any(0)
        seen[self.position] = False
        return seen

    @property
    def before(self) -> Tensor:
        """bool [H, W]: the pixels before this one in the order."""
        height, width = self.influence.shape
        row, column = self.position
        return torch.arange(height * width).view(height, width) < row * width + column

    @property
    def reach(self) -> tuple[int, int, int]:
        """How many pixels far the field extends upwards, to the left and to the right."""
        rows, columns = self.pixels.nonzero(as_tuple=True)
        row, column = self.position
        if not len(rows):
            return 0, 0, 0
        return row - int(rows.min()), max(0, column - int(columns.min())), max(0, int(columns.max()) - column)

    @property
    def text(self) -> str:
        """The field in one line."""
        up, left, right = self.reach
        seen, before = int(self.pixels.sum()), int(self.before.sum())
        share = f" ({seen / before:.0%})" if before else ""
        return (
            f"pixel {self.position} depends on {seen} of the {before} pixels before it{share}: "
            f"{up} up, {left} to the left, {right} to the right"
        )


def receptive_field(
    model: Orders,
    images: Tensor,
    position: tuple[int, int] | None = None,
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Field:
    """The receptive field of a pixel, measured at images in float64 on the CPU.

    Whether a pixel depends on another is read from the derivative of its outputs, weighted by random numbers, and is
    exact; how much, from the derivative of its log-probability.

    Args:
        model: of any family that `Orders`.
        images: uint8 [N, C, H, W].
        position: ``(row, column)``, by default the centre.
        labels: int64 [N] for a conditional model, by default "no label".
        seed: of the weights.
        progress: told ``(images done, N)``.

    Raises:
        ValueError: a position outside the image, or images or labels that do not fit, in one line.
    """
    spec = model.spec
    check_images(images, spec)
    row, column = position or (spec.height // 2, spec.width // 2)
    if not (0 <= row < spec.height and 0 <= column < spec.width):
        raise ValueError(
            f"position {row},{column} is outside the image: rows are 0 to {spec.height - 1}, "
            f"columns 0 to {spec.width - 1}"
        )
    if not len(images):
        raise ValueError("there are no images to differentiate at")
    labels = checked_labels(spec, labels, len(images))
    twin = in_double(model)
    generator = torch.Generator().manual_seed(derive_seed(seed, "receptive"))
    groups = torch.zeros(model.groups, spec.height, spec.width, dtype=torch.bool)
    total = torch.zeros(spec.height, spec.width, dtype=torch.float64)
    size = max(1, BLOCK // spec.dims)
    for start in range(0, len(images), size):
        x = images[start : start + size].cpu()
        y = None if labels is None else labels[start : start + size]
        groups |= _sees(twin, x, y, (row, column), generator)
        total += _slope(twin, x, y, (row, column)).sum(0)
        if progress:
            progress(start + len(x), len(images))
    support = groups.repeat_interleave(spec.channels // len(groups), 0)
    return Field((row, column), support, total / len(images), len(images))


def _position(text: str) -> tuple[int, int] | None:
    """``14,10`` to (row, column)."""
    parts = text.split(",")
    if not text:
        return None
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"position {text!r} is not understood: write ROW,COLUMN such as 14,10, counted from 0")
    return int(parts[0]), int(parts[1])


def _sees(
    model: Orders, x: Tensor, labels: Tensor | None, position: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """bool [groups, H, W]: the inputs that the pixel's outputs depend on at one of the images."""
    weights = torch.zeros(len(x), *x.shape[2:], model.groups, model.outputs, dtype=torch.float64)
    pixel = weights[:, position[0], position[1]]
    pixel.copy_(torch.randn(pixel.shape, generator=generator, dtype=torch.float64))
    return (influence(model.conditionals, model.features(x).double(), weights, labels) != 0).any(0)


def _slope(model: Orders, x: Tensor, labels: Tensor | None, position: tuple[int, int]) -> Tensor:
    """|∂ log p(pixel | all before) / ∂ input| of every pixel: float64 [N, H, W]."""
    features = model.features(x).double().requires_grad_()
    with torch.enable_grad():
        nats = model.nats(x, labels, features)[:, :, position[0], position[1]]
        (gradient,) = torch.autograd.grad(nats.sum(), features)
    slope: Tensor = gradient.norm(dim=1)
    return slope


def decades(influence: Tensor, most: float = 6) -> tuple[float, float]:
    """Powers of ten that enclose the positive influences, ``most`` at the most, from the top."""
    positive = influence[influence > 0]
    if not len(positive):
        return -1.0, 0.0
    high = math.ceil(math.log10(float(positive.max())))
    low = math.floor(math.log10(float(positive.min())))
    return float(max(low, high - most, -300)) if low < high else high - 1.0, float(high)


def draw_field(field: Field, title: str) -> Sheet:
    """The influence of each pixel on a logarithmic scale, with a legend."""
    low, high = decades(field.influence[field.pixels])
    shown = (field.influence.clamp(min=10.0**low).log10() - low) / (high - low)
    colours = torch.where(field.pixels[..., None], drawing.ramp(shown), _ground(field))
    scale = max(4, drawing.scale_for(max(field.pixels.shape), 420))
    up, left, right = field.reach
    seen, before = int(field.pixels.sum()), int(field.before.sum())
    lines = [
        f"Pixel ({field.position[0]}, {field.position[1]}) sees {seen} of the {before} pixels before it",
        f"reach: {up} up, {left} left, {right} right; mean over {field.images} images",
    ]
    faintest = field.influence[field.pixels & (field.influence > 0)]
    below_scale = len(faintest) and float(faintest.min()) < 10.0**low
    ticks = [
        ((power - low) / (high - low), f"{'<= ' if power == low and below_scale else ''}1e{power}")
        for power in range(round(low), round(high) + 1)
    ]
    panel = _marked(colours, field, scale)
    picture = drawing.below(
        [
            drawing.words([title], 16),
            drawing.words(lines, 13),
            panel,
            drawing.words(["|d log p(pixel | all before) / d input|, nats per unit, log scale"], 12),
            drawing.colour_bar(max(panel.width, 240), ticks),
            drawing.key([(_pixel_sign(), "the pixel"), *_grounds()]),
        ]
    )
    return drawing.framed(picture)


def draw_fields(fields: Mapping[str, tuple[str, Field]]) -> Sheet:
    """Fields side by side: what is seen and what is not, each under its title and a sentence."""
    panels = []
    for title, (says, field) in fields.items():
        colours = torch.where(field.pixels[..., None], torch.tensor(SEEN, dtype=torch.uint8), _ground(field))
        scale = max(3, drawing.scale_for(field.pixels.shape[1], 225))
        panel = _marked(colours, field, scale)
        sees = f"{int(field.pixels.sum())} of {int(field.before.sum())} pixels"
        lines = drawing.words([title], 15, panel.width), drawing.words([says, sees], 13, panel.width)
        panels.append(drawing.below([*lines, panel], 4))
    legend = drawing.key([(_pixel_sign(), "the pixel"), (drawing.swatch(SEEN), "seen"), *_grounds()])
    return drawing.framed(drawing.below([drawing.beside(panels, 18), legend], 12))


def _ground(field: Field) -> Tensor:
    """The colours of the pixels that are not seen: uint8 [H, W, 3]."""
    unseen, after = (torch.tensor(colour, dtype=torch.uint8) for colour in (UNSEEN, AFTER))
    return torch.where(field.before[..., None], unseen, after)


def _marked(colours: Tensor, field: Field, scale: int) -> Sheet:
    """Magnified, what is not seen hatched, the pixel itself framed."""
    picture = drawing.framed(drawing.magnified(colours, scale), 0)
    for row, column in (field.before & ~field.pixels).nonzero().tolist():
        left, top = column * scale, row * scale
        picture.line([(left, top + scale - 1), (left + scale - 1, top)], HATCH)
    row, column = field.position
    left, top = column * scale, row * scale
    picture.rectangle((left, top, left + scale - 1, top + scale - 1), fill=drawing.PAPER)
    return drawing.outlined(picture, (left, top, left + scale, top + scale), FRAME)


def _pixel_sign() -> Sheet:
    return drawing.outlined(drawing.swatch(drawing.PAPER), (0, 0, 14, 14), FRAME)


def _grounds() -> list[tuple[Sheet, str]]:
    unseen = drawing.swatch(UNSEEN)
    unseen.line([(0, 13), (13, 0)], HATCH)
    after = drawing.outlined(drawing.swatch(AFTER), (0, 0, 14, 14), drawing.FAINT)
    return [(unseen, "before it, but not seen"), (after, "after it")]
