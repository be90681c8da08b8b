"""What an autoregressive net says of a pixel: the distribution of its values, given everything before them.

A net describes a pixel in ``groups`` parts, one after the other. A softmax describes each channel by itself, so that
the net must keep R, G and B apart; a mixture of logistics describes the pixel as a whole and couples its channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from trilemma.families.observation import LOG_SCALES, at_least_float32, discretised_logistic
from trilemma.images import Spec, to_unit


class Conditional(ABC):
    """p(x_i | x_<i) of every value of an image, from the ``outputs`` numbers that a net gives for each group."""

    groups: int
    outputs: int

    @abstractmethod
    def nats(self, description: Tensor, x: Tensor) -> Tensor:
        """-log p of every value: description [B, H, W, groups, outputs], uint8 [B, C, H, W] to [B, C, H, W]."""

    @abstractmethod
    def log_p(self, description: Tensor, pixel: Tensor, channel: int) -> Tensor:
        """log p of every level of one channel, up to a constant: [N, levels].

        ``description`` [N, outputs] is that of the channel's group; ``pixel`` uint8 [N, C] holds the earlier channels.
        """


class Softmax(Conditional):
    """A probability for each level of each value ("Pixel Recurrent Neural Networks", section 3.3)."""

    def __init__(self, spec: Spec) -> None:
        self.groups, self.outputs = spec.channels, spec.levels

    def nats(self, description: Tensor, x: Tensor) -> Tensor:
        targets = x.permute(0, 2, 3, 1)
        nats: Tensor = SoftmaxNLL.apply(  # type: ignore[no-untyped-call]
            description.reshape(-1, self.outputs), targets.reshape(-1).long()
        )
        return nats.view(targets.shape).permute(0, 3, 1, 2)

    def log_p(self, description: Tensor, pixel: Tensor, channel: int) -> Tensor:
        return description


class LogisticMixture(Conditional):
    """A mixture of discretised logistics over the pixel as a whole.

    Salimans, Karpathy, Chen, Kingma 2017, "PixelCNN++", arXiv 1701.05517, section 2.1 and 2.2: K components π_k share
    the pixel; inside a component the mean of G is shifted by α x_R, that of B by β x_R + γ x_G. Summed over the
    components this is a distribution of R, of G given R and of B given both, each with weights that are the components'
    posterior given the earlier channels.
    """

    def __init__(self, spec: Spec, components: int) -> None:
        self.channels, self.levels, self.components = spec.channels, spec.levels, components
        self.groups = 1
        self.pairs = [(c, earlier) for c in range(spec.channels) for earlier in range(c)]
        self.outputs = components * (1 + 2 * spec.channels + len(self.pairs))

    def _parts(self, description: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log π [..., K], and means, log scales [..., C, K] and coefficients [..., pairs, K]."""
        numbers = at_least_float32(description)
        numbers = numbers.reshape(*numbers.shape[:-1], -1, self.components)
        shares = [1, self.channels, self.channels, len(self.pairs)]
        weight, mean, log_s, coefficient = torch.split(numbers, shares, -2)
        # An offset of -2 lets a component start about a tenth of the range wide.
        return weight[..., 0, :].log_softmax(-1), mean, (log_s - 2).clamp(*LOG_SCALES), 2 * coefficient.sigmoid() - 1

    def _mean(self, mean: Tensor, coefficient: Tensor, unit: Tensor, channel: int) -> Tensor:
        """The components' means of a channel given the earlier ones: ``unit`` [..., C] on [-1, 1] to [..., K]."""
        shifted = mean[..., channel, :]
        for i, (c, earlier) in enumerate(self.pairs):
            if c == channel:
                shifted = shifted + coefficient[..., i, :] * unit[..., earlier, None]
        return shifted

    def nats(self, description: Tensor, x: Tensor) -> Tensor:
        log_weight, mean, log_s, coefficient = self._parts(description[..., 0, :])
        pixels = x.permute(0, 2, 3, 1)
        unit = to_unit(pixels, self.levels).to(mean.dtype)
        joint, before = log_weight, torch.zeros_like(log_weight[..., 0])  # log π_k ∏ p_k(x_c'), and its log sum
        nats = []
        for c in range(self.channels):
            mu = self._mean(mean, coefficient, unit, c)
            joint = joint + discretised_logistic(pixels[..., c, None], mu, log_s[..., c, :], self.levels)
            total = joint.logsumexp(-1)
            nats.append(before - total)
            before = total
        return torch.stack(nats, 1)

    def log_p(self, description: Tensor, pixel: Tensor, channel: int) -> Tensor:
        log_weight, mean, log_s, coefficient = self._parts(description)
        unit = to_unit(pixel, self.levels).to(mean.dtype)
        for c in range(channel):
            mu = self._mean(mean, coefficient, unit, c)
            log_weight = log_weight + discretised_logistic(pixel[:, c, None], mu, log_s[:, c], self.levels)
        levels = torch.arange(self.levels, device=pixel.device)
        mu = self._mean(mean, coefficient, unit, channel)
        of_level = discretised_logistic(
            levels, mu[..., None], log_s[:, channel, :, None], self.levels
        )  # [N, K, levels]
        return (log_weight[..., None] + of_level).logsumexp(1)


def draw(log_p: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Invert the distribution function: log p [N, K] up to a constant and uniform [N] on [0, 1) to uint8 [N]."""
    cumulative = (log_p if temperature == 1 else log_p / temperature).softmax(1).cumsum(1)
    cumulative = cumulative / cumulative[:, -1:]  # so that the last entry is exactly 1, above every u
    return torch.searchsorted(cumulative, uniform[:, None].to(cumulative.dtype), right=True)[:, 0].to(torch.uint8)


class SoftmaxNLL(torch.autograd.Function):
    """-log softmax(logits)[target], in float32 whatever the precision of the logits: [M, K], int64 [M] to [M].

    With 256 levels this is the largest tensor of a training step. It is walked in pieces that stay in the cache, and
    only the gradient, softmax - onehot, is kept, in the logits' own precision: on a CPU four times as fast as
    `torch.nn.functional.cross_entropy` on ``logits.float()``, with a third of its memory.
    """

    PIECE = 1 << 18

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        keep = ctx.needs_input_grad[0]
        nll = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        gradient = torch.empty_like(logits) if keep else None
        size = max(1, SoftmaxNLL.PIECE // logits.shape[1])
        for i in range(0, len(logits), size):
            rows, target = slice(i, i + size), targets[i : i + size, None]
            log_p = logits[rows].log_softmax(1, dtype=torch.float32)
            nll[rows] = -log_p.gather(1, target)[:, 0]
            if gradient is not None:
                p = log_p.exp_()
                p.scatter_add_(1, target, torch.full_like(target, -1, dtype=p.dtype))
                gradient[rows] = p
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None].to(gradient.dtype), None
