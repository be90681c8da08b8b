"""An evaluation as plain values: what `evaluate` returns, what is saved beside a run, what the report reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from trilemma import __version__
from trilemma.data import Dataset
from trilemma.evaluation.protocol import hardware
from trilemma.evaluation.reference import Reference
from trilemma.machine import quicker
from trilemma.number import Number
from trilemma.parallel import find_device

FORMAT = 3
"""Of ``metrics.json``: 2 names metrics by what they are and carries a protocol in each; 3 has fidelity and coverage by
mutual nearness, and says whether the scale can be trusted."""


def describe(
    subject: Mapping[str, Any],
    metrics: Mapping[str, Number],
    floor: Mapping[str, Number],
    real: Reference,
    device: str,
) -> dict[str, Any]:
    """The record of one evaluation."""
    return {
        "format": FORMAT,
        "version": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "subject": dict(subject),
        "data": describe_data(real.dataset),
        "protocol": describe_protocol(real, device),
        "metrics": plain(metrics),
        "floor": plain(floor),
    }


def plain(metrics: Mapping[str, Number]) -> dict[str, Any]:
    """Metrics as dictionaries."""
    return {name: asdict(metric) for name, metric in metrics.items()}


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """The data side of a record."""
    spec = dataset.spec()
    return {
        "name": dataset.name,
        "shape": list(spec.shape),
        "levels": dataset.levels,
        "class_names": list(dataset.class_names),
        "train": len(dataset.train),
        "test": len(dataset.test),
        "fingerprint": dataset.fingerprint,
        "notes": list(dataset.notes),
    }


def describe_protocol(real: Reference, device: str) -> dict[str, Any]:
    """The protocol side of a record: what was asked for, and where it was computed."""
    split = f"{real.train.n} training images as reference, {real.held_out.n} held-out images as floor"
    if real.whole is not None:
        split = (
            f"all {real.whole.entire.train.n} images as reference of distances, a half of them against the other half "
            f"as floor; for what looks for copies, {split}"
        )
    return asdict(real.protocol) | {
        "features": real.network.name,
        "dims": real.network.dims,
        "split": split,
        "device": str(find_device(device)),
        "arithmetic": quicker(find_device(device)),
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
    }
