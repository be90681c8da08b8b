"""Every sampler against the exact solution on Gaussian data, and step by step against diffusers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trilemma.config import parse_text
from trilemma.families.diffusion import Diffusion, DiffusionConfig, DiffusionOptions, Flow, FlowConfig, FlowOptions
from trilemma.families.diffusion.denoiser import Denoiser, Estimate, read
from trilemma.families.diffusion.samplers import DDPM, Heun, Trajectory, samplers
from trilemma.families.diffusion.schedule import Schedule
from trilemma.images import Spec
from trilemma.noise import BatchNoise, ImageNoise

CPU = torch.device("cpu")
PATHS = {
    "linear": Schedule.named("linear", 1000),
    "cosine": Schedule.named("cosine", 1000),
    "snr": Schedule.named("snr", 1000),
    "flow": Schedule.flow(1000),
}
SOLVERS = ("ddim", "euler", "heun", "dpm-solver")
paths = pytest.mark.parametrize("path", list(PATHS))


def gaussian(schedule: Schedule, s: float) -> Denoiser:
    """The exact denoiser of x_0 ~ N(0, s²)."""

    def denoise(x_t: Tensor, t: int | Tensor) -> Estimate:
        signal, sigma = schedule.at(t, x_t)
        x0 = signal * s**2 / (signal**2 * s**2 + sigma**2) * x_t
        return Estimate(x0, (x_t - signal * x0) / sigma)

    return denoise


def curved(schedule: Schedule) -> Denoiser:
    """A denoiser that is not linear, for comparisons where no closed form is needed."""

    def denoise(x_t: Tensor, t: int | Tensor) -> Estimate:
        signal, sigma = schedule.at(t, x_t)
        x0 = torch.tanh((0.3 + signal) * x_t + 0.1 * x_t.roll(1, -1))
        return Estimate(x0, (x_t - signal * x0) / sigma)

    return denoise


def draw(name: str, denoise: Denoiser, schedule: Schedule, times: Sequence[int], x: Tensor) -> Tensor:
    return samplers()[name]().sample(denoise, schedule, times, x, ImageNoise(0, range(len(x))))


def gain(name: str, schedule: Schedule, times: Sequence[int], s: float) -> float:
    """x_0/x_T on Gaussian data by recursion in x̄ = x/α and σ̄ = σ/α, where ε = e x̄ with e = σ̄/(s² + σ̄²)."""
    ratios = [float(schedule.sigma[t] / schedule.signal[t]) for t in [*times, 0]]
    x, image_before, h_before = 1.0, 0.0, math.inf

    def e(ratio: float) -> float:
        return ratio / (s**2 + ratio**2)

    for here, there in itertools.pairwise(ratios):
        step, image = there - here, s**2 / (s**2 + here**2) * x
        if name in ("ddim", "euler") or (name == "heun" and (not there or here > 200)):
            x *= 1 + step * e(here)
        elif name == "heun":
            x *= 1 + step / 2 * (e(here) + e(there) * (1 + step * e(here)))
        else:
            h = math.log(here / there) if there else math.inf
            slope = 0.0 if math.isinf(h_before) or math.isinf(h) else h / (2 * h_before)
            x = there / here * x + (1 - there / here) * (image + slope * (image - image_before))
            image_before, h_before = image, h
    return x / float(schedule.signal[times[0]])


@paths
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("steps", "spacing"), [(2, "trailing"), (7, "quadratic"), (25, "karras"), (10, "leading")])
def test_the_variance_of_samples_is_the_recursions(path: str, name: str, steps: int, spacing: str) -> None:
    """Each solver is linear on Gaussian data, so that Var x_0 = gain² exactly, computed in other variables."""
    schedule, s = PATHS[path], 0.4
    times = schedule.times(steps, spacing)  # type: ignore[arg-type]
    if path == "flow":
        times = [999, *[t for t in times if t < 999]]  # 1/α is infinite at T; see the test of that step below
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 3, 3)
    x = draw(name, gaussian(schedule, s), schedule, times, z)
    assert torch.allclose(x, z * gain(name, schedule, times, s), rtol=1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_first_step_where_there_is_no_signal(name: str) -> None:
    """At T of rectified flow the exact estimate of the image is 0, and every solver's first step keeps ε."""
    schedule, z = PATHS["flow"], torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 3, 3)
    x = draw(name, gaussian(schedule, 0.4), schedule, [1000, 600, 300], z)
    after = 0.6 * z
    later = draw(name, gaussian(schedule, 0.4), schedule, [600, 300], after)
    if name != "dpm-solver":  # it alone remembers the first estimate; after an infinite step it must not use it
        assert torch.allclose(x, later, rtol=1e-12)
    assert torch.isfinite(x).all()
    assert torch.allclose(x, later, rtol=1e-12)


@paths
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm-solver", 2)])
def test_the_order_of_each_solver(path: str, name: str, order: int) -> None:
    """Between two times with noise the exact flow of Gaussian data is a scaling by √(α²s² + σ²)."""
    schedule, s = PATHS[path], 0.3
    high, low = 600, 200

    def scale(t: int) -> float:
        return math.sqrt(float(schedule.alpha_bar[t]) * s**2 + float(schedule.variance[t]))

    def error(steps: int) -> float:
        times = [high - round(i * (high - low) / steps) for i in range(steps + 1)]
        states: list[float] = []

        def denoise(x_t: Tensor, t: int | Tensor) -> Estimate:
            if t == low:
                states.append(x_t.item())
            return gaussian(schedule, s)(x_t, t)

        start = torch.full((1, 1, 1, 1), scale(high), dtype=torch.float64)
        draw(name, denoise, schedule, times, start)
        return abs(states[-1] / scale(low) - 1)

    rate = math.log2(error(20) / error(40))
    assert rate == pytest.approx(order, abs=0.35), rate
    assert error(40) < (0.05 if order == 1 else 0.005)


@paths
def test_euler_is_ddim_without_noise(path: str) -> None:
    schedule, z = PATHS[path], torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = schedule.times(8, "trailing")
    one, other = (draw(name, curved(schedule), schedule, times, z) for name in ("ddim", "euler"))
    assert torch.allclose(one, other, atol=1e-12)


def test_euler_of_a_flow_follows_its_velocity() -> None:
    schedule, z = (
        PATHS["flow"],
        torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )
    x = z
    for t, s in ((1000, 700), (700, 250), (250, 0)):
        estimate = curved(schedule)(x, t)
        x = x + (s - t) / 1000 * (estimate.eps - estimate.x0)
    assert torch.allclose(draw("euler", curved(schedule), schedule, [1000, 700, 250], z), x, atol=1e-12)


class Impulses:
    """In place of noise: 1 in the row of its turn and 0 elsewhere, so that a linear sampler tells its coefficients."""

    def __init__(self, rows: int) -> None:
        self.rows, self.turn = rows, 0

    def normal(self, *shape: int) -> Tensor:
        self.turn += 1
        return (torch.arange(self.rows) == self.turn).double().view(-1, *[1] * len(shape)).expand(-1, *shape)


@paths
@pytest.mark.parametrize(("amount", "noise"), [(0.0, 1.0), (3.0, 1.0), (40.0, 1.003)])
def test_churn_has_the_variance_of_its_recursion(path: str, amount: float, noise: float) -> None:
    """Algorithm 2 of Karras et al. 2022 on N(0, s²): noise is added up to σ̂, then Heun's step scales; exactly."""
    schedule, s, low, high = PATHS[path], 0.4, 0.05, 50.0
    ratios = schedule.sigma / schedule.signal
    times = [t for t in schedule.times(18, "karras") if float(ratios[t]) < 200]
    impulses = Impulses(len(times) + 1)
    start = torch.zeros(len(times) + 1, 1, 1, 1, dtype=torch.float64)
    start[0] = 1  # the coefficient of x_T itself
    x = Heun(amount, low, high, noise).sample(gaussian(schedule, s), schedule, times, start, impulses)  # type: ignore[arg-type]
    variance, churned = 1 / float(schedule.alpha_bar[times[0]]), 0  # of x̄

    def e(ratio: float) -> float:
        return ratio / (s**2 + ratio**2)

    for t, after in itertools.pairwise([*times, 0]):
        here, there = float(ratios[t]), float(ratios[after])
        if amount and low <= here <= high:
            gamma = min(amount / len(times), math.sqrt(2) - 1)
            hat = float(ratios[t + int((ratios[t:] / (here * (1 + gamma))).log().abs().argmin())])
            variance, here, churned = variance + noise**2 * (hat**2 - here**2), hat, churned + 1
        step = there - here
        second = e(here) if not there else (e(here) + e(there) * (1 + step * e(here))) / 2
        variance *= (1 + step * second) ** 2
    assert float(x.square().sum()) == pytest.approx(variance, rel=1e-8)
    assert impulses.turn == churned and (churned > 8) == bool(amount)


def test_churn_keeps_the_law_as_steps_grow() -> None:
    """What is added the step removes more: with many steps Var x_0 is s² for any churn; too much noise shows."""
    schedule, s = PATHS["snr"], 0.4
    times = schedule.times(250, "karras")
    found = []
    for heun in (Heun(), Heun(80.0), Heun(80.0, churn_noise=1.05)):
        z = torch.eye(len(times) + 1, dtype=torch.float64)[0].view(-1, 1, 1, 1)
        x = heun.sample(gaussian(schedule, s), schedule, times, z, Impulses(len(times) + 1))  # type: ignore[arg-type]
        found.append(float(x.square().sum()) / s**2)
    assert found[:2] == pytest.approx([1, 1], abs=0.01)
    assert found[2] > 1.05


def test_the_spacing_of_karras() -> None:
    """Equal steps of the seventh root of σ̄ (eq. 5), each at the nearest time of the chain."""
    schedule = PATHS["snr"]
    times = schedule.times(18, "karras")
    ratios = schedule.sigma / schedule.signal
    roots = ratios[times[1:]] ** (1 / 7)
    assert roots.diff().std() < 0.03 * roots.diff().mean().abs()
    assert times[0] == schedule.T and times[-1] == 1 and len(times) == 18


@paths
@pytest.mark.parametrize("kind", ["small", "large"])
def test_ancestral_sampling_has_the_variance_of_its_recursion(path: str, kind: str) -> None:
    """v ← (a g + b)² v + σ², with x_0 = g x_t (reference: q(x_s | x_t, x_0) by Bayes' rule)."""
    schedule, s, n = PATHS[path], 0.5, 20_000
    times, v = schedule.times(6, "trailing"), 1.0
    for t, to in zip(times, [*times[1:], 0], strict=True):
        a_t, v_t, a_s, v_s = (float(table[i]) for i in (t, to) for table in (schedule.alpha_bar, schedule.variance))
        added = v_t - a_t / a_s * v_s
        image = math.sqrt(a_t) * s**2 / (a_t * s**2 + v_t)
        mean = math.sqrt(a_s) * added / v_t * image + math.sqrt(a_t / a_s) * v_s / v_t
        v = mean**2 * v + (0 if not to else added if kind == "large" else added * v_s / v_t)
    noise = BatchNoise(("ancestral",), n, 0, n, CPU)
    start = noise.normal(1, 1, 1).double()
    x = DDPM(kind).sample(gaussian(schedule, s), schedule, times, start, noise)  # type: ignore[arg-type]
    assert x.var() == pytest.approx(v, rel=5 * math.sqrt(2 / n))


def test_a_learned_variance_lies_between_the_two() -> None:
    schedule, x = PATHS["cosine"], torch.zeros(1, 1, 1, 1)
    noise = BatchNoise((0,), 1, 0, 1, CPU)
    stds = []
    for kind, share in (("small", None), ("learned", 0.0), ("learned", 0.5), ("learned", 1.0), ("large", None)):
        estimate = Estimate(x, x, None if share is None else torch.full_like(x, share))
        noise = BatchNoise((0,), 1, 0, 1, CPU)
        on = Trajectory(lambda x_t, t: estimate, schedule, noise)  # noqa: B023
        stds.append(DDPM(kind).step(x, 600, 300, on).item())  # type: ignore[arg-type]
    assert stds[0] == pytest.approx(stds[1])
    assert stds[2] ** 2 == pytest.approx(stds[0] * stds[4])
    assert stds[3] == pytest.approx(stds[4])
    with pytest.raises(ValueError, match="learned no variance"):
        DDPM("learned").step(x, 600, 300, Trajectory(lambda x_t, t: Estimate(x, x), schedule, noise))


@pytest.mark.parametrize("prediction", ["noise", "x0", "v", "velocity"])
def test_every_prediction_reads_the_same_estimate(prediction: str) -> None:
    schedule = PATHS["flow" if prediction == "velocity" else "cosine"]
    t = 400
    signal, sigma = float(schedule.signal[t]), float(schedule.sigma[t])
    x0, eps = torch.randn(2, 1, 2, 2, 2, dtype=torch.float64)
    outputs = {"noise": eps, "x0": x0, "v": signal * eps - sigma * x0, "velocity": eps - x0}
    estimate = read(outputs[prediction], signal * x0 + sigma * eps, signal, sigma, prediction)  # type: ignore[arg-type]
    assert torch.allclose(estimate.x0, x0)
    assert torch.allclose(estimate.eps, eps)


# Against diffusers


def test_dpm_solver_agrees_with_diffusers() -> None:
    schedulers = pytest.importorskip("diffusers.schedulers")
    schedule = PATHS["linear"]
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for steps in (1, 2, 5, 20, 50):
        theirs = schedulers.DPMSolverMultistepScheduler(
            num_train_timesteps=1000, final_sigmas_type="zero", timestep_spacing="trailing"
        )
        theirs.set_timesteps(steps)
        times = schedule.times(steps, "trailing")
        assert [t - 1 for t in times] == theirs.timesteps.tolist()
        want = x
        for t in times:
            want = theirs.step(curved(schedule)(want, t).eps, t - 1, want).prev_sample
        assert torch.allclose(draw("dpm-solver", curved(schedule), schedule, times, x), want, atol=2e-4), steps


def test_heun_agrees_with_diffusers() -> None:
    """Theirs works on x̄ = x/α."""
    schedulers = pytest.importorskip("diffusers.schedulers")
    schedule = PATHS["linear"]
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for steps in (2, 5, 18):
        theirs = schedulers.HeunDiscreteScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)
        theirs.register_to_config(timestep_spacing="trailing")
        theirs.set_timesteps(steps)
        visited = [round(time) + 1 for time in theirs.timesteps.tolist()]
        times = visited[::2]  # they round the trailing times otherwise
        assert visited == [times[(i + 1) // 2] for i in range(2 * steps - 1)]
        want = x / float(schedule.signal[times[0]])
        for i, t in enumerate(visited):
            eps = curved(schedule)(float(schedule.signal[t]) * want, t).eps
            want = theirs.step(eps, theirs.timesteps[i], want).prev_sample
        assert torch.allclose(draw("heun", curved(schedule), schedule, times, x), want, atol=1e-3), steps


def test_euler_agrees_with_diffusers() -> None:
    schedulers = pytest.importorskip("diffusers.schedulers")
    schedule, times = PATHS["flow"], [1000, 800, 350, 100]
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    theirs = schedulers.FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(sigmas=[t / 1000 for t in times])
    want = x
    for t, time in zip(times, theirs.timesteps, strict=True):
        estimate = curved(schedule)(want, t)
        want = theirs.step(estimate.eps - estimate.x0, time, want).prev_sample
    assert torch.allclose(draw("euler", curved(schedule), schedule, times, x), want, atol=1e-5)


# Through the families


def model(kind: type[Diffusion] | type[Flow]) -> Diffusion | Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = {"width": 16, "multipliers": (1, 2), "timesteps": 40}
        spec = Spec((1, 6, 6), classes=2)
        made = Diffusion(DiffusionConfig(**net), spec) if kind is Diffusion else Flow(FlowConfig(**net), spec)  # type: ignore[arg-type]
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", [Diffusion, Flow])
@pytest.mark.parametrize("name", list(samplers()))
def test_samplers_by_name_and_what_they_visit(kind: type[Diffusion] | type[Flow], name: str) -> None:
    made, labels, noise = model(kind), torch.tensor([0, 1]), ImageNoise(3, range(2))
    options = made.Options(sampler=name, steps=4, spacing="karras")
    seen: list[tuple[int, Tensor, Estimate]] = []
    z = made.latent(noise)

    def watch(t: int, x_t: Tensor, estimate: Estimate) -> None:
        seen.append((t, x_t, estimate))

    images = made.decode(z, noise, labels, options, watch=watch)
    assert images.shape == (2, 1, 6, 6)
    assert torch.equal(seen[0][1], z)
    assert [seen[0][0], seen[-1][0]] == [40, options.visits(made.schedule)[-1]]
    assert len(seen) == options.evaluations(made.schedule)
    for t, x_t, estimate in seen:
        assert estimate.x0.abs().max() <= 1
        again = float(made.schedule.signal[t]) * estimate.x0 + float(made.schedule.sigma[t]) * estimate.eps
        assert torch.allclose(again, x_t, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"churn": 3.0}, "churn belongs to the sampler heun, not to ddim"),
        ({"variance": "large"}, "variance belongs to the sampler ddpm, not to ddim"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta belongs to the sampler ddim, not to ddpm"),
        ({"sampler": "ddpm", "churn_noise": 1.1}, "churn_noise belongs to the sampler heun, not to ddpm"),
        ({"sampler": "heun", "churn": -1.0}, "churn must be at least 0"),
        ({"sampler": "heun", "churn_noise": math.nan}, "churn_noise must be at least 0"),
        ({"sampler": "heun", "churn_from": 5.0, "churn_to": 2.0}, "churn_to must lie between"),
    ],
)
def test_options_of_another_sampler_and_churn_out_of_range(options: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        DiffusionOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Diffusion, Flow])
def test_any_list_of_times(kind: type[Diffusion] | type[Flow]) -> None:
    """The option gives what the sampler itself gives along the list, and comes from the command line as 40,23,…"""
    made, times = model(kind), [40, 23, 22, 3]
    options = parse_text(made.Options, {"times": "40,23,22,3", "sampler": "ddim", "precision": "fp32"}, "test")
    assert options.visits(made.schedule) == times and options.evaluations(made.schedule) == 4
    noise, labels = ImageNoise(3, range(2)), torch.tensor([0, 1])
    z = made.latent(noise)
    raw = options.method.sample(made.drawing_denoiser(labels, options), made.schedule, times, z, noise)
    drawn = made.sample(ImageNoise(3, range(2)), labels, options)
    assert torch.equal(drawn, made.spec.from_unit(raw))
    assert not torch.equal(drawn, made.sample(ImageNoise(3, range(2)), labels, replace(options, times=None, steps=4)))
    for bad, fault in (
        ({"times": "40,40"}, "times must fall"),
        ({"times": "3,40"}, "times must fall"),
        ({"times": "40,0"}, "times must fall"),
        ({"times": "40,x"}, "times must be int, not 'x'"),
        ({"times": "40,3", "steps": "2"}, "leave out steps and spacing"),
        ({"times": "40,3", "spacing": "karras"}, "leave out steps and spacing"),
    ):
        with pytest.raises(ValueError, match=fault):
            parse_text(made.Options, bad, "test")
    with pytest.raises(ValueError, match="within the 40 timesteps of the model, not 41"):
        made.sample(ImageNoise(3, range(2)), labels, made.Options(times=(41, 3)))


def test_defaults_of_the_options() -> None:
    assert DiffusionOptions().sampler == "ddim" and FlowOptions().sampler == "euler"
    long, short = Schedule.named("cosine", 1000), Schedule.named("cosine", 30)
    for name, cls in samplers().items():
        options = DiffusionOptions(sampler=name)  # type: ignore[arg-type]
        assert len(options.visits(long)) == (cls.usual or 1000)
        assert len(options.visits(short)) == min(cls.usual or 30, 30)
