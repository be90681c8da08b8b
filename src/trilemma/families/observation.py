"""Observation models p(x|z): what a decoder's numbers say about a discrete image.

Each maps the decoder's output ``[B, outputs, H, W]`` to nats over the discrete image, to its mean image, and to a
draw; the last one does so for vectors, whose nats are those of a density.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.images import Spec, from_unit, to_unit

LOG_SCALES = (-7.0, 20.0)
"""A logistic narrower than e^-7, about a ninth of a bin of 256, gains nothing; one wider than e^20 would give a bin
the probability 0 in float32."""


def at_least_float32(x: Tensor) -> Tensor:
    """Undo autocast's bfloat16 before anything is exponentiated or summed; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Observation(nn.Module, ABC):
    """p(x|z), given the decoder's output; ``outputs`` is how many channels of it there must be."""

    outputs: int

    @abstractmethod
    def nats(self, x: Tensor, decoded: Tensor) -> Tensor:
        """-log p(x|z) of uint8 ``[B, C, H, W]`` images, summed over the pixels: ``[B]``."""

    @abstractmethod
    def centre(self, decoded: Tensor) -> Tensor:
        """The centre of p(x|z) before rounding, on [-1, 1]: float ``[B, C, H, W]``."""

    @abstractmethod
    def mean(self, decoded: Tensor) -> Tensor:
        """The centre of p(x|z), uint8 ``[B, C, H, W]``."""

    @abstractmethod
    def draw(self, decoded: Tensor, uniform: Tensor) -> Tensor:
        """A draw from p(x|z), uint8, that spends one uniform variate ``[B, C, H, W]`` a pixel."""


class Bernoulli(Observation):
    """Each binary pixel is one with the probability sigmoid(logit). Its mean image shows the likelier value."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        if spec.levels != 2:
            raise ValueError(
                f"observation 'bernoulli' needs binary images, these have {spec.levels} levels: "
                "binarise the data or use observation 'logistic'"
            )
        self.outputs = spec.channels

    def nats(self, x: Tensor, decoded: Tensor) -> Tensor:
        logits = at_least_float32(decoded)
        return F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype), reduction="none").sum((1, 2, 3))

    def centre(self, decoded: Tensor) -> Tensor:
        return 2 * torch.sigmoid(at_least_float32(decoded)) - 1

    def mean(self, decoded: Tensor) -> Tensor:
        return (decoded > 0).to(torch.uint8)

    def draw(self, decoded: Tensor, uniform: Tensor) -> Tensor:
        return (uniform < torch.sigmoid(at_least_float32(decoded))).to(torch.uint8)


class DiscretisedLogistic(Observation):
    """A logistic distribution cut into one bin a level, whose outer bins take the tails.

    Kingma et al. 2016 (inverse autoregressive flow), appendix; Salimans et al. 2017 (PixelCNN++), eq. 2. The
    location μ is the decoder's; the scale s is learnt for each ``pixel`` (the decoder's too, a function of z) or as one
    number for each ``channel``, or it is ``fixed`` at a number on [-1, 1].
    """

    log_scale: Tensor | None

    def __init__(self, spec: Spec, scale: Literal["pixel", "channel", "fixed"], fixed: float = 0.05) -> None:
        super().__init__()
        self.levels = spec.levels
        self.outputs = spec.channels * (2 if scale == "pixel" else 1)
        if scale == "fixed":
            self.register_buffer("log_scale", torch.full((spec.channels, 1, 1), math.log(fixed)), persistent=False)
        else:
            self.log_scale = nn.Parameter(torch.full((spec.channels, 1, 1), -1.0)) if scale == "channel" else None

    def parts(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """μ on the scale where the levels fill [-1, 1], and log s within `LOG_SCALES`; both ``[B, C, H, W]``."""
        decoded = at_least_float32(decoded)
        if self.log_scale is not None:
            return decoded, self.log_scale.clamp(*LOG_SCALES).expand_as(decoded)
        mu, log_s = decoded.chunk(2, dim=1)
        return mu, (log_s - 1).clamp(*LOG_SCALES)

    def nats(self, x: Tensor, decoded: Tensor) -> Tensor:
        mu, log_s = self.parts(decoded)
        return -discretised_logistic(x, mu, log_s, self.levels).sum((1, 2, 3))

    def centre(self, decoded: Tensor) -> Tensor:
        """μ, the mean before the cutting and the median after it."""
        return self.parts(decoded)[0]

    def mean(self, decoded: Tensor) -> Tensor:
        return from_unit(self.centre(decoded), self.levels)

    def draw(self, decoded: Tensor, uniform: Tensor) -> Tensor:
        mu, log_s = self.parts(decoded)
        u = uniform.to(mu.dtype).clamp(1e-7, 1 - 1e-7)
        return from_unit(mu + log_s.exp() * torch.logit(u), self.levels)


class L2(Observation):
    """The textbook's ‖x - μ‖² on [-1, 1]: a Gaussian of variance ½ with its constant (D/2) log π dropped.

    It is a density of continuous values at an arbitrary scale, so its "nats" say nothing about the discrete image.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.levels, self.outputs = spec.levels, spec.channels

    def nats(self, x: Tensor, decoded: Tensor) -> Tensor:
        return (to_unit(x, self.levels) - self.centre(decoded)).square().sum((1, 2, 3))

    def centre(self, decoded: Tensor) -> Tensor:
        return at_least_float32(decoded)  # no tanh: it saturates on images that are mostly black

    def mean(self, decoded: Tensor) -> Tensor:
        return from_unit(self.centre(decoded), self.levels)

    def draw(self, decoded: Tensor, uniform: Tensor) -> Tensor:
        mu = at_least_float32(decoded)
        u = uniform.to(mu.dtype).clamp(1e-7, 1 - 1e-7)
        return from_unit(mu + 0.5**0.5 * torch.special.ndtri(u), self.levels)


class Gaussian(Observation):
    """Real-valued vectors: each value is normal, with the decoder's mean μ in units of `Spec.to_unit`.

    Its standard deviation is learnt for each value as a function of z (``pixel``) or as one number for each value
    (``channel``), or it is ``fixed``. The nats are those of a density in the data's own units.
    """

    log_scale: Tensor | None

    def __init__(self, spec: Spec, scale: Literal["pixel", "channel", "fixed"], fixed: float = 0.05) -> None:
        super().__init__()
        self.spec, (dims,) = spec, spec.shape
        self.outputs = dims * (2 if scale == "pixel" else 1)
        if scale == "fixed":
            self.register_buffer("log_scale", torch.full((dims,), math.log(fixed)), persistent=False)
        else:
            self.log_scale = nn.Parameter(torch.full((dims,), -1.0)) if scale == "channel" else None

    def parts(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ within `LOG_SCALES`, both ``[B, D]``, of values of unit size."""
        decoded = at_least_float32(decoded)
        if self.log_scale is not None:
            return decoded, self.log_scale.clamp(*LOG_SCALES).expand_as(decoded)
        mu, log_s = decoded.chunk(2, dim=1)
        return mu, (log_s - 1).clamp(*LOG_SCALES)

    def nats(self, x: Tensor, decoded: Tensor) -> Tensor:
        mu, log_s = self.parts(decoded)
        white = (self.spec.to_unit(x).to(mu.dtype) - mu) * torch.exp(-log_s)
        return (0.5 * (white.square() + math.log(2 * math.pi)) + log_s).sum(1) + self.spec.log_volume

    def centre(self, decoded: Tensor) -> Tensor:
        return self.parts(decoded)[0]

    def mean(self, decoded: Tensor) -> Tensor:
        return self.spec.from_unit(self.centre(decoded))

    def draw(self, decoded: Tensor, uniform: Tensor) -> Tensor:
        mu, log_s = self.parts(decoded)
        u = uniform.to(mu.dtype).clamp(1e-7, 1 - 1e-7)
        return self.spec.from_unit(mu + log_s.exp() * torch.special.ndtri(u))


def discretised_logistic(x: Tensor, mu: Tensor, log_s: Tensor, levels: int) -> Tensor:
    """log P(x) of integer levels under a logistic(μ, s) whose levels lie evenly on [-1, 1]; broadcasts.

    A bin reaches half a step h = 1/(levels-1) to either side of its level; with a = (x+h-μ)/s, b = (x-h-μ)/s and
    the sigmoid F,

        F(a) - F(b) = F(a) F(-b) (1 - e^(b-a)),   b - a = -2h/s,

    is a product without cancellation, so that neither it nor its gradient needs a special case where the difference
    of two sigmoids would underflow. The first bin is F(a) alone and the last F(-b): they take the tails.
    """
    h = 1 / (levels - 1)
    centred = x.to(mu.dtype) * (2 * h) - 1 - mu
    inverse = torch.exp(-log_s)
    log_below = F.logsigmoid((centred + h) * inverse)
    log_above = F.logsigmoid((h - centred) * inverse)
    log_width = torch.log(-torch.expm1(-2 * h * inverse))
    inner = log_below + log_above + log_width
    return torch.where(x == 0, log_below, torch.where(x == levels - 1, log_above, inner))
