"""Our U-Net beside diffusers' and denoising-diffusion-pytorch's: training and sampling, images a second.

Three networks of about the same FLOPs per image (measured and printed) on 1 x 28 x 28 noise images, each trained and
sampled as its user would run it on a CPU: ours in the arithmetic that is quicker there, channels-last, with fused Adam
and EMA; the others in float32 with the optimiser, the clipping and the EMA of their own training scripts. Rounds are
interleaved and the ratios are medians over rounds, so a busy machine slows all three alike.

    pip install diffusers denoising-diffusion-pytorch
    OMP_WAIT_POLICY=PASSIVE python benchmarks/unet.py        # 3 to 6 minutes

denoising-diffusion-pytorch imports torchvision for its data loader, which this benchmark does not use: where
torchvision is not installed an empty stand-in is.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trilemma.families.diffusion import Diffusion, DiffusionConfig, DiffusionOptions
from trilemma.images import Spec
from trilemma.machine import autocast, described
from trilemma.noise import BatchNoise, ImageNoise

SIDE, STEPS, CPU = 28, 50, torch.device("cpu")


class Ours:
    name = "trilemma"

    def __init__(self, batch: int) -> None:
        torch.manual_seed(0)
        config = DiffusionConfig(width=96)
        self.model = Diffusion(config, Spec((1, SIDE, SIDE)))
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net: nn.Module = self.model.net
        self.average = copy.deepcopy(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3, fused=True)
        self.x = torch.randint(0, 256, (batch, 1, SIDE, SIDE), dtype=torch.uint8)
        self.step = 0

    def loss(self) -> torch.Tensor:
        noise = BatchNoise((self.step,), len(self.x), 0, len(self.x), CPU)
        with autocast(CPU, "auto"):
            return self.model.loss(self.x, None, noise).total

    def train(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 0.001)

    def sample(self) -> None:
        options = DiffusionOptions(steps=STEPS)
        self.average.sample(ImageNoise(0, range(len(self.x))), None, options)


class Diffusers:
    """Its "Train a diffusion model" loop: AdamW, clipping at 1, no EMA; its DDIMPipeline."""

    name = "diffusers"

    def __init__(self, batch: int) -> None:
        import diffusers

        diffusers.utils.logging.disable_progress_bar()
        torch.manual_seed(0)
        self.net: nn.Module = diffusers.UNet2DModel(
            sample_size=SIDE,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(24, 48, 96),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )
        self.scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
        self.pipeline = diffusers.DDIMPipeline(self.net, diffusers.DDIMScheduler(num_train_timesteps=1000))
        self.pipeline.set_progress_bar_config(disable=True)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 1e-4)
        self.x = torch.rand(batch, 1, SIDE, SIDE) * 2 - 1

    def loss(self) -> torch.Tensor:
        eps, t = torch.randn_like(self.x), torch.randint(0, 1000, (len(self.x),))
        return F.mse_loss(self.net(self.scheduler.add_noise(self.x, eps, t), t, return_dict=False)[0], eps)

    def train(self) -> None:
        self.loss().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def sample(self) -> None:
        self.pipeline(batch_size=len(self.x), num_inference_steps=STEPS, output_type="np")


class Lucidrains:
    """Its Trainer's step: Adam, clipping at 1, EMA every 10 steps; its GaussianDiffusion with 50 DDIM steps."""

    name = "denoising-diffusion-pytorch"

    def __init__(self, batch: int) -> None:
        if importlib.util.find_spec("torchvision") is None:
            for module in ("torchvision", "torchvision.transforms", "torchvision.utils"):
                sys.modules[module] = types.ModuleType(module)
            sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
            sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]  # type: ignore[attr-defined]
        import denoising_diffusion_pytorch.denoising_diffusion_pytorch as peer
        from ema_pytorch import EMA

        peer.tqdm = lambda iterable, **_: iterable
        torch.manual_seed(0)
        self.net: nn.Module = peer.Unet(dim=24, dim_mults=(1, 2, 2), channels=1)
        self.model = peer.GaussianDiffusion(self.net, image_size=SIDE, timesteps=1000, sampling_timesteps=STEPS)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 8e-5, betas=(0.9, 0.99))
        self.average = EMA(self.model, beta=0.995, update_every=10)
        self.x = torch.rand(batch, 1, SIDE, SIDE)

    def loss(self) -> torch.Tensor:
        return self.model(self.x)  # type: ignore[no-any-return]

    def train(self) -> None:
        self.loss().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()

    def sample(self) -> None:
        with torch.inference_mode():
            self.average.ema_model.sample(batch_size=len(self.x))


def megaflops(contender: Any) -> float:
    """Forward and backward of one training loss, per image."""
    with FlopCounterMode(display=False) as counter:
        contender.loss().backward()
    contender.optimizer.zero_grad()
    return float(counter.get_total_flops()) / len(contender.x) / 1e6


def rate(action: Callable[[], None], images: int, seconds: float) -> tuple[float, float]:
    """Images a second by the wall clock and by processor time, over at least ``seconds``."""
    wall, cpu, done = time.perf_counter(), time.process_time(), 0
    while not done or time.perf_counter() - wall < seconds:
        action()
        done += images
    return done / (time.perf_counter() - wall), done / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="a measurement lasts at least this long")
    args = parser.parse_args()
    contenders = [kind(args.batch) for kind in (Ours, Diffusers, Lucidrains)]
    print(f"{described()}, batch {args.batch}, 1 x {SIDE} x {SIDE}")
    for contender in contenders:
        count = sum(p.numel() for p in contender.net.parameters())
        print(f"{contender.name:28} {megaflops(contender):6.0f} MFLOP per training image, {count:,} parameters")
    lines = []
    for what in ("train", "sample"):
        rates: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender in contenders}
        for contender in contenders:
            getattr(contender, what)()  # warm up
        for _ in range(args.rounds):
            for contender in contenders:
                rates[contender.name].append(rate(getattr(contender, what), args.batch, args.seconds))
        for name, values in rates.items():
            median = statistics.median(v[0] for v in values)
            print(f"{what:6} {name:28} {median:8.1f} images/s (wall clock, median of {args.rounds})", flush=True)
        for name in list(rates)[1:]:
            wall, cpu = (
                statistics.median(a[k] / b[k] for a, b in zip(rates["trilemma"], rates[name], strict=True))
                for k in (0, 1)
            )
            lines.append(f"{what}: {wall:.2f} times the images/s of {name} (by processor time {cpu:.2f})")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
