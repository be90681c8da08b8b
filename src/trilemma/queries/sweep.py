"""One trained run, drawn from in many ways, each measured alike: what the speed-quality curve and the sweep of guidance
share. A sweep takes hours, so what is measured is written down at once, and a killed one goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trilemma.families.diffusion import Schedule
from trilemma.families.family import Progress

Scores = Mapping[str, tuple[float | None, float | None]]
"""Name → (value, or None where it cannot be trusted; standard error, or None); has ``frechet``, lower is better."""

Way = tuple[str, int, float, float, str]
"""What tells two ways of drawing apart: sampler, steps, guidance, eta and variance."""

Measure = Callable[[Any, Progress | None], tuple[Scores, float]]
"""Sampling options → the scores of images drawn so, and the seconds that an image took."""


@dataclass(frozen=True)
class Point:
    """One way of drawing, measured.

    Attributes:
        sampler, steps, guidance, eta, variance: the way.
        evaluations: of the denoiser for an image; under guidance each asks the network twice.
        seconds: for an image, in blocks, on the device it was measured on.
        scores: see `Scores`.
    """

    sampler: str
    steps: int
    evaluations: int
    seconds: float
    scores: Scores
    guidance: float = 1.0
    eta: float = 0.0
    variance: str = "auto"

    @property
    def way(self) -> Way:
        return self.sampler, self.steps, self.guidance, self.eta, self.variance

    @property
    def label(self) -> str:
        """The sampler with the noise that it adds: ``ddim eta=1``, ``ddpm large``."""
        noise = f" eta={self.eta:g}" if self.eta else ""
        return self.sampler + noise + (f" {self.variance}" if self.variance != "auto" else "")

    @property
    def frechet(self) -> float:
        value = self.scores["frechet"][0]
        return math.inf if value is None else value

    def value(self, name: str) -> float:
        """A score; NaN where there is none."""
        value = self.scores.get(name, (None, None))[0]
        return math.nan if value is None else value


class Ledger:
    """Points in a file of lines that is only ever added to.

    A line carries the protocol that its point was measured by; lines of another protocol are left where they are and
    not read. A last line that a kill cut off is passed over.

    Args:
        path: the file.
        protocol: plain values that decide a point beside its way: the weights, N, seed, features, options.
    """

    def __init__(self, path: str | os.PathLike[str], protocol: Mapping[str, Any]) -> None:
        self.path, self.protocol = Path(path), json.loads(json.dumps(protocol))
        self.points: dict[Way, Point] = {}
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                if record["protocol"] == self.protocol:
                    known = record["point"]
                    scores = {name: (value, error) for name, (value, error) in known["scores"].items()}
                    point = Point(**(known | {"scores": scores}))
                    self.points[point.way] = point

    def add(self, point: Point) -> None:
        """Write a point down, all the way to the disk."""
        self.points[point.way] = point
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            torn = file.seek(0, os.SEEK_END) and not self.path.read_text("utf-8").endswith("\n")
            line = json.dumps({"protocol": self.protocol, "point": asdict(point)}, allow_nan=False)
            file.write(f"{chr(10) if torn else ''}{line}\n")
            file.flush()
            os.fsync(file.fileno())


def sweep(
    ways: Sequence[Any],
    schedule: Schedule,
    measure: Measure,
    *,
    known: Mapping[Way, Point] | None = None,
    keep: Callable[[Point], None] | None = None,
    progress: Progress | None = None,
) -> list[Point]:
    """Measure every way of drawing that is not known yet.

    Args:
        ways: sampling options, all with a number of steps.
        known: points that were measured before; keep: told of every new one.
        progress: told ``(evaluations done, all)``, of the ways that are to be measured, so that time left is foretold.

    Raises:
        ValueError: steps that the model does not have, in one line, before anything is computed.
    """
    known = known or {}
    costs = [(1 if way.guidance == 1 else 2) * way.evaluations(schedule) for way in ways]
    missing = [way_of(way) not in known for way in ways]
    total, done, points = sum(cost for cost, new in zip(costs, missing, strict=True) if new), 0, []
    for way, cost, new in zip(ways, costs, missing, strict=True):
        if not new:
            points.append(known[way_of(way)])
            continue
        scores, seconds = measure(way, _part_of(progress, done, cost, total))
        point = Point(
            way.sampler, way.steps, way.evaluations(schedule), seconds, scores, float(way.guidance), float(way.eta),
            way.variance,
        )  # fmt: skip
        if keep:
            keep(point)
        points.append(point)
        done += cost
    return points


def way_of(options: Any) -> Way:
    """The `Point.way` that sampling options stand for."""
    return options.sampler, options.steps, float(options.guidance), float(options.eta), options.variance


def _part_of(progress: Progress | None, before: int, cost: int, total: int) -> Progress | None:
    """The progress of one way inside that of all, in thousandths of an evaluation."""
    if progress is None:
        return None
    return lambda done, of: progress(1000 * before + 1000 * cost * done // of, 1000 * total)
