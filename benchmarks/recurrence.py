"""A training step of the Diagonal BiLSTM against a straightforward loop over diagonals, interleaved in one run.

    python benchmarks/recurrence.py [--features 32 --layers 1 --size 28 --rounds 5]

The straightforward net is the paper's description written down: skew the map, loop over its columns with a 2x1
convolution for the state and an ordinary LSTM cell under autograd, unskew; once for each direction. It shares the
weights, the first convolution and the head with ours, and both give the same likelihood (checked first).
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from trilemma.families.pixelrnn import PixelRNN, PixelRNNConfig
from trilemma.images import Spec
from trilemma.machine import described
from trilemma.nets.recurrent import DiagonalLSTM
from trilemma.nets.residual import ResidualStack


def skew(x: Tensor) -> Tensor:
    """[B, F, H, W] to [B, F, H, H + W - 1]: row r is moved r to the right."""
    height, width = x.shape[2:]
    return torch.stack([F.pad(x[:, :, row], (row, height - 1 - row)) for row in range(height)], 2)


def unskew(x: Tensor) -> Tensor:
    height = x.shape[2]
    width = x.shape[3] - height + 1
    return torch.stack([x[:, :, row, row : row + width] for row in range(height)], 2)


def straightforward_scan(gates: Tensor, weight: Tensor) -> Tensor:
    """[B, 4P, H, W] and the weights [2, P, 4P] of the pixels to the left and above, to h [B, P, H, W]."""
    kernel = torch.stack([weight[1], weight[0]], 2).permute(1, 0, 2)  # [4P, P, 2]: the row above, the row itself
    skewed, inside = skew(gates), skew(torch.ones_like(gates[:1, :1]))
    h = c = torch.zeros_like(skewed[:, : weight.shape[1], :, 0])
    columns = []
    # unbind, as indexing a column would give each one a gradient of the whole map's size
    for column, there in zip(skewed.unbind(3), inside.unbind(3), strict=True):
        z = column + F.conv1d(F.pad(h, (1, 0)), kernel)
        out, forget, enter, g = z.chunk(4, 1)
        c = (forget.sigmoid() * c + enter.sigmoid() * (g / 2).tanh()) * there
        h = out.sigmoid() * c.tanh()
        columns.append(h)
    return unskew(torch.stack(columns, 3))


def straightforward_block(block: DiagonalLSTM, x: Tensor, image: Tensor) -> Tensor:
    """The block on [B, H, W, F], one direction after the other."""
    assert block.back is not None
    left = straightforward_scan(block.input(x).permute(0, 3, 1, 2), block.state[0])
    gates = block.back(torch.cat([x, image], 3)).permute(0, 3, 1, 2)
    right = straightforward_scan(gates.flip(3), block.state[1]).flip(3)
    seen = left + F.pad(right[:, :, :-1], (0, 0, 1, 0))
    out: Tensor = x + block.leave(seen.permute(0, 2, 3, 1))
    return out


def straightforward_nats(model: PixelRNN, x: Tensor) -> Tensor:
    net = model.net
    assert isinstance(net, ResidualStack)
    features = model.features(x)
    y = (net.first(features) + net.place.at(None)).permute(0, 2, 3, 1)
    for block in net.blocks:
        assert isinstance(block, DiagonalLSTM)
        y = straightforward_block(block, y, features.permute(0, 2, 3, 1))
    outputs = net.last(net.hidden(y.relu()).relu())
    nats: Tensor = model.conditional.nats(outputs.unsqueeze(3), x).flatten(1).sum(1)
    return nats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"features": 32, "layers": 1, "size": 28, "rounds": 5, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    spec = Spec((1, args.size, args.size), 2)
    model = PixelRNN(PixelRNNConfig(features=args.features, layers=args.layers), spec)
    print(described())
    print(f"{args.size}x{args.size} binary, {model.config}, {args.threads} threads, fp32; medians of {args.rounds}")
    for batch in (4, 8, 16):
        x = torch.randint(0, 2, (batch, *spec.shape), dtype=torch.uint8)
        torch.testing.assert_close(straightforward_nats(model, x), model.nll(x, None))

        def step(which: str, x: Tensor = x) -> float:
            start = time.perf_counter()
            model.zero_grad()
            nats = model.nll(x, None) if which == "ours" else straightforward_nats(model, x)
            nats.mean().backward()  # type: ignore[no-untyped-call]
            return time.perf_counter() - start

        times = {"ours": [], "loop": []}  # type: dict[str, list[float]]
        for _ in range(args.rounds):
            for which, found in times.items():
                found.append(step(which))
        ours, loop = median(times["ours"]), median(times["loop"])
        ratios = [b / a for a, b in zip(times["ours"], times["loop"], strict=True)]
        print(f"batch {batch:2d}: ours {1e3 * ours:7.1f} ms, loop {1e3 * loop:7.1f} ms, ratio {median(ratios):.2f}")


if __name__ == "__main__":
    main()
