"""What a denoising run shows beside its numbers: where its bound is spent, and the sweeps it was asked for before."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from trilemma.data import subset
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.subject import Subject
from trilemma.evaluation.sweeps import weights_digest
from trilemma.families.diffusion import Denoising
from trilemma.families.family import Family
from trilemma.parallel import ranks
from trilemma.questions.diffusion_likelihood import bound_by_time, draw_terms

SHOWN = 8
"""Held-out images that the bound is taken of."""
TERMS = 60
"""Terms of the bound that are evaluated; a picture needs no more."""
SWEEPS = ("guidance", "curve")
"""Pictures of `trilemma query`, each with a record of the same name beside it."""


def draw_denoising(subject: Subject, real: Reference, place: Path, device: str) -> dict[str, str]:
    """Pictures of a denoising run on images; none of another family.

    Returns:
        The names of the pictures in ``place``. A sweep is among them if it is there, of the weights as they are now.
    """
    model = subject.model
    if not isinstance(model, Denoising) or model.spec.vector or subject.run is None:
        return {}
    names = sweeps_of(model, place)
    if real.protocol.wants("bits_per_dim") and ranks(device).first:
        indices = subset(real.dataset.test, SHOWN, real.protocol.seed)
        labels = subject.run.conditions(real.dataset, indices)
        terms = bound_by_time(model, real.dataset.batch(indices), labels, count=TERMS, seed=real.protocol.seed)
        title = f"The bound on {real.dataset.name}, term by term"
        names["terms"] = draw_terms(terms, place / "bound.png", title).name
    return names


def sweeps_of(model: Family, place: Path) -> dict[str, str]:
    """The pictures in ``place`` of sweeps that were asked for, if they are of these weights."""
    if not any((place / f"{name}.json").is_file() for name in SWEEPS):
        return {}
    weights = weights_digest(model)
    return {name: f"{name}.png" for name in SWEEPS if _is_of(place / f"{name}.json", weights)}


def _is_of(path: Path, weights: str) -> bool:
    """Whether a sweep's record is of these weights, and its picture is there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return (
            bool(json.loads(path.read_text("utf-8"))["protocol"]["weights"] == weights)
            and path.with_suffix(".png").is_file()
        )
    return False
