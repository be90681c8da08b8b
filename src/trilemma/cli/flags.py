"""Flags that several verbs share, made from the config dataclasses, so that a new field is a new flag by itself."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from trilemma.data import DataConfig
from trilemma.validate import field_texts

Size = Literal["tiny", "small", "base", "large"]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:N or mps")]
Checkpoint = Annotated[
    Literal["last", "best"],
    Parameter(help="whose weights: the last, or the best by images held out from the training images"),
]
Json = Annotated[bool, Parameter(negative=(), help="print the result as JSON on standard output, for programs")]


def overrides(cls: type) -> type:
    """A twin of a config dataclass in which every field may be left out (None): the flags that a user can set."""
    hints, texts = get_type_hints(cls), field_texts(cls)
    fields = []
    for field in dataclasses.fields(cls):
        note = Parameter(help=texts.get(field.name, ""), negative_iterable=())
        fields.append((field.name, Annotated[Optional[hints[field.name]], note], None))  # noqa: UP045
    twin = dataclasses.make_dataclass(f"{cls.__name__}Flags", fields, frozen=True)
    twin.__module__ = __name__
    return twin


def options_text(classes: Mapping[str, type]) -> str:
    """The sampling options of families, Markdown: a list for each dataclass; of one that extends another, the changes.

    Args:
        classes: the ``Options`` of each family by its name.
    """
    named: dict[type, list[str]] = {}
    for name, cls in classes.items():
        named.setdefault(cls, []).append(name)
    parts = ["Sampling options of each family:"]
    for cls, names in named.items():
        known = next((base for base in cls.__mro__[1:] if base in named), None)
        before = {} if known is None else {field.name: field.default for field in dataclasses.fields(known)}
        new = [f for f in dataclasses.fields(cls) if f.name not in before or f.default != before[f.name]]
        head = ", ".join(names) + (f": those of {', '.join(named[known])}" if known else "")
        if known and new:
            head += ", but"
        parts.append(f"**{head if new or known else head + ': none'}**")
        hints, texts = get_type_hints(cls), field_texts(cls)
        lines = [f"- `{_flag(f.name, hints[f.name])}`{_default(f.default)}: {texts.get(f.name, '')}" for f in new]
        parts.append("\n".join(lines))
    return "\n\n".join(filter(None, parts))


def _flag(name: str, hint: Any) -> str:
    """``--sampler ddim|ddpm``, with the values that it can have where they are a few words."""
    values = get_args(hint) if get_origin(hint) is Literal else ()
    return f"--{name.replace('_', '-')}" + (f" {'|'.join(map(str, values))}" if values else "")


def _default(value: Any) -> str:
    if value is None:
        return ""
    return f" ({str(value).lower() if isinstance(value, bool) else value})"


def given(flags: Any) -> dict[str, Any]:
    """The fields that were set."""
    return {} if flags is None else {k: v for k, v in vars(flags).items() if v is not None}


@Parameter(name="*")
@dataclass(frozen=True)
class DataFlags:
    """How images are read; the same for every verb that reads some."""

    image_size: Annotated[
        str | None, Parameter(help="bring every image to this size: 32, or 48x64 (height x width)")
    ] = None
    fit: Annotated[
        Literal["crop", "pad"] | None, Parameter(help="cut off the longer side (default), or pad the shorter")
    ] = None
    color: Annotated[
        Literal["auto", "grey", "rgb"] | None, Parameter(help="one channel, three, or as the images need (default)")
    ] = None
    background: Annotated[
        str | None, Parameter(help="what transparency and padding show: a colour name or #rrggbb; white by default")
    ] = None
    binarize: Annotated[
        Literal["none", "dynamic", "fixed", "threshold"] | None,
        Parameter(
            help="two levels: drawn with probability value/255, each time (dynamic) or once (fixed); or cut (threshold)"
        ),
    ] = None
    limit: Annotated[int | None, Parameter(help="train on the first so many images only")] = None
    max_bad: Annotated[
        float | None, Parameter(help="share of unreadable files above which loading stops; 0.05 by default")
    ] = None


def data_config(source: str, flags: DataFlags | None, base: Mapping[str, Any] | None = None) -> DataConfig:
    """The data config of a source and the flags; ``base`` are fields from a config file."""
    from trilemma.config import decode

    fields = {**(base or {}), "source": source}
    for name, value in given(flags).items():
        fields["size" if name == "image_size" else name] = parse_size(value) if name == "image_size" else value
    return decode(DataConfig, fields, "data options")


def parse_size(text: str) -> list[int]:
    """``32`` or ``48x64`` to [height, width]."""
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip())
    if not match:
        raise ValueError(f"--image-size {text!r} is not understood: write 32, or 48x64 for height x width")
    return [int(match[1]), int(match[2] or match[1])]


def read_toml(path: Path | None) -> dict[str, Any]:
    """A settings file; a one-line ``ValueError`` if it is missing or not TOML."""
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is not valid TOML: it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not valid TOML: it is not written in UTF-8") from None
    except OSError as error:
        raise ValueError(f"cannot read the settings file {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


def print_json(record: Any) -> None:
    """One strict JSON document on standard output."""
    print(json.dumps(record, indent=1, allow_nan=False))
