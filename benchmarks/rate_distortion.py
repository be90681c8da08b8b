"""The tension in a VAE: a sweep over β, its rate and distortion, and how blurred the samples are.

    python benchmarks/rate_distortion.py --out sweep
    python benchmarks/rate_distortion.py mnist --binarize dynamic --budget 5m --betas 0.1 0.5 1 2 4 8 --out sweep

Trains one VAE for each β (a run that is there already is not trained again), and writes ``rate-distortion.png``,
``spectra.png`` and ``rate-distortion.json`` beside the runs. Everything is measured on held-out images.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trilemma
from trilemma.data import DataConfig
from trilemma.evaluation.rates import in_words, rates
from trilemma.questions.rate_distortion import draw_rate_distortion, draw_spectra
from trilemma.run import Run, is_run
from trilemma.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="mnist")
    parser.add_argument("--binarize", default="none", choices=("none", "dynamic", "fixed", "threshold"))
    parser.add_argument("--betas", type=float, nargs="+", default=[0.25, 0.5, 1, 2, 4, 8])
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--size", default="tiny", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--model", default="{}", help="more fields of the model as JSON, such as '{\"latent\": 8}'")
    parser.add_argument("--n", type=int, default=1000, help="held-out images, and samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = trilemma.load(DataConfig(source=args.data, binarize=args.binarize))
    rows, runs = data.test[: args.n], []
    for beta in args.betas:
        folder = args.out / f"beta-{beta:g}"
        model: dict[str, Any] = {**json.loads(args.model), "beta": beta}
        run = Run.open(folder) if is_run(folder) else train(
            "vae", data, out=folder, size=args.size, budget=args.budget, seed=args.seed, model=model
        )  # fmt: skip
        runs.append(run)
    found = rates(runs, data, rows, seed=args.seed)
    print("\n".join(map(in_words, found.points)))
    title, picture = f"{data.name}, {args.budget} each", args.out / "rate-distortion.png"
    print(draw_rate_distortion(found.points, picture, f"Rate and distortion: {title}", found.samples, data.levels))
    print(draw_spectra(found.spectra, args.out / "spectra.png", f"Power spectra: {title}"))
    record = {"data": data.name, "budget": args.budget, "n": len(rows), "points": [asdict(p) for p in found.points]}
    (args.out / "rate-distortion.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
