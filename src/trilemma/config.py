"""What a run is made of, as frozen dataclasses, and their strict reading from JSON, TOML and flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from trilemma.data import DataConfig
from trilemma.families import FAMILIES
from trilemma.families.family import Family
from trilemma.images import Spec
from trilemma.validate import (
    Amount,
    Count,
    Limits,
    NotNegative,
    Positive,
    Seed,
    Share,
    check_limits,
    decode,
    parse_text,
    read_json,
)

__all__ = [
    "FORMAT",
    "RunConfig",
    "TrainConfig",
    "decode",
    "flatten",
    "options_of",
    "parse_text",
    "read_json",
    "to_dict",
]

FORMAT = 1
"""Version of the run folder. A newer one is refused, never guessed at."""


@dataclass(frozen=True)
class TrainConfig:
    """How a family is trained; the preset table has the values of each family.

    Attributes:
        batch: images in one global batch, over all processes.
        lr: learning rate of Adam.
        betas: Adam's decay rates of the first and second moment.
        warmup: steps over which the learning rate rises linearly from 0.
        anneal: last share of the budget over which the learning rate falls linearly to 0; 0 for a constant one. A run
            that is resumed with a larger budget takes the rate of its new place in it.
        clip: largest norm of an objective's gradient; larger ones are scaled down. 0 for no clipping.
        ema: decay of the moving average of the weights that samples and answers come from; 0 for none. It starts low
            and rises as (1 + n) / (10 + n), so that short runs profit too.
        label_dropout: share of labels or captions replaced by "no label" in conditional training, which teaches P(x)
            beside P(x|y).
        precision: arithmetic of training: bf16 autocast, fp32, or whichever is clearly faster on the device, which is
            timed once; a run keeps what it began in.
        log_every: steps between two lines of the training log.
        save_every: seconds between two checkpoints.
        pictures: sample grids drawn along the run.
        validation: share of the training images that is held out from them, to watch the training by: its held-out
            loss, distance, fidelity, coverage and copies, which `query learning` shows, and the checkpoint `best`. 0
            for none.
        stop: when the training ends: at the end of its budget, or early, once it is twice as long as at its best by the
            images of validation, a tenth unless something else is said.
    """

    batch: Count = 64
    lr: Positive = 1e-3
    betas: Annotated[tuple[float, float], Limits(0, below=1)] = (0.9, 0.999)
    warmup: Annotated[int, Limits(0)] = 100
    anneal: Share = 0.0
    clip: NotNegative = 1.0
    ema: Annotated[float, Limits(0, below=1)] = 0.999
    label_dropout: Share = 0.1
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    log_every: Annotated[int, Limits(1)] = 20
    save_every: Positive = 60.0
    pictures: Amount = 4
    validation: Annotated[float, Limits(0, most=0.5)] = 0.0
    stop: Literal["budget", "early"] = "budget"

    def __post_init__(self) -> None:
        check_limits(self, "train.")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run is; saved as ``config.json`` in its folder."""

    family: str
    size: str
    seed: Seed
    spec: Spec
    data: DataConfig
    model: Any
    train: TrainConfig
    data_fingerprint: str
    class_names: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    """names of the classes of which no image was trained on"""
    format: int = FORMAT
    version: str = ""

    def __post_init__(self) -> None:
        check_limits(self)
        if self.spec.classes and len(self.class_names) != self.spec.classes:
            raise ValueError(f"a model of {self.spec.classes} classes needs as many names, not {len(self.class_names)}")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str) -> RunConfig:
        """Read a saved config; one-line ``ValueError`` if it is newer than this library or does not fit it."""
        version = record.get("format")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"{where} is not the config of a run: it has no format number, such as {FORMAT}")
        if version > FORMAT:
            raise ValueError(
                f"{where} was written by a newer trilemma ({record.get('version', 'unknown version')}, "
                f"format {version}; this one reads up to {FORMAT}): upgrade trilemma"
            )
        family = record.get("family")
        if not isinstance(family, str) or family not in FAMILIES:
            raise ValueError(f"{where} names the family {family!r}, which is not one of {', '.join(FAMILIES)}")
        try:
            return decode(cls, record, where, model=FAMILIES[family].Config)
        except ValueError as error:
            raise ValueError(str(error) if where in str(error) else f"{where}: {error}") from None


def options_of(family: type[Family], given: Any) -> Any:
    """Sampling options of a family from a dictionary, or from its ``Options`` as they are; None stays None.

    Raises:
        ValueError: options that the family does not have, or of another family, in one line.
    """
    if given is None or isinstance(given, family.Options) or issubclass(family.Options, type(given)):
        return given
    if isinstance(given, Mapping):
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        return decode(family.Options, plain, f"options of {family.name}")
    kind = type(given).__name__
    raise ValueError(f'options must be a dictionary such as {{"steps": 20}} or those of {family.name}, not {kind}')


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return dataclasses.asdict(config)


def flatten(config: Any) -> dict[str, Any]:
    """A nested config as ``{"model.width": 32, …}``, for people."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{field.name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            flat[field.name] = value
    return flat
