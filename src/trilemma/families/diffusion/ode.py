"""log p(x) by the probability-flow equation (Song et al. 2021, section 4.3), which turns noise into images one to one.

Any Gaussian path, rescaled, is y = cos φ x_0 + sin φ ε, with tan φ = σ_t/α_t: on a quarter of a circle, with values of
unit scale throughout. There the equation is

    dy/dφ = v(y, φ) = cos φ ε(y) - sin φ x_0(y)

and by the change of variables log p(y_start) = log p(y_end) + ∫ div v dφ. The divergence is estimated by one probe,
kept over the whole solve, zᵀ (∂v/∂y) z with z = ±1 (Skilling 1989, Hutchinson 1990): unbiased, and a smooth function of
φ, as the solver needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``field(y, phi, rows)`` → dy/dφ [n, …] and div v float64 [n]; ``phi`` float64 [n], ``rows`` int64 [n] are the images
that y belongs to."""

# The pair of orders 5 and 4 of Dormand and Prince (1980): nodes, stages, the fifth-order weights, and their difference
# from the fourth-order ones.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
MOST = 1000
"""Steps after which an image is given up."""


@dataclass(frozen=True)
class Solved:
    """Where the equation leads.

    Attributes:
        y: [N, …] at the end.
        divergence: float64 [N], ∫ div v dφ.
        evaluations: int64 [N], of the field for each image.
    """

    y: Tensor
    divergence: Tensor
    evaluations: Tensor


def solve(field: Field, y: Tensor, start: float, stop: float, tolerance: float) -> Solved:
    """Solve from φ = start to stop, each image with steps of its own.

    The step of an image is chosen by its error alone: the root mean square over its values of error/(1 + |y|), and the
    error of its integral over the number of values, both to be below ``tolerance``. So an image's answer does not
    depend on its batch.

    Args:
        y: float [N, …].

    Raises:
        ValueError: an image for which `MOST` steps do not suffice, in one line.
    """
    count, size = len(y), y[0].numel()
    phi = torch.full((count,), start, dtype=torch.float64)
    step = torch.full((count,), (stop - start) / 20, dtype=torch.float64)
    total = torch.zeros(count, dtype=torch.float64)
    evaluations = torch.zeros(count, dtype=torch.int64)
    rows = torch.arange(count)
    y = y.clone()
    first = field(y, phi, rows)  # the last stage of an accepted step is the first of the next
    slope, change = first[0].clone(), first[1].clone()
    evaluations += 1
    for _ in range(MOST):
        rows = torch.nonzero((stop - phi).abs() > 1e-12)[:, 0]
        if not len(rows):
            return Solved(y, total, evaluations)
        on = rows.to(y.device)
        h = step[rows]
        h = torch.where((phi[rows] + h - stop) * math.copysign(1, stop - start) > 0, stop - phi[rows], h)
        moved, added, ends, error = _step(field, (y[on], total[rows]), (slope[on], change[rows]), phi[rows], h, rows)
        evaluations[rows] += 6
        accepted = error <= tolerance
        keep, where = rows[accepted], accepted.to(y.device)
        y[on[where]], slope[on[where]] = moved[where], ends[0][where]
        total[keep], change[keep] = added[accepted], ends[1][accepted]
        phi[keep] = phi[keep] + h[accepted]
        factor = (0.9 * (tolerance / error.clamp(min=1e-30)) ** 0.2).clamp(0.2, 5.0)
        step[rows] = h * torch.where(accepted, factor, factor.clamp(max=1.0))
    raise ValueError(
        f"the probability-flow equation of {size} values needs more than {MOST} steps: raise the tolerance above "
        f"{tolerance:g}, such as `query --ode --tolerance {10 * tolerance:g}`"
    )


def _step(
    field: Field, state: tuple[Tensor, Tensor], slopes: tuple[Tensor, Tensor], phi: Tensor, h: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """One step of each image: the new state, the slopes there, and the error in units of the state's scale."""
    y, total = state
    wide = h.to(y.dtype).to(y.device).view(-1, *[1] * (y.ndim - 1))
    ks, ds = [slopes[0]], [slopes[1]]
    moved, added = y, total
    for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
        moved = y + wide * torch.stack([w * k for w, k in zip(weights, ks, strict=True)]).sum(0)
        added = total + h * torch.stack([w * d for w, d in zip(weights, ds, strict=True)]).sum(0)
        k, d = field(moved, phi + node * h, rows)
        ks.append(k)
        ds.append(d)
    off = wide * torch.stack([w * k for w, k in zip(ERROR, ks, strict=True)]).sum(0)
    drift = h * torch.stack([w * d for w, d in zip(ERROR, ds, strict=True)]).sum(0)
    scaled = (off / (1 + torch.maximum(y.abs(), moved.abs()))).flatten(1).square().mean(1).sqrt().cpu().double()
    return moved, added, (ks[-1], ds[-1]), torch.maximum(scaled, drift.abs() / y[0].numel())


def with_divergence(velocity: Callable[[Tensor, Tensor, Tensor], Tensor], probe: Tensor) -> Field:
    """The field of `solve` from ``velocity(y, phi, rows)``, with zᵀ (∂v/∂y) z for the ``probe`` z [N, …]."""

    def field(y: Tensor, phi: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        z = probe[rows.to(probe.device)]
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            v = velocity(y, phi, rows)
            (gradient,) = torch.autograd.grad((v * z).sum(), y)
        return v.detach(), (gradient * z).flatten(1).sum(1).cpu().double()

    return field


def with_exact_divergence(velocity: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Field:
    """The field of `solve` from ``velocity(y, phi, rows)`` with div v itself, one derivative for each value of y."""

    def field(y: Tensor, phi: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            v = velocity(y, phi, rows)
            columns = v.flatten(1).sum(0)
            slopes = [
                torch.autograd.grad(column, y, retain_graph=i + 1 < len(columns))[0].flatten(1)[:, i]
                for i, column in enumerate(columns)
            ]
        return v.detach(), torch.stack(slopes).sum(0).cpu().double()

    return field


def log_density(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    y: Tensor,
    probe: Tensor | None,
    start: float,
    stop: float,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """log p(y) at angle ``start``, if at angle ``stop`` it is standard normal: float64 [N], and the evaluations [N].

    ``probe`` None asks for the divergence itself, which costs a derivative for each value.
    """
    field = with_exact_divergence(velocity) if probe is None else with_divergence(velocity, probe)
    end = solve(field, y, start, stop, tolerance)
    z = end.y.cpu().double().flatten(1)
    normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    return normal + end.divergence, end.evaluations
