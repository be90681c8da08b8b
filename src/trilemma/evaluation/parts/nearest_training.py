"""How far samples are from the nearest training image, in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.nearness import by_pixels, train_pixels
from trilemma.evaluation.reading import WITHIN, unclear
from trilemma.evaluation.standing import place
from trilemma.number import Number


class NearestTraining(Metric):
    name = "nearest_training"
    head = "Nearest"
    group = "memorisation"
    meaning = "Median distance in pixels from a sample to the nearest training image; 0 is a copy."
    misleads = "Plain or dark images are near to everything: read it beside the held-out images' own distance."
    source = "root mean square over pixels, in grey levels"
    order = 74

    def measure(self, of: Measured) -> Number:
        near, train = by_pixels(of), train_pixels(of.real)
        vectors = train.is_floating_point()
        ordered = (near.distance / math.sqrt(train.shape[1])).sort().values
        n = len(ordered)
        reach = math.sqrt(n) / 2  # one standard error of a median, in ranks
        low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
        things = "vectors" if vectors else "images"
        return Number(
            float(ordered.median()),
            float(ordered[high] - ordered[low]) / 2,
            "spreads" if vectors else "grey levels",
            n=n,
            protocol=f"root mean square over {'values' if vectors else 'pixels'}, {n:,} {things} against "
            f"{len(train):,} training {things}",
        )

    def read(self, number: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> str:
        if floor is None or floor.value is None:
            return ""
        where = place(number, floor)
        if where == "alike":
            return f"as far as held-out images are, {WITHIN}"
        if where == "unclear":
            return unclear(number, "held-out images")
        return f"{'farther' if (number.value or 0.0) > floor.value else 'nearer'} than held-out images are"
