"""The gradient norm of a generator under each loss, while the discriminator still sees through it.

Goodfellow et al. 2014, section 3: early on D rejects samples with confidence, and then log(1 - D(G(z))) saturates.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from trilemma import drawing
from trilemma.blocks import Progress
from trilemma.drawing import Picture
from trilemma.families import FAMILIES
from trilemma.families.family import Family, Plays
from trilemma.metrics.estimate import mean_of
from trilemma.noise import BatchNoise
from trilemma.number import Number
from trilemma.questions.answer import Answer
from trilemma.questions.question import Context, Question
from trilemma.run import Run
from trilemma.validate import MOST, Limits

COLOURS: dict[str, drawing.Colour] = {"nonsaturating": drawing.BLUE, "minimax": drawing.ORANGE}


@dataclass(frozen=True)
class GradientNorms(Question):
    """The gradient norm of the generator under the non-saturating and under the minimax loss."""

    n: Annotated[int, Limits(2, MOST)] = 8
    """Batches of 64 samples."""

    name: ClassVar[str] = "gradients"
    title: ClassVar[str] = "Gradient norm of the generator under each loss"
    sentence: ClassVar[str] = "Why non-saturating: how large is the gradient of the generator under each loss?"
    paper: ClassVar[str] = "Goodfellow et al. 2014, Generative adversarial nets, section 3, arXiv:1406.2661"
    capabilities: ClassVar[tuple[type, ...]] = (Plays,)
    vectors_too: ClassVar[bool] = True

    @classmethod
    def unable(cls, run: Run) -> str | None:
        family = FAMILIES[run.config.family]
        assert issubclass(family, Plays)
        return None if family.probabilities(run.config.model) else CRITIC

    def answer(self, context: Context) -> Answer:
        found = gradients(context.model, self.n, seed=context.seed, progress=context.progress)
        norms = {name: {"norm": norm, "error": error} for name, (norm, error) in found.norms.items()}
        return Answer(
            self,
            context.run,
            numbers={
                f"gradient_norm_{name}": Number(norm, error, n=found.batches * found.batch)
                for name, (norm, error) in found.norms.items()
            },
            reading=[found.verdict],
            values={
                "D(G(z))": found.d,
                "gradient_norms": norms,
                "ratio": found.ratio,
                "batches": found.batches,
                "batch": found.batch,
            },
            found=found,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        return {"gradients": draw_gradients(answer.found, answer.title("why non-saturating"))}


CRITIC = "it compares losses of a probability D, and with this loss D is a critic"
"""Why some runs cannot be asked."""


@dataclass(frozen=True)
class Gradients:
    """The gradient of a generator under each loss.

    Attributes:
        d: mean D(G(z)).
        norms: for each loss the norm of its gradient with respect to all of G's parameters, a mean over batches, and
            its standard error.
        batches: how many, and ``batch`` samples in each.
    """

    d: float
    norms: dict[str, tuple[float, float]]
    batches: int
    batch: int

    @property
    def ratio(self) -> float:
        """How many times as large the gradient of the non-saturating loss is."""
        return self.norms["nonsaturating"][0] / max(self.norms["minimax"][0], 1e-300)

    @property
    def verdict(self) -> str:
        """The same in words."""
        both = " and ".join(f"{norm:.3g} ± {error:.1g} ({name})" for name, (norm, error) in self.norms.items())
        return (
            f"mean D(G(z)) is {self.d:.3f}; the gradient of G has the norm {both}: "
            f"that of the non-saturating loss is {self.ratio:.3g} times as large"
        )


def loss_of(d: float, loss: str) -> float:
    """What G minimises where D(G(z)) is ``d``: -log d, or log(1 - d) for minimax; in nats."""
    return -math.log(d) if loss == "nonsaturating" else math.log1p(-d)


def slope_of(d: float, loss: str) -> float:
    """Its derivative with respect to the logit of D: d - 1, or -d for minimax."""
    return d - 1 if loss == "nonsaturating" else -d


def gradients(
    model: Family, batches: int = 8, batch: int = 64, *, seed: int = 0, progress: Progress | None = None
) -> Gradients:
    """Measure `Gradients` at the given G and D, with batch norm as in training; the model is not changed.

    A run gives its averaged weights (unless it was trained with ``ema`` 0): of both players, who as such never met.

    Args:
        model: of a family that `Plays`.
        batches: at least two, for an error, of ``batch`` samples.

    Raises:
        ValueError: D gives no probabilities, or too few batches, in one line.
    """
    assert isinstance(model, Plays)
    if not model.probabilities(model.config):
        raise ValueError(f"no gradients to compare: {CRITIC}")
    if batches < 2:
        raise ValueError(f"the gradient norm needs at least 2 batches for an error, not {batches}")
    # A copy in training mode: batch norm by the statistics of the batch, whose running ones are not ours to move.
    model = copy.deepcopy(model).train().requires_grad_(False)
    weights = list(model.player.requires_grad_(True).parameters())
    labels = model.spec.unlabelled(batch, model.device) if model.spec.conditional else None
    ds: list[float] = []
    found: dict[str, list[float]] = {}
    for step in range(batches):
        logits = model.judge_samples(BatchNoise((seed, "pull", step), batch, 0, batch, model.device), labels)
        ds.append(logits.detach().sigmoid().mean().item())
        for name, loss in model.generator_losses(logits).items():
            slopes = torch.autograd.grad(loss, weights, retain_graph=True)
            norm = torch.stack([slope.double().square().sum() for slope in slopes]).sum().sqrt().item()
            found.setdefault(name, []).append(norm)
        if progress:
            progress(step + 1, batches)
    norms = {}
    for name, values in found.items():
        mean = mean_of(torch.tensor(values, dtype=torch.float64))
        norms[name] = mean.known, mean.error or 0.0
    return Gradients(sum(ds) / batches, norms, batches, batch)


def draw_gradients(found: Gradients, title: str) -> Picture:
    """Both losses and their slopes against D(G(z)), and where this generator stands."""
    places = [0.001 + 0.998 * i / 400 for i in range(401)]
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    plots = []
    for name, curve, (low, high) in (
        ("what G minimises, in nats", loss_of, (-4.0, 4.0)),
        ("|slope| with respect to the logit", lambda d, loss: abs(slope_of(d, loss)), (0.0, 1.0)),
    ):
        plot = drawing.Plot((430, 320), (0, 1), (low, high), ("D(G(z))", name), (ticks, drawing.steps(low, high, 4)))
        plot.line([(found.d, low), (found.d, high)], drawing.FAINT, 3)
        for loss, colour in COLOURS.items():
            inside = [(d, curve(d, loss)) for d in places]
            plot.line([(d, value) for d, value in inside if low <= value <= high], colour)
        plots.append(plot.finished())
    entries = [(drawing.swatch(colour), name) for name, colour in COLOURS.items()]
    entries.append((drawing.swatch(drawing.FAINT), "this generator"))
    measured = [
        f"gradient norm of G with the {name} loss: {norm:.3g} +- {error:.1g}"
        for name, (norm, error) in found.norms.items()
    ]
    measured.append(f"mean of {found.batches} batches of {found.batch} samples, one standard error")
    parts = [drawing.words([title], 16), drawing.beside(plots), drawing.key(entries), drawing.words(measured, 12)]
    return drawing.framed(drawing.below(parts))
