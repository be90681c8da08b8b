"""One family that learns 2-D points before one's eyes: it is trained a few steps at a time and drawn in between."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trilemma.config import RunConfig
from trilemma.data import Dataset
from trilemma.data.mixtures import Law
from trilemma.families import FAMILIES
from trilemma.families.diffusion.flow_density import flow_velocity
from trilemma.families.diffusion.ode import with_exact_divergence
from trilemma.families.diffusion.samplers import NOISE
from trilemma.families.family import Decodes, Denoises, Distils, Encodes, Family, Plays
from trilemma.faults import bug, in_words
from trilemma.metrics.manifold import manifold_scores
from trilemma.metrics.spots import spots
from trilemma.noise import BatchNoise
from trilemma.parallel import ranks
from trilemma.run import Run
from trilemma.training import Budget, Progress, make_config
from trilemma.training.loop import Learner, steps
from trilemma.vectors import Plane

WIDTH, BATCH = 64, 128
"""Units of a layer and points of a batch: small, so that a step takes a few milliseconds on one core."""
DOTS, PATHS, SIDE, ARROWS = 400, 48, 32, 13
"""Samples, those of them whose path is drawn, and cells of the map and arrows along a side of the plane."""
DRAWS, STEPS = 16, 12
"""Importance samples for a point of the map, and steps of the flow's equation."""
POWER = 1.5
BUDGET = 1000
"""Steps of a family whose training has a beginning and an end; the others go on and on."""
LOSSES = 240
"""Points of a curve of losses, at most twice as many."""
SLICE = 0.02
"""Seconds that a family learns in its turn."""
HIDDEN = re.compile(r"gradient norm.*|loss \(.*|.* q\d|active_units|bits_per_dim")
"""Logged values that are no lesson here."""

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Switch:
    """One thing that can be changed about a family, and what is then to be seen.

    Attributes:
        place: of what it is a field: the model's config, the training's, or the sampling options.
        choices: the values that it takes; the family's own default is always one of them.
        look: what to look for, in a sentence.
        fresh: whether the family begins anew, because its weights would mean something else.
    """

    place: Literal["model", "train", "options"]
    name: str
    label: str
    choices: tuple[str | int | float, ...]
    look: str
    fresh: bool = False


SWITCHES = (
    Switch("train", "lr", "learning rate", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
           "Too high, and the dots shake and never settle; too low, and nothing moves."),
    Switch("model", "loss", "loss",
           ("nonsaturating", "minimax", "hinge", "least-squares", "wasserstein", "relativistic"),
           "Minimax gives a beaten generator little to learn from; Wasserstein never does; relativistic forgets none."),
    Switch("model", "discriminator_steps", "steps of D for one of G", (1, 2, 5, 10),
           "More steps make a sharper map for the generator to climb, and a slower game."),
    Switch("model", "pack", "points that D judges at once", (1, 2, 4),
           "With packs of two or more a generator that forgets a mode is found out (PacGAN).", fresh=True),
    Switch("model", "beta", "β, weight of the KL", (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 10.0),
           "A large β lets all samples fall together in one cloud; 0 rebuilds well and samples badly."),
    Switch("model", "latent", "dimensions of the code", (1, 2),
           "With one dimension the plane has to be covered by a single bent line.", fresh=True),
    Switch("model", "prediction", "what the network predicts", ("noise", "x0", "v"),
           "Of the noise little is to be learnt from where there is nothing else: the first steps suffer.", fresh=True),
    Switch("options", "codes", "law of the codes", ("marginal", "prior", "gaussian", "mixture", "real"),
           "An autoencoder has no law of its codes: every law that is put there shows another picture."),
    Switch("options", "steps", "steps of the sampler", (1, 2, 4, 8, 16, 32, 64),
           "With one or two steps dots stay on the way between the modes; straight paths need fewer."),
)  # fmt: skip


def switches(family: type[Family], config: RunConfig) -> list[tuple[Switch, str | int | float]]:
    """The switches of a family, each with the value that it has here."""
    found = []
    for switch in SWITCHES:
        owner = {"model": family.Config, "train": type(config.train), "options": family.Options}[switch.place]
        default = next((each.default for each in dataclasses.fields(owner) if each.name == switch.name), None)
        if switch.name == "steps" and issubclass(family, Denoises):
            default = 16
        elif switch.place != "options" and default is not None:
            default = getattr(config.model if switch.place == "model" else config.train, switch.name)
        if default is None or not isinstance(default, str | int | float):
            continue
        choices = tuple(value for value in switch.choices if _fits(owner, switch.name, value))
        if default not in choices:
            if isinstance(default, str):  # another family's field of the same name
                continue
            choices = tuple(sorted((*choices, default)))  # type: ignore[type-var]
        found.append((dataclasses.replace(switch, choices=choices), default))
    return found


def _fits(owner: type, name: str, value: str | int | float) -> bool:
    """Whether a config takes this value of a field, the others being its defaults."""
    try:
        owner(**{name: value})
    except ValueError:
        return False
    return True


def lesson(family: type[Family]) -> str:
    """What to look for, in a sentence."""
    if issubclass(family, Plays):
        return (
            "Watch the dots chase what the discriminator takes for real, and hop from mode to mode: a generator that "
            "fools it from a few modes forgets the others (mode collapse)."
        )
    if issubclass(family, Denoises):
        return (
            "All modes are found early, and sharpen slowly. Move the time: the dots come out of noise along their "
            "paths, in as many steps as you give them."
        )
    if issubclass(family, Distils):
        return (
            f"For {BUDGET // 2:,} steps it is a denoiser like the others, whose few jumps end between the modes; then "
            "it learns to jump to the end of its path at once, and rests after as many again."
        )
    if issubclass(family, Decodes) and family.prior:
        return (
            "It covers everything and blurs between: the grid is its latent plane, bent over the data, and it cannot "
            "be torn, so some dots always lie between the modes."
        )
    if issubclass(family, Decodes):
        return (
            "It rebuilds every point, but knows no law of its codes: its dots are guesses and fall between the modes "
            "however long it learns."
        )
    return "Watch the dots come to lie on the points."


@dataclass
class View:
    """What the page wants to see, and whether and how fast to learn.

    Attributes:
        playing: learn on and on. speed: steps a second of each family; 0 for as many as there are.
        heat, lines: whether maps, and grids, paths and arrows, are drawn.
        averaged: show the averaged weights.
        time: where on the way from noise (1) to samples (0) the dots of denoisers are shown.
    """

    playing: bool = True
    speed: float = 0.0
    heat: bool = True
    lines: bool = True
    averaged: bool = False
    time: float = 0.0

    @property
    def of_dots(self) -> tuple[bool, bool, float]:
        return self.lines, self.averaged, self.time


@dataclass
class Cost:
    """When something was drawn last, of what, how long it took, and the seconds learnt since then."""

    key: Any = None
    at: float = -math.inf
    seconds: float = 0.0
    since: float = 0.0

    def due(self, key: Any, playing: bool, pause: float, share: float) -> bool:
        """Whether to draw again: something changed, and while it learns not too often and not for too long."""
        if key == self.key:
            return False
        return not playing or (time.monotonic() - self.at >= pause and self.since >= share * self.seconds)

    def done(self, key: Any, seconds: float) -> None:
        self.key, self.at, self.seconds, self.since = key, time.monotonic(), seconds, 0.0


@dataclass
class Pupil:
    """A family and the points that it learns. All but ``parts``, ``facts`` and ``error`` belong to one thread.

    Attributes:
        parts: what is drawn, by name, each with the number of its drawing: ``dots`` [N, 2], ``lines`` [L, P, 2] and
            ``heat`` [side, side], in shares of the plane and of the scale, and ``loss`` [M, 1 + names].
        facts: plain values beside them.
        error: why it does not go on, in one line.
    """

    family: str
    dataset: Dataset
    plane: Plane
    seed: int
    law: Law | None
    clock: Iterator[int]
    chosen: dict[str, str | int | float] = field(default_factory=dict)
    parts: dict[str, tuple[int, Floats]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def __post_init__(self) -> None:
        self.cls = FAMILIES[self.family]
        self.real = self.dataset.batch(self.dataset.train[:DOTS])
        found = switches(self.cls, self.configured(defaults=True))
        self.usual = {switch.name: (switch, value) for switch, value in found}
        cells = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE
        self.cells = self._at(cells, cells)
        ticks = (torch.arange(ARROWS, dtype=torch.float64) + 0.5) / ARROWS
        self.feet = self._at(ticks, ticks)
        self.owed = 0

    def _at(self, across: Tensor, down: Tensor) -> Tensor:
        """The points of the plane at shares of its sides: float32 [rows · columns, 2], row by row from below."""
        y, x = torch.meshgrid(down, across, indexing="ij")
        places = torch.stack([x, y], 2).view(-1, 2)
        return (torch.tensor(self.plane.low) + places * torch.tensor(self.plane.side)).float()

    # What it is

    def of(self, place: str) -> dict[str, Any]:
        """The fields of the config, the training or the options that are chosen here."""
        return {
            name: self.chosen.get(name, value) for name, (switch, value) in self.usual.items() if switch.place == place
        }

    def configured(self, *, defaults: bool = False) -> RunConfig:
        """The whole config; ``ValueError`` where two choices contradict each other."""
        model: dict[str, Any] = {"width": WIDTH, "latent": 2}
        if issubclass(self.cls, Plays):
            # As it was in 2014, since its lesson is what later losses mend; of one shape under all of them.
            model |= {"loss": "nonsaturating", "generator_norm": "batch", "octaves": 0}
        model |= {} if defaults else self.of("model")
        known = _fields(self.cls.Config)
        settings = {"batch": BATCH, "precision": "fp32", "anneal": 0.0} | ({} if defaults else self.of("train"))
        return make_config(
            self.family,
            self.dataset,
            seed=self.seed,
            model={name: value for name, value in model.items() if name in known},
            settings=settings,
        )

    @property
    def options(self) -> Any:
        known = _fields(self.cls.Options)
        return self.cls.Options(**self.of("options"), **({"precision": "fp32"} if "precision" in known else {}))

    def check(self, name: str, value: str | int | float) -> None:
        """Refuse, in one line, a switch or a value that the family has not."""
        if name not in self.usual:
            raise ValueError(f"{self.family} has no switch {name[:40]!r}; it has {', '.join(self.usual)}")
        switch = self.usual[name][0]
        if value not in switch.choices or isinstance(value, bool):
            raise ValueError(
                f"{name} of {self.family} must be one of {', '.join(map(str, switch.choices))}, not {str(value)[:40]!r}"
            )

    def begin(self) -> None:
        """Start with fresh weights."""
        self.error, self.progress, self.owed = "", Progress(), 0
        self.parts, self.facts = {}, {}
        self.names: list[str] = []
        self.curve: list[list[float]] = []
        self.sums: dict[str, float] = {}
        self.summed = self.generation = 0
        self.dots, self.map = Cost(), Cost()
        self.sweep: Iterator[None] | None = None
        self.swept: tuple[Floats, str, str] | None = None
        self.spent = self.part = self.judged_at = self.noted_at = 0.0
        self.pace = [(time.monotonic(), 0)]
        self._build()

    def choose(self, name: str, value: str | int | float) -> None:
        """Turn a switch: sampling options and settings at once, what the weights depend on by beginning anew."""
        before = dict(self.chosen)
        self.chosen[name] = value
        switch = self.usual[name][0]
        try:
            if switch.place == "options":
                _ = self.options
                self.generation += 1
            elif switch.fresh or self.error:
                self.configured()
                self.begin()
            else:
                self._build(self.learner.state(self.progress))
        except ValueError as error:
            self.chosen = before
            self.facts = {**self.facts, "refused": str(error)}

    def _build(self, state: Any = None) -> None:
        config, where = self.configured(), ranks("cpu")
        learner = Learner.build(Run(Path("lab"), config), where)
        learner.model.check()
        if state is not None:
            learner.restore(state, "the lab")
        self.learner = learner
        self.steps = steps(learner, self.dataset, config, self.progress, where, self.limit)

    # How it learns

    def turn(self, view: View) -> bool:
        """Learn for a moment and draw what is due; whether there was anything to do."""
        if self.error:
            return False
        busy = False

        def work() -> None:
            nonlocal busy
            busy = self._learn(view)
            busy = self._draw(view) or busy

        self.safely(work)
        return busy and not self.error

    def safely(self, work: Callable[[], None]) -> None:
        """Do something whose failure is this family's `error`: one must not stop the others."""
        try:
            work()
        except Exception as error:  # of whatever kind, it is of this family alone
            self.error = in_words(error) or bug(error)

    @property
    def limit(self) -> Budget | None:
        return Budget(BUDGET, "steps") if issubclass(self.cls, Distils) else None

    def _learn(self, view: View) -> bool:
        begun = time.monotonic()
        if self.limit and self.limit.spent(self.progress) >= 1:
            self.owed, self.facts = 0, {**self.facts, "rate": 0.0}
            return False
        if view.playing and view.speed:
            self.owed = min(int((begun - self.noted_at) * view.speed), 5) if self.noted_at else 1
            if self.owed:
                self.noted_at = begun
        count = 0
        while (self.owed > 0) if view.speed or not view.playing else time.monotonic() - begun < SLICE:
            logs = next(self.steps)
            count += 1
            self.owed = max(0, self.owed - 1)
            for name, value in logs.items():
                if not HIDDEN.fullmatch(name):
                    self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.summed += 1
        spent = time.monotonic() - begun if count else 0.0
        self.spent += spent
        self.dots.since += spent
        self.map.since += spent
        return count > 0

    # What is seen of it

    def _draw(self, view: View) -> bool:
        step, drawn = self.progress.step, False
        key = step, self.generation, view.of_dots
        if self.dots.due(key, view.playing, 0.1, 1.5):
            begun = time.monotonic()
            self._draw_dots(view)
            self._tell()
            self.dots.done(key, time.monotonic() - begun)
            drawn = True
        if not view.heat:
            self.sweep = None
        elif self.sweep is None and not self.map.due((step, view.averaged), view.playing, 0.4, 0.0):
            pass
        elif not view.playing or self.map.since >= self.part:  # a part of it at a time
            begun = time.monotonic()
            self._draw_map(view)
            self.part, self.map.since = time.monotonic() - begun, 0.0
            drawn = True
        return drawn

    def _shown(self, view: View) -> Family:
        return self.learner.ema if view.averaged and self.learner.ema is not None else self.learner.model

    @torch.no_grad()
    def _draw_dots(self, view: View) -> None:
        model = self._shown(view)
        noise = BatchNoise((self.seed, "lab"), DOTS, 0, DOTS, torch.device("cpu"))
        lines: Tensor | None = None
        with model.frozen():
            if isinstance(model, Denoises):
                trail: list[tuple[float, Tensor]] = []
                x = model.decode(
                    model.latent(noise), noise, None, self.options,
                    watch=lambda t, x_t, estimate: trail.append((float(t), model.spec.from_unit(x_t))),
                )  # fmt: skip
                if view.lines:
                    lines = self._paths(trail, x) if view.time == 0 else self._arrows(model, view.time)
                ways = [*trail, (0.0, x)]
                x = min(ways, key=lambda each: abs(each[0] - view.time * model.schedule.T))[1]
            else:
                x = model.sample(noise, None, self.options)
                if view.lines and isinstance(model, Decodes) and model.latent <= 2:
                    lines = self._bent(model)
        stamp = next(self.clock)
        self.parts["dots"] = stamp, _single(self.plane.place(x))
        shape = (0, 2, 2) if lines is None else tuple(lines.shape)
        flat = torch.zeros(0, 2) if lines is None else lines.reshape(-1, 2)
        self.parts["lines"] = stamp, _single(self.plane.place(flat)).reshape(shape)
        if time.monotonic() - self.judged_at > 0.5 and not (isinstance(model, Denoises) and view.time > 0):
            self._judge(x)

    def _paths(self, trail: Sequence[tuple[float, Tensor]], x: Tensor) -> Tensor:
        return torch.stack([*(x_t[:PATHS] for _, x_t in trail), x[:PATHS]], 1)

    def _arrows(self, model: Denoises, share: float) -> Tensor:
        """A step of the sampler from every foot: where a dot that is there at this time goes next."""
        T = model.schedule.T
        t = max(1, round(share * T))
        s = max(0, t - max(1, T // 12))
        y = model.spec.to_unit(self.feet)
        x_0, eps, _ = model.denoiser(None)(y, t)
        alpha, sigma = model.schedule(s)
        step = model.spec.from_unit(alpha * x_0 + sigma * eps) - self.feet
        cells = (step / (torch.tensor(self.plane.side) / ARROWS)).norm(dim=1, keepdim=True)  # of how many cells it is
        step = step * 0.9 / torch.maximum(cells, cells.quantile(0.8).clamp(min=1e-6))
        return torch.stack([self.feet, self.feet + step.float()], 1)

    def _bent(self, model: Decodes) -> Tensor:
        """Lines of the latent plane, at equal shares of its law, as they lie in the data: [L, P, 2]."""
        count, points = 13, 61
        at = torch.special.ndtri(torch.linspace(0.01, 0.99, points))[:, None].expand(points, model.latent)
        across = torch.special.ndtri(torch.linspace(0.01, 0.99, count))[:, None].expand(count, model.latent)
        if not model.prior and isinstance(model, Encodes):  # as far as codes of data reach
            codes = model.encode(self.real).mean
            low, high = codes.amin(0), codes.amax(0)
            at, across = (low + torch.linspace(0, 1, n)[:, None] * (high - low) for n in (points, count))
        if model.latent == 1:
            return model.decode(at).unsqueeze(0)
        fixed, along = across[:, None].expand(count, points, 2), at[None].expand(count, points, 2)
        one = torch.stack([along[..., 0], fixed[..., 1]], 2)
        other = torch.stack([fixed[..., 0], along[..., 1]], 2)
        return model.decode(torch.cat([one, other]).view(-1, 2)).view(2 * count, points, 2)

    def _judge(self, x: Tensor) -> None:
        """Modes found and the share of good samples where the law is known; else nearness and coverage."""
        self.judged_at = time.monotonic()
        x = x[torch.isfinite(x).all(1)]
        if len(x) < 10:
            self.facts.pop("score", None)
            return
        if self.law is not None:
            seen = spots(x, torch.from_numpy(self.law.means), self.law.sigma)
            found = {"modes": seen.found, "of": seen.total, "good": seen.quality.value, "perfect": seen.perfect}
        else:
            near = manifold_scores(self.real, x[: len(self.real)])
            found = {"near": near.precision.value, "covered": near.coverage.value}
        self.facts = {**self.facts, "score": found}

    def _tell(self) -> None:
        """Counters, and one more point of the curves."""
        now, step = time.monotonic(), self.progress.step
        self.pace = [each for each in self.pace if now - each[0] < 2.5] or self.pace[-1:]
        (before, then) = self.pace[0]
        rate = (step - then) / (now - before) if now > before else 0.0
        self.pace.append((now, step))
        if self.summed:
            terms = {objective.name for objective in self.learner.objectives}
            self.names = self.names or sorted(self.sums, key=lambda name: name not in terms)[:2]
            self.curve.append([float(step), *(self.sums.get(name, math.nan) / self.summed for name in self.names)])
            self.sums, self.summed = {}, 0
            if len(self.curve) > 2 * LOSSES:
                self.curve = self.curve[::2]
            self.parts["loss"] = next(self.clock), np.array(self.curve, np.float32)
        facts = {"step": step, "rate": rate, "seconds": self.spent, "losses": self.names}
        self.facts = {**self.facts, **facts}

    def _draw_map(self, view: View) -> None:
        """Go on with the map for a moment; it is of the weights as they were when it was begun."""
        begun = time.monotonic()
        if self.sweep is None:
            self.swept = None
            self.map_key = self.progress.step, view.averaged
            model = copy.deepcopy(self._shown(view)).eval().requires_grad_(False)
            self.sweep = self._sweep(model)
        for _ in self.sweep:
            if time.monotonic() - begun > SLICE:
                return
        self.sweep = None
        self.map.done(self.map_key, 0.0)
        if self.swept is None:
            return
        values, kind, words = self.swept
        if values.size:
            self.parts["heat"] = next(self.clock), values
        self.facts = {**self.facts, "kind": kind, "words": words}

    def _sweep(self, model: Family) -> Iterator[None]:
        """The map in parts: first the density, where there is one; of a game what its discriminator believes."""
        if isinstance(model, Plays):
            with torch.no_grad():
                logits = model.judge(self.cells).double()
            sure = model.probabilities(model.config)
            low, high = logits.min(), logits.max()
            shares = logits.sigmoid() if sure else (logits - low) / (high - low).clamp(min=1e-9)
            words = "no density; grey: where its discriminator sees real points"
            self.swept = self._field(shares), "discriminator", words
            return
        if isinstance(model, Denoises):
            nats = torch.zeros(len(self.cells), dtype=torch.float64)
            for nats in flow_density(model, self.cells):  # noqa: B007
                yield
            kind, words = "estimate", f"density, estimated: the equation of its flow in {STEPS} steps"
        else:
            parts: list[Tensor] = []
            for start in range(0, len(self.cells), 200):
                rows = self.cells[start : start + 200]
                noise = BatchNoise((self.seed, "map", len(parts)), len(rows), 0, len(rows), torch.device("cpu"))
                answer = model.log_likelihood(rows, None, noise, DRAWS)
                if answer.nats is None:
                    self.swept = np.zeros((0, 0), np.float32), "none", f"no density: {answer.reason.split(',')[0]}"
                    return
                parts.append(answer.nats.double())
                kind = answer.kind
                how = {"exact": "exact", "bound": "a bound from below"}.get(kind, "estimated")
                words = f"density, {how}: {answer.reason}"
                yield
            nats = torch.cat(parts)
        finite = nats[torch.isfinite(nats)]
        top = finite.quantile(0.995) if len(finite) else torch.zeros(())
        # The root of p, so that wide modes show beside narrow ones.
        self.swept = self._field(((nats - top) / 2).exp().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)), kind, words

    def _field(self, shares: Tensor) -> Floats:
        return _single(shares.view(SIDE, SIDE))


def flow_density(model: Family, x: Tensor) -> Iterator[Tensor]:
    """log p of vectors [N, D] by the flow's equation, in `STEPS` steps of Heun's method: the last of what is yielded.

    As `Denoises.flow_log_likelihood`, which chooses its steps to a tolerance: good enough for a picture, and the same
    work each time.
    """
    assert isinstance(model, Denoises)
    schedule = model.schedule
    field_of = with_exact_divergence(flow_velocity(lambda rows: model.denoiser(None), schedule, clip=False))
    last = int((schedule.sigma <= NOISE * schedule.signal).sum()) - 1
    shares = torch.linspace(0, 1, STEPS + 1) ** POWER  # closer together near the data, where the flow turns quickest
    angles = schedule.angle[(1 + (last - 1) * shares).round().long()].tolist()
    rows = torch.arange(len(x))
    y = math.cos(angles[0]) * model.spec.to_unit(x)
    nats = torch.full((len(x),), x.shape[1] * math.log(math.cos(angles[0])), dtype=torch.float64)
    for start, stop in pairwise(angles):
        here, there = (torch.full((len(x),), angle, dtype=torch.float64) for angle in (start, stop))
        v, divergence = field_of(y, here, rows)
        yield nats
        w, after = field_of(y + (stop - start) * v, there, rows)
        y = y + (stop - start) / 2 * (v + w)
        nats = nats + (stop - start) / 2 * (divergence + after)
        yield nats
    normal = -0.5 * (y.double().square() + math.log(2 * math.pi)).sum(1)
    yield nats + normal - model.spec.log_volume


def _single(values: Tensor) -> Floats:
    found: Floats = values.detach().cpu().float().numpy()
    return found


def _fields(cls: type) -> set[str]:
    return {each.name for each in dataclasses.fields(cls)}


def described(pupil: Pupil) -> Mapping[str, Any]:
    """A family's switches and what to look for, for the page."""
    return {
        "name": pupil.family,
        "lesson": lesson(pupil.cls),
        "timed": issubclass(pupil.cls, Denoises),
        "switches": [
            {
                "name": switch.name,
                "label": switch.label,
                "choices": list(switch.choices),
                "value": pupil.chosen.get(switch.name, value),
                "look": switch.look,
                "fresh": switch.fresh,
            }
            for switch, value in pupil.usual.values()
        ],
    }
