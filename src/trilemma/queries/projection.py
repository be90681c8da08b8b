"""Which code is behind an image? The encoder's, or for a GAN, which has none, one found by gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.families.family import Family, Progress
from trilemma.families.gan import GAN
from trilemma.images import to_unit
from trilemma.noise import ImageNoise, derive_seed
from trilemma.parallel import ranks
from trilemma.queries.decoders import checked, decoding, evaluating, given_labels, opened
from trilemma.queries.posterior import posterior
from trilemma.run import Run


@dataclass(frozen=True)
class Projection:
    """Codes whose images come near given ones.

    Attributes:
        z: float32 [N, latent], of the best start.
        starts: float32 [N, starts, latent], where each start ended: their spread is a crude picture of p(z|x).
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
    keys = [(i << 16) + s for i in range(count) for s in range(starts)]
    z = ImageNoise(derive_seed(seed, "projection"), keys, model.device).normal(latent).requires_grad_()
    target = to_unit(images.to(model.device), model.spec.levels).repeat_interleave(starts, 0)
    many = None if labels is None else labels.repeat_interleave(starts)
    optimiser = torch.optim.Adam([z], lr)
    with evaluating(model), torch.enable_grad():
        for step in range(steps + 1):
            error = (model.generator(z, many) - target).square().mean((1, 2, 3))
            if step == steps:
                break
            optimiser.zero_grad()
            (error + 1e-3 * z.square().mean(1)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if progress:
                progress(step + 1, steps)
    ends, errors = z.detach().cpu().view(count, starts, latent), error.detach().cpu().double().view(count, starts)
    return Projection(ends[torch.arange(count), errors.argmin(1)], ends, errors)


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
