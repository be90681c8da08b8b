"""Completion: keep a part of an image and draw the rest from p(rest | part)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trilemma.families.autoregressive import Autoregressive
from trilemma.families.family import Family, Progress
from trilemma.images import Spec, check_images
from trilemma.noise import ImageNoise, derive_seed
from trilemma.parallel import ranks
from trilemma.queries import drawing
from trilemma.queries.order import autoregressive, checked_labels, comes_first
from trilemma.run import Run

PARTICLES = 256
"""Particles of several sets drawn together."""

BLOCK = 64
"""Images drawn together, where no two depend on each other."""


@dataclass(frozen=True)
class Completed:
    """Images of which a part was kept.

    Attributes:
        images: uint8 [N, copies, C, H, W].
        exact: each is an independent draw from p(unknown | known); else a particle filter's, which are such draws in
            the limit of many particles.
        effective: float64 [N, copies], effective number of particles, 1 / Σ w², when one of them was drawn; None where
            exact.
        how: what the images are, in words.
    """

    images: Tensor
    exact: bool
    effective: Tensor | None
    how: str


def known_part(keep: str, spec: Spec) -> Tensor:
    """What ``--keep`` says: bool [C, H, W], True where the image is kept.

    Args:
        keep: ``top`` or ``left``, that half of the image, or the path of a picture of the image's size: light is kept.

    Raises:
        ValueError: no such picture, of another size, or one that keeps everything, in one line.
    """
    known = torch.zeros(spec.height, spec.width, dtype=torch.bool)
    if keep == "top":
        known[: spec.height // 2] = True
    elif keep == "left":
        known[:, : spec.width // 2] = True
    else:
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
            f"there is no mask {path}: --keep takes top, left or a picture, white where it keeps"
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
    *,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Completed:
    """Several completions of each image.

    Where the known values come first in raster order (the upper half), they are drawn one after the other from the
    model's conditionals. Any other part needs p(known | drawn) too: there a set of ``particles`` is drawn for each
    completion and weighted by it (`Autoregressive.complete`), and one of the set is drawn by weight.

    Args:
        run: a run, or a model loaded from one, of an autoregressive family.
        images: uint8 [N, C, H, W].
        known: bool [C, H, W], as from `known_part`.
        copies: completions of each image.
        particles: size of each set.
        labels: int64 [N] for a conditional model, by default "no label".
        indices: a number for each image, by default 0 … N-1: its completions depend on ``seed`` and this number, and
            not on the other images or on how many copies there are.
        seed, device: of the noise, and where to compute.
        progress: told ``(completions done, all)``.

    Raises:
        ValueError: another family, or images, labels, counts or a mask that do not fit, in one line.
    """
    where = ranks(device)
    model = autoregressive(run.model(where.device) if isinstance(run, Run) else run, "completion")
    check_images(images, model.spec)
    for name, count, least in (("images", len(images), 1), ("copies", copies, 1), ("particles", particles, 2)):
        if count < least:
            raise ValueError(f"completion needs at least {least} {name}, not {count}")
    if tuple(known.shape) != model.spec.shape:
        raise ValueError(f"known must have shape {list(model.spec.shape)}, not {list(known.shape)}")
    labels = checked_labels(model, labels, len(images))
    exact = comes_first(known)
    places = _places(indices if indices is not None else range(len(images)), copies)
    size = BLOCK if exact else max(1, PARTICLES // particles)
    starts = list(range(0, len(places), size))[where.rank :: where.size]
    mine: dict[int, tuple[Tensor, Tensor]] = {}
    for start in starts:
        rows = range(start, min(start + size, len(places)))
        source = torch.tensor([row // copies for row in rows])
        y = None if labels is None else labels[source]
        done = _within(progress, rows, len(places))
        chosen = [places[row] for row in rows]
        if exact:
            noise = ImageNoise(seed, [place << 16 for place in chosen], model.device)
            drawn = model.complete(images[source].to(model.device), known, noise, y, progress=done).images.cpu()
            mine[start] = drawn, torch.ones(len(rows), dtype=torch.float64)
        else:
            mine[start] = _filtered(model, images[source], known, y, chosen, particles, seed, done)
    parts: dict[int, tuple[Tensor, Tensor]] = {}
    for theirs in where.gather(mine):
        parts |= theirs
    completed, effective = (torch.cat([parts[start][i] for start in sorted(parts)]) for i in (0, 1))
    completed = completed.view(len(images), copies, *model.spec.shape)
    if exact:
        return Completed(completed, True, None, "exact draws from p(unknown | known)")
    how = f"particle filter with {particles} particles: approximate, exact in the limit of many"
    return Completed(completed, False, effective.view(len(images), copies), how)


def _filtered(
    model: Autoregressive,
    images: Tensor,
    known: Tensor,
    labels: Tensor | None,
    places: Sequence[int],
    particles: int,
    seed: int,
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """For each image [B, C, H, W] one of a set of particles, drawn by weight, and the effective number of them [B]."""
    noise = ImageNoise(seed, [(place << 16) + i for place in places for i in range(particles)], model.device)
    x = images.to(model.device).repeat_interleave(particles, 0)
    y = None if labels is None else labels.repeat_interleave(particles)
    completion = model.complete(x, known, noise, y, progress=progress, particles=particles)
    weights = completion.log_weights.cpu().view(-1, particles).softmax(1)
    cumulative = weights.cumsum(1)
    u = ImageNoise(derive_seed(seed, "choice of a particle"), places).uniform(1).double() * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, u, right=True)[:, 0].clamp(max=particles - 1)
    chosen = torch.arange(len(images)) * particles + index
    return completion.images.cpu()[chosen], 1 / weights.square().sum(1)


def _places(indices: Sequence[int], copies: int) -> list[int]:
    """The number of each completion, a function of its image's number and its own among the copies alone."""
    return [(int(index) << 16) + copy for index in indices for copy in range(copies)]


def _within(progress: Progress | None, rows: range, total: int) -> Progress | None:
    """The sampler's rows as a number of completions."""
    if progress is None:
        return None
    return lambda done, of: progress(rows.start + len(rows) * done // of, total)


def draw_completions(
    completed: Completed, images: Tensor, known: Tensor, levels: int, path: str | os.PathLike[str]
) -> Path:
    """A PNG with a row for each image: the original, what was kept of it (the rest hatched), and its completions."""
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
    return drawing.save(drawing.framed(drawing.below([header, *rows, drawing.words(what, 12)], 6)), path)


def _occluded(picture: Image.Image, kept: Tensor, scale: int) -> Image.Image:
    """The unknown part hidden under a grey hatch."""
    rows, columns = torch.meshgrid(torch.arange(picture.height), torch.arange(picture.width), indexing="ij")
    hatch = torch.where((rows + columns) % 8 < 2, 148, 108).to(torch.uint8)
    shown = kept.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    occluded = Image.fromarray(hatch.numpy()).convert("RGB")
    occluded.paste(picture, mask=Image.fromarray((shown * 255).to(torch.uint8).numpy()))
    return occluded
