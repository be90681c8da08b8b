"""Cached against naive sampling of every autoregressive network, interleaved in one run.

    python benchmarks/autoregressive_sampling.py [--networks gated plain --shapes 1x28x28 3x32x32 --repeats 3]

The naive sampler runs one whole forward pass for every value. It is timed on a few of its steps, spread over the image
(every step costs the same), and scaled: the output says so. Both run in float32, the naive one's best case; the library
samples in float64 by default, so that rounding never flips a pixel, and that is timed as a third column. Beside the
times stands the arithmetic of the cached sampler for each image, as a multiple of one forward pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from trilemma.families import autoregressive
from trilemma.families.autoregressive import Autoregressive
from trilemma.families.conditionals import draw
from trilemma.families.pixelcnn import PixelCNN, PixelCNNConfig
from trilemma.families.pixelrnn import PixelRNN, PixelRNNConfig
from trilemma.images import Spec
from trilemma.machine import described
from trilemma.noise import ImageNoise

NETWORKS: dict[str, Callable[[Spec, int, int], Autoregressive]] = {
    "gated": lambda spec, h, n: PixelCNN(PixelCNNConfig("gated", features=h, layers=n, head=h), spec),
    "plain": lambda spec, h, n: PixelCNN(PixelCNNConfig("plain", features=h, layers=n, kernel=3, head=h), spec),
    "diagonal-bilstm": lambda spec, h, n: PixelRNN(PixelRNNConfig("diagonal-bilstm", features=h, layers=n), spec),
    "row-lstm": lambda spec, h, n: PixelRNN(PixelRNNConfig("row-lstm", features=h, layers=n), spec),
}


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.inference_mode()
def naive_steps(model: Autoregressive, count: int, steps: int) -> None:
    """Part of `Autoregressive.sample_naive`, in float32: ``steps`` forward passes, each with its draw."""
    channels, height, width = model.spec.shape
    x = torch.zeros(count, *model.spec.shape, dtype=torch.uint8)
    uniform = ImageNoise(0, range(count)).uniform(height, width).permute(1, 2, 0).contiguous()
    for i in range(steps):
        row, column = divmod(i * height * width // steps, width)
        description = model.net(model.features(x), None)[:, row, column, 0]
        log_p = model.conditional.log_p(description, x[:, :, row, column], 0)
        x[:, 0, row, column] = draw(log_p, uniform[row, column], 1.0)


def cached(model: Autoregressive, count: int, dtype: torch.dtype) -> None:
    with patch.object(autoregressive, "sampling_dtype", lambda device: dtype):
        model.sample(ImageNoise(0, range(count)))


def arithmetic(model: Autoregressive) -> float:
    """Operations of the cached sampler for an image over those of a forward pass."""
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.nll(torch.zeros(1, *model.spec.shape, dtype=torch.uint8), None)
    with FlopCounterMode(display=False) as sampling:
        model.sample(ImageNoise(0, range(16)))  # torch counts its own products only, and few images run on NumPy
    return float(sampling.get_total_flops()) / 16 / float(forward.get_total_flops())


def compare(model: Autoregressive, count: int, repeats: int, steps: int) -> tuple[float, float, float]:
    """Images a second of the naive sampler in float32 and of the cached one in float32 and float64."""
    times: list[tuple[float, float, float]] = []
    naive_steps(model, count, 1)  # warm-up
    for _ in range(repeats):
        part = seconds(lambda: naive_steps(model, count, steps))
        whole = part * model.spec.dims / steps
        single = seconds(lambda: cached(model, count, torch.float32))
        times.append((whole, single, seconds(lambda: cached(model, count, torch.float64))))
    naive, single, double = (count / median(column) for column in zip(*times, strict=True))
    return naive, single, double


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--shapes", nargs="+", default=["1x28x28", "3x32x32"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1])
    for name, default in {"features": 64, "layers": 8, "levels": 256, "repeats": 3, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--naive-steps", type=int, default=4, help="forward passes of the naive sampler that are timed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(described())
    print(f"{args.features} features, {args.layers} layers, {args.levels} levels, {args.threads} threads")
    print(f"naive: {args.naive_steps} of its steps timed and scaled; medians of {args.repeats} interleaved runs")
    print(f"{'network':16}{'image':>9}{'batch':>6}{'naive':>10}{'cached':>9}{'float64':>9}  images/s  speed-up  work")
    for shape in args.shapes:
        channels, height, width = map(int, shape.split("x"))
        for network in args.networks:
            model = NETWORKS[network](Spec((channels, height, width), args.levels), args.features, args.layers)
            work = arithmetic(model)
            for count in args.batches:
                naive, single, double = compare(model, count, args.repeats, args.naive_steps)
                print(
                    f"{network:16}{shape:>9}{count:6d}{naive:10.5f}{single:9.3f}{double:9.3f}{'':12}"
                    f"x{single / naive:<5.0f} x{double / naive:<5.0f}{work:5.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
