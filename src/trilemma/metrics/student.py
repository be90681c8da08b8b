"""Student's t law: p-values where a variance is known from a few values only."""

from __future__ import annotations

import math
from statistics import NormalDist

STEPS = 400
"""Of the continued fraction, at most; it needs a few dozen."""


def two_sided(t: float, freedom: float = math.inf) -> float:
    """P(|T| ≥ |t|) for T of Student's law.

    Args:
        freedom: degrees of freedom, which need not be whole; infinite for the normal law.

    It is the regularised incomplete beta function I_x(ν/2, 1/2) at x = ν/(ν + t²).
    """
    if freedom == math.inf:
        return 2 * NormalDist().cdf(-abs(t))
    if not freedom > 0:
        raise ValueError(f"degrees of freedom must be above 0, not {freedom}")
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), by the continued fraction (NIST handbook, 8.17.22) on the side where it converges fast."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    # Lentz's algorithm: 1 / (1 + d_1 / (1 + d_2 / (1 + …)))
    value, c, d = 1.0, 1.0, 0.0
    for step in range(STEPS):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / ((1 + term * d) or 1e-300)
        c = (1 + term / c) or 1e-300
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * (value - 1)
