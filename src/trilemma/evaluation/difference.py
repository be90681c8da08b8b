"""When is a difference between two models real, and when would another draw of images undo it?

The rule. For every pair of models and every metric, z is the difference over its standard error: unpaired,
√(e_a² + e_b²), where each model was scored on samples of its own; paired, from the differences image by image, where
both were asked about the same held-out images (bits per dimension). The two-sided p-values of all pairs of one metric
are corrected by Holm's method (1979), and a difference is real at 5 %. Otherwise the two cannot be told apart at this
N. Unpaired models share the real images, whose chance is common to both: the errors leave it out.

The errors are over images of the same model. What a second training run with another seed would give is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Two models on one metric.

    Attributes:
        metric: its name.
        a, b: the models.
        difference: value of a − value of b.
        error: its standard error.
        p: two-sided, corrected for the number of pairs.
        real: whether p is below 5 %.
        paired: whether the error comes from differences on the same images.
        note: what keeps a real difference from saying which model is better.
    """

    metric: str
    a: str
    b: str
    difference: float
    error: float
    p: float
    real: bool
    paired: bool = False
    note: str = ""


def differences(
    metric: str, scores: Mapping[str, Mapping[str, Any]], per_image: Mapping[str, Sequence[float]] | None = None
) -> list[Difference]:
    """All pairs of models that can be compared on one metric.

    Args:
        metric: its name.
        scores: model → metric as a dictionary; without a value, without an error or with a flag it is left out.
        per_image: model → its score of each of the same images, where there is such a thing.

    Returns:
        A `Difference` for each pair, in the order of ``scores``.
    """
    fair = [name for name, score in scores.items() if _comparable(score)]
    raw = []
    for a, b in combinations(fair, 2):
        paired = _paired((per_image or {}).get(a), (per_image or {}).get(b))
        unpaired = math.hypot(scores[a]["error"], scores[b]["error"])
        raw.append((a, b, scores[a]["value"] - scores[b]["value"], unpaired if paired is None else paired, paired))
    p_values = holm([two_sided(difference, error) for _, _, difference, error, _ in raw])
    return [
        Difference(metric, a, b, d, e, p, p < LEVEL, paired is not None, _bound_note(scores[a], scores[b], d))
        for (a, b, d, e, paired), p in zip(raw, p_values, strict=True)
    ]


def judge(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every pair of models on every metric, as plain values.

    Args:
        records: model → what `evaluate` returned for it; empty where there is none.
    """
    measured = {name: record for name, record in records.items() if record}
    names = dict.fromkeys(metric for record in measured.values() for metric in record["metrics"])
    found: list[dict[str, Any]] = []
    for metric in names:
        scores = {name: r["metrics"][metric] for name, r in measured.items() if metric in r["metrics"]}
        per_image = {name: r.get("per_image", {}).get(metric, []) for name, r in measured.items()}
        found += [asdict(difference) for difference in differences(metric, scores, per_image)]
    return found


def two_sided(difference: float, error: float) -> float:
    """The p-value of a difference under a normal law; 0 or 1 where there is no error."""
    if not error:
        return 1.0 if not difference else 0.0
    return 2 * NormalDist().cdf(-abs(difference) / error)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the smallest times m, the next times m − 1, …, never falling, at most 1."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def _comparable(score: Mapping[str, Any]) -> bool:
    known = score.get("value") is not None and score.get("error") is not None
    return known and not score.get("flag") and score.get("better") in ("lower", "higher")


def _paired(x: Sequence[float] | None, y: Sequence[float] | None) -> float | None:
    """Standard error of the mean of x − y over the same images; None where there are none."""
    if not x or not y or len(x) != len(y) or len(x) < 2:
        return None
    gaps = [a - b for a, b in zip(x, y, strict=True)]
    mean = sum(gaps) / len(gaps)
    return math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps))


def _bound_note(a: Mapping[str, Any], b: Mapping[str, Any], difference: float) -> str:
    worse = a if difference > 0 else b
    if worse.get("kind") == "bound" and worse.get("better") == "lower":
        return "the larger value is only a bound, which does not prove a worse model"
    return ""
