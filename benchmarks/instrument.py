"""Does the scale tell real images from mush? Metrics × features × distortions × data sets.

    python benchmarks/instrument.py mnist fashion-mnist.npz photos/ --samples photos/=flow-2m.npz --out table.json

Half of each set are the real images; the other half is scored, as it is and distorted. Every score is stated relative
to held-out images as they are (1 = as good). For each metric and feature space the summary says

- fooled: the highest relative fidelity that a ruined set got (blur 4 and 8, mush, constant, shuffled, averages of
  eight, noise of σ = 64);
- order: share of neighbouring strengths of one distortion in the right order;
- Inception: rank correlation with the same metric in Inception features over all sets, if that network is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import trilemma
from trilemma.images import to_display
from trilemma.metrics import feature_network, frechet_distance, manifold_scores, mutual_nearness
from trilemma.metrics.distortions import add_noise, blur, jpeg, shuffle_blocks
from trilemma.metrics.moments import Moments

D = import_module("trilemma.metrics.distortions")  # of that name the package has a function

RUINED = ("blur 4", "blur 8", "mush", "constant", "shuffled pixels", "averages 8", "noise 64")


def distorted(x: Tensor) -> dict[str, Tensor]:
    """Images [N, C, H, W] in every state of ruin."""
    g = torch.Generator().manual_seed(0)
    eight = torch.randint(len(x), (len(x), 8), generator=g)
    found = {"held-out": x}
    found |= {f"blur {s:g}": blur(x, s) for s in (1, 2, 4, 8)}
    found |= {f"noise {s:g}": add_noise(x, s) for s in (8, 16, 32, 64)}
    found |= {f"averages {m}": x[eight[:, :m]].float().mean(1).round().to(torch.uint8) for m in (2, 8)}
    found["mush"] = blur(found["averages 8"], 6)
    found["constant"] = x.float().mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(x).contiguous()
    found |= {f"blocks {b}": shuffle_blocks(x, b) for b in (2, 4)}
    order = torch.rand(len(x), x.shape[2] * x.shape[3], generator=g).argsort(1)
    found["shuffled pixels"] = x.flatten(2).gather(2, order[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    found |= {f"jpeg {q}": jpeg(x, 100 - q) for q in (20, 5)}
    found["50 images repeated"] = x[torch.arange(len(x)) % min(50, len(x))]
    return found


def symmetric(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """min(precision, complement precision), and recall alike (Khayatkhoei & AbdAlmageed 2023, section 4)."""
    d, rr, ff = torch.cdist(real, fake), torch.cdist(real, real), torch.cdist(fake, fake)
    r = rr.kthvalue(k + 1, dim=1).values
    f = ff.kthvalue(k + 1, dim=1).values
    precision, recall = (d < r[:, None]).any(0).float().mean(), (d < f).any(1).float().mean()
    # complement: a sample's own ball reaches a real image; a real image's own ball reaches a sample
    reached, reaching = (d < f).any(0).float().mean(), (d < r[:, None]).any(1).float().mean()
    return min(precision, reached).item(), min(recall, reaching).item()


def clipped(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Clipped density and coverage, uncalibrated (Salvy, Talbot & Thirion 2025, arXiv:2507.01761): radii are cut at
    their median, and no sample counts for more than one."""
    d = torch.cdist(real, fake)
    radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    inside = d < radius.clamp(max=radius.median())[:, None]
    density = (inside.sum(0) / k).clamp(max=1).mean().item()
    return density, ((d < radius[:, None]).sum(1) / k).clamp(max=1).mean().item()


def pair(scores: Callable[..., object], a: str, b: str, real: Tensor, fake: Tensor) -> tuple[float, float]:
    found = scores(real, fake)
    return getattr(found, a).known, getattr(found, b).known


METRICS: dict[str, Callable[[Tensor, Tensor], tuple[float, float]]] = {
    "precision, recall": partial(pair, manifold_scores, "precision", "recall"),
    "density, coverage": partial(pair, manifold_scores, "density", "coverage"),
    "symmetric precision, recall": symmetric,
    "clipped density, coverage": clipped,
    "mutual fidelity, coverage": partial(pair, mutual_nearness, "fidelity", "coverage"),
}


def spearman(a: list[float], b: list[float]) -> float:
    rank = [np.argsort(np.argsort(np.asarray(x), kind="stable"), kind="stable") for x in (a, b)]
    return float(np.corrcoef(*rank)[0, 1])


def features_of(network: trilemma.metrics.Features, x: Tensor, cache: Path | None) -> Tensor:
    """Features, kept in a folder where they are slow."""
    if cache is None or network.dims < 1000:
        return network(x)
    path = cache / f"{hashlib.sha256(network.name.encode() + x.numpy().tobytes()).hexdigest()[:24]}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, network(x).numpy())
    return torch.from_numpy(np.load(path))


def load_samples(path: str) -> Tensor:
    data = trilemma.load(path)
    return to_display(data.batch(np.concatenate([data.train, data.test])), data.levels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="as `trilemma train` takes them")
    parser.add_argument(
        "--samples", action="append", default=[], metavar="SET=FILE", help="samples of a model of a set"
    )
    parser.add_argument("--n", type=int, default=300, help="images scored, and real images they are scored against")
    parser.add_argument("--features", nargs="+", default=["small", "inception"])
    parser.add_argument("--cache", type=Path, help="a folder for slow features")
    parser.add_argument("--out", type=Path, help="all numbers as JSON")
    args = parser.parse_args()
    table: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = {}  # features → set → subject → metric → values
    for name in args.features:
        try:
            network = feature_network(name)
        except ValueError as error:
            print(f"{name} is left out: {error}")
            continue
        for source in args.sets:
            data = trilemma.load(source)
            rows = np.concatenate([data.train, data.test])
            images = to_display(data.batch(rows), data.levels)
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: 2 * args.n]
            half = len(order) // 2
            real, held_out = images[order[:half]], images[order[half:]]
            subjects = distorted(held_out)
            if data.labels is not None:
                labels = torch.as_tensor(data.labels)[torch.as_tensor(rows)]
                rest = torch.ones(len(images), dtype=torch.bool).index_fill(0, order[:half], False)
                for name, kept in (("one class", 1), ("half of the classes", len(data.class_names) // 2)):
                    chosen = (rest & (labels < kept)).nonzero()[:, 0]
                    if len(chosen) >= half // 4:
                        subjects[name] = images[chosen[torch.randperm(len(chosen))[:half]]]
            subjects |= {
                f"samples {Path(path).stem}": load_samples(path)[: args.n]
                for of, path in (item.split("=", 1) for item in args.samples)
                if of == source
            }
            x = features_of(network, real, args.cache)
            for subject, pictures in subjects.items():
                y = features_of(network, pictures, args.cache)
                scores = {metric: list(measure(x, y)) for metric, measure in METRICS.items()}
                try:
                    scores["Fréchet"] = [frechet_distance(Moments.of(y), Moments.of(x))] * 2
                except ValueError:
                    scores["Fréchet"] = [float("nan")] * 2
                table.setdefault(network.name, {}).setdefault(source, {})[subject] = scores
            show(network.name, source, table[network.name][source])
            if args.out:
                args.out.write_text(json.dumps(table))
    summarise(table)


def show(features: str, source: str, found: dict[str, dict[str, list[float]]]) -> None:
    print(f"\n{features} · {Path(source).name}")
    print(
        f"{'':28}" + "".join(f"{m.split(', ')[0]:>22}" for m in METRICS) + f"{'coverage (mutual)':>20}{'Fréchet':>12}"
    )
    for subject, scores in found.items():
        real = found["held-out"]
        cells = "".join(f"{scores[m][0]:>15.2f} ({scores[m][0] / max(real[m][0], 1e-9):4.2f})" for m in METRICS)
        last = scores["mutual fidelity, coverage"][1]
        print(f"{subject:28}{cells}{last:>20.2f}{scores['Fréchet'][0]:>12.1f}", flush=True)


def summarise(table: dict[str, dict[str, dict[str, dict[str, list[float]]]]]) -> None:
    teacher = next((name for name in table if name.startswith("inception")), None)
    print(f"\n{'':34}{'metric':32}{'fooled':>8}{'order':>8}{'Inception':>11}")
    for features, sets in table.items():
        for metric in (*METRICS, "Fréchet"):
            fooled, steps, right = 0.0, 0, 0
            for found in sets.values():
                base = found["held-out"][metric][0]
                if metric != "Fréchet":
                    fooled = max([fooled] + [found[r][metric][0] / max(base, 1e-9) for r in RUINED])
                for kind in ("blur", "noise", "averages", "blocks", "jpeg"):
                    row = [base] + [v[metric][0] for key, v in found.items() if key.startswith(kind + " ")]
                    for a, b in itertools.pairwise(row):
                        steps += 1
                        right += (b >= a * 0.97) if metric == "Fréchet" else (b <= a + 0.03)
            same = float("nan")
            if teacher and features != teacher:
                rows = [
                    (v[metric][0], table[teacher][s][key][metric][0])
                    for s, found in sets.items()
                    for key, v in found.items()
                ]
                same = spearman([a for a, _ in rows], [b for _, b in rows])
            print(f"{features:34}{metric:32}{fooled:>8.2f}{right / steps:>8.2f}{same:>11.2f}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
