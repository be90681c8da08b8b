"""Helpers of many tests: a command called as on a terminal, and small models with weights that say something."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trilemma.cli import main
from trilemma.families.autoregressive import Autoregressive
from trilemma.families.pixelcnn import PixelCNN, PixelCNNConfig
from trilemma.families.pixelrnn import PixelRNNConfig
from trilemma.images import Spec


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def build(
    kind: type[Autoregressive], network: str, spec: Spec, output: str = "softmax", seed: int = 0, spread: float = 0.3
) -> Autoregressive:
    """A small model with weights far from zero, so that its conditionals are far from uniform."""
    shared = {"network": network, "output": output, "mixtures": 2, "features": 6, "head": 6, "first_kernel": 3}
    config = PixelCNNConfig(**shared, layers=2, kernel=3) if kind is PixelCNN else PixelRNNConfig(**shared)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config, spec)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn(parameter.shape))
    return model.eval().requires_grad_(False)


def random_images(spec: Spec, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(spec.levels, (count, *spec.shape), generator=generator).to(torch.uint8)
