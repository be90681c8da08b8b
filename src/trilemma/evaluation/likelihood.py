"""Held-out bits per dimension, as the run answers, and of a model that denoises also by its probability flow.

Two laws go by the name of such a model. The ancestral chain, which draws noise at every step, has the variational
bound; samplers without noise, which are those of the samples that stand beside it by default, follow an ordinary
differential equation and have a law of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from trilemma.data import subset
from trilemma.evaluation.reference import Indices, Reference
from trilemma.evaluation.stream import Tell
from trilemma.evaluation.subject import Subject
from trilemma.families.family import Denoises
from trilemma.likelihood import LogLikelihood, calibrate, log_likelihood
from trilemma.metrics.estimate import mean_of
from trilemma.number import Number
from trilemma.questions.ode import flow_likelihood

SMALL = 1024
"""Values in an image up to which the probability flow is followed without being asked for."""
FEW = 32
"""Images of which it then is."""
TOLERANCE = 1e-3
"""Of its solver, per unit of a value and per nat of a value's density; on MNIST 1e-4 moves the mean by 5e-5 bits."""


Scored = tuple[Number, list[float]]
"""Bits per dimension of held-out images: the number, and that of each image; none where it is not known."""


def likelihood_metric(subject: Subject, real: Reference, device: str, tell: Tell | None) -> Scored:
    """Held-out bits per dimension with the kind of answer the family can give."""
    assert subject.model is not None
    model, protocol = subject.model, real.protocol

    def ask(x: Tensor, given: Tensor | None) -> LogLikelihood:
        return log_likelihood(
            model,
            x,
            given,
            samples=protocol.likelihood_samples or None,
            seed=protocol.seed,
            device=device,
            progress=(lambda done, total: tell("log-likelihood", done, total)) if tell else None,
        )

    indices = subset(real.dataset.test, protocol.likelihood_n, protocol.seed)
    found = _scored(subject, real, indices, ask)
    if isinstance(model, Denoises):
        return _noted(found, "a law that has noise at every step, like ddpm, not that of samplers without noise")
    return found


def flow_metric(subject: Subject, real: Reference, device: str, tell: Tell | None, beside: Scored) -> Scored | None:
    """The same by the probability-flow equation, where it is asked for, or cheap: of vectors and of small images.

    Args:
        beside: what the chain has for the same images.

    Returns:
        None for a family that has no such equation, and for large images unless it is asked for.
    """
    model, protocol = subject.model, real.protocol
    named = {"ode_bits_per_dim", "ode_density_kl"} & set(protocol.metrics.replace("-", "_").split(","))
    vector = real.dataset.vector
    if not isinstance(model, Denoises) or not protocol.likelihood_n:
        return None
    if not named and not vector and model.spec.dims > SMALL:
        return None
    count = protocol.likelihood_n if named or vector else min(FEW, protocol.likelihood_n)
    indices = subset(real.dataset.test, count, protocol.seed)

    def ask(x: Tensor, given: Tensor | None) -> LogLikelihood:
        told = (lambda done, total: tell("probability flow", done, total)) if tell else None
        return flow_likelihood(model, x, given, tolerance=TOLERANCE, seed=protocol.seed, progress=told).answer

    found = _scored(subject, real, indices, ask)
    chain, bits = beside[1][: len(found[1])], found[1]
    if not bits or len(chain) < len(bits):
        return found
    gap = mean_of(torch.tensor(chain, dtype=torch.float64) - torch.tensor(bits, dtype=torch.float64))
    error = "" if gap.error is None else f" ± {gap.error:.4f}"
    more = "less" if gap.value < 0 else "more"
    return _noted(found, f"the ancestral chain has {abs(gap.value):.4f}{error} {more} for the same {len(bits)}")


def calibrated_for(subject: Subject, real: Reference) -> None:
    """Let the model choose by training images what its likelihood leaves open, before any is asked for."""
    if subject.model is not None and subject.run is not None:
        calibrate(subject.model, subject.run, real.dataset)


def _noted(found: Scored, more: str) -> Scored:
    metric, bits = found
    return (replace(metric, note=f"{metric.note}; {more}") if bits else metric), bits


def _scored(
    subject: Subject, real: Reference, indices: Indices, ask: Callable[[Tensor, Tensor | None], LogLikelihood]
) -> Scored:
    run, protocol, dataset = subject.run, real.protocol, real.dataset
    assert run is not None
    if not len(indices) or not protocol.likelihood_n:
        return Number(None, unit="bits/dim", better="lower", note="not asked for (likelihood_n is 0)"), []
    given = run.conditions(dataset, indices)
    told = "" if given is None else f" given its {'caption' if run.config.spec.vocabulary else 'class'}"
    answer = ask(dataset.batch(indices), given)
    if answer.mean is None or answer.bits is None:
        return Number(None, unit="bits/dim", better="lower", kind=answer.kind, note=answer.reason), []
    mean, error = answer.mean
    finite, what = math.isfinite(mean), "vector, a density" if dataset.vector else "image"
    metric = Number(
        mean if finite else None,
        error if math.isfinite(error) else None,
        "bits/dim",
        "lower",
        len(indices),
        answer.kind,
        f"of a held-out {what}{told}; {answer.reason}",
        answer.flag if finite else "not finite: some held-out one has probability 0 under the model",
        f"{len(indices):,} held-out {'vectors' if dataset.vector else f'images, {dataset.levels} levels'}; "
        f"{answer.reason}",
    )
    return metric, [float(f"{bits:.6g}") for bits in answer.bits.tolist()] if finite else []
