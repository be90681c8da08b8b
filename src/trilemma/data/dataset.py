"""A data set in the one currency: ``uint8 [N, C, H, W]`` or ``float32 [N, D]``, with labels, captions and one split."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trilemma.data.config import DataConfig
from trilemma.data.fit import Pixels
from trilemma.images import Spec
from trilemma.noise import ImageNoise, Noise, philox
from trilemma.preview import PREVIEWED, preview, shape_text
from trilemma.text import printable

Indices = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Digests = npt.NDArray[np.uint64]

TEST_SHARE = 0.1
FEW = 5
"""Names that a note gives as examples."""


class Loss(str):
    """A note on what a user gave and does not get: files, captions or labels left out, pixels or colours changed.

    All notes stand in `Dataset.notes`; these are also said before a training begins.
    """


@dataclass
class Raw:
    """What a reader hands over: all images in one array, not yet split.

    Attributes:
        images: uint8 [N, C, H, W] with 256 levels, or vectors float32 [N, D].
        labels: int64 [N] with values ``0 … len(class_names) - 1``.
        is_test: bool [N] where the source has a test split of its own.
        sorted_by_name: the order of the images says something about them (a folder lists one class after the other),
            so that the first so many would not be a fair draw.
        digests: what `image_digests` would say, where it is known more cheaply.
        resized: how many images had another size.
        decoloured: how many images had colours that were taken from them.
        no_captions: why there are none, where something looked like them.
    """

    name: str
    images: Pixels | Vectors
    labels: Indices | None = None
    captions: list[str] | None = None
    class_names: tuple[str, ...] = ()
    is_test: npt.NDArray[np.bool_] | None = None
    sorted_by_name: bool = False
    notes: list[str] = field(default_factory=list)
    digests: Digests | None = None
    resized: int = 0
    decoloured: int = 0
    no_captions: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images, what is known about them, and one fixed split.

    Attributes:
        name: for people.
        config: what was asked for; a local source is written as an absolute path.
        images: uint8 [N, C, H, W] with 256 levels (before any binarising), in memory or mapped from a file; or vectors
            float32 [N, D].
        labels: int64 [N] with values ``0 … len(class_names) - 1``, or None.
        captions: N strings (empty where an image has none), or None.
        class_names: the name of each label.
        train: int64 indices of the training images.
        test: int64 indices of the held-out images; disjoint from ``train``.
        notes: one line each on what was done to the images; a `Loss` where something is lost by it.
        fingerprint: hash of pixels, labels, captions, binarising and split; equal files and options give equal ones.
        resized: how many images had another size.
        decoloured: how many images had colours that were taken from them.
        no_captions: why there are none, where something looked like them.
    """

    name: str
    config: DataConfig
    images: Pixels | Vectors
    labels: Indices | None
    captions: list[str] | None
    class_names: tuple[str, ...]
    train: Indices
    test: Indices
    notes: tuple[str, ...]
    fingerprint: str
    resized: int = 0
    decoloured: int = 0
    no_captions: str = ""

    def __repr__(self) -> str:
        what = f"vectors of {self.images.shape[1]}" if self.vector else f"images {shape_text(self.images.shape[1:])}"
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        counts = f"{len(self.train):,} train, {len(self.test):,} held out"
        return f"Dataset({printable(self.name)!r}: {len(self.images):,} {what}{classes}, {counts})"

    def _repr_html_(self) -> str:
        """The first training images, for a notebook."""
        return preview(self.batch(self.train[:PREVIEWED]), self.levels, repr(self))

    @property
    def losses(self) -> tuple[str, ...]:
        """The notes on what is lost."""
        return tuple(note for note in self.notes if isinstance(note, Loss))

    @property
    def untrained(self) -> Indices:
        """Classes without a training image, in order."""
        if self.labels is None:
            return np.zeros(0, np.int64)
        return np.setdiff1d(np.arange(len(self.class_names)), self.labels[self.train])

    @property
    def levels(self) -> int:
        """Number of values a pixel of `batch` takes: 2 where the images are binarised, else 256; 0 for vectors."""
        if self.vector:
            return 0
        return 256 if self.config.binarize == "none" else 2

    @property
    def vector(self) -> bool:
        """Whether these are vectors and not images."""
        return len(self.images.shape) == 2

    @functools.cached_property
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Of vectors, the mean and the standard deviation of each value in training; 1 for one that never changes."""
        train = self.images[self.train].astype(np.float64)
        scale = train.std(0)
        # nine digits are all that float32 holds; fewer would move a narrow column far from 0
        center, spread = (
            tuple(float(f"{value:.9g}") for value in values) for values in (train.mean(0), scale + (scale == 0))
        )
        return center, spread

    def spec(self, conditional: bool = False) -> Spec:
        """What a model is told. Raises ``ValueError`` where ``conditional`` and there are no labels."""
        if conditional and self.labels is None:
            raise ValueError(
                f"{self.name} has no labels to condition on: sort the images into one subfolder per class, "
                "or train an unconditional model"
            )
        classes = len(self.class_names) if conditional else 0
        if self.vector:
            center, scale = self.moments
            return Spec(self.images.shape[1:], 0, classes, center=center, scale=scale)
        return Spec(self.images.shape[1:], self.levels, classes)

    def batch(self, indices: Sequence[int] | Indices | Tensor, noise: Noise | None = None) -> Tensor:
        """The images at absolute ``indices``.

        Dynamic binarisation (Salakhutdinov and Murray, ICML 2008) makes a pixel 1 with probability value/255: afresh
        from ``noise`` while training, and otherwise from ``ImageNoise(0, indices)``, so that held-out images are
        binarised once and for all. Fixed binarisation does the latter in training too; it is a draw of the same kind
        as the widely used fixed files, not those files.

        Args:
            indices: B indices into ``images``.
            noise: of B rows; ignored unless the data set is binarised dynamically.

        Returns:
            uint8 [B, C, H, W] with `levels` levels, or float32 [B, D], on the CPU, or on the noise's device
            where noise is used.
        """
        rows = _rows(indices)
        x = torch.from_numpy(np.ascontiguousarray(self.images[rows]))
        if self.config.binarize == "none":
            return x
        if self.config.binarize == "threshold":
            return (x > 127).to(torch.uint8)
        if self.config.binarize == "fixed":
            noise = None
        u = (noise or ImageNoise(0, rows.tolist())).uniform(*x.shape[1:])
        return (u < x.to(u.device).float() / 255).to(torch.uint8)

    def label_batch(self, indices: Sequence[int] | Indices | Tensor) -> Tensor | None:
        """int64 [B] labels at absolute ``indices``, or None where the data set has no labels."""
        if self.labels is None:
            return None
        return torch.from_numpy(self.labels[_rows(indices)])

    def labels_as(self, names: Sequence[str], indices: Sequence[int] | Indices | Tensor, whose: str) -> Tensor | None:
        """int64 [B] labels at absolute ``indices`` as positions in ``names``; None where there are no labels.

        Two sets of images may number the same classes differently, so that only names can be matched.

        Args:
            whose: who has the names, for the error.

        Raises:
            ValueError: an image is of a class that is not among ``names``.
        """
        if self.labels is None:
            return None
        number = {name: i for i, name in enumerate(names)}
        table = np.array([number.get(name, -1) for name in self.class_names], np.int64)
        found = table[self.labels[_rows(indices)]]
        if (found < 0).any():
            strangers = [name for name in self.class_names if name not in number]
            raise ValueError(
                f"classes are matched by their names, and {whose} does not know {examples(strangers)} of {self.name}, "
                f"only {examples(names)}: name the classes alike, or take images without labels"
            )
        return torch.from_numpy(found)

    def training(self) -> tuple[Tensor, Tensor | None]:
        """All training images [N, C, H, W], binarised as in ``batch(train)``, and their labels [N]."""
        return self.batch(self.train), self.label_batch(self.train)

    def testing(self) -> tuple[Tensor, Tensor | None]:
        """All held-out images [N, C, H, W] and their labels [N]."""
        return self.batch(self.test), self.label_batch(self.test)


def assemble(raw: Raw, config: DataConfig, split: bool = True) -> Dataset:
    """Split, limit and fingerprint what a reader delivered."""
    notes = list(raw.notes)
    if raw.captions is not None and not any(raw.captions):
        raw.captions = None
    if len(raw.images.shape) == 2:
        _refuse_image_options(raw.name, config)
    digests = image_digests(raw.images) if raw.digests is None else raw.digests
    if not split:
        is_test = np.zeros(len(digests), np.bool_)
    elif raw.is_test is None:
        is_test = split_by_content(digests, raw.name)
        notes.append(f"test split: by a hash of each image, {_share(is_test)} held out")
    else:
        is_test = raw.is_test
        notes.append(f"test split: the data set's own, {int(is_test.sum()):,} images")
        train_digests = set(digests[~is_test].tolist())
        shared = sum(digest in train_digests for digest in digests[is_test].tolist())
        if shared:
            notes.append(f"{shared:,} of the test images also stand among the training images")
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    if split and not (len(train) and len(test)):
        raise ValueError(f"{raw.name} has {len(train)} training and {len(test)} test images: both are needed")
    if config.limit is not None and config.limit < len(train):
        notes.append(f"limit: {config.limit:,} of {len(train):,} training images")
        # a folder lists one class after the other, so there "the first" are the first by content hash
        order = np.argsort(digests[train], kind="stable") if raw.sorted_by_name else np.arange(len(train))
        train = np.sort(train[order[: config.limit]])
    if config.binarize == "dynamic":
        notes.append("binarised: 1 with probability value/255")
    elif config.binarize == "threshold":
        notes.append("binarised: 1 where value > 127")
    made = Dataset(
        raw.name,
        config,
        raw.images,
        raw.labels,
        raw.captions,
        raw.class_names,
        train,
        test,
        tuple(notes),
        _fingerprint(raw, digests, train, test, config),
        raw.resized,
        raw.decoloured,
        raw.no_captions,
    )
    if split and len(made.untrained):
        names = examples([made.class_names[label] for label in made.untrained])
        what = f"no training image has the class {names}: a model cannot learn it"
        return replace(made, notes=(*made.notes, Loss(what)))
    return made


def _refuse_image_options(name: str, config: DataConfig) -> None:
    asked = {
        "image-size": config.size is not None,
        "binarize": config.binarize != "none",
        "color": config.color != "auto",
        "fit": config.fit != "crop",
    }
    if wrong := next((option for option, given in asked.items() if given), None):
        raise ValueError(f"{name} holds vectors, and --{wrong} says something to images only: leave it out")


def number_classes(classes: Sequence[str], notes: list[str]) -> tuple[Indices | None, tuple[str, ...]]:
    """Class names per image → (labels int64 [N], names), in alphabetical or, where all are numbers, numerical order."""
    if not any(classes):
        return None, ()
    missing = sum(not name for name in classes)
    if missing:
        without = f"{missing:,} of {len(classes):,} images have none"
        notes.append(Loss(f"labels: not used, because {without}"))
        return None, ()
    in_order = sorted(set(classes))
    if all(map(_is_number, in_order)):
        in_order.sort(key=int)  # stable, so that 01 and 1 stand in one order always
    number = {name: i for i, name in enumerate(in_order)}
    return np.array([number[name] for name in classes], np.int64), tuple(in_order)


def _is_number(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdigit()


def label_name(value: object) -> str:
    """The class that a label from a file names, "" where it names none.

    A whole number is written without a point, and truth as JSON does.

    Raises:
        ValueError: a list or a table, in the words for the middle of a line.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict | tuple):
        raise ValueError(f"a label must be one name or number, not {str(value)[:40]}")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value).strip()


def examples(names: Sequence[object], most: int = FEW) -> str:
    """The first few names, fit to be shown, and how many more there are."""
    more = len(names) - most
    return ", ".join(printable(name) for name in names[:most]) + (f" and {more:,} more" if more > 0 else "")


def image_digests(images: Pixels | Vectors) -> Digests:
    """A 64-bit hash of each image, uint64 [N]."""
    hashes = (hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in images)
    return np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)


def split_by_content(digests: Digests, name: str) -> npt.NDArray[np.bool_]:
    """Which images are held out: about a tenth, at least one; equal images always on the same side.

    The rule looks at each image alone, so the split of the old images stays as it is when new ones are added.
    """
    if len(np.unique(digests)) < 2:
        raise ValueError(
            f"{name} has {len(digests)} readable image(s), not two different ones, so none can be held out: add images"
        )
    is_test = digests < TEST_SHARE * 2.0**64
    if not is_test.any():
        is_test = digests == digests.min()
    elif is_test.all():
        is_test = digests != digests.max()
    return np.asarray(is_test)


def describe(dataset: Dataset) -> str:
    """A few lines for people: size, shape, classes with their counts, and the notes; fit to be shown."""
    lines = [_headline(dataset)]
    if dataset.labels is not None:
        used = dataset.labels[np.concatenate([dataset.train, dataset.test])]
        counts = Counter(used.tolist())
        few = [f"{name} ({counts[label]:,})" for label, name in enumerate(dataset.class_names[:20])]
        more = len(dataset.class_names) - len(few)
        lines.append(f"  {len(dataset.class_names)} classes: {', '.join(few)}{f', and {more} more' if more else ''}")
    if dataset.captions is not None:
        first = next(filter(None, dataset.captions))
        shown = first if len(first) <= 80 else first[:79] + "…"
        lines.append(f"  {sum(map(bool, dataset.captions)):,} captions, such as {shown!r}")
    return "\n".join(map(printable, lines + [f"  {note}" for note in dataset.notes]))


def _headline(dataset: Dataset) -> str:
    counts = f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test"
    if dataset.vector:
        center, scale = dataset.moments
        spread = ", ".join(f"{m:.3g} ± {s:.3g}" for m, s in zip(center[:8], scale[:8], strict=True))
        return f"{counts} vectors of {len(center)} values: {spread}{', …' if len(center) > 8 else ''}"
    _, channels, height, width = dataset.images.shape
    colour = {1: "grey", 3: "RGB"}[channels]
    return f"{counts} images, {height} x {width} {colour}, {dataset.levels} levels"


def _rows(indices: Sequence[int] | Indices | Tensor) -> Indices:
    return np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices, np.int64)


def _share(is_test: npt.NDArray[np.bool_]) -> str:
    return f"{int(is_test.sum()):,} of {len(is_test):,}"


def _fingerprint(raw: Raw, digests: Digests, train: Indices, test: Indices, config: DataConfig) -> str:
    described = (raw.images.shape, config.binarize, raw.class_names, raw.captions, raw.labels is None)
    hasher = hashlib.blake2b(repr(described).encode("utf-8", "surrogatepass"), digest_size=16)
    hasher.update(digests.astype("<u8").tobytes())
    for array in (train, test) if raw.labels is None else (train, test, raw.labels):
        hasher.update(array.astype("<i8").tobytes())
    return hasher.hexdigest()


def subset(indices: Indices, count: int, seed: int) -> Indices:
    """The first ``count`` of a seeded permutation (all of them if 0 or if there are fewer)."""
    order = philox(seed).permutation(len(indices))
    return indices[order[: count or None]]
