"""When is a difference between two models real, and when would another draw of images undo it?

The rule. For every pair of models and every metric, z is the difference over its standard error: unpaired,
√(e_a² + e_b²), where each model was scored on samples of its own; paired, from the differences image by image, where
both were asked about the same held-out images (bits per dimension). The two-sided p-values of all pairs of one metric
are corrected by Holm's method (1979), and a difference is real at 5 %. Otherwise the two cannot be told apart at this
N. Unpaired models share the real images, whose chance is common to both: the errors leave it out.

Where a model was trained with S > 1 seeds, its value is the mean over them, and what another seed would give is in the
rule too. With s² the variance over the seeds of a model, and e its error over images,

    error² = e_a² + e_b² + s_a²/S_a + s_b²/S_b,

the first two terms being that of the differences image by image where there is one. The errors over images are not
divided by S: every seed draws from the same noise and answers on the same images, so that they may err together (where
they do not, s² holds them once more, and the rule is on the safe side). s² is known from few values, so that p is of
Student's t with Welch's degrees of freedom (1947) for the seeds alone, (Σ s²/S)² / Σ (s²/S)²/(S − 1). The errors over
images, which are known well, give none: with Satterthwaite's sum over all four terms an s² that is small by chance
passes for a small one, and equal recipes are told apart in up to 19 % of comparisons instead of 5 %.

Of a model that was trained once the errors are over images alone: what a second training with another seed would give
is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from trilemma.metrics.student import two_sided as of_student

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
        paired: whether the error over images comes from differences on the same images.
        note: what keeps a real difference from saying which model is better.
        images, seeds: the parts of the error: over images, and over training seeds; None where both were trained once.
        freedom: degrees of freedom of Student's t; None for the normal law.
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
    images: float = 0.0
    seeds: float | None = None
    freedom: float | None = None


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
    raw = [_raw(metric, a, b, scores, per_image or {}) for a, b in combinations(fair, 2)]
    p_values = holm([two_sided(each.difference, each.error, each.freedom) for each in raw])
    return [replace(each, p=p, real=p < LEVEL) for each, p in zip(raw, p_values, strict=True)]


def _raw(
    metric: str, a: str, b: str, scores: Mapping[str, Mapping[str, Any]], per_image: Mapping[str, Sequence[float]]
) -> Difference:
    """Two models with the error of their difference; what p is comes later."""
    one, other = scores[a], scores[b]
    spreads = [score["seeds"] for score in (one, other) if score.get("seeds")]
    paired = _paired(per_image.get(a), per_image.get(b))
    images = math.hypot(_over_images(one), _over_images(other)) if paired is None else paired
    parts = [(spread["error"] ** 2, len(spread["values"]) - 1) for spread in spreads]  # s²/S, and S - 1
    error = math.sqrt(images**2 + sum(part for part, _ in parts))
    unsure = sum(part**2 / free for part, free in parts)
    notes = [_bound_note(one, other, one["value"] - other["value"])]
    if len(spreads) == 1:
        once = b if one.get("seeds") else a
        notes.append(f"{once} was trained once, so what another training of it would give is not in the error")
    return Difference(
        metric, a, b, one["value"] - other["value"], error, 1.0, False, paired is not None,
        "; ".join(filter(None, notes)), images,
        math.sqrt(sum(part for part, _ in parts)) if spreads else None,
        sum(part for part, _ in parts) ** 2 / unsure if unsure else None,
    )  # fmt: skip


def _over_images(score: Mapping[str, Any]) -> float:
    """The error over images alone."""
    spread = score.get("seeds")
    return float(spread["images"] if spread else score["error"])


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


def two_sided(difference: float, error: float, freedom: float | None = None) -> float:
    """The p-value of a difference under a normal law, or Student's; 0 or 1 where there is no error."""
    if not error:
        return 1.0 if not difference else 0.0
    return of_student(difference / error, math.inf if freedom is None else freedom)


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
