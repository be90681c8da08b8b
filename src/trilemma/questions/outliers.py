"""Does the likelihood of a model tell its own kind of images from another? Often it does not, and that is the point.

Nalisnick, Matsukawa, Teh, Gorur, Lakshminarayanan 2019a, "Do Deep Generative Models Know What They Don't Know?", arXiv
1810.09136: models give *higher* likelihood to simpler images than to those they were trained on, such as to SVHN under
a CIFAR-10 model or to MNIST under a Fashion-MNIST model. A plain remedy is to ask for typical images instead of
likely ones: Nalisnick et al. 2019b, "Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality",
arXiv 1906.02994, here with one image at a time.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from trilemma import drawing
from trilemma.families.family import Family, Progress
from trilemma.likelihood import LogLikelihood, calibrated, log_likelihood, part_of
from trilemma.run import Run

CAVEAT = (
    "deep generative models often give higher likelihood to simpler images than to their own kind "
    "(Nalisnick et al. 2019), so a likelihood alone does not say whether an image belongs"
)


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
    run: Run | Family,
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
        run: a run, or a model loaded from one, of any family that has a log p(x).
        own: uint8 [N, C, H, W], held-out images of the model's data.
        other: uint8 [M, C, H, W], brought to the same shape and levels.
        samples, seed: Monte-Carlo effort and seed of families whose log p(x) is not exact.
        device: where to compute.
        progress: told ``(images done, N + M)``.

    Raises:
        ValueError: a model without likelihood, or images that do not fit, in one line.
    """
    model = calibrated(run, device) if isinstance(run, Run) else run
    answers: list[LogLikelihood] = []
    done = 0
    for images in (own, other):
        tell = part_of(progress, done, len(own) + len(other))
        answer = log_likelihood(model, images, samples=samples, seed=seed, device=device, progress=tell)
        if answer.nats is None:
            raise ValueError(f"outliers are told by log p(x), which is undefined for {model.name}: {answer.reason}")
        answers.append(answer)
        done += len(images)
    return Outliers(answers[0], answers[1])


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


def draw_histograms(answer: Outliers, names: tuple[str, str], path: str | os.PathLike[str], title: str) -> Path:
    """Both sets of bits/dim as histograms on one axis, as a PNG."""
    own, other = _bits(answer.own), _bits(answer.other)
    both = torch.cat([own, other])
    low, high = float(both.min()), float(both.max())
    margin = max((high - low) * 0.03, 1e-6)
    low, high = low - margin, high + margin
    bins = 40
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    shares = [torch.histogram(bits.double(), edges).hist / len(bits) for bits in (own, other)]
    top = max(float(share.max()) for share in shares) * 1.05
    plot = drawing.Plot(
        (560, 300), (low, high), (0, top), ("bits/dim", "share of the images"),
        (drawing.steps(low, high, 6), drawing.steps(0, top, 4)),
    )  # fmt: skip
    for share, fill, edge in zip(shares, ((170, 205, 230), None), (drawing.BLUE, drawing.ORANGE), strict=True):
        for i, height in enumerate(share.tolist()):
            if height:
                plot.bar((float(edges[i]), float(edges[i + 1])), (0, height), fill, edge)
    area, error = answer.likelihood
    typical, typical_error = answer.typicality
    legend = drawing.key([(drawing.swatch((170, 205, 230)), names[0]), (_hollow(), names[1])])
    lines = [
        f"AUROC of low likelihood {area:.3f} ± {error:.3f}, of atypical likelihood {typical:.3f} ± {typical_error:.3f}",
        f"log p(x): {answer.kind}; AUROC 0.5 tells nothing, below 0.5 the other images are the likelier ones",
    ]
    picture = drawing.below([drawing.words([title], 16), drawing.words(lines, 12), legend, plot.finished()])
    return drawing.save(drawing.framed(picture), path)


def _hollow() -> Image.Image:
    return drawing.outlined(drawing.swatch(drawing.PAPER), (0, 0, 14, 14))
