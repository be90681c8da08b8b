"""Keep a part of an image and draw the rest from p(rest | part)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import BLOCK, Progress, map_blocks
from trilemma.drawing import Picture
from trilemma.families import FAMILIES
from trilemma.families.family import Completes, CompletionMethod, Family, Orders
from trilemma.images import Spec, check_images
from trilemma.likelihood import checked_labels
from trilemma.noise import ImageNoise, derive_seed
from trilemma.number import Number
from trilemma.parallel import ranks
from trilemma.questions.answer import Answer
from trilemma.questions.question import AboutImages, Context, Question, own
from trilemma.run import Run
from trilemma.validate import MOST, Limits

PARTICLES = 256
"""Particles of several sets drawn together."""


@dataclass(frozen=True)
class Complete(AboutImages):
    """Completions of images of which a part is kept."""

    keep: str = "top"
    """What is kept: top (exact where there is an order), left, grid4 (one pixel in every 4 x 4, to draw a finer
    picture), none, or a picture of the images' size that is white where they are kept."""
    copies: Annotated[int, Limits(1, MOST)] = 4
    """Completions of each image."""
    particles: Annotated[int, Limits(1, MOST)] = 16
    """Images drawn side by side for each completion that needs a particle filter."""
    options: Any = None
    """Sampling options of the run's family, and of diffusion and flow repeats (of each RePaint step) and level (start
    from the image with so much of the noise)."""

    name: ClassVar[str] = "complete"
    title: ClassVar[str] = "Completion"
    sentence: ClassVar[str] = "Keep a part of each image and draw the rest, several times."
    paper: ClassVar[str] = (
        "van den Oord et al. 2016, Pixel recurrent neural networks, arXiv:1601.06759; "
        "Lugmayr et al. 2022, RePaint, arXiv:2201.09865"
    )
    capabilities: ClassVar[tuple[type, ...]] = (Completes,)

    @classmethod
    def routine(cls, run: Run) -> Question | None:
        return cls(n=4, copies=6, labels=own(run)) if issubclass(FAMILIES[run.config.family], Orders) else None

    def answer(self, context: Context) -> Answer:
        batch, known = context.batch(self), known_part(self.keep, context.spec)
        family = FAMILIES[context.config.family]
        assert issubclass(family, Completes)
        found = complete(
            context.model,
            batch.x,
            known,
            self.copies,
            self.particles,
            batch.conditions,
            context.options(self.options, family.CompletionOptions),
            indices=batch.indices,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )
        numbers, reading = {}, found.how
        if found.effective is not None:
            e = found.effective
            numbers["effective_particles"] = Number(float(e.mean()), n=e.numel(), note="at the end of the filter")
            reading += f"; effective particles at the end {e.mean():.1f}, least {e.min():.1f}"
        return Answer(
            self,
            context.run,
            kind="exact" if found.exact else "estimate",
            numbers=numbers,
            reading=[reading],
            values={"effective_particles": None if found.effective is None else found.effective.tolist()},
            arrays={"images": batch.x.numpy(), "completions": found.images.numpy()},
            found=(found, batch.x, known),
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        found, x, known = answer.found
        return {"completions": draw_completions(found, x, known, answer.run.config.spec.levels)}


@dataclass(frozen=True)
class Completed:
    """Images of which a part was kept.

    Attributes:
        images: uint8 [N, copies, C, H, W].
        exact: each is an independent draw from p(unknown | known); else a particle filter's, which are such draws in
            the limit of many particles, or another approximation.
        effective: float64 [N, copies], effective number of particles, 1 / Σ w², when one of them was drawn; None where
            there are no particles.
        how: what the images are, in words.
    """

    images: Tensor
    exact: bool
    effective: Tensor | None
    how: str


def known_part(keep: str, spec: Spec) -> Tensor:
    """What ``--keep`` says: bool [C, H, W], True where the image is kept.

    Args:
        keep: ``top`` or ``left``, that half of the image; ``grid2``, ``grid4``, …, one pixel of every square of that
            side, to draw a larger picture; ``none``; or the path of a picture of the image's size: light is kept.

    Raises:
        ValueError: no such picture, of another size, or one that keeps everything, in one line.
    """
    known = torch.zeros(spec.height, spec.width, dtype=torch.bool)
    if keep == "top":
        known[: spec.height // 2] = True
    elif keep == "left":
        known[:, : spec.width // 2] = True
    elif grid := re.fullmatch(r"grid([2-9]|[1-9]\d+)", keep):
        known[:: int(grid[1]), :: int(grid[1])] = True
    elif keep != "none":
        known = _mask(keep)
    if known.shape != (spec.height, spec.width):
        raise ValueError(
            f"the mask {keep} has {known.shape[0]} x {known.shape[1]} pixels (height x width), "
            f"the images have {spec.height} x {spec.width}"
        )
    if known.all():
        raise ValueError(f"the mask {keep} keeps the whole image: make black what is to be drawn")
    return known.expand(spec.shape)


def _mask(path: str) -> Tensor:
    try:
        with Image.open(path) as picture:
            grey = picture.convert("L")
    except FileNotFoundError:
        raise ValueError(
            f"there is no mask {path}: keep takes top, left, grid4, none or a picture, white where it keeps"
        ) from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the mask {path} cannot be read as a picture: {error}") from None
    return torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(grey.height, grey.width) > 127


def complete(
    run: Run | Family,
    images: Tensor,
    known: Tensor,
    copies: int = 4,
    particles: int = 16,
    labels: Tensor | None = None,
    options: Any | None = None,
    *,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Completed:
    """Several completions of each image.

    A family says how it does this (`Completes.completion_method`). One with an order draws exactly where the known
    values come first (the upper half); any other part needs p(known | drawn) too, and there a set of ``particles`` is
    drawn for each completion, and one of the set by weight. A denoising one keeps the known part at every step.

    Args:
        run: a run, or a model loaded from one, of a family that `Completes`.
        images: uint8 [N, C, H, W].
        known: bool [C, H, W], as from `known_part`.
        copies: completions of each image.
        particles: size of each set.
        labels: int64 [N] for a conditional model, by default "no label".
        options: the family's ``CompletionOptions``.
        indices: a number for each image, by default 0 … N-1: its completions depend on ``seed`` and this number, and
            not on the other images or on how many copies there are.
        seed, device: of the noise, and where to compute.
        progress: told ``(completions done, all)``.

    Raises:
        ValueError: another family, or images, labels, counts or a mask that do not fit, in one line.
    """
    where = ranks(device)
    model = run.model(where.device) if isinstance(run, Run) else run
    if not isinstance(model, Completes):
        raise ValueError(f"{model.name} cannot draw from p(unknown | known)")
    check_images(images, model.spec)
    if tuple(known.shape) != model.spec.shape:
        raise ValueError(f"known must have shape {list(model.spec.shape)}, not {list(known.shape)}")
    method = model.completion_method(known, options)
    for name, count, least in (("images", len(images), 1), ("particles", particles, 2 if method.weighted else 1)):
        if count < least:
            raise ValueError(f"completion needs at least {least} {name}, not {count}")
    labels = checked_labels(model.spec, labels, len(images))
    model.check_conditions(options, labels)
    places = _places(indices if indices is not None else range(len(images)), copies)

    def drawn(rows: range, progress: Progress | None) -> tuple[Tensor, Tensor]:
        source = torch.tensor([row // copies for row in rows])
        x, chosen = images[source].to(model.device), [places[row] for row in rows]
        y = None if labels is None else labels[source].to(model.device)
        if method.weighted:
            return _filtered(model, x, known, y, options, chosen, particles, seed, progress)
        noise = ImageNoise(seed, [place << 16 for place in chosen], model.device)
        return model.complete(x, known, noise, y, options, progress).images, torch.ones(len(rows), dtype=torch.float64)

    size = max(1, PARTICLES // particles) if method.weighted else BLOCK
    completed, effective = map_blocks(drawn, len(places), where, block=size, progress=progress)
    completed = completed.view(len(images), copies, *model.spec.shape)
    return _completed(method, completed, effective.view(len(images), copies), particles)


def _completed(method: CompletionMethod, images: Tensor, effective: Tensor, particles: int) -> Completed:
    if not method.weighted:
        return Completed(images, method.exact, None, method.text)
    how = f"{method.text} with {particles} particles: approximate, exact in the limit of many"
    return Completed(images, method.exact, effective, how)


def _filtered(
    model: Completes,
    images: Tensor,
    known: Tensor,
    labels: Tensor | None,
    options: Any | None,
    places: Sequence[int],
    particles: int,
    seed: int,
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """For each image [B, C, H, W] one of a set of particles, drawn by weight, and the effective number of them [B]."""
    noise = ImageNoise(seed, [(place << 16) + i for place in places for i in range(particles)], images.device)
    x = images.repeat_interleave(particles, 0)
    y = None if labels is None else labels.repeat_interleave(particles)
    completion = model.complete(x, known, noise, y, options, progress, particles)
    weights = completion.log_weights.cpu().view(-1, particles).softmax(1)
    cumulative = weights.cumsum(1)
    u = ImageNoise(derive_seed(seed, "choice of a particle"), places).uniform(1).double() * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, u, right=True)[:, 0].clamp(max=particles - 1)
    chosen = torch.arange(len(images)) * particles + index
    return completion.images.cpu()[chosen], 1 / weights.square().sum(1)


def _places(indices: Sequence[int], copies: int) -> list[int]:
    """The number of each completion, a function of its image's number and its own among the copies alone."""
    return [(int(index) << 16) + copy for index in indices for copy in range(copies)]


def draw_completions(completed: Completed, images: Tensor, known: Tensor, levels: int) -> Picture:
    """A row for each image: the original, what was kept of it (the rest hatched), and its completions."""
    count, copies = completed.images.shape[:2]
    scale = drawing.scale_for(max(images.shape[2:]), 72)
    kept = known.all(0)
    rows = []
    for i in range(count):
        original = drawing.magnified(drawing.rgb(images[i : i + 1], levels)[0], scale)
        drawn = [drawing.magnified(picture, scale) for picture in drawing.rgb(completed.images[i], levels)]
        rows.append(drawing.beside([original, _occluded(original, kept, scale), *drawn], 6))
    titles = [drawing.words([word], 12, scale * images.shape[3]) for word in ("image", "kept", "completions")]
    header = drawing.beside(titles, 6)
    what = [completed.how]
    if completed.effective is not None:
        e = completed.effective
        what.append(f"effective particles at the end: mean {float(e.mean()):.1f}, least {float(e.min()):.1f}")
    return drawing.framed(drawing.below([header, *rows, drawing.words(what, 12)], 6))


def _occluded(picture: Image.Image, kept: Tensor, scale: int) -> Image.Image:
    """The unknown part hidden under a grey hatch."""
    rows, columns = torch.meshgrid(torch.arange(picture.height), torch.arange(picture.width), indexing="ij")
    hatch = torch.where((rows + columns) % 8 < 2, 148, 108).to(torch.uint8)
    shown = kept.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    occluded = Image.fromarray(hatch.numpy()).convert("RGB")
    occluded.paste(picture, mask=Image.fromarray((shown * 255).to(torch.uint8).numpy()))
    return occluded
