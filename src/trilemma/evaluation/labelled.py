"""What labels make visible: which classes a model reaches, whether it draws what it was asked for, class by class."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trilemma.data import Dataset
from trilemma.data.decoded import cache_folder, written_atomically
from trilemma.evaluation.glossary import ENTRIES
from trilemma.evaluation.reference import Reference, content_key, display
from trilemma.evaluation.scores import fidelity
from trilemma.evaluation.stream import Pool, Tell
from trilemma.metrics import (
    Classifier,
    classification_accuracy_score,
    conditional_accuracy,
    mode_coverage,
    train_classifier,
)
from trilemma.number import Better, Number

MOST_TRAINING = 60_000
"""Images that a classifier is trained on, at most."""

BETTER: dict[str, Better] = {"accuracy": "higher", "modes": "higher", "mode_kl": "lower", "cas": "higher"}


def label_metrics(
    sample: Pool, labels: Tensor | None, real: Reference, tell: Tell | None = None, held_out: bool = False
) -> tuple[dict[str, Number], dict[str, Any]]:
    """All asked-for numbers that need labels, and the scores of each class.

    Args:
        sample: with its images.
        labels: int64 [n], the class of each image that was asked for; None where nobody asked.
        held_out: the sample are held-out real images: the floor.
    """
    metrics: dict[str, Number] = {}
    per_class: dict[str, Any] = {}
    protocol, names = real.protocol, real.dataset.class_names
    asked = [key for key in (*BETTER, "per_class") if protocol.wants(key)]
    if not asked:
        return metrics, per_class
    if real.dataset.vector:
        why = "undefined, because these are vectors: its classifier looks at images"
        return metrics | {k: Number(None, better=b, note=why) for k, b in BETTER.items() if k in asked}, per_class
    if real.dataset.labels is None:
        why = f"{real.dataset.name} has no labels"
        return metrics | {k: Number(None, better=b, note=why) for k, b in BETTER.items() if k in asked}, per_class
    if tell:
        tell("classifier", 0, 1)
    classifier = trained_classifier(real.dataset)
    if tell:
        tell("classifier", 1, 1)
    known = None if labels is None else labels[: len(sample.images)]
    seen = classifier.labels(sample.images)
    how = (
        f"a classifier trained on {min(len(real.dataset.train), MOST_TRAINING):,} training images; {len(seen):,} images"
    )
    if "modes" in asked or "mode_kl" in asked:
        law = torch.bincount(torch.from_numpy(real.dataset.labels[real.dataset.train]), minlength=len(names))
        metrics |= {k: m for k, m in mode_metrics(seen, len(names), law, how).items() if k in asked}
    for key in ("accuracy", "cas"):
        if key in asked:
            metrics[key] = _asked(key, sample, known, real, classifier, how, held_out)
    if "per_class" in asked:
        per_class = _per_class(sample, known if known is not None else seen, known is not None, real)
    return metrics, per_class


# ------------------------------------------------------------------------------------------------------ classifier


def trained_classifier(dataset: Dataset) -> Classifier:
    """A classifier of the training split, kept in the cache folder by content."""
    train = dataset.train[:MOST_TRAINING]
    path = cache_folder() / "classifiers" / f"{content_key(dataset, train, 'classifier', 1)}.safetensors"
    with contextlib.suppress(OSError, ValueError):
        return Classifier.load(path)
    labels = dataset.label_batch(train)
    assert labels is not None
    classifier = train_classifier(display(dataset, train), labels, len(dataset.class_names), seed=0)
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        classifier.save(path)
    return classifier


def mode_metrics(seen: Tensor, classes: int, law: Tensor | None, how: str) -> dict[str, Number]:
    """``modes`` and ``mode_kl`` of images of the classes ``seen``; ``law`` as in `mode_coverage`, ``how`` in words."""
    try:
        found = mode_coverage(seen, classes, law)
    except ValueError as problem:
        return {
            key: Number(None, better=BETTER[key], n=len(seen), flag=f"refused: {problem}")
            for key in ("modes", "mode_kl")
        }
    beside = f"; a perfect sampler reaches {found.expected_covered:.4g} of {classes} at this N"
    kl = f"; a perfect sampler has {found.expected_kl:.2g} at this N"
    error = round(found.covered_error, 1) or None  # a count: less than 0.05 is no error
    return {
        "modes": Number(
            float(found.covered), error, f"of {classes}", "higher", len(seen), None,
            ENTRIES["modes"].meaning, protocol=how + beside,
        ),
        "mode_kl": Number(
            found.kl, found.kl_error, "nats", "lower", len(seen), None, ENTRIES["mode_kl"].meaning, protocol=how + kl
        ),
    }  # fmt: skip


def _asked(
    key: str, sample: Pool, labels: Tensor | None, real: Reference, classifier: Classifier, how: str, held_out: bool
) -> Number:
    """Accuracy and CAS, which need to know what was asked for."""
    meaning = ENTRIES[key].meaning
    if labels is None:
        return Number(None, better="higher", n=0, note="nobody asked for classes")
    if key == "accuracy":
        found = conditional_accuracy(sample.images, labels, classifier)
        return Number(found.value, found.error, "", "higher", len(labels), None, meaning, protocol=how)
    images = sample.images
    if held_out:  # the floor: trained on as many real training images, tested on the same held-out ones
        chosen = real.train_indices[: len(images)]
        images, labels = display(real.dataset, chosen), real.dataset.label_batch(chosen)
    test = real.dataset.test[:10_000]
    test_labels = real.dataset.label_batch(test)
    assert test_labels is not None and labels is not None
    value, error = _cached_score(images, labels, real, test, test_labels)
    told = f"trained on {len(images):,} images, tested on {len(test):,} held-out ones"
    return Number(value, error, "", "higher", len(images), None, meaning, protocol=told)


def _cached_score(
    images: Tensor, labels: Tensor, real: Reference, test: Any, test_labels: Tensor
) -> tuple[float, float | None]:
    """CAS costs a training: it is kept by the content of the images it was made of."""
    content = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:16]
    path = cache_folder() / "scores" / f"{content_key(real.dataset, test, 'cas', 1, content)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        kept = json.loads(path.read_text("utf-8"))
        return float(kept["value"]), kept["error"]
    found = classification_accuracy_score(
        images, labels, display(real.dataset, test), test_labels, len(real.dataset.class_names), seed=0
    )
    with contextlib.suppress(OSError, ValueError), written_atomically(path) as file:
        file.write(json.dumps({"value": found.value, "error": found.error}).encode())
    return found.value, found.error


# ------------------------------------------------------------------------------------------------------- per class


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
        against = f"{len(others):,} training images of class {name}"
        protocol = replace(real.protocol, metrics="frechet,precision,recall", n=max(16, len(own)))  # as many of both
        metrics = fidelity(Pool.of(own), Pool.of(others), real.network, protocol, against)
        kept = {key: m for key, m in metrics.items() if key in ("fid", "frechet", "precision", "recall")}
        scores[name] = {"n": len(own)} | {
            key: {"value": m.value, "error": m.error, "flag": m.flag} for key, m in kept.items()
        }
    return {"labels": "asked for" if asked else "seen by the classifier", "classes": scores}
