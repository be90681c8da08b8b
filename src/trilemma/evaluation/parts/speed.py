"""How fast a run draws."""

from __future__ import annotations

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.number import Number


class ImagesPerSecond(Metric):
    name = "images_per_second"
    head = "Images/s"
    group = "model"
    meaning = "Sampling speed: finished images for each second."
    misleads = "It holds for this hardware, batch size and number of sampling steps, and for no other."
    source = "wall-clock time of the sampler"
    needs = ("images", "sampler")
    better = "higher"
    unit = "images/s"
    shared = True
    floor = False
    table, order = "first", 6

    def measure(self, of: Measured) -> Number:
        assert of.subject is not None
        return of.subject.speed(of.where)
