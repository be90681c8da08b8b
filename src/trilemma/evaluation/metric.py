"""A metric is one file: what it is called, what it needs, how it is measured, what it means and when it misleads.

The registry is derived: every class of `Metric` that has a ``name``, of ``evaluation/parts/`` and of plugins. The
command line, the record, the glossary, the page and the test of ``docs/metrics.md`` read it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trilemma.evaluation import reading
from trilemma.number import Better, Number
from trilemma.plugins import defined, load_plugins

if TYPE_CHECKING:
    from trilemma.evaluation.measured import Measured
    from trilemma.evaluation.reference import Reference

Need = Literal["features", "images", "labels", "captions", "law", "likelihood", "sampler"]
"""What a metric looks at. ``features``: two laws of features, and nothing else, so that it can be measured of any part
of the images; it is refused where all images are the same. ``law``: that of the data, where it is known.
``likelihood`` and ``sampler``: those of a run."""


class Metric(ABC):
    """One number of an evaluation. A subclass with a ``name`` is in the registry.

    Attributes:
        name: its name in JSON and in ``--metrics``.
        head: what stands above its column.
        group: the set it is asked for with.
        meaning: what it says, in a sentence.
        misleads: when it says something else.
        source: the paper.
        needs: what it looks at.
        better: which way is better, and ``unit`` what it is counted in.
        default: whether it is measured unless something else is asked for.
        entire: whether it compares two laws, so that of two sets every image counts.
        by_name: whether no set contains it, so that it must be named, or wants itself (`wanted`).
        floor: whether held-out real images are measured by it too.
        relative: whether it is stated as a multiple of what they reach.
        ladder: whether distorted real images are measured by it, as a scale.
        stands_in: whether it is measured too where that scale shows that fidelity cannot be trusted.
        shared: whether all processes measure it together; else the first one does.
        table: of the page on which it has a column; ``none`` for a metric without one.
        order: where it stands in that table, and after it in the record.
        official: its name where the features are those of the FID and the KID of the literature.
        beyond: how it comes to be better than that of real images.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    group: ClassVar[str]
    meaning: ClassVar[str]
    misleads: ClassVar[str]
    source: ClassVar[str] = ""
    needs: ClassVar[tuple[Need, ...]] = ("images",)
    better: ClassVar[Better] = "none"
    unit: ClassVar[str] = ""
    default: ClassVar[bool] = True
    entire: ClassVar[bool] = False
    by_name: ClassVar[bool] = False
    floor: ClassVar[bool] = True
    relative: ClassVar[bool] = False
    ladder: ClassVar[bool] = False
    stands_in: ClassVar[bool] = False
    shared: ClassVar[bool] = False
    table: ClassVar[Literal["first", "second", "none"]] = "second"
    order: ClassVar[int] = 1000
    official: ClassVar[str] = ""
    beyond: ClassVar[str] = "no model of real images is better than they are"

    @abstractmethod
    def measure(self, of: Measured) -> Number | None:
        """The number of these images; None where there is nothing to measure.

        What it leaves empty is filled in from what the metric says of itself.
        """

    def wanted(self, real: Reference) -> bool:
        """Whether it is asked for."""
        return real.protocol.wants(self.name)

    def per_image(self, of: Measured) -> list[float] | None:
        """Its value for each of the same held-out images, so that two models are compared image by image."""
        return None

    def record(self, of: Measured) -> dict[str, Any]:
        """What else the record holds because of it, as plain values."""
        return {}

    def draw(self, of: Measured, folder: Path) -> dict[str, str]:
        """Its pictures: what they are, and the names of the files written into ``folder``."""
        return {}

    def read(self, number: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> str:
        """The value in plain words, beside held-out real images and on the ladder; empty where there are none."""
        if floor is None or floor.value is None:
            return ""
        if number.better == "higher":
            return reading.share(number, floor, self.beyond)
        if number.better == "lower":
            return reading.near((self.name, self.official), number, floor, self.beyond, rungs)
        return ""

    @property
    def of_a_run(self) -> bool:
        """Whether it asks a model, and not its images."""
        return bool({"likelihood", "sampler"} & set(self.needs))

    @property
    def of_a_sampler(self) -> bool:
        """Whether it asks whatever draws images, be it a run or not."""
        return "sampler" in self.needs and "likelihood" not in self.needs

    def label(self, features: str) -> str:
        """Its name in JSON: only Inception's Fréchet distance is called ``fid``, its kernel distance ``kid``."""
        return self.official if self.official and features.startswith("inception-2015-12-05/") else self.name

    def number(
        self,
        measure: Callable[[], Number],
        n: int,
        how: str = "",
        flag: Callable[[Number], str | None] = lambda found: None,
    ) -> Number:
        """A number as this metric gives it, or the reason why there is none.

        An evaluation does not stop at a model that has collapsed.

        Args:
            measure: gives value and error; its `ValueError` is the reason.
            n: images.
            how: it was made.
            flag: a reason to distrust it, if there is one.
        """
        said = Number(None, unit=self.unit, better=self.better, n=n, note=self.meaning, protocol=how)
        try:
            found = measure()
        except ValueError as error:
            return replace(said, flag=f"refused: {error}")
        return replace(said, value=found.value, error=found.error, flag=flag(found))

    def undefined(self, why: str) -> Number:
        """No number, in one clause why."""
        return Number(None, better=self.better, note=why)


def metrics() -> dict[str, Metric]:
    """Every metric by its name, in the order of the page; those of plugins come last."""
    _import_parts()
    load_plugins()
    found: dict[str, Metric] = {}
    for cls in sorted(defined(Metric), key=lambda cls: (cls.table != "first", cls.order)):
        if cls.name in found:
            raise ValueError(f"there are two metrics of the name {cls.name!r}: one is of {cls.__module__}")
        found[cls.name] = _instance(cls)
    return found


@functools.cache
def _import_parts() -> None:
    parts = importlib.import_module("trilemma.evaluation.parts")
    for module in pkgutil.iter_modules(parts.__path__, f"{parts.__name__}."):
        importlib.import_module(module.name)


@functools.cache
def _instance(cls: type[Metric]) -> Metric:
    return cls()


def groups() -> dict[str, list[Metric]]:
    """The sets that can be asked for."""
    found: dict[str, list[Metric]] = {}
    for metric in metrics().values():
        found.setdefault(metric.group, []).append(metric)
    return found


def find(name: str) -> Metric | None:
    """A metric by its name in JSON; `fid` is `frechet`."""
    known = metrics()
    return known.get(name) or next((m for m in known.values() if m.official == name and name), None)


def choose(text: str) -> set[str]:
    """Names and groups, separated by commas, to the metrics they stand for; ``ValueError`` for an unknown one."""
    known, sets = metrics(), groups()
    chosen: set[str] = set()
    for name in filter(None, (part.strip().replace("-", "_") for part in text.split(","))):
        if name in ("default", "all"):
            chosen |= {m.name for m in known.values() if (m.default or name == "all") and not m.by_name}
        elif name in sets:
            chosen |= {m.name for m in sets[name] if not m.by_name}
        elif found := find(name):
            chosen.add(found.name)
        else:
            official = [m.official for m in known.values() if m.official]
            raise ValueError(
                f"there is no metric {name!r}: choose from default, all, {', '.join(sets)}, "
                f"{', '.join([*official, *known])}"
            )
    if not chosen:
        raise ValueError("--metrics is empty: leave it out for the default ones")
    return chosen


def named(text: str) -> set[str]:
    """The parts of such a list as they stand there."""
    return {part.strip().replace("-", "_") for part in text.split(",")}


def read(name: str, number: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> Number:
    """The number with its value in plain words, where there is something to compare it with.

    Args:
        name: of the metric, in JSON.
        floor: the same of held-out real images.
        rungs: the ladder, as `ladder.climb` gives it.
    """
    metric = find(name)
    if metric is None or number.value is None:
        return number
    return replace(number, reading=metric.read(number, floor, rungs))
