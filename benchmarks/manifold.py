"""Precision, recall, density and coverage against the package of their authors, prdc: equal values, time, memory.

    pip install prdc
    python benchmarks/manifold.py [--images 10000] [--dims 2048] [--rounds 3]
    python benchmarks/manifold.py --images 50000 --dims 2048 --alone       # ours only: peak memory

The last line is the ratio of processor seconds, prdc's to ours; or, alone, the peak resident memory of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import statistics
import time

import torch
from torch import Tensor

from trilemma.machine import described
from trilemma.metrics import manifold_scores

NAMES = ("precision", "recall", "density", "coverage")


def features(count: int, dims: int, seed: int) -> Tensor:
    """Like those of a network: not negative, of uneven scale."""
    x = torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))
    return x.relu_().mul_(torch.arange(1, dims + 1).rsqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without prdc")
    arguments = parser.parse_args()
    real, fake = (features(arguments.images, arguments.dims, seed) for seed in (0, 1))
    fake.mul_(0.97)
    print(described())
    ratios = []
    for number in range(1 if arguments.alone else arguments.rounds):
        start = time.process_time()
        ours = manifold_scores(real, fake)
        our_time = time.process_time() - start
        print(f"round {number + 1}: ours {our_time:.1f} s of processor time", flush=True)
        if arguments.alone:
            continue
        import prdc

        a, b = real.double().numpy(), fake.double().numpy()
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = prdc.compute_prdc(a, b, nearest_k=5)
        ratios.append((time.process_time() - start) / our_time)
        print(f"         prdc {ratios[-1] * our_time:.1f} s, {ratios[-1]:.2f} times as long")
    print(", ".join(f"{name} {getattr(ours, name).value:.5f} ± {getattr(ours, name).error:.5f}" for name in NAMES))
    if arguments.alone:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"peak memory with {arguments.images} + {arguments.images} x {arguments.dims}: {peak:.2f} GiB")
        return
    print(f"largest difference from prdc: {max(abs(getattr(ours, name) - theirs[name]) for name in NAMES):.1e}")
    print(f"prdc / ours, N = {arguments.images}, d = {arguments.dims}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
