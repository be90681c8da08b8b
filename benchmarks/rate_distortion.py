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

from torch import Tensor

import trilemma
from trilemma.data import DataConfig
from trilemma.images import to_display
from trilemma.metrics.spectrum import Spectrum, power_spectrum, sharpness
from trilemma.queries.rate_distortion import draw_rate_distortion, draw_spectra, rate_point
from trilemma.run import Run, is_run
from trilemma.sampling import sample
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
    rows = data.test[: args.n]
    held_out = data.batch(rows)
    spectra: dict[str, Spectrum] = {"held-out images": power_spectrum(to_display(held_out, data.levels))}
    points, extra = [], json.loads(args.model)
    rows_of: dict[float, Tensor] = {}
    for beta in args.betas:
        folder = args.out / f"beta-{beta:g}"
        model: dict[str, Any] = {**extra, "beta": beta}
        run = Run.open(folder) if is_run(folder) else train(
            "vae", data, out=folder, size=args.size, budget=args.budget, seed=args.seed, model=model
        )  # fmt: skip
        drawn = sample(run, args.n, seed=args.seed).images
        rows_of[beta] = drawn[:10]
        spectra[f"beta {beta:g}"] = power_spectrum(to_display(drawn, data.levels))
        sharp = sharpness(spectra[f"beta {beta:g}"], spectra["held-out images"])
        point = rate_point(run, held_out, sharpness=sharp)
        points.append(point)
        print(
            f"beta {beta:5g}: rate {point.rate:7.2f}, distortion {point.distortion:8.2f}, bound {point.bound:8.2f} "
            f"nats, {point.active} of {point.latents} latents active, fine detail {100 * sharp:.1f} % of real",
            flush=True,
        )
    title = f"{data.name}, {args.budget} each"
    picture = args.out / "rate-distortion.png"
    print(draw_rate_distortion(points, picture, f"Rate and distortion: {title}", rows_of, data.levels))
    print(draw_spectra(spectra, args.out / "spectra.png", f"Power of mean images: {title}"))
    record = {"data": data.name, "budget": args.budget, "n": len(rows), "points": [asdict(p) for p in points]}
    (args.out / "rate-distortion.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
