"""One dial, ``--size``: the sizes of every family, matched for compute.

A size fixes the arithmetic of one training step per image, forward and backward over all objectives, at 28 × 28 grey:

    tiny 0.25 GFLOP · small 1 GFLOP · base 4 GFLOP · large 16 GFLOP

so that an equal number of images, or an equal time, is an equal chance for every family. All networks are
convolutional, so the match carries over to other resolutions. ``tests/test_presets.py`` counts the operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trilemma.config import TrainConfig, decode, to_dict
from trilemma.families import FAMILIES

SIZES = ("tiny", "small", "base", "large")
GFLOP = {"tiny": 0.25, "small": 1.0, "base": 4.0, "large": 16.0}
"""Training operations per image (a product and a sum count as two), at 28 × 28 grey."""


@dataclass(frozen=True)
class Preset:
    """The model fields of each size, and the training settings of a family."""

    tiny: Mapping[str, Any]
    small: Mapping[str, Any]
    base: Mapping[str, Any]
    large: Mapping[str, Any]
    train: Mapping[str, Any]


PRESETS: dict[str, Preset] = {
    "autoencoder": Preset(
        tiny=dict(width=48, depth=1, latent=32),
        small=dict(width=96, depth=1, latent=32),
        base=dict(width=144, depth=2, latent=64),
        large=dict(width=272, depth=2, latent=128),
        train=dict(batch=64, lr=2e-3, warmup=50),
    ),
    "vae": Preset(
        tiny=dict(width=48, depth=1, latent=32),
        small=dict(width=96, depth=1, latent=32),
        base=dict(width=144, depth=2, latent=64),
        large=dict(width=272, depth=2, latent=128),
        train=dict(batch=64, lr=2e-3, warmup=50),
    ),
    "pixelcnn": Preset(
        tiny=dict(features=24, layers=4, head=32),
        small=dict(features=48, layers=5, head=64),
        base=dict(features=64, layers=10, head=128),
        large=dict(features=128, layers=10, head=256),
        train=dict(batch=16, lr=1e-2, betas=(0.9, 0.99), warmup=50),
    ),
    "gan": Preset(
        tiny=dict(width=80, latent=64),
        small=dict(width=160, latent=100),
        base=dict(width=320, latent=100),
        large=dict(width=640, latent=100),
        train=dict(batch=32, lr=2e-4, betas=(0.5, 0.999), warmup=0, clip=0.0),
    ),
    "diffusion": Preset(
        tiny=dict(width=32, multipliers=(1, 2, 4), patch=2),
        small=dict(width=64, multipliers=(1, 2, 4), patch=2),
        base=dict(width=128, multipliers=(1, 2, 4), patch=2),
        large=dict(width=128, multipliers=(1, 2, 4), patch=1),
        train=dict(batch=32, lr=2e-3, betas=(0.9, 0.99), warmup=50),
    ),
}


def configure(
    family: str, size: str = "tiny", model: Mapping[str, Any] | None = None, train: Mapping[str, Any] | None = None
) -> tuple[Any, TrainConfig]:
    """The model and training config of a family at a size, with any field replaced.

    Raises:
        ValueError: an unknown family, size or field, or a value of the wrong type, in one line.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; there are {', '.join(FAMILIES)}")
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; there are {', '.join(SIZES)}")
    preset = PRESETS[family]
    sized: Mapping[str, Any] = getattr(preset, size)
    return (
        decode(FAMILIES[family].Config, {**sized, **(model or {})}, f"model settings of {family}"),
        decode(
            TrainConfig, {**to_dict(TrainConfig()), **preset.train, **(train or {})}, f"training settings of {family}"
        ),
    )
