"""Values from outside become typed and bounded ones here, once: from JSON, TOML, headers and command lines.

A config is a frozen dataclass whose fields declare what they may be, beside their types, and whose ``__post_init__``
calls `check_limits`:

    width: Annotated[int, Limits(1)] = 48

`decode` builds such a dataclass from plain values and `parse_text` from command-line texts. Whatever does not fit is a
one-line ``ValueError`` that names the place, what it must be and what it is.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

T = TypeVar("T")

MOST = 2**20
"""Largest count that a field takes unless it says otherwise: far beyond any use, and within every library's range."""

MOST_IMAGES = 10**8
"""More images than are drawn or measured at once."""


@dataclass(frozen=True)
class Limits:
    """The range of a number, or of each number of a tuple. NaN and infinity lie in none.

    Attributes:
        least, most: the smallest and the largest value, themselves allowed.
        above, below: the same, not allowed themselves.
        odd: whether the number must be odd.
        count: of a tuple, the fewest numbers it must have.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    odd: bool = False
    count: int = 0

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range."""
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (not self.odd or value % 2 == 1)
        )

    def wanted(self, value: float) -> str:
        """The range in words; the largest count of all only where the value is above it."""
        most = None if self.most == MOST and value <= MOST else self.most
        words = [
            f"{word} {limit:,}" if isinstance(limit, int) else f"{word} {limit:g}"
            for word, limit in (
                ("at least", self.least), ("above", self.above), ("at most", most), ("below", self.below)
            )
            if limit is not None
        ]  # fmt: skip
        return ("odd and " if self.odd else "") + (" and ".join(words) or "finite")


Count = Annotated[int, Limits(1, MOST)]
"""A number of things of which there is at least one."""
Amount = Annotated[int, Limits(0, MOST)]
"""A number of things, or 0 for none."""
Positive = Annotated[float, Limits(above=0)]
NotNegative = Annotated[float, Limits(0)]
Share = Annotated[float, Limits(0, 1)]
Seed = Annotated[int, Limits(-(2**63), 2**63 - 1)]
"""A seed: any of 2^64 integers, of which no two are the same."""


def check_limits(config: Any, name: str = "") -> None:
    """Raise ``ValueError``, one line, for the first field of a dataclass that is not within its declared `Limits`.

    Args:
        config: an instance of a dataclass; types are not checked, as those who write Python have other means.
        name: what stands before a field's name in the message, such as ``model.``.
    """
    for field, limits in limits_of(type(config)).items():  # type: ignore[arg-type]
        value = getattr(config, field)
        if value is None:
            continue
        if isinstance(value, tuple) and len(value) < limits.count:
            raise ValueError(f"{name}{field} must have at least {limits.count} values, not {len(value)}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not limits.holds(number):
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
                each = "values " if isinstance(value, tuple) else ""
                raise ValueError(f"{name}{field} must be {each}{limits.wanted(number)}, not {shown}")


@functools.cache
def limits_of(cls: type) -> dict[str, Limits]:
    """The declared limits of each field that has some."""
    hints = get_type_hints(cls, include_extras=True)
    found = {field.name: next(_declared(hints[field.name]), None) for field in dataclasses.fields(cls)}
    return {name: limits for name, limits in found.items() if limits}


def _declared(hint: Any) -> Iterator[Limits]:
    """The limits anywhere in an annotation: of ``Count | None`` and ``tuple[Count, ...]`` too; the outermost first."""
    yield from (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Limits))
    for inner in get_args(hint):
        yield from _declared(inner)


def field_texts(cls: type) -> dict[str, str]:
    """What the docstrings of a dataclass and of those it extends say of each field, in one line."""
    bases = filter(dataclasses.is_dataclass, reversed(cls.__mro__))
    texts = {p.arg_name: p.description or "" for base in bases for p in parse_from_object(base).params}
    for field in dataclasses.fields(cls):  # what is made of other dataclasses says where its fields are from
        if owners := field.metadata.get("samplers"):
            names = " and ".join(owner.name for owner in owners)
            texts[field.name] = f"{names} only: {field_texts(owners[0])[field.name]}"
        texts[field.name] = field.metadata.get("help", texts.get(field.name, ""))
    return {name: " ".join(text.split()) for name, text in texts.items()}


def read_json(path: Path, what: str = "") -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        what: what follows where it cannot be read, such as ", so this is no run folder".

    Raises:
        ValueError: no such file, no JSON, or no object, in one line.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise ValueError(f"{path} cannot be read{what}: {error.strerror or error}") from None
    except RecursionError:
        raise ValueError(f"{path} cannot be read{what}: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read{what}: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} cannot be read{what}: it holds {_kind(record)}, not a table of names and values")
    return record


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def decode(cls: type[T], record: Mapping[str, Any], where: str, **nested: type) -> T:
    """Build the dataclass ``cls`` from plain values, strictly.

    Unknown keys, values of the wrong type and values out of range are one-line ``ValueError``s that name ``where``.
    ``nested`` gives the dataclass of fields that are annotated ``Any``.
    """
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(set(record) - set(fields)):
        raise ValueError(f"{where} has an unknown key {unknown[0]!r}; {cls.__name__} has {', '.join(sorted(fields))}")
    values = {key: _value(nested.get(key, hints[key]), value, f"{where}: {key}") for key, value in record.items()}
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where} is incomplete: it has no {missing[0]!r}")
    return cls(**values)


def decode_known(cls: type[T], record: Mapping[str, Any], where: str) -> T:
    """The same from a record of which only the fields of ``cls`` matter: other programs write more."""
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return decode(cls, {key: value for key, value in record.items() if key in names}, where)


def _value(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a table, not {value!r}")
        return decode(hint, value, where)  # type: ignore[arg-type]
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if not isinstance(value, str | int) or value not in options:
            raise ValueError(f"{where} must be one of {', '.join(map(str, options))}, not {value!r}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _first_that_fits([option for option in options if option is not type(None)], value, where)
    if origin is tuple:
        return _tuple(options, value, where)
    return _scalar(origin or hint, value, where)


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
        value = float(value) if abs(value) < 2**1000 else math.inf
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, not {value}")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be {hint.__name__}{WORDS.get(hint, '')}, not {value!r}")
    return value


WORDS = {str: " (text in quotes)", bool: " (true or false)", dict: " (a table)"}
"""What is said beside the names of some types."""


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return "a list" if isinstance(value, list) else f"the {type(value).__name__} {value!r:.40}"


def parse_text(cls: type[T], texts: Mapping[str, str], what: str, base: Mapping[str, Any] | None = None) -> T:
    """Build the dataclass ``cls`` from command-line texts, such as sampling options ``{"steps": "20"}``.

    ``base`` are values for fields that no text sets, in place of the defaults of ``cls``.
    """
    return decode(cls, {**(base or {}), **parse_fields(cls, texts, what)}, f"options of {what}")


def parse_fields(cls: type, texts: Mapping[str, str], what: str) -> dict[str, Any]:
    """Command-line texts as values of the fields of a dataclass, which `decode` then checks."""
    hints = get_type_hints(cls)
    names = ", ".join(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(cls)) or "none"
    for key in texts:
        if key not in hints:
            raise ValueError(f"{what} has no option --{key.replace('_', '-')}; it has: {names}")
    return {key: _parse(hints[key], text) for key, text in texts.items()}


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
            return text if value != value else value  # NaN is no number that anybody means
    return text
