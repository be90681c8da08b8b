"""Are the numbers those of before? Every question of every able family on fixed seeds, recorded and compared.

    python benchmarks/recorded.py before.json            # at the commit before a change that must not change numbers
    python benchmarks/recorded.py after.json --against before.json

Trains thirteen tiny runs (30 steps, seconds each; kept in --runs, which both commits should share, so that the weights
are the same), asks each what it can be asked and evaluates some, and writes all numbers. A number that differs in a
single bit is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import trilemma
from trilemma.questions import questions
from trilemma.run import is_run

RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "autoencoder": ("autoencoder", "grey", {}),
    "vae": ("vae", "grey", dict(model=dict(latent=2))),
    "vae-colour": ("vae", "colour", dict(conditional=True, model=dict(beta=2.0))),
    "vae-beta": ("vae", "grey", dict(model=dict(latent=2, beta=4.0))),
    "gan": ("gan", "grey", dict(conditional=True)),
    "pixelcnn": ("pixelcnn", "grey", dict(conditional=True)),
    "pixelrnn": ("pixelrnn", "colour", {}),
    "diffusion": ("diffusion", "grey", dict(conditional=True, model=dict(variance="learned", objective="hybrid"))),
    "flow": ("flow", "colour", {}),
    "vae-vectors": ("vae", "vectors", {}),
    "gan-vectors": ("gan", "vectors", {}),
    "diffusion-vectors": ("diffusion", "vectors", {}),
    "flow-vectors": ("flow", "vectors", dict(conditional=True)),
}
BRIEF: dict[str, dict[str, Any]] = {
    "annealed": dict(n=3, temperatures=10, chains=3),
    "arithmetic": dict(expression="0-1+2", n=20),
    "classify": dict(n=20),
    "codes": dict(n=140),
    "complete": dict(n=3, copies=2, particles=4, keep="left"),
    "curve": dict(n=140, counts=(2, 3), reference=140),
    "disentangle": dict(factors="factors.npz", n=150),
    "downstream": dict(n=100),
    "forward": dict(n=3),
    "gradients": dict(n=3),
    "guidance": dict(n=140, weights=(0.0, 2.0), reference=140, options=dict(steps=3)),
    "interpolate": dict(n=4, points=5),
    "invert": dict(n=3, counts=(3, 6)),
    "likelihood": dict(n=20),
    "manifold": dict(n=60),
    "ode": dict(n=4, samples=2, tolerance=0.01),
    "ood": dict(other="other.npz", n=30),
    "posterior": dict(n=6),
    "rates": dict(others="vae-beta", n=40),
    "receptive": dict(n=4, position="5,4"),
    "reverse": dict(n=3, options=dict(steps=8)),
    "surprise": dict(n=4),
    "terms": dict(n=3),
    "traverse": dict(n=50, points=5),
}
"""How each question is asked, where its defaults take long; file names are of the folder of the runs."""

TIMES = ("seconds", "images_per_second", "created", "known_before")


def blobs(count: int, channels: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Discs of three sizes, the classes, at random places."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    down, across = np.mgrid[:12, :12]
    images = np.zeros((count, 12, 12, channels))
    for image, label in zip(images, labels, strict=True):
        x, y = random.uniform(3, 9, 2)
        disc = np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * (1.5 + label) ** 2))
        image[:] = disc[..., None] * random.uniform(0.5, 1, channels)
    return (255 * images).astype(np.uint8), labels


def prepare(folder: Path) -> None:
    """The data and the runs, where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "vectors.npz").exists():
        for name, count, channels in (("grey", 1400, 1), ("colour", 1400, 3), ("other", 200, 1)):
            images, labels = blobs(count, channels, channels)
            np.savez(folder / f"{name}.npz", images=255 - images if name == "other" else images, labels=labels)
        images, labels = blobs(200, 1, 7)
        factors = np.stack([labels, np.arange(200) % 4], 1).astype(float)
        np.savez(folder / "factors.npz", images=images, factors=factors)
        vectors = np.random.default_rng(0).normal(size=(800, 2)).astype(np.float32)
        vectors[:400] += 3
        np.savez(folder / "vectors.npz", images=vectors, labels=np.arange(800) < 400)
    for name, (family, data, more) in RUNS.items():
        if not is_run(folder / name):
            settings = dict(batch=32, precision="fp32", pictures=0)
            trilemma.train(
                family, folder / f"{data}.npz", out=folder / name, budget="30steps", settings=settings, **more
            )


def record(folder: Path) -> dict[str, Any]:
    """Answers and evaluations as plain values."""
    found: dict[str, Any] = {}
    for name in RUNS:
        run = trilemma.Run.open(folder / name)
        for question, cls in questions().items():
            if cls.able(run) is not None:
                continue
            fields = {k: _placed(folder, k, v) for k, v in BRIEF.get(question, {}).items()}
            try:
                answer = trilemma.ask(run, question, **fields).to_json()
                found[f"{question} of {name}"] = {key: answer[key] for key in ("numbers", "values", "kind", "flag")}
            except ValueError as error:
                found[f"{question} of {name}"] = {"refused": str(error)}
        protocol = trilemma.Protocol(n=140, reference=140, likelihood_n=10, ladder="no")
        found[f"evaluation of {name}"] = trilemma.evaluate(run, protocol=protocol, out=folder / "evaluated" / name)[
            "metrics"
        ]
        print(f"{name}: {len(found)} records", file=sys.stderr)
    return found


def _placed(folder: Path, name: str, value: Any) -> Any:
    return str(folder / value) if name in ("other", "factors", "others") else value


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and word, with its place; times are left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in TIMES:
                yield from leaves(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{where}[{i}]")
    else:
        yield where, value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("recorded-runs"))
    parser.add_argument("--against", type=Path)
    args = parser.parse_args()
    prepare(args.runs)
    found = json.loads(json.dumps(record(args.runs), default=str))
    args.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"{sum(1 for _ in leaves(found)):,} values of {len(found)} records in {args.out}")
    if args.against is None:
        return 0
    before, after = dict(leaves(json.loads(args.against.read_text("utf-8")))), dict(leaves(found))
    changed = [place for place in before if before[place] != after.get(place, "missing")]
    for place in changed[:50]:
        print(f"{place}: {before[place]} became {after.get(place, 'missing')}")
    print(f"{len(changed):,} of {len(before):,} values changed, {len(set(after) - set(before)):,} are new")
    return 1 if changed else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    raise SystemExit(main())
