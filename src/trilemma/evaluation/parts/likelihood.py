"""Held-out bits per dimension, as the run answers, and of a model that denoises also by its probability flow.

Two laws go by the name of such a model. The ancestral chain, which draws noise at every step, has the variational
bound; samplers without noise, which are those of the samples that stand beside it by default, follow an ordinary
differential equation and have a law of their own.
"""

from __future__ import annotations

import contextlib
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from trilemma.data import subset
from trilemma.evaluation.law import law_of, true_nats
from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric, named
from trilemma.evaluation.reading import unclear
from trilemma.evaluation.reference import Indices, Reference
from trilemma.evaluation.standing import place
from trilemma.families.family import Denoises
from trilemma.files import write_json
from trilemma.likelihood import LogLikelihood, log_likelihood
from trilemma.metrics.estimate import mean_of
from trilemma.number import Number
from trilemma.questions.ode import flow_likelihood

SMALL = 1024
"""Values in an image up to which the probability flow is followed without being asked for."""
FEW = 32
"""Images of which it then is."""
TOLERANCE = 1e-3
"""Of its solver, per unit of a value and per nat of a value's density; on MNIST 1e-4 moves the mean by 5e-5 bits."""
BITS = 0.05
"""Two code lengths, in bits per dimension, that differ by no more are alike."""

Scored = tuple[Number, list[float]]
"""Bits per dimension of held-out images: the number, and that of each image; none where it is not known."""


class _Bits(Metric):
    group = "model"
    needs = ("likelihood",)
    better = "lower"
    unit = "bits/dim"

    def measure(self, of: Measured) -> Number | None:
        if of.held_out:
            return _least(of.real)
        found = self.scored(of)
        return None if found is None else found[0]

    @abstractmethod
    def scored(self, of: Measured) -> Scored | None:
        """The code lengths; None where they are not asked for, or the family has no such law."""

    def per_image(self, of: Measured) -> list[float] | None:
        found = self.scored(of)
        return None if found is None else found[1]

    def read(self, number: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> str:
        if floor is None or floor.value is None:  # only a known law has such a floor
            return ""
        where = place(number, floor, BITS)
        if where == "alike":
            return f"as short as the data's own law allows, to within {BITS:g} bits/dim"
        if where == "beyond":
            return "shorter than the data's own law allows: too few images, or no density"
        return unclear(number, "what the data's own law allows") if where == "unclear" else ""


class BitsPerDim(_Bits):
    name = "bits_per_dim"
    head = "Bits/dim"
    meaning = (
        "Code length of held-out images under the model, in bits for each pixel value: \N{MINUS SIGN}log₂ p(x) / D."
    )
    misleads = (
        "It says little about how samples look. A bound (≤) only limits the true value from above, so a larger bound "
        "does not prove a worse model. Of diffusion and flow it is that of the ancestral chain, not of samplers "
        "without noise."
    )
    source = "Theis et al. 2016, arXiv:1511.01844"
    shared = True
    table, order = "first", 4

    def scored(self, of: Measured) -> Scored:
        return _chain(of)


class FlowBitsPerDim(_Bits):
    name = "ode_bits_per_dim"
    head = "Bits/dim, ODE"
    meaning = (
        "Code length of held-out images under the probability-flow equation of diffusion and flow: the law that their "
        "samplers without noise follow."
    )
    misleads = (
        "Of images it is a bound too, by way of a decoder; it holds for the equation solved exactly. Unless asked for "
        "by name it is of few images, and of small ones only."
    )
    source = "Song et al. 2021, arXiv:2011.13456"
    order = 30

    def scored(self, of: Measured) -> Scored | None:
        return _flow(of)


class _Gap(Metric):
    group = "mixture"
    needs = ("likelihood", "law")
    better = "lower"
    floor = False


class DensityKL(_Gap):
    name = "density_kl"
    head = "KL to truth"
    meaning = (
        "KL(real ‖ model) of the densities in nats: how far the model's log p of held-out points is "
        "below that of the mixture they were drawn from."
    )
    misleads = (
        "From a bound on log p it is a bound too: the true one is smaller. Of diffusion and flow it is that of the "
        "ancestral chain, not of the samples beside it."
    )
    source = "the mixture's own density"
    shared = True
    order = 23

    def measure(self, of: Measured) -> Number | None:
        return _gap(_chain(of), of.real)


class FlowDensityKL(_Gap):
    name = "ode_density_kl"
    head = "KL to truth, ODE"
    meaning = (
        "The same of the probability-flow equation, which is the law of the samples that diffusion and flow draw "
        "without noise."
    )
    misleads = "It holds for the equation solved exactly; a sampler of few steps is off by what its steps leave out."
    source = "the mixture's own density; Song et al. 2021, arXiv:2011.13456"
    order = 24

    def measure(self, of: Measured) -> Number | None:
        found = _flow(of)
        return None if found is None else _gap(found, of.real)


# -------------------------------------------------------------------------------------------------- code lengths


def _chain(of: Measured) -> Scored:
    """Held-out bits per dimension with the kind of answer the family can give; kept until the evaluation is done."""
    return of.once("likelihood", lambda: _resumed(of, "likelihood", lambda: _answered(of)))


def _answered(of: Measured) -> Scored:
    assert of.subject is not None and of.subject.model is not None
    model, protocol = of.subject.model, of.protocol

    def ask(x: Tensor, given: Tensor | None) -> LogLikelihood:
        return log_likelihood(
            model,
            x,
            given,
            samples=protocol.likelihood_samples or None,
            seed=protocol.seed,
            device=of.device,
            progress=of.told("log-likelihood"),
        )

    indices = subset(of.real.dataset.test, protocol.likelihood_n, protocol.seed)
    found = _scored(of, indices, ask)
    if isinstance(model, Denoises):
        return _noted(found, "a law that has noise at every step, like ddpm, not that of samplers without noise")
    return found


def _resumed(of: Measured, name: str, measure: Callable[[], Scored]) -> Scored:
    """A number and its parts, from the folder of an unfinished evaluation if they are there."""
    known = None
    if of.unfinished and of.where.first:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((of.unfinished / f"{name}.json").read_text(encoding="utf-8"))
            known = Number(**record["metric"]), [float(value) for value in record["parts"]]
    agreed: Scored | None = of.where.agree(known)
    if agreed is not None:
        return agreed
    found = measure()
    if of.unfinished and of.where.first:
        with contextlib.suppress(OSError, ValueError):
            write_json(of.unfinished / f"{name}.json", {"metric": asdict(found[0]), "parts": found[1]})
    return found


def _flow(of: Measured) -> Scored | None:
    """The same by the probability-flow equation, where it is asked for, or cheap: of vectors and of small images.

    None for a family that has no such equation, and for large images unless it is asked for.
    """
    return of.once("probability flow", lambda: _followed(of))


def _followed(of: Measured) -> Scored | None:
    assert of.subject is not None
    model, protocol, vector = of.subject.model, of.protocol, of.real.dataset.vector
    asked = {FlowBitsPerDim.name, FlowDensityKL.name} & named(protocol.metrics)
    if not isinstance(model, Denoises) or not protocol.likelihood_n:
        return None
    if not asked and not vector and model.spec.dims > SMALL:
        return None
    count = protocol.likelihood_n if asked or vector else min(FEW, protocol.likelihood_n)
    indices = subset(of.real.dataset.test, count, protocol.seed)

    def ask(x: Tensor, given: Tensor | None) -> LogLikelihood:
        told = of.told("probability flow")
        return flow_likelihood(model, x, given, tolerance=TOLERANCE, seed=protocol.seed, progress=told).answer

    found = _scored(of, indices, ask)
    bits = found[1]
    chain = _chain(of)[1][: len(bits)] if protocol.wants(BitsPerDim.name, DensityKL.name) else []
    if not bits or len(chain) < len(bits):
        return found
    gap = mean_of(torch.tensor(chain, dtype=torch.float64) - torch.tensor(bits, dtype=torch.float64))
    error = "" if gap.error is None else f" ± {gap.error:.4f}"
    more = "less" if gap.known < 0 else "more"
    return _noted(found, f"the ancestral chain has {abs(gap.known):.4f}{error} {more} for the same {len(bits)}")


def _noted(found: Scored, more: str) -> Scored:
    metric, bits = found
    return (replace(metric, note=f"{metric.note}; {more}") if bits else metric), bits


def _scored(of: Measured, indices: Indices, ask: Callable[[Tensor, Tensor | None], LogLikelihood]) -> Scored:
    assert of.subject is not None and of.subject.run is not None
    run, protocol, dataset = of.subject.run, of.protocol, of.real.dataset
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


# ---------------------------------------------------------------------------------------------- beside a known law


def _points(real: Reference) -> Tensor:
    """The held-out points whose log-likelihood is asked for."""
    return real.dataset.batch(subset(real.dataset.test, real.protocol.likelihood_n, real.protocol.seed))


def _gap(scored: Scored, real: Reference) -> Number | None:
    """KL(real ‖ model) in nats: how far the model's log p of held-out points is below the true one, pair by pair."""
    (answer, bits), law = scored, law_of(real.dataset)
    if law is None:
        return None
    if not bits:
        return Number(None, kind=answer.kind, note=answer.note)
    points = _points(real)
    gap = true_nats(law, points) + torch.tensor(bits, dtype=torch.float64) * (points.shape[1] * math.log(2))
    error = float(gap.std()) / math.sqrt(len(gap)) if len(gap) > 1 else None
    how = f"{len(gap):,} held-out points; {answer.note}"
    return Number(float(gap.mean()), error, "nats", n=len(gap), kind=answer.kind, protocol=how)


def _least(real: Reference) -> Number | None:
    """The code length under the law itself, where it is known."""
    law = law_of(real.dataset)
    if law is None or real.protocol.likelihood_n < 2:
        return None
    points = _points(real)
    bits = -true_nats(law, points) / (points.shape[1] * math.log(2))
    note = "of the mixture itself: the least that any model can have"
    return Number(float(bits.mean()), float(bits.std()) / math.sqrt(len(bits)), n=len(bits), kind="exact", note=note)
