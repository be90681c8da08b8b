"""What a question is answered with: numbers, sentences, tables and pictures, for people and for programs."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trilemma.drawing import Film, Picture, Sheet, save
from trilemma.families import FAMILIES
from trilemma.files import replacing, write_json
from trilemma.number import Number
from trilemma.run import Run

if TYPE_CHECKING:
    from trilemma.questions.question import Question

FORMAT = 1
"""Of an answer as JSON."""

SUFFIXES = (".png", ".svg", ".gif", ".apng")
"""Of a picture that an answer is saved as."""


@dataclass(frozen=True)
class Table:
    """Rows of words and numbers under heads."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def lines(self) -> list[str]:
        """As text: columns of equal width, words to the left and numbers to the right."""
        columns = list(zip(self.heads, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        words = [any(cell[:1].isalpha() for cell in column[1:]) for column in columns]
        return [
            "  ".join(
                cell.ljust(width) if left else cell.rjust(width)
                for cell, width, left in zip(row, widths, words, strict=True)
            ).rstrip()
            for row in (self.heads, *self.rows)
        ]


@dataclass(frozen=True)
class Answer:
    """The answer of a run to a question.

    Attributes:
        question: as it was asked.
        run: that was asked.
        kind: ``exact``, ``bound``, ``estimate`` or ``undefined``; empty where there is nothing of the kind to say.
        numbers: by name, each with its error, N and kind.
        reading: what it says, sentence by sentence.
        flag: why it is not to be trusted, where there is a reason.
        values: whatever else programs want, as plain JSON values; NaN is None.
        tables: by title.
        arrays: by name; saved as one ``.npz``.
        found: what was computed, as the function of the question gives it; `Question.draw` draws it.
        protocol: how it was asked: images, seed, device.
    """

    question: Question
    run: Run
    kind: str = ""
    numbers: Mapping[str, Number] = field(default_factory=dict)
    reading: Sequence[str] = ()
    flag: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    found: Any = None
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def figures(self) -> Mapping[str, Picture]:
        """Pictures by name, drawn when they are first asked for; `trilemma.drawing.save` writes PNG or SVG."""
        return self.question.draw(self)

    def title(self, of: str = "") -> str:
        """What stands above a picture: whose answer it is, and what it is of."""
        return f"{FAMILIES[self.run.config.family].title} ({self.run.path.name}){f': {of}' if of else ''}"

    def lines(self) -> list[str]:
        """The answer in words."""
        lines = list(self.reading)
        for name, each in self.tables.items():
            lines += [*([name] if name else []), *each.lines()]
        return lines + ([f"! {self.flag}"] if self.flag else [])

    def to_json(self) -> dict[str, Any]:
        """The answer as plain values."""
        return {
            "format": FORMAT,
            "run": str(self.run.path),
            "family": self.run.config.family,
            "question": self.question.name,
            "title": self.question.title,
            "sentence": self.question.sentence,
            "caption": self.question.caption,
            "step": self.run.progress()["step"],
            "asked": self.question.plain(),
            "kind": self.kind,
            "numbers": {name: asdict(number) for name, number in self.numbers.items()},
            "reading": list(self.reading),
            "flag": self.flag,
            "values": dict(self.values),
            "tables": {name: asdict(each) for name, each in self.tables.items()},
            "arrays": {name: list(array.shape) for name, array in self.arrays.items()},
            "protocol": dict(self.protocol),
        }

    def save(self, out: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """Write ``NAME.json``, a picture for each figure and ``NAME.npz`` of the arrays; returns the record.

        Into a folder, a drawing is written as PNG and as SVG.

        Args:
            out: a folder, or the path of the first picture (``.png`` or ``.svg``, or ``.gif`` or ``.apng`` of the first
                film), beside which the others stand; by default the run's own folder for answers.
        """
        name = self.question.name
        out = self.run.answers if out is None else Path(out)
        if out.suffix and out.suffix.lower() not in SUFFIXES and not out.is_dir():
            raise ValueError(f"{out} must be a folder, or end in {', '.join(SUFFIXES)}")
        folder, first = (out.parent, out) if out.suffix else (out, out / f"{name}.png")
        record = self.to_json() | {"figures": {}}
        moving = first.suffix.lower() in (".gif", ".apng")
        ordered = sorted(self.figures.items(), key=lambda each: isinstance(each[1], Film) != moving)
        for i, (figure, picture) in enumerate(ordered):
            path = first if i == 0 else first.with_name(f"{first.stem}-{figure}{first.suffix}")
            film = isinstance(picture, Film)
            path = path.with_suffix((".gif" if film else ".png") if film != moving else path.suffix)
            record["figures"][figure] = save(picture, path).name
            if isinstance(picture, Sheet) and not out.suffix:
                save(picture, path.with_suffix(".svg"))  # for the page, which is dark where its reader's are
        if self.arrays:
            record["file"] = f"{first.stem}.npz"
            with replacing(folder / record["file"]) as file:
                np.savez_compressed(file, **self.arrays)  # type: ignore[arg-type]
        write_json(folder / f"{first.stem}.json", record)
        return record

    def __repr__(self) -> str:
        words = "; ".join(self.lines()[:2])
        return f"Answer({self.question.name} of {self.run.path}: {words[:160]}{'…' if len(words) > 160 else ''})"
