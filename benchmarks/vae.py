"""VAE training speed against pythae's trainer, with the same networks.

    pip install --no-deps pythae pydantic pydantic-core annotated-types typing-inspection cloudpickle tqdm
    OMP_WAIT_POLICY=PASSIVE python benchmarks/vae.py --rounds 7

Both train the `tiny` encoder and decoder (so parameters and FLOPs are equal) on the same binary images with Bernoulli
pixels, one batch of 64 at a time. Ours runs as this library trains: in the quicker arithmetic, channels-last, fused
Adam, gradient clipping and an average of the weights. Theirs runs as its documentation shows: `BaseTrainer.train_step`,
whose mixed precision is for CUDA only. Rounds alternate, so that a busy machine slows both; the ratio is the median's.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trilemma.families.vae import VAE, VAEConfig
from trilemma.images import Spec
from trilemma.machine import autocast, described
from trilemma.noise import BatchNoise
from trilemma.presets import PRESETS

BATCH, CPU = 64, torch.device("cpu")
SPEC = Spec((1, 28, 28), levels=2)


class Ours:
    """One epoch at a time over ``images``, as the training loop runs it."""

    def __init__(self, config: VAEConfig, images: Tensor) -> None:
        self.model = VAE(config, SPEC).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model)
        (self.objective,) = self.model.objectives()
        self.optimiser = torch.optim.Adam(self.objective.parameters, 1e-3, fused=True)
        self.images, self.step = images, 0

    def epoch(self) -> None:
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.step))
        for rows in torch.split(order, BATCH):
            noise = BatchNoise((self.step,), len(rows), 0, len(rows), CPU)
            with autocast(CPU, "auto"):
                loss = self.objective.loss(self.images[rows], None, noise).total
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.objective.parameters, 1e3)
            self.optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 0.001)
            loss.item()
            self.step += 1


class Theirs:
    """One epoch at a time of pythae's trainer."""

    def __init__(self, config: VAEConfig, images: Tensor, folder: str) -> None:
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE as PythaeVAE
        from pythae.models import VAEConfig as PythaeConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        nets = VAE(config, SPEC)

        class Encoder(BaseEncoder):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.net = nets.encoder

            def forward(self, x: Tensor) -> Any:
                mu, logvar = self.net(2 * x - 1).chunk(2, dim=1)
                return ModelOutput(embedding=mu, log_covariance=logvar)

        class Decoder(BaseDecoder):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.net = nets.decoder

            def forward(self, z: Tensor) -> Any:
                return ModelOutput(reconstruction=self.net(z).sigmoid())

        described = PythaeConfig(input_dim=SPEC.shape, latent_dim=config.latent, reconstruction_loss="bce")
        self.model = PythaeVAE(described, encoder=Encoder(), decoder=Decoder())
        data = BaseDataset(images.float(), torch.zeros(len(images)))
        settings = BaseTrainerConfig(
            output_dir=folder, learning_rate=1e-3, per_device_train_batch_size=BATCH, no_cuda=True
        )
        self.trainer = BaseTrainer(self.model, data, training_config=settings, callbacks=[])
        self.trainer.prepare_training()
        self.images, self.step = images, 0

    def epoch(self) -> None:
        self.step += 1
        self.trainer.train_step(self.step)

    def flops(self) -> float:
        """Of forward and backward, per image, in MFLOP."""
        x = self.images[:2].float()
        with FlopCounterMode(display=False) as counter:
            self.model({"data": x}).loss.backward()
        return float(counter.get_total_flops()) / 2e6


def our_flops(ours: Ours) -> float:
    noise = BatchNoise(("flops",), 2, 0, 2, CPU)
    with FlopCounterMode(display=False) as counter:
        ours.objective.loss(ours.images[:2], None, noise).total.backward()
    return float(counter.get_total_flops()) / 2e6


def timed(run: Ours | Theirs) -> float:
    """Images per second of one epoch."""
    started = time.perf_counter()
    run.epoch()
    return len(run.images) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=1024, help="images in one epoch of one round")
    parser.add_argument("--size", default="tiny", choices=("tiny", "small", "base", "large"))
    args = parser.parse_args()
    torch.manual_seed(0)
    config = VAEConfig(**getattr(PRESETS["vae"], args.size))
    images = (torch.rand(args.images, *SPEC.shape) < 0.2).to(torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Ours(config, images), Theirs(config, images, folder)
        print(f"per image: ours {our_flops(ours):.1f} MFLOP, pythae {theirs.flops():.1f} MFLOP; {config}")
        print(f"{described()}, batch {BATCH}")
        for run in (ours, theirs):
            run.epoch()  # warm-up
        rounds = [(timed(ours), timed(theirs)) for _ in range(args.rounds)]
    for mine, other in rounds:
        print(f"ours {mine:7.1f} images/s   pythae {other:7.1f} images/s   ratio {mine / other:.2f}")
    ratios = sorted(mine / other for mine, other in rounds)
    print(f"ratio (median of {args.rounds}): {statistics.median(ratios):.2f}  [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


if __name__ == "__main__":
    main()
