"""What Bayes' rule compares: the evidence of a noised image for a class, by the denoiser's errors over all times."""

from __future__ import annotations

import torch
from torch import Tensor

from trilemma.families.diffusion.bound import step_term
from trilemma.families.diffusion.denoiser import Denoiser
from trilemma.families.diffusion.schedule import Schedule
from trilemma.noise import Noise


def noised_bound(denoise: Denoiser, x0: Tensor, schedule: Schedule, noise: Noise, samples: int) -> Tensor:
    """A draw of the bound on E[log p(x_s)], s uniform on 1 … T, less what the model has no part in.

    The chain above s is a model of x_s, whose bound is that of x_0 without the terms below; so their mean has
    (t - 1)/T of the term L_{t-1} (Kingma and Gao 2023, arXiv:2303.00848, section 4). The details of low noise, most of
    the bound on log p(x_0), hardly count. Errors of class-conditional denoisers compared over all times are the
    diffusion classifier (Li et al. 2023, arXiv:2303.16203; Clark and Jaini 2023, arXiv:2303.15233).

    Args:
        denoise, x0, schedule, noise: as in `variational_bound`.
        samples: of the times 2 … T, as many, evenly spaced, are evaluated; the same for every image, so that classes
            differ in nothing else.

    Returns:
        nats per image, float64 [N] on the CPU, higher is better.
    """
    spread = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples * (schedule.T - 1)
    total = torch.zeros(len(x0), dtype=torch.float64)
    for t in (2 + spread.long()).tolist():
        rows = torch.full((len(x0),), t)
        term = step_term(denoise, x0, rows, schedule, noise.normal(*x0.shape[1:]))
        total = total - (t - 1) / schedule.T * term
    return total * (schedule.T - 1) / samples
