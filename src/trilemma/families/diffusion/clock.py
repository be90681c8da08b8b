"""At which times a model is trained: each way of drawing t, with the weight that keeps the loss the same on average."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trilemma.noise import Noise

ClockName = Literal["uniform", "log-uniform", "loss-aware"]
BINS = 50
"""Stretches of time in which the loss is followed."""
RATE = 0.01
"""Share of the newest batch in the averages: about the last hundred count."""
FLOOR = 0.01
"""Share of the draws that stays uniform, so that every stretch is visited."""


class Clock(nn.Module):
    """Draws t from 1 … T with probability q_t, and weights 1/(T q_t): E[w f(t)] is the plain mean of f.

    ``uniform`` has q_t = 1/T. ``log-uniform`` has q_t ∝ 1/t, as many draws for every order of magnitude of t.
    ``loss-aware`` has q_t ∝ √E[L_t²], which makes the estimate of the loss the least noisy (Nichol & Dhariwal 2021,
    eq. 18). There L² is averaged over `BINS` stretches of time and about the last hundred batches, as a pair of
    averages that are linear in the batch, so that many processes keep the statistic of one.
    """

    def __init__(self, timesteps: int, kind: ClockName) -> None:
        super().__init__()
        self.T, self.kind = timesteps, kind
        self.q: Tensor
        self.squares: Tensor
        self.counts: Tensor
        if kind == "log-uniform":
            q = 1 / torch.arange(1, timesteps + 1, dtype=torch.float64)
            self.register_buffer("q", (q / q.sum()).float(), persistent=False)
        elif kind == "loss-aware":
            bins = min(BINS, timesteps)
            self.register_buffer("squares", torch.zeros(bins))
            self.register_buffer("counts", torch.zeros(bins))

    def bin(self, t: Tensor) -> Tensor:
        """The stretch of each time, int64."""
        return (t - 1) * len(self.counts) // self.T

    def probabilities(self) -> Tensor:
        """q_1 … q_T, float32 [T]."""
        if self.kind == "log-uniform":
            return self.q
        size = (self.T,)
        if self.kind == "uniform" or not bool((self.counts > 0).all()):
            return torch.full(size, 1 / self.T, device=self.counts.device if self.kind == "loss-aware" else None)
        spread = (self.squares / self.counts).sqrt()[self.bin(torch.arange(1, self.T + 1, device=self.counts.device))]
        return (1 - FLOOR) * spread / spread.sum() + FLOOR / self.T

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor | None]:
        """t int64 [B], and its weights float32 [B]; None where all are 1."""
        if self.kind == "uniform":
            return noise.integers(self.T) + 1, None
        q = self.probabilities()
        t = torch.searchsorted(q.cumsum(0), noise.uniform(), right=True).clamp(max=self.T - 1)
        return t + 1, 1 / (self.T * q[t])

    @torch.no_grad()
    def hear(self, t: Tensor, losses: Tensor) -> None:
        """Take in the losses [B] at the times [B] of a training batch."""
        if self.kind != "loss-aware":
            return
        hits = torch.zeros(len(t), len(self.counts), device=t.device).scatter_(1, self.bin(t)[:, None], 1.0)
        self.counts.lerp_(hits.mean(0), RATE)
        self.squares.lerp_((hits * losses.detach().square()[:, None]).mean(0), RATE)
