"""Images that are in memory: arrays, tensors, pictures, and whatever yields them, one by one or in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from trilemma.data.arrays import CHANNELS, MAX_BYTES, Array, from_arrays
from trilemma.data.config import DataConfig
from trilemma.data.dataset import Raw
from trilemma.data.fit import channels_first, convert_array, on_background
from trilemma.data.room import SHARE, free_memory
from trilemma.images import Spec, check_images

ImagesLike: TypeAlias = npt.NDArray[Any] | Tensor | Image.Image | Iterable[Any] | TorchDataset[Any]
"""Arrays or tensors [N, H, W], [N, H, W, C] or [N, C, H, W], uint8 or floats in [0, 1]; vectors, floats [N, D]; PIL
images; an iterable of images or of batches; a sequence of ``(image, label)``, or of dictionaries with these names."""

SOURCE = "<memory>"
"""What a config says of images that came from no file."""

NAME = "images in memory"


def read_memory(given: ImagesLike, labels: Any, config: DataConfig, progress: bool = False) -> Raw:
    """Images in memory, and their labels where they are known, as a reader of files hands them over.

    Args:
        given: the images.
        labels: N names or numbers, where ``given`` does not hold them.

    Raises:
        ValueError: no images, images that differ, or values whose range is not evident, in one line.
    """
    images, own = stack(given, config)
    if labels is not None and own is not None:
        raise ValueError("these images come with labels of their own: leave labels out")
    known = own if labels is None else _array(labels) if isinstance(labels, Tensor) else np.asarray(labels)
    return from_arrays(NAME, NAME, [images], [known], None, config, progress, [])


def images_like(given: ImagesLike, spec: Spec) -> Tensor:
    """Images in memory as a model of this spec takes them; their shape must be the model's own.

    Raises:
        ValueError: images of another shape or with other values than the model's, in one line.
    """
    if isinstance(given, Tensor) and given.dtype == (torch.float32 if spec.vector else torch.uint8):
        return check_images(given, spec)
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.shape[1:] == spec.shape:
        return check_images(torch.from_numpy(np.ascontiguousarray(given)), spec)
    pixels = read_memory(given, None, DataConfig(SOURCE)).images
    if spec.levels == 2:
        if ((pixels != 0) & (pixels != 255)).any():
            raise ValueError("this model knows two levels and the images have more: binarise them first, (x > 0.5)")
        pixels = (pixels // 255).astype(np.uint8)
    return check_images(torch.from_numpy(np.ascontiguousarray(pixels)), spec)


def stack(given: ImagesLike, config: DataConfig) -> tuple[Array, Array | None]:
    """All images in one array, and their labels where they come with them; `ValueError` for anything else."""
    if isinstance(given, np.ndarray | Tensor):
        return _array(given), None
    parts: list[Array] = []
    labels: list[Array] = []
    room = free_memory()
    most = MAX_BYTES if room is None else min(MAX_BYTES, SHARE * room)
    size, batched = 0, None
    for count, item in enumerate(_items(given)):
        image, label = _pair(item)
        picture = isinstance(image, Image.Image)
        part = _picture(image, config) if isinstance(image, Image.Image) else _array(image)
        if not part.ndim or part.dtype == object:
            raise ValueError(f"item {count} is no image but {_kind(image)}: give arrays, tensors or PIL images")
        if batched is None:  # the first item says what all are: a last batch of 3 is no colour image
            batched = not picture and part.ndim > 1 and not _single(part)
        parts += list(part) if batched else [part]
        if label is not None:
            labels += list(np.atleast_1d(_array(label) if isinstance(label, Tensor) else np.asarray(label)))
        size += part.nbytes
        if size > most:
            raise ValueError(f"the images take more than {most / 2**30:.0f} GiB of memory: give fewer, or np.save them")
    if not parts:
        raise ValueError("there are no images: what was given is empty")
    if labels and len(labels) != len(parts):
        raise ValueError(f"{len(labels):,} labels came with {len(parts):,} images: give every image one, or none")
    return _alike(parts, config), np.array(labels) if labels else None


def _items(given: Any) -> Iterator[Any]:
    if isinstance(given, Image.Image) or _labelled(given):
        return iter([given])
    if isinstance(given, Mapping) and "image" in given:
        return iter([given])
    if not isinstance(given, Mapping | str | bytes):
        if isinstance(given, Sized) and hasattr(given, "__getitem__"):
            return (given[i] for i in range(len(given)))
        with suppress(TypeError):
            return iter(given)
    raise ValueError(f"these are no images but {_kind(given)}: give arrays, tensors, PIL images, or what yields them")


def _pair(item: Any) -> tuple[Any, Any]:
    """The image and the label of an item."""
    if isinstance(item, Mapping):
        return item.get("image"), item.get("label")
    if _labelled(item):
        return item[0], item[1]
    return (item[0], None) if isinstance(item, tuple | list) and len(item) == 1 else (item, None)


def _labelled(item: Any) -> bool:
    """Whether this is an image and its label, or a batch and its labels."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        return False
    image, label = item
    if isinstance(label, np.ndarray | Tensor):
        return isinstance(image, np.ndarray | Tensor) and label.ndim < 2 and image.ndim > label.ndim + 1
    return isinstance(image, np.ndarray | Tensor | Image.Image) and isinstance(label, int | str | np.integer)


def _single(part: Array) -> bool:
    """Whether an array is one image (or vector) and not several."""
    if part.ndim != 3:
        return part.ndim < 3
    first, height, last = part.shape
    return (first in CHANNELS and height > 4) or (last in CHANNELS and height > 4)


def _array(given: Any) -> Array:
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        return np.asarray((given.float() if given.is_floating_point() else given).numpy())
    try:
        return np.asarray(given)
    except (ValueError, TypeError):
        return np.array(None, dtype=object)


def _picture(image: Image.Image, config: DataConfig) -> Array:
    if image.has_transparency_data:
        image, _ = on_background(image, config.background)
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def _alike(parts: list[Array], config: DataConfig) -> Array:
    """Images in one array: grey ones among colour ones get three channels; other sizes are brought to ``config``'s."""
    shapes = {part.shape for part in parts}
    if len(shapes) > 1 and all(part.dtype == np.uint8 and part.ndim in (2, 3) for part in parts):
        last = {part.shape[2] for part in parts if part.ndim == 3}
        if last <= {3}:  # pictures, whose channels stand last
            parts = [part if part.ndim == 3 else np.repeat(part[..., None], 3, 2) for part in parts] if last else parts
            if config.size is not None:
                size, channels = config.size, 3 if last else 1
                parts = [convert_array(channels_first(part), size, channels, config) for part in parts]
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        found = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
        raise ValueError(
            f"the images differ in shape, {found}: bring them to one, or load them with size=(height, width)"
        )
    return np.stack(parts)


def _kind(given: Any) -> str:
    return "nothing" if given is None else f"the {type(given).__name__} {given!r:.40}"
