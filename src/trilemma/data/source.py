"""From what the user typed to a data set."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from trilemma.data.arrays import is_idx, load_idx, load_npy, load_npz
from trilemma.data.config import Binarize, Color, DataConfig, Fit
from trilemma.data.dataset import Dataset, Raw, assemble
from trilemma.data.embedded import NAMES, load_named
from trilemma.data.fit import SUFFIXES
from trilemma.data.folder import load_folder, load_zip
from trilemma.data.hub import load_hub
from trilemma.data.memory import SOURCE, ImagesLike, read_memory
from trilemma.data.mixtures import MIXTURES
from trilemma.data.mixtures import draw as draw_mixture
from trilemma.data.table import load_csv

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def load(
    source: Dataset | DataConfig | str | os.PathLike[str] | ImagesLike,
    *,
    labels: Sequence[int] | Sequence[str] | Any | None = None,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    color: Color | None = None,
    background: str | None = None,
    binarize: Binarize | None = None,
    limit: int | None = None,
    max_bad: float | None = None,
    split: bool = True,
    progress: bool = True,
) -> Dataset:
    """Load a data set.

    Args:
        source: ``mnist``, ``mnist-pairs``, ``stacked-mnist``, ``fashion-mnist`` or ``cifar10``; ``ring`` or ``grid``,
            which are vectors; the path of a folder of images, a zip of one, an npz, npy, idx or csv file (write
            ``./mnist`` for a folder of that name); a Hub id such as ``owner/name``, with
            ``owner/name:configuration`` and ``hub:name`` for the others; a whole config; or images in memory:
            arrays or tensors (uint8, or floats in [0, 1]) of shape [N, H, W], [N, H, W, C] or [N, C, H, W], PIL images,
            an iterable of images or of batches, a torch data set. A loaded `Dataset` is returned as it is.
        labels: of images in memory, N names or numbers.
        size, fit, color, background, binarize, limit, max_bad: as in `DataConfig`; what is not given stays at the
            config's value or the default.
        split: hold images out; without, all are ``train``, as for images that are only looked at or scored.
        progress: show bars on stderr while many images are read.

    Raises:
        ValueError: one line on what is wrong with the source or an option, and what to do.

    Example:
        >>> dataset = load("mnist", limit=1000)
        >>> dataset.images.shape, len(dataset.train), len(dataset.test)
        ((70000, 1, 28, 28), 1000, 10000)
    """
    given = {
        "size": size, "fit": fit, "color": color, "background": background,
        "binarize": binarize, "limit": limit, "max_bad": max_bad,
    }  # fmt: skip
    assert given.keys() == {field.name for field in fields(DataConfig)} - {"source"}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if isinstance(source, Dataset):
        if chosen or labels is not None or not split:
            raise ValueError(f"{source.name} is loaded already: give its source to load it otherwise")
        return source
    if not isinstance(source, DataConfig | str | os.PathLike):
        config = replace(DataConfig(SOURCE), **chosen)
        return assemble(read_memory(source, labels, config, progress), config, split)
    if labels is not None:
        raise ValueError("labels belong to images in memory: files and data sets bring their own")
    config = replace(source if isinstance(source, DataConfig) else DataConfig(os.fspath(source)), **chosen)
    if config.source == SOURCE:
        raise ValueError("these images came from memory and are in no file: give them again, as data or against")
    if config.source in MIXTURES:
        return assemble(draw_mixture(config.source), config, split)
    if config.source in NAMES:
        return assemble(load_named(config.source, config, progress), config, split)
    if not config.source.strip():
        raise ValueError(
            f"the source is empty: give one of {', '.join([*NAMES, *MIXTURES])}, a path, or a Hub id (owner/name)"
        )
    path = Path(config.source).expanduser()
    if _exists(path):
        config = replace(config, source=str(path.resolve()))
        return assemble(_load_path(path.resolve(), config, progress), config, split)
    if config.source.startswith("hub:") or (HUB_ID.fullmatch(config.source) and not path.parent.is_dir()):
        return assemble(load_hub(config.source.removeprefix("hub:"), config, progress), config, split)
    raise ValueError(f"there is no file, folder or data set {config.source!r}{_did_you_mean(config.source, path)}")


def _load_path(path: Path, config: DataConfig, progress: bool) -> Raw:
    if is_idx(path):
        return load_idx(path, config, progress)
    if path.is_dir():
        return load_folder(path, config, progress)
    readers = {".zip": load_zip, ".npz": load_npz, ".npy": load_npy, ".csv": load_csv}
    if path.suffix.lower() in readers:
        return readers[path.suffix.lower()](path, config, progress)
    if path.suffix.lower() in SUFFIXES:
        raise ValueError(f"{path} is a single image: give the folder it lies in")
    raise ValueError(f"{path} is no data set: give a folder of images, a zip of one, or an npz, npy, idx or csv file")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a null byte
        return False


def _did_you_mean(source: str, path: Path) -> str:
    beside: list[str] = []
    with suppress(OSError, ValueError):
        beside = [item.name for item in path.parent.iterdir()]
    close = get_close_matches(source.lower(), [*NAMES, *MIXTURES], 1)
    close = close or [str(path.with_name(name)) for name in get_close_matches(path.name, beside, 1, 0.7)]
    if close:
        return f": did you mean {close[0]}?"
    return (
        f": give one of {', '.join([*NAMES, *MIXTURES])}, the path of a folder, zip, npz, npy, idx or csv file, or a "
        "Hub id (owner/name)"
    )
