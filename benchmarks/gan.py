"""DCGAN training speed against a plain PyTorch loop, with the same networks.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/gan.py --rounds 7 --size tiny

Both train the generator and the discriminator of a preset (so parameters and operations are equal) on the same 28 x 28
images, a step of D and a step of G at a time. Ours runs as this library trains: in the quicker arithmetic, channels
last, fused Adam, D frozen in G's step, and an average of the weights. The other is the loop of PyTorch's DCGAN
tutorial: float32, the default memory format, binary cross-entropy, Adam as it comes, one batch of noise for both steps.
Rounds alternate, so that a busy machine slows both; the ratio is the median's. `--parts` takes our settings away one at
a time.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.families.gan import GAN, GANConfig
from trilemma.images import Spec
from trilemma.machine import autocast, described
from trilemma.noise import BatchNoise
from trilemma.presets import DCGAN, gflop
from trilemma.training import average

SPEC = Spec((1, 28, 28))
BATCH, CPU = 64, torch.device("cpu")
LR, BETAS = 2e-4, (0.5, 0.999)


@dataclass(frozen=True)
class Settings:
    """What our loop does that a plain one does not."""

    quicker: bool = True
    channels_last: bool = True
    fused: bool = True
    frozen: bool = True
    ema: bool = True


class Ours:
    """One round of steps, as the training loop runs them."""

    def __init__(self, config: GANConfig, images: Tensor, settings: Settings) -> None:
        self.settings, self.images, self.step = settings, images, 0
        torch.manual_seed(0)
        self.model = GAN(config, SPEC)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model)
        self.objectives = self.model.objectives()
        fused = True if settings.fused else None
        self.optimisers = [torch.optim.Adam(o.parameters, LR, BETAS, fused=fused) for o in self.objectives]

    def round(self) -> None:
        for x in torch.split(self.images, BATCH):
            for objective, optimiser in zip(self.objectives, self.optimisers, strict=True):
                if self.settings.frozen:
                    objective.freeze_others(self.model)
                noise = BatchNoise((self.step, objective.name), len(x), 0, len(x), CPU)
                with autocast(CPU, "auto" if self.settings.quicker else "fp32"):
                    loss = objective.loss(x, None, noise).total
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(objective.parameters, torch.inf)  # as the loop logs it
                assert torch.isfinite(loss.detach() + norm)
                optimiser.step()
            if self.settings.ema:
                average(self.ema, self.model, 0.999)
            self.step += 1


class Plain:
    """The same of a plain loop."""

    def __init__(self, config: GANConfig, images: Tensor) -> None:
        torch.manual_seed(0)
        model = GAN(config, SPEC)
        self.generator, self.discriminator, self.latent = model.generator, model.discriminator, config.latent
        self.images = images.float() / 127.5 - 1  # prepared once: a data loader's work is not counted
        self.of_d = torch.optim.Adam(self.discriminator.parameters(), LR, BETAS)
        self.of_g = torch.optim.Adam(self.generator.parameters(), LR, BETAS)

    def round(self) -> None:
        for x in torch.split(self.images, BATCH):
            real, fake = torch.ones(len(x)), torch.zeros(len(x))
            self.discriminator.zero_grad()
            F.binary_cross_entropy_with_logits(self.discriminator(x), real).backward()
            made = self.generator(torch.randn(len(x), self.latent))
            F.binary_cross_entropy_with_logits(self.discriminator(made.detach()), fake).backward()
            self.of_d.step()
            self.generator.zero_grad()
            loss = F.binary_cross_entropy_with_logits(self.discriminator(made), real)
            loss.backward()
            self.of_g.step()
            loss.item()


def timed(run: Ours | Plain) -> float:
    """Images per second of one round."""
    started = time.perf_counter()
    run.round()
    return len(run.images) / (time.perf_counter() - started)


def compare(ours: Ours, plain: Plain, rounds: int) -> tuple[list[float], list[float]]:
    for run in (ours, plain):
        run.round()  # warm-up
    pairs = [(timed(ours), timed(plain)) for _ in range(rounds)]
    return [mine for mine, _ in pairs], [other for _, other in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=512, help="images in one round")
    parser.add_argument("--size", default="tiny", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--parts", action="store_true", help="also without each of our settings")
    args = parser.parse_args()
    config = GANConfig(**getattr(DCGAN, args.size))
    images = torch.randint(256, (args.images, *SPEC.shape), dtype=torch.uint8)
    print(f"{config.width=} {config.latent=}, {gflop('gan', config, SPEC):.2f} GFLOP an image")
    print(f"{described()}, batch {BATCH}")
    variants = {"ours": Settings()}
    if args.parts:
        variants |= {f"ours without {part}": Settings(**{part: False}) for part in vars(Settings())}
    for name, settings in variants.items():
        mine, other = compare(Ours(config, images, settings), Plain(config, images), args.rounds)
        ratios = sorted(a / b for a, b in zip(mine, other, strict=True))
        print(
            f"{name}: {statistics.median(mine):.0f} images/s, plain {statistics.median(other):.0f}; "
            f"ratio {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] of {args.rounds} rounds"
        )


if __name__ == "__main__":
    main()
