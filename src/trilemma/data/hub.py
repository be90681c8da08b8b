"""A data set of the Hugging Face Hub, by its id, through the optional ``datasets`` package.

Only the encoded images are taken from it; they are decoded here, like files, so that broken ones are named and not
fatal.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trilemma.data.annotations import CAPTION_KEYS, LABEL_KEYS, caption, several
from trilemma.data.config import DataConfig
from trilemma.data.dataset import Loss, Raw, label_name, number_classes
from trilemma.data.decoded import Entry, decode
from trilemma.data.fit import reason
from trilemma.data.folder import VALIDATION_NAMES


def load_hub(identifier: str, config: DataConfig, progress: bool) -> Raw:
    """``owner/name``, or ``owner/name:configuration`` where the data set has several.

    Raises:
        ValueError: the package is missing, the data set cannot be had, or there is no column of images in it.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"there is no file or folder {identifier!r}, and to look for it on the Hub the datasets package is needed: "
            'pip install "trilemma[hub]"'
        ) from None
    name, _, configuration = identifier.partition(":")
    try:
        splits = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # from half a dozen libraries below it
        raise ValueError(
            f"cannot load {identifier!r} from the Hub ({reason(error)}): check the id; "
            "on a machine without a network pass a folder, a zip or an npz file instead"
        ) from error

    train, held_out = _choose_splits(list(splits))
    tables = [splits[part] for part in (train, held_out) if part is not None]
    image_key = next((key for key, kind in tables[0].features.items() if isinstance(kind, datasets.Image)), None)
    if image_key is None:
        raise ValueError(f"{identifier!r} on the Hub has no column of images, only {', '.join(tables[0].features)}")
    tables = [table.cast_column(image_key, datasets.Image(decode=False)) for table in tables]
    rows = [(table, i) for table in tables for i in range(len(table))]
    entries = [
        Entry(f"{table.split}/{i}", (str(table._fingerprint),), partial(_open, table, i, image_key))
        for table, i in rows
    ]
    decoded = decode(entries, f"hub:{identifier}", config, progress)

    notes = list(decoded.notes)
    others = sorted(set(splits) - {train, held_out})
    if others:
        notes.append(Loss(f"splits not used: {', '.join(others)}"))
    classes = _labels(tables, datasets)
    captions = _captions(tables, next((key for key in CAPTION_KEYS if key in tables[0].features), None), notes)
    labels, class_names = number_classes([classes[i] for i in decoded.kept] if classes else [], notes)
    is_test = np.array([held_out is not None and table is tables[-1] for table, _ in rows])
    return Raw(
        identifier,
        decoded.images,
        labels,
        [captions[i] for i in decoded.kept] if captions else None,
        class_names,
        is_test[decoded.kept] if held_out is not None else None,
        sorted_by_name=True,
        notes=notes,
        resized=decoded.resized,
        decoloured=decoded.decoloured,
    )


def _choose_splits(names: list[str]) -> tuple[str, str | None]:
    train = "train" if "train" in names else names[0]
    held_out = next((name for name in ("test", *VALIDATION_NAMES) if name in names and name != train), None)
    return train, held_out


def _open(table: Any, i: int, key: str) -> BinaryIO:
    image = table[i][key]
    if image is None:
        raise ValueError("no image")
    return io.BytesIO(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).open("rb")


def _labels(tables: list[Any], datasets: Any) -> list[str]:
    """Class names of all rows, or an empty list."""
    features = tables[0].features
    for key, kind in features.items():
        if isinstance(kind, datasets.ClassLabel):
            # a row without a label carries -1
            return [kind.names[n] if n is not None and n >= 0 else "" for table in tables for n in table[key]]
    key = next((key for key in LABEL_KEYS if key in features), None)
    return [] if key is None else [label_name(value) for table in tables for value in table[key]]


def _captions(tables: list[Any], key: str | None, notes: list[str]) -> list[str]:
    if key is None:
        return []
    found = [caption(value) for table in tables for value in table[key]]
    notes += several(sum(more for _, more in found))
    return [text for text, _ in found]
