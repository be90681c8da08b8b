"""Does each latent stand for one factor of the data? Scores that need images whose factors are known.

The mutual information gap (Chen, Li, Grosse & Duvenaud 2018, "Isolating sources of disentanglement in variational
autoencoders", arXiv 1802.04942, eq. 6), and disentanglement, completeness and informativeness, DCI (Eastwood &
Williams 2018, "A framework for the quantitative evaluation of disentangled representations", section 2).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma import drawing
from trilemma.data.arrays import read_npz

BINS = 20
"""Bins of equal width into which a code is cut, more where a factor has more values than that; and a factor that has
too many values to be classes."""

CLASSES = 64
"""Values that a factor may have as classes when information is counted."""

ORDERED = 10
"""A factor of more values is predicted as a number. Above that a logistic regression, linear in the code, no longer
tells neighbouring values apart; up to it, it reads each off a code that equals the factor."""


@dataclass(frozen=True)
class Disentangled:
    """The scores of codes against factors, each from 0 to 1, where 1 is best.

    Attributes:
        gap: mutual information gap, mean over the factors: how much more the best latent knows of a factor than the
            second best, in units of the factor's entropy.
        gaps: float64 [K], of each factor.
        information: float64 [D, K], mutual information of each latent with each factor, in nats.
        disentanglement: whether each latent matters for one factor only, weighted by how much it matters.
        completeness: whether each factor hangs on one latent only, mean over the factors.
        informativeness: how well the factors of held-out images are predicted, mean over the factors.
        scores: float64 [K], the informativeness of each factor; 0 is guessing, 1 is exact.
        importance: float64 [D, K], the weights that the predictors give the latents; those for a factor sum to its
            score.
        names: of the factors that vary.
    """

    gap: float
    gaps: Tensor
    information: Tensor
    disentanglement: float
    completeness: float
    informativeness: float
    scores: Tensor
    importance: Tensor
    names: tuple[str, ...]


def disentanglement(codes: Tensor, factors: Tensor, names: Sequence[str] | None = None) -> Disentangled:
    """Score codes [N, D] against the factors [N, K] that the images were made from.

    Factors that do not vary are left out. Information is counted over the values of a factor (over 20 bins of them
    where there are over 64) and over at least as many bins of a code. It is too high by about (bins - 1)(values - 1) /
    2N nats where the two are independent, so that many values want many images: 40 want 5,000.

    For DCI the first 80 % of the rows fit a predictor of each factor, and the rest judge it (`predicted`). Its
    importances are the sizes of its weights, made to sum to its score, so that a factor which no latent predicts does
    not count as one that all share.

    Raises:
        ValueError: rows that do not fit, fewer than 50 of them, or no factor that varies, in one line.
    """
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or len(codes) < 50:
        raise ValueError(
            f"disentanglement needs codes [N, D] and factors [N, K] of at least 50 images, not {list(codes.shape)} "
            f"and {list(factors.shape)}"
        )
    named = [f"factor {k}" for k in range(factors.shape[1])] if names is None else list(names)
    kept = [k for k, column in enumerate(factors.T) if float(column.max()) > float(column.min())]
    if not kept:
        raise ValueError("no factor varies over these images: take more of them")
    columns = factors.double().T[kept]
    classes = [as_classes(column) for column in columns]
    bins = [max(BINS, int(y.max()) + 1) for y in classes]
    information = torch.tensor(
        [
            [mutual_information(binned(code, count), y) for count, y in zip(bins, classes, strict=True)]
            for code in codes.double().T
        ],
        dtype=torch.float64,
    )
    entropies = torch.tensor([mutual_information(y, y) for y in classes], dtype=torch.float64)
    gaps = information_gaps(information, entropies)
    split = int(0.8 * len(codes))
    mean, std = codes[:split].double().mean(0), codes[:split].double().std(0)
    x = ((codes.double() - mean) / torch.where(std > 1e-9, std, 1.0)).float()
    weights, scores = zip(*(predicted(x, column, split) for column in columns), strict=True)
    score = torch.tensor(scores, dtype=torch.float64)
    importance = torch.stack(weights, 1)
    importance = importance / importance.sum(0).clamp(min=1e-12) * score
    d, c = dci(importance)
    return Disentangled(
        float(gaps.mean()), gaps, information, d, c, float(score.mean()), score, importance,
        tuple(named[k] for k in kept),
    )  # fmt: skip


def predicted(x: Tensor, factor: Tensor, split: int) -> tuple[Tensor, float]:
    """How much each code counts for a factor [N], float64 [D], and how well it is predicted, 0 (guessing) to 1.

    x [N, D] has unit spread; the first ``split`` rows are fitted, the others judged. A factor of at most 10 values is
    taken as classes, which need no order (a shape): logistic regression, scored by (accuracy - c) / (1 - c) with the
    share c of the commonest class. One of more values is taken as a number, as in the paper (Eastwood & Williams 2018,
    sections 2 and 4, a lasso and its normalised root-mean-square error), scored by 1 - error², the share of the
    variance explained; an angle is a number too, and a code that turns with it loses where it begins again. A score
    below 0 is 0.
    """
    distinct, values = np.unique(factor.numpy(), return_inverse=True)
    if len(distinct) <= ORDERED:
        y = torch.from_numpy(values).long()
        # The noise of the gradient of a class falls with the root of their number, and the penalty with it.
        weight, bias = sparse_logistic(x[:split], y[:split], len(distinct), 0.02 / math.sqrt(max(4, len(distinct))))
        accuracy = float(((x[split:] @ weight + bias).argmax(1) == y[split:]).double().mean())
        chance = float((y[split:] == y[:split].mode().values).double().mean())
        return weight.abs().sum(1).double(), max(0.0, (accuracy - chance) / (1 - chance)) if chance < 1 else 0.0
    std = float(factor[:split].std())
    target = ((factor - factor[:split].mean()) / (std if std > 0 else 1.0)).float()
    slope, offset = sparse_linear(x[:split], target[:split])
    error = (x[split:] @ slope + offset - target[split:]).double().square().sum()
    spread = float(target[split:].double().square().sum())  # about the fitted rows' mean: what guessing it costs
    return slope.abs().double(), max(0.0, 1 - float(error) / spread) if spread > 0 else 0.0


def as_classes(values: Tensor) -> Tensor:
    """A factor [N] as int64 classes 0, 1, …, in its order; in 20 bins where it has more than 64 values."""
    distinct = torch.from_numpy(np.unique(values.numpy(), return_inverse=True)[1]).long()
    return distinct if int(distinct.max()) < CLASSES else binned(values)


def binned(values: Tensor, bins: int = BINS) -> Tensor:
    """Numbers [N] to their bin among ``bins`` of equal width between the least and the largest: int64 [N]."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return torch.zeros(len(values), dtype=torch.int64)
    return ((values - low) / (high - low) * bins).long().clamp(max=bins - 1)


def mutual_information(a: Tensor, b: Tensor) -> float:
    """I(a; b) in nats of two columns of classes int64 [N], from their counts; I(a; a) is the entropy.

    >>> round(mutual_information(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])), 6)
    0.0
    """
    many = int(b.max()) + 1
    joint = torch.bincount(a * many + b, minlength=(int(a.max()) + 1) * many).view(-1, many).double() / len(a)
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / product[seen]).log()).sum())


def information_gaps(information: Tensor, entropies: Tensor) -> Tensor:
    """(I(z_best; v_k) - I(z_second; v_k)) / H(v_k) of information [D, K] and entropies [K]: [K]."""
    best = information.topk(min(2, len(information)), dim=0).values
    second = best[1] if len(best) > 1 else torch.zeros_like(best[0])
    return (best[0] - second) / entropies


def dci(importance: Tensor) -> tuple[float, float]:
    """Disentanglement and completeness of importances [D, K], at least 0.

    With P the rows made to sum to one, D = Σ_i ρ_i (1 - H_K(P_i)), the entropy to the base K and ρ_i the share of all
    importance that latent i has; completeness is the same over columns, to the base D, with equal weights.
    """
    total = importance.sum()
    if not float(total) > 0:
        return 0.0, 0.0
    rows = 1 - _entropy(importance)
    columns = 1 - _entropy(importance.T)
    used = importance.sum(0) > 0
    return float((rows * importance.sum(1) / total).sum()), float(torch.where(used, columns, 0.0).mean())


def _entropy(weights: Tensor) -> Tensor:
    """Entropy of each row as a share of the most it could be; 0 for rows of a single column."""
    if weights.shape[1] < 2:
        return torch.zeros(len(weights), dtype=weights.dtype)
    p = weights / weights.sum(1, keepdim=True).clamp(min=1e-300)
    return -torch.xlogy(p, p).sum(1) / math.log(weights.shape[1])


def sparse_logistic(
    x: Tensor, y: Tensor, classes: int, penalty: float = 0.01, steps: int = 300
) -> tuple[Tensor, Tensor]:
    """Weights [D, classes] and biases of a logistic regression: cross-entropy + penalty · Σ |W|.

    x [N, D] should have unit spread.
    """
    features = torch.cat([x, torch.ones(len(x), 1)], 1)
    target = F.one_hot(y, classes).to(x.dtype)

    def gradient(weight: Tensor) -> Tensor:
        return features.T @ ((features @ weight).softmax(1) - target) / len(x)

    weight = _shrunk(gradient, features, classes, 0.5, penalty, steps)
    return weight[:-1], weight[-1]


def sparse_linear(x: Tensor, y: Tensor, penalty: float = 0.01, steps: int = 300) -> tuple[Tensor, Tensor]:
    """Weights [D] and bias of the lasso: mean squared error / 2 + penalty · Σ |w|; x [N, D], y [N] of unit spread."""
    features = torch.cat([x, torch.ones(len(x), 1)], 1)

    def gradient(weight: Tensor) -> Tensor:
        return features.T @ (features @ weight - y[:, None]) / len(x)

    weight = _shrunk(gradient, features, 1, 1.0, penalty, steps)[:, 0]
    return weight[:-1], weight[-1]


def _shrunk(
    gradient: Callable[[Tensor], Tensor], features: Tensor, outputs: int, curvature: float, penalty: float, steps: int
) -> Tensor:
    """The minimum [D + 1, outputs] of a convex loss + penalty · Σ |W|, by proximal gradient; the last row is free.

    FISTA (Beck & Teboulle 2009) with the step 1 / L of the bound L = curvature · λ_max(XᵀX / N), so that no rate is to
    be chosen.
    """
    step = 1 / (curvature * float(torch.linalg.eigvalsh(features.T @ features / len(features))[-1]) + 1e-9)
    weight = torch.zeros(features.shape[1], outputs)
    ahead, t = weight, 1.0
    for _ in range(steps):
        moved = ahead - step * gradient(ahead)
        shrunk = torch.cat([F.softshrink(moved[:-1], penalty * step), moved[-1:]])
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead, weight, t = shrunk + (t - 1) / following * (shrunk - weight), shrunk, following
    return weight


def read_factors(path: str | os.PathLike[str]) -> tuple[Tensor, tuple[str, ...]]:
    """``factors`` [N, K] of an npz file with images, and their names from ``factor_names`` if it has them.

    Raises:
        ValueError: a file that cannot be read, or without factors, in one line.
    """
    arrays = read_npz(Path(path))
    if "factors" not in arrays or arrays["factors"].ndim != 2:
        raise ValueError(f"{path} has no array 'factors' [N, K], only {', '.join(sorted(arrays)) or 'nothing'}")
    factors = torch.from_numpy(np.asarray(arrays["factors"], np.float64))
    names = tuple(str(name) for name in arrays.get("factor_names", ()))
    return factors, names if len(names) == factors.shape[1] else tuple(f"factor {k}" for k in range(factors.shape[1]))


def draw_disentanglement(answer: Disentangled, path: str | os.PathLike[str], title: str) -> Path:
    """A PNG: mutual information (as a share of each factor's largest) and importance, latents down, factors across."""
    maps = []
    for name, matrix in (("mutual information", answer.information), ("importance (DCI)", answer.importance)):
        shares = matrix / matrix.amax(0, keepdim=True).clamp(min=1e-12)
        cells = drawing.magnified(drawing.ramp(shares), 36)
        heads = drawing.beside([drawing.words([head[:6]], 11, 36) for head in answer.names], 0)
        left = drawing.below([drawing.words([f"z{j}"], 12, 24).resize((24, 17)) for j in range(len(matrix))], 19)
        maps.append(
            drawing.below([drawing.words([name], 12), drawing.beside([drawing.swatch(drawing.PAPER, 24), heads], 4),
                           drawing.beside([left, cells], 4)], 4)
        )  # fmt: skip
    lines = [
        f"mutual information gap {answer.gap:.3f}; disentanglement {answer.disentanglement:.3f}, completeness "
        f"{answer.completeness:.3f}, informativeness {answer.informativeness:.3f}",
        "colours: shares of the largest in each column, dark 0 to bright 1",
    ]
    return drawing.save(
        drawing.framed(
            drawing.below([drawing.words([title], 16), drawing.words(lines, 12), drawing.beside(maps, 30)], 10)
        ),
        path,
    )
