"""Images under measurement beside real ones: all that a metric may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from trilemma.evaluation.metric import Metric, metrics
from trilemma.evaluation.protocol import Protocol
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import Pool, Tell
from trilemma.evaluation.subject import Subject
from trilemma.evaluation.whole import NEAR, first
from trilemma.number import Number
from trilemma.parallel import Ranks

T = TypeVar("T")
ALONE = Ranks(0, 1, torch.device("cpu"))


@dataclass(frozen=True, eq=False)
class Measured:
    """What is measured, and what it is measured by.

    Attributes:
        real: the real images.
        pool: features and images that were drawn; None where no metric needs them.
        subject: whose they are; None for held-out real images, whose numbers are the floor.
        options: of the sampler.
        device: where to compute, and ``where`` which process of which group does.
        tell: told of the progress.
        unfinished: the folder for what is measured before the evaluation is done.
        rung: whether these are distorted real images of the ladder.
        memo: what several metrics use.
    """

    real: Reference
    pool: Pool | None
    subject: Subject | None = None
    options: Any = None
    device: str = "cpu"
    where: Ranks = ALONE
    tell: Tell | None = None
    unfinished: Path | None = None
    rung: bool = False
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def sample(self) -> Pool:
        """What was drawn."""
        assert self.pool is not None, "a metric of images says in `needs` that it looks at them"
        return self.pool

    @property
    def protocol(self) -> Protocol:
        return self.real.protocol

    @property
    def held_out(self) -> bool:
        """Whether these are the held-out real images themselves."""
        return self.subject is None

    @property
    def labels(self) -> Tensor | None:
        """int64 [n], the class of each image that was asked for; None where nobody asked."""
        return self.real.labels if self.subject is None else self.subject.labels

    @property
    def captioned(self) -> bool:
        """Whether the images were asked for by captions."""
        return self.real.dataset.captions is not None if self.subject is None else self.subject.captioned

    def beside(self, metric: Metric) -> Measured:
        """The same images beside those real ones that a metric is measured against, where a set is taken apart."""
        if self.real.whole is None:
            return self
        side = self.real.whole.side(metric, self.real, self.held_out)
        if self.held_out:
            return self if side is self.real else held_out(side)
        if metric.entire or self.pool is None:
            return self.once(f"beside {side.part}", lambda: replace(self, real=side, memo={}))
        few = NEAR if side is self.real else side.protocol.n
        return self.once(f"beside {side.part}", lambda: self._of_few(few, side))

    def _of_few(self, n: int, side: Reference) -> Measured:
        subject = self.subject
        if subject is not None and subject.labels is not None:
            subject = replace(subject, labels=subject.labels[:n])
        return replace(self, real=side, pool=first(self.sample, n), subject=subject, memo={})

    def how(self, n: int) -> str:
        """The features of n images and the real ones, in words."""
        return f"{self.real.network.name} features, {n:,} images against {self.real.against}"

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """What several metrics use, computed for the first of them."""
        if key not in self.memo:
            self.memo[key] = compute()
        found: T = self.memo[key]
        return found

    def told(self, what: str) -> Callable[[int, int], None] | None:
        """The progress of one thing."""
        tell = self.tell
        return None if tell is None else lambda done, total: tell(what, done, total)


def held_out(real: Reference) -> Measured:
    """The held-out real images, to be measured like samples."""
    memo = real.memo.setdefault("held-out", {})
    return Measured(real, replace(real.held_out, images=real.held_out_images), memo=memo)


def number_of(metric: Metric, of: Measured) -> Number | None:
    """What a metric gives, with what it says of itself where it left that out."""
    compares = "features" in metric.needs
    if compares and (of.sample.constant or of.real.train.constant):
        flag = (
            f"all {of.sample.n} samples are the same image"
            if of.sample.constant
            else "all training images have the same features"
        )
        return Number(None, better=metric.better, n=of.sample.n, flag=flag)
    found = metric.measure(of)
    if found is None:
        return None
    return replace(
        found,
        better=metric.better if found.better == "none" else found.better,
        unit=found.unit or metric.unit if found.value is not None else found.unit,
        note=found.note or metric.meaning if found.value is not None else found.note,
        protocol=of.how(of.sample.n) + found.protocol if compares else found.protocol,
    )


def of_features(of: Measured) -> dict[str, Number]:
    """All asked-for metrics that compare features, by their names in JSON: of samples, of a rung, of one class."""
    asked = [m for m in metrics().values() if "features" in m.needs and m.wanted(of.real)]
    found = {metric.label(of.real.network.name): number_of(metric, of) for metric in asked}
    return {name: number for name, number in found.items() if number is not None}
