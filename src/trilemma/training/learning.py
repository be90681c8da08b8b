"""What a run has learnt along the way, on images that were held out from its own training images.

With ``--train.validation 0.1`` a tenth of the training images is not trained on. Snapshots of the training are measured
on them: the held-out loss, the kernel distance of samples, fidelity and coverage, and the share of copies. Each is a
line of ``learning.jsonl`` in the run folder. The test images are not looked at: they stay what the result is judged by.

Snapshots lie √2 apart in steps, and all that is done for them takes at most `TIME` of the time of the training: one
that is too dear for now waits. The best by one quantity (`quantity`) is kept as the checkpoint ``best``. The training
itself is the same with them as without, since they draw from noise of their own.

Early stopping (`over`): patience that grows with the best (Bengio 2012, arXiv:1206.5533, section 3.1; Prechelt
1998, "Early stopping - but when?", which compares the rules). The training is over once it is `PATIENCE` times as long
as at its best snapshot and at least `WORSE` snapshots have been no better.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.config import TrainConfig
from trilemma.data import Dataset, subset
from trilemma.data.dataset import Indices, image_digests
from trilemma.families.family import Family
from trilemma.images import NotFinite, to_display
from trilemma.metrics import (
    Alike,
    Features,
    Nearness,
    Whitened,
    feature_network,
    kernel_distance,
    mutual_nearness,
    nearness,
    share_of,
    verdict,
)
from trilemma.metrics.features import VectorFeatures
from trilemma.metrics.whitened import ENOUGH
from trilemma.noise import ImageNoise, derive_seed
from trilemma.number import Better, Number
from trilemma.run import Run, not_finite
from trilemma.training.budget import Budget, Progress

TIME = 0.05
"""Share of the time of the training steps that snapshots may take."""

FIRST, APART = 50, math.sqrt(2)
"""The step of the first snapshot, and by what factor the next is later."""

PATIENCE, WORSE = 2.0, 3
"""How many times as long as the best snapshot took a training goes on, and the fewest snapshots that are no better."""

BLOCK, SIZES, PLANNED = 64, (256, 128, 64), 8
"""Images drawn together; samples of a snapshot, the most with which so many snapshots can be afforded."""

OVERHEAD, PREPARING = 0.5, (1.0, 1.5e-3)
"""Seconds that a snapshot takes beside its samples, and that the first takes besides, at least and for each training
image that is searched: guesses, until they are measured."""

LEAST, MOST_VALIDATION = 16, 1_000
"""Held-out images that must be there, and that are looked at."""

SEARCHED, SEARCHING = (1_000, 10_000), 0.3
"""Training images that copies are looked for among, at least and at most; and the share of what all snapshots may take
in which they are made ready for it."""

SIDE = 32
"""Copies are looked for at this size at most."""

NEIGHBOURS = 5


def parts(data: Dataset, settings: TrainConfig) -> tuple[Indices, Indices]:
    """The indices of the images that are trained on, and of those that are held out from them.

    Which ones is decided by the content of each image alone, so that equal images are on one side and every seed holds
    out the same.

    Raises:
        ValueError: too few are held out to measure anything, in one line.
    """
    if not settings.validation:
        return data.train, data.train[:0]
    digests = image_digests(data.images[data.train])
    # another order than that by which test images were held out, which are those of the lowest digests
    order = (digests * np.uint64(0x9E3779B97F4A7C15)).astype(np.float64) / 2.0**64
    limit = np.quantile(order, settings.validation, method="higher")
    held = order < limit
    if held.sum() < LEAST:
        raise ValueError(
            f"{data.name} has {len(data.train):,} training images, of which --train.validation {settings.validation:g} "
            f"holds out {int(held.sum())}: at least {LEAST} are needed, so hold out more or leave it out"
        )
    return data.train[~held], data.train[held]


def trained_on(data: Dataset, settings: TrainConfig) -> Indices:
    """The images that are trained on."""
    return parts(data, settings)[0]


@dataclass(frozen=True)
class Snapshot:
    """What was measured at one moment of a training.

    Attributes:
        step, images, seconds: of the training.
        took: seconds that the measuring took.
        n: samples that were drawn.
        loss: on the held-out images, with its name as its note; no value where the family has none to follow.
        distance: kernel distance of samples to the held-out images.
        fidelity, coverage: by mutual nearness, as multiples of what held-out images reach.
        copied: share of samples that are copies of training images.
    """

    step: int
    images: int
    seconds: float
    took: float
    n: int
    loss: Number
    distance: Number
    fidelity: Number
    coverage: Number
    copied: Number

    NUMBERS = ("loss", "distance", "fidelity", "coverage", "copied")

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Snapshot:
        """From a line of the record."""
        counts = (record[name] for name in ("step", "images", "seconds", "took", "n"))
        return cls(*counts, *(Number.read(record[name]) for name in cls.NUMBERS))

    def plain(self) -> dict[str, Any]:
        """As a line of the record."""
        return asdict(self)


def snapshots(run: Run) -> list[Snapshot]:
    """The record of a run; empty where there is none. What is damaged is left out."""
    found = []
    for record in run.learning():
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            found.append(Snapshot.read(record))
    return found


def quantity(record: Sequence[Snapshot]) -> tuple[str, list[float]]:
    """What the best is chosen by, and its value at each snapshot, lower being better.

    It is the held-out loss, where the family has one that says the same all along, else the distance.
    """
    name = "loss" if record and all(each.loss.value is not None for each in record) else "distance"
    values = [getattr(each, name).value for each in record]
    return name, [math.inf if value is None else value for value in values]


def best(record: Sequence[Snapshot]) -> Snapshot | None:
    """The best snapshot, the first of equals; None where none has a value."""
    _, values = quantity(record)
    return record[values.index(min(values))] if values and min(values) < math.inf else None


def over(record: Sequence[Snapshot]) -> bool:
    """Whether early stopping ends the training here: see the head of this file."""
    found = best(record)
    if found is None:
        return False
    later = [each for each in record if each.step > found.step]
    return len(later) >= WORSE and later[-1].step >= PATIENCE * found.step


class Watcher:
    """Measures snapshots of a training and keeps the best.

    Args:
        run: whose folder the record is in.
        data: its images; those of ``settings.validation`` are held out.
        limit: its budget, by which it is known how many snapshots can be afforded.
    """

    def __init__(self, run: Run, data: Dataset, limit: Budget) -> None:
        self.run, self.data, self.limit = run, data, limit
        self.train, self.held_out = parts(data, run.config.train)
        self.record = snapshots(run)
        self.spent = sum(each.took for each in self.record)
        self.n = self.record[-1].n if self.record else 0
        self.cost = self.record[-1].took if self.record else 0.0
        self.real: Real | None = None
        self.prepared = False

    @property
    def next(self) -> int:
        """The step of the next snapshot."""
        return math.ceil(self.record[-1].step * APART) if self.record else FIRST

    def look(self, model: Family, progress: Progress, last: bool = False) -> bool:
        """Measure a snapshot if it is time for one, and it can be afforded.

        Args:
            model: whose samples are looked at: the averaged weights, where there are any.
            last: whether the training is over, so that it is time anyhow.

        Returns:
            Whether one was measured.

        Raises:
            NotFinite: the weights are not numbers; nothing is measured.
        """
        done = self.record[-1].step if self.record else 0
        if progress.step == done or progress.step < (FIRST if last else self.next):
            return False
        if self.n and not self._affordable(progress, last):
            return False
        began = time.perf_counter()
        if bad := not_finite(model.state_dict()):
            raise NotFinite(f"{bad} is not finite after step {progress.step}")
        training = model.training
        model.eval()
        try:
            if not self.n:
                self._plan(model, progress)
                if not self._affordable(progress, last):
                    self.spent += time.perf_counter() - began
                    return False
            found = self._measured(model, progress)
        finally:
            model.train(training)
        if best([*self.record, found]) is found:
            counters = {"step": progress.step, "images": progress.images, "seconds": progress.seconds}
            self.run.keep_best(model.state_dict(), counters)
        took = time.perf_counter() - began
        assert self.real is not None
        self.cost = took if self.prepared else took - self.real.prepared
        self.prepared = True
        found = replace(found, took=round(took, 3))
        self.spent += took
        self.record.append(found)
        self.run.note_learning(found.plain())
        return True

    def _plan(self, model: Family, progress: Progress) -> None:
        """Draw a first block, to know what a snapshot costs, and choose how many samples each has."""
        began = time.perf_counter()
        self._sample(model, BLOCK)
        block = time.perf_counter() - began
        most = [n for n in SIZES if n <= max(SIZES[-1], len(self.held_out))]
        costs = {n: block * n / BLOCK + OVERHEAD for n in most}
        allowed = TIME * self._whole(progress)
        self.n = next((n for n in most if PLANNED * costs[n] <= allowed), most[-1])
        self.cost = costs[self.n] + PREPARING[0] + PREPARING[1] * min(self._searched(progress), len(self.train))

    def _searched(self, progress: Progress) -> int:
        """Among how many training images copies are looked for."""
        least, most = SEARCHED
        return int(min(max(SEARCHING * TIME * self._whole(progress) / PREPARING[1], least), most))

    def _whole(self, progress: Progress) -> float:
        """Seconds that the whole training will take at this rate."""
        return progress.seconds / max(self.limit.spent(progress), 1e-9)

    def _affordable(self, progress: Progress, last: bool) -> bool:
        """Whether it costs no more than its share of the time so far, and leaves enough for the last one."""
        if last:
            return self.spent + self.cost <= TIME * progress.seconds
        left = TIME * self._whole(progress) - self.spent
        return self.spent + self.cost <= TIME * progress.seconds and 2 * self.cost <= left

    # Measuring

    def _measured(self, model: Family, progress: Progress) -> Snapshot:
        if self.real is None:
            self.real = Real.prepare(self.data, self.train, self.held_out, self.n, self._searched(progress))
        real = self.real
        shown = to_display(self._sample(model, self.n), self.data.levels)
        features = real.network.of(shown)
        own = mutual_nearness(real.train, features[: len(real.held_out)], real.k)  # as many as the floor is of
        loss = self._loss(model)
        return Snapshot(
            progress.step,
            progress.images,
            round(progress.seconds, 3),
            0.0,
            self.n,
            loss,
            _number(lambda: kernel_distance(features, real.held_out), "lower", self.n),
            _relative(own.fidelity, real.floor[0], len(own.faithful)),
            _relative(own.coverage, real.floor[1], len(own.faithful)),
            real.copied(shown, features, own.faithful),
        )

    def _sample(self, model: Family, n: int) -> Tensor:
        """The first n images of a sample that is the same at every snapshot but for the weights."""
        blocks = []
        for start in range(0, n, BLOCK):
            labels = self._conditions(self._asked(start))
            noise = ImageNoise(self.run.config.seed, range(start, start + BLOCK), model.device)
            with torch.no_grad():
                blocks.append(model.sample(noise, None if labels is None else labels.to(model.device)).cpu())
        return torch.cat(blocks)[:n]

    def _asked(self, start: int) -> Indices:
        """The held-out images for whose conditions a block of samples is asked."""
        return self.held_out[np.arange(start, start + BLOCK) % len(self.held_out)]

    def _conditions(self, indices: Indices) -> Tensor | None:
        return self.run.conditions(self.data, indices) if self.run.config.spec.conditional else None

    def _loss(self, model: Family) -> Number:
        """The mean loss on held-out images, each with noise of its own that is the same at every snapshot."""
        objectives = model.objectives()
        if len(objectives) != 1 or not model.steady:
            return Number(None, note="this family has no loss that says the same all along its training")
        chosen, seed = subset(self.held_out, MOST_VALIDATION, 0), derive_seed(0, "validation")
        name, values, counts = "loss", [], []
        for start in range(0, len(chosen), BLOCK):
            rows = chosen[start : start + BLOCK]
            labels = self._conditions(rows)
            noise = ImageNoise(seed, range(start, start + len(rows)), model.device)
            x = self.data.batch(rows).to(model.device)
            with torch.no_grad():
                found = objectives[0].loss(x, None if labels is None else labels.to(model.device), noise)
            name = "bits_per_dim" if "bits_per_dim" in found.logs else "loss"
            values.append(float(found.logs.get("bits_per_dim", found.total)))
            counts.append(len(rows))
        weights = torch.tensor(counts, dtype=torch.float64)
        each = torch.tensor(values, dtype=torch.float64)
        mean = float((each * weights).sum() / weights.sum())
        full = each[weights == BLOCK]
        error = float(full.std() / math.sqrt(len(full))) if len(full) > 1 else None
        unit = "bits/dim" if name == "bits_per_dim" else ""
        return Number(mean, error, unit, "lower", len(chosen), note=name).finite()


@dataclass
class Real:
    """The real images of a run, as its snapshots are measured by them.

    Attributes:
        network: the features.
        train: features of some images that are trained on.
        held_out: features of held-out images.
        floor: fidelity and coverage of held-out images.
        k: neighbours that they are measured by.
        alike: what copies are looked for with, in images.
        few: features of all training images, where these are too few to say by pixels, or are vectors; how near
            held-out ones come to them, and which of those are faithful.
        among: which training images copies are looked for among, in words, where not among all.
        prepared: seconds that all this took.
    """

    network: Features
    train: Tensor
    held_out: Tensor
    floor: tuple[Number, Number]
    k: int
    alike: Alike | None
    few: tuple[Tensor, Nearness, Tensor] | None
    among: str
    prepared: float

    @classmethod
    def prepare(cls, data: Dataset, train: Indices, held_out: Indices, n: int, searched: int) -> Real:
        """Compute what all snapshots of ``n`` samples have in common; copies are looked for among ``searched``."""
        began = time.perf_counter()
        held_out = subset(held_out, MOST_VALIDATION, 0)
        few, many = subset(train, max(n, 2 * NEIGHBOURS), 0), subset(train, searched, 0)
        spec = data.spec()
        network: Features = VectorFeatures(scale=spec.scale) if data.vector else feature_network("small")
        shown = [to_display(data.batch(rows), data.levels) for rows in (few, held_out, many)]
        real, own = network.of(shown[0]), network.of(shown[1])
        k = min(NEIGHBOURS, len(real) - 1)
        floor = mutual_nearness(real, own[:n], k)
        alike, by_features = None, None
        if data.vector or len(many) < ENOUGH:
            trained = network.of(shown[2])
            near = nearness(own[:n], trained)
            by_features = trained, near, floor.faithful | torch.tensor(data.vector)
        else:
            images, others = shrunk(shown[2]), shrunk(shown[1])
            # Held-out images alone are the null: the components were found from the others, which are no fair one.
            alike = Alike(Whitened(images), others, images[:0])
        took = time.perf_counter() - began
        among = f", among {len(many):,} of {len(train):,} training images" if len(many) < len(train) else ""
        return cls(network, real, own, (floor.fidelity, floor.coverage), k, alike, by_features, among, took)

    def copied(self, images: Tensor, features: Tensor, faithful: Tensor) -> Number:
        """The share of samples that are copies, 0 unless they are found: the tests of `trilemma evaluate`, of which one
        is made: by pixels, or where training images are few by features, of samples that are faithful.
        """
        n = len(images)
        if self.few is None:
            assert self.alike is not None
            found = verdict(*self.alike.judge(shrunk(images)), distinct=False)
        else:
            train, null, fair = self.few
            judged = faithful | torch.tensor(images.ndim == 2)
            own = nearness(features[: len(judged)][judged], train) if judged.any() else None
            if own is None or not fair.any():
                return Number(0.0, share_of(0, n).error, "", "lower", n, note="no sample is near enough to be a copy")
            null = Nearness(null.distance[fair], null.index[fair], null.ratio[fair])
            found, n = verdict(own, null), len(judged)
            found = replace(found, share=found.share * int(judged.sum()) / n)
        share = found.share if found.found else 0.0
        return Number(share, share_of(share * n, n).error, "", "lower", n, note=f"p = {found.p_value:.2g}{self.among}")


def shrunk(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W], averaged down to `SIDE` where they are larger."""
    side = max(images.shape[-2:])
    if side <= SIDE or not len(images):
        return images
    height, width = images.shape[-2:]
    size = max(1, round(height * SIDE / side)), max(1, round(width * SIDE / side))
    small = [F.adaptive_avg_pool2d(part.float(), size) for part in torch.split(images, 1024)]
    return torch.cat(small).round().to(torch.uint8)


def _number(measure: Callable[[], Number], better: Better, n: int) -> Number:
    """A number, or the reason why there is none."""
    try:
        return replace(measure(), better=better, n=n).finite()
    except ValueError as error:
        return Number(None, better=better, n=n, flag=f"refused: {error}")


def _relative(found: Number, floor: Number, n: int) -> Number:
    """A share as a multiple of that of held-out images, which are as many."""
    if not floor.value:
        return Number(None, better="higher", n=n, flag="held-out images reach nothing by which it could be stated")
    error = None if found.error is None else found.error / floor.value
    return Number((found.value or 0.0) / floor.value, error, better="higher", n=n)
