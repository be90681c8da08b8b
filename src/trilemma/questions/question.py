"""The contract of a question: one file with what is asked, who can answer, how, and what the answer looks like."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from trilemma.blocks import Progress
from trilemma.config import RunConfig, parse_text
from trilemma.data import Dataset, load, subset
from trilemma.data.dataset import image_digests
from trilemma.drawing import Picture
from trilemma.families import FAMILIES
from trilemma.families.family import Family
from trilemma.images import Spec
from trilemma.likelihood import calibrate
from trilemma.parallel import Ranks, ranks
from trilemma.questions.answer import Answer
from trilemma.run import Run
from trilemma.sampling import parse_labels, read_text
from trilemma.validate import MOST_IMAGES, Limits, check_limits, decode


@dataclass(frozen=True)
class Question(ABC):
    """What a trained run can be asked: an abstract base of frozen dataclasses, one file each.

    The fields are what may be chosen, each with a default, a docstring, which is the help of its flag, and where it is
    a number its range (`trilemma.validate.Limits`).

    Class attributes:
        name: as typed: ``trilemma query NAME RUN``.
        title: in the words of the field.
        sentence: what is asked, in one sentence.
        paper: authors, year and title, where there is one.
        caption: how to read its picture.
        capabilities: what a family must be, besides a `Family`: `Encodes`, `Decodes | Denoises`, …
        images, vectors: whether it can be asked of a run that draws images, or vectors.
        argument: the field that the second word on the command line gives; empty for none.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    sentence: ClassVar[str]
    paper: ClassVar[str] = ""
    caption: ClassVar[str] = ""
    capabilities: ClassVar[tuple[type | UnionType, ...]] = ()
    images_too: ClassVar[bool] = True
    vectors_too: ClassVar[bool] = False
    argument: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_limits(self)

    @classmethod
    def families(cls) -> list[str]:
        """The families that have all of its capabilities."""
        return [name for name, family in FAMILIES.items() if all(issubclass(family, each) for each in cls.capabilities)]

    @classmethod
    def able(cls, run: Run) -> str | None:
        """None where the run can be asked, or else why not, in words that follow "because"."""
        family, vector = FAMILIES[run.config.family], run.config.spec.vector
        if vector and not cls.vectors_too:
            return "it looks at images, and this run draws vectors"
        if not vector and not cls.images_too:
            return "it is drawn over the plane of 2-D vectors, and this run draws images"
        for capability in cls.capabilities:
            if not issubclass(family, capability):
                able = [name for name, each in FAMILIES.items() if issubclass(each, capability)]
                return f"it needs {_needed(capability)}, which {family.name} does not have; {_listed(able)} do"
        return cls.unable(run)

    @classmethod
    def unable(cls, run: Run) -> str | None:
        """What else keeps this run from answering, by its config; None for nothing."""
        return None

    @classmethod
    def routine(cls, run: Run) -> Question | None:
        """How every evaluation of an able run asks it, briefly; None where it does not."""
        return None

    @abstractmethod
    def answer(self, context: Context) -> Answer:
        """Ask. ``ValueError``, one line, for what the run or the images do not allow."""

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        """The pictures of an answer, by name; the first is that of the question."""
        return {}

    def plain(self) -> dict[str, Any]:
        """The fields as plain values; of images and tensors what they are."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


@dataclass(frozen=True)
class AboutImages(Question):
    """A question about some images. Class attribute ``most``: how many, where neither images nor n are given."""

    images: Any = None
    """Anything that train takes, or images themselves; by default held-out images of the run's own data."""
    n: Annotated[int, Limits(1, MOST_IMAGES)] | None = None
    """Ask about at most so many of them; by default all that are given, or a few held-out ones."""
    labels: Any = None
    """Ask for log p(x|y) and the like with these classes: 3, or 0,1,2, in turn, or true (the images' own); by default
    for p(x)."""
    text: tuple[str, ...] | None = None
    """The same with this caption, or several in turn, for a run that reads captions; labels true means their own."""

    argument: ClassVar[str] = "images"
    most: ClassVar[int] = 8


@dataclass(frozen=True)
class Batch:
    """The images that a question is about.

    Attributes:
        x: uint8 [N, C, H, W] or float32 [N, D], in the run's own shape and levels.
        conditions: labels int64 [N] or captions int64 [N, length] that the model is told; None for none.
        name: of the data; ``indices``: which of its images they are.
        dataset: that they come from.
    """

    x: Tensor
    conditions: Tensor | None
    name: str
    indices: list[int]
    dataset: Dataset

    @property
    def true_labels(self) -> Tensor:
        """The classes that the images have, int64 [N]; one-line ``ValueError`` where nobody says."""
        labels = self.dataset.label_batch(self.indices)
        if labels is None:
            raise ValueError(f"{self.name} has no labels, and this question needs those that its images truly have")
        return labels

    @property
    def words(self) -> str:
        return f"{len(self.x)} {'vectors' if self.dataset.vector else 'images'} of {self.name}"

    @property
    def protocol(self) -> dict[str, Any]:
        return {"images": self.name, "indices": self.indices}


@dataclass(frozen=True)
class Context:
    """Who is asked, and how.

    Attributes:
        run: that is asked.
        seed: of all that is random, and of the choice of images.
        device: where to compute.
        progress: told ``(done, total)``.
        folder: where a long question keeps what it has, so that it goes on after it was stopped; None for nowhere.
        known: the model and the data of the run, where they are open already.
        notes: what was done to images on the way, and what makes them no fair ones: a flag of the answer.
    """

    run: Run
    seed: int = 0
    device: str = "auto"
    progress: Progress | None = None
    folder: Path | None = None
    known: tuple[Family, Dataset] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def config(self) -> RunConfig:
        return self.run.config

    @property
    def spec(self) -> Spec:
        return self.run.config.spec

    @property
    def where(self) -> Ranks:
        return ranks(self.device)

    @functools.cached_property
    def model(self) -> Family:
        """The trained model on its device."""
        return self.known[0] if self.known else self.run.model(self.where.device)

    @functools.cached_property
    def data(self) -> Dataset:
        """The run's own data; one-line ``ValueError`` where they are no longer there."""
        return self.known[1] if self.known else load(self.config.data)

    @functools.cached_property
    def calibrated(self) -> Family:
        """The model, its log p(x) calibrated on the run's training images if they are still where they were."""
        if self.model.calibration and not self.known:
            # Without them it goes on as it is, and says in its answers that nothing was chosen.
            with contextlib.suppress(ValueError, OSError):
                calibrate(self.model, self.run, self.data)
        return self.model

    def batch(self, question: AboutImages, most: int | None = None) -> Batch:
        """The images that a question is about, and what the model is told of them."""
        return self.source(question.images, question.n, most or question.most, question)

    def source(self, images: Any, n: int | None, most: int, told: AboutImages | None = None) -> Batch:
        """At most ``n`` of some images in the run's own shape; of held-out ones ``most``, unless n says otherwise."""
        if images is None:
            dataset = self.data
            indices = subset(dataset.test, most if n is None else n, self.seed)
        else:
            dataset = _read(images, self.config)
            self.notes.extend(_doubts(dataset, self.config))
            indices = np.arange(len(dataset.images))
            if n is not None and n < len(indices):
                indices = np.sort(subset(indices, n, self.seed))
        conditions = None if told is None else self.conditions(told.labels, told.text, dataset, indices)
        x = dataset.batch(indices)
        if images is not None and (seen := self._trained_on(x)):
            self.notes.append(f"{seen} of {len(x)} images of {dataset.name} are training images of the run")
        return Batch(x, conditions, dataset.name, indices.tolist(), dataset)

    def _trained_on(self, x: Tensor) -> int:
        """How many of some images the run was trained on, as far as its data are still there."""
        if self.config.data.binarize == "dynamic" or not self.config.data_fingerprint:
            return 0
        with contextlib.suppress(ValueError, OSError):
            own = image_digests(self.data.batch(self.data.train).numpy())
            return int(np.isin(image_digests(x.numpy()), own).sum())
        return 0

    def conditions(self, labels: Any, text: Sequence[str] | None, dataset: Dataset, indices: Any) -> Tensor | None:
        """What ``labels`` and ``text`` say of images of a data set; None where they say nothing."""
        if text:
            rows = read_text(self.run, text, labels)
            return rows[[i % len(rows) for i in range(len(indices))]]
        if labels is None:
            return None
        if labels == "true" and "true" in self.config.class_names:
            raise ValueError("labels true may mean the images' own or the class true: write '\"true\"' for the class")
        if isinstance(labels, str) and labels == "true":
            known = self.run.conditions(dataset, indices)
            if known is None and self.spec.vocabulary:
                raise ValueError(f"{dataset.name} has no captions: give one with text")
            found = dataset.label_batch(indices) if known is None else known
            if found is None:
                raise ValueError(f"{dataset.name} has no labels: name some, or leave them out")
            return found
        if self.spec.vocabulary:
            raise ValueError(f"{self.run.path} reads captions, not classes: give text, or labels true for their own")
        given = parse_labels(labels, self.config.class_names)
        if not given:
            raise ValueError(f"labels {labels} name no class of {self.run.path}, which knows none: leave them out")
        return torch.tensor([given[i % len(given)] for i in range(len(indices))])

    def named(self, labels: Any, text: Sequence[str] | None = None) -> list[int] | Tensor | None:
        """What ``labels`` and ``text`` name, for questions without images of their own."""
        if text:
            return read_text(self.run, text, labels)
        return None if labels is None else parse_labels(labels, self.config.class_names)

    def options(self, given: Any, cls: type | None = None, base: Mapping[str, Any] | None = None) -> Any:
        """Sampling options of the run's family from what was given: none, a dictionary, texts, or the dataclass.

        Args:
            cls: the dataclass, by default the family's ``Options``.
            base: the question's own defaults, which those given are laid over.
        """
        cls = cls or FAMILIES[self.config.family].Options
        if given is None or isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f"options must be those of {self.config.family}, or a dictionary, not {given!r}")
        what = f"{self.config.family} asked so"
        if all(isinstance(value, str) for value in given.values()):
            return parse_text(cls, given, what, base)
        return decode(cls, {**(base or {}), **given}, f"options of {what}")


def own(run: Run) -> str | None:
    """What to choose for the labels of images, so that a conditional run is told their own."""
    return "true" if run.config.spec.conditional else None


def build(cls: type[Question], fields: Mapping[str, Any]) -> Question:
    """A question with these fields.

    Raises:
        TypeError: it has no such field, in one line with the likely one.
        ValueError: a value of the wrong type or out of range, in one line.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    for name in fields:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names) or 'none'}"
            if not near and "options" in names:
                hint += " (sampling options go into options=dict(…))"
            raise TypeError(f"the question {cls.name} has no {name!r}; {hint}")
    given = {k: str(v) if isinstance(v, Path) and k != "images" else v for k, v in fields.items()}
    return decode(cls, given, f"the question {cls.name}")


def _doubts(dataset: Dataset, config: RunConfig) -> list[str]:
    """What was done to images to bring them to the shape of a run."""
    size = f"{config.spec.height} x {config.spec.width}" if not config.spec.vector else ""
    found = [f"{dataset.resized} images of {dataset.name} brought to {size}"] if dataset.resized else []
    return found + ([f"{dataset.decoloured} images of {dataset.name} made grey"] if dataset.decoloured else [])


def _read(images: Any, config: RunConfig) -> Dataset:
    """Images from anywhere, brought to the shape of a run."""
    if isinstance(images, Dataset):
        return images
    if tuple(getattr(images, "shape", ())) == config.spec.shape:
        images = images[None]  # one image, in whatever number of channels
    if isinstance(images, str | os.PathLike):
        return load(config.data.like(config.spec, str(images)), split=False)
    given = config.data.like(config.spec)
    return load(images, split=False, size=given.size, color=given.color, binarize=given.binarize)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Dataset):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return getattr(value, "name", None) or type(value).__name__


def _needed(capability: type | UnionType) -> str:
    """What a capability is, in words: the first line of its docstring up to its first colon."""
    if isinstance(capability, UnionType):
        return " or ".join(map(_needed, get_args(capability)))
    return (capability.__doc__ or capability.__name__).strip().split(":")[0]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
