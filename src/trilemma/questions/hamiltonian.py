"""Hamiltonian Monte Carlo (Neal 2011, "MCMC using Hamiltonian dynamics", arXiv 1206.1901) between q(z) and p(x, z)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.families.family import Progress
from trilemma.noise import Noise
from trilemma.questions.decoders import Joint

ACCEPTANCE = 0.65
"""Share of accepted moves that the step sizes are tuned to, the optimum in many dimensions (Neal 2011, section 4.4)."""

FIRST_STEP = 0.2
"""Step size that the tuning starts from, in units of the standard deviations of q."""


@dataclass(frozen=True)
class Point:
    """Codes ``z`` [R, latent] with the logarithms of q and p(x, z) [R] there, and their gradients."""

    z: Tensor
    log_start: Tensor
    log_joint: Tensor
    start_gradient: Tensor
    joint_gradient: Tensor

    @classmethod
    def at(cls, target: Joint, rows: Tensor, z: Tensor) -> Point:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_joint = target.log_prior(z) + target.log_likelihood(z, rows)
            (gradient,) = torch.autograd.grad(log_joint.sum(), z)
        z = z.detach()
        start = target.log_start(z, rows)
        return cls(z, start, log_joint.detach(), (target.mean[rows] - z) / target.std[rows].square(), gradient)

    @property
    def ratio(self) -> Tensor:
        """log p(x, z) - log q(z): [R]."""
        return self.log_joint - self.log_start

    def log_density(self, beta: float) -> Tensor:
        """log q^(1-β) p^β: [R]."""
        return (1 - beta) * self.log_start + beta * self.log_joint

    def gradient(self, beta: float) -> Tensor:
        """Of `log_density` by z: [R, latent]."""
        return (1 - beta) * self.start_gradient + beta * self.joint_gradient

    def where(self, chosen: Tensor, other: Point) -> Point:
        """This point in the chosen rows, bool [R], the other elsewhere."""
        column = chosen[:, None]
        return Point(
            torch.where(column, self.z, other.z),
            torch.where(chosen, self.log_start, other.log_start),
            torch.where(chosen, self.log_joint, other.log_joint),
            torch.where(column, self.start_gradient, other.start_gradient),
            torch.where(column, self.joint_gradient, other.joint_gradient),
        )


def move(
    target: Joint, rows: Tensor, point: Point, beta: float, steps: Tensor, leapfrogs: int, noise: Noise
) -> tuple[Point, Tensor]:
    """One move that leaves q^(1-β) p^β as it is: fresh momentum, leapfrog steps, accepted or refused.

    Momenta have the inverse variances of q as their masses, so that ``steps``, a size for each image [N], are in units
    of the standard deviations of q.

    Returns:
        The new point, and the probabilities [R] with which the moves were accepted.
    """
    scale = target.std[rows]
    step = steps.to(scale)[rows, None] * scale
    first = noise.normal(point.z.shape[1]).to(scale)  # momentum divided by the root of its mass
    momentum, end = first, point
    for _ in range(leapfrogs):
        momentum = momentum + 0.5 * step * end.gradient(beta)
        end = Point.at(target, rows, end.z + step * momentum)
        momentum = momentum + 0.5 * step * end.gradient(beta)
    kinetic = 0.5 * (first.square() - momentum.square()).sum(1)
    # A trajectory that ran away has no number for an energy: it is refused.
    log_ratio = torch.nan_to_num(end.log_density(beta) - point.log_density(beta) + kinetic, nan=-torch.inf)
    probability = log_ratio.clamp(max=0).exp()
    return end.where(noise.uniform().to(probability) < probability, point), probability


def tuned(
    target: Joint,
    rows: Tensor,
    z: Tensor,
    betas: Tensor,
    leapfrogs: int,
    chains: int,
    noise: Noise,
    progress: Progress | None = None,
) -> Tensor:
    """Step sizes ``[T, N]`` of the moves at β_1 … β_T by a pilot run from ``z``, which is thrown away.

    They are frozen afterwards: a move that adapted to its own past would not leave its density as it is. The step
    follows the share of accepted moves among an image's chains, down faster than up, so that a density that has become
    narrow is not missed.
    """
    point = Point.at(target, rows, z)
    step = torch.full((len(target.mean),), FIRST_STEP, device=z.device)
    kept = []
    rate = max(0.02, min(0.5, 20 / len(betas)))  # few temperatures leave little time to follow
    for i, beta in enumerate(betas[1:].tolist()):
        for _ in range(4 if i == 0 else 1):  # a few more to find its place
            point, probability = move(target, rows, point, beta, step, leapfrogs, noise)
            share = probability.view(-1, chains).mean(1)
            step = step * torch.exp(rate * (share - ACCEPTANCE) / ACCEPTANCE)
            step = step.clamp(1e-4, 1.0)
        kept.append(step)
        if progress:
            progress(i + 1, len(betas) - 1)
    return torch.stack(kept)
