"""Which codes explain an image? p(z|x) as a family knows it, reconstructions, and codes as data for other work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trilemma import drawing
from trilemma.families.family import Family, Progress
from trilemma.families.observation import L2
from trilemma.families.vae import ACTIVE, VAE, latent_kl
from trilemma.files import replacing
from trilemma.noise import ImageNoise, derive_seed
from trilemma.parallel import ranks
from trilemma.questions.decoders import checked, decoding, encoding, evaluating, given_labels, in_order, opened
from trilemma.run import Run

BLOCK = 64
"""Images encoded together."""


@dataclass(frozen=True)
class Posterior:
    """p(z|x) of a set of images, as far as the family knows it.

    Attributes:
        kind: ``approximate`` for a VAE, whose encoder gives a Gaussian; ``point`` for an autoencoder.
        mean: float32 [N, latent], of q(z|x), or the code.
        std: float32 [N, latent], of q(z|x); 0 for an autoencoder.
        reconstructions: uint8 [N, C, H, W], decoded from the means.
        distortion: float64 [N], -log p(x|z) in nats with one draw of z; for an autoencoder and for a VAE trained on
            the L2 distance the squared error on [-1, 1], as they are trained.
        levels: of the images.
    """

    kind: str
    mean: Tensor
    std: Tensor
    reconstructions: Tensor
    distortion: Tensor
    levels: int

    def draw(self, copies: int, seed: int = 0) -> Tensor:
        """Codes from q(z|x), float32 [N, copies, latent]; those of image *i* depend on ``(seed, i)`` alone."""
        noise = ImageNoise(derive_seed(seed, "posterior"), range(len(self.mean)))
        return self.mean[:, None] + self.std[:, None] * noise.normal(copies, self.mean.shape[1])

    @property
    def rate(self) -> Tensor | None:
        """KL(q(z|x) ‖ N(0, I)) of each latent in nats, mean over the images: [latent]; None for an autoencoder."""
        if self.kind == "point":
            return None
        return latent_kl(self.mean, 2 * self.std.log()).mean(0)

    @property
    def spread(self) -> Tensor:
        """Variance of the means over the images, [latent]."""
        return self.mean.var(0, correction=0)

    @property
    def order(self) -> Tensor:
        """The latents from the most important: by their rate, or by their spread in an autoencoder; int64 [latent]."""
        return (self.spread if self.rate is None else self.rate).argsort(descending=True, stable=True)

    @property
    def active(self) -> Tensor:
        """Latents whose mean varies over images by more than 0.01 (Burda et al. 2015, section 5): bool [latent]."""
        return self.spread > ACTIVE

    @property
    def verdict(self) -> str:
        """How many latents are used, in words; posterior collapse by its name."""
        used, all_ = int(self.active.sum()), len(self.active)
        if len(self.mean) < 2:
            return "one image does not show which latents are active: ask with more"
        if self.kind == "point":
            return f"{used} of {all_} dimensions of the code vary between images"
        assert self.rate is not None
        rate = f"rate {float(self.rate.sum()):.2f} nats an image"
        if not used:
            return f"posterior collapse: none of {all_} latents is active, the decoder ignores the code ({rate})"
        idle = "" if used == all_ else f"; the other {all_ - used} stay at their prior and cost nothing"
        return f"{used} of {all_} latents are active, {rate}{idle}"


def posterior(
    run: Run | Family,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Posterior:
    """Encode images.

    Args:
        run: a run, or a model loaded from one, of an autoencoder or a VAE.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model, by default "no label".
        seed: of the draw behind the distortion.
        device: where to compute.
        progress: told ``(images done, N)``.

    Raises:
        ValueError: a family without an encoder, images or labels that do not fit, in one line.
    """
    where = ranks(device)
    model = encoding(opened(run, where.device), "p(z|x)")
    checked(images, model.spec)
    labels = given_labels(model, labels, len(images))
    mine: dict[int, tuple[Tensor, ...]] = {}
    for start in list(range(0, len(images), BLOCK))[where.rank :: where.size]:
        rows = slice(start, min(start + BLOCK, len(images)))
        y = None if labels is None else labels[rows]
        noise = ImageNoise(seed, range(rows.start, rows.stop), model.device)
        with torch.no_grad(), evaluating(model):
            mine[start] = tuple(part.cpu() for part in _encode(model, images[rows].to(model.device), y, noise))
        if progress:
            progress(rows.stop, len(images))
    mean, std, decoded, distortion = in_order(where, mine)
    kind = "approximate" if isinstance(model, VAE) else "point"
    return Posterior(kind, mean.float(), std.float(), decoded, distortion.double(), model.spec.levels)


def _encode(model: Family, x: Tensor, labels: Tensor | None, noise: ImageNoise) -> tuple[Tensor, ...]:
    model = encoding(model, "p(z|x)")
    if isinstance(model, VAE):
        mean, logvar = model.encode(x, labels)
        std = torch.exp(0.5 * logvar)
        z = mean + std * noise.normal(model.config.latent).to(mean.dtype)
        nats = model.observation.nats(x, model.decoder(z.to(next(model.parameters()).dtype), labels))
        return mean, std, model.decode(mean, labels), nats
    z = model.encode(x, labels)
    error = model.distortion(x, z, labels)
    return z, torch.zeros_like(z), model.decode(z, labels), error


def distortion_unit(model: Family) -> str:
    """What a distortion is measured in."""
    if isinstance(model, VAE) and not isinstance(model.observation, L2):
        return "nats"
    return "squared error on [-1, 1]"


def decode(run: Run | Family, z: Tensor, labels: Tensor | None = None, *, device: str = "auto") -> Tensor:
    """Images, uint8 [N, C, H, W], of codes [N, latent], in blocks; for an autoencoder, a VAE or a GAN."""
    model = decoding(opened(run, ranks(device).device), "decoding a code")
    if z.ndim != 2 or z.shape[1] != model.config.latent:
        raise ValueError(f"codes must have shape [N, {model.config.latent}], not {list(z.shape)}")
    labels = given_labels(model, labels, len(z))
    with torch.no_grad(), evaluating(model):
        parts = [
            model.decode(z[i : i + BLOCK].to(model.device), None if labels is None else labels[i : i + BLOCK]).cpu()
            for i in range(0, len(z), BLOCK)
        ]
    return torch.cat(parts) if parts else torch.empty(0, *model.spec.shape, dtype=torch.uint8)


def save_codes(
    answer: Posterior,
    path: str | os.PathLike[str],
    *,
    indices: Sequence[int],
    labels: Tensor | None = None,
    class_names: Sequence[str] = (),
) -> Path:
    """Write codes as an ``.npz``: ``mean``, ``std`` [N, latent], ``order``, ``indices``, and ``labels``, ``classes``.

    ``indices`` say which images of the data set the rows are; the file holds plain arrays and no pickle.
    """
    arrays = {"mean": answer.mean.numpy(), "std": answer.std.numpy(), "order": answer.order.numpy()}
    return save_arrays(path, arrays, indices, labels, class_names)


def save_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    indices: Sequence[int],
    labels: Tensor | None,
    class_names: Sequence[str],
) -> Path:
    """An ``.npz`` of arrays about images, with ``indices``, and ``labels`` and ``classes`` where they are known."""
    path = Path(path)
    known = {**arrays, "indices": np.asarray(indices, np.int64)}
    if labels is not None:
        known |= {"labels": labels.numpy(), "classes": np.asarray(list(class_names), dtype=np.str_)}
    with replacing(path) as file:
        np.savez_compressed(file, **known)  # type: ignore[arg-type]
    return path


def draw_reconstructions(
    answer: Posterior, images: Tensor, drawn: Tensor | None, path: str | os.PathLike[str], title: str, unit: str
) -> Path:
    """A PNG: each image, its reconstruction from the mean, and those from draws of q, uint8 [N, copies, C, H, W]."""
    scale = drawing.scale_for(max(images.shape[2:]), 64)

    def shown(picture: Tensor) -> Image.Image:
        return drawing.magnified(drawing.rgb(picture[None], answer.levels)[0], scale)

    columns = []
    for i in range(len(images)):
        cells = [shown(images[i]), shown(answer.reconstructions[i])]
        cells += [shown(copy) for copy in drawn[i]] if drawn is not None else []
        columns.append(drawing.below([*cells, drawing.words([f"{float(answer.distortion[i]):.1f}"], 11)], 4))
    rows = [drawing.beside(columns[i : i + 12], 6) for i in range(0, len(columns), 12)]
    source = "its code" if answer.kind == "point" else "the mean of q(z|x)"
    below = "from draws of q(z|x), " if drawn is not None else ""
    what = f"-log p(x|z) in {unit}" if unit == "nats" else f"the {unit}"
    lines = [f"image, then decoded from {source}, then {below}{what}", answer.verdict]
    return drawing.save(
        drawing.framed(drawing.below([drawing.words([title], 16), drawing.words(lines, 12), *rows], 10)), path
    )
