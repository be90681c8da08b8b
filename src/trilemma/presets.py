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
    "autoencoder": Preset({}, {}, {}, {}, train={}),
    "vae": Preset({}, {}, {}, {}, train={}),
    "pixelcnn": Preset({}, {}, {}, {}, train={}),
    "gan": Preset({}, {}, {}, {}, train=dict(lr=2e-4, betas=(0.5, 0.999), clip=0.0)),
    "diffusion": Preset({}, {}, {}, {}, train={}),
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
