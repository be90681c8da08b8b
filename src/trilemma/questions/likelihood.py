"""How probable are these images? log p(x), or log p(x|y), and what kind of answer it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from trilemma.families import FAMILIES
from trilemma.families.family import Density
from trilemma.likelihood import LogLikelihood, log_likelihood
from trilemma.number import Number
from trilemma.questions.answer import Answer
from trilemma.questions.question import AboutImages, Context
from trilemma.run import Run
from trilemma.validate import MOST, Limits

SIGNS = {"exact": "=", "bound": "≤", "estimate": "≈"}


@dataclass(frozen=True)
class Likelihood(AboutImages):
    """log p(x) of images."""

    samples: Annotated[int, Limits(1, MOST)] | None = None
    """Monte-Carlo effort where log p(x) is not exact: importance samples, or noise levels."""

    name: ClassVar[str] = "likelihood"
    title: ClassVar[str] = "Log-likelihood"
    sentence: ClassVar[str] = "How probable are these images: log p(x) in nats and bits per dimension?"
    vectors_too: ClassVar[bool] = True
    most: ClassVar[int] = 100

    def answer(self, context: Context) -> Answer:
        batch = context.batch(self)
        found = log_likelihood(
            context.calibrated,
            batch.x,
            batch.conditions,
            samples=self.samples,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )
        spec = context.run.config.spec
        asked = "p(x)" if batch.conditions is None else "p(x|text)" if spec.vocabulary else "p(x|y)"
        density = "density, " if batch.dataset.vector else ""
        if found.nats is None:
            reading = f"log {asked} is undefined: {found.reason}"
        else:
            number, sign = bits(found), SIGNS[found.kind]
            reading = (
                f"{sign} {number} bits/dim, −log {asked} {sign} {-float(found.nats.mean()):.2f} nats "
                f"({density}{found.kind}: {found.reason}; {batch.words})"
            )
        readings = [reading]
        if spec.conditional and batch.conditions is None and found.nats is not None:
            readings.append("this is p(x), of no class or text: `--labels true` asks for p(x|y), given the images' own")
        return Answer(
            self,
            context.run,
            kind=found.kind,
            numbers={"bits_per_dim": bits(found)},
            reading=readings,
            flag=found.flag,
            values=values(found),
            found=found,
            protocol=batch.protocol,
        )


def bits(found: LogLikelihood) -> Number:
    """Bits per dimension, mean over the images."""
    n = 0 if found.nats is None else len(found.nats)
    value, error = found.mean or (None, None)
    return Number(value, error, "bits/dim", "lower", n, found.kind, found.reason, found.flag).finite()


def values(found: LogLikelihood) -> dict[str, Any]:
    """log p(x) of each image, for programs."""
    mean = bits(found)
    return {
        "kind": found.kind,
        "mean_bits_per_dim": mean.value,
        "standard_error": mean.error,
        "flag": found.flag,
        "reason": found.reason,
        "dims": found.dims,
        "nats": None if found.nats is None else found.nats.tolist(),
        "bits_per_dim": None if found.bits is None else found.bits.tolist(),
    }


def undefined(run: Run) -> str | None:
    """Why the family of a run has no log p(x) to compare, in words that follow "because"; None where it has."""
    family = FAMILIES[run.config.family]
    if family.density in (Density.TRACTABLE, Density.APPROXIMATE):
        return None
    return f"log p(x) is undefined for {family.name}, whose density is {family.density.value}"
