"""Denoisers that need no training: exact for a distribution that is known."""

from __future__ import annotations

import torch
from torch import Tensor

from trilemma.families.diffusion import Diffusion, DiffusionConfig
from trilemma.images import Spec


class OneGaussian(Diffusion):
    """A model whose denoiser is exact for pixels N(0, 0.3²), without a network."""

    def predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        at = t.double().cpu()
        low = at.floor().long().clamp(max=self.schedule.T - 1)
        share = at - low
        angle = (1 - share) * self.schedule.angle[low] + share * self.schedule.angle[low + 1]
        signal, sigma = (f(angle)[:, None, None, None].to(x_t) for f in (torch.cos, torch.sin))
        x0 = signal * 0.09 / (signal**2 * 0.09 + sigma**2) * x_t
        return signal * (x_t - signal * x0) / sigma - sigma * x0


def exact(timesteps: int = 1000) -> OneGaussian:
    return OneGaussian(DiffusionConfig(width=16, multipliers=(1,), timesteps=timesteps), Spec((1, 4, 4))).eval()


def spread(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def ddpm(spec: Spec, **changes: object) -> Diffusion:
    fields = {"width": 32, "multipliers": (1, 2), "timesteps": 60, "network": "ddpm", "attention": 1, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Diffusion(DiffusionConfig(**fields), spec)  # type: ignore[arg-type]
    spread(model)
    return model.eval().requires_grad_(False)
