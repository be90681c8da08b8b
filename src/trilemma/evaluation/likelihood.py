"""Held-out bits per dimension, as the run answers."""

from __future__ import annotations

import math

from trilemma.evaluation.protocol import Metric
from trilemma.evaluation.reference import Reference, subset
from trilemma.evaluation.stream import Tell
from trilemma.evaluation.subject import Subject
from trilemma.queries.likelihood import log_likelihood


def likelihood_metric(subject: Subject, real: Reference, device: str, tell: Tell | None) -> tuple[Metric, list[float]]:
    """Held-out bits per dimension with the kind of answer the family can give, and the bits of each image."""
    run, protocol, dataset = subject.run, real.protocol, real.dataset
    assert run is not None and subject.model is not None
    indices = subset(dataset.test, protocol.likelihood_n, protocol.seed)
    if not protocol.likelihood_n:
        return Metric(None, unit="bits/dim", better="lower", note="not asked for (likelihood_n is 0)"), []
    given = run.conditions(dataset, indices)
    told = "" if given is None else f" given its {'caption' if run.config.spec.vocabulary else 'class'}"
    answer = log_likelihood(
        subject.model,
        dataset.batch(indices),
        given,
        samples=protocol.likelihood_samples or None,
        seed=protocol.seed,
        device=device,
        progress=(lambda done, total: tell("log-likelihood", done, total)) if tell else None,
    )
    if answer.mean is None or answer.bits is None:
        return Metric(None, unit="bits/dim", better="lower", kind=answer.kind, note=answer.reason), []
    mean, error = answer.mean
    finite, what = math.isfinite(mean), "vector, a density" if dataset.vector else "image"
    metric = Metric(
        mean if finite else None,
        error if math.isfinite(error) else None,
        "bits/dim",
        "lower",
        len(indices),
        answer.kind,
        f"of a held-out {what}{told}; {answer.reason}",
        None if finite else "not finite: some held-out one has probability 0 under the model",
        f"{len(indices):,} held-out {'vectors' if dataset.vector else f'images, {dataset.levels} levels'}"
        + (f", {protocol.likelihood_samples} Monte-Carlo samples" if protocol.likelihood_samples else ""),
    )
    return metric, [float(f"{bits:.6g}") for bits in answer.bits.tolist()] if finite else []
