"""What the questions of ``trilemma query`` share: the flags, the images asked about, and the form of a reply."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from trilemma.cli.flags import parse_labels
from trilemma.config import RunConfig, parse_text
from trilemma.data import Dataset, load
from trilemma.evaluation import subset
from trilemma.families import FAMILIES
from trilemma.families.family import Progress
from trilemma.run import Run
from trilemma.sampling import read_text
from trilemma.validate import MOST, MOST_IMAGES, Limits, check_limits

Indices = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Flags:
    """The flags that not every question reads; None where they were not given."""

    images: str | None = None
    n: Annotated[int, Limits(most=MOST_IMAGES)] | None = None
    labels: str | None = None
    samples: Annotated[int, Limits(most=MOST)] | None = None
    keep: str | None = None
    copies: Annotated[int, Limits(most=MOST)] | None = None
    particles: Annotated[int, Limits(most=MOST)] | None = None
    prior: str | None = None
    out: Path | None = None
    points: Annotated[int, Limits(2, MOST)] | None = None
    chains: Annotated[int, Limits(most=MOST)] | None = None
    temperatures: Annotated[int, Limits(most=MOST)] | None = None
    sigma: float | None = None
    start: str | None = None
    codes: Path | None = None
    dequantize: Literal["decoder", "uniform"] | None = None
    tolerance: float | None = None
    counts: str | None = None
    weights: str | None = None
    features: str | None = None
    reference: Annotated[int, Limits(most=MOST_IMAGES)] | None = None
    options: dict[str, str] | None = None
    text: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_limits(self, "--")


@dataclass(frozen=True)
class Asked:
    """A question: ``value`` is what stands behind its flag, ``first`` whether this process writes and talks."""

    run: Run
    flags: Flags
    value: str | None
    seed: int
    device: str
    first: bool
    progress: Progress | None

    @property
    def config(self) -> RunConfig:
        return self.run.config

    def images(self, most: int) -> tuple[Dataset, Indices]:
        """The images asked about, ``most`` unless -n says otherwise, brought to the run's shape; and which of them."""
        return self.source(self.flags.images, most)

    def source(self, images: str | None, most: int) -> tuple[Dataset, Indices]:
        """The same of any source; None for held-out images of the run's own data."""
        n, config = most if self.flags.n is None else self.flags.n, self.config
        if n < 1:
            raise ValueError(f"-n must be at least 1, not {n}")
        if images is None:
            dataset = load(config.data)
            return dataset, subset(dataset.test, n, self.seed)
        spec = config.spec
        if spec.vector:
            dataset = load(replace(config.data, source=images, limit=None), split=False)
            everything = np.arange(len(dataset.images))
            return dataset, everything if len(everything) <= n else np.sort(subset(everything, n, self.seed))
        size, color = (spec.height, spec.width), "rgb" if spec.channels == 3 else "grey"
        dataset = load(replace(config.data, source=images, size=size, color=color, limit=None), split=False)  # type: ignore[arg-type]
        everything = np.arange(len(dataset.images))
        return dataset, everything if len(everything) <= n else np.sort(subset(everything, n, self.seed))

    def classes(self, dataset: Dataset, indices: Indices) -> Tensor | None:
        """What --labels or --text says of the images."""
        if self.flags.text:
            rows = read_text(self.run, self.flags.text, self.flags.labels)
            return rows[[i % len(rows) for i in range(len(indices))]]
        labels = self.flags.labels
        if labels is None:
            return None
        if labels == "true" and "true" in self.config.class_names:
            raise ValueError(
                "--labels true may mean the images' own labels or the class true: write '\"true\"' for the class"
            )
        if labels == "true":
            known = self.run.conditions(dataset, indices)
            if known is None and self.config.spec.vocabulary:
                raise ValueError(f"{dataset.name} has no captions: give one with --text")
            return true_labels(dataset, indices) if known is None else known
        if self.config.spec.vocabulary:
            raise ValueError(
                f"{self.run.path} reads captions, not classes: give --text, or --labels true for their own"
            )
        given = parse_labels(labels, self.config.class_names) or []
        if not given:
            raise ValueError(f"--labels {labels} names no class of {self.run.path}, which knows none: leave it out")
        return torch.tensor([given[i % len(given)] for i in range(len(indices))])

    def labels(self) -> list[int] | Tensor | None:
        """What --labels or --text names, for questions without images of their own."""
        if self.flags.text:
            return read_text(self.run, self.flags.text, self.flags.labels)
        return parse_labels(self.flags.labels, self.config.class_names)

    def options(self, cls: type, base: Mapping[str, Any] | None = None) -> Any:
        """The sampling options given beside the question's flags, as the dataclass ``cls``; None if there are none.

        ``base`` are the question's own defaults, which those given are laid over.
        """
        given = self.flags.options
        return parse_text(cls, given, f"{self.config.family} asked so", base) if given else None

    def picture(self, name: str) -> Path:
        """Where the picture goes."""
        return self.flags.out or self.run.figure(name)

    def title(self, of: str) -> str:
        return f"{FAMILIES[self.config.family].title} ({self.run.path.name}): {of}"


@dataclass(frozen=True)
class Reply:
    """The answer for programs, and the same in words."""

    record: dict[str, Any]
    lines: list[str]


@dataclass(frozen=True)
class Mode:
    """How a question is answered, and which of the `Flags` it reads."""

    answer: Callable[[Asked], Reply]
    reads: frozenset[str]


def true_labels(dataset: Dataset, indices: Indices) -> Tensor:
    labels = dataset.label_batch(indices)
    if labels is None:
        raise ValueError(f"{dataset.name} has no labels, and this question needs those that its images truly have")
    return labels


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None


def with_error(value: float, error: float, digits: int = 4) -> str:
    """``1.6067 ± 0.0123``; of a single image, whose error nobody knows, the value alone."""
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")
