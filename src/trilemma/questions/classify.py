"""Bayes' rule: a class-conditional model of images is a classifier, p(y|x) ∝ p(x|y) p(y)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress, part_of
from trilemma.drawing import Picture, Sheet
from trilemma.families.family import Family
from trilemma.likelihood import answered
from trilemma.number import Number
from trilemma.questions.answer import Answer, Table
from trilemma.questions.likelihood import undefined
from trilemma.questions.question import Context, Question
from trilemma.run import Run
from trilemma.validate import MOST, MOST_IMAGES, Limits

BINS = 15
"""Bins of confidence in the calibration error (Guo, Pleiss, Sun, Weinberger 2017)."""


@dataclass(frozen=True)
class Classify(Question):
    """A class-conditional model as a classifier."""

    images: Any = None
    """Anything labelled that train takes; by default held-out images of the run's own data."""
    n: Annotated[int, Limits(1, MOST_IMAGES)] | None = None
    """Ask about at most so many of them; by default all that are given, or 500 held-out ones."""
    prior: Literal["uniform", "training"] = "uniform"
    """p(y): uniform, or as often as in the training images."""
    samples: Annotated[int, Limits(1, MOST)] | None = None
    """Monte-Carlo effort where log p(x|y) is not exact: importance samples, or noise levels."""

    name: ClassVar[str] = "classify"
    title: ClassVar[str] = "Classification by Bayes' rule"
    sentence: ClassVar[str] = "How well does p(y|x) ∝ p(x|y) p(y) classify labelled images, and how well calibrated?"
    paper: ClassVar[str] = (
        "Guo, Pleiss, Sun, Weinberger 2017, On calibration of modern neural networks, arXiv:1706.04599"
    )
    vectors_too: ClassVar[bool] = True
    argument: ClassVar[str] = "images"
    most: ClassVar[int] = 500

    @classmethod
    def unable(cls, run: Run) -> str | None:
        if not run.config.spec.classes:
            return "it needs p(x|y), and this run is unconditional: train one with --conditional"
        return undefined(run)

    def answer(self, context: Context) -> Answer:
        config, batch = context.config, context.source(self.images, self.n, self.most)
        labels = batch.true_labels
        if batch.dataset.class_names != config.class_names:
            raise ValueError(
                f"the classes of {batch.name} are not the run's: {', '.join(batch.dataset.class_names[:5])} … "
                f"instead of {', '.join(config.class_names[:5])} …"
            )
        found = classify(
            context.model,
            batch.x,
            labels,
            _counts(context) if self.prior == "training" else None,
            samples=self.samples,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )
        numbers = _numbers(found)
        few = len(config.class_names) <= 12
        return Answer(
            self,
            context.run,
            kind=found.kind,
            numbers=numbers,
            reading=[
                f"accuracy {numbers['accuracy']}, −log p(y|x) {numbers['negative_log_likelihood']} nats, "
                f"calibration error {numbers['calibration_error']} ({batch.words})",
                f"Bayes' rule, {found.kind}: {found.reason}; prior {self.prior}",
            ],
            values={
                "reason": found.reason,
                "classes": list(config.class_names),
                "prior": found.prior.tolist(),
                "accuracy_standard_error": found.accuracy[1],
                "bins": [
                    {"images": n, "confidence": sure, "accuracy": right} for n, sure, right in found.reliability if n
                ],
                "confusion": found.confusion.tolist(),
                "predicted": found.predicted.tolist(),
            },
            tables={"confusion": _confusion(found, config.class_names)} if few else {},
            found=found,
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        return {"reliability": draw_reliability(answer.found, answer.title(answer.protocol["images"]))}


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
    model: Family,
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
        model: of any class-conditional family that has a log p(x|y).
        images: uint8 [N, C, H, W].
        labels: int64 [N], their true classes.
        prior: [K], p(y) or counts; uniform by default.
        samples: Monte-Carlo effort of families whose log p(x|y) is not exact.
        seed: of the Monte-Carlo noise.
        device: whose processes share the work.
        progress: told ``(likelihoods done, N * K)``.

    Raises:
        ValueError: an unconditional model, one without likelihood, labels or a prior that do not fit, in one line.
    """
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


def _counts(context: Context) -> Tensor:
    """How many training images each class has."""
    labels = context.data.label_batch(context.data.train)
    if labels is None:
        raise ValueError(f"{context.data.name} has no labels to count: leave the prior uniform")
    return torch.bincount(labels, minlength=context.spec.classes)


def _numbers(found: Classified) -> dict[str, Number]:
    n, (accuracy, error), (nll, spread) = len(found.labels), found.accuracy, found.negative_log_likelihood
    return {
        "accuracy": Number(accuracy, error, better="higher", n=n, kind=found.kind),
        "negative_log_likelihood": Number(nll, spread, "nats", "lower", n, found.kind, "of the true class").finite(),
        "calibration_error": Number(found.calibration_error, better="lower", n=n, note=f"expected, in {BINS} bins"),
    }


def _confusion(found: Classified, names: tuple[str, ...]) -> Table:
    """A row for each true class, a column for each predicted one."""
    rows = zip(names, found.confusion.tolist(), strict=True)
    return Table(("true ↓ predicted →", *names), tuple((name, *map(str, counts)) for name, counts in rows))


def draw_reliability(found: Classified, title: str) -> Sheet:
    """The reliability diagram: accuracy against confidence, bin by bin, and how many images each bin has."""
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    plot = drawing.Plot((420, 340), (0, 1), (0, 1), ("largest p(y|x) in the bin", "accuracy"), (ticks, ticks))
    most = max(count for count, _, _ in found.reliability)
    for m, (count, _, right) in enumerate(found.reliability):
        if count:
            plot.bar((m / BINS, (m + 1) / BINS), (0, right), (170, 205, 230), drawing.BLUE)
    plot.line([(0, 0), (1, 1)], (110, 110, 110), 1)
    for count, sure, right in found.reliability:
        if count:
            x, y = plot.at(sure, right)
            radius = 2 + 5 * math.sqrt(count / most)
            plot.pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=drawing.ORANGE, width=2)
    (accuracy, error), nll = found.accuracy, found.negative_log_likelihood[0]
    lines = [
        f"accuracy {accuracy:.3f} ± {error:.3f} of {len(found.labels)} images",
        f"calibration error {found.calibration_error:.3f} ({BINS} bins), -log p(y|x) {nll:.3f} nats",
        f"Bayes' rule ({found.kind}: {found.reason})",
        "circles: mean confidence and accuracy of a bin, larger where there are more images",
    ]
    picture = drawing.below([drawing.words([title], 16), drawing.words(lines, 12), plot.finished()])
    return drawing.framed(picture)
