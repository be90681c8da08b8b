"""What labels make visible: which classes a model reaches, whether it draws what it was asked for, class by class."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trilemma.data.decoded import cache_folder, written_atomically
from trilemma.evaluation.classifier import MOST_TRAINING, trained_classifier
from trilemma.evaluation.measured import Measured, of_features
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.reference import Reference, content_key, display
from trilemma.evaluation.stream import Pool
from trilemma.metrics import Classifier, Modes, classification_accuracy_score, conditional_accuracy, mode_coverage
from trilemma.number import Number


class _Labelled(Metric):
    group = "labelled"
    needs = ("images", "labels")
    default = False

    def measure(self, of: Measured) -> Number | None:
        dataset = of.real.dataset
        if dataset.vector:
            return self.undefined("undefined, because these are vectors: its classifier looks at images")
        if dataset.labels is None:
            return self.undefined(f"{dataset.name} has no labels")
        return self.among_classes(of)

    @abstractmethod
    def among_classes(self, of: Measured) -> Number | None:
        """The number, where there are classes."""


class Accuracy(_Labelled):
    name = "accuracy"
    head = "Accuracy"
    meaning = (
        "Share of conditional samples in which a classifier trained on real images sees the class that was asked for."
    )
    misleads = "A classifier can be right about an ugly image; the most typical image of each class scores highest."
    source = "a classifier of its own, trained on the training split"
    better = "higher"
    order = 60

    def among_classes(self, of: Measured) -> Number:
        labels = asked_for(of)
        if labels is None:
            return self.undefined("nobody asked for classes")
        found = conditional_accuracy(of.sample.images, labels, _classifier(of))
        return replace(found, n=len(labels), protocol=_how(of))


class ModesSeen(_Labelled):
    name = "modes"
    head = "Modes"
    meaning = "Classes that occur among the samples, as that classifier sees them."
    misleads = "One lucky sample covers a class; and a class can be covered by a single image of it."
    source = "Che et al. 2017, arXiv:1612.02136; Lin et al. 2018, arXiv:1712.04086"
    better = "higher"
    order = 61

    def among_classes(self, of: Measured) -> Number:
        return modes_number(_modes(of), len(seen(of)), _how(of))


class ModeKL(_Labelled):
    name = "mode_kl"
    head = "Mode KL"
    meaning = (
        "How far the frequencies of the classes among the samples are from the real ones, in nats: KL(samples ‖ real)."
    )
    misleads = "A perfect sampler is above 0 at any finite N; the note says how far."
    source = "Lin et al. 2018, arXiv:1712.04086"
    better = "lower"
    order = 62

    def among_classes(self, of: Measured) -> Number:
        return kl_number(_modes(of), len(seen(of)), _how(of))


class PerClass(Metric):
    """No number, but a table of its own in the record and on the page."""

    group = "labelled"
    needs = ("images", "labels")
    default = False
    name = "per_class"
    head = "Per class"
    meaning = "Distance, precision and recall for each class alone: which class the model is worst at."
    misleads = "There are few images to a class, so the distances are biased upwards more than the overall one."
    source = "as for the whole"
    floor = False
    table, order = "none", 64

    def measure(self, of: Measured) -> Number | None:
        return None

    def record(self, of: Measured) -> dict[str, Any]:
        if of.real.dataset.vector or of.real.dataset.labels is None:
            return {}
        known = asked_for(of)
        labels = seen(of) if known is None else known
        return {"per_class": _per_class(of.sample, labels, known is not None, of.real)}


class CAS(_Labelled):
    name = "cas"
    head = "CAS"
    meaning = "Classification accuracy score: a classifier trained on samples alone, tested on real held-out images."
    misleads = (
        "It depends on how the classifier is trained; compare with the same classifier trained on as many real images."
    )
    source = "Ravuri & Vinyals 2019, arXiv:1905.10887"
    better = "higher"
    order = 63

    def among_classes(self, of: Measured) -> Number:
        images, labels, real = of.sample.images, asked_for(of), of.real
        if labels is None:
            return self.undefined("nobody asked for classes")
        if of.held_out:  # the floor: trained on as many real training images, tested on the same held-out ones
            chosen = real.train_indices[: len(images)]
            images, labels = display(real.dataset, chosen), real.dataset.label_batch(chosen)
        test = real.dataset.test[:10_000]
        test_labels = real.dataset.label_batch(test)
        assert test_labels is not None and labels is not None
        found = _cached_score(images, labels, real, test, test_labels)
        return replace(
            found, n=len(images), protocol=f"trained on {len(images):,} images, tested on {len(test):,} held-out ones"
        )


def asked_for(of: Measured) -> Tensor | None:
    """int64 [N], the class that each image was asked for; None where nobody asked."""
    return None if of.labels is None else of.labels[: len(of.sample.images)]


def seen(of: Measured) -> Tensor:
    """int64 [N], the class that the classifier sees in each image; computed once."""
    return of.once("classes seen", lambda: _classifier(of).labels(of.sample.images))


def modes_number(found: Modes | ValueError, n: int, how: str) -> Number:
    """The classes covered by n images."""
    if isinstance(found, ValueError):
        return Number(None, n=n, flag=f"refused: {found}")
    beside = f"; a perfect sampler reaches {found.expected_covered:.4g} of {found.total} at this N"
    error = round(found.covered.error or 0.0, 1) or None  # a count: less than 0.05 is no error
    return Number(float(found.covered.known), error, f"of {found.total}", n=n, protocol=how + beside)


def kl_number(found: Modes | ValueError, n: int, how: str) -> Number:
    """How far their frequencies are from the law."""
    if isinstance(found, ValueError):
        return Number(None, n=n, flag=f"refused: {found}")
    beside = f"; a perfect sampler has {found.expected_kl:.2g} at this N"
    return Number(found.kl.value, found.kl.error, "nats", n=n, protocol=how + beside)


def counted(labels: Tensor, classes: int, law: Tensor | None) -> Modes | ValueError:
    """`mode_coverage`, or why it is refused."""
    try:
        return mode_coverage(labels, classes, law)
    except ValueError as problem:
        return problem


def _modes(of: Measured) -> Modes | ValueError:
    dataset = of.real.dataset
    assert dataset.labels is not None
    classes = len(dataset.class_names)
    law = torch.bincount(torch.from_numpy(dataset.labels[dataset.train]), minlength=classes)
    return of.once("modes", lambda: counted(seen(of), classes, law))


def _classifier(of: Measured) -> Classifier:
    if of.tell:
        of.tell("classifier", 0, 1)
    found = of.real.memo.get("classifier") or trained_classifier(of.real.dataset)
    of.real.memo["classifier"] = found
    if of.tell:
        of.tell("classifier", 1, 1)
    return found


def _how(of: Measured) -> str:
    trained = min(len(of.real.dataset.train), MOST_TRAINING)
    return f"a classifier trained on {trained:,} training images; {len(of.sample.images):,} images"


def _cached_score(images: Tensor, labels: Tensor, real: Reference, test: Any, test_labels: Tensor) -> Number:
    """CAS costs a training: it is kept by the content of the images it was made of."""
    content = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:16]
    path = cache_folder() / "scores" / f"{content_key(real.dataset, test, 'cas', 1, content)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        kept = json.loads(path.read_text("utf-8"))
        return Number(float(kept["value"]), kept["error"])
    found = classification_accuracy_score(
        images, labels, display(real.dataset, test), test_labels, len(real.dataset.class_names), seed=0
    )
    with contextlib.suppress(OSError, ValueError), written_atomically(path) as file:
        file.write(json.dumps({"value": found.value, "error": found.error}).encode())
    return found


def _per_class(sample: Pool, labels: Tensor, asked: bool, real: Reference) -> dict[str, Any]:
    """Distance, precision and recall of each class alone, by the labels asked for, else those the classifier sees."""
    train_labels = real.dataset.label_batch(real.train_indices[: len(real.train.features)])
    assert train_labels is not None
    scores: dict[str, Any] = {}
    for number, name in enumerate(real.dataset.class_names):
        own, others = sample.features[labels == number], real.train.features[train_labels == number]
        if len(own) < 2 or len(others) < 2:
            scores[name] = {"n": len(own), "flag": "too few images"}
            continue
        protocol = replace(real.protocol, metrics="frechet,precision,recall", n=max(16, len(own)))  # as many of both
        metrics = of_features(Measured(replace(real, train=Pool.of(others), protocol=protocol, memo={}), Pool.of(own)))
        kept = {key: m for key, m in metrics.items() if key in ("fid", "frechet", "precision", "recall")}
        scores[name] = {"n": len(own)} | {
            key: {"value": m.value, "error": m.error, "flag": m.flag} for key, m in kept.items()
        }
    return {"labels": "asked for" if asked else "seen by the classifier", "classes": scores}
