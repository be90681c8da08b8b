"""Spectral normalisation (Miyato et al. 2018, arXiv 1802.05957): layers that stretch no input by more than one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Spectral(nn.Module):
    """A weight divided by its largest singular value σ, which one step of power iteration a use keeps up with.

    A convolution's weight counts as the matrix ``[out, in * height * width]``, as in the paper (section 2.3). Iterates
    in training mode only; the estimate never exceeds the true σ. The iterate is a buffer, so that a resumed run goes
    on from it; it depends on the weight alone, so that all processes of a run have the same.
    """

    u: Tensor  # [out], of unit length

    def __init__(self, weight: Tensor, start: int = 15) -> None:
        super().__init__()
        self.register_buffer("u", F.normalize(torch.randn(len(weight)), dim=0))
        with torch.no_grad():
            for _ in range(start):
                self(weight)

    def forward(self, weight: Tensor) -> Tensor:
        # Products and sums, not matrix products: autocast would round those to eight bits and shake the whole layer.
        matrix = weight.flatten(1)
        with torch.no_grad():
            v = F.normalize((matrix * self.u[:, None]).sum(0), dim=0)
            if self.training:
                self.u.copy_(F.normalize((matrix * v).sum(1), dim=0))
        # A copy: the next use moves the buffer, and the gradient of this one still needs what it was.
        sigma = ((matrix * v).sum(1) * self.u.clone()).sum()
        return weight / sigma


def normalise_spectrally(net: nn.Module) -> None:
    """Give every convolution, linear layer and embedding of ``net`` a weight of largest singular value 1."""
    for layer in list(net.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            parametrize.register_parametrization(layer, "weight", Spectral(layer.weight))
