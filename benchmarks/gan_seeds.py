"""How much a GAN's score owes to its seed: the same GAN, trained several times.

    python benchmarks/gan_seeds.py --out seeds
    python benchmarks/gan_seeds.py mnist --budget 20m --seeds 5 --n 5000 --features inception --out seeds

A run that is there already is not trained again, and continues where it was stopped. For each seed: the Fréchet
distance, precision and recall in ``--features``, and the classes that a classifier of the real images sees among the
samples. A run counts as **collapsed** when their KL divergence from the real frequencies is at least log(K/(K-1)), that
of a sampler to which one of K equally likely classes is lost. Mean and standard deviation are over seeds; the collapse
rate stands beside them and collapsed runs are not left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

import trilemma
from trilemma.evaluation import Protocol, evaluate
from trilemma.machine import described
from trilemma.training import train

KEYS = ("precision", "recall", "modes", "mode_kl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="600kimages")
    parser.add_argument("--model", default='{"width": 48}', help="fields of the model as JSON")
    parser.add_argument("--train", default='{"anneal": 0.3}', help="settings of training as JSON")
    parser.add_argument("--n", type=int, default=5000, help="samples, and held-out images as the floor")
    parser.add_argument("--features", default="small", help="small, or inception for FID")
    parser.add_argument("--preprocessing", default="torch-fidelity", help="of inception")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = trilemma.load(args.data)
    distance = "fid" if args.features == "inception" else "frechet"
    protocol = Protocol(
        n=args.n,
        metrics=",".join((distance, *KEYS)),
        features=args.features,
        preprocessing=args.preprocessing,
        likelihood_n=0,
    )
    classes = len(data.class_names)
    lost_one = math.log(classes / (classes - 1))
    found, records = [], []
    for seed in range(args.seeds):
        run = train(
            "gan",
            data,
            out=args.out / f"seed-{seed}",
            budget=args.budget,
            seed=seed,
            model=json.loads(args.model),
            settings=json.loads(args.train),
            resume=True,
        )
        record = evaluate(run, protocol=protocol)
        value = {key: record["metrics"][key]["value"] for key in (distance, *KEYS)}
        collapsed = value["mode_kl"] >= lost_one
        found.append((value[distance], collapsed))
        records.append({"seed": seed, "collapsed": collapsed, **value})
        words = ", ".join(f"{key} {number:.4g}" for key, number in value.items())
        print(f"seed {seed}: {words}{', COLLAPSED' if collapsed else ''}", flush=True)
        if not seed:
            print(f"held-out real images: {distance} {record['floor'][distance]['value']:.4g}", flush=True)
    print(described())
    values = [value for value, _ in found]
    spread = f" ± {statistics.stdev(values):.2g} (standard deviation)" if len(values) > 1 else ""
    print(f"{distance} over {len(values)} seeds: {statistics.mean(values):.4g}{spread}, best {min(values):.4g}")
    print(f"collapsed: {sum(collapsed for _, collapsed in found)} of {len(found)} (mode KL of at least {lost_one:.3f})")
    (args.out / "seeds.json").write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
