"""Log-likelihoods of decoders on continuous MNIST, after Wu, Burda, Salakhutdinov & Grosse 2017 (arXiv 1611.04273).

    OMP_WAIT_POLICY=PASSIVE python benchmarks/decoders.py --out decoders
    OMP_WAIT_POLICY=PASSIVE python benchmarks/decoders.py --out decoders --temperatures 10000 --chains 16 --images 100

Trains the decoders 10–64–256–256–1024–784 and 50–1024–1024–1024–784 of tanh units, each as a VAE's and as a GAN's
generator: the widths of the published networks (the authors' code, github.com/tonywu95/eval_gen). For all four,
p(x|z) = N(x; G(z), σ²I) on dequantised pixels on [0, 1]; σ is tuned on validation images by the same annealing with
few temperatures. log p(x) of test images comes from annealed importance sampling in both directions, the gap on
images of the model's own from chains that start at exact posterior draws, and beside them stands the kernel density
estimate that such models used to be compared by: 10,000 samples, its bandwidth tuned on validation images.

Each part (weights, σ, result) is a file in ``--out`` and is not made again, so that a stopped run continues there.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import trilemma
from trilemma.data import Dataset
from trilemma.families.gan import GAN, GANConfig
from trilemma.images import Spec, to_unit
from trilemma.machine import autocast, described
from trilemma.nets.dense import layers
from trilemma.noise import derive_seed
from trilemma.questions.annealed import Annealed, Settings, annealed, bracket
from trilemma.questions.decoders import unit_interval
from trilemma.run import write_json

SPEC = Spec((1, 28, 28))
PUBLISHED = {"vae-50": 991.4, "gan-50": 627.3, "vae-10": 705.4, "gan-10": 328.8}
"""Nats of test images: 16 chains, 10,000 temperatures, 10 leapfrog steps."""
PUBLISHED_KDE = {"vae-50": 351.0, "gan-50": 300.0, "vae-10": 409.0, "gan-10": 260.0}
HIDDEN = {10: (64, 256, 256, 1024), 50: (1024, 1024, 1024)}
"""Widths of a decoder's hidden layers, by the size of its latent: `PUBLISHED` was measured on decoders of these."""
BANDWIDTHS = tuple(0.05 * 1.25**i for i in range(10))


class Decoder(nn.Module):
    """z [B, latent] to images on [-1, 1] [B, 1, 28, 28]; hidden layers of `HIDDEN` tanh units, Glorot's weights."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for below, above in pairwise((latent, *HIDDEN[latent], SPEC.dims)):
            linear = nn.Linear(below, above)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            modules += [linear, nn.Tanh()]
        self.layers = nn.Sequential(*modules)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(z)
        return images.view(-1, *SPEC.shape)


def train(kind: str, latent: int, images: Tensor, steps: int, seed: int) -> tuple[Decoder, float]:
    """The decoder, and for a VAE the σ that was learnt with it."""
    torch.manual_seed(derive_seed(seed, kind, latent))
    decoder = Decoder(latent)
    log_sigma = nn.Parameter(torch.tensor(-1.5))
    if kind == "vae":
        other: nn.Module = nn.Sequential(nn.Flatten(), layers(SPEC.dims, 1024, 2, 2 * latent))
        first = torch.optim.Adam([*decoder.parameters(), *other.parameters(), log_sigma], 1e-3, fused=True)
    else:
        other = nn.Sequential(
            nn.Flatten(), nn.Linear(SPEC.dims, 1024), nn.LeakyReLU(0.2), nn.Dropout(0.3),
            nn.Linear(1024, 512), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(512, 1),
        )  # fmt: skip
        first = torch.optim.Adam(decoder.parameters(), 2e-4, betas=(0.5, 0.999), fused=True)
    second = torch.optim.Adam(other.parameters(), 2e-4, betas=(0.5, 0.999), fused=True)
    began = time.perf_counter()
    for step in range(steps):
        for group in first.param_groups:  # a constant rate, then down to 0 over the last third
            group["lr"] = (1e-3 if kind == "vae" else 2e-4) * min(1.0, 3 * (1 - step / steps))
        x = images[torch.randint(len(images), (100,))]
        with autocast(torch.device("cpu"), "auto"):
            if kind == "vae":
                loss = vae_loss(decoder, other, log_sigma, x)
            else:
                fake = decoder(torch.randn(100, latent))
                real = other(to_unit(x, SPEC.levels))
                against = (F.softplus(-real.float()) + F.softplus(other(fake.detach()).float())).mean()
                second.zero_grad()
                against.backward()
                second.step()
                loss = F.softplus(-other(fake).float()).mean()
        first.zero_grad()
        loss.backward()
        first.step()
        if step % 500 == 0 or step == steps - 1:
            seconds = time.perf_counter() - began
            print(f"  {kind}-{latent} step {step}: loss {loss.item():.4g}, {seconds:.0f} s", flush=True)
    return decoder, float(log_sigma.detach().exp())


def vae_loss(decoder: Decoder, encoder: nn.Module, log_sigma: Tensor, x: Tensor) -> Tensor:
    """-ELBO in nats an image, of dequantised pixels, z drawn once."""
    x = (x.float() + torch.rand(x.shape)) / SPEC.levels
    mu, logvar = encoder(2 * x - 1).float().clamp(-20, 20).chunk(2, dim=1)
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    error = (x - unit_interval(decoder(z).float(), SPEC.levels)).square().sum((1, 2, 3))
    nats = 0.5 * error * torch.exp(-2 * log_sigma) + SPEC.dims * (log_sigma + 0.5 * math.log(2 * math.pi))
    return (nats + 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)).mean()


def as_model(decoder: Decoder, latent: int) -> GAN:
    """The decoder where the annealing looks for one: a generator, whose density σ defines."""
    model = GAN(GANConfig(width=8, latent=latent), SPEC)
    model.generator = decoder  # type: ignore[assignment]
    return model.eval().requires_grad_(False)


def tuned_sigma(model: GAN, images: Tensor, start: float, args: argparse.Namespace) -> float:
    """The σ of the highest mean forward bound on validation images: steps of a quarter up or down while it rises."""
    known: dict[int, float] = {}

    def score(power: int) -> float:
        if power not in known:
            settings = Settings(args.tuning, 4, args.leapfrogs, sigma=start * 1.25**power)
            known[power] = float(annealed(model, images, settings=settings, seed=1).forward.mean())
            print(f"  sigma {settings.sigma:.4f}: {known[power]:.1f} nats of validation images", flush=True)
        return known[power]

    at = 0
    while True:
        better = max((at, at - 1, at + 1), key=score)
        if better == at:
            return start * 1.25**at
        at = better


@torch.no_grad()
def kernel_density(model: GAN, latent: int, validation: Tensor, test: Tensor) -> tuple[float, float]:
    """Mean log density of test images under Gaussian kernels at 10,000 samples, and the bandwidth."""
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(10_000, latent, generator=generator)
    samples = torch.cat([unit_interval(model.generator(part), SPEC.levels).flatten(1) for part in z.split(500)])

    def density(images: Tensor, width: float) -> float:
        x = ((images.float() + torch.rand(images.shape, generator=generator)) / SPEC.levels).flatten(1)
        parts = [-0.5 * torch.cdist(part, samples).square().double() / width**2 for part in x.split(250)]
        constant = math.log(len(samples)) + SPEC.dims * (math.log(width) + 0.5 * math.log(2 * math.pi))
        return float(torch.cat([part.logsumexp(1) for part in parts]).mean()) - constant

    width = max(BANDWIDTHS, key=lambda each: density(validation[:500], each))
    return density(test, width), width


def measure(name: str, data: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Everything about one decoder; what lies in ``--out`` already is read from there."""
    kind, latent = name.split("-")[0], int(name.split("-")[1])
    weights, found = args.out / f"{name}.safetensors", args.out / f"{name}.json"
    record: dict[str, Any] = json.loads(found.read_text()) if found.exists() else {}
    train_rows, validation_rows = data.train[: -args.validation], data.train[-args.validation :]
    validation, test = data.batch(validation_rows), data.batch(data.test[:1000])
    if not weights.exists():
        decoder, sigma = train(kind, latent, data.batch(train_rows), args.steps, args.seed)
        save_file(decoder.state_dict(), weights)
        record = {"steps": args.steps, "learnt_sigma": sigma if kind == "vae" else None}
        write_json(found, record)
    decoder = Decoder(latent)
    decoder.load_state_dict(load_file(weights))
    model = as_model(decoder, latent)
    if "kde" not in record:
        record["kde"], record["bandwidth"] = kernel_density(model, latent, validation, test)
        write_json(found, record)
    if "sigma" not in record:
        start = record["learnt_sigma"] or 0.16
        record["sigma"] = tuned_sigma(model, validation[:8], start, args)
        write_json(found, record)
    effort = [args.temperatures, args.chains, args.leapfrogs, args.images]
    if record.get("effort") != effort:
        settings = Settings(args.temperatures, args.chains, args.leapfrogs, sigma=record["sigma"])
        began = time.process_time()
        record |= {"effort": effort, "test": plain(annealed(model, test[: args.images], settings=settings))}
        record["own"] = plain(bracket(model, max(1, args.images // 4), settings=settings))
        record["cpu_seconds"] = time.process_time() - began
        write_json(found, record)
    return record


def plain(answer: Annealed) -> dict[str, float]:
    """Means over images in nats, and the standard error of the forward one."""
    error = float(answer.forward.std() / math.sqrt(len(answer.forward))) if len(answer.forward) > 1 else 0.0
    return {
        "forward": float(answer.forward.mean()),
        "error": error,
        "backward": float(answer.backward.mean()),
        "gap": answer.gap,
        "acceptance": answer.acceptance,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--steps", type=int, default=3000, help="of training, of 100 images each")
    parser.add_argument("--images", type=int, default=16, help="test images that are annealed")
    parser.add_argument("--temperatures", type=int, default=500)
    parser.add_argument("--tuning", type=int, default=60, help="temperatures when sigma is tuned")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--leapfrogs", type=int, default=10)
    parser.add_argument("--validation", type=int, default=5000, help="training images that are held back")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(described())
    data = trilemma.load("mnist")
    lines = [
        f"{args.images} test images, {args.temperatures} temperatures, {args.chains} chains, {args.leapfrogs} leapfrog "
        f"steps; {args.steps} training steps. Nats of dequantised pixels on [0, 1]; published: 10,000 "
        "temperatures, 16 chains.\n",
        "| decoder | σ | forward | backward | gap | gap on its own images | published | KDE | KDE published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in args.models:
        found = measure(name, data, args)
        test, own = found["test"], found["own"]
        lines.append(
            f"| {name} | {found['sigma']:.3f} | {test['forward']:.1f} ± {test['error']:.1f} | {test['backward']:.1f} | "
            f"{test['gap']:.1f} | {own['gap']:.1f} | {PUBLISHED[name]:.1f} | {found['kde']:.1f} | "
            f"{PUBLISHED_KDE[name]:.0f} |"
        )
        print(lines[-1], flush=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
