"""Which code is behind an image? The encoder's, or for a GAN, which has none, one found by gradient descent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from trilemma import drawing
from trilemma.families.family import Family, Progress
from trilemma.families.gan import GAN
from trilemma.images import to_unit
from trilemma.noise import ImageNoise, derive_seed
from trilemma.parallel import ranks
from trilemma.questions.decoders import checked, decoding, evaluating, given_labels, opened
from trilemma.questions.posterior import posterior, save_arrays
from trilemma.run import Run

TOGETHER = 256
"""Searches run together, which bounds the memory."""

POINTS = "points found by search, not draws of p(z|x): where searches end does not say how probable each z is"
"""What a projection is, and is not."""


@dataclass(frozen=True)
class Projection:
    """Codes whose images come near given ones.

    Attributes:
        z: float32 [N, latent], of the best start.
        starts: float32 [N, starts, latent], where each start ended, the nearest to the image first. They are points, no
            draws of p(z|x): that several lie apart shows that it has several modes, and nothing of their weights.
        error: float64 [N, starts], the squared error of each on [-1, 1], mean over the values of an image.
    """

    z: Tensor
    starts: Tensor
    error: Tensor


def project(
    run: Run | Family,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    starts: int = 8,
    steps: int = 200,
    lr: float = 0.05,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Projection:
    """Find z with G(z) ≈ x for a GAN, which has no encoder, by gradient descent from several draws of N(0, I).

    Minimises the mean squared error plus a thousandth of ‖z‖² / latent, which keeps z where the generator was trained
    (Adam; in the manner of Zhu et al. 2016, arXiv 1609.03552, section 3.1, without their encoder).

    Args:
        run: a run, or a model loaded from one, of a GAN.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model.
        starts: draws of z for each image; the one that ends nearest is kept.
        steps, lr: of the descent.
        seed: of the starts; those of image *i* depend on ``(seed, i)`` alone.

    Raises:
        ValueError: another family, or images or numbers that do not fit, in one line.
    """
    model = opened(run, ranks(device).device)
    if not isinstance(model, GAN):
        raise ValueError(f"projection is for a gan, which has no encoder; ask {model.name} for its codes")
    _ = model.spec.image_shape  # refuses vectors
    checked(images, model.spec)
    for name, number in (("starts", starts), ("steps", steps)):
        if number < 1:
            raise ValueError(f"projection needs at least 1 of {name}, not {number}")
    count, latent = len(images), model.config.latent
    labels = given_labels(model, labels, count)
    size = max(1, TOGETHER // starts)
    blocks, ends, errors = range(0, count, size), [], []
    for done, first in enumerate(blocks):
        rows = range(first, min(first + size, count))
        keys = [(i << 16) + s for i in rows for s in range(starts)]
        z = ImageNoise(derive_seed(seed, "projection"), keys, model.device).normal(latent)
        target = to_unit(images[first : rows.stop].to(model.device), model.spec.levels).repeat_interleave(starts, 0)
        many = None if labels is None else labels[first : rows.stop].repeat_interleave(starts)
        tell = None if progress is None else _part(progress, done, len(blocks))
        z, error = _descended(model, z, target, many, steps, lr, tell)
        ends.append(z.view(len(rows), starts, latent))
        errors.append(error.view(len(rows), starts))
    end, error = torch.cat(ends), torch.cat(errors)
    order = error.argsort(dim=1, stable=True)
    end = end.gather(1, order[..., None].expand_as(end))
    return Projection(end[:, 0], end, error.gather(1, order))


def _part(progress: Progress, done: int, blocks: int) -> Progress:
    return lambda step, of: progress(done * of + step, blocks * of)


def _descended(
    model: GAN, z: Tensor, target: Tensor, labels: Tensor | None, steps: int, lr: float, progress: Progress | None
) -> tuple[Tensor, Tensor]:
    """Where codes [R, latent] end, and the error of each, float64 [R]; both on the CPU."""
    z = z.requires_grad_()
    optimiser = torch.optim.Adam([z], lr)
    with evaluating(model), torch.enable_grad():
        for step in range(steps + 1):
            error = (model.generator(z, labels) - target).square().mean((1, 2, 3))
            if step == steps:
                break
            optimiser.zero_grad()
            (error + 1e-3 * z.square().mean(1)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if progress:
                progress(step + 1, steps)
    return z.detach().cpu(), error.detach().cpu().double()


def codes(
    run: Run | Family,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """The code of each image, float32 [N, latent]: the encoder's mean, or for a GAN the `project`-ed z."""
    model = decoding(opened(run, ranks(device).device), "a code")
    if isinstance(model, GAN):
        return project(model, images, labels, seed=seed, device=str(model.device), progress=progress).z
    return posterior(model, images, labels, seed=seed, device=str(model.device), progress=progress).mean


def save_projection(
    answer: Projection,
    path: str | os.PathLike[str],
    *,
    indices: Sequence[int],
    labels: Tensor | None = None,
    class_names: Sequence[str] = (),
) -> Path:
    """Write ``z`` [N, latent], ``starts`` [N, starts, latent] and ``error`` [N, starts] as an ``.npz``, with what
    `save_codes` writes of the images."""
    arrays = {"z": answer.z.numpy(), "starts": answer.starts.numpy(), "error": answer.error.numpy()}
    return save_arrays(path, arrays, indices, labels, class_names)


def draw_projection(
    answer: Projection, images: Tensor, found: Tensor, levels: int, path: str | os.PathLike[str], title: str
) -> Path:
    """A PNG: a row for each image, and beside it G(z) of each start, uint8 [N, starts, C, H, W], with its error."""
    scale = drawing.scale_for(max(images.shape[2:]), 56)

    def shown(picture: Tensor, under: str) -> Image.Image:
        large = drawing.magnified(drawing.rgb(picture[None], levels)[0], scale)
        return drawing.below([large, drawing.words([under], 11)], 2)

    rows = []
    for i in range(len(images)):
        cells = [shown(x, f"{float(e):.4f}") for x, e in zip(found[i], answer.error[i], strict=True)]
        rows.append(drawing.beside([shown(images[i], "image"), drawing.beside(cells, 4)], 12))
    lines = ["each image, then G(z) where each search ended, the nearest first; below the squared error on [-1, 1]"]
    heads = [drawing.words([title], 16), drawing.words([*lines, POINTS], 12)]
    return drawing.save(drawing.framed(drawing.below([*heads, *rows], 8)), path)
