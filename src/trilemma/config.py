"""What a run is made of, as frozen dataclasses, and their strict reading from JSON, TOML and flags."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from trilemma.data import DataConfig
from trilemma.families import FAMILIES
from trilemma.images import Spec

FORMAT = 1
"""Version of the run folder. A newer one is refused, never guessed at."""

T = TypeVar("T")


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
        precision: arithmetic of training: bf16 autocast, fp32, or whichever is faster on the device.
        log_every: steps between two lines of the training log.
        save_every: seconds between two checkpoints.
        pictures: sample grids drawn along the run.
    """

    batch: int = 64
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 100
    anneal: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    label_dropout: float = 0.1
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    log_every: int = 20
    save_every: float = 60.0
    pictures: int = 4

    def __post_init__(self) -> None:
        for name, ok, wanted in (
            ("batch", self.batch >= 1, "at least 1"),
            ("lr", self.lr > 0, "above 0"),
            ("betas", all(0 <= b < 1 for b in self.betas), "two numbers from 0 to below 1"),
            ("warmup", self.warmup >= 0, "0 or more steps"),
            ("anneal", 0 <= self.anneal <= 1, "a share from 0 to 1"),
            ("clip", self.clip >= 0, "0 (none) or more"),
            ("ema", 0 <= self.ema < 1, "from 0 to below 1"),
            ("label_dropout", 0 <= self.label_dropout <= 1, "from 0 to 1"),
            ("log_every", self.log_every >= 1, "at least 1 step"),
            ("save_every", self.save_every > 0, "above 0 seconds"),
            ("pictures", self.pictures >= 0, "0 or more"),
        ):
            if not ok:
                raise ValueError(f"train.{name} must be {wanted}, not {getattr(self, name)}")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run is; saved as ``config.json`` in its folder."""

    family: str
    size: str
    seed: int
    spec: Spec
    data: DataConfig
    model: Any
    train: TrainConfig
    data_fingerprint: str
    class_names: tuple[str, ...] = ()
    format: int = FORMAT
    version: str = ""

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str) -> RunConfig:
        """Read a saved config; one-line ``ValueError`` if it is newer than this library or does not fit it."""
        if int(record.get("format", 0)) > FORMAT:
            raise ValueError(
                f"{where} was written by a newer trilemma ({record.get('version', 'unknown version')}, "
                f"format {record['format']}; this one reads up to {FORMAT}): upgrade trilemma"
            )
        family = record.get("family")
        if family not in FAMILIES:
            raise ValueError(f"{where} names the family {family!r}, which is not one of {', '.join(FAMILIES)}")
        return decode(cls, record, where, model=FAMILIES[family].Config)


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


def decode(cls: type[T], record: Mapping[str, Any], where: str, **nested: type) -> T:
    """Build the dataclass ``cls`` from plain values, strictly.

    Unknown keys and values of the wrong type are one-line ``ValueError``s that name ``where``. ``nested`` gives the
    dataclass of fields that are annotated ``Any``.
    """
    hints = get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(set(record) - known):
        raise ValueError(f"{where} has an unknown key {unknown[0]!r}; {cls.__name__} has {', '.join(sorted(known))}")
    values = {key: _value(nested.get(key, hints[key]), value, f"{where}: {key}") for key, value in record.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where} is incomplete: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a table, not {value!r}")
        return decode(hint, value, where)  # type: ignore[arg-type]
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in options:
            raise ValueError(f"{where} must be one of {', '.join(map(str, options))}, not {value!r}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _first_that_fits([option for option in options if option is not type(None)], value, where)
    if origin is tuple:
        return _tuple(options, value, where)
    return _scalar(hint, value, where)


def _first_that_fits(options: list[Any], value: Any, where: str) -> Any:
    for option in options[:-1]:
        try:
            return _value(option, value, where)
        except ValueError:
            continue
    return _value(options[-1], value, where)


def _tuple(options: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} must be a list, not {value!r}")
    if len(options) == 2 and options[1] is Ellipsis:
        options = (options[0],) * len(value)
    if len(value) != len(options):
        raise ValueError(f"{where} must have {len(options)} values, not {len(value)}")
    return tuple(_value(option, item, where) for option, item in zip(options, value, strict=True))


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be {hint.__name__}, not {value!r}")
    return value


def parse_text(cls: type[T], texts: Mapping[str, str], what: str, base: Mapping[str, Any] | None = None) -> T:
    """Build the dataclass ``cls`` from command-line texts, such as sampling options ``{"steps": "20"}``.

    ``base`` are values for fields that no text sets, in place of the defaults of ``cls``.
    """
    hints = get_type_hints(cls)
    names = ", ".join(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(cls)) or "none"  # type: ignore[arg-type]
    record: dict[str, Any] = dict(base or {})
    for key, text in texts.items():
        if key not in hints:
            raise ValueError(f"{what} has no option --{key.replace('_', '-')}; it has: {names}")
        record[key] = _parse(hints[key], text)
    return decode(cls, record, f"options of {what}")


def _parse(hint: Any, text: str) -> Any:
    """Text to the type that ``hint`` wants; text that does not fit is returned as it is and refused by `decode`."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if bool in options and text.lower() in ("true", "yes", "false", "no"):
        return text.lower() in ("true", "yes")
    if type(None) in options and text.lower() == "none":
        return None
    for option in options:
        if get_origin(option) is tuple:  # 1000,600,200
            return [_parse(get_args(option)[0], part) for part in text.split(",")]
    for kind in (int, float):
        if kind in options:
            try:
                value = kind(text)
            except ValueError:
                continue
            return text if math.isnan(value) else value
    return text
