"""Raters of known skill: what a study would find, before anybody is asked, and whether its intervals hold the truth.

Everything is equal-variance signal detection (Green & Swets 1966): an image of a source looks fake by the source's d′
times the rater's skill, plus what is peculiar to the image, plus noise of variance 1 at every look. It is called fake
above the rater's criterion. The expected rates over all raters and images are then closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

from trilemma.metrics.exposure import START, next_exposure
from trilemma.noise import derive_seed, philox
from trilemma.study.vote import REAL, Form, Vote

EASY = 5.0
"""d′ of the fake of a planted easy trial."""

GLANCE = 200.0
"""Milliseconds in which an image gives 63 % of what it gives without limit."""


@dataclass(frozen=True)
class Crowd:
    """How raters and images differ, in units of the noise of one look.

    Attributes:
        criterion: how fake an image must look to be called so; half of a typical d′ favours neither answer.
        image: standard deviation of how fake the images of a source look.
        skill: standard deviation of raters' skill around 1.
        bias: standard deviation of raters' criteria, and of their leaning to one side.
        lapse: share of answers given without a look.
    """

    criterion: float = 0.5
    image: float = 0.5
    skill: float = 0.3
    bias: float = 0.3
    lapse: float = 0.0

    def passes(self, d_prime: float) -> float:
        """How often images of a source are taken for real, over all raters and images."""
        spread = math.sqrt(1 + self.image**2 + self.bias**2 + (self.skill * d_prime) ** 2)
        return self._lapsed(NormalDist().cdf((self.criterion - d_prime) / spread))

    def error_rate(self, d_prime: float) -> float:
        """HYPE∞ of a source: the mean of both error rates."""
        return (self.passes(d_prime) + 1 - self.passes(0.0)) / 2

    def d_prime(self, d_prime: float) -> float:
        """What all votes together show of a source's d′; differences between raters and images hide a part of it."""
        z = NormalDist().inv_cdf
        return z(self.passes(0.0)) - z(self.passes(d_prime))

    def preferred(self, a: float, b: float) -> float:
        """How often an image of a source of d′ ``a`` is chosen over one of ``b``."""
        spread = math.sqrt(2 + 2 * self.image**2 + self.bias**2 + (self.skill * (b - a)) ** 2)
        return self._lapsed(NormalDist().cdf((b - a) / spread))

    def _lapsed(self, share: float) -> float:
        return (1 - self.lapse) * share + self.lapse / 2


def trials(
    sources: Sequence[str],
    *,
    form: Form = "real-or-fake",
    raters: int = 20,
    each: int = 20,
    images: int = 50,
    checks: int = 0,
    timed: bool = False,
    seed: int = 0,
) -> list[Vote]:
    """A plain balanced design, with answers still to be given: the trials of all raters, one rater after the other.

    Args:
        sources: names of the sources of generated images.
        form: ``real-or-fake``: of each source ``each`` images, and as many real ones in all; ``pairs``: of every two
            sources, the real images among them, ``each`` pairs.
        raters: how many.
        each: as said; at most ``images``.
        images: of each source; of real ones as many for each of the others.
        checks: planted easy trials for each rater.
        timed: with a limit of time that a staircase will set.
        seed: of the choice and order.
    """
    if not sources or REAL in sources or len(set(sources)) < len(sources):
        raise ValueError(f"a study needs sources of different names, none of them {REAL!r}, not {list(sources)}")
    if not 1 <= each <= images:
        raise ValueError(f"a rater can see 1 to {images} images of a source, not {each}")
    found: list[Vote] = []
    for number in range(raters):
        draw, code = philox(derive_seed("trials", seed, number)), f"r{number:02d}"
        own: list[Vote] = []
        exposure = START if timed else None
        if form == "real-or-fake":
            for source, count in [(name, 1) for name in sources] + [(REAL, len(sources))]:
                items = draw.permutation(images * count)[: each * count]
                own += [Vote(code, 0, form, "main", source, int(item), "real", exposure=exposure) for item in items]
        else:
            everyone = [*sources, REAL]
            for a, b in ((a, b) for i, a in enumerate(everyone) for b in everyone[i + 1 :]):
                for left, right in zip(draw.permutation(images)[:each], draw.permutation(images)[:each], strict=True):
                    first, second = ((a, int(left)), (b, int(right)))[:: 1 if draw.random() < 0.5 else -1]
                    own.append(Vote(code, 0, form, "main", *first, "left", *second, exposure))
        for i in range(checks):
            sides = ((sources[0], i), (REAL, i))[:: 1 if i % 2 else -1]
            second = sides[1] if form == "pairs" else ("", -1)
            answer: Literal["real", "left"] = "left" if form == "pairs" else "real"
            own.append(Vote(code, 0, form, "check", *sides[0], answer, *second, exposure))
        found += [replace(own[at], trial=place) for place, at in enumerate(draw.permutation(len(own)))]
    return found


def simulate(
    asked: Sequence[Vote],
    d_prime: Mapping[str, float],
    crowd: Crowd | None = None,
    *,
    careless: Collection[str] = (),
    staircase: bool = True,
    seed: int = 0,
) -> list[Vote]:
    """Answers of simulated raters to trials.

    Args:
        asked: trials, whose answers are replaced. Where they have an exposure, it becomes that of the rater's
            staircase, or stays where there is no ``staircase``.
        d_prime: by source, how easily its images are seen through; `REAL` has 0.
        crowd: how raters and images differ.
        careless: raters who answer without a look.
        seed: of everything.

    Raises:
        ValueError: a trial's source has no d′.
    """
    crowd = crowd or Crowd()
    known = {REAL: 0.0, **d_prime}
    if missing := {n for vote in asked if vote.role != "check" for n in (vote.source, vote.other)} - {*known, ""}:
        raise ValueError(f"there is no d′ for {', '.join(sorted(missing))}: give one for each source")
    skills, biases, peculiar = dict[str, float](), dict[str, float](), dict[tuple[str, int, str], float]()
    clocks: dict[str, float] = {}
    noise = philox(derive_seed("answers", seed))
    answered = []

    def effect(*key: int | str) -> float:
        return float(philox(derive_seed("effect", seed, *key)).standard_normal())

    for vote in asked:
        rater = vote.rater
        if rater not in skills:
            skills[rater] = max(0.0, 1 + crowd.skill * effect("skill", rater))
            biases[rater] = crowd.bias * effect("bias", rater)
        exposure = vote.exposure
        if exposure is not None and staircase and vote.role == "main":
            exposure = clocks.setdefault(rater, START)
        seen = 1.0 if exposure is None else 1 - math.exp(-exposure / GLANCE)

        def looks(source: str, item: int, role: str = vote.role, skill: float = seen * skills[rater]) -> float:
            if role == "check":
                return EASY * (source != REAL)
            if (source, item, role) not in peculiar:
                peculiar[source, item, role] = crowd.image * effect("image", source, item)
            return known[source] * skill + peculiar[source, item, role]

        blind = rater in careless or noise.random() < crowd.lapse
        wonder, coin = float(noise.standard_normal()), bool(noise.random() < 0.5)
        if vote.form == "real-or-fake":
            bar = EASY / 2 if vote.role == "check" else crowd.criterion + biases[rater]
            yes = coin if blind else looks(vote.source, vote.item) + wonder <= bar
            done = replace(vote, answer="real" if yes else "fake", exposure=exposure)
        else:
            gap = looks(vote.other, vote.other_item) - looks(vote.source, vote.item)
            lean = 0.0 if vote.role == "check" else biases[rater]
            yes = coin if blind else gap + lean + math.sqrt(2) * wonder > 0
            done = replace(vote, answer="left" if yes else "right", exposure=exposure)
        if exposure is not None and vote.role == "main" and done.right is not None:
            clocks[rater] = next_exposure(exposure, done.right)
        answered.append(done)
    return answered
