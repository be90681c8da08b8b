"""What makes numbers worthless although they look like numbers: repeats, copies, and images on the wrong side."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from trilemma.data import load
from trilemma.data.dataset import Digests
from trilemma.evaluation.reference import Reference, digests
from trilemma.run import Run
from trilemma.text import printable


def identical_images(found: Digests, real: Reference) -> list[str]:
    """Repeats among the samples, and samples that are real images to the last bit, each more than real images have.

    Args:
        found: a hash of each sample.
    """
    n, flags = len(found), []
    held_out = real.test_digests
    repeats, usual = _repeats(found), _repeats(held_out) / len(held_out)
    if repeats > max(1, 3 * usual * n):
        flags.append(f"{repeats:,} of {n:,} images are repeats of others among them: N counts them more than once")
    copies = _shared(found, real.train_digests)
    if copies > max(0, 3 * n * _shared(held_out, real.train_digests) / len(held_out)):
        all_of_them = "these are the training images themselves" if copies == n else "the model is scored on its memory"
        flags.append(f"{copies:,} of {n:,} images are identical to training images: {all_of_them}")
    same = _shared(found, held_out)
    if same > max(0, 3 * n * _shared(real.train_digests, held_out) / len(real.train_digests)):
        flags.append(f"{same:,} of {n:,} images are identical to held-out images, which are also the floor")
    return flags


def trained_on_held_out(run: Run, real: Reference) -> list[str]:
    """Whether a run has seen, in training, images that are held out here; also where that can no longer be told."""
    trained_on = run.config.data_fingerprint
    if trained_on == real.dataset.fingerprint:
        return []  # the same split
    own = real.dataset if real.dataset.config == run.config.data else None
    if own is None:
        with suppress(ValueError, OSError):  # data that is no longer there cannot be looked at
            own = load(run.config.data, progress=False)
    if own is None:
        return []
    flags = []
    if trained_on and own.fingerprint != trained_on:
        flags.append(
            f"{printable(own.config.source)} is no longer what the run was trained on: its images, labels or split "
            "have changed, or this version reads them otherwise; what is held out now may have been trained on"
        )
    if own.spec().shape == real.dataset.spec().shape:
        seen, total = _shared(real.test_digests, digests(own, own.train)), len(real.test_digests)
        if seen and own is not real.dataset:
            what = f"{seen:,} of the {total:,} images held out here"
            flags.append(f"the run was trained on {what}: nothing here is held out")
    return flags


def _repeats(values: Digests) -> int:
    return len(values) - len(np.unique(values))


def _shared(values: Digests, among: Digests) -> int:
    return int(np.isin(values, among).sum())
