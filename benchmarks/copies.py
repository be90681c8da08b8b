"""Does the copy test accuse what is no copy, and does it find what is one?

    python benchmarks/copies.py mnist fashion-mnist.npz photos/ --train 10000 --out table.json

Real images are split at random. Sets of samples are real images that the test has not seen, as they are and distorted:
the table says how many sets of 50 and of 150 have p < 0.01. Then 10 and 20 training images, changed, are planted
among 1,000 real ones: the p-value. All of it by whitened pixels (`metrics.whitened`), the null 1,000 held-out images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from instrument import distorted
from torch import Tensor

import trilemma
from trilemma.images import to_display
from trilemma.metrics import Alike, Whitened, verdict
from trilemma.metrics.distortions import add_noise, blur

SIZES = (50, 150)


def moved(x: Tensor, down: int, right: int) -> Tensor:
    """Shifted, the edge repeated."""
    height, width = x.shape[-2:]
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    return x[..., rows, :][..., (torch.arange(width) - right).clamp(0, width - 1)]


PLANTED: dict[str, Callable[[Tensor], Tensor]] = {
    "exact": lambda x: x,
    "blurred by 1": partial(blur, strength=1.0),
    "shifted by 1": partial(moved, down=1, right=-1),
    "shifted by 2": partial(moved, down=2, right=1),
    "mirrored": lambda x: x.flip(-1),
    "darkened to 70 %": lambda x: (0.7 * x.float()).round().to(torch.uint8),
    "noise of 8": partial(add_noise, strength=8.0),
}


def sets(x: Tensor, train: Tensor) -> dict[str, Tensor]:
    """What is no copy: unseen images in every state of ruin, and means of training images."""
    kinds = {k: v for k, v in distorted(x).items() if "repeated" not in k}
    eight = torch.randint(len(train), (len(x), 8), generator=torch.Generator().manual_seed(1))
    kinds["averages 8 of training"] = torch.cat(
        [train[part].float().mean(1).round().to(torch.uint8) for part in eight.split(64)]
    )
    kinds["mush of training"] = blur(kinds["averages 8 of training"], 6.0)
    kinds["one image repeated"] = x[:1].expand_as(x)
    return kinds


class Judge:
    """Images searched once, and judged in sets."""

    def __init__(self, alike: Alike, images: Tensor) -> None:
        self.alike, self.looks = alike, alike.whitened.looks(images)
        self.scores, self.rows, self.gains = alike.whitened.search(images)

    def take(self, part: slice) -> tuple[Tensor, ...]:
        return self.looks[part], self.scores[part], self.rows[part], self.gains[part]

    def p(self, *parts: Tensor) -> float:
        return verdict(*self.alike.between(*parts), distinct=False).p_value


def measure(source: str, count: int, held: int, say: Callable[[str], None]) -> dict[str, dict[str, str]]:
    data = trilemma.load(source)
    every = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0)).numpy()
    n = min(1000, (len(every) - held) // 3)
    images = to_display(data.batch(every[: n + held + count]), data.levels)
    fresh, held_out, train = images[:n], images[n : n + held], images[n + held :]
    alike = Alike(Whitened(train), held_out, train)
    say(f"{source}: {len(train)} training, {len(held_out)} held-out, {n} fresh images")
    real = Judge(alike, fresh)
    power: dict[str, str] = {}
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(2))[:20]
    for kind, change in PLANTED.items():
        judge = Judge(alike, change(train[chosen]))
        planted = [
            [torch.cat([c, r]) for c, r in zip(judge.take(slice(m)), real.take(slice(n - m)), strict=True)]
            for m in (10, 20)
        ]
        power[kind] = ", ".join(f"{judge.p(*each):.1g}" for each in planted)
        say(f"  planted, {kind:20s} p = {power[kind]}")
    false: dict[str, str] = {}
    for kind, x in sets(fresh[:150], train).items():
        judge = Judge(alike, x)
        found = []
        for size in SIZES:
            p = [judge.p(*judge.take(slice(i, i + size))) for i in range(0, len(x) - size + 1, size)]
            found.append(f"{sum(value < 0.01 for value in p)} of {len(p)}")
        false[kind] = ", ".join(found)
        say(f"  {kind:24s} {false[kind]}")
    return {"false": false, "power": power}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="image sources")
    parser.add_argument("--train", type=int, default=10_000, help="training images at most")
    parser.add_argument("--held-out", type=int, default=1_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table = {s: measure(s, args.train, args.held_out, lambda t: print(t, flush=True)) for s in args.sources}
    if args.out:
        args.out.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
