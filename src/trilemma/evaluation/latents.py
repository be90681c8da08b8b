"""What a model with an encoder does with its codes: whether a VAE uses them, and why an autoencoder has no sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trilemma.data import subset
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.subject import Subject
from trilemma.families.autoencoder import Autoencoder
from trilemma.families.vae import VAE
from trilemma.parallel import ranks
from trilemma.questions.posterior import distortion_unit, draw_reconstructions, posterior
from trilemma.questions.samplers import KINDS, draw_samplers, samplers

MOST = 1300
"""Images that are encoded, and decoded for each kind of codes, at most: ten for each of the small network's features,
so that Fréchet distances need no warning."""
LEAST = 300
"""Images without which the Fréchet distances of decoded codes would say nothing."""
SHOWN = 12
"""Held-out images in the picture of reconstructions."""


def draw_latents(subject: Subject, real: Reference, place: Path, device: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What was found, as plain values, and the names of the pictures in ``place``.

    Both are empty for other families, and for vectors.
    """
    model, dataset, seed = subject.model, real.dataset, real.protocol.seed
    if not isinstance(model, VAE | Autoencoder) or dataset.vector:
        return {}, {}
    held_out = subset(dataset.test, MOST, seed)
    x = dataset.batch(held_out)
    if x.ndim != 4:  # not images
        return {}, {}
    labels = subject.run.conditions(dataset, held_out) if subject.run is not None else None
    answer = posterior(model, x, labels, seed=seed, device=device)
    unit = distortion_unit(model)
    record: dict[str, Any] = {
        "verdict": answer.verdict,
        "n": len(x),
        "active": int(answer.active.sum()),
        "latents": len(answer.active),
        "rate": None if answer.rate is None else float(answer.rate.sum()),
        "distortion": float(answer.distortion.mean()),
        "distortion_unit": unit,
    }
    saved = {"reconstructions": "reconstructions.png"}
    if ranks(device).first:
        title = f"{dataset.name}: images and what their codes keep of them"
        draw_reconstructions(answer, x[:SHOWN], None, place / saved["reconstructions"], title, unit)
    if isinstance(model, Autoencoder) and min(len(dataset.train), len(x)) >= LEAST:
        train = dataset.batch(subset(dataset.train, MOST, seed))
        decoded = samplers(model, train, x, n=MOST, seed=seed, device=device)
        record["kinds"] = {
            kind: {
                "text": KINDS[kind],
                "frechet": found.frechet.value,
                "frechet_error": found.frechet.error,
                "near": found.near,
            }
            for kind, found in decoded.kinds.items()
            if found.frechet
        }
        record["decoded"] = {
            "n": decoded.n,
            "features": decoded.features,
            "flag": decoded.flag,
            "floor": decoded.floor.value,
            "floor_error": decoded.floor.error,
        }
        saved["samplers"] = "samplers.png"
        if ranks(device).first:
            draw_samplers(decoded, place / saved["samplers"], f"{dataset.name}: what the decoder makes of codes")
    return record, saved
