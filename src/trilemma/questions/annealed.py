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
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from trilemma.blocks import Progress, map_blocks, part_of
from trilemma.families import FAMILIES
from trilemma.families.family import Encodes, Family, Observes
from trilemma.likelihood import checked_labels
from trilemma.metrics.estimate import mean_of
from trilemma.noise import ImageNoise, Noise, derive_seed
from trilemma.number import Number
from trilemma.parallel import ranks
from trilemma.questions.answer import Answer
from trilemma.questions.hamiltonian import Joint, Point, move, tuned
from trilemma.questions.posterior import conditions, part
from trilemma.questions.question import AboutImages, Context
from trilemma.run import Run
from trilemma.validate import Count, Positive, check_limits

ROWS = 1024
"""Chains run together, which bounds the memory."""


@dataclass(frozen=True)
class Settings:
    """How hard to try.

    Attributes:
        temperatures: T, the number of steps from q to p(x, z); the bracket closes as it grows.
        chains: independent chains for each image.
        leapfrogs: steps of one Hamiltonian move, of which there is one at each temperature.
        start: q(z): the ``prior`` N(0, I), or the model's ``encoder``, which is closer to p(z|x).
        sigma: standard deviation of the Gaussian noise by which a generator becomes a density, on [0, 1]; for vectors
            in standard deviations of each value.
    """

    temperatures: Count = 500
    chains: Count = 16
    leapfrogs: Count = 10
    start: Literal["prior", "encoder"] = "prior"
    sigma: Positive = 0.1

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True)
class Anneal(AboutImages):
    """log p(x) by annealed importance sampling, bracketed from both sides."""

    temperatures: Count = 500
    """Steps from the prior to the posterior; the bracket closes as they grow."""
    chains: Count = 16
    """Independent chains for each image."""
    start: Literal["prior", "encoder"] = "prior"
    """Where chains start: at draws of N(0, I), or of the encoder's q(z|x), which is closer to p(z|x)."""
    sigma: Positive = 0.1
    """Observation noise by which a generator becomes a density, on [0, 1]; of vectors in standard deviations."""

    name: ClassVar[str] = "annealed"
    title: ClassVar[str] = "Annealed importance sampling"
    sentence: ClassVar[str] = "Between which two numbers does log p(x) of a decoder lie?"
    paper: ClassVar[str] = (
        "Neal 2001, Annealed importance sampling, arXiv:physics/9803008; Wu et al. 2017, On the quantitative analysis "
        "of decoder-based generative models, arXiv:1611.04273"
    )
    capabilities: ClassVar[tuple[type, ...]] = (Observes,)
    vectors_too: ClassVar[bool] = True
    most: ClassVar[int] = 16

    @classmethod
    def unable(cls, run: Run) -> str | None:
        family = FAMILIES[run.config.family]
        assert issubclass(family, Observes)
        return family.lacks_density(run.config.model)

    def answer(self, context: Context) -> Answer:
        batch, model, seed = context.batch(self), context.model, context.seed
        settings = Settings(self.temperatures, self.chains, start=self.start, sigma=self.sigma)
        first, second = (part_of(context.progress, half, 100, 200) for half in (0, 100))
        real = annealed(model, batch.x, batch.conditions, settings, seed=seed, progress=first)
        own = bracket(model, len(batch.x), batch.conditions, settings, seed=seed, progress=second)
        numbers = _numbers(real) | {f"simulated_{name}": number for name, number in _numbers(own).items()}
        things = "vectors" if batch.dataset.vector else "images"
        effective = float(real.effective.mean())
        return Answer(
            self,
            context.run,
            kind=real.kind,
            numbers=numbers,
            reading=[
                f"log p(x) of {batch.words}: forward {numbers['forward']}, backward {numbers['backward']} nats, gap "
                f"{real.gap:.2f} ({real.kind}: {real.reason})",
                f"of {len(batch.x)} {things} that the model drew, where the bracket is exact: forward "
                f"{numbers['simulated_forward']}, backward {numbers['simulated_backward']} nats, gap {own.gap:.2f}",
                f"accepted moves {real.acceptance:.2f}; effective chains {effective:.1f} of {self.chains}",
            ],
            values={
                "reason": real.reason,
                "discrete": real.discrete,
                **_sides(real),
                "simulated": {"reason": own.reason, **_sides(own)},
            },
            found=(real, own),
            protocol=batch.protocol,
        )


def _numbers(found: Annealed) -> dict[str, Number]:
    """The mean of either side, and how far they are apart."""
    sides = {"forward": found.forward, "backward": found.backward, "gap": found.backward - found.forward}
    n, kind = len(found.forward), found.kind
    means = {name: mean_of(values) for name, values in sides.items()}
    return {name: Number(mean.value, mean.error, "nats", n=n, kind=kind) for name, mean in means.items()}


def _sides(found: Annealed) -> dict[str, Any]:
    return {
        "forward": found.forward.tolist(),
        "backward": found.backward.tolist(),
        "mean_forward": float(found.forward.mean()),
        "mean_backward": float(found.backward.mean()),
        "gap": found.gap,
        "acceptance": found.acceptance,
        "effective_chains": found.effective.tolist(),
    }


@dataclass(frozen=True)
class Annealed:
    """log p(x) from both sides, in nats per image.

    Attributes:
        kind: ``bound`` where the family defines p(x|z); ``estimate`` where its noise was chosen.
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
    model: Family,
    images: Tensor,
    labels: Tensor | None = None,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Annealed:
    """log p(x) of images by annealing forward, and backward from where the forward chains ended.

    Args:
        model: of a family that `Observes`, on its device.
        images: uint8 [N, C, H, W], or vectors float32 [N, D].
        labels: int64 [N] for a conditional model, by default "no label".
        settings: the effort.
        seed: of the chains; those of image *i* depend on ``(seed, i)`` and on the settings alone.
        progress: told ``(images done, N)``.

    Raises:
        ValueError: a model without p(x|z), images or labels that do not fit, in one line.
    """
    return _anneal(model, images, conditions(model, images, labels), None, settings or Settings(), seed, progress)


def bracket(
    model: Family,
    n: int = 16,
    labels: Tensor | None = None,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Annealed:
    """The same of ``n`` images that the model draws itself, whose codes are known: the bracket is exact there.

    Each image is drawn from p(x|z) with its pixel noise, z ~ N(0, I), so that z is an exact draw of p(z|x). Arguments
    and errors as `annealed`; the gap says what these settings are worth for this model.
    """
    assert isinstance(model, Observes)
    settings = settings or Settings()
    if n < 1:
        raise ValueError(f"the bracket needs at least 1 image, not {n}")
    noise = ImageNoise(derive_seed(seed, "bracket"), range(n), model.device)
    given = checked_labels(model.spec, labels, n)
    given = None if given is None else given.to(model.device)
    with torch.no_grad(), model.frozen():
        z = noise.normal(model.latent).to(next(model.parameters()).dtype)
        x = model.draw_observation(z, given, noise, settings.sigma)
    return _anneal(model, x, given, z, settings, seed, progress)


def _anneal(
    model: Family,
    x: Tensor,
    labels: Tensor | None,
    posterior: Tensor | None,
    settings: Settings,
    seed: int,
    progress: Progress | None,
) -> Annealed:
    """All blocks of images; ``posterior`` are exact draws of p(z|x) [N, latent] where x are the model's own."""
    assert isinstance(model, Observes)
    if reason := model.lacks_density(model.config):
        raise ValueError(f"annealed importance sampling needs p(x|z): {reason}")
    if settings.start == "encoder" and not isinstance(model, Encodes):
        raise ValueError(f"{model.name} has no encoder to start the chains from: leave start at prior")

    def both_ways(rows: range, progress: Progress | None) -> tuple[Tensor, ...]:
        images, y = x[rows.start : rows.stop].to(model.device), part(labels, rows)
        mean = torch.zeros(len(rows), model.latent, device=model.device)
        std = torch.ones_like(mean)
        if settings.start == "encoder":
            assert isinstance(model, Encodes)
            with torch.no_grad():
                code = model.encode(images, y)
            assert code.std is not None
            mean, std = code.mean, code.std
        if posterior is None:
            noise = ImageNoise(derive_seed(seed, "dequantise"), rows, model.device)
            images = model.observed(images, noise)
        target = Joint(model, images, y, mean, std, settings.sigma)
        return _both_ways(target, part(posterior, rows), settings, seed, rows, progress)

    size = max(1, ROWS // settings.chains)
    with model.frozen():
        forward, backward, effective, acceptance = map_blocks(
            both_ways, len(x), ranks(str(model.device)), block=size, progress=progress
        )
    c, vector = settings, model.spec.vector
    how = f"{c.temperatures} temperatures, {c.chains} chains of {c.leapfrogs} leapfrog steps from the {c.start}"
    unit = "vectors, sigma in standard deviations of each value," if vector else "dequantised pixels on [0, 1]"
    of = "" if model.defined else f"; density of {unit} with the observation noise sigma = {c.sigma:g}"
    exact = posterior is not None
    why = "from exact draws of p(z|x)" if exact else "from the ends of the forward chains, exact in the limit of many"
    return Annealed(
        "bound" if model.defined else "estimate",
        f"annealed importance sampling, {how}; backward chains {why}{of}",
        forward,
        backward,
        exact,
        float(acceptance.mean()),
        effective,
        model.defined and not vector,
    )


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
    numbers: range,
    progress: Progress | None,
) -> tuple[Tensor, ...]:
    """Forward and backward bound, effective chains and acceptance of each image: four [N] on the CPU."""
    chains, count = settings.chains, len(target.mean)
    betas = schedule(settings.temperatures)
    rows = torch.arange(count, device=target.mean.device).repeat_interleave(chains)

    def noise(of: str) -> ImageNoise:
        keys = [(number << 16) + chain for number in numbers for chain in range(chains)]
        return ImageNoise(derive_seed(seed, "annealing", of), keys, target.mean.device)

    def start(source: Noise) -> Tensor:
        return target.mean[rows] + target.std[rows] * source.normal(target.mean.shape[1]).to(target.mean.dtype)

    def stage(which: int) -> Progress | None:
        return part_of(progress, which * settings.temperatures, settings.temperatures, 3 * settings.temperatures)

    pilot = noise("pilot")
    steps = tuned(target, rows, start(pilot), betas, settings.leapfrogs, chains, pilot, stage(0))
    source = noise("forward")
    z, weights, accepted = _chain(target, rows, start(source), betas, steps, settings.leapfrogs, source, stage(1))
    weights = weights.view(count, chains)
    shares = weights.softmax(1)
    if posterior is None:  # one of the forward chains' ends, by weight, the same for all backward chains of an image
        u = ImageNoise(derive_seed(seed, "annealing", "choice"), numbers).uniform(1).double()
        chosen = torch.searchsorted(shares.cumsum(1), u).clamp(max=chains - 1)[:, 0]
        posterior = z[torch.arange(count) * chains + chosen]
    source = noise("backward")
    order = betas.flip(0)
    _, back, _ = _chain(target, rows, posterior[rows], order, steps.flip(0), settings.leapfrogs, source, stage(2))
    back = back.view(count, chains)
    forward = weights.logsumexp(1) - math.log(chains)
    backward = math.log(chains) - back.logsumexp(1)
    return forward, backward, 1 / shares.square().sum(1), accepted.view(count, -1).mean(1)


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
