"""A ``.csv`` of numbers: one vector a row, with a header or without, and perhaps a column of labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from trilemma.data.arrays import Array, from_arrays
from trilemma.data.config import DataConfig
from trilemma.data.dataset import Raw
from trilemma.data.fit import reason

LABELS = ("label", "class", "category")
"""Names, in any case, of a column that is no number of the vector but its label."""


def load_csv(path: Path, config: DataConfig, progress: bool) -> Raw:
    """Read vectors. Raises ``ValueError`` with one line naming the first row that will not do."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [
                (number, row) for number, row in enumerate(csv.reader(file), 1) if any(cell.strip() for cell in row)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a readable csv file: {reason(error)}") from error
    if not rows:
        raise ValueError(f"{path} is empty")
    # a row with a number in it is data, be it faulty; the check below names its line
    header = None if any(map(_is_number, rows[0][1])) else [cell.strip() for cell in rows.pop(0)[1]]
    column = next((i for i, name in enumerate(header or ()) if name.lower() in LABELS), None)
    width = len(header) if header else len(rows[0][1]) if rows else 0
    notes = [f"columns: {', '.join(header)}"] if header else []
    values, labels = [], []
    for number, row in rows:
        if len(row) != width:
            raise ValueError(f"{path}, line {number}: {len(row)} cells, where the first line has {width}")
        cells = list(row)
        if column is not None:
            labels.append(cells.pop(column).strip())
        try:
            values.append([float(cell) for cell in cells])
        except ValueError:
            bad = next(cell for cell in cells if not _is_number(cell))
            raise ValueError(f"{path}, line {number}: {bad!r} is not a number") from None
    vectors: Array = np.array(values, np.float64).reshape(len(values), width - (column is not None))
    given: list[Array | None] = [None if column is None else np.array(labels)]
    return from_arrays(path.stem, str(path), [vectors], given, None, config, progress, notes)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
