"""What is log p(x) = log ∫ p(x|z) p(z) dz of a decoder? Annealed importance sampling, with chains in both directions.

Neal 2001, "Annealed importance sampling", arXiv physics/9803008; for decoders Wu, Burda, Salakhutdinov & Grosse 2017,
"On the quantitative analysis of decoder-based generative models", arXiv 1611.04273. Between a Gaussian q(z) that can
be drawn from and p(x, z) lie the densities

    f_t(z) = q(z)^(1-β_t) p(x, z)^β_t,   0 = β_0 < … < β_T = 1,

and a chain that moves from each to the next gathers the weight

    Σ_t (β_t - β_{t-1}) (log p(x, z_{t-1}) - log q(z_{t-1})).

*Forward*, from z ~ q, its exponential has the mean p(x), so the logarithm of a mean of them is a lower bound of
log p(x) in expectation. *Backward*, from z ~ p(z|x) through the same moves, the inverse has the mean 1 / p(x): an
upper bound. A draw of p(z|x) is known for images that the model made itself (bidirectional Monte Carlo, Grosse,
Ghahramani & Adams 2015, arXiv 1511.02543): there the two bracket log p(x), and their gap is what the chains cannot
tell. For other images the backward chains start where the forward ones ended, which is exact in the limit of many
temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trilemma.families.family import Family, Progress
from trilemma.families.gan import GAN
from trilemma.families.vae import VAE
from trilemma.noise import ImageNoise, Noise, derive_seed
from trilemma.parallel import ranks
from trilemma.questions.decoders import Joint, checked, evaluating, given_labels, in_order, joint, opened, unit_interval
from trilemma.questions.hamiltonian import Point, move, tuned
from trilemma.run import Run

ROWS = 1024
"""Chains run together, which bounds the memory."""


@dataclass(frozen=True)
class Settings:
    """How hard to try.

    Attributes:
        temperatures: T, the number of steps from q to p(x, z); the bracket closes as it grows.
        chains: independent chains for each image.
        leapfrogs: steps of one Hamiltonian move, of which there is one at each temperature.
        start: q(z): the ``prior`` N(0, I), or the VAE's ``encoder``, which is closer to p(z|x).
        sigma: standard deviation of the Gaussian noise by which a GAN's generator becomes a density, on [0, 1]; for
            vectors in standard deviations of each value.
    """

    temperatures: int = 500
    chains: int = 16
    leapfrogs: int = 10
    start: Literal["prior", "encoder"] = "prior"
    sigma: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("temperatures", 1), ("chains", 1), ("leapfrogs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"annealing needs at least {least} {name}, not {getattr(self, name)}")
        if not self.sigma > 0:
            raise ValueError(f"the observation noise sigma must be above 0, not {self.sigma}")


@dataclass(frozen=True)
class Annealed:
    """log p(x) from both sides, in nats per image.

    Attributes:
        kind: ``bound`` for a VAE, whose p(x) is defined; ``estimate`` for a GAN, whose noise was chosen.
        reason: what was computed, and of what.
        forward: float64 [N], at most log p(x) in expectation.
        backward: float64 [N], at least log p(x) in expectation if ``exact``.
        exact: the backward chains started from exact draws of p(z|x): the images are the model's own.
        acceptance: mean share of accepted moves, at most 1.
        effective: float64 [N], effective number of the forward chains, 1 / Σ w².
        discrete: whether the nats are those of the discrete image, or of its dequantised values on [0, 1] or of a
            vector, a density per unit volume (of vectors in their own units).
    """

    kind: str
    reason: str
    forward: Tensor
    backward: Tensor
    exact: bool
    acceptance: float
    effective: Tensor
    discrete: bool

    @property
    def gap(self) -> float:
        """Mean of backward - forward in nats: how far log p(x) is left open."""
        return float((self.backward - self.forward).mean())


def annealed(
    run: Run | Family,
    images: Tensor,
    labels: Tensor | None = None,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Annealed:
    """log p(x) of images by annealing forward, and backward from where the forward chains ended.

    Args:
        run: a run, or a model loaded from one, of a VAE or a GAN.
        images: uint8 [N, C, H, W], or vectors float32 [N, D].
        labels: int64 [N] for a conditional model, by default "no label".
        settings: the effort.
        seed: of the chains; those of image *i* depend on ``(seed, i)`` and on the settings alone.
        device: where to compute.
        progress: told ``(temperatures done, all)`` over all blocks and directions.

    Raises:
        ValueError: another family, images or labels that do not fit, in one line.
    """
    model, settings = opened(run, ranks(device).device), settings or Settings()
    return _anneal(model, checked(images, model.spec), labels, None, settings, seed, progress)


def bracket(
    run: Run | Family,
    n: int = 16,
    labels: Tensor | None = None,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Annealed:
    """The same of ``n`` images that the model draws itself, whose codes are known: the bracket is exact there.

    Each image is drawn from p(x|z) with its pixel noise, z ~ N(0, I), so that z is an exact draw of p(z|x). Arguments
    and errors as `annealed`; the gap says what these settings are worth for this model.
    """
    model, settings = opened(run, ranks(device).device), settings or Settings()
    if n < 1:
        raise ValueError(f"the bracket needs at least 1 image, not {n}")
    noise = ImageNoise(derive_seed(seed, "bracket"), range(n), model.device)
    given = given_labels(model, labels, n)
    with torch.no_grad(), evaluating(model):
        z, x = _simulated(model, given, noise, settings)
    return _anneal(model, x, labels, z, settings, seed, progress)


def _simulated(model: Family, labels: Tensor | None, noise: Noise, settings: Settings) -> tuple[Tensor, Tensor]:
    """Codes [N, latent] and what p(x|z) draws from them; for a GAN of images real values on [0, 1], not images."""
    if isinstance(model, VAE):
        z = noise.normal(model.config.latent).to(next(model.parameters()).dtype)
        return z, model.observation.draw(model.decoder(z, labels), noise.uniform(*model.spec.shape))
    if isinstance(model, GAN):
        z = noise.normal(model.config.latent)
        centre, pixels = model.generator(z, labels), settings.sigma * noise.normal(*model.spec.shape)
        if model.spec.vector:
            return z, model.spec.from_unit(centre + pixels)
        return z, unit_interval(centre, model.spec.levels) + pixels
    raise ValueError(f"annealed importance sampling needs a decoder of codes z; {model.name} has none, vae and gan do")


def _anneal(
    model: Family,
    x: Tensor,
    labels: Tensor | None,
    posterior: Tensor | None,
    settings: Settings,
    seed: int,
    progress: Progress | None,
) -> Annealed:
    """All blocks of images; ``posterior`` are exact draws of p(z|x) [N, latent] where they are known."""
    given = given_labels(model, labels, len(x))
    size = max(1, ROWS // settings.chains)
    starts = range(0, len(x), size)
    where = ranks(str(model.device))
    mine: dict[int, list[Tensor]] = {}
    for done, start in enumerate(starts[where.rank :: where.size]):
        rows = slice(start, min(start + size, len(x)))
        numbers = list(range(rows.start, rows.stop))
        tell = None if progress is None else _part(progress, done, len(starts[where.rank :: where.size]))
        with evaluating(model):
            y = None if given is None else given[rows]
            target = joint(model, x[rows], y, settings.start, settings.sigma, seed, numbers)
            known = None if posterior is None else posterior[rows]
            mine[start] = _both_ways(target, known, settings, seed, numbers, tell)
    forward, backward, effective, acceptance = in_order(where, mine)
    vae, c = isinstance(model, VAE), settings
    how = f"{c.temperatures} temperatures, {c.chains} chains of {c.leapfrogs} leapfrog steps from the {c.start}"
    vector = model.spec.vector
    unit = "vectors, sigma in standard deviations of each value," if vector else "dequantised pixels on [0, 1]"
    of = "" if vae else f"; density of {unit} with the observation noise sigma = {c.sigma:g}"
    exact = posterior is not None
    why = "from exact draws of p(z|x)" if exact else "from the ends of the forward chains, exact in the limit of many"
    reason = f"annealed importance sampling, {how}; backward chains {why}{of}"
    return Annealed(
        "bound" if vae else "estimate", reason, forward, backward, exact, float(acceptance.mean()), effective,
        vae and not vector,
    )  # fmt: skip


def _part(progress: Progress, done: int, blocks: int) -> Progress:
    return lambda step, of: progress(done * of + step, blocks * of)


def schedule(temperatures: int, delta: float = 4.0) -> Tensor:
    """β_0 = 0 … β_T = 1, spaced like a sigmoid: dense at both ends (Wu et al. 2017, section 5); float64 [T + 1].

    >>> [round(b, 2) for b in schedule(4).tolist()]
    [0.0, 0.1, 0.5, 0.9, 1.0]
    """
    s = torch.sigmoid(torch.linspace(-delta, delta, temperatures + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


def _both_ways(
    target: Joint,
    posterior: Tensor | None,
    settings: Settings,
    seed: int,
    numbers: Sequence[int],
    progress: Progress | None,
) -> list[Tensor]:
    """Forward and backward bound, effective chains and acceptance of each image: four [N] on the CPU."""
    chains, count = settings.chains, len(target.mean)
    betas = schedule(settings.temperatures)
    rows = torch.arange(count, device=target.mean.device).repeat_interleave(chains)

    def noise(of: str) -> ImageNoise:
        keys = [(number << 16) + chain for number in numbers for chain in range(chains)]
        return ImageNoise(derive_seed(seed, "annealing", of), keys, target.mean.device)

    def start(source: Noise) -> Tensor:
        return target.mean[rows] + target.std[rows] * source.normal(target.mean.shape[1]).to(target.mean.dtype)

    def tell(stage: int) -> Progress | None:
        return None if progress is None else lambda step, of: progress(stage * of + step, 3 * of)

    pilot = noise("pilot")
    steps = tuned(target, rows, start(pilot), betas, settings.leapfrogs, chains, pilot, tell(0))
    source = noise("forward")
    z, weights, accepted = _chain(target, rows, start(source), betas, steps, settings.leapfrogs, source, tell(1))
    weights = weights.view(count, chains)
    shares = weights.softmax(1)
    if posterior is None:  # one of the forward chains' ends, by weight, the same for all backward chains of an image
        u = ImageNoise(derive_seed(seed, "annealing", "choice"), numbers).uniform(1).double()
        chosen = torch.searchsorted(shares.cumsum(1), u).clamp(max=chains - 1)[:, 0]
        posterior = z[torch.arange(count) * chains + chosen]
    source = noise("backward")
    order = betas.flip(0)
    _, back, _ = _chain(target, rows, posterior[rows], order, steps.flip(0), settings.leapfrogs, source, tell(2))
    back = back.view(count, chains)
    forward = weights.logsumexp(1) - math.log(chains)
    backward = math.log(chains) - back.logsumexp(1)
    return [part.cpu() for part in (forward, backward, 1 / shares.square().sum(1), accepted.view(count, -1).mean(1))]


def _chain(
    target: Joint,
    rows: Tensor,
    z: Tensor,
    betas: Tensor,
    steps: Tensor,
    leapfrogs: int,
    noise: Noise,
    progress: Progress | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the chains end [R, latent], their log weights, float64 [R], and their mean acceptance [R].

    ``betas`` [T + 1] rise, or fall for the backward chain, whose move at β_t comes before its weight and not after.
    ``steps`` [T, N] are the step sizes of the moves, in the same order.
    """
    point = Point.at(target, rows, z)
    total = torch.zeros(len(rows), dtype=torch.float64)  # on the CPU: not every device has float64
    accepted = torch.zeros(len(rows), device=z.device)
    rising = bool(betas[-1] > betas[0])
    pairs = list(zip(betas[:-1].tolist(), betas[1:].tolist(), strict=True))
    for i, (before, after) in enumerate(pairs):
        if rising:
            total += (after - before) * point.ratio.cpu().double()
        point, probability = move(target, rows, point, after if rising else before, steps[i], leapfrogs, noise)
        if not rising:
            total += (after - before) * point.ratio.cpu().double()
        accepted += probability / len(pairs)
        if progress:
            progress(i + 1, len(pairs))
    return point.z, total, accepted
