"""A ``.csv`` of numbers: one vector a row, with a header or without, and perhaps a column of labels.

Values are parted by commas, semicolons or tabs, whichever the first line has most of.

A first row is a header where a cell of it is no number, or where it holds whole numbers (years, or the 0, 1, 2 … of
pandas) and nothing below it does. A column that only counts the rows, as pandas writes one, is left out.
"""

from __future__ import annotations

import csv
import math
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trilemma.data.arrays import Array, from_arrays
from trilemma.data.config import DataConfig
from trilemma.data.dataset import Loss, Raw, examples
from trilemma.data.fit import reason
from trilemma.text import printable

LABELS = ("label", "class", "category")
"""Names, in any case, of a column that is no number of the vector but its label."""
DELIMITERS = ",;\t"
"""What may part values; the first where a line has none."""
COUNTERS = ("", "index", "id", "row", "unnamed: 0")
"""Names of a column that may only count the rows."""


def load_csv(path: Path, config: DataConfig, progress: bool) -> Raw:
    """Read vectors. Raises ``ValueError`` with one line naming the first row that will not do."""
    try:
        lines = _text(path).splitlines(keepends=True)
        reader = csv.reader(lines, delimiter=_delimiter(lines))
        rows = [(number, row) for number, row in enumerate(reader, 1) if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a csv file in UTF-8 ({reason(error)}): save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path} is not a readable csv file: {reason(error)}") from error
    if not rows:
        raise ValueError(f"{path} is empty")
    header = [cell.strip() for cell in rows.pop(0)[1]] if _is_header([row for _, row in rows]) else None
    width = len(header) if header else len(rows[0][1]) if rows else 0
    for number, row in rows:
        if len(row) != width:
            raise ValueError(f"{path}, line {number}: {len(row)} cells, where the first line has {width}")
    columns = [[row[i].strip() for _, row in rows] for i in range(width)]
    names = header or [""] * width
    labelled = [i for i, name in enumerate(names) if name.lower() in LABELS]
    notes: list[str] = []
    if header:
        notes.append(f"columns: {', '.join(map(printable, header))}")
    counters = [0] if width > 1 and names[0].lower() in COUNTERS and _counts(columns[0]) else []
    unused = dict.fromkeys(counters, "it only counts the rows")
    unused |= {i: "it is empty" for i in range(width) if rows and not names[i] and not any(columns[i])}
    unused |= {i: f"{printable(names[labelled[0]])} is the label" for i in labelled[1:]}
    for i, why in unused.items():
        notes.append(Loss(f"column {i + 1}{f' ({printable(names[i])})' if names[i] else ''} is not used: {why}"))
    chosen = [i for i in range(width) if i not in unused and i not in labelled]
    values = []
    for position, (number, _) in enumerate(rows):
        cells = [columns[i][position] for i in chosen]
        if bad := next((cell for cell in cells if not _is_number(cell)), None):
            hint = "; values are parted by commas, semicolons or tabs" if width == 1 and " " in bad else ""
            if any(mark in bad for mark in DELIMITERS):
                hint = "; decimals are written with a point, and one mark parts the values of all lines"
            raise ValueError(f"{path}, line {number}: {printable(repr(bad))} is not a number{hint}")
        if "" in cells:
            name = examples([names[i] or f"column {i + 1}" for i in chosen if not columns[i][position]], 1)
            raise ValueError(f"{path}, line {number}: {name} is empty: leave such rows out")
        values.append([float(cell) for cell in cells])
    vectors: Array = np.array(values, np.float64).reshape(len(values), len(chosen))
    given: list[Array | None] = [np.array(columns[labelled[0]]) if labelled else None]
    return from_arrays(path.stem, str(path), [vectors], given, None, config, progress, notes)


def _text(path: Path) -> str:
    """UTF-8, or UTF-16 where the file begins like it, as spreadsheets save it."""
    content = path.read_bytes()
    return content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")


def _delimiter(lines: Sequence[str]) -> str:
    """What parts the values: of comma, semicolon and tab that which the first line has most of, outside quotes."""
    first = re.sub('"[^"]*"', "", next((line for line in lines if line.strip()), ""))
    return max(DELIMITERS, key=first.count)


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns.

    A row with a finite number in it is data, be it faulty (its line is then named); unless a cell is empty, as the
    first one of pandas' header is, and the rest whole numbers.
    """
    first, others = [cell.strip() for cell in rows[0]], rows[1:]
    if not any(_is_number(cell) and math.isfinite(float(cell)) for cell in first):
        return True
    if first[0] == "" and all(map(_is_whole, first[1:])):
        return True
    distinct = all(map(_is_whole, first)) and len(set(first)) == len(first)
    return distinct and len(others) > 1 and not any(_is_whole(cell.strip()) for row in others for cell in row)


def _counts(column: Sequence[str]) -> bool:
    """Whether a column is 0, 1, 2 … or 1, 2, 3 …"""
    return bool(column) and any(
        all(cell == str(number) for number, cell in enumerate(column, start)) for start in (0, 1)
    )


def _is_whole(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which Python reads over: 1_0 would be 10
