"""How a score falls with the number of training images: laws fitted to a few sizes, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

EXPONENTS = np.geomspace(0.1, 3.0, 120)
"""Exponents that are tried; the law is linear in all else."""

STEEPNESS = np.geomspace(0.3, 12.0, 30)
"""The same of `Fading`."""

ROUNDS = 400
"""Of the bootstrap."""

WITH_OFFSET = 4
"""Sizes from which on what remains of infinitely many images is fitted too; with fewer it is taken to be 0."""


@dataclass(frozen=True)
class Law:
    """A law of the number N of images, and the same law fitted to redrawn values.

    Attributes:
        parameters: by name.
        draws: each parameter in each round, float64 [rounds].
        misfit: Σ ((value − law)/error)² over `free` degrees of freedom; of a law that is right about as much.
        free: sizes less parameters.
        form: the law in signs.
    """

    parameters: dict[str, float]
    draws: dict[str, Array]
    misfit: float
    free: int
    form: str

    def at(self, n: Sequence[float] | Array) -> Array:
        """The law at some N: float64 [len(n)]."""
        return _value(self.form, self.parameters, np.asarray(n, np.float64))

    def band(self, n: Sequence[float] | Array, share: float = 0.95) -> tuple[Array, Array]:
        """The lower and upper end of the interval that the draws give at each N."""
        x = np.asarray(n, np.float64)
        every = np.stack(
            [
                _value(self.form, {name: float(values[i]) for name, values in self.draws.items()}, x)
                for i in range(len(next(iter(self.draws.values()))))
            ]
        )
        low, high = np.quantile(every, [(1 - share) / 2, (1 + share) / 2], axis=0)
        return low, high

    def interval(self, name: str, share: float = 0.95) -> tuple[float, float]:
        """The interval of a parameter."""
        low, high = np.quantile(self.draws[name], [(1 - share) / 2, (1 + share) / 2])
        return float(low), float(high)


POWER, FADING = "a + b N^-c", "1 / (1 + (N / h)^c)"


def power_law(
    n: Sequence[float], values: Sequence[float], errors: Sequence[float], rounds: int = ROUNDS, seed: int = 0
) -> Law:
    """Fit value = a + b N^−c with a, b ≥ 0 by least squares, weighted by the errors.

    The form of learning curves (Hestness et al. 2017, "Deep learning scaling is predictable, empirically",
    arXiv:1712.00409): a is what remains of infinitely many images. With fewer than `WITH_OFFSET` sizes a = 0.
    The uncertainty is a parametric bootstrap: values are redrawn from normal laws with their errors, and fitted anew.

    Args:
        n: the sizes, [K].
        values, errors: at each of them.

    Raises:
        ValueError: fewer than 3 sizes, or an error that is not above 0, in one line.
    """
    x, y, e = (np.asarray(each, np.float64) for each in (n, values, errors))
    if len(np.unique(x)) < 3:
        raise ValueError(f"a law is fitted to at least 3 sizes, not {len(np.unique(x))}")
    if not (e > 0).all() or not np.isfinite(np.concatenate([x, y, e])).all():
        raise ValueError("a law is fitted to finite values with errors above 0")
    offset = len(np.unique(x)) >= WITH_OFFSET
    drawn = y + e * np.random.Generator(np.random.Philox(key=[seed, 0])).standard_normal((rounds, len(y)))
    a, b, c, misfit = _least_squares(x, np.concatenate([y[None], drawn]), e, offset)
    parameters = {"a": float(a[0]), "b": float(b[0]), "c": float(c[0])}
    return Law(parameters, {"a": a[1:], "b": b[1:], "c": c[1:]}, float(misfit[0]), len(x) - 2 - offset, POWER)


def _least_squares(x: Array, y: Array, e: Array, offset: bool) -> tuple[Array, Array, Array, Array]:
    """a, b, c and the misfit of each row of ``y`` [R, K]: of each exponent the best a and b, and of these the best."""
    w = 1 / e**2
    best = np.full(len(y), np.inf)
    found = np.zeros((3, len(y)))
    start = x.min()
    for c in EXPONENTS:
        f = (x / start) ** -c  # b is found at the smallest size, where it is of the size of the values
        only = np.maximum((w * f * y).sum(1) / (w * f * f).sum(), 0)
        candidates = [(np.zeros(len(y)), only)]
        if offset:
            flat = np.maximum((w * y).sum(1) / w.sum(), 0)
            candidates.append((flat, np.zeros(len(y))))
            s, sf, sff = w.sum(), (w * f).sum(), (w * f * f).sum()
            sy, sfy = (w * y).sum(1), (w * f * y).sum(1)
            det = s * sff - sf**2
            a, b = (sff * sy - sf * sfy) / det, (s * sfy - sf * sy) / det
            inside = (a >= 0) & (b >= 0)
            candidates.append((np.where(inside, a, 0.0), np.where(inside, b, only)))
        for a, b in candidates:
            misfit = (w * (y - a[:, None] - b[:, None] * f) ** 2).sum(1)
            better = misfit < best
            best = np.where(better, misfit, best)
            found[:, better] = np.stack([a, b * start**c, np.full(len(y), c)])[:, better]
    return found[0], found[1], found[2], best


def fading(
    n: Sequence[float], shares: Sequence[float], counts: Sequence[int], rounds: int = ROUNDS, seed: int = 0
) -> Law:
    """Fit share = 1 / (1 + (N/h)^c) by maximum likelihood: copies fade as images become many, at h half are left.

    The uncertainty is a parametric bootstrap over the samples: shares are redrawn from binomial laws.

    Args:
        n: the sizes, [K].
        shares: of copies at each of them.
        counts: of the samples that they are shares of.

    Raises:
        ValueError: fewer than 3 sizes, or all shares are 0 or all 1, which say nothing of where they fade, in one line.
    """
    x, p, m = (np.asarray(each, np.float64) for each in (n, shares, counts))
    if len(np.unique(x)) < 3:
        raise ValueError(f"a law is fitted to at least 3 sizes, not {len(np.unique(x))}")
    if not (p > 0).any() or not (p < 1).any():
        raise ValueError("all shares are 0, or all are 1: they do not say where copies fade")
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    drawn = generator.binomial(m.astype(np.int64), p, (rounds, len(p))) / m
    half, steep, misfit = _most_likely(x, np.concatenate([p[None], drawn]), m)
    return Law(
        {"h": float(half[0]), "c": float(steep[0])},
        {"h": half[1:], "c": steep[1:]},
        float(misfit[0]),
        len(x) - 2,
        FADING,
    )


def _most_likely(x: Array, p: Array, m: Array) -> tuple[Array, Array, Array]:
    """h, c and the deviance of each row of shares ``p`` [R, K], on a grid."""
    halves = np.geomspace(x.min() / 10, x.max() * 10, 500)
    ceiling = (m * (_xlogy(p, p) + _xlogy(1 - p, 1 - p))).sum(1)
    best, found = np.full(len(p), -np.inf), np.zeros((2, len(p)))
    for half in halves:
        for steep in STEEPNESS:
            q = np.clip(1 / (1 + (x / half) ** steep), 1e-9, 1 - 1e-9)
            fit = (m * (p * np.log(q) + (1 - p) * np.log(1 - q))).sum(1)
            better = fit > best
            best = np.where(better, fit, best)
            found[:, better] = np.array([[half], [steep]])
    return found[0], found[1], 2 * (ceiling - best)


def _xlogy(x: Array, y: Array) -> Array:
    return np.where(x > 0, x * np.log(np.maximum(y, 1e-300)), 0.0)


def _value(form: str, parameters: dict[str, float], n: Array) -> Array:
    if form == POWER:
        found: Array = parameters["a"] + parameters["b"] * n ** -parameters["c"]
        return found
    share: Array = 1 / (1 + (n / parameters["h"]) ** parameters["c"])
    return share
