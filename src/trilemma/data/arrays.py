"""Images that already are arrays: ``.npz``, ``.npy``, and the idx files of the original MNIST.

Nothing is unpickled. Pixels may be uint8, booleans, whole numbers or floats; what was done to them is noted. An array
of images has three or four dimensions; one of two, [N, D], holds vectors and must be of floats, so that neither is ever
taken for the other.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from trilemma.data.config import DataConfig
from trilemma.data.dataset import Indices, Loss, Raw, Vectors, examples, label_name, number_classes
from trilemma.data.decoded import with_progress
from trilemma.data.fit import DECOLOURED, Pixels, convert_array, depth_of, reason, to_eight_bits
from trilemma.data.room import SHARE, check_room, free_memory

Array = npt.NDArray[Any]

MAX_BYTES = 2**35
IDX_NAME = re.compile(r"(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?P<gz>\.gz)?$")
CHANNELS = (1, 3, 4)
KNOWN = ("x_train", "y_train", "x_test", "y_test", "images", "vectors", "labels", "classes", "levels", "text")
HAIR = 1e-3
"""How far outside [0, 1] floats may lie; less than half a level."""
ADM = ("arr_0", "arr_1")
"""Images and labels in the npz files of guided diffusion (ADM), which are NumPy's names for arrays without one."""


def load_npz(path: Path, config: DataConfig, progress: bool) -> Raw:
    """``x_train, y_train, x_test, y_test, classes``, or ``images, labels, classes``; all but the images optional.

    ``vectors`` may stand in the place of ``images``; ``text`` holds a caption for each image, those of the test images
    last. ``arr_0`` and ``arr_1`` are images and labels, as guided diffusion writes them.
    """
    arrays = read_npz(path, (*KNOWN, *ADM))
    unused = sorted(_npz_sizes(path).keys() - arrays.keys())
    if "arr_0" in arrays and not arrays.keys() - set(ADM):
        arrays = {name: arrays[own] for own, name in zip(ADM, ("images", "labels"), strict=True) if own in arrays}
    else:
        unused += sorted(arrays.keys() & set(ADM))
    notes: list[str] = [Loss(f"arrays not used: {examples(sorted(unused), 20)}")] if unused else []
    if "vectors" in arrays and arrays["vectors"].ndim != 2:
        raise ValueError(f"{path}: vectors must be [N, D], not {list(arrays['vectors'].shape)}")
    if "x_train" in arrays:
        images, labels = [arrays["x_train"]], [arrays.get("y_train")]
        if "x_test" in arrays:
            images, labels = [*images, arrays["x_test"]], [*labels, arrays.get("y_test")]
    elif "images" in arrays or "vectors" in arrays:
        images, labels = [arrays["images" if "images" in arrays else "vectors"]], [arrays.get("labels")]
        if _levels(arrays.get("levels"), path) == 2 and "images" in arrays and arrays["images"].dtype == np.uint8:
            images = [arrays["images"] * np.uint8(255)]  # binary samples, as `trilemma sample` writes them
            notes.append("two levels, read as black and white")
        if labels[0] is not None and len(labels[0]) and (labels[0] == -1).all():
            labels = [None]  # samples of an unconditional model
    else:
        there = examples(sorted([*arrays, *unused]), 20) or "nothing"
        raise ValueError(f"{path} has none of x_train, images and vectors, only {there}")
    raw = from_arrays(path.stem, str(path), images, labels, arrays.get("classes"), config, progress, notes)
    if "text" in arrays:
        raw.captions = _join_captions(arrays["text"], len(raw.images), str(path))
    return raw


def _levels(given: Array | None, path: Path) -> int:
    """How many values a pixel has, where an npz file says it; else 256."""
    if given is None:
        return 256
    if given.size != 1 or given.dtype.kind not in "ui":
        raise ValueError(f"{path}: levels must be one whole number, 2 or 256, not {given.dtype} {list(given.shape)}")
    return int(given.reshape(-1)[0])


def load_npy(path: Path, config: DataConfig, progress: bool) -> Raw:
    """One array of images; mapped, so that it may be larger than memory."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of a broken header NumPy raises all sorts
        raise ValueError(f"{path} is not a plain NumPy array (pickles are never loaded): {reason(error)}") from error
    return from_arrays(path.stem, str(path), [images], [None], None, config, progress, [])


def is_idx(path: Path) -> bool:
    """Whether a file, or a file in a folder, is named like the original MNIST's."""
    if path.is_dir():
        with suppress(OSError):
            return any(_idx_images(file) for file in path.iterdir())
        return False
    return IDX_NAME.search(path.name) is not None or path.name.endswith(("-ubyte", "-ubyte.gz"))


def load_idx(path: Path, config: DataConfig, progress: bool) -> Raw:
    """A folder of idx files with the split in their names, or one file of images with its labels beside it."""
    if path.is_dir():
        parts = {match["part"]: file for file in sorted(path.iterdir()) if (match := _idx_images(file))}
        chosen = [parts[part] for part in ("train", "t10k", "test") if part in parts][:2]
    else:
        chosen = [path]
    images = [read_idx(file) for file in chosen]
    labels = [_idx_labels(file) for file in chosen]
    name = re.split("[-.]idx", path.name)[0]
    return from_arrays(name, str(path), cast(list[Array], images), labels, None, config, progress, [])


def read_npz(path: Path, wanted: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of an npz file that are ``wanted`` (all by default); the others stay unread, be they broken.

    Raises:
        ValueError: one line where the file is broken, does not fit into memory, or holds pickles among what is wanted.
    """
    arrays: dict[str, Array] = {}
    try:
        sizes = _npz_sizes(path)
        chosen = [name for name in sizes if wanted is None or name in wanted]
        unpacked, free = sum(sizes[name] for name in chosen), free_memory()
        if unpacked > (MAX_BYTES if free is None else min(MAX_BYTES, SHARE * free)):
            raise ValueError(f"it unpacks to {unpacked / 2**30:.0f} GiB; save it with np.save, which can be mapped")
        with np.load(path, allow_pickle=False) as file:
            for name in chosen:
                array = file[name]
                if not isinstance(array, np.ndarray):  # NumPy hands over what is no array as bytes
                    raise ValueError(f"its member {name} is no array")
                arrays[name] = array
    except Exception as error:  # of broken members NumPy, zipfile and the decompressors raise all sorts
        raise ValueError(
            f"{path} is not an npz file of plain arrays (pickles are never loaded): {reason(error)}"
        ) from error
    return arrays


def _npz_sizes(path: Path) -> dict[str, int]:
    """The members of an npz file, and the bytes each unpacks to."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """One idx file of unsigned bytes, gzipped or not: images [N, H, W] or labels [N]."""
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            zero, kind, ndim = struct.unpack(">HBB", file.read(4))
            if (zero, kind) != (0, 8) or ndim not in (1, 3):
                raise ValueError("it does not begin like one of unsigned bytes")
            shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
            count = math.prod(shape)
            if count > MAX_BYTES:
                raise ValueError(f"it claims to hold {count / 2**30:.0f} GiB")
            data = file.read(count + 1)  # never more than the header says, whatever the gzip holds
    except (OSError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is not a readable idx file: {reason(error)}") from error
    if len(data) != count:
        raise ValueError(
            f"{path} is not a readable idx file: it has {'fewer' if len(data) < count else 'more'} bytes than it says"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def from_arrays(
    name: str,
    where: str,
    images: list[Array],
    labels: list[Array | None],
    classes: Array | None,
    config: DataConfig,
    progress: bool,
    notes: list[str],
) -> Raw:
    """One or two parts (training, test) of images and labels → ``Raw``. ``where`` names the source in errors."""
    vectors = all(part.ndim == 2 for part in images)
    parts = [part if vectors else _channels_first(part, where, notes) for part in images]
    kinds = [f"{part.dtype} {list(part.shape[1:])}" for part in parts]
    if len(set(kinds)) > 1:
        raise ValueError(f"{where}: training and test images differ, {' and '.join(kinds)}: make them alike")
    numbers, class_names = _join_labels(parts, labels, classes, where, notes)
    is_test = np.repeat([False, True], [len(part) for part in parts]) if len(parts) == 2 else None
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not whole.size:
        raise ValueError(f"{where} holds no images")
    if vectors:
        return Raw(name, _vectors(whole, where), numbers, None, class_names, is_test, notes=notes)
    pixels, resized, decoloured = _convert(_to_bytes(whole, where, notes), where, config, progress, notes)
    return Raw(name, pixels, numbers, None, class_names, is_test, notes=notes, resized=resized, decoloured=decoloured)


def _vectors(rows: Array, where: str) -> Vectors:
    """[N, D] of floats → float32."""
    if rows.dtype.kind != "f":
        raise ValueError(
            f"{where}: an array {list(rows.shape)} of {rows.dtype} may be flattened images or vectors: save images as "
            "[N, H, W], and vectors as floats"
        )
    with np.errstate(over="ignore"):
        converted = rows.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(converted).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{where}: {len(bad):,} of {len(rows):,} vectors hold a value that is not finite, the first is row "
            f"{bad[0]}: leave such rows out"
        )
    return converted


def _to_bytes(images: Array, where: str, notes: list[str]) -> Pixels:
    """Pixels of any kind that has an evident range → uint8 0 … 255."""
    if images.dtype.kind not in "buif":
        raise ValueError(f"{where}: images must be numbers, not {images.dtype}")
    lowest, highest = images.min(), images.max()
    if images.dtype == np.uint8 and highest > 1:
        return cast(Pixels, images)
    if images.dtype.kind == "f":
        if not (lowest >= -HAIR and highest <= 1 + HAIR):  # also where there is a NaN
            raise ValueError(
                f"{where}: images of floats must lie in [0, 1], not {float(lowest)} to {float(highest)}: "
                + _remedy(lowest, highest)
            )
        notes.append("pixels: floats in [0, 1], scaled to 0 … 255 and rounded")
        return np.rint(images * 255.0).astype(np.uint8)  # a hair outside rounds to 0 or 255
    if not (lowest >= 0 and highest <= 65535):
        raise ValueError(f"{where}: pixels must lie in 0 to 255, not {lowest} to {highest}: save them as uint8")
    if highest <= 1:
        notes.append("pixels: 0 and 1, scaled to 0 and 255")
        return images.astype(np.uint8) * np.uint8(255)
    if highest > 255:
        depth = depth_of(int(highest))
        notes.append(f"pixels: read as {depth}-bit, which holds the highest of them, {highest:,}; scaled to 8 bits")
        return to_eight_bits(images, depth)
    return images.astype(np.uint8)


def _remedy(lowest: float, highest: float) -> str:
    """What to do with floats that do not lie in [0, 1]."""
    if math.isnan(lowest):
        return "leave out the images that hold NaN"
    if lowest >= 0 and 1 < highest <= 255:
        return "save them with .astype('uint8'), or divide them by 255"
    if -1 - HAIR <= lowest < 0 and highest <= 1 + HAIR:
        return "make it (x + 1) / 2 if black is -1, or save them as uint8"
    return "bring them to 0 ... 255 and save them as uint8"


def _channels_first(images: Array, where: str, notes: list[str]) -> Array:
    """[N, H, W], [N, H, W, C] or [N, C, H, W] → [N, C, H, W]."""
    if images.ndim == 3:
        if images.shape[2] in (3, 4) and images.shape[1] > 4:
            raise ValueError(
                f"{where}: an array {list(images.shape)} may be one colour image, or {len(images):,} grey ones of "
                f"{images.shape[1]} x {images.shape[2]}: save images as [N, H, W, C]"
            )
        return images[:, None]
    if images.ndim == 4:
        first, last = images.shape[1] in CHANNELS, images.shape[3] in CHANNELS
        if first and last:  # tiny images: square ones are likelier, then our own order
            first = images.shape[2] == images.shape[3] or images.shape[1] != images.shape[2]
            order = f"shape: {list(images.shape[1:])} read as {'[C, H, W]' if first else '[H, W, C]'}"
            notes += [] if order in notes else [order]
        if first:
            return images
        if last:
            return images.transpose(0, 3, 1, 2)
    raise ValueError(
        f"{where}: images must be [N, H, W], [N, H, W, C] or [N, C, H, W], C being 1, 3 or 4, not {list(images.shape)}"
    )


def _join_labels(
    images: list[Pixels], labels: list[Array | None], classes: Array | None, where: str, notes: list[str]
) -> tuple[Indices | None, tuple[str, ...]]:
    given = [part for part in labels if part is not None]
    if not given:
        return None, ()
    if len(given) < len(images):
        notes.append(Loss("labels: not used, because only one of the training and the test images has them"))
        return None, ()
    flat = [part.reshape(-1) if part.ndim == 2 and part.shape[1] == 1 else part for part in given]
    for part, own in zip(images, flat, strict=True):
        if own.shape != (len(part),):
            hint = ": of one-hot labels save .argmax(1)" if own.ndim == 2 and len(own) == len(part) else ""
            raise ValueError(
                f"{where}: {len(part):,} images need {len(part):,} labels, not labels of shape {list(own.shape)}{hint}"
            )
    whole = np.concatenate(flat)
    if classes is None or whole.dtype.kind in "US":
        return number_classes([label_name(value) for value in whole.tolist()], notes)
    if whole.dtype.kind not in "bui" or not len(whole) or whole.min() < 0 or whole.max() >= len(classes):
        raise ValueError(
            f"{where}: labels must be whole numbers from 0 to {len(classes) - 1}, one for each of its classes"
        )
    return whole.astype(np.int64), tuple(map(_text, classes.tolist()))


def _join_captions(text: Array, count: int, where: str) -> list[str]:
    if text.shape != (count,) or text.dtype.kind not in "US":
        raise ValueError(f"{where}: text must be {count:,} strings, one an image, not {text.dtype} {list(text.shape)}")
    return [_text(value) for value in text.tolist()]


def _convert(
    images: Pixels, where: str, config: DataConfig, progress: bool, notes: list[str]
) -> tuple[Pixels, int, int]:
    """Bring all images of an array to the size and channels that were asked for.

    Returns:
        The images, how many had another size, and how many had colours that were taken from them.
    """
    own = images.shape[2], images.shape[3]
    size = config.size or own
    channels = {"grey": 1, "rgb": 3, "auto": 1 if images.shape[1] == 1 else 3}[config.color]
    if images.shape[1] == 4:
        notes.append(f"transparency: laid on {config.background}")
    if images.shape[1] != channels:
        notes.append(f"colour: {images.shape[1]} channels converted to {channels}")
    resized = len(images) if size != own else 0
    if resized:
        notes.append(Loss(f"size: {own[0]} x {own[1]} brought to {size[0]} x {size[1]}, by {config.fit}"))
    elif images.shape[1] == channels:
        return images, 0, 0
    check_room(len(images), channels, size, free_memory(), "the memory that is free", where)
    converted, decoloured = np.empty((len(images), channels, *size), np.uint8), 0
    for i in with_progress(range(len(images)), "converting images", progress):
        converted[i] = convert_array(images[i], size, channels, config)
        if channels == 1 and len(images[i]) > 1:
            decoloured += bool((images[i][1:3] != images[i][:1]).any())
    if decoloured:
        notes.append(Loss(f"{decoloured:,} of {len(images):,} images {DECOLOURED}"))
    return converted, resized, decoloured


def _idx_images(file: Path) -> re.Match[str] | None:
    match = IDX_NAME.search(file.name)
    return match if match and match["kind"] == "images" else None


def _idx_labels(images: Path) -> Array | None:
    """The labels beside a file of images, gzipped or not."""
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    found = [images.with_name(name + end) for end in ("", ".gz")]
    return next((read_idx(file) for file in found if file != images and file.is_file()), None)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
