"""log p(x) by the probability-flow equation, with the variational bound of the same images beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from trilemma.blocks import BLOCK, Progress, map_blocks, part_of
from trilemma.families.diffusion import EXACT
from trilemma.families.family import Denoises
from trilemma.images import check_images
from trilemma.likelihood import LogLikelihood, checked_labels, log_likelihood
from trilemma.noise import ImageNoise, derive_seed
from trilemma.number import Number, text
from trilemma.parallel import Ranks
from trilemma.questions.answer import Answer
from trilemma.questions.likelihood import SIGNS, bits, values
from trilemma.questions.question import AboutImages, Context
from trilemma.validate import MOST, Limits

Dequantize = Literal["decoder", "uniform"]


@dataclass(frozen=True)
class ProbabilityFlow(AboutImages):
    """log p(x) by the probability-flow equation."""

    samples: Annotated[int, Limits(1, MOST)] = 1
    """Draws of the dequantisation and of the trace's probe for each image."""
    dequantize: Dequantize = "decoder"
    """decoder, the discrete decoder of the bound; or uniform over the bin of a pixel."""
    tolerance: Annotated[float, Limits(above=0)] = 1e-4
    """The solver's error, per unit of a value and per nat of its density; to be raised where 1000 steps do not
    suffice."""

    name: ClassVar[str] = "ode"
    title: ClassVar[str] = "Probability-flow likelihood"
    sentence: ClassVar[str] = (
        "What is log p(x) by the probability-flow equation, beside the variational bound of the same images?"
    )
    paper: ClassVar[str] = (
        "Song et al. 2021, Score-based generative modeling through stochastic differential equations, arXiv:2011.13456"
    )
    capabilities: ClassVar[tuple[type, ...]] = (Denoises,)
    vectors_too: ClassVar[bool] = True
    most: ClassVar[int] = 32

    def answer(self, context: Context) -> Answer:
        batch, model = context.batch(self), context.calibrated
        assert isinstance(model, Denoises)
        found = flow_likelihood(
            model,
            batch.x,
            batch.conditions,
            samples=self.samples,
            dequantize=self.dequantize,
            tolerance=self.tolerance,
            seed=context.seed,
            where=context.where,
            progress=context.progress,
        )
        bound = log_likelihood(model, batch.x, batch.conditions, seed=context.seed, device=context.device)
        gap, doubt = found.below(bound)
        apart = Number(gap, doubt, "bits/dim", n=len(batch.x), note="the bound less the equation, image by image")
        numbers = {
            "bits_per_dim": bits(found.answer),
            "bound_bits_per_dim": bits(bound),
            "bound_minus_equation": apart.finite(),
        }
        noise = Number(found.noise).finite().value
        within = "ask for samples 2 or more to know the noise of the draws in it"
        if noise is not None:
            within = f"the draws leave {text(noise)} of noise in that of one"
        return Answer(
            self,
            context.run,
            kind=found.answer.kind,
            numbers=numbers,
            reading=[
                f"{SIGNS[found.answer.kind]} {numbers['bits_per_dim']} bits/dim over {batch.words}; {within} "
                f"({found.answer.reason}; {found.evaluations:.0f} evaluations a draw)",
                f"{SIGNS[bound.kind]} {numbers['bound_bits_per_dim']} bits/dim for the same ({bound.reason}); "
                f"that is {'+' if gap > 0 else ''}{numbers['bound_minus_equation']} against the equation",
            ],
            flag=found.answer.flag or bound.flag,
            values={
                **_record(found.answer),
                "noise_bits_per_dim": noise,
                "evaluations": found.evaluations,
                "bound": {"kind": bound.kind, **_record(bound), "flag": bound.flag},
                "bound_minus_equation": {
                    "bits_per_dim": apart.finite().value, "standard_error": apart.finite().error,
                },
            },
            found=found,
            protocol=batch.protocol,
        )  # fmt: skip


def _record(found: LogLikelihood) -> dict[str, Any]:
    mean = bits(found)
    return {**values(found), "mean_bits_per_dim": mean.value, "standard_error": mean.error}


@dataclass(frozen=True)
class FlowAnswer:
    """log P(x) by the probability-flow equation.

    Attributes:
        answer: the same form as of any likelihood, its nats averaged over ``samples`` draws.
        noise: mean over the images of the standard error that the draws (dequantisation and probe) leave in an
            image's bits/dim; NaN for one draw.
        evaluations: of the network per draw, a mean over the images.
    """

    answer: LogLikelihood
    noise: float
    evaluations: float

    def below(self, bound: LogLikelihood) -> tuple[float, float]:
        """How many bits/dim the equation gives less than another answer for the same images, with its standard error.

        The images are the same, so what they differ in among themselves is no part of the error.
        """
        if bound.bits is None or self.answer.bits is None:
            return math.nan, math.nan
        gaps = bound.bits - self.answer.bits
        return float(gaps.mean()), float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan


def flow_likelihood(
    model: Denoises,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    samples: int = 1,
    dequantize: Dequantize = "decoder",
    tolerance: float = 1e-4,
    seed: int = 0,
    where: Ranks | None = None,
    progress: Progress | None = None,
) -> FlowAnswer:
    """log P(x) of each image by the probability-flow equation, a lower bound in expectation and nearly tight.

    Of vectors it is the density itself, up to the solver's tolerance, and nothing is dequantised.

    Args:
        model: on its device.
        images: uint8 [N, C, H, W].
        labels: int64 [N] for a conditional model, by default "no label".
        samples: draws of the dequantisation and of the probe for each image.
        dequantize, tolerance: see `exact.flow_log_likelihood`.
        where: the processes that share the images; by default this one alone.
        progress: told ``(draws done, all)``.
    """
    check_images(images, model.spec)
    labels = checked_labels(model.spec, labels, len(images))
    draws, costs = [], []
    for sample in range(samples):

        def of_block(rows: range, progress: Progress | None, sample: int = sample) -> tuple[Tensor, Tensor]:
            part = slice(rows.start, rows.stop)
            noise = ImageNoise(derive_seed(seed, "flow", sample), rows, model.device)
            given = None if labels is None else labels[part].to(model.device)
            x = images[part].to(model.device)
            nats, cost = model.flow_log_likelihood(x, given, noise, dequantize=dequantize, tolerance=tolerance)
            return nats, cost.double()

        part = part_of(progress, sample * len(images), len(images), samples * len(images))
        alone = Ranks(0, 1, model.device)
        nats, cost = map_blocks(of_block, len(images), where or alone, block=BLOCK, progress=part)
        draws.append(nats)
        costs.append(cost)
    drawn = torch.stack(draws)  # [samples, N]
    dequantised = model.chain.told(model.schedule) if dequantize == "decoder" else "uniform dequantisation"
    reason = (
        f"probability-flow equation, the law of samplers without noise, Hutchinson's trace, {dequantised}, "
        f"tolerance {tolerance:g}, {samples} draw{'s' * (samples > 1)} an image"
    )
    if model.spec.vector:
        trace = "exact trace" if model.spec.dims <= EXACT else "Hutchinson's trace"
        reason = f"density by the probability-flow equation, the law of samplers without noise, {trace}, "
        reason += f"tolerance {tolerance:g}"
    unit = model.spec.dims * math.log(2)
    left = float((drawn.std(0) / math.sqrt(samples)).mean()) / unit if samples > 1 else math.nan
    kind = "estimate" if model.spec.vector else "bound"
    answer = LogLikelihood(kind, reason, drawn.mean(0), model.spec.dims, model.spec.levels)
    return FlowAnswer(answer, left, float(torch.cat(costs).mean()))
