"""The fixed forward chain q(x_t | x_0): how much noise there is at each time.

Times are those of the paper (Ho et al. 2020): ``t = 1 … T``, x_0 is the image and x_T all but pure noise. (Most code
counts from 0; its index is ours minus one.) Every table is float64 on the CPU: with T = 1000 the differences between
neighbouring entries are lost in float32.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

ScheduleName = Literal["linear", "cosine"]
Spacing = Literal["trailing", "leading", "linspace", "quadratic"]
Variance = Literal["small", "large"]


def linear_beta(timesteps: int) -> Tensor:
    """β_t from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled by 1000/T so that any T ends in as much noise."""
    scale = 1000 / timesteps
    return torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64).clamp(max=0.999)


def cosine_beta(timesteps: int, offset: float = 0.008) -> Tensor:
    """β_t = min(1 - f(t)/f(t-1), 0.999), f(t) = cos²(π/2 · (t/T + s)/(1 + s)) (Nichol & Dhariwal 2021, eq. 17)."""
    t = torch.arange(timesteps + 1, dtype=torch.float64)
    f = torch.cos((t / timesteps + offset) / (1 + offset) * math.pi / 2).square()
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


class Schedule:
    """The chain q(x_t | x_{t-1}) = N(√(1-β_t) x_{t-1}, β_t I).

    Attributes:
        T: number of steps.
        beta: float64 [T+1]; ``beta[0]`` is 0.
        alpha_bar: float64 [T+1], ∏ (1 - β): q(x_t | x_0) = N(√ᾱ_t x_0, (1 - ᾱ_t) I) (eq. 4); ``alpha_bar[0]`` is 1.
    """

    def __init__(self, beta: Tensor) -> None:
        """``beta``: float64 [T], β_1 … β_T, each in (0, 1)."""
        if beta.dtype != torch.float64 or not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError("a schedule needs float64 values of beta strictly between 0 and 1")
        self.T = len(beta)
        self.beta = torch.cat([beta.new_zeros(1), beta])
        self.alpha_bar = (1 - self.beta).cumprod(0)

    @classmethod
    def named(cls, name: ScheduleName, timesteps: int) -> Schedule:
        """The ``linear`` or the ``cosine`` schedule with T = ``timesteps``."""
        if timesteps < 2:
            raise ValueError(f"timesteps must be at least 2, not {timesteps}")
        if name not in ("linear", "cosine"):
            raise ValueError(f"there is no schedule {name!r}: choose linear or cosine")
        return cls(linear_beta(timesteps) if name == "linear" else cosine_beta(timesteps))

    def snr(self, t: Tensor | int) -> Tensor:
        """Signal-to-noise ratio ᾱ_t / (1 - ᾱ_t); infinite at t = 0."""
        return self.alpha_bar[t] / (1 - self.alpha_bar[t])

    def posterior(self, t: Tensor | int, s: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
        """q(x_s | x_t, x_0) = N(a·x_0 + b·x_t, σ² I) for any s < t (eq. 6 and 7, where s = t - 1).

        Returns:
            a, b and σ² = β̃, float64, of the shape of ``t``.
        """
        a_t, a_s = self.alpha_bar[t], self.alpha_bar[s]
        step = a_t / a_s  # ∏ (1 - β) from s+1 to t
        x0 = a_s.sqrt() * (1 - step) / (1 - a_t)
        xt = step.sqrt() * (1 - a_s) / (1 - a_t)
        return x0, xt, (1 - a_s) / (1 - a_t) * (1 - step)

    def reverse_variance(self, t: Tensor | int, s: Tensor | int, kind: Variance) -> Tensor:
        """σ² of the model's p(x_s | x_t): ``small`` is β̃, ``large`` is β (Ho et al. 2020, section 3.2)."""
        if kind == "small":
            return self.posterior(t, s)[2]
        return 1 - self.alpha_bar[t] / self.alpha_bar[s]

    def times(self, steps: int, spacing: Spacing) -> list[int]:
        """Which times a sampler of so many steps visits, from the noisiest down; 0, the image, is not among them.

        Args:
            steps: 1 … T. ``quadratic`` may drop a few that fall together.
            spacing: ``trailing`` starts at T and steps down by T/steps (Lin et al. 2023); ``leading`` ends at 1;
                ``linspace`` has both ends; ``quadratic`` has both and is denser at low noise. (DDIM's code for
                CIFAR-10 stops its quadratic spacing at 0.8·T, which suits only the linear schedule.)
        """
        T = self.T
        if not 1 <= steps <= T:
            raise ValueError(f"steps must be between 1 and the {T} timesteps of the model, not {steps}")
        if spacing == "trailing":
            times = [T - i * T // steps for i in range(steps)]
        elif spacing == "leading":
            times = [1 + i * (T // steps) for i in range(steps)]
        elif spacing == "linspace":
            times = [1 + round(i * (T - 1) / max(steps - 1, 1)) for i in range(steps)]
        elif spacing == "quadratic":
            times = [1 + round((i / max(steps - 1, 1)) ** 2 * (T - 1)) for i in range(steps)]
        else:
            raise ValueError(f"there is no spacing {spacing!r}: choose trailing, leading, linspace or quadratic")
        return sorted(set(times), reverse=True) if steps > 1 else [T]
