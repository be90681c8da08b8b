"""The classifier two-sample test: can a network tell samples from real images?

Lopez-Paz & Oquab 2017, "Revisiting classifier two-sample tests" (arXiv:1610.06545). It needs no feature space, so it
holds where one fails; it finds any difference at all, so it is strict.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trilemma.metrics.classifier import train_classifier
from trilemma.metrics.estimate import share_of
from trilemma.number import Number

MOST = 2000  # images of each kind: more are not needed to be sure
STEPS = 200


def passed(real: Tensor, fake: Tensor, *, seed: int = 0, device: torch.device | str = "cpu") -> Number:
    """Twice the error rate on unseen images of a classifier that was trained to tell ``fake`` from ``real``.

    Half of both, equally many, is trained on; the other half is asked. 1: it can only guess; 0: it is never wrong.

    Args:
        real: ``uint8 [N, C, H, W]``, 0 … 255.
        fake: ``uint8 [M, C, H, W]`` of the same shape.
        seed: of the split and of the network.

    Raises:
        ValueError: fewer than 32 images of either kind, or other kinds of images.
    """
    n = min(len(real), len(fake), MOST)
    if n < 32:
        raise ValueError(f"a classifier needs 32 images of each kind, not {n}")
    generator = torch.Generator().manual_seed(seed)
    chosen = [x[torch.randperm(len(x), generator=generator)[:n]] for x in (real, fake)]
    half = n // 2
    images = torch.cat([x[:half] for x in chosen])
    labels = torch.arange(2).repeat_interleave(half)
    classifier = train_classifier(images, labels, 2, steps=STEPS, seed=seed, device=device)
    wrong = sum(int((classifier.labels(x[half:]) != kind).sum()) for kind, x in enumerate(chosen))
    found = share_of(float(wrong), 2 * (n - half))
    return Number(min(1.0, 2 * found.known), 2 * (found.error or 0.0))
