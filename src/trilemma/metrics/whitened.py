"""How near images come to a training set, asked so that a copy stays a copy when it is shifted, mirrored or darkened.

Pixels are whitened by the training set's principal components, so that what all images share counts little and what is
an image's own counts much; images are compared by the cosine, the largest over mirroring and small shifts. A smooth
image has few degrees of freedom and so a high cosine with something: what is high is said by images that are equally
strong and equally smooth (`Alike`), never by sharp ones.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.metrics.copying import Nearness
from trilemma.metrics.distortions import blur

COMPONENTS = 256
"""Principal components that images are compared by."""

COARSE = 32
"""The leading ones, by which candidates are found."""

BANDS = (0, 16, 64, 128, COMPONENTS)
"""Components whose norms say how strong an image is at coarse and at fine scales."""

CANDIDATES = 32
"""Training images that are looked at with every shift."""

NOISE = 16.0
"""Grey levels below which a component is noise: each is divided by √(variance + NOISE²)."""

LIKE = 0.9
"""Least cosine of a copy: shifted, mirrored, darkened, slightly blurred or noisy ones reach more. What is less like a
training image than that may be surprisingly like it, as the blobs of an unfinished model are, but is none."""

FLAT = 2.0
"""Grey levels: an image whose every channel varies less is flat."""

SHIFT = 2
"""Pixels up, down and sideways, at a side of 16 or more."""

FITTED = 5_000
"""Training images that the components are found from."""

BLUR = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0, 4.5, 7.0, 12.0)
"""Standard deviations, in pixels at a side of 32, of the images that a smooth sample is compared with."""

BASE = 1_000
"""Real images in the null, each blurred by all of `BLUR`."""

ENOUGH = 256
"""Training images below which nothing is said by pixels: of few, the components are so few that chance looks alike."""

FAIR, FEW = 10, 16
"""Training images for each component from which on they may stand in the null: components describe the images that they
were found from, so that few are no fair one. They must, where there are fewer held-out images than the second."""

WINDOW = 200
"""Images of the pool that a sample may be compared with: those whose looks are nearest to its own."""

LEAST, MOST = 500, 2_000
"""Images of the null that are searched for one set of samples: twice as many as these, within these bounds."""

NEAR = 100
"""Images of the null whose mean and spread a score is stated in."""

BYTES = 2**24
"""Of numbers held at once."""


class Whitened:
    """A training set, ready to be searched.

    Images are kept as they are and blurred by a pixel, so that blurred copies are found as well: 1.3 kB for each
    training image, 250 MB for 200,000.

    Args:
        train: uint8 ``[M, C, H, W]``.
        seed: of the start of the search for principal components.

    Raises:
        ValueError: fewer than 3 training images.
    """

    def __init__(self, train: Tensor, seed: int = 0) -> None:
        if len(train) < 3:
            raise ValueError(f"{len(train)} training images are too few to say what is near")
        self.shift = min(SHIFT, min(train.shape[-2:]) // 8)
        some = train[:: -(-len(train) // FITTED)].flatten(1).float()
        self.mean = some.mean(0)
        self.basis = _basis(some - self.mean, seed)
        coarse, sharp, soft = [], [], []
        for part in torch.split(train, 1024):
            values = self.values(part)
            coarse.append(F.normalize(values[:, :COARSE], dim=1))
            sharp.append(F.normalize(values, dim=1).half())
            soft.append(F.normalize(self.values(blur(part, 1.0)), dim=1).half())
        self.coarse, self.sharp, self.soft = torch.cat(coarse), torch.cat(sharp), torch.cat(soft)

    def values(self, images: Tensor) -> Tensor:
        """Whitened components ``[..., k]`` of images ``[..., C, H, W]``."""
        return (images.flatten(-3).float() - self.mean) @ self.basis

    def looks(self, images: Tensor) -> Tensor:
        """How strong each image is and how fine: log norms of its components in `BANDS`, float32 ``[N, bands]``."""
        parts = []
        for part in torch.split(images, 1024):
            values = self.values(part)
            bands = [values[:, a:b].norm(dim=1) for a, b in pairwise(BANDS) if a < values.shape[1]]
            parts.append((torch.stack(bands, 1) + 0.03).log())
        return torch.cat(parts)

    def search(self, images: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Largest cosine with a training image over mirroring and shifts, and its row: float32 and int64 ``[N]``.

        The third tells by how much blurred training images come nearer than sharp ones, float32 ``[N]``. Flat images
        show nothing that could be a copy: their cosine is -1.

        The nearest `CANDIDATES` by the `COARSE` leading components, over mirroring and every second shift, are
        compared by all components and with every shift.

        Args:
            own: int64 ``[N]``, rows of the training set that the images are themselves, to be left out, or -1.
        """
        own = torch.full((len(images),), -1) if own is None else own
        score, nearest = torch.empty(len(images)), torch.empty(len(images), dtype=torch.int64)
        gain = torch.empty(len(images))
        rows = max(1, BYTES // (4 * max(26 * len(self.coarse), 50 * self.mean.numel())), 8)
        for start in range(0, len(images), rows):
            part = slice(start, start + rows)
            score[part], nearest[part], gain[part] = self._search(images[part], own[part])
        flat = images.flatten(-2).float().std(-1).amax(-1) < FLAT
        return torch.where(flat, -1.0, score), nearest, gain

    def _search(self, images: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = self.values(self._moved(images))  # [B, V, k]
        # Every second shift, as on a chess-board: each shift is at most one pixel from one that is looked for.
        at = range(-self.shift, self.shift + 1)
        even = torch.tensor([(i + j) % 2 == 0 for i in at for j in at]).repeat(2)
        few = F.normalize(values[:, even, :COARSE], dim=-1)  # [B, v, c]
        near = (few.flatten(0, 1) @ self.coarse.T).view(len(images), few.shape[1], -1).amax(1)
        itself = (own >= 0).nonzero()[:, 0]
        near[itself, own[itself]] = -torch.inf
        best = near.topk(min(CANDIDATES, len(self.coarse) - 1), dim=1).indices  # [B, K]
        values = F.normalize(values, dim=-1)
        kinds = (self.sharp[best], self.soft[best])  # [B, K, k]
        sharp, soft = ((values @ kind.float().transpose(1, 2)).amax(1) for kind in kinds)  # [B, K]
        score, place = torch.maximum(sharp, soft).max(1)
        gain = _spread(soft.amax(1)) - _spread(sharp.amax(1))
        return score, best.gather(1, place[:, None])[:, 0], gain.float()

    def _moved(self, images: Tensor) -> Tensor:
        """Every image with every shift, then mirrored with every shift: ``[B, V, C, H, W]``."""
        s, (height, width) = self.shift, images.shape[-2:]
        x = torch.stack([images, images.flip(-1)], 1).flatten(0, 1).float()
        x = F.pad(x, (s, s, s, s), mode="replicate") if s else x
        at = range(2 * s + 1)
        x = torch.stack([x[..., i : i + height, j : j + width] for i in at for j in at], 1)
        return x.view(len(images), -1, *x.shape[2:])


def _basis(x: Tensor, seed: int) -> Tensor:
    """Leading principal components of centred rows ``[n, d]``, each divided by √(variance + NOISE²): ``[d, k]``.

    By subspace iteration (Halko, Martinsson & Tropp 2011, arXiv:0909.4061, algorithm 4.4).
    """
    k = min(COMPONENTS, max(2, len(x) // 4), *x.shape)  # of few images, the components would describe themselves
    draws = torch.randn(x.shape[1], min(k + 16, *x.shape), generator=torch.Generator().manual_seed(seed))
    q = torch.linalg.qr(x @ draws).Q
    for _ in range(2):
        q = torch.linalg.qr(x @ (x.T @ q)).Q
    values: Tensor
    vectors: Tensor
    _, values, vectors = torch.linalg.svd(q.T @ x, full_matrices=False)
    values, vectors = values[:k], vectors[:k]
    return (vectors / (values.square() / len(x) + NOISE**2).sqrt()[:, None]).T.contiguous()


class Alike:
    """Real images that are no copies, as sharp or as smooth as any sample may be, and how near they come.

    The pool is made of held-out images and, where these are few and there are many training images (`FAIR`), of those,
    each compared with all others; and of the same images blurred by `BLUR`. Scores are found when they are asked for,
    and kept for the next samples.

    Args:
        whitened: of ``train``.
        held_out, train: uint8 ``[N, C, H, W]``.
        seed: of the choice among images that are alike.
    """

    def __init__(self, whitened: Whitened, held_out: Tensor, train: Tensor, seed: int = 0) -> None:
        self.whitened, self.seed = whitened, seed
        held_out = held_out[:BASE]
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        fair = len(train) >= FAIR * whitened.basis.shape[1]
        own = order[: max(0, BASE - len(held_out)) if fair or len(held_out) < FEW else 0]
        self.images = torch.cat([held_out, train[own]])
        self.own = torch.cat([torch.full((len(held_out),), -1), own])
        looks = torch.cat([whitened.looks(softened(self.images, level)) for level in BLUR])  # [levels · images, bands]
        self.unit = looks.std(0).clamp_min(1e-3)
        self.looks = looks / self.unit
        self.scores = torch.full((len(looks),), torch.nan)
        self.nearest, self.gains = torch.full((len(looks),), -1), torch.full((len(looks),), torch.nan)

    def of(self, looks: Tensor) -> Tensor:
        """Places of up to `MOST` of the pool, searched, whose looks have the law of ``looks``."""
        weight = torch.zeros(len(self.looks))  # how many of the samples an image of the pool is alike to
        for part in torch.split(looks, 256):
            near = torch.cdist(part / self.unit, self.looks).topk(min(WINDOW, len(self.looks)), largest=False).indices
            weight += torch.bincount(near.flatten(), minlength=len(weight))
        generator = torch.Generator().manual_seed(self.seed)
        count = min(max(LEAST, 2 * len(looks)), MOST, int((weight > 0).sum()))
        chosen = weight.multinomial(count, generator=generator).sort().values
        self._search(chosen[self.scores[chosen].isnan()])
        return chosen

    def _search(self, places: Tensor) -> None:
        level = places // len(self.images)
        for each in sorted(set(level.tolist())):
            some = places[level == each]
            image = some % len(self.images)
            found = self.whitened.search(softened(self.images[image], BLUR[each]), self.own[image])
            self.scores[some], self.nearest[some], self.gains[some] = found

    def judge(self, images: Tensor) -> tuple[Nearness, Nearness]:
        """Images ``[N, C, H, W]`` and those of the pool that are alike, for `verdict`: see `between`."""
        return self.between(self.whitened.looks(images), *self.whitened.search(images))

    def between(self, looks: Tensor, scores: Tensor, rows: Tensor, gains: Tensor) -> tuple[Nearness, Nearness]:
        """The same from looks ``[N, bands]``, cosines, nearest rows and gains ``[N]``.

        Of each, ``ratio`` is minus the `excess` of its cosine, so that the most suspicious comes first; ``distance`` is
        one minus the cosine.
        """
        chosen = self.of(looks)
        unit = self.gains[chosen].std().clamp_min(1e-3)
        own = torch.cat([looks / self.unit, gains[:, None] / unit], 1)
        like = torch.cat([self.looks[chosen], self.gains[chosen, None] / unit], 1), self.scores[chosen]
        image = chosen % len(self.images)
        return (
            Nearness(1 - scores.double(), rows, _suspicion(scores, excess(own, scores, like))),
            Nearness(1 - like[1].double(), self.nearest[chosen], _suspicion(like[1], excess(*like, like, image))),
        )


def softened(images: Tensor, strength: float) -> Tensor:
    """Blurred, where ``strength`` is not 0."""
    return blur(images, strength) if strength else images


def excess(looks: Tensor, scores: Tensor, like: tuple[Tensor, Tensor], image: Tensor | None = None) -> Tensor:
    """Scores in standard deviations above the mean of the `NEAR` nearest in looks among ``like`` (looks, scores).

    Looks here are those of `Whitened.looks` and the gain by blurred training images. Of ``like`` itself ``image``
    says, int64 [N], which are of one image: none is compared with itself, however blurred, as no sample is.
    """
    values, found = _spread(like[1]), []
    for rows in torch.split(torch.arange(len(looks)), 256):
        part, own = looks[rows], _spread(scores[rows])
        apart = torch.cdist(part, like[0])
        if image is not None:
            apart = apart.masked_fill(image[rows, None] == image, torch.inf)
        near = apart.topk(min(NEAR, len(values)), largest=False).indices
        beside = values[near]
        found.append((own - beside.mean(1)) / beside.std(1, correction=0).clamp_min(1e-3))
    return torch.cat(found)


def _suspicion(cosine: Tensor, excess: Tensor) -> Tensor:
    """Minus the excess, the lower the more suspicious; none at all where the cosine is below `LIKE`."""
    return torch.where(cosine < LIKE, 1e3, -excess)


def _spread(cosine: Tensor) -> Tensor:
    """Fisher's transform, in which chance cosines have the same spread everywhere."""
    return cosine.double().clamp(-0.99, 0.99).atanh()
