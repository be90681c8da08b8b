"""One recipe trained with several seeds, as one record: means over the seeds, with both errors beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from statistics import fmean, stdev
from typing import Any

from trilemma.evaluation.metric import read
from trilemma.number import Number


def pooled(records: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The records of one recipe by their training seeds, as one.

    Each metric is the mean over the seeds. Its ``seeds`` says what it is made of:

    - ``values``, one for each seed, in the order of ``of``;
    - ``images``, the error over images: the root mean square of those of the seeds. It is not divided by their
      number, since they draw from the same noise and answer on the same images;
    - ``spread``, the standard deviation s over seeds, and ``error``, s/√S.

    Its ``error`` is √(images² + s²/S). What else a record holds, pictures, copies, spectra and answers, is that of the
    first seed. An empty record, of a training that broke down, is left out.
    """
    known = {seed: record for seed, record in records.items() if record}
    if len(known) < 2:
        return dict(next(iter(known.values()), {}))
    first = next(iter(known.values()))
    every = [name for name in first["metrics"] if all(name in record["metrics"] for record in known.values())]
    found = {name: _mean(name, {seed: r["metrics"][name] for seed, r in known.items()}, first) for name in every}
    flags = [
        flag if all(flag in record["flags"] for record in known.values()) else f"seed {seed}: {flag}"
        for seed, record in known.items()
        for flag in record["flags"]
    ]
    each = {name: [r.get("per_image", {}).get(name, []) for r in known.values()] for name in first.get("per_image", {})}
    per_image = {
        name: [fmean(values) for values in zip(*rows, strict=True)]
        for name, rows in each.items()
        if len({len(row) for row in rows}) == 1
    }
    return {**first, "metrics": found, "flags": list(dict.fromkeys(flags)), "per_image": per_image}


def _mean(name: str, scores: Mapping[int, Mapping[str, Any]], record: Mapping[str, Any]) -> dict[str, Any]:
    """One metric over the seeds."""
    first = next(iter(scores.values()))
    numbers = {seed: Number.read(score) for seed, score in scores.items()}
    whole = Number.read(first)
    flags = {seed: number.flag for seed, number in numbers.items() if number.flag}
    flag = None
    if flags:
        seed, said = next(iter(flags.items()))
        flag = said if len(set(flags.values())) == 1 and len(flags) == len(numbers) else f"seed {seed}: {said}"
    values = [number.value for number in numbers.values() if number.value is not None]
    if len(values) < len(numbers):
        missing = next(seed for seed, number in numbers.items() if number.value is None)
        if not values:
            return dict(first)
        return asdict(replace(whole, value=None, error=None, flag=f"no value for seed {missing}", reading=""))
    errors = [number.error for number in numbers.values() if number.error is not None]
    images = math.sqrt(fmean(error**2 for error in errors)) if len(errors) == len(values) else None
    spread = stdev(values)
    over = spread / math.sqrt(len(values))
    number = replace(
        whole,
        value=fmean(values),
        error=None if images is None else math.hypot(images, over),
        flag=flag,
        protocol=f"{whole.protocol}; mean of {len(values)} training seeds".removeprefix("; "),
    )
    rungs = record.get("ladder")
    number = read(name, number, Number.read(record.get("floor", {}).get(name)), rungs) if number.reading else number
    return asdict(number) | {
        "seeds": {"of": list(scores), "values": values, "images": images, "spread": spread, "error": over}
    }
