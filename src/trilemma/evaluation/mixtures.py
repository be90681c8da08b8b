"""What can be measured where the data's own law is known: the 2-D mixtures of Gaussians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trilemma.data import Dataset, subset
from trilemma.data.mixtures import MIXTURES, Law
from trilemma.evaluation.glossary import ENTRIES
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import Pool
from trilemma.evaluation.subject import Subject
from trilemma.metrics.mixture import Mixture
from trilemma.metrics.spots import NEAR, spots
from trilemma.number import Better, Number
from trilemma.sampling import sample

PUBLISHED = 2500
"""Samples of the published protocol."""

KEYS: dict[str, Better] = {"mixture_modes": "higher", "high_quality": "none", "mixture_kl": "lower"}


def law_of(dataset: Dataset) -> Law | None:
    """The mixture that the data were drawn from, if it is known."""
    return MIXTURES.get(dataset.config.source) if dataset.vector else None


def mixture_scores(
    subject: Subject, drawn: Pool, real: Reference, options: Any | None, device: str
) -> dict[str, Number]:
    """Modes found, share of high-quality samples and reverse KL of a subject; of `PUBLISHED` samples where it draws."""
    law, protocol = law_of(real.dataset), real.protocol
    if not protocol.wants(*KEYS):
        return {}
    if law is None:
        named = set(protocol.metrics.replace("-", "_").split(","))
        why = f"undefined, because the law of {real.dataset.name} is not known: it is that of ring and grid"
        return {key: Number(None, better=better, note=why) for key, better in KEYS.items() if key in named}
    points = drawn.images
    if subject.model is not None and len(points) < PUBLISHED:
        points = sample(subject.model, PUBLISHED, seed=protocol.seed, options=options, device=device).images
    return judged(points[:PUBLISHED], law, real)


def judged(points: Tensor, law: Law, real: Reference) -> dict[str, Number]:
    """The scores of points [N, 2]."""
    found, n = spots(points, torch.from_numpy(law.means), law.sigma), len(points)
    modes = found.frequencies
    values: dict[str, tuple[float, float | None, str]] = {
        "mixture_modes": (float(found.found), None, f"of {found.total}"),
        "high_quality": (100 * found.quality.value, 100 * (found.quality.error or 0.0), "%"),
        "mixture_kl": (modes.kl, modes.kl_error, "nats"),
    }
    beside = {
        "mixture_modes": f"{n:,} samples; found: at least one within {NEAR:g} standard deviations of {law.sigma:g}",
        "high_quality": f"{n:,} samples; a perfect sampler has {100 * found.perfect:.2f} %",
        "mixture_kl": f"{n:,} samples; a perfect sampler has {modes.expected_kl:.2g} at this N",
    }
    return {
        key: Number(value, error, unit, KEYS[key], n, None, ENTRIES[key].meaning, None, beside[key])
        for key, (value, error, unit) in values.items()
        if real.protocol.wants(key)
    }


def true_nats(law: Law, points: Tensor) -> Tensor:
    """log p of points [N, 2] under the mixture itself: float64 [N]."""
    count, dims = law.means.shape
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    factors = law.sigma * torch.eye(dims, dtype=torch.float64).expand(count, dims, dims)
    return Mixture(weights, torch.from_numpy(law.means), factors).log_density(points)


def _scored(real: Reference) -> Tensor:
    """The held-out points whose log-likelihood is asked for, as `likelihood_metric` takes them."""
    return real.dataset.batch(subset(real.dataset.test, real.protocol.likelihood_n, real.protocol.seed))


def density_gap(key: str, answer: Number, bits: Sequence[float], real: Reference) -> dict[str, Number]:
    """KL(real ‖ model) in nats: how far the model's log p of held-out points is below the true one, pair by pair."""
    law = law_of(real.dataset)
    if law is None or not real.protocol.wants(key):
        return {}
    if not bits:
        return {key: Number(None, better="lower", kind=answer.kind, note=answer.note)}
    points = _scored(real)
    gap = true_nats(law, points) + torch.tensor(bits, dtype=torch.float64) * (points.shape[1] * math.log(2))
    error = float(gap.std()) / math.sqrt(len(gap)) if len(gap) > 1 else None
    how = f"{len(gap):,} held-out points; {answer.note}"
    return {
        key: Number(float(gap.mean()), error, "nats", "lower", len(gap), answer.kind, ENTRIES[key].meaning, None, how)
    }


def mixture_floor(real: Reference) -> dict[str, Number]:
    """The same of held-out points, and the true density of those that models are asked for."""
    law = law_of(real.dataset)
    if law is None:
        return {}
    floor = judged(real.dataset.batch(real.dataset.test[:PUBLISHED]), law, real) if real.protocol.wants(*KEYS) else {}
    if real.protocol.wants("bits_per_dim") and real.protocol.likelihood_n > 1:
        points = _scored(real)
        bits = -true_nats(law, points) / (points.shape[1] * math.log(2))
        error = float(bits.std()) / math.sqrt(len(bits))
        note = "of the mixture itself: the least that any model can have"
        least = Number(float(bits.mean()), error, "bits/dim", "lower", len(bits), "exact", note)
        floor |= {"bits_per_dim": least, "ode_bits_per_dim": least}
    return floor
