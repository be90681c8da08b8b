"""Does the likelihood of a model tell its own kind of images from another? Often it does not, and that is the point.

Nalisnick, Matsukawa, Teh, Gorur, Lakshminarayanan 2019a, "Do Deep Generative Models Know What They Don't Know?", arXiv
1810.09136: models give *higher* likelihood to simpler images than to those they were trained on, such as to SVHN under
a CIFAR-10 model or to MNIST under a Fashion-MNIST model. A plain remedy is to ask for typical images instead of
likely ones: Nalisnick et al. 2019b, "Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality",
arXiv 1906.02994, here with one image at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress, part_of
from trilemma.drawing import Picture, Sheet
from trilemma.families.family import Family
from trilemma.likelihood import LogLikelihood, log_likelihood
from trilemma.number import Number
from trilemma.questions.answer import Answer
from trilemma.questions.likelihood import SIGNS, bits, undefined, values
from trilemma.questions.question import Context, Question
from trilemma.run import Run
from trilemma.validate import MOST, MOST_IMAGES, Limits

CAVEAT = (
    "deep generative models often give higher likelihood to simpler images than to their own kind "
    "(Nalisnick et al. 2019), so a likelihood alone does not say whether an image belongs"
)


FEW = 30
"""Images of a source below which an area under a curve says little."""


@dataclass(frozen=True)
class OutOfDistribution(Question):
    """log p(x) of a run's own kind of images beside that of others."""

    other: Any = None
    """The other source: anything that train takes."""
    images: Any = None
    """The model's own kind of images; by default held-out ones of the run's own data."""
    n: Annotated[int, Limits(1, MOST_IMAGES)] | None = None
    """At most so many images of either side; by default 500 held-out and 500 others."""
    samples: Annotated[int, Limits(1, MOST)] | None = None
    """Monte-Carlo effort where log p(x) is not exact: importance samples, or noise levels."""

    name: ClassVar[str] = "ood"
    title: ClassVar[str] = "Out-of-distribution detection"
    sentence: ClassVar[str] = "Does the likelihood tell the model's own kind of images from those of another source?"
    paper: ClassVar[str] = (
        "Nalisnick et al. 2019, Do deep generative models know what they don't know?, arXiv:1810.09136; "
        "Detecting out-of-distribution inputs to deep generative models using typicality, arXiv:1906.02994"
    )
    vectors_too: ClassVar[bool] = True
    argument: ClassVar[str] = "other"
    most: ClassVar[int] = 500

    @classmethod
    def unable(cls, run: Run) -> str | None:
        return undefined(run)

    def answer(self, context: Context) -> Answer:
        if self.other is None:
            raise ValueError("ood compares with another source: name one, such as fashion-mnist")
        own = context.source(self.images, self.n, self.most)
        other = context.source(self.other, self.n or self.most, self.most)
        found = outliers(
            context.calibrated,
            own.x,
            other.x,
            samples=self.samples,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )
        (area, error), (typical, spread), m = found.likelihood, found.typicality, len(other.x)
        least = min(len(own.x), m)
        sides = {"own": (own, found.own), "other": (other, found.other)}
        number = Number(
            area, error, n=m, kind=found.kind, note="of low likelihood as a sign of the other source"
        ).finite()
        atypical = Number(typical, spread, n=m, kind=found.kind, note="of atypical likelihood as the sign").finite()
        return Answer(
            self,
            context.run,
            kind=found.kind,
            numbers={
                "auroc": number,
                "typicality_auroc": atypical,
                "own_bits_per_dim": bits(found.own),
                "other_bits_per_dim": bits(found.other),
            },
            reading=[
                *(
                    f"{batch.name}: {SIGNS[part.kind]} {bits(part)} bits/dim ({batch.words})"
                    for batch, part in sides.values()
                ),
                f"AUROC of low likelihood as a sign of {other.name} {number} ({found.kind})",
                f"AUROC of atypical likelihood, too high or too low {atypical}",
                found.verdict,
            ],
            flag=found.own.flag or (f"an AUROC of {least} images says little" if least < FEW else None),
            values={
                **{side: values(part) | batch.protocol for side, (batch, part) in sides.items()},
                "auroc_standard_error": number.error,
                "typicality_auroc_standard_error": atypical.error,
                "verdict": found.verdict,
                "caveat": CAVEAT,
            },
            found=found,
            protocol=own.protocol | {"other": other.protocol},
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        names = answer.protocol["images"], answer.protocol["other"]["images"]
        return {"outliers": draw_histograms(answer.found, names, answer.title(f"{names[0]} or {names[1]}?"))}


@dataclass(frozen=True)
class Outliers:
    """Likelihoods of held-out images beside those of another source.

    Attributes:
        own: log p(x) of held-out images of the model's own data.
        other: that of the other source's.
    """

    own: LogLikelihood
    other: LogLikelihood

    @property
    def kind(self) -> str:
        return self.own.kind

    @property
    def likelihood(self) -> tuple[float, float]:
        """AUROC of low likelihood as a sign of the other source, and its standard error."""
        return auroc(_bits(self.own), _bits(self.other))

    @property
    def typicality(self) -> tuple[float, float]:
        """AUROC of |-log p(x) - H| as the sign, H being the mean of -log p of held-out images: too likely counts too.

        The H that an own image is held against leaves that image out.
        """
        own, other = _bits(self.own), _bits(self.other)
        if len(own) < 2:
            return math.nan, math.nan
        without = (own.sum() - own) / (len(own) - 1)
        return auroc((own - without).abs(), (other - own.mean()).abs())

    @property
    def verdict(self) -> str:
        """What the likelihood's AUROC means, in words, with the caveat."""
        area, error = self.likelihood
        if math.isnan(error) or abs(area - 0.5) <= 2 * error:
            says = "the likelihood does not tell the two apart"
        elif area < 0.5:
            says = "the model finds the other images MORE likely than its own kind"
        else:
            says = "the other images are less likely than the model's own kind" + (", mostly" if area < 0.95 else "")
        return f"{says}; {CAVEAT}"


def outliers(
    model: Family,
    own: Tensor,
    other: Tensor,
    *,
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Outliers:
    """log p(x) of held-out images and of images from another source, under one model.

    Args:
        model: of any family that has a log p(x), calibrated where that is of use.
        own: uint8 [N, C, H, W], held-out images of the model's data.
        other: uint8 [M, C, H, W], brought to the same shape and levels.
        samples, seed: Monte-Carlo effort and seed of families whose log p(x) is not exact.
        device: whose processes share the work.
        progress: told ``(images done, N + M)``.

    Raises:
        ValueError: a model without likelihood, or images that do not fit, in one line.
    """
    found: list[LogLikelihood] = []
    for images, done in ((own, 0), (other, len(own))):
        part = part_of(progress, done, len(images), len(own) + len(other))
        scored = log_likelihood(model, images, samples=samples, seed=seed, device=device, progress=part)
        if scored.nats is None:
            raise ValueError(f"outliers are known by log p(x), which is undefined here: {scored.reason}")
        found.append(scored)
    return Outliers(*found)


def auroc(negative: Tensor, positive: Tensor) -> tuple[float, float]:
    """P(score of a positive > score of a negative), ties counting half, and its standard error.

    The error is that of DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated
    receiver operating characteristic curves", from the variances of both sides' shares of pairs won.

    >>> auroc(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0]))[0]
    0.75

    Args:
        negative, positive: scores [N], [M].

    Returns:
        The area, 0.5 for scores that say nothing, and its standard error, NaN where a side has one score only.
    """
    n, m = len(negative), len(positive)
    if not n or not m:
        raise ValueError("an AUROC needs scores on both sides")
    scores = negative.double().sort().values
    under = torch.searchsorted(scores, positive.double(), right=False)
    upto = torch.searchsorted(scores, positive.double(), right=True)
    won = (under + upto) / (2 * n)  # [M]: share of negatives below each positive
    scores = positive.double().sort().values
    under = torch.searchsorted(scores, negative.double(), right=False)
    upto = torch.searchsorted(scores, negative.double(), right=True)
    lost = 1 - (under + upto) / (2 * m)  # [N]: share of positives above each negative
    area = float(won.double().mean())
    if min(n, m) < 2:
        return area, math.nan
    return area, math.sqrt(float(won.double().var()) / m + float(lost.double().var()) / n)


def _bits(answer: LogLikelihood) -> Tensor:
    assert answer.bits is not None
    return answer.bits


def draw_histograms(found: Outliers, names: tuple[str, str], title: str) -> Sheet:
    """Both sets of bits/dim as histograms on one axis."""
    own, other = _bits(found.own), _bits(found.other)
    both = torch.cat([own, other])
    low, high = float(both.min()), float(both.max())
    margin = max((high - low) * 0.03, 1e-6)
    low, high = low - margin, high + margin
    bins = 40
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    heights = [torch.histogram(bits.double(), edges).hist / len(bits) for bits in (own, other)]
    top = max(float(part.max()) for part in heights) * 1.05
    plot = drawing.Plot(
        (560, 300), (low, high), (0, top), ("bits/dim", "share of the images"),
        (drawing.steps(low, high, 6), drawing.steps(0, top, 4)),
    )  # fmt: skip
    for part, fill, edge in zip(heights, ((170, 205, 230), None), (drawing.BLUE, drawing.ORANGE), strict=True):
        for i, height in enumerate(part.tolist()):
            if height:
                plot.bar((float(edges[i]), float(edges[i + 1])), (0, height), fill, edge)
    area, error = found.likelihood
    typical, typical_error = found.typicality
    legend = drawing.key([(drawing.swatch((170, 205, 230)), names[0]), (_hollow(), names[1])])
    lines = [
        f"AUROC of low likelihood {area:.3f} ± {error:.3f}, of atypical likelihood {typical:.3f} ± {typical_error:.3f}",
        f"log p(x): {found.kind}; AUROC 0.5 tells nothing, below 0.5 the other images are the likelier ones",
    ]
    picture = drawing.below([drawing.words([title], 16), drawing.words(lines, 12), legend, plot.finished()])
    return drawing.framed(picture)


def _hollow() -> Sheet:
    return drawing.outlined(drawing.swatch(drawing.PAPER), (0, 0, 14, 14))
