"""log P(image) of a discrete image by the probability-flow equation: what lies between pixels and densities.

The density of the equation is one of continuous y, at an angle with a little noise. Two ways lead from there to the
probability of the discrete image, each a lower bound in expectation and nearly tight:

``decoder``  x_s is drawn from the chain, and log P(x) ≥ E[log p(x_s) + log p(x | x_s) - log q(x_s | x)] with a discrete
             decoder as in the variational bound (Ho et al. 2020, eq. 13). Nothing is cut off: the step from 0 to s is
             accounted for by the last two terms. The time s and the decoder are those of the `Chain` of the bound, so
             this is the bound with its terms of t > s replaced by the exact density, and the two may be compared.
``uniform``  u is uniform over the bin of each pixel and log P(x) ≥ E[log p(x + u)] + D log(bin) (Theis et al. 2016);
             x + u, scaled by cos φ_1, is taken for y at the angle of x_1, and the scale is accounted for. The
             textbook's; looser where the network has never seen so little noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from trilemma.families.diffusion.bound import Chain, log_bin
from trilemma.families.diffusion.denoiser import Denoiser
from trilemma.families.diffusion.ode import log_density
from trilemma.families.diffusion.schedule import Schedule, rowwise
from trilemma.noise import Noise

Dequantize = Literal["decoder", "uniform"]

EXACT = 16
"""Dimensions of a vector up to which the divergence is computed and not estimated."""

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``velocity(y, phi, rows)`` → dy/dφ, as in ``ode.py``."""


def flow_velocity(rows_of: Callable[[Tensor], Denoiser], schedule: Schedule, *, clip: bool) -> Velocity:
    """dy/dφ = cos φ ε - sin φ x_0 of the probability-flow equation on the quarter circle (see ``ode.py``).

    At an angle between two times of the schedule the denoiser is asked at the time in between.

    Args:
        rows_of: the denoiser of the images of these numbers, int64 [n].
        clip: whether the estimate of the image is clamped to [-1, 1] as in sampling, with ε from the rest.
    """

    def velocity(y: Tensor, phi: Tensor, rows: Tensor) -> Tensor:
        t = schedule.time(phi)
        cosine, sine, size = (rowwise(v, y).to(y) for v in (phi.cos(), phi.sin(), schedule.polar(t)[1]))
        x_0, eps, _ = rows_of(rows)(size * y, t)
        if clip:
            return (cosine * y - x_0.clamp(-1, 1)) / sine
        return cosine * eps - sine * x_0

    return velocity


def flow_log_likelihood(
    velocity: Velocity,
    denoise: Denoiser,
    x0: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    levels: int,
    dequantize: Dequantize = "decoder",
    tolerance: float = 1e-4,
    chain: Chain | None = None,
) -> tuple[Tensor, Tensor]:
    """One draw of log P(x), float64 [N] in nats, and the evaluations of the network for each image, int64 [N].

    Args:
        velocity: of the equation; denoise: the estimate that the discrete decoder asks for.
        x0: float [N, C, H, W], the images on [-1, 1].
        noise: one row per image: its dequantisation, then its probe.
        tolerance: of the solver, per unit of a value and per nat of a value's density.
        chain: whose decoder it is.
    """
    chain = chain or Chain.default(schedule, levels)
    first = 1 if dequantize == "uniform" else chain.first
    start, stop = float(schedule.angle[first]), float(schedule.angle[-1])
    cosine, sine = math.cos(start), math.sin(start)
    if dequantize == "uniform":
        y = cosine * (x0 + (noise.uniform(*x0.shape[1:]).to(x0) - 0.5) * (2 / (levels - 1)))
        beside = torch.full((len(x0),), x0[0].numel() * math.log(cosine * 2 / (levels - 1)), dtype=torch.float64)
    else:
        eps = noise.normal(*x0.shape[1:]).to(x0)
        y = cosine * x0 + sine * eps
        size = float(schedule.size[first])  # of x_t against y
        with torch.no_grad():
            estimate = denoise(size * y, torch.full((len(x0),), first))
        log_q = -0.5 * (eps.cpu().double().square() + math.log(2 * math.pi)) - math.log(sine)  # of y
        beside = (log_bin(x0, estimate.x0, chain.spread(estimate, schedule), levels) - log_q).flatten(1).sum(1)
    probe = 2.0 * (noise.uniform(*x0.shape[1:]) < 0.5).to(x0) - 1
    density, evaluations = log_density(velocity, y, probe, start, stop, tolerance)
    return density + beside, evaluations


def flow_log_density(
    velocity: Velocity,
    x0: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    first: int = 0,
    last: int = -1,
    tolerance: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """log p(x0) of real-valued vectors, float64 [N] in nats, and the evaluations of the network, int64 [N].

    There is nothing to dequantise: the equation starts at the vectors themselves. The divergence is exact up to
    `EXACT` dimensions, with one probe a vector above.

    Args:
        x0: float [N, D], of unit size.
        first, last: the times between which to solve; a model that predicts x_0 is singular at 0, one that predicts the
            noise where there is no signal.
    """
    start, stop = float(schedule.angle[first]), float(schedule.angle[last])
    probe = None if x0.shape[1] <= EXACT else 2.0 * (noise.uniform(x0.shape[1]) < 0.5).to(x0) - 1
    density, evaluations = log_density(velocity, math.cos(start) * x0, probe, start, stop, tolerance)
    return density + x0.shape[1] * math.log(math.cos(start)), evaluations
