"""Bayes' rule: a class-conditional model of images is a classifier, p(y|x) ∝ p(x|y) p(y)."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import part_of
from trilemma.families.family import Family, Progress
from trilemma.likelihood import answered
from trilemma.parallel import ranks
from trilemma.run import Run

BINS = 15
"""Bins of confidence in the calibration error (Guo, Pleiss, Sun, Weinberger 2017)."""


@dataclass(frozen=True)
class Classified:
    """What Bayes' rule says of images whose class is known.

    Attributes:
        log_posterior: float64 [N, K], log p(y|x).
        labels: int64 [N], the classes they truly have.
        prior: float64 [K], p(y).
        kind: what the evidence of a class is: ``exact``, ``bound`` or ``estimate``. Differences of bounds are no bound.
        reason: how it came about.
    """

    log_posterior: Tensor
    labels: Tensor
    prior: Tensor
    kind: str
    reason: str

    @property
    def predicted(self) -> Tensor:
        """The most probable class: int64 [N]."""
        return self.log_posterior.argmax(1)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Share of images whose most probable class is their own, and its binomial standard error."""
        share = float((self.predicted == self.labels).double().mean())
        return share, math.sqrt(share * (1 - share) / len(self.labels))

    @property
    def negative_log_likelihood(self) -> tuple[float, float]:
        """Mean of -log p(y|x) of the true class in nats, and its standard error; log K without looking."""
        nats = -self.log_posterior.gather(1, self.labels[:, None])[:, 0]
        return float(nats.mean()), float(nats.std() / math.sqrt(len(nats))) if len(nats) > 1 else math.nan

    @property
    def reliability(self) -> list[tuple[int, float, float]]:
        """For each of `BINS` bins of the largest p(y|x): how many images, their mean of it, their accuracy."""
        confidence = self.log_posterior.amax(1).exp()
        right = (self.predicted == self.labels).double()
        where = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # bins (m/M, (m+1)/M]
        bins = []
        for m in range(BINS):
            inside = where == m
            count = int(inside.sum())
            means = (float(confidence[inside].mean()), float(right[inside].mean())) if count else (math.nan, math.nan)
            bins.append((count, *means))
        return bins

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean over images of |accuracy - confidence| of their bin (equation 3)."""
        return sum(count * abs(right - sure) for count, sure, right in self.reliability if count) / len(self.labels)

    @property
    def confusion(self) -> Tensor:
        """int64 [K, K]: how many images of each class (row) were given each class (column)."""
        classes = self.log_posterior.shape[1]
        return torch.bincount(self.labels * classes + self.predicted, minlength=classes**2).view(classes, classes)


def classify(
    run: Run | Family,
    images: Tensor,
    labels: Tensor,
    prior: Tensor | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Classified:
    """p(y|x) of images by Bayes' rule, from the `class_evidence` of each class with the same noise: log p(x|y), or what
    tells the classes apart as well.

    Args:
        run: a run, or a model loaded from one, of any class-conditional family that has a log p(x|y).
        images: uint8 [N, C, H, W].
        labels: int64 [N], their true classes.
        prior: [K], p(y) or counts; uniform by default.
        samples: Monte-Carlo effort of families whose log p(x|y) is not exact.
        seed: of the Monte-Carlo noise.
        device: where to compute.
        progress: told ``(likelihoods done, N * K)``.

    Raises:
        ValueError: an unconditional model, one without likelihood, labels or a prior that do not fit, in one line.
    """
    model = run.model(ranks(device).device) if isinstance(run, Run) else run
    classes = model.spec.classes
    if not classes:
        raise ValueError("Bayes' rule needs p(x|y), and this model is unconditional: train it with --conditional")
    if labels.shape != (len(images),) or not len(images):
        raise ValueError(f"there must be one label for each of at least one image, not {list(labels.shape)}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, not {int(labels.min())} to {int(labels.max())}")
    prior = torch.ones(classes) if prior is None else prior
    if prior.shape != (classes,) or not bool((prior >= 0).all()) or not float(prior.sum()) > 0:
        raise ValueError(f"the prior must be {classes} numbers from 0, not all 0")
    prior = prior.double() / prior.double().sum()
    columns, kind, reason = [], "", ""
    for y in range(classes):
        given = torch.full((len(images),), y)
        tell = part_of(progress, y * len(images), len(images), classes * len(images))
        answer = answered(
            model.class_evidence, model, images, given, samples=samples, seed=seed, device=device, progress=tell
        )
        if answer.nats is None:
            raise ValueError(f"Bayes' rule needs log p(x|y), which is undefined for {model.name}: {answer.reason}")
        columns.append(answer.nats)
        kind, reason = answer.kind, answer.reason
    joint = torch.stack(columns, 1) + prior.log()
    return Classified(joint.log_softmax(1), labels.cpu(), prior, kind, reason)


def draw_reliability(answer: Classified, path: str | os.PathLike[str], title: str) -> Path:
    """The reliability diagram as a PNG: accuracy against confidence, bin by bin, and how many images each bin has."""
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    plot = drawing.Plot((420, 340), (0, 1), (0, 1), ("largest p(y|x) in the bin", "accuracy"), (ticks, ticks))
    most = max(count for count, _, _ in answer.reliability)
    for m, (count, _, right) in enumerate(answer.reliability):
        if count:
            plot.bar((m / BINS, (m + 1) / BINS), (0, right), (170, 205, 230), drawing.BLUE)
    plot.line([(0, 0), (1, 1)], (110, 110, 110), 1)
    for count, sure, right in answer.reliability:
        if count:
            x, y = plot.at(sure, right)
            radius = 2 + 5 * math.sqrt(count / most)
            plot.pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=drawing.ORANGE, width=2)
    (accuracy, error), nll = answer.accuracy, answer.negative_log_likelihood[0]
    lines = [
        f"accuracy {accuracy:.3f} ± {error:.3f} of {len(answer.labels)} images",
        f"calibration error {answer.calibration_error:.3f} ({BINS} bins), -log p(y|x) {nll:.3f} nats",
        f"Bayes' rule ({answer.kind}: {answer.reason})",
        "circles: mean confidence and accuracy of a bin, larger where there are more images",
    ]
    picture = drawing.below([drawing.words([title], 16), drawing.words(lines, 12), plot.finished()])
    return drawing.save(drawing.framed(picture), path)
