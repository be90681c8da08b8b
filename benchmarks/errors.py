"""Is ± what it says? The printed error of every score against its true scatter over redrawn samples.

    python benchmarks/errors.py [--images 500] [--dims 16] [--draws 200] [--features FILE] [--seed 0]

The real images are drawn once. Of each of four models (one that is near the data, one that is far off, one that is too
narrow, one that knows 150 images and repeats them) samples are drawn again and again, and scored each time as `trilemma
evaluate` scores them. Three numbers are told for each score: the mean of the printed errors over the true standard
deviation, which should be 1 (0.8 to 1.25 is asked for); how often the printed value ± its error holds the mean of all
draws, which should be 68 % (60 to 76); and in how many pairs of draws, which are equal models, the rule of
`evaluation/difference.py` sees a difference, which should be 5 % (at most 7). What misses is marked with an asterisk.

Where the true scatter is less than one image, there is nothing to judge.

Features are Gaussian, of uneven scale as those of networks are, or those of real images: a .npy file of [N, d], some
rows of which are the real images and the others what models draw from. Modes are drawn by themselves, ten of them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from trilemma.evaluation.difference import LEVEL, two_sided
from trilemma.metrics import Moments, frechet_estimate, kernel_distance, manifold_scores, mode_coverage

Draw = Callable[[int, torch.Generator], Tensor]
Scores = dict[str, tuple[float, float]]
SHARES = ("precision", "recall", "coverage")
KNOWN = 150  # images that the collapsed model repeats
MODES = 10


def gaussian(dims: int) -> Draw:
    scale = torch.arange(1, dims + 1).rsqrt()
    return lambda count, generator: torch.randn(count, dims, generator=generator) * scale


def rows_of(pool: Tensor) -> Draw:
    return lambda count, generator: pool[torch.randperm(len(pool), generator=generator)[:count]]


def models(law: Draw, generator: torch.Generator) -> dict[str, Draw]:
    """Four ways not to be the law; each draws samples [count, d]."""
    some = law(2000, generator)
    centre, spread, known = some.mean(0), some.std(0), law(KNOWN, generator)
    return {
        "near": lambda count, g: centre + 1.03 * (law(count, g) - centre) + 0.02 * spread,
        "far": lambda count, g: law(count, g) + 0.8 * spread,
        "narrow": lambda count, g: centre + 0.6 * (law(count, g) - centre),
        "collapsed": lambda count, g: known[torch.randint(KNOWN, (count,), generator=g)],
    }


def mode_laws(generator: torch.Generator) -> dict[str, Tensor]:
    """How often each of ten modes is drawn; the truth is evenly."""
    noise = torch.randn(MODES, generator=generator)
    few = (torch.arange(MODES) < 3).float() * 0.97 + 0.01
    laws = {"near": (0.05 * noise).exp(), "far": noise.exp(), "narrow": (0.3 * noise).exp(), "collapsed": few}
    return {name: law / law.sum() for name, law in laws.items()}


def score(real: Tensor, law: Moments, fake: Tensor, modes: Tensor, subsets: int) -> Scores:
    found: Scores = {}
    for name, estimate in {
        "Fréchet": frechet_estimate(fake, law),
        "kernel": kernel_distance(fake, real, subsets=subsets),
    }.items():
        found[name] = estimate.known, estimate.error or math.nan
    manifold = manifold_scores(real, fake)
    for name in ("precision", "recall", "density", "coverage"):
        each = getattr(manifold, name)
        found[name] = each.known, each.error or math.nan
    counted = mode_coverage(modes, MODES)
    found["mode KL"] = counted.kl.known, counted.kl.error or math.nan
    return found


def judge(draws: list[tuple[float, float]]) -> tuple[float, float, float, float, float]:
    """Mean, true scatter, printed over true, share of intervals that hold the mean, share of pairs told apart."""
    value, error = np.array(draws).T
    scatter = value.std(ddof=1)
    held = np.mean(abs(value - value.mean()) <= error)
    a, b = np.triu_indices(len(value), 1)
    apart = [two_sided(d, e) < LEVEL for d, e in zip(value[a] - value[b], np.hypot(error[a], error[b]), strict=True)]
    return value.mean(), scatter, error.mean() / scatter if scatter else math.nan, held, float(np.mean(apart))


def marked(text: str, good: bool) -> str:
    return text if good else f"{text} \\*"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="samples, and real images")
    parser.add_argument("--dims", type=int, default=16, help="of Gaussian features")
    parser.add_argument("--draws", type=int, default=200, help="of each model")
    parser.add_argument("--subsets", type=int, default=30, help="of the kernel distance")
    parser.add_argument("--features", help="a .npy of real images' features [N, d], instead of Gaussian ones")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    law, n = gaussian(arguments.dims), arguments.images
    if arguments.features:
        pool = torch.from_numpy(np.load(arguments.features, allow_pickle=False)).float()
        pool = pool[torch.randperm(len(pool), generator=generator)]
        if len(pool) < 5 * n:
            raise SystemExit(f"{len(pool)} rows of features are too few to redraw {n} from: 5 times as many are needed")
        real, law = pool[:n], rows_of(pool[n:])
    else:
        real = law(n, generator)
    moments, start = Moments.of(real), time.process_time()
    modes = mode_laws(generator)
    print("| model | score | mean | true scatter | printed / true | within 1 ± | told apart |")
    print("|---|---|---|---|---|---|---|")
    for model, draw in models(law, generator).items():
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(arguments.draws):
            kinds = torch.multinomial(modes[model], n, replacement=True, generator=generator)
            for name, value in score(real, moments, draw(n, generator), kinds, arguments.subsets).items():
                found.setdefault(name, []).append(value)
        for name, draws in found.items():
            mean, scatter, ratio, held, apart = judge(draws)
            if name in SHARES and scatter < 1 / n:
                print(f"| {model} | {name} | {mean:.4g} | {scatter:.2g} | less than one image | | |", flush=True)
                continue
            print(
                f"| {model} | {name} | {mean:.4g} | {scatter:.2g} | {marked(f'{ratio:.2f}', 0.8 <= ratio <= 1.25)} | "
                f"{marked(f'{held:.0%}', 0.6 <= held <= 0.76)} | {marked(f'{apart:.1%}', apart <= 0.07)} |",
                flush=True,
            )
    shape = f"{n} samples, {n} real images, {real.shape[1]} features, {arguments.draws} draws, seed {arguments.seed}"
    print(f"\n{shape}; {time.process_time() - start:.0f} s of processor time")


if __name__ == "__main__":
    main()
