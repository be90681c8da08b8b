"""Semantic vector arithmetic: a - b + c of mean codes (Radford et al. 2015, arXiv 1511.06434, section 6.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.families.family import Family, Progress
from trilemma.noise import ImageNoise, derive_seed
from trilemma.parallel import ranks
from trilemma.questions.decoders import decoding, opened
from trilemma.questions.posterior import decode
from trilemma.questions.projection import codes
from trilemma.run import Run


@dataclass(frozen=True)
class Arithmetic:
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
    run: Run | Family,
    groups: Sequence[Tensor],
    pool: Tensor,
    *,
    copies: int = 8,
    k: int = 8,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Arithmetic:
    """Mean codes of three groups of images, a - b + c, decoded, beside the nearest images of a pool.

    A conditional model is told no label: its code has to say everything.

    Args:
        run: a run, or a model loaded from one, of an autoencoder, a VAE or a GAN (whose images are projected first).
        groups: three sets of uint8 [N, C, H, W]: a, b, c. Means of several images say more than single ones.
        pool: uint8 [M, C, H, W], in which neighbours are looked for.
        copies: codes drawn around the result, with a tenth of the pool's spread in each latent.
        k: neighbours shown.

    Raises:
        ValueError: not three groups, an empty one, or images that do not fit, in one line.
    """
    model = decoding(opened(run, ranks(device).device), "arithmetic")
    if len(groups) != 3 or not all(len(group) for group in groups):
        raise ValueError("arithmetic a - b + c needs three groups of at least one image each")
    sizes = [len(group) for group in groups]
    where = str(model.device)
    z = codes(model, torch.cat([*groups, pool]), seed=seed, device=where, progress=progress)
    *parts, rest = torch.split(z, [*sizes, len(pool)])
    means = torch.stack([part.mean(0) for part in parts])
    wanted = means[0] - means[1] + means[2]
    noise = ImageNoise(derive_seed(seed, "around"), range(copies)).normal(len(wanted))
    around = wanted + 0.1 * rest.std(0, correction=0) * noise
    shown = decode(model, torch.cat([means, wanted[None], around]), device=where)
    distance = (rest - wanted).norm(dim=1)
    indices = distance.argsort()[: min(k, len(pool))]
    return Arithmetic(shown[:3], shown[3], shown[4:], pool[indices], indices, wanted, model.spec.levels)
