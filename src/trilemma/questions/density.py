"""The density of a model of 2-D vectors, drawn as a map."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trilemma.drawing import ramp
from trilemma.families.diffusion import Denoising
from trilemma.families.family import Density, Family, Progress
from trilemma.images import save_png
from trilemma.noise import ImageNoise
from trilemma.vectors import SIDE, Plane, framed

POINTS = 1024
"""Points scored together."""

DRAWS = 64
"""Importance samples for each point, where the density is estimated by them."""

DEPTH = 12.0
"""Nats below the highest density that still have a colour of their own."""


@dataclass(frozen=True)
class Field:
    """log p on a square of points.

    Attributes:
        log_p: float64 [side, side] in nats, the rows from low to high values of the second coordinate.
        plane: where the square lies.
        kind: ``exact``, ``bound`` or ``estimate``; ``reason`` says how it came about.
    """

    log_p: Tensor
    plane: Plane
    kind: str
    reason: str


def density_map(
    model: Family,
    real: Tensor,
    *,
    label: int | None = None,
    side: int = 64,
    samples: int | None = None,
    progress: Progress | None = None,
) -> Field:
    """log p at the centres of ``side`` x ``side`` cells of the plane of the real vectors.

    Diffusion and flow by the probability-flow equation, a VAE by importance sampling.

    Args:
        real: float32 [N, 2], which say what part of the plane is of interest.
        label: class of a conditional model; None for none.
        samples: importance samples for each point.

    Raises:
        ValueError: the model's data are not 2-D vectors, or it defines no density, in one line.
    """
    spec = model.spec
    if not spec.vector or spec.dims != 2:
        what = f"vectors of {spec.dims} values" if spec.vector else "images"
        raise ValueError(f"a density can be drawn over a plane only, and these are {what}: ask for log p(x) instead")
    if model.density not in (Density.TRACTABLE, Density.APPROXIMATE):
        raise ValueError(f"{model.name} defines no density ({model.density.value}): look at its samples instead")
    plane = Plane.of(real)
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    down, across = torch.meshgrid(centres, centres, indexing="ij")
    shares = torch.stack([across, down], 2).view(-1, 2)
    points = (torch.tensor(plane.low) + shares * torch.tensor(plane.side)).float().to(model.device)
    parts, kind, reason = [], "", ""
    for start in range(0, len(points), POINTS):
        x = points[start : start + POINTS]
        noise = ImageNoise(0, range(start, start + len(x)), model.device)
        given = torch.full((len(x),), spec.classes if label is None else label, device=x.device)
        labels = given if spec.classes else None
        if isinstance(model, Denoising):
            nats, _ = model.flow_log_likelihood(x, labels, noise, tolerance=1e-3)
            kind, reason = "estimate", "the probability-flow equation"
        else:
            with torch.no_grad():
                answer = model.log_likelihood(x, labels, noise, samples or DRAWS)
            if answer.nats is None:
                raise ValueError(f"there is no density to draw: {answer.reason}")
            nats, kind, reason = answer.nats, answer.kind, answer.reason
        parts.append(nats.double().cpu())
        if progress:
            progress(start + len(x), len(points))
    return Field(torch.cat(parts).view(side, side), plane, kind, reason)


def draw_density(field: Field, path: str | os.PathLike[str]) -> Path:
    """A PNG of log p, light where it is high; all below `DEPTH` nats under the highest is darkest."""
    top = float(field.log_p.max())
    shown = ramp((field.log_p.flip(0) - top + DEPTH) / DEPTH)
    scale = SIDE // len(shown)
    pixels = np.ascontiguousarray(shown.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy())
    words = f"log p(x), {field.kind}: from {top - DEPTH:.3g} or less (dark) to {top:.3g} nats (light)"
    return save_png(framed(pixels, field.plane, words), path)
