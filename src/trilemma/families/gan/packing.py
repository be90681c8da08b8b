"""Packing (Lin et al. 2018, "PacGAN", arXiv 1712.04086): the discriminator judges several images at once.

One image of a collapsed generator may look real; two that are the same do not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def by_class(labels: Tensor) -> Tensor:
    """The order, int64 [B], that puts images of one class side by side, so that most packs are of one class.

    Real and generated images are packed in the same order, so a pack that two classes share is a fair question too.
    """
    return labels.argsort(stable=True)


def packed(x: Tensor, pack: int) -> Tensor:
    """``[B, C, …]`` to ``[ceil(B / pack), pack * C, …]``: consecutive images, stacked as channels.

    Where B is no multiple of ``pack`` the last pack is filled with the first images, which then count twice.

    Raises:
        ValueError: fewer images than one pack.
    """
    if pack == 1:
        return x
    x = filled(x, pack)
    return x.reshape(-1, pack * x.shape[1], *x.shape[2:])


def filled(x: Tensor, pack: int) -> Tensor:
    """``[B, …]`` with its first rows repeated at the end, up to a multiple of ``pack``."""
    if len(x) < pack:
        raise ValueError(
            f"{len(x)} images are fewer than one pack of {pack}: raise --train.batch or lower --model.pack"
        )
    missing = -len(x) % pack
    return torch.cat([x, x[:missing]]) if missing else x
