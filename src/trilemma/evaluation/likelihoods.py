"""What a likelihood shows beside its mean: whose images it prefers and, where it is exact, pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trilemma.data import load, subset
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import Tell
from trilemma.evaluation.subject import Subject
from trilemma.families.autoregressive import Autoregressive
from trilemma.families.family import Density
from trilemma.parallel import ranks
from trilemma.questions.completion import complete, draw_completions, known_part
from trilemma.questions.density import density_map, draw_density
from trilemma.questions.outliers import draw_histograms, outliers
from trilemma.questions.receptive import receptive_field
from trilemma.questions.receptive_pictures import draw_field
from trilemma.questions.surprise import draw_surprise, surprise

SHOWN = 8
"""Held-out images in each picture."""


def draw_exact(subject: Subject, real: Reference, place: Path, device: str) -> dict[str, str]:
    """Pictures of an exact likelihood: what a pixel depends on, where images surprise, how the model completes them.

    Returns:
        The names of the pictures in ``place``; none where the family has no order of the pixels.
    """
    model, dataset = subject.model, real.dataset
    if not isinstance(model, Autoregressive) or subject.run is None:
        return {}
    indices = subset(dataset.test, SHOWN, real.protocol.seed)
    x = dataset.batch(indices)
    labels = subject.run.conditions(dataset, indices)
    seen = surprise(model, x, labels, device=device)
    known = known_part("top", model.spec)
    completed = complete(model, x[:4], known, 6, labels=None if labels is None else labels[:4], device=device)
    names = {name: f"{name}.png" for name in ("receptive", "surprise", "completion")}
    if ranks(device).first:
        field = receptive_field(model, x, labels=labels)
        draw_field(field, place / names["receptive"], f"What pixel {field.position} depends on")
        draw_surprise(seen, x, model.spec.levels, place / names["surprise"])
        draw_completions(completed, x[:4], known, model.spec.levels, place / names["completion"])
    return names


def draw_map(subject: Subject, real: Reference, place: Path, device: str, tell: Tell | None) -> dict[str, str]:
    """The density of a model of 2-D vectors as a picture; none where there is no such density."""
    model = subject.model
    if model is None or not model.spec.vector or model.spec.dims != 2 or not real.protocol.wants("bits_per_dim"):
        return {}
    if model.density not in (Density.TRACTABLE, Density.APPROXIMATE) or not ranks(device).first:
        return {}
    told = (lambda done, total: tell("density", done, total)) if tell else None
    field = density_map(model, real.dataset.batch(real.dataset.test[:10_000]), side=40, progress=told)
    return {"density": draw_density(field, place / "density.png").name}


def out_of_distribution(
    subject: Subject, real: Reference, place: Path | None, device: str, tell: Tell | None
) -> dict[str, Any]:
    """log p(x) of held-out images beside that of the images of ``protocol.ood``; empty where there is none."""
    model, dataset, protocol = subject.model, real.dataset, real.protocol
    if model is None or not protocol.ood or model.density not in (Density.TRACTABLE, Density.APPROXIMATE):
        return {}
    spec = dataset.spec()
    config = replace(dataset.config, source=protocol.ood, limit=None)
    if not spec.vector:
        color = "rgb" if spec.channels == 3 else "grey"
        config = replace(config, size=(spec.height, spec.width), color=color)  # type: ignore[arg-type]
    other = load(config, split=False)
    indices = subset(dataset.test, protocol.likelihood_n, protocol.seed)
    others = subset(np.arange(len(other.images)), protocol.likelihood_n, protocol.seed)
    answer = outliers(
        model,
        dataset.batch(indices),
        other.batch(others),
        samples=protocol.likelihood_samples or None,
        seed=protocol.seed,
        device=device,
        progress=(lambda done, total: tell("out of distribution", done, total)) if tell else None,
    )
    record = {
        "own": dataset.name,
        "other": other.name,
        "kind": answer.kind,
        "n": len(indices),
        "m": len(others),
        "auroc": _plain(answer.likelihood),
        "typicality": _plain(answer.typicality),
        "verdict": answer.verdict,
    }
    if place is not None and ranks(device).first:
        title = f"{dataset.name} or {other.name}?"
        draw_histograms(answer, (dataset.name, other.name), place / "outliers.png", title)
    return record


def _plain(estimate: tuple[float, float]) -> dict[str, float | None]:
    """A value and its standard error; JSON has no NaN."""
    value, error = (number if math.isfinite(number) else None for number in estimate)
    return {"value": value, "error": error}
