"""The network of a denoising family, from the fields of its config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from trilemma.images import Spec
from trilemma.nets.ddpm_unet import DDPMUNet
from trilemma.nets.mlp import TimeMLP
from trilemma.nets.pretrained import PretrainedText
from trilemma.nets.text import Encoder, TextEncoder
from trilemma.nets.unet import UNet
from trilemma.validate import Amount, Count, Limits, check_limits


@dataclass(frozen=True)
class NetworkConfig:
    """What diffusion and flow ask of their network; the defaults are those of the ``tiny`` preset."""

    width: Count = 48
    """channels at the highest resolution, or units of a layer for vectors; a multiple of 16"""
    multipliers: Annotated[tuple[Count, ...], Limits(count=1)] = (1, 1, 2)
    """width of each level as a multiple of width; each level halves the resolution"""
    blocks: Count = 1
    """residual blocks a level, down and up; or of the network for vectors, which has no levels"""
    attention: Amount = 1
    """how many of the deepest levels have self-attention"""
    patch: Literal[1, 2] = 2
    """work on pixels (1) or on 2 x 2 patches of them (2), four times cheaper"""
    network: Literal["unet", "ddpm"] = "unet"
    """unet: ours; ddpm: that of Ho et al. 2020, without patch, in which weights are exchanged with diffusers"""
    attention_levels: tuple[Amount, ...] | None = None
    """ddpm only: the levels with self-attention, from 0, in place of the deepest ones"""
    text_width: Count = 128
    """captions only: size of the vectors that the network reads, a multiple of 64"""
    text_layers: Amount = 2
    """captions only: layers of the transformer that is trained along to read them"""
    text_encoder: str = ""
    """captions only: a pretrained encoder in place of one trained along: a Hub id or a folder of CLIP or T5"""
    text_revision: str = ""
    """captions only: the revision of the pretrained encoder on the Hub; by default the newest when the run is made,
    whose commit is then written here"""

    def __post_init__(self) -> None:
        check_limits(self, "model.")
        if self.attention > len(self.multipliers):
            raise ValueError(
                f"model.attention must be at most {len(self.multipliers)}, the number of multipliers, not "
                f"{self.attention}"
            )
        if self.attention_levels and max(self.attention_levels) >= len(self.multipliers):
            raise ValueError(
                f"model.attention_levels must lie below {len(self.multipliers)}, the number of multipliers, not "
                f"{','.join(map(str, self.attention_levels))}"
            )


def network(config: NetworkConfig, spec: Spec, outputs: int) -> UNet | DDPMUNet | TimeMLP:
    """The network that a config asks for; a perceptron of its width and blocks for vectors."""
    if spec.vector and spec.vocabulary:
        raise ValueError("no network for vectors reads captions: train it without --text")
    if spec.vector:
        return TimeMLP(spec.dims, width=config.width, blocks=config.blocks, classes=spec.classes, outputs=outputs)
    levels = len(config.multipliers)
    if config.network == "unet":
        return UNet(
            spec.channels,
            width=config.width,
            multipliers=tuple(config.multipliers),
            blocks=config.blocks,
            attention=config.attention,
            classes=spec.classes,
            patch=config.patch,
            outputs=outputs,
            text=text_encoder(config, spec) if spec.vocabulary else None,
        )
    if spec.vocabulary:
        raise ValueError("the network ddpm reads no captions: train it without --text, or use the network unet")
    if spec.height % 2 ** (levels - 1) or spec.width % 2 ** (levels - 1):
        raise ValueError(
            f"the network ddpm halves the image {levels - 1} times, which {spec.height} x {spec.width} does not allow: "
            "use fewer multipliers, or the network unet"
        )
    attention = config.attention_levels
    return DDPMUNet(
        spec.channels,
        width=config.width,
        multipliers=tuple(config.multipliers),
        blocks=config.blocks,
        attention=tuple(range(levels - config.attention, levels)) if attention is None else tuple(attention),
        classes=spec.classes,
        groups=math.gcd(32, config.width),
        outputs=outputs,
    )


def text_encoder(config: NetworkConfig, spec: Spec) -> Encoder:
    """What reads the captions: a transformer trained along, or a pretrained one that stays as it is."""
    if config.text_encoder:
        return PretrainedText(config.text_encoder, config.text_revision, spec.length, config.text_width)
    return TextEncoder(spec.vocabulary, spec.length, config.text_width, config.text_layers)


def check_net(config: Any) -> None:
    """Raise ``ValueError`` with one line on the first field of the network that will not do."""
    if config.width < 16 or config.width % 16:
        raise ValueError(f"width must be a positive multiple of 16, not {config.width}")
    if not config.multipliers or min(config.multipliers) < 1:
        raise ValueError(f"multipliers must be positive whole numbers, not {config.multipliers}")
    if config.blocks < 1:
        raise ValueError(f"blocks must be at least 1, not {config.blocks}")
    if config.patch not in (1, 2):
        raise ValueError(f"patch must be 1 or 2, not {config.patch}")
    if config.text_width < 64 or config.text_width % 64 or config.text_layers < 1:
        raise ValueError(
            f"text_width must be a positive multiple of 64 and text_layers at least 1, not {config.text_width} and "
            f"{config.text_layers}"
        )
    check_choice("network", config.network, ("unet", "ddpm"))


def check_choice(what: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ``ValueError`` with one line unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"there is no {what} {value!r}: choose {', '.join(allowed)}")
