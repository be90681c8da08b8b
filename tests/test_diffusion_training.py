"""Schedules, targets, losses and clocks of the diffusion families, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trilemma.families.diffusion import Diffusion, DiffusionConfig, Flow, FlowConfig
from trilemma.families.diffusion.bound import log_bin_mass, prior_term, variational_bound
from trilemma.families.diffusion.clock import Clock
from trilemma.families.diffusion.denoiser import Estimate
from trilemma.families.diffusion.schedule import Schedule
from trilemma.images import Spec, to_unit
from trilemma.noise import BatchNoise, ImageNoise, Noise
from trilemma.questions.forward import end_moments, forward_chain, step_by_step

CPU = torch.device("cpu")
NAMES = ("linear", "cosine", "snr")


def tiny(spec: Spec, **changes: object) -> Diffusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fields = {"width": 16, "multipliers": (1, 2), "timesteps": 50, **changes}
        model = Diffusion(DiffusionConfig(**fields), spec)  # type: ignore[arg-type]
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def images(spec: Spec, count: int) -> Tensor:
    return ImageNoise(9, range(count)).integers(spec.levels, *spec.shape).to(torch.uint8)


# The chain


def test_the_snr_schedule_falls_evenly() -> None:
    schedule = Schedule.named("snr", 1000)
    log_snr = schedule.snr(torch.arange(1, 1001)).log()
    assert log_snr[0] == pytest.approx(10) and log_snr[-1] == pytest.approx(-10)
    assert torch.allclose(log_snr.diff(), torch.full((999,), -20 / 999, dtype=torch.float64))
    own = Schedule.from_log_snr(torch.tensor([3.0, -1.0, -2.5], dtype=torch.float64))
    assert own.snr(2) == pytest.approx(math.exp(-1))
    assert torch.allclose(own.alpha_bar + own.variance, torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="falls from 1"):
        Schedule.from_log_snr(torch.tensor([-1.0, 3.0], dtype=torch.float64))


@pytest.mark.parametrize("name", [*NAMES, "flow"])
def test_x_T_is_standard_normal(name: str) -> None:
    """By its moments, in closed form and by every single step, and by the nats of the image that are left."""
    schedule = Schedule.flow(1000) if name == "flow" else Schedule.named(name, 1000)  # type: ignore[arg-type]
    x0 = 2 * torch.bernoulli(torch.full((600, 1, 8, 8), 0.2), generator=torch.Generator().manual_seed(1)) - 1
    noise = BatchNoise(("end", name), 600, 0, 600, CPU)
    left = prior_term(x0, schedule)
    ends = [float(schedule.signal[-1]) * x0 + float(schedule.sigma[-1]) * noise.normal(1, 8, 8)]
    ends.append(step_by_step(x0, schedule, [1000], noise)[-1])
    for end in ends:
        moments = end_moments(end, left)
        assert max(map(abs, moments.deviations)) < 4, moments.text
    assert moments.nats < 0.01 * 64
    if name == "cosine" or name == "flow":
        assert moments.nats < 1e-6
    # The check can fail: half-way the image is still there.
    half = float(schedule.signal[500]) * x0 + float(schedule.sigma[500]) * noise.normal(1, 8, 8)
    if name != "linear":
        assert max(map(abs, end_moments(half, left).deviations)) > 10


def test_the_forward_strip_agrees_with_itself() -> None:
    """Closed form and single steps have the same moments at every time of the strip."""
    model, x = tiny(Spec((1, 8, 8))), torch.full((400, 1, 8, 8), 40, dtype=torch.uint8)
    film = forward_chain(model, x)
    x0 = 40 / 127.5 - 1
    for t, closed, stepped in zip(film.times, film.x_t, film.other, strict=True):
        signal, sigma, n = float(model.schedule.signal[t]), float(model.schedule.sigma[t]), closed.numel()
        for values in (closed, stepped):
            assert values.mean() == pytest.approx(signal * x0, abs=4.5 * sigma / math.sqrt(n))
            assert values.std() == pytest.approx(sigma, rel=4.5 / math.sqrt(2 * n))
    assert film.times[-1] == model.schedule.T


# Losses


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_bound_as_a_loss_is_the_bound(share: float) -> None:
    """Averaged over every t with the same ε, `bound_at` is the bound of bound.py without L_T, in bits/dim."""
    spec = Spec((1, 4, 4))
    model = tiny(spec, timesteps=20, objective="bound", variance="learned", prediction="x0")
    x0, schedule = to_unit(images(spec, 3), 256), model.schedule
    guess = 0.9 * x0 + 0.05
    shares = torch.full_like(x0, share)
    full = variational_bound(
        lambda x_t, t: Estimate(guess, guess, shares), x0, schedule, ImageNoise(0, range(3)), levels=256, samples=1000
    )
    want = -full - prior_term(x0, schedule)
    told = Estimate(guess, guess, shares)
    terms = torch.stack([model.bound_at(x0, told, torch.full((3,), t)) for t in range(1, 21)])
    assert torch.allclose(terms.mean(0).double() * 16 * math.log(2), want, rtol=1e-4)


@pytest.mark.parametrize("vector", [False, True])
def test_the_bound_is_trained_with_the_variance_it_is_scored_with(vector: bool) -> None:
    """With a fixed variance too, of images (the small one) and of vectors (the large one)."""
    spec = Spec((3,), levels=0, center=(0.0,) * 3, scale=(1.0,) * 3) if vector else Spec((1, 4, 4))
    model = tiny(spec, timesteps=20, objective="bound", prediction="x0")
    x0 = ImageNoise(1, range(3)).normal(3) if vector else to_unit(images(spec, 3), 256)
    guess = 0.9 * x0 + 0.05
    model.predict = lambda x_t, t, labels: guess  # type: ignore[method-assign, assignment]
    denoise = model.bound_denoiser(None)
    scored = variational_bound(denoise, x0, model.schedule, ImageNoise(0, range(3)), levels=spec.levels, samples=1000)
    want = -scored - prior_term(x0, model.schedule)
    terms = torch.stack([model.bound_at(x0, Estimate(guess, guess), torch.full((3,), t)) for t in range(1, 21)])
    assert torch.allclose(terms.mean(0).double() * spec.dims * math.log(2), want, rtol=1e-4)
    other = denoise(x0, torch.ones(3, dtype=torch.int64)).share
    assert float(torch.as_tensor(other).mean()) == float(vector)


def test_gradients_of_the_discrete_decoder_are_finite_and_right() -> None:
    x0 = torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.0, 1 / 255, 127 / 255], dtype=torch.float64)
    mean = torch.tensor([-3.0, 4.0, -4.0, 1.5, 0.3, 0.0, -2.0], dtype=torch.float64, requires_grad=True)
    log_std = torch.full((), -3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: log_bin_mass(x0, m, s.exp(), 256), (mean, log_std), rtol=1e-3)
    single = mean.detach().float().requires_grad_()
    log_bin_mass(x0.float(), single, 0.01, 256).sum().backward()
    assert single.grad is not None and bool(single.grad.isfinite().all())


@pytest.mark.parametrize("prediction", ["noise", "x0", "v"])
@pytest.mark.parametrize(("objective", "variance"), [("bound", "fixed"), ("bound", "learned"), ("hybrid", "learned")])
def test_every_objective_trains_samples_and_scores(prediction: str, objective: str, variance: str) -> None:
    spec = Spec((3, 6, 6), levels=2, classes=2)
    model = tiny(spec, prediction=prediction, objective=objective, variance=variance, times="loss-aware")
    x, labels = images(spec, 4), torch.tensor([0, 1, 2, 0])
    for t in (0.0, 0.7):  # the discrete decoder and a step
        loss = model.loss(x, labels, Chosen(t, 4))
        assert set(loss.terms) == ({"bound"} if objective == "bound" else {"mse", "bound"})
        model.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all())
    model.eval()
    options = model.Options(sampler="ddpm", steps=4)
    assert model.sample(ImageNoise(0, range(4)), labels, options).shape == x.shape
    with torch.no_grad():
        nats = model.log_likelihood(x, labels, ImageNoise(0, range(4)), 5).nats
    assert nats is not None and bool((nats < 0).all())


class Chosen(Noise):
    """Uniform draws that are always the same number."""

    def __init__(self, value: float, count: int) -> None:
        self.value, self.count, self.device = value, count, CPU
        self._noise = BatchNoise((0,), count, 0, count, CPU)

    def uniform(self, *shape: int) -> Tensor:
        return torch.full((self.count, *shape), self.value)

    def normal(self, *shape: int) -> Tensor:
        return self._noise.normal(*shape)


def test_the_hybrid_bound_teaches_the_variance_alone() -> None:
    """The gradient of the bound reaches the last layer's variance channels and none of its means."""
    spec = Spec((1, 6, 6))
    model = tiny(spec, objective="hybrid", variance="learned", patch=1)
    loss = model.loss(images(spec, 4), None, BatchNoise((0,), 4, 0, 4, CPU))
    loss.terms["bound"].backward()  # type: ignore[no-untyped-call]
    grad = model.net.head.bias.grad
    assert grad is not None and grad[0] == 0 and grad[1] != 0


def test_the_bound_is_least_at_the_best_share_of_a_learned_variance() -> None:
    """For Gaussian data the step's best variance is known: β̃ + a² Var(x_0 | x_t). There the bound is least."""
    model, s, t = tiny(Spec((1, 1, 1)), timesteps=1000, objective="bound", variance="learned", patch=1), 0.5, 5
    schedule, n = model.schedule, 2
    a, _, small = (float(v) for v in schedule.posterior(t, t - 1))
    hidden = s**2 * float(schedule.variance[t]) / (float(schedule.alpha_bar[t]) * s**2 + float(schedule.variance[t]))
    large = float(schedule.reverse_variance(t, t - 1, "large"))
    best = math.log((small + a**2 * hidden) / small) / math.log(large / small)
    x0 = math.sqrt(hidden) * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)  # its error, of mean 0 and this variance
    at = torch.full((n,), t)
    losses = []
    for share in (best - 0.1, best, best + 0.1):
        told = Estimate(torch.zeros_like(x0), torch.zeros_like(x0), torch.full_like(x0, share))
        losses.append(model.bound_at(x0, told, at).double().mean().item())
    assert 0 < best < 1.001
    assert losses[1] < losses[0] and losses[1] < losses[2]


@pytest.mark.parametrize("weighting", ["simple", "min-snr"])
def test_predictions_of_the_same_estimate_cost_what_the_weights_say(weighting: str) -> None:
    """min-SNR weighs the error of x_0 by min(SNR, 5) whichever target is learned."""
    t = torch.arange(1, 51)
    for prediction in ("noise", "x0", "v"):
        model = tiny(Spec((1, 4, 4)), prediction=prediction, weighting=weighting)
        snr = model.schedule.snr(t)
        unit = {"noise": snr, "x0": torch.ones_like(snr), "v": snr + 1}[prediction]
        want = snr.clamp(max=5) if weighting == "min-snr" else unit
        assert torch.allclose(model.weight[1:].double() * unit, want, rtol=1e-5)


# Clocks


@pytest.mark.parametrize("kind", ["log-uniform", "loss-aware"])
def test_clocks_are_unbiased(kind: str) -> None:
    """E[w f(t)] is the mean of f, by integrating over the uniform draw on a grid."""
    T, n = 200, 100_000
    clock = Clock(T, kind)  # type: ignore[arg-type]
    f = torch.linspace(3, 1, T) ** 2
    if kind == "loss-aware":
        for step in range(200):
            noise = BatchNoise((step,), 256, 0, 256, CPU)
            t, _ = clock.draw(noise)
            clock.hear(t, f[t - 1])
        q = clock.probabilities()
        want = f / f.sum()  # √E[L²] of a loss without noise
        assert torch.allclose(q, 0.99 * want + 0.01 / T, rtol=0.1)

    class Grid(Chosen):
        def uniform(self, *shape: int) -> Tensor:
            return (torch.arange(n) + 0.5) / n

    t, weights = clock.draw(Grid(0.0, n))
    assert int(t.min()) == 1 and int(t.max()) == T
    assert weights is not None
    assert float((weights * f[t - 1]).mean()) == pytest.approx(float(f.mean()), rel=2e-3)
    if kind == "log-uniform":
        share = (t <= 14).float().mean()  # Σ_{1…14} 1/t over Σ_{1…200} 1/t
        assert share == pytest.approx(sum(1 / k for k in range(1, 15)) / sum(1 / k for k in range(1, 201)), abs=1e-3)


def test_the_loss_aware_clock_is_one_among_processes() -> None:
    """The mean over two processes of what each has heard is what one process hears; and it is saved with the run."""
    t, losses = torch.tensor([1, 7, 30, 48]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    whole, first, second = (Clock(50, "loss-aware") for _ in range(3))
    whole.hear(t, losses)
    first.hear(t[:2], losses[:2])
    second.hear(t[2:], losses[2:])
    for name, value in whole.state_dict().items():
        assert torch.allclose((first.state_dict()[name] + second.state_dict()[name]) / 2, value)
    assert set(whole.state_dict()) == {"squares", "counts"}
    assert not Clock(50, "log-uniform").state_dict()


# Flow


def test_the_flow_loss_is_the_error_of_the_velocity() -> None:
    """With the exact velocity of a single image, ε - x_0 = (x_τ - x_0)/τ, it is 0."""
    spec = Spec((1, 4, 4))
    model = Flow(FlowConfig(width=16, multipliers=(1,)), spec)
    x = images(spec, 1)

    def exact(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return (x_t - to_unit(x, 256)) / (t / 1000)[:, None, None, None]

    model.predict = exact  # type: ignore[method-assign]
    noise = BatchNoise((0,), 64, 0, 64, CPU)
    loss = model.loss(x.expand(64, -1, -1, -1), None, noise)
    assert loss.terms["mse"].item() == pytest.approx(0, abs=1e-6)
    model = Flow(FlowConfig(width=16, multipliers=(1,), times="logit-normal"), spec)
    value = model.loss(x.expand(64, -1, -1, -1), None, BatchNoise((1,), 64, 0, 64, CPU))
    x0 = to_unit(x, 256)
    assert value.terms["mse"].item() == pytest.approx(1 + x0.square().mean().item(), rel=0.1)  # a fresh net says 0
    assert sum(value.logs[f"mse q{k}"].item() for k in (1, 2, 3, 4)) / 4 == pytest.approx(value.terms["mse"].item())


def test_mistakes_are_named_in_one_line() -> None:
    spec = Spec((1, 8, 8))
    for bad in (
        {"objective": "hybrid"},
        {"variance": "learned"},
        {"objective": "full"},
        {"times": "random"},
        {"prediction": "velocity"},
        {"weighting": "p2"},
    ):
        with pytest.raises(ValueError) as error:
            Diffusion(DiffusionConfig(**bad), spec)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="choose uniform, logit-normal"):
        Flow(FlowConfig(times="random"), spec)  # type: ignore[arg-type]
