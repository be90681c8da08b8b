"""log p(x) by the probability-flow equation, against the exact density of Gaussians, and beside the bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trilemma.families.diffusion import Diffusion, DiffusionConfig, Flow, FlowConfig
from trilemma.families.diffusion.bound import Chain, bound_terms, log_bin, variational_bound
from trilemma.families.diffusion.calibration import fit_chain
from trilemma.families.diffusion.denoiser import Estimate
from trilemma.families.diffusion.evidence import noised_bound
from trilemma.families.diffusion.flow_density import Velocity, flow_log_likelihood
from trilemma.families.diffusion.ode import log_density, solve
from trilemma.families.diffusion.schedule import Schedule
from trilemma.images import Spec
from trilemma.noise import ImageNoise

DOUBLE = torch.float64


def guess(x0: Tensor, share: Tensor | float | None = None) -> Estimate:
    """What the bound reads of an estimate."""
    return Estimate(x0, torch.zeros_like(x0), share)


def correlated(size: int) -> Tensor:
    """A covariance that is far from diagonal: [size, size]."""
    factor = torch.randn(size, size, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) / math.sqrt(size)
    return 0.3 * factor @ factor.T + 0.05


def gaussian_velocity(covariance: Tensor) -> Velocity:
    """v(y, φ) of x_0 ~ N(0, C): y ~ N(0, S) with S = cos² C + sin² I, and v = ½ S'(φ) S⁻¹ y."""
    unit = torch.eye(len(covariance), dtype=DOUBLE)

    def velocity(y: Tensor, phi: Tensor, rows: Tensor) -> Tensor:
        c, s = phi.cos()[:, None, None], phi.sin()[:, None, None]
        S = c**2 * covariance + s**2 * unit
        slope = 2 * c * s * (unit - covariance)
        moved = 0.5 * slope @ torch.linalg.solve(S, y.flatten(1)[:, :, None])
        return moved.view(y.shape)

    return velocity


def test_the_density_of_a_correlated_gaussian() -> None:
    """Exact to 1e-3: with probes √D e_i, whose mean over i is the trace itself; ±1 probes agree on average."""
    size, start, stop = 6, 0.01, math.pi / 2
    covariance = correlated(size)
    velocity = gaussian_velocity(covariance)
    S = math.cos(start) ** 2 * covariance + math.sin(start) ** 2 * torch.eye(size, dtype=DOUBLE)
    law = torch.distributions.MultivariateNormal(torch.zeros(size, dtype=DOUBLE), S)
    x = torch.randn(4, size, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)) @ torch.linalg.cholesky(S).T
    want = law.log_prob(x)
    rows = x.repeat_interleave(size, 0).view(-1, 1, 1, size)
    basis = math.sqrt(size) * torch.eye(size, dtype=DOUBLE).repeat(4, 1).view(rows.shape)
    got, _ = log_density(velocity, rows, basis, start, stop, 1e-7)
    assert torch.allclose(got.view(4, size).mean(1), want, atol=1e-3)
    n = 4000
    many = x[:1].expand(n, size).reshape(n, 1, 1, size)
    signs = 2.0 * torch.bernoulli(torch.full(many.shape, 0.5), generator=torch.Generator().manual_seed(3)).double() - 1
    drawn, _ = log_density(velocity, many, signs, start, stop, 1e-4)
    assert drawn.std() > 0.05  # on a diagonal covariance every ±1 probe would be exact
    assert float(drawn.mean() - want[0]) == pytest.approx(0, abs=4 * float(drawn.std()) / math.sqrt(n) + 1e-3)


def test_an_image_is_solved_by_itself() -> None:
    """Steps are an image's own: its answer is the same beside a harder one."""
    velocity = gaussian_velocity(correlated(4))

    def field(y: Tensor, phi: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return velocity(y, phi, rows), y.flatten(1).sum(1)

    y = torch.tensor([[0.1, 0.2, 0.3, 0.4], [30.0, -20.0, 5.0, 0.0]], dtype=DOUBLE).view(2, 1, 1, 4)
    both, alone = solve(field, y, 0.02, 1.5, 1e-6), solve(field, y[:1], 0.02, 1.5, 1e-6)
    assert torch.allclose(both.y[0], alone.y[0], rtol=1e-12)
    assert both.divergence[0].item() == pytest.approx(alone.divergence[0].item(), rel=1e-12)
    assert both.evaluations.tolist()[0] == alone.evaluations.tolist()[0]
    back = solve(field, both.y, 1.5, 0.02, 1e-6)
    assert torch.allclose(back.y, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_both_ways_to_dequantise_meet_the_bound(name: str) -> None:
    """Images of N(0, s²): bound ≤ equation ≤ truth, each close to the next; uniform dequantisation too."""
    s, n, levels = 0.25, 48, 256
    schedule = Schedule.flow(1000) if name == "flow" else Schedule.named("cosine", 1000)
    noise = ImageNoise(0, range(n))
    x0 = ((s * noise.normal(1, 4, 4) + 1) * 127.5).round().clamp(0, 255).double() / 127.5 - 1
    truth = log_bin(x0, torch.zeros_like(x0), s, levels).flatten(1).sum(1)

    def denoise(x_t: Tensor, t: int | Tensor) -> Estimate:
        a, v = (table[t][:, None, None, None] for table in (schedule.alpha_bar, schedule.variance))
        return guess((a.sqrt() * s**2 / (a * s**2 + v)).to(x_t) * x_t, 1.0)

    velocity = gaussian_velocity(s**2 * torch.eye(16, dtype=DOUBLE))
    answers = {
        way: flow_log_likelihood(
            velocity, denoise, x0, schedule, ImageNoise(1, range(n)), levels=levels, dequantize=way, tolerance=1e-5
        )[0]
        for way in ("decoder", "uniform")
    }
    bound = variational_bound(denoise, x0, schedule, ImageNoise(2, range(n)), levels=levels, samples=1000)
    gaps = {way: truth - nats for way, nats in answers.items()}
    for way, gap in gaps.items():
        error = float(gap.std()) / math.sqrt(n)
        assert -4 * error < float(gap.mean()) < 0.25 * 16, way  # nats of 16 values
    assert abs(float(gaps["uniform"].mean())) < 0.02 * 16
    assert float((truth - bound).mean()) > float(gaps["decoder"].mean()) - 0.5


@pytest.mark.parametrize("levels", [0, 256])
@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_a_fitted_chain_has_the_bound_that_equals_log_p(name: str, levels: int) -> None:
    """Of N(0, s²) all steps and the decoder are Gaussians: with the right variances nothing is lost, wherever it stops.

    With the decoder at t = 1 the line of rectified flow loses 0.9 nats a value: its noise there is a quarter of half a
    level.
    """
    s, n = 0.25, 64
    schedule = Schedule.flow(1000) if name == "flow" else Schedule.named("cosine", 1000)

    def data(seed: int) -> Tensor:
        x = (s * ImageNoise(seed, range(n)).normal(1, 4, 4)).double()
        return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1 if levels else x

    def denoise(x_t: Tensor, t: int | Tensor) -> Estimate:
        a, v = (table[t][:, None, None, None] for table in (schedule.alpha_bar, schedule.variance))
        return guess((a.sqrt() * s**2 / (a * s**2 + v)).to(x_t) * x_t)

    chain = fit_chain(denoise, data(0), schedule, ImageNoise(1, range(n)), levels=levels)
    assert chain.images == n and f"decoder at t = {chain.first} of 1000, chosen" in chain.told(schedule)
    x0 = data(2)
    truth = log_bin(x0, torch.zeros_like(x0), s, levels).flatten(1).sum(1)
    lost = {}
    for way, of in (("fitted", chain), ("published", Chain(1)), ("default", Chain.default(schedule, levels))):
        bound = variational_bound(denoise, x0, schedule, ImageNoise(3, range(n)), levels=levels, samples=1000, chain=of)
        lost[way] = (float((truth - bound).mean()) / 16, float((truth - bound).std()) / math.sqrt(n) / 16)
    assert abs(lost["fitted"][0]) < 4 * lost["fitted"][1] + 0.004, lost
    assert lost["published"][0] > (0.5 if name == "flow" else 0.1), lost
    if levels:
        velocity = gaussian_velocity(s**2 * torch.eye(16, dtype=DOUBLE))
        nats, _ = flow_log_likelihood(
            velocity, denoise, x0, schedule, ImageNoise(4, range(n)), levels=levels, chain=chain, tolerance=1e-4
        )
        gap = truth - nats
        assert abs(float(gap.mean())) / 16 < 4 * float(gap.std()) / math.sqrt(n) / 16 + 0.004


def test_a_learned_variance_is_kept_and_its_decoder_scaled() -> None:
    """The network's word on the variance is twice too wide at every step; the decoder's factor makes up for it."""
    s, n, schedule = 0.25, 64, Schedule.named("cosine", 1000)
    x0 = (s * ImageNoise(0, range(n)).normal(1, 4, 4)).double()

    def denoise(x_t: Tensor, t: int | Tensor) -> Estimate:
        a, v = (table[t][:, None, None, None] for table in (schedule.alpha_bar, schedule.variance))
        mean = (a.sqrt() * s**2 / (a * s**2 + v)).to(x_t) * x_t
        return guess(mean, torch.full_like(mean, 1.0))

    chain = fit_chain(denoise, x0, schedule, ImageNoise(1, range(n)), levels=0, learned=True)
    assert chain.share is None
    a, v = float(schedule.alpha_bar[chain.first]), float(schedule.variance[chain.first])
    want = s * math.sqrt(v / (a * s**2 + v))
    known = guess(x0[:1], torch.ones_like(x0[:1]))
    assert float(torch.as_tensor(chain.spread(known, schedule)).mean()) == pytest.approx(want, rel=0.05)


def test_the_terms_add_up_to_the_bound() -> None:
    schedule, x0 = Schedule.named("cosine", 60), torch.linspace(-1, 1, 32).view(2, 1, 4, 4)

    def denoise(x_t: Tensor, t: int | Tensor) -> Estimate:
        return guess(0.5 * x0)

    terms = dict(bound_terms(denoise, x0, schedule, ImageNoise(0, [0, 1]), levels=256))
    assert list(terms) == [*range(60), 60]
    whole = variational_bound(denoise, x0, schedule, ImageNoise(0, [0, 1]), levels=256, samples=59)
    assert torch.allclose(torch.stack(list(terms.values())).sum(0), -whole)
    chain = Chain(7, 1.5)
    terms = dict(bound_terms(denoise, x0, schedule, ImageNoise(0, [0, 1]), levels=256, chain=chain))
    assert list(terms) == [0, *range(7, 60), 60]
    whole = variational_bound(denoise, x0, schedule, ImageNoise(0, [0, 1]), levels=256, samples=53, chain=chain)
    assert torch.allclose(torch.stack(list(terms.values())).sum(0), -whole)


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_what_bayes_rule_compares(name: str) -> None:
    """Of Gaussian classes, whose log p(x_s|y) is known at every s: log-odds of a given image, to 2 %."""
    n, size, s, middles = 500, 4, 0.3, (-0.4, 0.1)
    schedule = Schedule.flow(200) if name == "flow" else Schedule.named("cosine", 200)
    x0 = torch.tensor([0.5, -0.2, 0.1, 0.3], dtype=DOUBLE).expand(n, 1, 1, size)

    def evidence(middle: float, samples: int) -> Tensor:
        def denoise(x_t: Tensor, t: int | Tensor) -> Estimate:
            a, sigma2 = (table[t][:, None, None, None] for table in (schedule.alpha_bar, schedule.variance))
            gain = a.sqrt() * s**2 / (a * s**2 + sigma2)
            return guess(middle + gain.to(x_t) * (x_t - a.sqrt().to(x_t) * middle))

        return noised_bound(denoise, x0, schedule, ImageNoise(0, range(n)), samples)

    a, sigma2 = schedule.alpha_bar[1:], schedule.variance[1:]
    distances = [(x0[0] - middle).square().sum() for middle in middles]
    want = float((-0.5 * a * (distances[1] - distances[0]) / (a * s**2 + sigma2)).mean())
    for samples in (199, 40):
        odds = evidence(middles[1], samples) - evidence(middles[0], samples)
        error = float(odds.std()) / math.sqrt(n)
        assert error < 0.05 * want
        assert float(odds.mean()) == pytest.approx(want, abs=4 * error + 0.02 * want), samples


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_of_a_network(kind: str) -> None:
    """A fresh network has a known equation: for v = 0 nothing moves on the circle, and the density is N(0, I)."""
    spec = Spec((1, 4, 4), classes=2)
    net = {"width": 16, "multipliers": (1,), "timesteps": 100}
    model = Diffusion(DiffusionConfig(**net), spec) if kind == "diffusion" else Flow(FlowConfig(**net), spec)  # type: ignore[arg-type]
    model = model.eval().double()
    x = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
    nats, evaluations = model.flow_log_likelihood(
        x, torch.tensor([0, 2]), ImageNoise(0, range(2)), dequantize="uniform", tolerance=1e-5
    )
    assert nats.shape == (2,) and bool((evaluations > 6).all())
    if kind == "diffusion":
        noise = ImageNoise(0, range(2))
        u = noise.uniform(1, 4, 4).double() - 0.5
        angle = float(model.schedule.angle[1])
        y = math.cos(angle) * (100 / 127.5 - 1 + u / 127.5)
        normal = (-0.5 * y.square() - 0.5 * math.log(2 * math.pi) + math.log(math.cos(angle) / 127.5)).flatten(1).sum(1)
        assert torch.allclose(nats, normal, atol=1e-6)
    else:  # a velocity of 0 in x is one of y: y = x √((1-τ)² + τ²)⁻¹, and it is a scaling
        assert bool((nats < 0).all())
