"""What is a code worth to others? Simple classifiers on codes against the same classifiers on raw pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.families.family import Family, Progress
from trilemma.parallel import ranks
from trilemma.questions.decoders import encoding, opened
from trilemma.questions.posterior import posterior
from trilemma.run import Run

NEIGHBOURS = 5
"""Neighbours that vote for a class."""


@dataclass(frozen=True)
class Downstream:
    """What a representation is worth: held-out accuracy of simple classifiers on it.

    Attributes:
        linear: share of right answers of a logistic regression, with its binomial standard error.
        neighbours: that of a vote of the 5 nearest training images.
        dims: length of the representation.
    """

    linear: tuple[float, float]
    neighbours: tuple[float, float]
    dims: int


def downstream(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Downstream:
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
    return Downstream((right[0], errors[0]), (right[1], errors[1]), train.shape[1])


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
    run: Run | Family,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Downstream]:
    """``codes`` against raw ``pixels`` as features for a classifier; a conditional encoder is told no label.

    Args:
        run: a run, or a model loaded from one, of an autoencoder or a VAE.
        train, test: images uint8 [N, C, H, W] and their classes int64 [N].
    """
    model = encoding(opened(run, ranks(device).device), "a downstream check of codes")
    codes = [
        posterior(model, x, device=str(model.device), progress=progress if i == 0 else None).mean
        for i, (x, _) in enumerate((train, test))
    ]
    pixels = [x.flatten(1).float() for x, _ in (train, test)]
    return {
        "codes": downstream(codes[0], train[1], codes[1], test[1]),
        "pixels": downstream(pixels[0], train[1], pixels[1], test[1]),
    }
