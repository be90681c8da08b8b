"""What playing has at hand: open models and data sets, a few of each, and images as a page sends them."""

from __future__ import annotations

import base64
import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import numpy as np
import torch
from torch import Tensor

from trilemma.data import Dataset, load
from trilemma.families import FAMILIES
from trilemma.families.family import Decodes, Denoises, Distils, Family
from trilemma.images import Spec
from trilemma.run import Run
from trilemma.studio.room import Studio
from trilemma.studio.streams import SIDE_BY_SIDE
from trilemma.text import printable
from trilemma.validate import check_limits

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

FEW, MANY = 4, 50
"""Steps from a noise to its image, while somebody drags and when it rests; a student takes 1 and 2."""
SETS = 3
"""Data sets that are kept open."""
VALUES = 2**18
"""Values of all images of one answer, but for the chain: 64 images of 64 x 64."""

HELD_TO = "it needs the data that the run was trained on, and they are no longer there"


@dataclass(frozen=True)
class Checked:
    """A request whose fields are held to their limits."""

    def __post_init__(self) -> None:
        check_limits(self)


class Table:
    """The few last of some things that are slow to make."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock, self._making = threading.Lock(), threading.Lock()

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """What is kept under a key, or made now, by one at a time."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._making:
            with self._lock:
                if key in self._kept:  # somebody else made it meanwhile
                    return self._kept[key]
            made = make()
            with self._lock:
                self._kept[key] = made
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            return made


DATA = Table(SETS)


@functools.cache
def long_work() -> anyio.CapacityLimiter:
    """How much that takes long is computed at a time, for all pages together."""
    return anyio.CapacityLimiter(SIDE_BY_SIDE)


@functools.cache
def quick_work() -> anyio.CapacityLimiter:
    """The same of what is answered while somebody drags: it waits for nothing long."""
    return anyio.CapacityLimiter(SIDE_BY_SIDE)


def data_of(run: Run) -> Dataset:
    """The data of a run; one-line ``ValueError`` where they are no longer there."""
    config = run.config
    try:
        found: Dataset = DATA.get(
            f"{config.data!r} {config.data_fingerprint}", lambda: load(config.data, progress=False)
        )
    except OSError:
        raise ValueError(HELD_TO) from None
    return found


def trained(studio: Studio, run: Run) -> Family:
    """The model of a run, open."""
    return studio.models.get(run)[0]


def check_amount(run: Run, n: int) -> None:
    """``ValueError`` for more images than one page is sent at a time."""
    dims = run.config.spec.dims
    if n * dims > max(VALUES, dims):
        raise ValueError(f"at most {max(1, VALUES // dims)} images of this size at a time, not {n}")


def bytes_of(text: str, count: int, what: str) -> Bytes:
    """Base64 to so many bytes."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError(f"{what} are not base64") from None
    if len(content) != count:
        raise ValueError(f"{what} must be {count:,} bytes, not {len(content):,}")
    return np.frombuffer(content, np.uint8)


def from_page(spec: Spec, shown: Bytes) -> Tensor:
    """Images uint8 [N, C, H, W] in the levels of a run, from the pixels [N, H, W, C] that a page shows."""
    channels, height, width = spec.image_shape
    x = torch.from_numpy(shown.reshape(-1, height, width, channels).copy()).permute(0, 3, 1, 2).contiguous()
    return x if spec.levels == 256 else (x.float() * ((spec.levels - 1) / 255)).round().to(torch.uint8)


def image_of(run: Run, pixels: str) -> Tensor:
    """An image uint8 [1, C, H, W] in the levels of a run, from its pixels in base64."""
    spec = run.config.spec
    return from_page(spec, bytes_of(pixels, math.prod(spec.image_shape), "the pixels"))


def told(run: Run, label: int | None, count: int) -> Tensor | None:
    """The condition of so many images of one class, or of none; None of an unconditional run."""
    spec = run.config.spec
    if not spec.conditional:
        return None
    if label is None or spec.vocabulary:
        return spec.unlabelled(count)
    if label > spec.classes:
        raise ValueError(f"class {label} is out of range: this run has {spec.classes} classes")
    return torch.full((count,), label)


def codes_kind(run: Run) -> tuple[str | None, int]:
    """What decides an image of a run: a ``code``, or the ``noise`` that a chain begins with, and its dimensions."""
    cls, spec = FAMILIES[run.config.family], run.config.spec
    if spec.vector or not issubclass(cls, Decodes | Denoises | Distils):
        return None, 0
    return ("code", run.config.model.latent) if issubclass(cls, Decodes) else ("noise", spec.dims)


def labels_of(dataset: Dataset, rows: Any) -> list[str]:
    """The names of the classes of images, where they have any."""
    labels = dataset.label_batch(rows)
    return [] if labels is None else [printable(dataset.class_names[label]) for label in labels.tolist()]
