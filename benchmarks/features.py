"""Does a feature space see what matters? Nearest-neighbour accuracy, response to known damage, and speed.

    python benchmarks/features.py fashion-mnist.npz cifar10.npz mnist.npz [--features small]

Each file is an ``.npz`` with ``x_train [N, H, W] or [N, H, W, 3]`` uint8 and ``y_train [N]``. Printed per file:

- accuracy of 1-nearest-neighbour classification, 500 images by 500, mean and standard deviation over 10 disjoint
  splits, in raw pixels and in the features;
- Fréchet distance of 2,000 damaged images from 10,000 others, beside that of 2,000 undamaged ones (the floor):
  Gaussian blur (standard deviation in pixels), Gaussian noise (standard deviation in grey levels), broken strokes
  (share of 2x2 pixel blocks erased), mode drop (share of images replaced by ones of the first class).

The last line is the ratio of error rates, features to pixels, averaged over the files.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.machine import described
from trilemma.metrics import Gaussian, feature_network, frechet_distance


def load(path: Path) -> tuple[Tensor, Tensor]:
    with np.load(path) as file:
        images, labels = torch.from_numpy(file["x_train"]), torch.from_numpy(file["y_train"].astype(np.int64))
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order].contiguous(), labels[order]


def accuracy(features: Tensor, labels: Tensor, splits: int = 10) -> tuple[float, float]:
    hits = []
    for start in range(0, splits * 1000, 1000):
        known, asked = slice(start, start + 500), slice(start + 500, start + 1000)
        found = torch.cdist(features[asked], features[known]).argmin(1)
        hits.append((labels[known][found] == labels[asked]).double().mean())
    return torch.stack(hits).mean().item(), torch.stack(hits).std().item()


def blur(x: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma + 1)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (taps / taps.sum()).view(1, 1, 1, -1)
    flat = x.float().flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3))
    return flat.view(x.shape).round().to(torch.uint8)


def noisy(x: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (x + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def broken(x: Tensor, share: float) -> Tensor:
    count, _, height, width = x.shape
    blocks = torch.rand(count, 1, height // 2, width // 2, generator=torch.Generator().manual_seed(2)) >= share
    return x * F.interpolate(blocks.float(), (height, width), mode="nearest").to(torch.uint8)


def dropped(x: Tensor, one_class: Tensor, share: float) -> Tensor:
    count = round(share * len(x))
    return torch.cat([one_class[:count], x[count:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--features", default="small")
    arguments = parser.parse_args()
    features = feature_network(arguments.features)
    print(described())
    ratios = []
    for path in arguments.files:
        images, labels = load(path)
        before = time.process_time()
        known = features(images[:10_000])
        speed = 10_000 / (time.process_time() - before)
        pixels, spread = accuracy(images[:10_000].flatten(1).float(), labels)
        ours, our_spread = accuracy(known, labels)
        ratios.append((1 - ours) / (1 - pixels))
        print(f"\n{path.stem}: {features.name}, {features.dims} dims, {speed:.0f} images per CPU second")
        print(f"  1-NN accuracy: pixels {pixels:.3f} ± {spread:.3f}, features {ours:.3f} ± {our_spread:.3f}")

        law, x = Gaussian.fit(known), images[10_000:12_000]
        rest, rest_labels = images[12_000:], labels[12_000:]
        one_class = rest[rest_labels == 0][:2000]
        damages = {
            "blur": [(s, blur(x, s)) for s in (0.3, 0.5, 0.8, 1.2, 2.0)],
            "noise": [(s, noisy(x, s)) for s in (4, 8, 16, 32, 64)],
            "broken": [(s, broken(x, s)) for s in (0.02, 0.05, 0.1, 0.2, 0.4)],
            "mode drop": [(s, dropped(x, one_class, s)) for s in (0.1, 0.25, 0.5, 0.75, 1.0)],
        }
        print(f"  Fréchet distance, undamaged: {frechet_distance(law, features(x)):.4f}")
        for name, steps in damages.items():
            values = [frechet_distance(law, features(damaged)) for _, damaged in steps]
            rising = "rises" if values == sorted(values) else "DOES NOT RISE"
            print(
                f"  {name:10}" + "  ".join(f"{s:g}: {v:.4f}" for (s, _), v in zip(steps, values, strict=True)), rising
            )
    print(f"\nerror rate of 1-NN, {features.name} to pixels: {sum(ratios) / len(ratios):.2f}")


if __name__ == "__main__":
    main()
