"""One trained run, drawn from with many settings of its sampler, each measured alike against the same real images.

What the questions `curve` and `guidance` share. A sweep takes hours, so what is measured is written down at once, and
one that was stopped goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from trilemma.blocks import Progress, part_of
from trilemma.evaluation.classifier import trained_classifier
from trilemma.evaluation.parts.frechet import frechet
from trilemma.evaluation.protocol import Protocol, hardware
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import Pool, Supply, pool
from trilemma.evaluation.subject import Subject, drawn_from
from trilemma.families.family import Denoises, Distils, Family
from trilemma.files import replacing
from trilemma.machine import arithmetic
from trilemma.metrics import Classifier, conditional_accuracy, frechet_flag, manifold_scores
from trilemma.number import Number
from trilemma.parallel import Ranks
from trilemma.questions.answer import Answer, Table
from trilemma.questions.question import Context, Question
from trilemma.run import Run
from trilemma.validate import MOST_IMAGES, Limits

if TYPE_CHECKING:
    from trilemma.families.diffusion import Schedule

Scores = Mapping[str, tuple[float | None, float | None]]
"""Name → (value, or None where it cannot be trusted; standard error, or None); has ``frechet``, lower is better."""

Key = tuple[str, int, float, float, str]
"""What tells two settings apart: sampler, steps, guidance, eta and variance."""

Measure = Callable[[Any, Progress | None], tuple[Scores, float]]
"""Sampling options → the scores of images drawn so, and the seconds that an image took."""


@dataclass(frozen=True)
class Point:
    """One setting of the sampler, measured.

    Attributes:
        sampler, steps, guidance, eta, variance: the setting.
        evaluations: of the denoiser for an image; under guidance each asks the network twice.
        seconds: for an image, in blocks, on the device it was measured on.
        scores: see `Scores`.
    """

    sampler: str
    steps: int
    evaluations: int
    seconds: float
    scores: Scores
    guidance: float = 1.0
    eta: float = 0.0
    variance: str = "auto"

    @property
    def key(self) -> Key:
        return self.sampler, self.steps, self.guidance, self.eta, self.variance

    @property
    def label(self) -> str:
        """The sampler with the noise that it adds: ``ddim eta=1``, ``ddpm large``."""
        noise = f" eta={self.eta:g}" if self.eta else ""
        return self.sampler + noise + (f" {self.variance}" if self.variance != "auto" else "")

    @property
    def frechet(self) -> float:
        value = self.scores["frechet"][0]
        return math.inf if value is None else value

    def value(self, name: str) -> float:
        """A score; NaN where there is none."""
        value = self.scores.get(name, (None, None))[0]
        return math.nan if value is None else value


class Ledger:
    """Points in a file of lines that is only ever added to.

    A line carries the protocol that its point was measured by; lines of another protocol are left where they are and
    not read. A last line that a kill cut off is passed over.

    Args:
        path: the file; None for none.
        protocol: plain values that decide a point beside its setting: the weights, N, seed, features, options.
    """

    def __init__(self, path: Path | None, protocol: Mapping[str, Any]) -> None:
        self.path, self.protocol = path, json.loads(json.dumps(protocol))
        self.points: dict[Key, Point] = {}
        lines = path.read_text("utf-8").splitlines() if path and path.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                if record["protocol"] == self.protocol:
                    known = record["point"]
                    scores = {name: (value, error) for name, (value, error) in known["scores"].items()}
                    point = Point(**(known | {"scores": scores}))
                    self.points[point.key] = point

    def add(self, point: Point) -> None:
        """Write a point down, all the way to the disk."""
        self.points[point.key] = point
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            torn = file.seek(0, os.SEEK_END) and not self.path.read_text("utf-8").endswith("\n")
            line = json.dumps({"protocol": self.protocol, "point": asdict(point)}, allow_nan=False)
            file.write(f"{chr(10) if torn else ''}{line}\n")
            file.flush()
            os.fsync(file.fileno())


def key_of(options: Any) -> Key:
    """The `Point.key` that sampling options stand for."""
    return options.sampler, options.steps, float(options.guidance), float(options.eta), options.variance


def sweep(
    settings: Sequence[Any],
    schedule: Schedule,
    measure: Measure,
    *,
    known: Mapping[Key, Point] | None = None,
    keep: Callable[[Point], None] | None = None,
    progress: Progress | None = None,
) -> list[Point]:
    """Measure every setting that is not known yet.

    Args:
        settings: sampling options, all with a number of steps.
        known: points that were measured before; keep: told of every new one.
        progress: told ``(evaluations done, all)`` in thousandths, of the settings that are to be measured, so that the
            time left is foretold.

    Raises:
        ValueError: steps that the model does not have, in one line, before anything is computed.
    """
    known = known or {}
    costs = [1000 * (1 if each.guidance == 1 else 2) * each.evaluations(schedule) for each in settings]
    missing = [key_of(each) not in known for each in settings]
    total, done, points = sum(cost for cost, new in zip(costs, missing, strict=True) if new), 0, []
    for each, cost, new in zip(settings, costs, missing, strict=True):
        if not new:
            points.append(known[key_of(each)])
            continue
        scores, seconds = measure(each, part_of(progress, done, cost, total))
        evaluations, guidance, eta = each.evaluations(schedule), float(each.guidance), float(each.eta)
        point = Point(each.sampler, each.steps, evaluations, seconds, scores, guidance, eta, each.variance)
        if keep:
            keep(point)
        points.append(point)
        done += cost
    return points


@dataclass(frozen=True)
class Bench:
    """A run and real images, ready to be measured.

    Attributes:
        model: on its device, and ``real``: what it is compared with.
        classifier: of the real images, where accuracy is asked for.
        ledger: the file of what is measured, and ``parts``: the folder for images of a point that is not finished;
            None for none.
    """

    run: Run
    model: Family
    real: Reference
    classifier: Classifier | None
    where: Ranks
    ledger: Path | None = None
    parts: Path | None = None

    @classmethod
    def prepare(cls, context: Context, protocol: Protocol, name: str, accuracy: bool = False) -> Bench:
        """Read the real images.

        Args:
            name: of the ledger and of the folder of parts in ``context.folder``, or beside the picture that this is.

        Raises:
            ValueError: too few images for the features or the classes, in one line.
        """
        where, folder = context.where, context.folder
        real = Reference.prepare(context.data, protocol, context.device)
        fewest = min(protocol.n, real.train.n)
        if fewest <= real.network.dims:
            raise ValueError(
                f"the Fréchet distance needs more images than its {real.network.dims} features, not {fewest}: "
                "draw more images with -n, or train on more"
            )
        classifier = where.agree(trained_classifier(real.dataset) if where.first else None) if accuracy else None
        ledger = parts = None
        if folder is not None:
            ledger = folder.with_suffix(".jsonl") if folder.suffix else folder / f"{name}.jsonl"
            parts = ledger.with_name(f"{ledger.stem}-parts")
        return cls(context.run, context.model, real, classifier, where, ledger, parts)

    @functools.cached_property
    def weights(self) -> str:
        """What tells these weights from others."""
        return weights_digest(self.model)

    @property
    def labels(self) -> Tensor | None:
        """What a conditional model is asked for: the classes or captions of held-out images, in turn."""
        return self.run.conditions(self.real.dataset, self.real.held_out_indices)

    def measure(self, options: Any, progress: Progress | None) -> tuple[Scores, float]:
        """The scores of n images drawn so, and the seconds for an image; see `Measure`."""
        protocol, folder = self.real.protocol, None
        subject = drawn_from(self.model, protocol.n, protocol.seed, self.labels, options)
        if self.parts is not None:
            told = repr((key_of(options), sorted(self.protocol(options).items(), key=str)))
            folder = self.parts / hashlib.sha256(told.encode()).hexdigest()[:16]
            subject = kept(subject, folder)
        tell = (lambda what, done, total: progress(done, total)) if progress else None
        network, images = self.real.network, self.classifier is not None
        drawn = pool(subject.supply, network, self.where, kept=protocol.kept, keep_images=images, tell=tell)
        scores = self.scores(drawn, subject.labels)
        speed = subject.speed(self.where).value or 0.0
        self.where.wait()
        if self.where.first and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return scores, 1 / speed

    def scores(self, drawn: Pool, labels: Tensor | None) -> Scores:
        """Fréchet distance, precision and recall, and where there is a classifier the accuracy, with their errors."""
        train, k = self.real.train, self.real.protocol.k
        scores: dict[str, tuple[float | None, float | None]] = dict.fromkeys(
            ("frechet", "precision", "recall"), (None, None)
        )
        if not (drawn.constant or train.constant):  # a model of one image has none of them, and the sweep goes on
            distance = frechet(drawn, train, self.real.network.dims)
            found = manifold_scores(train.features[: max(len(drawn.features), k + 1)], drawn.features, k)
            scores["frechet"] = distance.value, distance.error
            scores["precision"] = found.precision.value, found.precision.error
            scores["recall"] = found.recall.value, found.recall.error
        if self.classifier is not None and labels is not None:
            right = conditional_accuracy(drawn.images, labels[: len(drawn.images)], self.classifier)
            scores["accuracy"] = right.value, right.error
        return scores

    def floor(self) -> Scores:
        """The scores of held-out real images."""
        held_out = self.real.held_out
        if self.classifier is not None:
            held_out = replace(held_out, images=self.real.held_out_images)
        return self.scores(held_out, self.real.labels)

    def protocol(self, options: Any) -> dict[str, Any]:
        """What decides a point beside its setting: its sampler, steps, guidance, eta and variance."""
        own = ("sampler", "steps", "guidance", "eta", "variance")
        shared = {k: v for k, v in asdict(options).items() if k not in own}
        shared["precision"] = arithmetic(self.where.device, options.precision)
        return {
            **asdict(self.real.protocol),
            "weights": self.weights,
            "data": self.real.dataset.fingerprint,
            "train_n": self.real.train.n,
            "network": self.real.network.name,
            "scores": "accuracy" if self.classifier is not None else "",
            "options": shared,
            "device": self.model.device.type,
            "processes": self.where.size,
            "hardware": hardware(),
            "threads": torch.get_num_threads(),
        }

    def sweep(self, settings: Sequence[Any], progress: Progress | None = None) -> tuple[list[Point], int, list[Point]]:
        """Measure every setting that the ledger does not know yet.

        Returns:
            the points, how many of them were known, and what else the ledger has by the same protocol.
        """
        assert isinstance(self.model, Denoises | Distils)
        book = Ledger(self.ledger, self.protocol(settings[0]))
        known = self.where.agree(dict(book.points))
        points = sweep(
            settings,
            self.model.schedule,
            self.measure,
            known=known,
            keep=book.add if self.where.first else None,
            progress=progress,
        )
        if self.parts is not None:
            with contextlib.suppress(OSError):
                self.parts.rmdir()  # empty by now
        asked = {point.key for point in points}
        return points, len(asked & set(known)), [point for key, point in known.items() if key not in asked]

    @property
    def distance(self) -> str:
        """What the Fréchet distance is called: only Inception's is FID."""
        return "FID" if self.real.protocol.official else "Fréchet"

    @property
    def words(self) -> str:
        """The protocol in a line."""
        real = self.real
        return (
            f"{real.protocol.n:,} samples against {real.train.n:,} training images of {real.dataset.name}, "
            f"{real.network.name} features, seed {real.protocol.seed}"
        )

    @property
    def flag(self) -> str | None:
        return frechet_flag(min(self.real.protocol.n, self.real.train.n), self.real.network.dims)


@dataclass(frozen=True)
class Sweep(Question):
    """A question that measures thousands of images drawn with each of many settings."""

    n: Annotated[int, Limits(1, MOST_IMAGES)] = 2000
    """Samples for each point."""
    features: Literal["small", "inception"] = "small"
    """The feature network."""
    reference: Annotated[int, Limits(0, MOST_IMAGES)] = 10_000
    """Training images that scores are against; 0 for all."""
    options: Any = None
    """Sampling options of the run's family that all points share."""

    capabilities: ClassVar[tuple[type | UnionType, ...]] = (Denoises,)

    def bench(self, context: Context, accuracy: bool = False) -> Bench:
        protocol = Protocol(n=self.n, features=self.features, reference=self.reference, seed=context.seed)
        return Bench.prepare(context, protocol, self.name, accuracy)

    def answered(
        self,
        bench: Bench,
        base: Any,
        points: Sequence[Point],
        floor: Scores,
        before: int,
        *,
        numbers: Mapping[str, Number],
        reading: Sequence[str],
        table: Table,
        values: Mapping[str, Any],
        found: Any,
    ) -> Answer:
        """The answer, with the protocol and the points as programs want them.

        Args:
            base: the sampling options that all points share.
            floor: the scores of held-out real images.
            before: how many of the points were known.
        """
        lines = [*reading, f"{bench.words}; {bench.real.held_out.n:,} held-out images"]
        if before:
            lines.append(f"{before} of {len(points)} points were there from before ({bench.ledger})")
        record = {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "protocol": bench.protocol(base),
            "distance": bench.distance,
            "floor": {"n": bench.real.held_out.n, **floor},
            "points": [asdict(point) for point in points],
            **values,
            "ledger": None if bench.ledger is None else str(bench.ledger),
            "known_before": before,
        }
        return Answer(
            self,
            bench.run,
            numbers=numbers,
            reading=lines,
            flag=bench.flag,
            values=record,
            tables={"Scores of each point": table},
            found=found,
            protocol={"seed": bench.real.protocol.seed, "device": str(bench.where.device)},
        )


def number(point: Point, name: str, bench: Bench, note: str) -> Number:
    """A score of a point."""
    value, error = point.scores.get(name, (None, None))
    return Number(value, error, "", "lower" if name == "frechet" else "higher", bench.real.protocol.n, note=note)


def written(scores: Scores, names: Sequence[str]) -> tuple[str, ...]:
    """Scores for a table: ``5.04 ± 0.10``; a dash where there is no number."""
    found = (Number(*scores.get(name, (None, None))) for name in names)
    return tuple("–" if each.value is None else str(each) for each in found)


def weights_digest(model: Family) -> str:
    """A hash of all weights and buffers that are saved."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def kept(subject: Subject, folder: Path) -> Subject:
    """The same subject, whose images are kept in a folder as they are drawn, with the time they took.

    A unit that is there is read instead of drawn; one that is damaged is drawn again.
    """
    supply, blocks = subject.supply, subject.blocks

    def draw(start: int, stop: int) -> Tensor:
        path = folder / f"{start}-{stop}.npz"
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with np.load(path, allow_pickle=False) as record:
                images, timed = torch.from_numpy(record["images"]), record["blocks"]
            blocks.extend((int(count), float(seconds)) for count, seconds in timed)
            return images
        before = len(blocks)
        images = supply.draw(start, stop)
        with contextlib.suppress(OSError), replacing(path) as file:  # what cannot be kept only costs time
            np.savez(file, images=images.numpy(), blocks=np.array(blocks[before:]))
        return images

    return replace(subject, supply=Supply(supply.n, supply.shape, draw))
