"""Small stand-ins that several test files share."""

from __future__ import annotations

import torch
from torch import Tensor


class Linear(torch.nn.Module):
    """x = W z + b as an image, in the place of a generator or a decoder."""

    def __init__(self, weight: Tensor, bias: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.weight, self.bias, self.shape = torch.nn.Parameter(weight), torch.nn.Parameter(bias), shape

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return (z @ self.weight.T + self.bias).view(-1, *self.shape)
