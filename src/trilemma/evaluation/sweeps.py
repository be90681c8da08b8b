"""One run measured under many sampling options against the same real images, in a way that a kill does not undo."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.data import load
from trilemma.evaluation.classifier import trained_classifier
from trilemma.evaluation.parts.frechet import frechet
from trilemma.evaluation.protocol import Protocol, hardware
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import Pool, Supply, pool
from trilemma.evaluation.subject import Subject, drawn_from
from trilemma.families.family import Family, Progress
from trilemma.files import replacing
from trilemma.machine import arithmetic
from trilemma.metrics import Classifier, conditional_accuracy, frechet_flag, manifold_scores
from trilemma.parallel import Ranks, ranks
from trilemma.questions.strip import denoising
from trilemma.questions.sweep import Ledger, Point, Scores, sweep, way_of
from trilemma.run import Run


@dataclass(frozen=True)
class Bench:
    """A run of a denoising family and real images, ready to be measured.

    Attributes:
        model: on its device, and ``real``: what it is compared with.
        classifier: of the real images, where accuracy is asked for.
        place: the folder for images of a point that is not finished.
    """

    run: Run
    model: Any
    real: Reference
    classifier: Classifier | None
    where: Ranks
    place: Path

    @classmethod
    def prepare(cls, run: Run, protocol: Protocol, place: Path, device: str = "auto", accuracy: bool = False) -> Bench:
        """Read the real images.

        Raises:
            ValueError: another family, or too few images for the features or the classes, in one line.
        """
        where = ranks(device)
        model = denoising(run.model(where.device), "a sweep of the sampling options")
        real = Reference.prepare(load(run.config.data), protocol, device)
        fewest = min(protocol.n, real.train.n)
        if fewest <= real.network.dims:
            raise ValueError(
                f"the Fréchet distance needs more images than its {real.network.dims} features, not {fewest}: "
                "draw more images with -n, or train on more"
            )
        classifier = where.agree(trained_classifier(real.dataset) if where.first else None) if accuracy else None
        return cls(run, model, real, classifier, where, place)

    @functools.cached_property
    def weights(self) -> str:
        """What tells these weights from others."""
        return weights_digest(self.model)

    @property
    def labels(self) -> Tensor | None:
        """What a conditional model is asked for: the classes or captions of held-out images, in turn."""
        return self.run.conditions(self.real.dataset, self.real.held_out_indices)

    def measure(self, options: Any, progress: Progress | None) -> tuple[Scores, float]:
        """The scores of n images drawn so, and the seconds for an image; see `trilemma.questions.sweep.Measure`."""
        protocol = self.real.protocol
        subject = drawn_from(self.model, protocol.n, protocol.seed, self.labels, options)
        told = repr((way_of(options), sorted(self.protocol(options).items(), key=str)))
        folder = self.place / hashlib.sha256(told.encode()).hexdigest()[:16]
        subject = kept(subject, folder)
        tell = (lambda what, done, total: progress(done, total)) if progress else None
        network, images = self.real.network, self.classifier is not None
        drawn = pool(subject.supply, network, self.where, kept=protocol.kept, keep_images=images, tell=tell)
        scores = self.scores(drawn, subject.labels)
        speed = subject.speed(self.where).value or 0.0
        self.where.wait()
        if self.where.first:
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
        """What decides a point beside its way: its sampler, steps, guidance, eta and variance."""
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

    def sweep(
        self, ways: Sequence[Any], ledger: Path, progress: Progress | None = None
    ) -> tuple[list[Point], int, list[Point]]:
        """Measure every way that the ledger does not know yet.

        Returns:
            the points, how many of them were known, and what else the ledger has by the same protocol.
        """
        book = Ledger(ledger, self.protocol(ways[0]))
        known = self.where.agree(dict(book.points))
        points = sweep(
            ways,
            self.model.schedule,
            self.measure,
            known=known,
            keep=book.add if self.where.first else None,
            progress=progress,
        )
        with contextlib.suppress(OSError):
            self.place.rmdir()  # empty by now
        asked = {point.way for point in points}
        return points, len(asked & set(known)), [point for way, point in known.items() if way not in asked]

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
