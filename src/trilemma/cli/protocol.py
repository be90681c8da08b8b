"""The flags of an evaluation, made from `Protocol`, so that a new field is a new flag by itself."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, Optional, get_type_hints

from cyclopts import Parameter
from docstring_parser import parse_from_object

from trilemma.cli.flags import given
from trilemma.evaluation import Protocol

Preprocessing = Literal["torch-fidelity", "pytorch-fid", "clean-fid"]


def _flags(name: str, without: tuple[str, ...] = ()) -> Any:
    """A twin of `Protocol` in which every field may be left out (None), with its default in the help."""
    texts = {
        p.arg_name: " ".join((p.description or "").split()).rstrip(".") for p in parse_from_object(Protocol).params
    }
    hints = get_type_hints(Protocol) | {"preprocessing": Preprocessing}
    fields = []
    for field in dataclasses.fields(Protocol):
        if field.name not in without:
            shown = "" if field.default == "" else f" [default: {field.default}]"
            short = ["-n", "--n"] if field.name == "n" else None
            note = Parameter(name=short, help=texts[field.name] + shown)
            fields.append((field.name, Annotated[Optional[hints[field.name]], note], None))  # noqa: UP045
    twin = dataclasses.make_dataclass(name, fields, frozen=True)
    twin.__module__ = __name__
    return twin


ProtocolFlags: Any = _flags("ProtocolFlags")
"""Every field of `Protocol`, each of which may be left out."""

SeedlessFlags: Any = _flags("SeedlessFlags", without=("seed",))
"""The same for verbs whose seed is that of everything."""


def protocol_of(flags: Any, **defaults: Any) -> Protocol:
    """The protocol that the flags describe; ``defaults`` stand where a flag was left out."""
    return Protocol(**(defaults | given(flags)))
