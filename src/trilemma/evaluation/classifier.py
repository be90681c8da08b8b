"""A classifier of the real images, which tells what samples show."""

from __future__ import annotations

import contextlib

from trilemma.data import Dataset
from trilemma.data.decoded import cache_folder
from trilemma.evaluation.reference import content_key, display
from trilemma.metrics import Classifier, train_classifier

MOST_TRAINING = 60_000
"""Images that it is trained on, at most."""


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
