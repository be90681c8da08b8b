"""Fréchet distance of this library against the square root of a matrix by scipy, as most FID packages take it.

    python benchmarks/frechet.py [--dims 2048] [--images 10000] [--rounds 3]

Both get the same two sets of features (float64, on as many threads as torch and scipy take) and fit their own means
and covariances; rounds are interleaved and the median counts. The last line is the ratio of seconds, scipy to ours.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import scipy.linalg
import torch

from trilemma.machine import described
from trilemma.metrics import frechet_distance


def by_square_root(a: np.ndarray, b: np.ndarray) -> float:
    shift = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root.real))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    d = arguments.dims
    spectrum = torch.arange(1, d + 1, dtype=torch.float64).rsqrt()  # features of images are far from isotropic
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64) * spectrum / d**0.5
    a, b = torch.randn(2, arguments.images, d, generator=generator, dtype=torch.float64) @ mixing.T
    b = 1.1 * b + 0.01

    frechet_distance(a[:500, :64], b[:500, :64])  # wake the threads
    print(described())
    ours, theirs = [], []
    for number in range(arguments.rounds):
        start = time.perf_counter()
        distance = frechet_distance(a, b)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        reference = by_square_root(a.numpy(), b.numpy())
        theirs.append(time.perf_counter() - start)
        print(f"round {number + 1}: ours {ours[-1]:.2f} s, scipy {theirs[-1]:.2f} s")
    print(f"distance: ours {distance:.9f}, scipy {reference:.9f}, relative difference {distance / reference - 1:.1e}")
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"scipy sqrtm / ours, d={d}, N={arguments.images}: {ratio:.1f}")


if __name__ == "__main__":
    main()
