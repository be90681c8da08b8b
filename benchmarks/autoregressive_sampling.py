"""Cached against naive sampling of PixelCNN, interleaved in one run.

    python benchmarks/pixelcnn_sampling.py [--features 64 --layers 8 --levels 256 --repeats 3]

The naive sampler runs one whole forward pass for every pixel. It is timed on a fraction of its steps, spread over the
image (every step costs the same), and scaled: the output says so. Both run in float32, the naive one's best case; the
library samples in float64 by default, so that rounding never flips a pixel, and that is timed as a third column.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import torch

from trilemma.families import pixelcnn
from trilemma.families.pixelcnn import PixelCNN, PixelCNNConfig, draw
from trilemma.images import Spec
from trilemma.noise import ImageNoise

SIZE = 28


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.inference_mode()
def naive_steps(model: PixelCNN, count: int, steps: int) -> None:
    """Part of `PixelCNN.sample_naive`, in float32: ``steps`` forward passes, each with its draw."""
    x = torch.zeros(count, *model.spec.shape, dtype=torch.uint8)
    uniform = ImageNoise(0, range(count)).uniform(SIZE, SIZE).permute(1, 2, 0).contiguous()
    for i in range(steps):
        row, column = divmod(i * SIZE * SIZE // steps, SIZE)
        logits = model.net(model.image_features(x), None)[:, row, column, 0]
        x[:, 0, row, column] = draw(logits, uniform[row, column], 1.0)


def cached(model: PixelCNN, count: int, dtype: torch.dtype) -> None:
    with patch.object(pixelcnn, "_sampling_dtype", lambda device: dtype):
        model.sample(ImageNoise(0, range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"features": 64, "layers": 8, "levels": 256, "repeats": 3, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--naive-steps", type=int, default=8, help="forward passes of the naive sampler that are timed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = PixelCNNConfig(features=args.features, layers=args.layers, head=args.features)
    model = PixelCNN(config, Spec((1, SIZE, SIZE), args.levels))
    print(f"{SIZE}x{SIZE} grey, {args.levels} levels, {config}, {args.threads} threads")
    print(
        f"naive: {args.naive_steps} of {SIZE * SIZE} steps timed and scaled; medians of {args.repeats} interleaved runs"
    )
    print(f"{'batch':>5} {'naive':>12} {'cached f32':>12} {'cached f64':>12}  images/s       speed-up f32 / f64")
    for count in (64, 1):
        times: list[tuple[float, float, float]] = []
        naive_steps(model, count, 1)  # warm-up
        for _ in range(args.repeats):
            part = seconds(lambda n=count: naive_steps(model, n, args.naive_steps))  # type: ignore[misc]
            times.append(
                (
                    part * SIZE * SIZE / args.naive_steps,
                    seconds(lambda n=count: cached(model, n, torch.float32)),  # type: ignore[misc]
                    seconds(lambda n=count: cached(model, n, torch.float64)),  # type: ignore[misc]
                )
            )
        naive, single, double = (count / median(column) for column in zip(*times, strict=True))
        print(
            f"{count:5d} {naive:12.4f} {single:12.3f} {double:12.3f}"
            f"{'':17}x{single / naive:.0f} / x{double / naive:.0f}"
        )


if __name__ == "__main__":
    main()
