"""Penalties on the discriminator's gradient with respect to its input.

They are of each input alone, so D must not couple the images of a batch: no batch norm. Pixels are on [-1, 1]; a pack
of several images is one input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trilemma.families.observation import at_least_float32


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """Mean of (‖∇D(x̂)‖ - 1)² at x̂ = ε x + (1 - ε) G(z) (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3).

    Args:
        critic: maps ``[B, …]`` to ``[B]``.
        real, fake: ``[B, …]``.
        epsilon: uniform on [0, 1), ``[B]``: each input has its own.

    Returns:
        A scalar, which can be differentiated with respect to the critic.
    """
    epsilon = epsilon.view(-1, *[1] * (real.ndim - 1)).to(real.dtype)
    between = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_()
    norm = (squared(slopes(critic(between), between)) + 1e-12).sqrt()  # the root has no derivative at 0
    return (norm - 1).square().mean()


def slopes(answers: Tensor, x: Tensor) -> Tensor:
    """∇D(x) of each input, of the shape of ``x``, from ``answers = D(x)``.

    ``x`` must require gradients; the result can be differentiated again.
    """
    (gradient,) = torch.autograd.grad(at_least_float32(answers).sum(), x, create_graph=True)
    return at_least_float32(gradient)


def squared(slope: Tensor) -> Tensor:
    """‖∇D(x)‖² of each input, ``[B]``. R1 is γ/2 times its mean over real images, R2 over generated ones (Mescheder et
    al. 2018, arXiv 1801.04406, section 4.1)."""
    return slope.flatten(1).square().sum(1)
