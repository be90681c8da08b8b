"""The contract that every family of generative model keeps.

A family is built from its config and a `Spec`; it says what it optimises (`objectives`), how it draws (`sample`) and
what it knows of p(x) (`log_likelihood`). Training, sampling, evaluation, the report and the tests use nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from trilemma.images import Spec
from trilemma.noise import Noise

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` inside long samplers."""


class Density(Enum):
    """What a family defines of p(x) (the taxonomy of Goodfellow's NIPS 2016 tutorial, figure 9)."""

    TRACTABLE = "explicit, tractable"
    APPROXIMATE = "explicit, approximate"
    IMPLICIT = "implicit"
    NONE = "none"


@dataclass(frozen=True)
class Loss:
    """What one objective returns: the sum of ``terms`` is minimised, ``logs`` are only reported.

    Every value is a scalar tensor: a mean over the batch (of sums over pixels or latents, where it is in nats).
    """

    terms: dict[str, Tensor]
    logs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


@dataclass(frozen=True)
class Objective:
    """One thing to minimise, over some of the parameters, ``repeats`` times a step (a GAN's k for its discriminator).

    ``loss(x, labels, noise)`` takes ``x`` uint8 [B, C, H, W], ``labels`` int64 [B] with ``spec.classes`` meaning "no
    label", or captions int64 [B, spec.length] (see `Spec`; None in an unconditional model), and the noise of the
    batch. While it runs, only ``parameters`` require gradients.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Tensor, Tensor | None, Noise], Loss]
    repeats: int = 1

    def freeze_others(self, model: nn.Module) -> None:
        """Let exactly these parameters require gradients: nothing else of the model is differentiated or moved."""
        mine = {id(parameter) for parameter in self.parameters}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in mine)


@dataclass(frozen=True)
class Likelihood:
    """An answer to "what is log p(x)?", in nats per image over the discrete image (of vectors: of a density).

    ``kind`` says what ``nats`` is: ``exact``, a lower ``bound``, an ``estimate``, or ``undefined`` (then it is None).
    ``reason`` says in one clause how the number came about or why there is none.
    """

    kind: Literal["exact", "bound", "estimate", "undefined"]
    nats: Tensor | None
    reason: str


QUESTIONS = ("sample", "p(x)", "p(z|x)", "complete", "interpolate", "classify")


class Family(nn.Module, ABC):
    """A family of generative model: an abstract base of final classes; compose, do not subclass twice.

    Class attributes:
        name: the registry name, as typed on the command line.
        title: how the report writes it.
        paper: authors, year and title of the defining paper, and where to find it.
        density: what the family defines of p(x).
        answers: for each of `QUESTIONS`, a short phrase on what the family can answer in principle; the first word
            is ``yes``, ``bound``, ``approximate`` or ``no``.
        gives_up: which corner of the trilemma the family is known to pay with, in a few words.
        reads_text: whether its condition may be a caption.
        vectors: whether it also learns ``float32 [N, D]`` vectors.
        Config: its frozen dataclass of hyperparameters; every field has a default and a comment-docstring.
        Options: its frozen dataclass of sampling options (may be empty).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    density: ClassVar[Density]
    answers: ClassVar[Mapping[str, str]]
    gives_up: ClassVar[str]
    reads_text: ClassVar[bool] = False
    vectors: ClassVar[bool] = True
    Config: ClassVar[type]
    Options: ClassVar[type]

    calibration: int = 0
    """Training images that `calibrate` should be given before log p(x) is asked for; 0 where it does nothing."""

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @abstractmethod
    def objectives(self) -> Sequence[Objective]:
        """What training minimises, in the order of one step."""

    @abstractmethod
    def sample(
        self,
        noise: Noise,
        labels: Tensor | None = None,
        options: Any | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Draw ``noise.count`` images.

        Args:
            noise: the only source of randomness.
            labels: int64 [N], values ``0 … spec.classes`` (the last meaning "no label"), or captions int64
                [N, spec.length]; None where unconditional.
            options: an instance of ``Options``; None for its defaults.
            progress: told of the progress of a long sampler.

        Returns:
            uint8 [N, C, H, W] with ``spec.levels`` levels, or float32 [N, D] vectors.
        """

    @abstractmethod
    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        """log p(x), or log p(x|y) given labels, of uint8 [N, C, H, W] images, as honestly as the family can.

        Of float32 [N, D] vectors it is a density, in nats for their own units.

        ``samples`` buys precision where the answer is a Monte-Carlo one (importance samples of a VAE, noise levels of
        a diffusion model); exact families ignore it.
        """

    def calibrate(self, x: Tensor, labels: Tensor | None, noise: Noise) -> None:
        """Choose by training images what the weights leave open of log p(x); by default nothing is.

        Every later answer of this object is of what was chosen, and says so.
        """

    def class_evidence(self, x: Tensor, labels: Tensor, noise: Noise, samples: int | None = None) -> Likelihood:
        """log p(x|y) up to what is the same for every class: what Bayes' rule compares. By default `log_likelihood`."""
        return self.log_likelihood(x, labels, noise, samples)

    def check_conditions(self, options: Any | None, conditions: Tensor | None) -> None:
        """Refuse, by a one-line ``ValueError``, sampling options that make no sense under these conditions.

        Args:
            conditions: labels int64 [N] or captions int64 [N, length] of all images; None for none.
        """

    def check(self) -> None:
        """Refuse, by a one-line ``ValueError``, a model that breaks a promise of its family; called before training."""

    def alarms(self, logs: Mapping[str, float]) -> list[str]:
        """Plain-words warnings that the smoothed training logs call for; none by default.

        ``logs`` has the number of the training step too, as ``step``, which goes on in a resumed run.
        """
        return []


# What some families can do


@dataclass(frozen=True)
class Completion:
    """Images of which a part was given.

    Attributes:
        images: uint8 [N, C, H, W].
        log_weights: float64 [N], how well what was drawn fits what was given and could not be looked at while drawing;
            all 0 where there is nothing of the kind.
    """

    images: Tensor
    log_weights: Tensor


@dataclass(frozen=True)
class Way:
    """How a family draws the rest of an image of which a part is known.

    Attributes:
        exact: whether each completion is an independent draw from its p(unknown | known).
        weighted: whether completions carry weights, so that several drawn side by side are worth more than one.
        text: the same in words.
    """

    exact: bool
    weighted: bool
    text: str


class Completing(ABC):
    """What a `Family` that can keep a part of an image and draw the rest has besides.

    Class attributes:
        CompletionOptions: a frozen dataclass, ``Options`` with what only completion reads.
    """

    CompletionOptions: ClassVar[type]

    @abstractmethod
    def way(self, known: Tensor, options: Any | None = None) -> Way:
        """How it would complete images of which the values ``known``, bool [C, H, W], are kept."""

    @abstractmethod
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        noise: Noise,
        labels: Tensor | None = None,
        options: Any | None = None,
        progress: Progress | None = None,
        particles: int = 1,
    ) -> Completion:
        """Keep the ``known`` values of the images x, uint8 [N, C, H, W], and draw the others.

        ``particles`` consecutive images are one set, where the way is weighted. What is kept is kept to the bit.
        """
