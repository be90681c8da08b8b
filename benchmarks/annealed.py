"""Speed of annealed importance sampling, and what the bracket leaves open, against temperatures.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/annealed.py --run runs/vae
    OMP_WAIT_POLICY=PASSIVE python benchmarks/annealed.py --temperatures 100 1000 --images 16 --plain

Images per second hold for one number of temperatures and chains; moves per second (one Hamiltonian move of one chain at
one temperature) for all. With ``--plain`` the same moves as one writes them first: image by image, an energy and a
gradient of the whole tempered density at each call, nothing kept from one move to the next.

Without a run, the decoder is a dense one for MNIST (10 latents, three layers of 512 tanh units), with the weights it
was born with: the arithmetic is that of a trained one, the gap is not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from trilemma.families.family import Family
from trilemma.families.vae import VAE, VAEConfig
from trilemma.images import Spec
from trilemma.machine import described
from trilemma.questions.annealed import Settings, annealed, bracket, schedule
from trilemma.run import Run


def plain(model: VAE, x: Tensor, settings: Settings, step: float = 0.1) -> Tensor:
    """Forward log weights [N, chains] from the prior, image by image."""
    betas = schedule(settings.temperatures).tolist()
    generator = torch.Generator().manual_seed(0)
    found = []
    for image in x:
        copies = image.expand(settings.chains, *image.shape)

        def energy(z: Tensor, beta: float, copies: Tensor = copies) -> Tensor:
            return 0.5 * z.square().sum(1) + beta * model.observation.nats(copies, model.decoder(z))

        def gradient(z: Tensor, beta: float, energy: Callable[[Tensor, float], Tensor] = energy) -> Tensor:
            z = z.detach().requires_grad_()
            return torch.autograd.grad(energy(z, beta).sum(), z)[0]

        z = torch.randn(settings.chains, model.config.latent, generator=generator)
        total = torch.zeros(settings.chains)
        for before, after in pairwise(betas):
            with torch.no_grad():
                total += (after - before) * -model.observation.nats(copies, model.decoder(z))
            momentum = torch.randn(z.shape, generator=generator)
            new, speed = z, momentum
            for _ in range(settings.leapfrogs):
                speed = speed - 0.5 * step * gradient(new, after)
                new = new + step * speed
                speed = speed - 0.5 * step * gradient(new, after)
            with torch.no_grad():
                change = energy(z, after) - energy(new, after) + 0.5 * (momentum.square() - speed.square()).sum(1)
            accepted = torch.rand(len(z), generator=generator).log() < change
            z = torch.where(accepted[:, None], new, z)
        found.append(total)
    return torch.stack(found)


def timed(work: Callable[[], object]) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run folder of a vae or a gan")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--temperatures", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--leapfrogs", type=int, default=10)
    parser.add_argument("--start", choices=("prior", "encoder"), default="prior")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--plain", action="store_true", help="beside it a plain loop over the images (vae)")
    parser.add_argument("--rounds", type=int, default=3, help="of both in turn, with --plain")
    args = parser.parse_args()
    model: Family
    if args.run:
        model = Run.open(args.run).model()
    else:
        torch.manual_seed(0)
        model = VAE(VAEConfig(network="dense", width=512, depth=3, latent=10), Spec((1, 28, 28), 2)).eval()
    print(f"{described()}, {model.name} {model.config}")
    for temperatures in args.temperatures:
        settings = Settings(temperatures, args.chains, args.leapfrogs, args.start, args.sigma)
        moves = 3 * args.images * args.chains * temperatures  # pilot, forward, backward
        began, processed = time.perf_counter(), time.process_time()
        answer = bracket(model, args.images, settings=settings)
        wall, cpu = time.perf_counter() - began, time.process_time() - processed
        print(
            f"{temperatures:6d} temperatures: {args.images / wall:.4f} images/s ({args.images / cpu:.4f} per CPU "
            f"second; pilot, forward, backward), {moves / cpu:,.0f} moves per CPU second, forward "
            f"{answer.forward.mean():.2f}, backward {answer.backward.mean():.2f}, gap {answer.gap:.3f} nats, "
            f"acceptance {answer.acceptance:.2f}",
            flush=True,
        )
    if args.plain and isinstance(model, VAE):
        settings = Settings(args.temperatures[0], args.chains, args.leapfrogs)
        x = (torch.rand(args.images, *model.spec.shape) * model.spec.levels).to(torch.uint8)
        moves, ratios = args.images * args.chains * settings.temperatures, []
        for _ in range(args.rounds):
            ours = 3 * moves / timed(lambda: annealed(model, x, settings=settings))
            theirs = moves / timed(lambda: plain(model, x, settings))
            ratios.append(ours / theirs)
            print(
                f"moves per CPU second: ours {ours:,.0f}, plain loop {theirs:,.0f}, ratio {ratios[-1]:.2f}", flush=True
            )
        print(f"ratio (median of {args.rounds}): {sorted(ratios)[len(ratios) // 2]:.2f}")


if __name__ == "__main__":
    main()
