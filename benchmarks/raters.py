"""Do the intervals of a user study hold the truth 95 times in 100? Raters of known skill, again and again.

    python benchmarks/raters.py [--studies 1000] [--rounds 200] [--seed 0] [--only 10]

Raters and images are drawn anew for every study (`study/simulate.py`), whose expected rates are closed forms. For each
number it is told how often its interval holds the truth (93 to 97 % is asked for, what misses is
marked with an asterisk), the mean half width, and beside it how often two simpler intervals of the share of fakes taken
for real would have held it: a binomial one, which takes votes for independent, and Owen's pigeonhole bootstrap, which
resamples raters and images at once. The last line of each study is how often two sources of equal skill are told apart:
5 % is asked for, at most 7.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from trilemma.evaluation.difference import LEVEL, two_sided
from trilemma.metrics.crossed import Interval
from trilemma.metrics.preference import bradley_terry
from trilemma.metrics.raters import contrasts, detection, error_rate, hype_infinity
from trilemma.noise import philox
from trilemma.study.simulate import Crowd, simulate, trials
from trilemma.study.vote import REAL, Vote

SKILL = {"good": 0.4, "alike": 0.4, "bad": 2.0}
STUDIES = {  # raters, images of each source that one rater sees, images of each source
    "20 raters, 20 of 50 images": (20, 20, 50),
    "20 raters, 20 of 500 images": (20, 20, 500),
    "10 raters, 30 of 30 images": (10, 30, 30),
    "40 raters, 10 of 20 images": (40, 10, 20),
}


def codes(votes: list[Vote]) -> list[int]:
    index = {code: i for i, code in enumerate(sorted({vote.rater for vote in votes}))}
    return [index[vote.rater] for vote in votes]


def pigeonhole(
    wrong: np.ndarray, raters: np.ndarray, images: np.ndarray, rounds: int, seed: int
) -> tuple[float, float]:
    """Owen's bootstrap: raters and images at once, and the ends of the middle 95 %."""
    draw, shares = philox(seed), []
    for _ in range(rounds):
        weights = [np.bincount(draw.integers(n, size=n), minlength=n) for n in (raters.max() + 1, images.max() + 1)]
        both = weights[0][raters] * weights[1][images]
        shares.append((both * wrong).sum() / max(both.sum(), 1))
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def singles(shape: tuple[int, int, int], crowd: Crowd, rounds: int, seed: int) -> Iterator[tuple[str, float, Interval]]:
    """Name, truth and interval of each number of one study of single images."""
    raters, each, images = shape
    asked = trials(list(SKILL), raters=raters, each=each, images=images, seed=seed)
    votes = simulate(asked, SKILL, crowd, seed=seed)
    for source in ("good", "bad"):
        own = [vote for vote in votes if vote.source in (source, REAL)]
        said, fake = [v.answer == "fake" for v in own], [v.source != REAL for v in own]
        who, what = codes(own), [v.item for v in own]
        hype = hype_infinity(said, fake, who, what, rounds=rounds, seed=seed)
        yield f"HYPE∞, d′ {SKILL[source]}", crowd.error_rate(SKILL[source]), hype.both
        yield f"fakes taken for real, d′ {SKILL[source]}", crowd.passes(SKILL[source]), hype.fakes
        seeing = detection(said, fake, who, what, rounds=rounds, seed=seed)
        yield f"d′ {SKILL[source]}", crowd.d_prime(SKILL[source]), seeing.d_prime
        if source == "good":
            yield "real images taken for fake", 1 - crowd.passes(0.0), hype.reals
            continue
        wrong = np.array([v.answer == "real" for v in own if v.source != REAL])
        owners = np.array([code for code, f in zip(who, fake, strict=True) if f])
        seen = np.array([item for item, f in zip(what, fake, strict=True) if f])
        share, error = wrong.mean(), math.sqrt(max(wrong.mean() * (1 - wrong.mean()), 1e-6) / len(wrong))
        simple = (float(share - 1.96 * error), float(share + 1.96 * error))
        yield "the same, binomial", crowd.passes(SKILL[source]), Interval(hype.fakes.number, *simple)
        both = pigeonhole(wrong, owners, seen, rounds, seed)
        yield "the same, pigeonhole", crowd.passes(SKILL[source]), Interval(hype.fakes.number, *both)
    fakes = [vote for vote in votes if vote.source in ("good", "alike")]
    gap = contrasts(
        [v.answer == "real" for v in fakes], [int(v.source == "alike") for v in fakes], codes(fakes),
        [v.item for v in fakes], rounds=rounds, seed=seed,
    )[0, 1]  # fmt: skip
    yield "told apart", 0.0, gap


def pairs(shape: tuple[int, int, int], crowd: Crowd, rounds: int, seed: int) -> Iterator[tuple[str, float, Interval]]:
    """The same of one study of pairs: one source against real images."""
    raters, each, images = shape
    for d_prime in (0.4, 2.0):
        asked = trials(["model"], form="pairs", raters=raters, each=each, images=images, seed=seed)
        votes = simulate(asked, {"model": d_prime}, crowd, seed=seed)
        truth = crowd.preferred(d_prime, 0.0)
        items = [(v.item, v.other_item) if v.source == "model" else (v.other_item, v.item) for v in votes]
        wrong = [not v.right for v in votes]
        yield f"chosen over real, d′ {d_prime}", truth, error_rate(wrong, codes(votes), items, rounds=rounds, seed=seed)
        ordered = [(mine, real)[:: 1 if bad else -1] for (mine, real), bad in zip(items, wrong, strict=True)]
        found = bradley_terry(
            [int(not bad) for bad in wrong],
            [int(bad) for bad in wrong],
            codes(votes),
            ordered,
            2,
            rounds=rounds,
            seed=seed,
        )
        yield f"Bradley–Terry, d′ {d_prime}", math.log(truth / (1 - truth)), found.gaps[0, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, default=0, help="of studies with this number of raters")
    options = parser.parse_args()
    print("| study | number | truth | holds it | half width |\n|---|---|---|---|---|", flush=True)
    for name, shape in STUDIES.items():
        if options.only not in (0, shape[0]):
            continue
        held, widths, truths = (
            defaultdict[str, list[bool]](list),
            defaultdict[str, list[float]](list),
            dict[str, float](),
        )
        start = time.monotonic()
        for study in range(options.studies):
            seed = options.seed + study
            for what, truth, found in (
                *singles(shape, Crowd(), options.rounds, seed), *pairs(shape, Crowd(), options.rounds, seed)
            ):  # fmt: skip
                truths[what] = truth
                if found.low is None or found.high is None:
                    continue
                if what == "told apart":
                    held[what].append(two_sided(found.number.known, found.widened or 0.0) < LEVEL)
                else:
                    held[what].append(found.low <= truth <= found.high)
                widths[what].append(found.half_width or 0.0)
        for what, hits in held.items():
            share = float(np.mean(hits))
            simple = "binomial" in what or "pigeonhole" in what
            missed = share > 0.07 if what == "told apart" else not 0.93 <= share <= 0.97
            mark = " \\*" if missed and not simple else ""
            print(
                f"| {name} | {what} | {truths[what]:.3f} | {share:.1%}{mark} | {np.mean(widths[what]):.3f} |",
                flush=True,
            )
        seconds = (time.monotonic() - start) / options.studies
        print(f"<!-- {seconds:.2f} s a study -->", flush=True)


if __name__ == "__main__":
    main()
