"""Inception features per second against pytorch-fid's network, with the same weights on the same images.

    pip install --no-deps --target refs pytorch-fid==0.3.0 torchvision
    TRILEMMA_INCEPTION=…/default_1.pt PYTHONPATH=refs python benchmarks/inception.py [--images 32] [--rounds 5]

Both start from uint8 images and resize them as pytorch-fid does; pytorch-fid runs as its `get_activations` does, on
floats in batches of `--images`. Rounds are interleaved, so a busy machine slows both, and the median of the ratios by
processor time counts. The last line is the ratio of images per second, ours to pytorch-fid's.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from peers import lend_weights  # beside this file
from torch import Tensor

from trilemma.machine import described
from trilemma.metrics import feature_network

warnings.simplefilter("ignore")


def seconds(action: Callable[[], Tensor]) -> tuple[float, float]:
    """By the wall clock and by processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import pytorch_fid.inception as reference

    lend_weights()
    reference.load_state_dict_from_url = lambda *_, **__: {}
    theirs, ours = reference.InceptionV3([3]).eval(), feature_network("inception/pytorch-fid")
    shape = (arguments.images, 3, arguments.side, arguments.side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def by_reference() -> Tensor:
        with torch.no_grad():
            features: Tensor = theirs(images.float() / 255)[0][:, :, 0, 0]
        return features

    x, y = ours(images), by_reference()  # and a warm-up
    print(f"{described()}, {arguments.images} images a batch")
    print(f"features {float((x - y).norm() / y.norm()):.1e} apart, relative")
    ratios = []
    for number in range(arguments.rounds):
        (their_wall, their_time), (our_wall, our_time) = seconds(by_reference), seconds(lambda: ours(images))
        ratios.append((their_wall / our_wall, their_time / our_time))
        print(
            f"round {number + 1}: ours {arguments.images / our_wall:.1f} images/s, "
            f"pytorch-fid {arguments.images / their_wall:.1f}",
            flush=True,
        )
    wall, processor = (statistics.median(ratio[i] for ratio in ratios) for i in (0, 1))
    print(f"images per second, ours to pytorch-fid's: {processor:.2f} by processor time, {wall:.2f} by the wall clock")


if __name__ == "__main__":
    main()
