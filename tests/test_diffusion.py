"""Diffusion against closed forms, against diffusers, and against its own contract."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trilemma.families.diffusion import Diffusion, DiffusionConfig, DiffusionOptions
from trilemma.families.diffusion.bound import diffuse, log_bin, prior_term, step_term, strata, variational_bound
from trilemma.families.diffusion.denoiser import Estimate, Prediction, clipped, read
from trilemma.families.diffusion.samplers import DDIM, DDPM, Sampler, Trajectory, ddim_encode
from trilemma.families.diffusion.schedule import Schedule
from trilemma.images import Spec
from trilemma.nets.unet import UNet
from trilemma.noise import BatchNoise, ImageNoise, Noise

CPU = torch.device("cpu")
TINY = DiffusionConfig(width=16, multipliers=(1, 2), timesteps=50)


def tiny(spec: Spec, seed: int = 0, **changes: object) -> Diffusion:
    """A small model whose weights are all away from their zero initialisation."""
    torch.manual_seed(seed)
    model = Diffusion(DiffusionConfig(**{**TINY.__dict__, **changes}), spec)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model


class Gaussian:
    """The exact denoiser of data x_0 ~ N(0, s²): E[x_0 | x_t] = √ᾱ s² x_t / (ᾱ s² + 1 - ᾱ)."""

    def __init__(self, schedule: Schedule, s: float, share: float | None = None) -> None:
        self.schedule, self.s, self.share = schedule, s, share

    def __call__(self, x_t: Tensor, t: int | Tensor) -> Estimate:
        at = t if isinstance(t, Tensor) else torch.full((len(x_t),), t)
        a, v = (table[at][:, None, None, None] for table in (self.schedule.alpha_bar, self.schedule.variance))
        x0 = (a.sqrt() * self.s**2 / (a * self.s**2 + v)).to(x_t) * x_t
        alpha, sigma = self.schedule.at(t, x_t)
        return Estimate(x0, (x_t - alpha * x0) / sigma, self.share)


class FixedNoise(Noise):
    """Hands out given values, so that another library can be given the same."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.count, self.device = values, len(values), CPU

    def normal(self, *shape: int) -> Tensor:
        return self.values

    def uniform(self, *shape: int) -> Tensor:
        raise AssertionError("samplers draw normals only")


def step(sampler: Sampler, x: Tensor, estimate: Estimate, t: int, s: int, schedule: Schedule, noise: Noise) -> Tensor:
    """One step of a sampler from a given estimate."""
    return sampler.step(x, t, s, Trajectory(lambda x_t, t: estimate, schedule, noise))


# Schedules


def test_linear_schedule() -> None:
    schedule = Schedule.named("linear", 1000)
    assert schedule.beta.dtype == torch.float64
    assert schedule.beta[1] == pytest.approx(1e-4) and schedule.beta[1000] == pytest.approx(0.02)
    assert schedule.alpha_bar[0] == 1
    log_alpha_bar = sum(math.log1p(-(1e-4 + i / 999 * (0.02 - 1e-4))) for i in range(1000))
    assert math.log(schedule.alpha_bar[1000]) == pytest.approx(log_alpha_bar, rel=1e-10)
    assert Schedule.named("linear", 250).alpha_bar[-1] == pytest.approx(4.0e-5, rel=0.25)  # as much noise for any T


def test_cosine_schedule() -> None:
    schedule = Schedule.named("cosine", 1000)

    def f(t: int) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (1, 10, 500, 999):
        assert schedule.alpha_bar[t] == pytest.approx(f(t) / f(0), rel=1e-9)
    assert float(schedule.beta.max()) == pytest.approx(0.999, rel=1e-12)
    assert bool((schedule.snr(torch.arange(1, 1001)).diff() < 0).all())


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_posterior_is_bayes_rule(name: str) -> None:
    """q(x_s | x_t, x_0) from the joint Gaussian of (x_s, x_t) given x_0, for one step and for long ones."""
    schedule = Schedule.named(name, 1000)  # type: ignore[arg-type]
    for t, s in ((2, 1), (700, 699), (700, 20), (1000, 400), (5, 0)):
        a_t, a_s = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[s])
        r = math.sqrt(a_t / a_s)  # x_t = r x_s + noise
        gain = r * (1 - a_s) / (1 - a_t)
        expected = math.sqrt(a_s) - gain * math.sqrt(a_t), gain, (1 - a_s) - gain**2 * (1 - a_t)
        assert [float(v) for v in schedule.posterior(t, s)] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_closed_form_equals_step_by_step() -> None:
    """x_t drawn in one go has the moments of x_t drawn by t steps of the chain."""
    schedule, x0, t, n = Schedule.named("linear", 100), 0.7, 40, 40_000
    generator = torch.Generator().manual_seed(0)
    x = torch.full((n,), x0, dtype=torch.float64)
    for beta in schedule.beta[1 : t + 1]:
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(n, dtype=torch.float64, generator=generator)
    one_go = diffuse(
        torch.full((n, 1, 1, 1), x0, dtype=torch.float64),
        torch.full((n,), t),
        schedule,
        torch.randn(n, 1, 1, 1, generator=generator),
    )
    for draws in (x, one_go):
        sigma = float((1 - schedule.alpha_bar[t]).sqrt())
        assert draws.mean() == pytest.approx(math.sqrt(schedule.alpha_bar[t]) * x0, abs=4 * sigma / math.sqrt(n))
        assert draws.std() == pytest.approx(sigma, rel=4 / math.sqrt(2 * n))


def test_times() -> None:
    schedule = Schedule.named("cosine", 1000)
    assert schedule.times(4, "trailing") == [1000, 750, 500, 250]
    assert schedule.times(4, "leading") == [751, 501, 251, 1]
    assert schedule.times(4, "linspace") == [1000, 667, 334, 1]
    assert schedule.times(4, "quadratic") == [1000, 445, 112, 1]
    for spacing in ("trailing", "leading", "linspace", "quadratic"):
        assert schedule.times(1, spacing) == [1000]
        for steps in (7, 50, 333, 1000):
            times = schedule.times(steps, spacing)
            assert times == sorted(set(times), reverse=True) and times[-1] >= 1 and times[0] <= 1000
            assert len(times) == steps or spacing == "quadratic"
    with pytest.raises(ValueError, match="between 1 and the 1000 timesteps"):
        schedule.times(1001, "trailing")


# Samplers on Gaussian data: everything is linear, so the variance of the samples is known exactly.


def gaussian_variance(schedule: Schedule, times: list[int], eta: float, s: float) -> float:
    """reference: v ← v·[(√(ᾱ'ᾱ)s² + √((1-ᾱ'-σ²)(1-ᾱ))) / (ᾱs²+1-ᾱ)]² + σ² per DDIM step."""
    v = 1.0
    for t, to in zip(times, [*times[1:], 0], strict=True):
        a, b = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[to])
        sigma2 = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        gain = (math.sqrt(a * b) * s**2 + math.sqrt(max((1 - b - sigma2) * (1 - a), 0))) / (a * s**2 + 1 - a)
        v = v * gain**2 + sigma2
    return v


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("steps", "spacing"), [(1, "trailing"), (5, "trailing"), (10, "quadratic"), (20, "leading")])
def test_ddim_variance_on_gaussian_data(eta: float, steps: int, spacing: str) -> None:
    schedule, s, n = Schedule.named("cosine", 1000), 0.5, 20_000
    options = DiffusionOptions(steps=steps, eta=eta, spacing=spacing, clip=False)  # type: ignore[arg-type]
    noise = BatchNoise(("ddim", eta, steps), n, 0, n, CPU)  # type: ignore[arg-type]
    z = noise.normal(1, 1, 1).double()
    times = options.visits(schedule)
    x = DDIM(eta).sample(Gaussian(schedule, s), schedule, times, z, noise)
    expected = gaussian_variance(schedule, times, eta, s)
    if eta == 0:  # deterministic: a pure gain
        assert torch.allclose(x.square(), z.square() * expected, rtol=1e-9)
    assert x.var() == pytest.approx(expected, rel=5 * math.sqrt(2 / n))


def test_many_steps_reach_the_data() -> None:
    schedule = Schedule.named("cosine", 1000)
    assert gaussian_variance(schedule, schedule.times(1000, "trailing"), 0.0, 0.5) == pytest.approx(0.25, rel=0.01)
    n = 4000
    noise = BatchNoise(("ddpm",), n, 0, n, CPU)
    for kind in ("small", "large"):
        options = DiffusionOptions(sampler="ddpm", variance=kind, clip=False)
        times = options.visits(schedule)
        x = options.method.sample(Gaussian(schedule, 0.5), schedule, times, noise.normal(1, 1, 1).double(), noise)
        assert x.var() == pytest.approx(0.25, rel=0.02 + 5 * math.sqrt(2 / n))


def test_ddpm_is_ddim_with_eta_one() -> None:
    schedule, x = Schedule.named("linear", 1000), torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = FixedNoise(torch.randn(x.shape, generator=torch.Generator().manual_seed(2)))
    for t, s in ((1000, 900), (300, 299), (20, 0)):
        estimate = Gaussian(schedule, 0.5)(x, t)
        a = step(DDIM(1.0), x, estimate, t, s, schedule, noise)
        b = step(DDPM("small"), x, estimate, t, s, schedule, noise)
        assert torch.allclose(a, b, atol=1e-5)


def test_no_noise_at_the_last_step() -> None:
    schedule, x = Schedule.named("linear", 1000), torch.ones(2, 1, 1, 1)
    estimate = Gaussian(schedule, 0.5)(x, 10)
    silent = FixedNoise(torch.full_like(x, math.nan))
    assert torch.equal(step(DDPM("large"), x, estimate, 10, 0, schedule, silent), estimate.x0)
    assert torch.allclose(step(DDIM(1.0), x, estimate, 10, 0, schedule, silent), estimate.x0)


def test_clipping_keeps_the_estimate_consistent() -> None:
    schedule, x, t = Schedule.named("cosine", 1000), torch.linspace(-3, 3, 9).view(1, 1, 3, 3), 300
    estimate = clipped(Gaussian(schedule, 2.0), schedule)(x, t)
    a = float(schedule.alpha_bar[t])
    assert estimate.x0.abs().max() <= 1
    assert torch.allclose(math.sqrt(a) * estimate.x0 + math.sqrt(1 - a) * estimate.eps, x, atol=1e-6)


def test_ddim_encode_inverts_sampling() -> None:
    schedule, s = Schedule.named("cosine", 1000), 0.5
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).view(1, 1, 3, 3)
    times = schedule.times(500, "trailing")
    z = ddim_encode(Gaussian(schedule, s), schedule, times, x)
    assert torch.allclose(z, x / s, rtol=0.02)  # the flow of a Gaussian is a scaling
    back = DDIM().sample(Gaussian(schedule, s), schedule, times, z, ImageNoise(0, [0]))
    assert torch.allclose(back, x, rtol=0.03)


# Against diffusers, whose index is ours minus one

PREDICTED: dict[str, Prediction] = {"epsilon": "noise", "v_prediction": "v", "sample": "x0"}
"""Their names of what a network gives, and ours."""


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip", [False, True])
def test_steps_agree_with_diffusers(prediction: str, clip: bool) -> None:
    schedulers = pytest.importorskip("diffusers.schedulers")
    schedule = Schedule.named("linear", 1000)
    generator = torch.Generator().manual_seed(3)
    x, output, eps = (torch.randn(4, 1, 5, 5, generator=generator) for _ in range(3))
    common = {"num_train_timesteps": 1000, "prediction_type": prediction, "clip_sample": clip}
    for steps, spacing in ((50, "leading"), (20, "trailing")):
        theirs = schedulers.DDIMScheduler(**common, timestep_spacing=spacing, set_alpha_to_one=True)
        ancestral = {
            kind: schedulers.DDPMScheduler(**common, timestep_spacing=spacing, variance_type=f"fixed_{kind}")
            for kind in ("small", "large")
        }
        for scheduler in (theirs, *ancestral.values()):
            scheduler.set_timesteps(steps)
        times = schedule.times(steps, spacing)  # type: ignore[arg-type]
        assert [t - 1 for t in times] == theirs.timesteps.tolist()
        for t, s in ((times[0], times[1]), (times[-5], times[-4]), (times[-1], 0)):
            a = float(schedule.alpha_bar[t])
            signal, sigma = math.sqrt(a), math.sqrt(1 - a)
            estimate = read(output, x, signal, sigma, PREDICTED[prediction])
            raw = estimate
            estimate = clipped(lambda x_t, t: raw, schedule)(x, t) if clip else raw  # noqa: B023
            for eta in (0.0, 0.7):
                ours = step(DDIM(eta), x, estimate, t, s, schedule, FixedNoise(eps))
                want = theirs.step(output, t - 1, x, eta=eta, variance_noise=eps, use_clipped_model_output=True)
                # their σ² at the last step is a rounding error away from our 0
                assert torch.allclose(ours, want.prev_sample, atol=2e-4), (steps, t, eta)
            for kind, scheduler in ancestral.items():
                ours = step(DDPM(kind), x, estimate, t, s, schedule, FixedNoise(eps))  # type: ignore[arg-type]
                mean = scheduler.step(output, t - 1, x, generator=torch.Generator().manual_seed(4)).prev_sample
                drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(4)) if t > 1 else 0
                want_mean = mean - scheduler._get_variance(t - 1).sqrt() * drawn
                if t > 1 and s == 0:
                    continue  # trailing: theirs adds noise unless t is its 0, ours never at the last step
                ours_mean = ours - math.sqrt(float(schedule.reverse_variance(t, s, kind))) * eps if s else ours  # type: ignore[arg-type]
                assert torch.allclose(ours_mean, want_mean, atol=2e-4), (steps, t, kind)
                if s:
                    variance = float(schedule.reverse_variance(t, s, kind))  # type: ignore[arg-type]
                    assert float(scheduler._get_variance(t - 1)) == pytest.approx(variance, rel=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_steps_of_a_learned_variance_agree_with_diffusers(prediction: str) -> None:
    """Theirs is learned_range: the second half of the output, on -1 … 1, lies between the two logarithms."""
    schedulers = pytest.importorskip("diffusers.schedulers")
    schedule, learned = Schedule.named("linear", 1000), tiny(Spec((1, 8, 8)), objective="hybrid", variance="learned")
    generator = torch.Generator().manual_seed(5)
    x, told = torch.randn(4, 1, 5, 5, generator=generator), torch.randn(4, 1, 5, 5, generator=generator)
    both = torch.cat([told, 2 * torch.rand(4, 1, 5, 5, generator=generator) - 1], 1)
    scheduler = schedulers.DDPMScheduler(
        num_train_timesteps=1000, prediction_type=prediction, clip_sample=False, timestep_spacing="leading",
        variance_type="learned_range",
    )  # fmt: skip
    for steps in (1000, 20):
        scheduler.set_timesteps(steps)
        times = schedule.times(steps, "leading")
        for t, s in ((times[0], times[1]), (times[-9], times[-8]), (times[-2], times[-1]), (times[-1], 0)):
            output, share = learned.split(both)
            signal, sigma = float(schedule.signal[t]), float(schedule.sigma[t])
            estimate = Estimate(*read(output, x, signal, sigma, PREDICTED[prediction])[:2], share)
            want = scheduler.step(both, t - 1, x, generator=torch.Generator().manual_seed(4)).prev_sample
            eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
            ours = step(DDPM("learned"), x, estimate, t, s, schedule, FixedNoise(eps))
            assert torch.allclose(ours, want, atol=3e-4), (steps, t)
            if t == times[-2]:  # where the two variances are far apart: another share would not do
                plain = step(DDPM("small"), x, estimate, t, s, schedule, FixedNoise(eps))
                assert not torch.allclose(plain, want, atol=3e-4)


# The bound


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.9, 0.007), (-5.0, 1e-3), (1.0, 3.0)])
def test_bins_sum_to_one(levels: int, mean: float, std: float) -> None:
    x0 = torch.linspace(-1, 1, levels)
    log_p = log_bin(x0, torch.full_like(x0, mean), std, levels)
    assert bool(log_p.isfinite().all()) and bool((log_p <= 0).all())
    assert log_p.exp().sum() == pytest.approx(1, abs=1e-6)


def test_strata_are_unbiased() -> None:
    """E[Σ w f(t)] = Σ f(t), by integrating over the uniform on a grid."""
    schedule = Schedule.named("cosine", 200)
    f = torch.rand(201, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = (torch.arange(50_000) + 0.5) / 50_000
    t, weight = strata(schedule, 8, grid[:, None].expand(-1, 8))
    assert int(t.min()) == 2 and int(t.max()) == 200
    assert (weight * f[t]).sum(1).mean() == pytest.approx(float(f[2:].sum()), rel=1e-3)


def test_step_term_on_gaussian_data() -> None:
    """E[L_{t-1}] in closed form: the model's mean errs by a²·Var(x_0 | x_t)."""
    schedule, s, n = Schedule.named("linear", 1000), 0.3, 20_000
    noise = BatchNoise(("term",), n, 0, n, CPU)
    x0 = s * noise.normal(1, 1, 1)
    for t in (2, 50, 600):
        for kind in ("small", "large"):
            eps = noise.normal(1, 1, 1)
            got = step_term(Gaussian(schedule, s, share=float(kind == "large")), x0, torch.full((n,), t), schedule, eps)
            a = float(schedule.alpha_bar[t])
            hidden = s**2 * (1 - a) / (a * s**2 + 1 - a)
            gain, _, small = (float(v) for v in schedule.posterior(t, t - 1))
            model = float(schedule.reverse_variance(t, t - 1, kind))
            expected = 0.5 * (small / model - 1 - math.log(small / model) + gain**2 * hidden / model)
            assert got.mean() == pytest.approx(expected, rel=0.05)


def test_prior_term() -> None:
    x0 = torch.tensor([0.5, -1.0]).view(1, 1, 1, 2)
    schedule = Schedule.named("linear", 50)
    a = schedule.alpha_bar[-1]
    q = torch.distributions.Normal(a.sqrt() * x0.double(), (1 - a).sqrt())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros(2).double(), torch.ones(2)))
    assert prior_term(x0, schedule) == pytest.approx(float(kl.sum()), rel=1e-6)


def test_bound_on_gaussian_data() -> None:
    """With the exact denoiser the bound lies below the true log p of the discrete image, and close to it."""
    s, n, dims, levels = 0.25, 64, 16, 256
    schedule = Schedule.named("cosine", 1000)
    noise = ImageNoise(0, range(n))
    images = ((s * noise.normal(1, 4, 4) + 1) * 127.5).round().clamp(0, 255)
    x0 = images / 127.5 - 1
    truth = log_bin(x0, torch.zeros_like(x0), s, levels).flatten(1).sum(1)
    bound = {
        kind: variational_bound(
            Gaussian(schedule, s, share=float(kind == "large")), x0, schedule, noise, levels=levels, samples=1000
        )
        for kind in ("small", "large")
    }
    gaps = {kind: float((truth - b).mean()) / dims for kind, b in bound.items()}
    # For Gaussian data the large variance is the optimal one (Ho et al. 2020, section 3.2).
    assert 0 < gaps["large"] < 0.1 and gaps["large"] < gaps["small"] < 0.6, gaps


def test_full_bound_is_the_mean_of_the_estimate() -> None:
    schedule, s = Schedule.named("cosine", 100), 0.4
    x0 = (s * ImageNoise(1, [0]).normal(1, 4, 4)).clamp(-1, 1)
    n = 3000
    many = x0.expand(n, -1, -1, -1)
    denoise = Gaussian(schedule, 0.3)
    full = variational_bound(denoise, many[:400], schedule, ImageNoise(2, range(400)), levels=256, samples=99)
    few = variational_bound(denoise, many, schedule, ImageNoise(3, range(n)), levels=256, samples=6)
    error = math.sqrt(float(full.var()) / 400 + float(few.var()) / n)
    assert error < 0.6 < abs(float(full.mean())) / 50  # a weight wrong by a few per cent shows
    assert float(few.mean() - full.mean()) == pytest.approx(0, abs=4 * error)


# The network


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 17, 23), (3, 32, 32), (3, 8, 8), (1, 3, 1)])
@pytest.mark.parametrize("patch", [1, 2])
def test_unet_keeps_any_shape(shape: tuple[int, int, int], patch: int) -> None:
    net = UNet(shape[0], width=16, multipliers=(1, 2, 2), blocks=1, classes=3, patch=patch)
    x = torch.randn(2, *shape)
    out = net(x, torch.tensor([1.0, 900.0]), torch.tensor([0, 3]))
    assert out.shape == x.shape
    assert bool((out == 0).all())  # a fresh network predicts 0
    out.sum().backward()


def test_unet_is_the_same_in_channels_last() -> None:
    net = tiny(Spec((1, 17, 23))).net
    x, t = torch.randn(2, 1, 17, 23), torch.tensor([3.0, 500.0])
    expected = net(x, t)
    assert torch.allclose(net.to(memory_format=torch.channels_last)(x, t), expected, atol=1e-5)  # type: ignore[call-overload]


def test_unet_uses_time_and_label() -> None:
    net = tiny(Spec((1, 8, 8), classes=3)).net
    x = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1)
    out = net(x, torch.tensor([10.0, 700.0, 10.0, 10.0]), torch.tensor([0, 0, 1, 3]))
    for i in (1, 2, 3):
        assert not torch.allclose(out[0], out[i], atol=1e-4)
    assert torch.allclose(net(x[:1], torch.tensor([10.0])), out[3], atol=1e-5)  # None means "no label"


# The family


@pytest.mark.parametrize("shape", [(1, 9, 7), (3, 8, 8)])
@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("prediction", ["noise", "v"])
def test_contract(shape: tuple[int, int, int], levels: int, prediction: str) -> None:
    spec = Spec(shape, levels, classes=3)
    model = tiny(spec, prediction=prediction)
    x = torch.randint(0, levels, (5, *shape), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3, 3])
    (objective,) = model.objectives()
    loss = objective.loss(x, labels, BatchNoise((0,), 5, 0, 5, CPU))
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in objective.parameters)
    quarters = sum(float(loss.logs[f"mse q{k}"]) for k in (1, 2, 3, 4)) / 4
    assert quarters == pytest.approx(loss.terms["mse"].item(), rel=1e-4)
    images = model.sample(ImageNoise(0, range(5)), labels, DiffusionOptions(steps=4, guidance=2.0))
    assert images.shape == x.shape and images.dtype == torch.uint8 and int(images.max()) < levels
    answer = model.log_likelihood(x, labels, ImageNoise(1, range(5)), samples=5)
    assert answer.kind == "bound" and answer.nats is not None and answer.nats.shape == (5,)
    assert bool((answer.nats < 0).all()) and "5 random of its 49 terms" in answer.reason
    assert "all of its 49" in model.log_likelihood(x, labels, ImageNoise(1, range(5)), samples=50).reason
    assert model.encode(x, labels, DiffusionOptions(steps=3, precision="fp32")).shape == x.shape


def test_noise_and_v_are_the_same_estimate() -> None:
    """The two parameterisations of one denoiser agree in x0 and eps."""
    model = tiny(Spec((1, 8, 8)))
    x, t = torch.randn(2, 1, 8, 8), 20
    estimate = model.estimate(x, t, None)
    a = float(model.schedule.alpha_bar[t])
    assert torch.allclose(math.sqrt(a) * estimate.x0 + math.sqrt(1 - a) * estimate.eps, x, atol=1e-6)
    v = model.predict(x, torch.full((2,), t), None)
    assert torch.allclose(math.sqrt(a) * estimate.eps - math.sqrt(1 - a) * estimate.x0, v, atol=1e-6)


def test_guidance() -> None:
    model = tiny(Spec((1, 8, 8), classes=3))
    x, labels, null = torch.randn(2, 1, 8, 8), torch.tensor([0, 2]), torch.tensor([3, 3])
    c, u = model.estimate(x, 20, labels).eps, model.estimate(x, 20, null).eps
    assert torch.allclose(model.estimate(x, 20, labels, 3.0).eps, u + 3 * (c - u), atol=1e-5)
    assert torch.allclose(model.estimate(x, 20, labels, 0.0).eps, u, atol=1e-6)
    with pytest.raises(ValueError, match="needs a conditional model"):
        tiny(Spec((1, 8, 8))).sample(ImageNoise(0, [0]), options=DiffusionOptions(guidance=2.0))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_an_image_does_not_depend_on_its_batch(sampler: str) -> None:
    model = tiny(Spec((1, 8, 8), classes=3)).double()
    options = DiffusionOptions(sampler=sampler, steps=5, eta=0.5 if sampler == "ddim" else 0.0)  # type: ignore[arg-type]
    labels = torch.tensor([0, 1, 2, 3])
    together = model.sample(ImageNoise(7, range(4)), labels, options)
    alone = torch.cat([model.sample(ImageNoise(7, [i]), labels[i : i + 1], options) for i in range(4)])
    assert torch.equal(together, alone)
    assert len({tuple(image.flatten().tolist()) for image in together}) == 4
    nats = model.log_likelihood(together, labels, ImageNoise(8, range(4)), 6).nats
    one = model.log_likelihood(together[2:3], labels[2:3], ImageNoise(8, [2]), 6).nats
    assert nats is not None and one is not None and nats[2].item() == pytest.approx(one[0].item(), rel=1e-9)


def test_a_batch_may_be_split_among_processes() -> None:
    model = tiny(Spec((1, 8, 8)))
    x = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    whole = model.loss(x, None, BatchNoise((1,), 6, 0, 6, CPU)).total
    halves = [model.loss(x[i : i + 3], None, BatchNoise((1,), 6, i, i + 3, CPU)).total for i in (0, 3)]
    assert whole.item() == pytest.approx((halves[0] + halves[1]).item() / 2, rel=1e-5)


def test_min_snr_weights() -> None:
    for prediction in ("noise", "v"):
        model = tiny(Spec((1, 8, 8)), weighting="min-snr", prediction=prediction)
        t = torch.arange(1, 51)
        snr = model.schedule.snr(t)
        x0_weight = snr if prediction == "noise" else snr + 1  # what a unit of this error is worth in x0
        assert torch.allclose(model.weight[1:].double() * x0_weight, snr.clamp(max=5), rtol=1e-5)


def test_training_learns_two_images() -> None:
    """A few dozen steps on two constant images bring samples near them."""
    torch.manual_seed(0)
    model = Diffusion(DiffusionConfig(width=16, multipliers=(1,), attention=0), Spec((1, 4, 4), classes=2))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    labels = torch.arange(16) % 2
    x = (labels * 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    losses = []
    for step in range(150):
        loss = model.loss(x, labels, BatchNoise((0, step), 16, 0, 16, CPU)).total
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    images = model.sample(ImageNoise(0, range(8)), torch.arange(8) % 2, DiffusionOptions(steps=10)).float()
    assert images[0::2].mean() < 60 and images[1::2].mean() > 195


def test_mistakes_are_named_in_one_line() -> None:
    for bad in ({"width": 20}, {"patch": 3}, {"schedule": "square"}, {"blocks": 0}, {"timesteps": 1}):
        with pytest.raises(ValueError) as error:
            Diffusion(DiffusionConfig(**bad), Spec((1, 8, 8)))
        assert "\n" not in str(error.value)
    for bad_option in (
        {"sampler": "unipc"},
        {"spacing": "random"},
        {"steps": 0},
        {"eta": 2.0},
        {"variance": "medium"},
        {"precision": "fp8"},
    ):
        with pytest.raises(ValueError):
            DiffusionOptions(**bad_option)
