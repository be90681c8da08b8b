"""The fixed forward chain q(x_t | x_0): how much noise there is at each time.

Times are those of the paper (Ho et al. 2020): ``t = 1 … T``, x_0 is the image and x_T all but pure noise. (Most code
counts from 0; its index is ours minus one.) Every table is float64 on the CPU: with T = 1000 the differences between
neighbouring entries are lost in float32.
"""

from __future__ import annotations

import math
from typing import Literal, get_args, overload

import torch
from torch import Tensor

ScheduleName = Literal["linear", "cosine", "snr"]
Spacing = Literal["trailing", "leading", "linspace", "quadratic", "karras"]
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


def linear_log_snr(timesteps: int, first: float = 10.0, last: float = -10.0) -> Tensor:
    """log SNR at t = 1 … T, falling in equal steps (Kingma et al. 2021, section 3.1, with the ends fixed).

    Equal steps of the log are equal times for every order of magnitude of noise. The ends are about those of the
    linear schedule: standard deviations of 0.007 at t = 1, and a signal of 0.007 at t = T.
    """
    return torch.linspace(first, last, timesteps, dtype=torch.float64)


class Schedule:
    """Gaussian noise that grows with t: q(x_t | x_0) = N(α_t x_0, σ_t² I).

    A *variance-preserving* chain has α_t² + σ_t² = 1 (all but `Schedule.flow`); then α_t² is the ᾱ_t of Ho et al.
    2020, and q(x_t | x_{t-1}) = N(√(1-β_t) x_{t-1}, β_t I).

    ``schedule(t)`` is (α_t, σ_t).

    Attributes:
        T: number of steps.
        alpha_bar: float64 [T+1], α_t²; ``alpha_bar[0]`` is 1.
        variance: float64 [T+1], σ_t²; ``variance[0]`` is 0.
        signal, sigma: float64 [T+1], α_t and σ_t.
    """

    def __init__(self, alpha_bar: Tensor, variance: Tensor) -> None:
        """Both float64 [T+1], from t = 0; the first falls from 1, the second rises from 0."""
        if alpha_bar.dtype != torch.float64 or variance.dtype != torch.float64:
            raise ValueError("a schedule needs float64 tables")
        if (
            alpha_bar[0] != 1
            or variance[0] != 0
            or not bool((alpha_bar.diff() < 0).all() & (variance.diff() > 0).all())
        ):
            raise ValueError("a schedule needs a signal that falls from 1 and a noise that rises from 0")
        self.T = len(alpha_bar) - 1
        self.alpha_bar, self.variance = alpha_bar, variance
        self.signal, self.sigma = alpha_bar.sqrt(), variance.sqrt()

    @classmethod
    def from_beta(cls, beta: Tensor) -> Schedule:
        """The chain with β_1 … β_T, float64 [T], each in (0, 1): ᾱ_t = ∏ (1 - β) (Ho et al. 2020, eq. 4)."""
        if beta.dtype != torch.float64 or not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError("a schedule needs float64 values of beta strictly between 0 and 1")
        alpha_bar = torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)])
        return cls(alpha_bar, 1 - alpha_bar)

    @classmethod
    def from_log_snr(cls, log_snr: Tensor) -> Schedule:
        """The variance-preserving chain with log(ᾱ_t / (1 - ᾱ_t)) = ``log_snr``, float64 [T], falling."""
        zero = log_snr.new_zeros(1)
        return cls(torch.cat([zero + 1, log_snr.sigmoid()]), torch.cat([zero, (-log_snr).sigmoid()]))

    @classmethod
    def flow(cls, timesteps: int) -> Schedule:
        """The straight line x_t = (1 - t/T) x_0 + t/T ε of rectified flow (Liu, Gong and Liu 2023, eq. 1)."""
        check_timesteps(timesteps)
        t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        return cls((1 - t).square(), t.square())

    @classmethod
    def named(cls, name: ScheduleName, timesteps: int, betas: tuple[float, float] | None = None) -> Schedule:
        """The ``linear``, ``cosine`` or ``snr`` schedule with T = ``timesteps``; a linear one may have its own ends."""
        check_timesteps(timesteps)
        if name == "linear":
            own = None if betas is None else torch.linspace(*betas, timesteps, dtype=torch.float64)
            return cls.from_beta(linear_beta(timesteps) if own is None else own)
        if name == "cosine":
            return cls.from_beta(cosine_beta(timesteps))
        if name == "snr":
            return cls.from_log_snr(linear_log_snr(timesteps))
        raise ValueError(f"there is no schedule {name!r}: choose linear, cosine or snr")

    @overload
    def __call__(self, t: int) -> tuple[float, float]: ...
    @overload
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def __call__(self, t: int | Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """α_t and σ_t: two numbers for one time, float64 [N] on the CPU for times int64 [N]."""
        if isinstance(t, Tensor):
            return self.signal[t.cpu()], self.sigma[t.cpu()]
        return float(self.signal[t]), float(self.sigma[t])

    def at(self, t: int | Tensor, x: Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """α_t and σ_t as they multiply x [N, …]: two numbers for one time, [N, 1, …] of x's kind for one for each row.

        Between two whole times, float64 [N], the angle arctan(σ/α) and the size √(α² + σ²) are those on the line
        between theirs.
        """
        if not isinstance(t, Tensor):
            return self(t)
        if not t.is_floating_point():
            alpha, sigma = self(t)
            return rowwise(alpha, x).to(x), rowwise(sigma, x).to(x)
        phi, size = self.polar(t.cpu())
        cosine, sine, size = (rowwise(v, x).to(x) for v in (phi.cos(), phi.sin(), size))
        return size * cosine, size * sine

    def polar(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The angle arctan(σ/α) and the size √(α² + σ²) at times in 0 … T, float64 [N]."""
        above = t.ceil().long().clamp(1, self.T)
        share = t - (above - 1)
        angle, size = self.angle, self.size
        return tuple(v[above - 1] + share * (v[above] - v[above - 1]) for v in (angle, size))  # type: ignore[return-value]

    def time(self, phi: Tensor) -> Tensor:
        """The times in 0 … T at which arctan(σ/α) is ``phi``, float64 [N]: the inverse of `polar`."""
        above = torch.searchsorted(self.angle, phi).clamp(1, self.T)
        return above - 1 + (phi - self.angle[above - 1]) / (self.angle[above] - self.angle[above - 1])

    @property
    def size(self) -> Tensor:
        """float64 [T+1], √(α_t² + σ_t²), 1 where variance is preserved."""
        return (self.alpha_bar + self.variance).sqrt()

    @property
    def beta(self) -> Tensor:
        """float64 [T+1], β_t = 1 - ᾱ_t/ᾱ_{t-1}; ``beta[0]`` is 0."""
        beta = 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]
        return torch.cat([beta.new_zeros(1), beta])

    def snr(self, t: Tensor | int) -> Tensor:
        """Signal-to-noise ratio α_t² / σ_t²; infinite at t = 0."""
        return self.alpha_bar[t] / self.variance[t]

    @property
    def angle(self) -> Tensor:
        """float64 [T+1], arctan(σ_t / α_t), from 0 (all signal) towards π/2 (all noise)."""
        return torch.atan2(self.sigma, self.signal)

    def posterior(self, t: Tensor | int, s: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
        """q(x_s | x_t, x_0) = N(a·x_0 + b·x_t, σ² I) for any s < t (eq. 6 and 7, where s = t - 1).

        Returns:
            a, b and σ² = β̃, float64, of the shape of ``t``.
        """
        share = self.variance[s] / self.variance[t]
        added = self.added(t, s)
        x0 = self.signal[s] * added / self.variance[t]
        return x0, (self.alpha_bar[t] / self.alpha_bar[s]).sqrt() * share, share * added

    def added(self, t: Tensor | int, s: Tensor | int) -> Tensor:
        """The variance that the chain adds between s and t: σ_t² - (α_t/α_s)² σ_s², which is β_t for s = t - 1."""
        return self.variance[t] - self.alpha_bar[t] / self.alpha_bar[s] * self.variance[s]

    def reverse_variance(self, t: Tensor | int, s: Tensor | int, kind: Variance) -> Tensor:
        """σ² of the model's p(x_s | x_t): ``small`` is β̃, ``large`` is β (Ho et al. 2020, section 3.2)."""
        return self.posterior(t, s)[2] if kind == "small" else self.added(t, s)

    def times(self, steps: int, spacing: Spacing) -> list[int]:
        """Which times a sampler of so many steps visits, from the noisiest down; 0, the image, is not among them.

        Args:
            steps: 1 … T. ``quadratic`` and ``karras`` may drop a few that fall together.
            spacing: ``trailing`` starts at T and steps down by T/steps (Lin et al. 2023); ``leading`` ends at 1;
                ``linspace`` has both ends; ``quadratic`` has both and is denser at low noise. (DDIM's code for
                CIFAR-10 stops its quadratic spacing at 0.8·T, which suits only the linear schedule.) ``karras``
                spaces the seventh root of σ_t/α_t evenly from at most 80 (Karras et al. 2022, eq. 5), after T.
        """
        T = self.T
        if not 1 <= steps <= T:
            raise ValueError(f"steps must be between 1 and the {T} timesteps of the model, not {steps}")
        if spacing not in get_args(Spacing):
            raise ValueError(f"there is no spacing {spacing!r}: choose {', '.join(get_args(Spacing))}")
        if steps == 1:
            return [T]
        if spacing == "trailing":
            times = [T - i * T // steps for i in range(steps)]
        elif spacing == "leading":
            times = [1 + i * (T // steps) for i in range(steps)]
        elif spacing == "linspace":
            times = [1 + round(i * (T - 1) / (steps - 1)) for i in range(steps)]
        elif spacing == "quadratic":
            times = [1 + round((i / (steps - 1)) ** 2 * (T - 1)) for i in range(steps)]
        else:
            ratio = self.sigma[1:] / self.signal[1:]
            low, high = float(ratio[0]) ** (1 / 7), min(float(ratio[-1]), 80.0) ** (1 / 7)
            wanted = torch.linspace(low, high, steps, dtype=torch.float64) ** 7
            nearest = (ratio.log() - wanted.log()[:, None]).abs().argmin(1)
            times = [*(1 + nearest[:-1]).tolist(), T]
        return sorted(set(times), reverse=True)


def rowwise(values: Tensor, x: Tensor) -> Tensor:
    """Values [N] as [N, 1, …] with as many dimensions as x [N, …], so that they multiply its rows."""
    return values.view(-1, *[1] * (x.ndim - 1))


def check_timesteps(timesteps: int) -> None:
    if timesteps < 2:
        raise ValueError(f"timesteps must be at least 2, not {timesteps}")
