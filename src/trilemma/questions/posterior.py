"""Which codes explain an image? p(z|x) as a model knows it: an encoder's Gaussian or point, or a search's points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress, map_blocks
from trilemma.drawing import Picture
from trilemma.families import FAMILIES
from trilemma.families.family import ACTIVE, Decodes, Encodes, Family, latent_kl
from trilemma.images import check_images
from trilemma.likelihood import checked_labels
from trilemma.metrics.estimate import mean_of
from trilemma.noise import ImageNoise, derive_seed
from trilemma.number import Number
from trilemma.parallel import ranks
from trilemma.questions.answer import Answer
from trilemma.questions.question import AboutImages, Batch, Context, Question, own
from trilemma.run import Run

SHOWN, FOUND = 24, 12
"""Images in a picture of reconstructions, and in one of points found by search."""

LISTED = 1000
"""Codes of more images are in the arrays alone."""

SEARCHED = 8
"""Images whose codes are searched for, where neither they nor n are given: an encoder is much quicker."""

TOGETHER = 256
"""Searches run together, which bounds the memory."""

POINTS = "points found by search, not draws of p(z|x): where searches end does not say how probable each z is"
"""What a projection is, and is not."""


@dataclass(frozen=True)
class Posterior(AboutImages):
    """p(z|x): reconstructions, active latents and codes; without an encoder points found by search."""

    name: ClassVar[str] = "posterior"
    title: ClassVar[str] = "Posterior over codes p(z|x)"
    sentence: ClassVar[str] = "Which codes explain these images, and what do the codes keep of them?"
    paper: ClassVar[str] = (
        "Kingma & Welling 2013, Auto-encoding variational Bayes, arXiv:1312.6114; "
        "Zhu et al. 2016, Generative visual manipulation on the natural image manifold, arXiv:1609.03552"
    )
    capabilities: ClassVar[tuple[type, ...]] = (Decodes,)
    most: ClassVar[int] = SHOWN

    @classmethod
    def routine(cls, run: Run) -> Question | None:
        return cls(n=1300, labels=own(run)) if issubclass(FAMILIES[run.config.family], Encodes) else None

    def answer(self, context: Context) -> Answer:
        if isinstance(context.model, Encodes):
            return self._encoded(context, context.batch(self))
        return self._searched(context, context.batch(self, SEARCHED))

    def _encoded(self, context: Context, batch: Batch) -> Answer:
        model, y = context.model, batch.conditions
        assert isinstance(model, Encodes)
        found, unit = posterior(model, batch.x, y, seed=context.seed, progress=context.progress), model.distortion_unit
        drawn = None
        if found.kind == "approximate":
            codes = found.draw(2, context.seed)[:SHOWN]
            many = None if y is None else y[:SHOWN].repeat_interleave(2, 0)
            drawn = decode(model, codes.flatten(0, 1), many).view(-1, 2, *model.spec.shape)
        n, listed, distortion = len(batch.x), len(batch.x) <= LISTED, mean_of(found.distortion)
        numbers = {
            "distortion": Number(distortion.value, distortion.error, unit, "lower", n),
            "active_units": Number(int(found.active.sum()), n=n, note=f"of {len(found.active)} latents"),
        }
        if found.rate is not None:
            numbers["rate"] = Number(float(found.rate.sum()), unit="nats", n=n)
        return Answer(
            self,
            context.run,
            kind=found.kind,
            numbers=numbers,
            flag=found.verdict if found.rate is not None and not found.active.any() else None,
            reading=[found.verdict, f"reconstruction of {batch.words}: {numbers['distortion']} {unit}"],
            values={
                "kind": found.kind,
                "mean": found.mean.tolist() if listed else None,
                "std": found.std.tolist() if listed else None,
                "rate": None if found.rate is None else found.rate.tolist(),
                "order": found.order.tolist(),
                "distortion_unit": unit,
                "verdict": found.verdict,
            },
            arrays={"mean": found.mean.numpy(), "std": found.std.numpy(), "order": found.order.numpy()} | _about(batch),
            found=(found, batch.x[:SHOWN], drawn, unit),
            protocol=batch.protocol,
        )

    def _searched(self, context: Context, batch: Batch) -> Answer:
        model, y = context.model, batch.conditions
        found = project(model, batch.x, y, seed=context.seed, progress=context.progress)
        starts, ends, listed = found.error.shape[1], found.starts[:FOUND], len(batch.x) <= LISTED
        many = None if y is None else y[:FOUND].repeat_interleave(starts, 0)
        images = decode(model, ends.flatten(0, 1), many).view(-1, starts, *model.spec.shape)
        best, worst = float(found.error[:, 0].mean()), float(found.error[:, -1].mean())
        unit = "squared error on [-1, 1], mean over the values of an image"
        spread = f"of the nearest {best:.4f}, of the farthest {worst:.4f}"
        return Answer(
            self,
            context.run,
            kind="point",
            numbers={"mean_error": Number(best, mean_of(found.error[:, 0]).error, unit, "lower", len(batch.x))},
            reading=[POINTS, f"{batch.words}, {starts} searches each: squared error on [-1, 1] {spread}"],
            values={
                "kind": "search",
                "reason": POINTS,
                "z": found.z.tolist() if listed else None,
                "error": found.error.tolist() if listed else None,
                "error_unit": unit,
            },
            arrays={"z": found.z.numpy(), "starts": found.starts.numpy(), "error": found.error.numpy()} | _about(batch),
            found=(found, batch.x[:FOUND], images, unit),
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        found, x, decoded, unit = answer.found
        title, levels = answer.title(answer.protocol["images"]), answer.run.config.spec.levels
        if isinstance(found, Projection):
            return {"projection": draw_projection(found, x, decoded, levels, title)}
        return {"reconstructions": draw_reconstructions(found, x, decoded, title, unit)}


def _about(batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
    """Which images the rows of the arrays are, and their classes where they are known."""
    arrays = {"indices": np.asarray(batch.indices, np.int64)}
    labels = batch.dataset.label_batch(batch.indices)
    if labels is not None:
        arrays |= {"labels": labels.numpy(), "classes": np.asarray(list(batch.dataset.class_names), dtype=np.str_)}
    return arrays


@dataclass(frozen=True)
class Encoded:
    """p(z|x) of a set of images, as far as the family knows it.

    Attributes:
        kind: ``approximate`` where the encoder gives a Gaussian, ``point`` where it gives a code.
        mean: float32 [N, latent], of q(z|x), or the code.
        std: float32 [N, latent], of q(z|x); 0 where the code is a point.
        reconstructions: uint8 [N, C, H, W], decoded from the means.
        distortion: float64 [N], of one draw of z (`Encodes.distortion`).
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
        """KL(q(z|x) ‖ N(0, I)) of each latent in nats, mean over the images: [latent]; None where codes are points."""
        if self.kind == "point":
            return None
        return latent_kl(self.mean, 2 * self.std.log()).mean(0)

    @property
    def spread(self) -> Tensor:
        """Variance of the means over the images, [latent]."""
        return self.mean.var(0, correction=0)

    @property
    def order(self) -> Tensor:
        """The latents from the most important: by their rate, or else by their spread; int64 [latent]."""
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
        if self.rate is None:
            return f"{used} of {all_} dimensions of the code vary between images"
        rate = f"rate {float(self.rate.sum()):.2f} nats an image"
        if not used:
            return f"posterior collapse: none of {all_} latents is active, the decoder ignores the code ({rate})"
        idle = "" if used == all_ else f"; the other {all_ - used} stay at their prior and cost nothing"
        return f"{used} of {all_} latents are active, {rate}{idle}"


def posterior(
    model: Family, images: Tensor, labels: Tensor | None = None, *, seed: int = 0, progress: Progress | None = None
) -> Encoded:
    """Encode images.

    Args:
        model: of a family that `Encodes` and `Decodes`, on its device.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model, by default "no label".
        seed: of the draw behind the distortion.
        progress: told ``(images done, N)``.

    Raises:
        ValueError: images or labels that do not fit, in one line.
    """
    assert isinstance(model, Encodes) and isinstance(model, Decodes)
    given = conditions(model, images, labels)

    def encoded(rows: range, progress: Progress | None) -> tuple[Tensor, ...]:
        x, y = images[rows.start : rows.stop].to(model.device), part(given, rows)
        code = model.encode(x, y)
        std, z = torch.zeros_like(code.mean), code.mean
        if code.std is not None:
            noise = ImageNoise(seed, rows, model.device)
            std, z = code.std, code.mean + code.std * noise.normal(model.latent).to(code.mean.dtype)
        return code.mean, std, model.decode(code.mean, y), model.distortion(x, z, y)

    with torch.no_grad(), model.frozen():
        parts = map_blocks(encoded, len(images), ranks(str(model.device)), progress=progress)
    mean, std, decoded, distortion = parts
    kind = "approximate" if bool(std.any()) else "point"
    return Encoded(kind, mean.float(), std.float(), decoded, distortion.double(), model.spec.levels)


def decode(model: Family, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Images, uint8 [N, C, H, W], of codes [N, latent], in blocks; of a model that `Decodes`."""
    assert isinstance(model, Decodes)
    if z.ndim != 2 or z.shape[1] != model.latent:
        raise ValueError(f"codes must have shape [N, {model.latent}], not {list(z.shape)}")
    given = checked_labels(model.spec, labels, len(z))
    given = None if given is None else given.to(model.device)

    def decoded(rows: range, progress: Progress | None) -> tuple[Tensor]:
        return (model.decode(z[rows.start : rows.stop].to(model.device), part(given, rows)),)

    with torch.no_grad(), model.frozen():
        return map_blocks(decoded, len(z), ranks(str(model.device)))[0]


def codes(
    model: Family, images: Tensor, labels: Tensor | None = None, *, seed: int = 0, progress: Progress | None = None
) -> Tensor:
    """The code of each image, float32 [N, latent]: the encoder's mean, or where there is none the `project`-ed z."""
    if isinstance(model, Encodes):
        return posterior(model, images, labels, seed=seed, progress=progress).mean
    return project(model, images, labels, seed=seed, progress=progress).z


def conditions(model: Family, images: Tensor, labels: Tensor | None) -> Tensor | None:
    """The conditions of images on the model's device; ``ValueError``, one line, where they or the images do not fit."""
    if not len(check_images(images, model.spec)):
        raise ValueError("there are no images to ask about")
    given = checked_labels(model.spec, labels, len(images))
    return None if given is None else given.to(model.device)


def part(given: Tensor | None, rows: range) -> Tensor | None:
    """The rows of a block, of conditions [N, …] if there are any."""
    return None if given is None else given[rows.start : rows.stop]


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
    model: Family,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    starts: int = 8,
    steps: int = 200,
    lr: float = 0.05,
    seed: int = 0,
    progress: Progress | None = None,
) -> Projection:
    """Find z with G(z) ≈ x for a decoder G without an encoder, by gradient descent from several draws of N(0, I).

    Minimises the mean squared error plus a thousandth of ‖z‖² / latent, which keeps z where the generator was trained
    (Adam; in the manner of Zhu et al. 2016, arXiv 1609.03552, section 3.1, without their encoder).

    Args:
        model: of a family that `Decodes`, on its device.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model.
        starts: draws of z for each image; the one that ends nearest is kept.
        steps, lr: of the descent.
        seed: of the starts; those of image *i* depend on ``(seed, i)`` alone.
        progress: told ``(images done, N)``.

    Raises:
        ValueError: images, labels or numbers that do not fit, in one line.
    """
    assert isinstance(model, Decodes)
    for name, number in (("starts", starts), ("steps", steps)):
        if number < 1:
            raise ValueError(f"projection needs at least 1 of {name}, not {number}")
    given, latent = conditions(model, images, labels), model.latent

    def ends(rows: range, progress: Progress | None) -> tuple[Tensor, Tensor]:
        keys = [(i << 16) + s for i in rows for s in range(starts)]
        z = ImageNoise(derive_seed(seed, "projection"), keys, model.device).normal(latent).requires_grad_()
        x = images[rows.start : rows.stop].to(model.device)
        target, y = model.spec.to_unit(x).repeat_interleave(starts, 0), part(given, rows)
        many = None if y is None else y.repeat_interleave(starts, 0)
        optimiser = torch.optim.Adam([z], lr)
        for step in range(steps + 1):
            error = (model.render(z, many) - target).square().mean((1, 2, 3))
            if step == steps:
                break
            optimiser.zero_grad()
            (error + 1e-3 * z.square().mean(1)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if progress:
                progress(step + 1, steps)
        return z.detach().view(len(rows), starts, latent), error.detach().cpu().double().view(len(rows), starts)

    size = max(1, TOGETHER // starts)
    with model.frozen(), torch.enable_grad():
        end, error = map_blocks(ends, len(images), ranks(str(model.device)), block=size, progress=progress)
    order = error.argsort(dim=1, stable=True)
    end = end.gather(1, order[..., None].expand_as(end))
    return Projection(end[:, 0], end, error.gather(1, order))


def draw_reconstructions(found: Encoded, images: Tensor, drawn: Tensor | None, title: str, unit: str) -> Picture:
    """Each image, its reconstruction from the mean, and those from draws of q, uint8 [N, copies, C, H, W]."""

    def shown(picture: Tensor) -> Image.Image:
        return drawing.tile(picture, found.levels, 64)

    columns = []
    for i in range(len(images)):
        cells = [shown(images[i]), shown(found.reconstructions[i])]
        cells += [shown(copy) for copy in drawn[i]] if drawn is not None else []
        columns.append(drawing.below([*cells, drawing.words([f"{float(found.distortion[i]):.1f}"], 11)], 4))
    rows = [drawing.beside(columns[i : i + 12], 6) for i in range(0, len(columns), 12)]
    source = "its code" if found.kind == "point" else "the mean of q(z|x)"
    below = "from draws of q(z|x), " if drawn is not None else ""
    what = f"-log p(x|z) in {unit}" if unit == "nats" else f"the {unit}"
    lines = [f"image, then decoded from {source}, then {below}{what}", found.verdict]
    return drawing.framed(drawing.below([drawing.words([title], 16), drawing.words(lines, 12), *rows], 10))


def draw_projection(found: Projection, images: Tensor, decoded: Tensor, levels: int, title: str) -> Picture:
    """A row for each image, and beside it G(z) of each start, uint8 [N, starts, C, H, W], with its error."""

    def shown(picture: Tensor, under: str) -> drawing.Sheet:
        return drawing.below([drawing.tile(picture, levels), drawing.words([under], 11)], 2)

    rows = []
    for i in range(len(images)):
        cells = [shown(x, f"{float(e):.4f}") for x, e in zip(decoded[i], found.error[i], strict=True)]
        rows.append(drawing.beside([shown(images[i], "image"), drawing.beside(cells, 4)], 12))
    lines = ["each image, then G(z) where each search ended, the nearest first; below the squared error on [-1, 1]"]
    heads = [drawing.words([title], 16), drawing.words([*lines, POINTS], 12)]
    return drawing.framed(drawing.below([*heads, *rows], 8))
