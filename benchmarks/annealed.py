"""Images per second of annealed importance sampling, and what the bracket leaves open, against temperatures.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/annealed.py --run runs/vae
    OMP_WAIT_POLICY=PASSIVE python benchmarks/annealed.py --temperatures 100 1000 --images 16

Without a run, the decoder is the dense one of Wu et al. 2017 for MNIST (10 latents, three layers of tanh units), with
the weights it was born with: the arithmetic is that of a trained one, the gap is not.
"""

from __future__ import annotations

import argparse
import time

import torch

from trilemma.families.family import Family
from trilemma.families.vae import VAE, VAEConfig
from trilemma.images import Spec
from trilemma.queries.annealed import Settings, bracket
from trilemma.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run folder of a vae or a gan")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--temperatures", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--leapfrogs", type=int, default=10)
    parser.add_argument("--start", choices=("prior", "encoder"), default="prior")
    parser.add_argument("--sigma", type=float, default=0.1)
    args = parser.parse_args()
    model: Family
    if args.run:
        model = Run.open(args.run).model()
    else:
        torch.manual_seed(0)
        model = VAE(VAEConfig(network="dense", width=512, depth=3, latent=10), Spec((1, 28, 28), 2)).eval()
    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}, {model.name} {model.config}")
    for temperatures in args.temperatures:
        settings = Settings(temperatures, args.chains, args.leapfrogs, args.start, args.sigma)
        began, processed = time.perf_counter(), time.process_time()
        answer = bracket(model, args.images, settings=settings)
        wall, cpu = time.perf_counter() - began, time.process_time() - processed
        print(
            f"{temperatures:6d} temperatures: {args.images / wall:.4f} images/s ({args.images / cpu:.4f} per CPU "
            f"second; pilot, forward, backward), forward {answer.forward.mean():.2f}, backward "
            f"{answer.backward.mean():.2f}, gap {answer.gap:.3f} nats, acceptance {answer.acceptance:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
