"""Why generators are trained with the non-saturating loss: how hard each loss pulls while D still sees through G.

Goodfellow et al. 2014, section 3: early on D rejects samples with confidence, and then log(1 - D(G(z))) saturates.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from trilemma import drawing
from trilemma.families.family import Family
from trilemma.families.gan import GAN, generator_loss
from trilemma.families.gan.losses import PROBABILITIES, LossName
from trilemma.noise import BatchNoise

COLOURS: dict[LossName, drawing.Colour] = {"nonsaturating": drawing.BLUE, "minimax": drawing.ORANGE}


@dataclass(frozen=True)
class Pull:
    """How hard each loss pulls at a generator.

    Attributes:
        d: mean D(G(z)).
        norms: for each loss the norm of its gradient with respect to all of G's parameters, a mean over batches, and
            its standard error.
        batches: how many, and ``batch`` samples in each.
    """

    d: float
    norms: dict[LossName, tuple[float, float]]
    batches: int
    batch: int

    @property
    def ratio(self) -> float:
        """How many times as hard the non-saturating loss pulls."""
        return self.norms["nonsaturating"][0] / max(self.norms["minimax"][0], 1e-300)

    @property
    def verdict(self) -> str:
        """The same in words."""
        both = " and ".join(f"{norm:.3g} ± {error:.1g} ({name})" for name, (norm, error) in self.norms.items())
        return (
            f"mean D(G(z)) is {self.d:.3f}; the gradient of G has the norm {both}: "
            f"the non-saturating loss pulls {self.ratio:.3g} times as hard"
        )


def loss_of(d: float, loss: LossName) -> float:
    """What G minimises where D(G(z)) is ``d``: -log d, or log(1 - d) for minimax; in nats."""
    return -math.log(d) if loss == "nonsaturating" else math.log1p(-d)


def slope_of(d: float, loss: LossName) -> float:
    """Its derivative with respect to the logit of D: d - 1, or -d for minimax."""
    return d - 1 if loss == "nonsaturating" else -d


def pull(model: Family, batches: int = 8, batch: int = 64, seed: int = 0) -> Pull:
    """Measure `Pull` at the given G and D, with batch norm as in training; the model is not changed.

    A run gives its averaged weights (unless it was trained with ``ema`` 0): of both players, who as such never met.

    Raises:
        ValueError: no GAN, one whose D gives no probabilities, or too few batches for an error.
    """
    if not isinstance(model, GAN):
        raise ValueError(f"--gradients is for a gan, which has two players; {model.name} has one loss")
    if model.config.loss not in PROBABILITIES:
        raise ValueError(f"--gradients compares losses of a probability D, and with {model.config.loss} D is a critic")
    if batches < 2:
        raise ValueError(f"--gradients needs at least 2 batches for an error, not {batches}")
    # A copy in training mode: batch norm by the statistics of the batch, whose running ones are not ours to move.
    model = copy.deepcopy(model).train().requires_grad_(False)
    model.generator.requires_grad_(True)
    weights = list(model.generator.parameters())
    labels = torch.full((batch,), model.spec.classes, device=model.device) if model.spec.classes else None
    ds: list[float] = []
    found: dict[LossName, list[float]] = {name: [] for name in PROBABILITIES}
    for step in range(batches):
        answers = model.judge_samples(BatchNoise((seed, "pull", step), batch, 0, batch, model.device), labels)
        ds.append(answers.detach().sigmoid().mean().item())
        for name in PROBABILITIES:
            gradients = torch.autograd.grad(generator_loss(answers, name), weights, retain_graph=True)
            found[name].append(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt().item())
    norms: dict[LossName, tuple[float, float]] = {}
    for name, values in found.items():
        each = torch.tensor(values, dtype=torch.float64)
        norms[name] = each.mean().item(), each.std().item() / math.sqrt(batches)
    return Pull(sum(ds) / batches, norms, batches, batch)


def draw_pull(answer: Pull, path: str | os.PathLike[str], title: str) -> Path:
    """Both losses and their slopes against D(G(z)), and where this generator stands."""
    places = [0.001 + 0.998 * i / 400 for i in range(401)]
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    plots: list[Image.Image] = []
    for name, curve, (low, high) in (
        ("what G minimises, in nats", loss_of, (-4.0, 4.0)),
        ("how hard it pulls: |slope| with respect to the logit", lambda d, loss: abs(slope_of(d, loss)), (0.0, 1.0)),
    ):
        plot = drawing.Plot((430, 320), (0, 1), (low, high), ("D(G(z))", name), (ticks, drawing.steps(low, high, 4)))
        plot.line([(answer.d, low), (answer.d, high)], drawing.FAINT, 3)
        for loss, colour in COLOURS.items():
            inside = [(d, curve(d, loss)) for d in places]
            plot.line([(d, value) for d, value in inside if low <= value <= high], colour)
        plots.append(plot.finished())
    entries: list[tuple[Image.Image, str]] = [(drawing.swatch(colour), name) for name, colour in COLOURS.items()]
    entries.append((drawing.swatch(drawing.FAINT), "this generator"))
    measured = [
        f"gradient norm of G with the {name} loss: {norm:.3g} +- {error:.1g}"
        for name, (norm, error) in answer.norms.items()
    ]
    measured.append(f"mean of {answer.batches} batches of {answer.batch} samples, one standard error")
    parts = [drawing.words([title], 16), drawing.beside(plots), drawing.key(entries), drawing.words(measured, 12)]
    return drawing.save(drawing.framed(drawing.below(parts)), path)
