"""Is the difference one of recipes? How often the rule tells equal recipes apart, by simulation and by training.

    python benchmarks/seeds.py [--trials 2000] [--train 12 --budget 300steps --work FOLDER]

Simulated: the value of a recipe trained with one seed is b + e, with b normal over seeds and e normal over images, of
which the printed error, 1, speaks. The errors of the seeds of one recipe are independent, or one and the same. The rule
of `evaluation/difference.py` should see a difference in at most 5 % of comparisons of all models (7 % are allowed);
beside it stand what images alone would say of the same means and, as its power, how often a difference of four
standard deviations of b is seen.

Trained (with --train S): one recipe, a VAE on the ring of eight Gaussians, with S seeds. Every choice of three and
three others is a comparison of equal recipes.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from pathlib import Path
from typing import Any

from trilemma.evaluation import evaluate
from trilemma.evaluation.difference import differences
from trilemma.evaluation.seeds import pooled
from trilemma.training import train


def score(value: float, error: float) -> dict[str, Any]:
    return {"value": value, "error": error, "better": "lower", "flag": None, "kind": None}


def recipe(generator: random.Random, seeds: int, spread: float, together: bool, at: float = 0.0) -> dict[str, Any]:
    """The pooled score of one recipe."""
    common = generator.gauss(0, 1)
    values = [
        at + spread * generator.gauss(0, 1) + (common if together else generator.gauss(0, 1)) for _ in range(seeds)
    ]
    records = {i: {"metrics": {"x": score(v, 1.0)}, "flags": [], "per_image": {}} for i, v in enumerate(values)}
    return pooled(records)["metrics"]["x"]


def by_images(scores: dict[str, Any]) -> dict[str, Any]:
    """The same means with the errors over images alone."""
    return {k: {**v, "error": v["seeds"]["images"], "seeds": None} for k, v in scores.items()}


def told(scores: dict[str, Any]) -> bool:
    return any(d.real for d in differences("x", scores))


def drawn(
    generator: random.Random, models: int, seeds: int, spreads: tuple[float, ...], together: bool, gap: float = 0.0
) -> dict[str, Any]:
    """The scores of some recipes, the first of which is a gap away from the others."""
    return {
        str(m): recipe(generator, seeds, spreads[m % len(spreads)], together, gap if m == 0 else 0.0)
        for m in range(models)
    }


def simulate(trials: int) -> None:
    print("| models | seeds | spread over seeds / error over images | told apart, errors apart | errors together | "
          "by images alone | 4 spreads apart: seen |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for models, seeds, spreads in itertools.product((2, 5), (2, 3, 5), ((0.0,), (1.0,), (5.0,), (5.0, 1.0), (30.0,))):
        law = random.Random(0), models, seeds, spreads
        rates = [sum(told(drawn(*law, together)) for _ in range(trials)) / trials for together in (False, True)]
        alone = sum(told(by_images(drawn(*law, False))) for _ in range(trials)) / trials
        seen = sum(told(drawn(*law, False, 4 * max(*spreads, 1.0))) for _ in range(trials)) / trials
        print(f"| {models} | {seeds} | {', '.join(f'{s:g}' for s in spreads)} | {rates[0]:.1%} | {rates[1]:.1%} | "
              f"{alone:.0%} | {seen:.0%} |", flush=True)  # fmt: skip


def trained(count: int, budget: str, work: Path) -> None:
    metrics = ("frechet", "kernel", "mutual_fidelity", "mutual_coverage")
    records = {}
    for seed in range(count):
        run = train(
            "vae", "ring", out=work / f"vae-{seed}", budget=budget, seed=seed, resume=True, say=lambda line: None
        )
        found = evaluate(run, protocol={"metrics": ",".join(metrics), "ladder": "no", "n": 1000})
        records[seed] = {"metrics": found["metrics"], "flags": [], "per_image": {}}
        print(
            seed,
            *(f"{found['metrics'][m]['value']:.4g} ±{found['metrics'][m]['error']:.2g}" for m in metrics),
            flush=True,
        )
    alone, both, of = dict.fromkeys(metrics, 0), dict.fromkeys(metrics, 0), 0
    for first in itertools.combinations(range(count), 3):
        for second in itertools.combinations([i for i in range(first[0] + 1, count) if i not in first], 3):
            of += 1
            rows = {
                name: pooled({i: records[i] for i in seeds})["metrics"] for name, seeds in (("a", first), ("b", second))
            }
            for metric in metrics:
                scores = {name: row[metric] for name, row in rows.items()}
                both[metric] += told(scores)
                alone[metric] += told(by_images(scores))
    pairs = list(itertools.combinations(range(count), 2))
    for metric in metrics:
        one = sum(told({str(i): records[i]["metrics"][metric] for i in pair}) for pair in pairs) / len(pairs)
        values = [records[i]["metrics"][metric]["value"] for i in records]
        mean = sum(values) / count
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1))
        error = math.sqrt(sum(records[i]["metrics"][metric]["error"] ** 2 for i in records) / count)
        print(f"| {metric} | {mean:.4g} | {error:.2g} | {spread:.2g} | {one:.0%} | {alone[metric] / of:.0%} | "
              f"{both[metric] / of:.1%} |")  # fmt: skip
    print(f"{of} comparisons of three seeds with three others")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--train", type=int, default=0)
    parser.add_argument("--budget", default="300steps")
    parser.add_argument("--work", type=Path, default=Path("seeds-work"))
    given = parser.parse_args()
    if given.trials:
        simulate(given.trials)
    if given.train:
        trained(given.train, given.budget, given.work)


if __name__ == "__main__":
    main()
