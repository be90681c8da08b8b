"""What is a code worth to others? Simple classifiers on codes against the same classifiers on raw pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.blocks import Progress
from trilemma.data import subset
from trilemma.families.family import Decodes, Encodes, Family
from trilemma.number import Number
from trilemma.questions.answer import Answer, Table
from trilemma.questions.posterior import posterior
from trilemma.questions.question import Batch, Context, Question
from trilemma.validate import MOST_IMAGES, Limits

NEIGHBOURS = 5
"""Neighbours that vote for a class."""


@dataclass(frozen=True)
class Downstream(Question):
    """Simple classifiers on codes against the same classifiers on raw pixels."""

    n: Annotated[int, Limits(1, MOST_IMAGES)] = 2000
    """Training images of the classifiers; half as many held-out ones judge them."""

    name: ClassVar[str] = "downstream"
    title: ClassVar[str] = "Downstream accuracy of codes"
    sentence: ClassVar[str] = "What are the codes worth to simple classifiers, against raw pixels?"
    capabilities: ClassVar[tuple[type, ...]] = (Encodes, Decodes)

    def answer(self, context: Context) -> Answer:
        data, batches = context.data, []
        for side, n in ((data.train, self.n), (data.test, max(1, self.n // 2))):
            indices = subset(side, n, context.seed)
            batches.append(Batch(data.batch(indices), None, data.name, indices.tolist(), data))
        train, test = batches
        sides = [(batch.x, batch.true_labels) for batch in batches]
        found = downstream_check(context.model, sides[0], sides[1], progress=context.progress)
        numbers = {
            f"{name}_{which}": Number(*value, unit="accuracy", better="higher", n=len(test.x))
            for name, each in found.items()
            for which, value in (("linear", each.linear), ("neighbours", each.neighbours))
        }
        rows = [
            (name, str(each.dims), str(numbers[f"{name}_linear"]), str(numbers[f"{name}_neighbours"]))
            for name, each in found.items()
        ]
        return Answer(
            self,
            context.run,
            numbers=numbers,
            reading=[f"accuracy on {len(test.x)} held-out images of {data.name}, {len(train.x)} training images"],
            values={
                "train": len(train.x),
                "test": len(test.x),
                "features": {
                    name: {
                        "dims": each.dims,
                        "linear": each.linear[0],
                        "linear_standard_error": each.linear[1],
                        "neighbours": each.neighbours[0],
                        "neighbours_standard_error": each.neighbours[1],
                    }
                    for name, each in found.items()
                },
            },
            tables={
                "": Table(("features", "numbers", "linear probe", f"{NEIGHBOURS} nearest neighbours"), tuple(rows))
            },
            protocol={"images": data.name},
        )


@dataclass(frozen=True)
class Worth:
    """What a representation is worth: held-out accuracy of simple classifiers on it.

    Attributes:
        linear: share of right answers of a logistic regression, with its binomial standard error.
        neighbours: that of a vote of the 5 nearest training images.
        dims: length of the representation.
    """

    linear: tuple[float, float]
    neighbours: tuple[float, float]
    dims: int


def downstream(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Worth:
    """Judge features [N, d] by how well simple classifiers find the classes int64 [N] of held-out ones [M, d].

    Raises:
        ValueError: fewer than two classes, or shapes that do not fit, in one line.
    """
    if train_labels.shape != (len(train),) or test_labels.shape != (len(test),) or not len(test):
        raise ValueError(f"there must be one label for each of {len(train)} and of {len(test)} images")
    if int(train_labels.min()) == int(train_labels.max()):
        raise ValueError("a downstream check needs images of at least two classes")
    mean, std = train.double().mean(0), train.double().std(0)
    std = torch.where(std > 1e-9, std, 1.0)
    a, b = (((part.double() - mean) / std).float() for part in (train, test))
    linear = linear_probe(a, train_labels, b)
    right = [float((answer == test_labels).double().mean()) for answer in (linear, vote(train, train_labels, test))]
    errors = [math.sqrt(share * (1 - share) / len(test)) for share in right]
    return Worth((right[0], errors[0]), (right[1], errors[1]), train.shape[1])


def linear_probe(train: Tensor, labels: Tensor, test: Tensor, decay: float = 1e-3) -> Tensor:
    """The classes, int64 [M], that a logistic regression fitted to ``train`` [N, d] gives to ``test`` [M, d].

    It minimises the cross-entropy plus ½ decay ‖W‖², which is convex, by L-BFGS from 0; features should have unit
    spread.
    """
    classes = int(labels.max()) + 1
    weight = torch.zeros(train.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(train @ weight + bias, labels) + 0.5 * decay * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[arg-type, no-untyped-call]
    return (test @ weight.detach() + bias.detach()).argmax(1)


def vote(train: Tensor, labels: Tensor, test: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The commonest class among the k nearest of ``train`` [N, d] for each of ``test`` [M, d]; ties to the nearer."""
    k, classes = min(k, len(train)), int(labels.max()) + 1
    answers = []
    for part in torch.split(test.float(), 256):
        near = torch.cdist(part, train.float()).topk(k, largest=False, sorted=True).indices
        # A little more weight for the nearer decides ties, and nothing else.
        weight = 1 + torch.linspace(1e-3, 0, k)
        votes = torch.zeros(len(part), classes).scatter_add_(1, labels[near], weight.expand(len(part), k).contiguous())
        answers.append(votes.argmax(1))
    return torch.cat(answers)


def downstream_check(
    model: Family, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, progress: Progress | None = None
) -> dict[str, Worth]:
    """``codes`` against raw ``pixels`` as features for a classifier; a conditional encoder is told no label.

    Args:
        model: of a family that `Encodes` and `Decodes`, on its device.
        train, test: images uint8 [N, C, H, W] and their classes int64 [N].
    """
    codes = [posterior(model, x, progress=p).mean for (x, _), p in ((train, progress), (test, None))]
    pixels = [x.flatten(1).float() for x, _ in (train, test)]
    return {
        name: downstream(features[0], train[1], features[1], test[1])
        for name, features in (("codes", codes), ("pixels", pixels))
    }
