"""What lies between and around the codes of images: interpolation, traversals and manifolds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.families.autoencoder import Autoencoder
from trilemma.families.family import Family, Progress
from trilemma.parallel import ranks
from trilemma.questions.decoders import decoding, opened
from trilemma.questions.posterior import Posterior, decode, posterior
from trilemma.questions.projection import codes
from trilemma.run import Run


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
    """Ways from one image to another through the latent space.

    Attributes:
        straight, spherical: uint8 [N, steps, C, H, W].
        levels: of the images.
    """

    straight: Tensor
    spherical: Tensor
    levels: int


def interpolate(
    run: Run | Family,
    a: Tensor,
    b: Tensor,
    steps: int = 9,
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Interpolation:
    """Decode what lies between the codes of images ``a`` and ``b``, uint8 [N, C, H, W], along lines and along arcs.

    ``labels`` [N] are the class of both ends, and of the way, of a conditional model: there is nothing to decode as
    between two classes, so pairs are of one class or none is told.

    Raises:
        ValueError: a family without a latent space, or images that do not fit, in one line.
    """
    model = decoding(opened(run, ranks(device).device), "interpolation")
    if a.shape != b.shape or steps < 2:
        raise ValueError(f"interpolation needs pairs of images and at least 2 steps, not {len(a)}, {len(b)}, {steps}")
    both = None if labels is None else labels.repeat(2)
    where = str(model.device)
    z = codes(model, torch.cat([a, b]), both, seed=seed, device=where, progress=progress)
    many = None if labels is None else labels.repeat_interleave(steps)
    ways = [
        decode(model, way(z[: len(a)], z[len(a) :], steps).flatten(0, 1), many, device=where)
        for way in (straight, spherical)
    ]
    shape = (len(a), steps, *model.spec.shape)
    return Interpolation(ways[0].view(shape), ways[1].view(shape), model.spec.levels)


@dataclass(frozen=True)
class Traversal:
    """One latent moved at a time.

    Attributes:
        images: uint8 [rows, steps, C, H, W], a row for each latent in ``latents``.
        latents: int64 [rows], from the most important.
        importance: float32 [rows]: the rate of each in nats, or for an autoencoder its variance over images.
        values: float32 [rows, steps], where each latent stood.
        measure: what ``importance`` is.
        levels: of the images.
    """

    images: Tensor
    latents: Tensor
    importance: Tensor
    values: Tensor
    measure: str
    levels: int


def traverse(
    run: Run | Family,
    image: Tensor,
    known: Posterior,
    steps: int = 9,
    reach: float = 2.5,
    most: int | None = None,
    label: Tensor | None = None,
    *,
    device: str = "auto",
) -> Traversal:
    """Move each latent of one image's code from -reach to +reach, from the latent that matters most to the least.

    Args:
        run: a run, or a model loaded from one, of an autoencoder or a VAE.
        image: uint8 [1, C, H, W], whose code is moved.
        known: the `posterior` of many images, which says how much each latent matters and, for an autoencoder, how
            far it goes: its values are spread around the codes' mean by ``reach`` standard deviations.
        steps: pictures in a row; an odd number has the middle.
        reach: how far, in standard deviations of N(0, 1).
        most: at most so many latents.
        label: int64 [1] for a conditional model.
    """
    model = decoding(opened(run, ranks(device).device), "a traversal")
    code = posterior(model, image, label, device=str(model.device)).mean[0]
    latents = known.order[:most]
    centre = known.mean.mean(0)[latents] if known.rate is None else torch.zeros(len(latents))
    spread = known.spread[latents].sqrt() if known.rate is None else torch.ones(len(latents))
    values = centre[:, None] + spread[:, None] * torch.linspace(-reach, reach, steps)
    z = code.repeat(len(latents), steps, 1)
    z[torch.arange(len(latents)), :, latents] = values
    many = None if label is None else label.expand(len(latents) * steps)
    images = decode(model, z.flatten(0, 1), many, device=str(model.device)).view(len(latents), steps, *model.spec.shape)
    importance, measure = (known.spread, "variance") if known.rate is None else (known.rate, "nats")
    return Traversal(images, latents, importance[latents], values, measure, model.spec.levels)


def manifold(
    run: Run | Family, side: int = 20, label: int | None = None, known: Posterior | None = None, *, device: str = "auto"
) -> Tensor:
    """The images of a grid over a 2-D latent space, uint8 [side, side, C, H, W], top left first.

    The grid holds the quantiles of N(0, 1) each way (Kingma & Welling 2013, appendix A), the first latent from left to
    right and the second from bottom to top, so that each picture stands for an equal share of the prior; for an
    autoencoder, which has no prior, it is even over the middle 90 % of the codes in ``known``.

    Raises:
        ValueError: another number of latents than 2, in one line.
    """
    model = decoding(opened(run, ranks(device).device), "a manifold")
    if model.config.latent != 2:
        raise ValueError(
            f"a manifold is a picture of a 2-D latent space, this has {model.config.latent} dimensions: train with "
            "--model.latent 2, or ask for --traverse"
        )
    share = (torch.arange(side) + 0.5) / side
    across = up = torch.special.ndtri(share)
    if isinstance(model, Autoencoder):
        if known is None:
            raise ValueError("an autoencoder has no prior over its codes: give the codes of some images")
        ends = torch.quantile(known.mean, torch.tensor([0.05, 0.95]), dim=0)
        across, up = (ends[0, i] + share * (ends[1, i] - ends[0, i]) for i in (0, 1))
    z = torch.stack([across.expand(side, side), up.flip(0)[:, None].expand(side, side)], -1)
    labels = None if label is None else torch.full((side * side,), label)
    return decode(model, z.flatten(0, 1), labels, device=str(model.device)).view(side, side, *model.spec.shape)
