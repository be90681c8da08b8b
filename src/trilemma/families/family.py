"""The contract that every family of generative model keeps.

A family is built from its config and a `Spec`; it says what it optimises (`objectives`), how it draws (`sample`) and
what it knows of p(x) (`log_likelihood`). Training, sampling, evaluation, the report and the tests use nothing else.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from trilemma.blocks import Progress as Progress
from trilemma.images import Spec
from trilemma.noise import Noise

if TYPE_CHECKING:
    from trilemma.families.diffusion.bound import Chain
    from trilemma.families.diffusion.denoiser import Denoiser, Watch
    from trilemma.families.diffusion.schedule import Schedule


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
        known_as: what others call it, with the flags of ``train`` that make it that.
        reads_text: whether its condition may be a caption.
        vectors: whether it also learns ``float32 [N, D]`` vectors.
        steady: whether the loss of its one objective says the same all along the budget, so that it can be followed.
        Config: its frozen dataclass of hyperparameters; every field has a default and a comment-docstring.
        Options: its frozen dataclass of sampling options (may be empty).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    density: ClassVar[Density]
    answers: ClassVar[Mapping[str, str]]
    gives_up: ClassVar[str]
    known_as: ClassVar[Mapping[str, str]] = {}
    reads_text: ClassVar[bool] = False
    vectors: ClassVar[bool] = True
    steady: ClassVar[bool] = True
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

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Batch norm by its running statistics, and no gradient for any weight, inside; as it was, after."""
        training, wanted = self.training, [parameter.requires_grad for parameter in self.parameters()]
        self.eval().requires_grad_(False)
        try:
            yield
        finally:
            self.train(training)
            for parameter, flag in zip(self.parameters(), wanted, strict=True):
                parameter.requires_grad_(flag)

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

    def begin(self, spent: float) -> float:
        """Told before every step of training which share of the budget is used up; 0 where there is no budget.

        Returns:
            what the learning rate is multiplied by; 1 by default.
        """
        return 1.0

    @classmethod
    def suited(cls, spec: Spec, images: int) -> Mapping[str, Any]:
        """Fields of the config that suit a training set of so many images, where nothing else is asked for."""
        return {}

    @classmethod
    def least_batch(cls, config: Any) -> int:
        """The fewest images that a process must see in a step of training."""
        return 1

    def check(self) -> None:
        """Refuse, by a one-line ``ValueError``, a model that breaks a promise of its family; called before training."""

    def alarms(self, logs: Mapping[str, float]) -> list[str]:
        """Plain-words warnings that the smoothed training logs call for; none by default.

        ``logs`` has the number of the training step too, as ``step``, which goes on in a resumed run.
        """
        return []


# Capabilities: what some families can do besides. A question says which it needs; nobody asks for a family by name.
# Each docstring begins with the words that follow "it needs".


@dataclass(frozen=True)
class Code:
    """What an encoder makes of images: q(z|x) = N(mean, std²), or a point.

    Attributes:
        mean: float [N, latent].
        std: float [N, latent]; None where the code is a point.
    """

    mean: Tensor
    std: Tensor | None = None


ACTIVE = 0.01
"""A latent is active when the variance over images of its mean E_q[z] exceeds this (Burda et al. 2015, section 5)."""


def latent_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) of each latent in nats: [N, latent] (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


class Encodes(ABC):
    """an encoder: images → codes."""

    @property
    @abstractmethod
    def distortion_unit(self) -> str:
        """What `distortion` is measured in: ``nats`` of -log p(x|z), or another error."""

    @abstractmethod
    def encode(self, x: Tensor, labels: Tensor | None = None) -> Code:
        """The codes of uint8 [N, C, H, W] images."""

    @abstractmethod
    def distortion(self, x: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """What is lost of images by codes [N, latent]: float [N]."""


class Decodes(ABC):
    """a latent space: codes → images. The family's ``Config`` has its dimensions as ``latent``."""

    prior: ClassVar[bool] = True
    """Whether the model draws z ~ N(0, I); else codes have no law."""

    @property
    @abstractmethod
    def latent(self) -> int:
        """Dimensions of a code."""

    @abstractmethod
    def render(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """What codes [N, latent] stand for, before rounding: float [N, C, H, W] on [-1, 1], differentiable."""

    @abstractmethod
    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images of codes [N, latent]: uint8 [N, C, H, W]."""


class Observes(Decodes):
    """a density p(x|z) of images given codes z ~ N(0, I): what annealed importance sampling needs.

    Where a family defines none by itself, it is a Gaussian around `render` with a stated ``sigma``.
    """

    defined: ClassVar[bool]
    """Whether the family defines p(x|z) itself, so that ``sigma`` is not read and x are images as they are."""

    @classmethod
    def lacks_density(cls, config: Any) -> str | None:
        """Why a model of this config has no p(x|z) after all; None where it has one."""
        return None

    @abstractmethod
    def observed(self, x: Tensor, noise: Noise) -> Tensor:
        """Images [N, C, H, W] as p(x|z) speaks of them: themselves, or dequantised values on [0, 1]."""

    @abstractmethod
    def log_observation(self, x: Tensor, z: Tensor, labels: Tensor | None, sigma: float) -> Tensor:
        """log p(x|z) in nats of what `observed` gave: float [N]."""

    @abstractmethod
    def draw_observation(self, z: Tensor, labels: Tensor | None, noise: Noise, sigma: float) -> Tensor:
        """x ~ p(x|z), in the form of `observed`."""


class FitsCodes(Decodes):
    """a decoder without a prior, for whose codes laws are fitted: codes → draws of more."""

    prior: ClassVar[bool] = False

    @abstractmethod
    def draw_codes(self, law: str, codes: Tensor, noise: Noise) -> Tensor:
        """Codes [N, latent] drawn by a law fitted to the codes [M, latent] of training images.

        ``prior`` is N(0, I), whatever the codes; ``marginal`` has the mean and the spread of each dimension,
        ``gaussian`` their correlations too, ``mixture`` is one of Gaussians, and ``real`` draws among the codes.
        """


class Orders(ABC):
    """p(x) as a product over the values of an image in an order: p(x) = ∏ p(x_i | x_1 … x_{i-1}).

    The order is raster order over pixels and, inside a pixel, over `groups` of its channels.
    """

    spec: Spec

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    @abstractmethod
    def groups(self) -> int:
        """Groups of channels that are drawn one after the other in a pixel."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Parameters that describe the values of a group."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """What the net sees of uint8 [N, C, H, W] images: float [N, F, H, W], the features of a group side by side."""

    @abstractmethod
    def conditionals(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """The parameters of every p(x_i | x_<i): [N, H, W, groups, outputs], differentiable in ``features``."""

    @abstractmethod
    def nats(self, x: Tensor, labels: Tensor | None, features: Tensor | None = None) -> Tensor:
        """-log p(x_i | x_<i, y) of every value of uint8 [N, C, H, W] images: float [N, C, H, W].

        ``features`` are those of x, by which it can then be differentiated.
        """


class Plays(ABC):
    """a discriminator that plays against the generator: a game of two losses."""

    @abstractmethod
    def judge_samples(self, noise: Noise, labels: Tensor | None) -> Tensor:
        """The discriminator's logits for images drawn from ``noise``, differentiable in the generator's weights."""

    @abstractmethod
    def judge(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The discriminator's logits [N] for images, each judged by itself; of packs, for a pack of its like."""

    @property
    @abstractmethod
    def player(self) -> nn.Module:
        """The generator."""

    @classmethod
    @abstractmethod
    def probabilities(cls, config: Any) -> bool:
        """Whether the discriminator of a model of this config gives probabilities, and not the values of a critic."""

    @abstractmethod
    def generator_losses(self, logits: Tensor) -> Mapping[str, Tensor]:
        """What the generator may minimise where the discriminator gives probabilities, by name: scalars of its logits.

        ``nonsaturating`` is the mean of -log D(G(z)), ``minimax`` that of log(1 - D(G(z))).
        """


class Denoises(ABC):
    """a denoiser: (x_t, t) → estimate of x_0.

    Attributes:
        schedule: the path x_t = α_t x_0 + σ_t ε.
        chain: the reverse chain whose bound log p(x) is.
    """

    spec: Spec
    schedule: Schedule
    chain: Chain
    Options: ClassVar[type]

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    @abstractmethod
    def samplers(self) -> Sequence[str]:
        """The names of the samplers that suit the family."""

    @abstractmethod
    def check_conditions(self, options: Any | None, conditions: Tensor | None) -> None:
        """See `Family.check_conditions`."""

    @abstractmethod
    def denoiser(self, labels: Tensor | None, guidance: float = 1.0) -> Denoiser:
        """The denoiser for images with these labels, guided by u + w(c - u)."""

    @abstractmethod
    def bound_denoiser(self, labels: Tensor | None) -> Denoiser:
        """The denoiser whose bound log p(x) is: its estimates say the variance of each step too."""

    @abstractmethod
    def latent(self, noise: Noise) -> Tensor:
        """x_T ~ N(0, I): float [N, C, H, W]."""

    @abstractmethod
    def decode(
        self,
        z: Tensor,
        noise: Noise,
        labels: Tensor | None = None,
        options: Any | None = None,
        progress: Progress | None = None,
        *,
        watch: Watch | None = None,
    ) -> Tensor:
        """The images uint8 [N, C, H, W] that a sampler draws from x_T; ``watch`` sees x_t and estimate at each t."""

    @abstractmethod
    def encode(self, x: Tensor, labels: Tensor | None = None, options: Any | None = None) -> Tensor:
        """The x_T [N, C, H, W] from which deterministic DDIM leads (nearly) to these images."""

    @abstractmethod
    def flow_log_likelihood(
        self,
        x: Tensor,
        labels: Tensor | None,
        noise: Noise,
        *,
        dequantize: Literal["decoder", "uniform"] = "decoder",
        tolerance: float = 1e-4,
    ) -> tuple[Tensor, Tensor]:
        """log p(x) [N] by the probability-flow equation, and the evaluations [N] that its solver took."""


class Distils(ABC):
    """a student of few steps: noise → image in a few evaluations of the network.

    The family's ``Config`` has the run that a model is a student of as ``teacher``, empty where it has none, and its
    ``Options`` the number of evaluations as ``steps``.

    Attributes:
        schedule: the path x_t = α_t x_0 + σ_t ε.
    """

    spec: Spec
    schedule: Schedule
    Options: ClassVar[type]

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @abstractmethod
    def check_conditions(self, options: Any | None, conditions: Tensor | None) -> None:
        """See `Family.check_conditions`."""

    @classmethod
    @abstractmethod
    def student_of(cls, teacher: Family, where: str) -> dict[str, Any]:
        """The fields of the config of a student of a model that `Denoises`, which lies in the run ``where``."""

    @abstractmethod
    def inherit(self, teacher: Family) -> None:
        """Begin with the weights of the teacher."""

    @abstractmethod
    def follow(self, teacher: Family) -> None:
        """Ask this teacher in training; it becomes no part of the model."""

    @abstractmethod
    def latent(self, noise: Noise) -> Tensor:
        """The noise that an image is drawn from: float [N, C, H, W]."""

    @abstractmethod
    def decode(
        self,
        z: Tensor,
        noise: Noise,
        labels: Tensor | None = None,
        options: Any | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """The images uint8 [N, C, H, W] of some latents, by which they are decided alone."""


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
class CompletionMethod:
    """How a family draws the rest of an image of which a part is known.

    Attributes:
        exact: whether each completion is an independent draw from its p(unknown | known).
        weighted: whether completions carry weights, so that several drawn side by side are worth more than one.
        text: the same in words.
    """

    exact: bool
    weighted: bool
    text: str


class Completes(ABC):
    """p(unknown | known): a part of an image is kept and the rest drawn.

    Class attributes:
        CompletionOptions: a frozen dataclass, ``Options`` with what only completion reads.
    """

    CompletionOptions: ClassVar[type]

    @abstractmethod
    def completion_method(self, known: Tensor, options: Any | None = None) -> CompletionMethod:
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
