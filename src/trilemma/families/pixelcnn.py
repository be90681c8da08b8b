"""PixelCNN: p(x) = ∏ p(x_i | x_1 … x_{i-1}), with masked convolutions for the conditionals.

van den Oord, Kalchbrenner, Espeholt, Kavukcuoglu, Vinyals, Graves 2016, "Conditional Image Generation with PixelCNN
Decoders" (the gated PixelCNN), and van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks"
(the masks, and the softmax over levels).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trilemma.families.family import Density, Family, Likelihood, Loss, Objective, Progress
from trilemma.images import Spec, check_images, to_unit
from trilemma.nets.masked import CachedStacks, GatedStacks
from trilemma.noise import Noise


@dataclass(frozen=True)
class PixelCNNConfig:
    """Hyperparameters of the gated PixelCNN."""

    features: int = 16
    """Feature maps of each of the two stacks."""
    layers: int = 5
    """Gated layers, at least 2."""
    first_kernel: int = 7
    """Size of the first layer's kernel, odd."""
    kernel: int = 5
    """Size of the later layers' kernels, odd."""
    head: int = 32
    """Hidden features of the 1x1 layers before the softmax."""

    def __post_init__(self) -> None:
        for name in ("first_kernel", "kernel"):
            size = getattr(self, name)
            if size < 3 or size % 2 == 0:
                raise ValueError(f"{name} must be odd and at least 3, not {size}")
        if self.layers < 2:
            raise ValueError(f"layers must be at least 2, not {self.layers}")
        if min(self.features, self.head) < 3:
            raise ValueError("features and head must be at least 3, one map for each colour channel")


@dataclass(frozen=True)
class PixelCNNOptions:
    """How to draw."""

    temperature: float = 1.0
    """Logits are divided by it: below 1 the samples are more typical and less varied than p(x)."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be a number above 0, not {self.temperature}")


class PixelCNN(Family):
    """The gated PixelCNN over images of any size, 1 or 3 channels, with a softmax over the levels of every value.

    Class labels, where the data has them, shift every gate (equation 4); the last row of their embedding means "no
    label". The order is raster order over pixels and R, G, B inside a pixel.
    """

    name = "pixelcnn"
    title = "PixelCNN"
    paper = (
        "van den Oord, Kalchbrenner, Espeholt, Kavukcuoglu, Vinyals, Graves (2016). Conditional Image Generation "
        "with PixelCNN Decoders. arXiv:1606.05328"
    )
    density = Density.TRACTABLE
    answers: ClassVar[Mapping[str, str]] = {
        "sample": "yes, one pixel at a time",
        "p(x)": "yes, exactly",
        "p(z|x)": "no, it has no latent variables",
        "complete": "yes, what follows in raster order",
        "interpolate": "no, it has no latent variables to move in",
        "classify": "yes, by Bayes' rule when class-conditional",
    }
    gives_up = "fast sampling"
    Config = PixelCNNConfig
    Options = PixelCNNOptions

    config: PixelCNNConfig

    def __init__(self, config: PixelCNNConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.net = GatedStacks(
            spec.shape,
            encoding=3,
            levels=spec.levels,
            features=config.features,
            layers=config.layers,
            first_kernel=config.first_kernel,
            kernel=config.kernel,
            head=config.head,
            labels=spec.classes + 1 if spec.classes else 0,
        )

    def encode(self, x: Tensor) -> Tensor:
        """What the net sees of uint8 values [...]: float [..., 3], the value on [-1, 1] and whether it is an end.

        Real images have exact blacks and whites in plenty, which a scale alone blurs into their neighbours.
        """
        top = self.spec.levels - 1
        return torch.stack([to_unit(x, self.spec.levels), (x == 0) * 2.0 - 1, (x == top) * 2.0 - 1], -1)

    def image_features(self, x: Tensor) -> Tensor:
        """uint8 [B, C, H, W] to [B, C * 3, H, W], channel by channel, channels last in memory."""
        features = self.encode(x).permute(0, 1, 4, 2, 3).flatten(1, 2)
        return features.contiguous(memory_format=torch.channels_last)

    def nll(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """-log p(x|y) in nats per image: uint8 [B, C, H, W] to float32 [B]."""
        logits = self.net(self.image_features(x), labels)  # [B, H, W, C, levels]
        targets = x.permute(0, 2, 3, 1).long()
        nats: Tensor = SoftmaxNLL.apply(logits.reshape(-1, self.spec.levels), targets.reshape(-1))  # type: ignore[no-untyped-call]
        return nats.view(len(x), -1).sum(1)

    def objectives(self) -> Sequence[Objective]:
        return [Objective("nll", list(self.parameters()), self.loss)]

    def loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        nll = self.nll(x, self._labels(labels, len(x))).mean()
        return Loss({"nll": nll}, {"bits_per_dim": nll.detach() / (self.spec.dims * math.log(2))})

    @torch.no_grad()
    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        check_images(x, self.spec)
        labels = self._checked_labels(labels, len(x))
        size = max(1, 50_000 // self.spec.dims)  # values at a time: bounds the memory that the logits take
        parts = [
            -self.nll(x[i : i + size], None if labels is None else labels[i : i + size]) for i in range(0, len(x), size)
        ]
        nats = torch.cat(parts) if parts else torch.zeros(0, device=x.device)
        return Likelihood("exact", nats, "the product of the conditionals of all pixels")

    def sample(
        self,
        noise: Noise,
        labels: Tensor | None = None,
        options: PixelCNNOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Draw images row by row with the cached net; see `Family.sample`. ``progress`` counts rows."""
        blank = torch.zeros(noise.count, *self.spec.shape, dtype=torch.uint8, device=self.device)
        return self.complete(blank, torch.zeros(self.spec.shape, dtype=torch.bool), noise, labels, options, progress)

    @torch.inference_mode()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        noise: Noise,
        labels: Tensor | None = None,
        options: PixelCNNOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Keep the ``known`` values of images and draw the others, each given all values before it.

        This is a draw from p(unknown | known) when the known values come first in raster order (upper rows). A value
        known later in the order is kept but cannot influence what is drawn before it.

        Args:
            x: uint8 [N, C, H, W]; unknown values are ignored.
            known: bool [C, H, W].
            noise, labels, options, progress: as for `sample`.

        Returns:
            uint8 [N, C, H, W].
        """
        if tuple(known.shape) != self.spec.shape or len(x) != noise.count:
            raise ValueError(f"known must have shape {list(self.spec.shape)}, and the noise one row per image")
        options = options or PixelCNNOptions()
        labels = self._checked_labels(labels, noise.count)
        channels, height, width = self.spec.shape
        uniform = self._uniform(noise)
        given: list[list[list[bool]]] = known.tolist()
        x = x.to(self.device).clone()
        net = CachedStacks(self.net, labels, noise.count, _sampling_dtype(self.device))
        for row in range(height):
            net.begin_row(row)
            for column in range(width):
                for channel in range(channels):
                    value = x[:, channel, row, column]
                    if not given[channel][row][column]:
                        logits = net.logits(column, channel)
                        value.copy_(draw(logits, uniform[channel, row, column], options.temperature))
                    net.write(column, channel, self.encode(value))
            if progress is not None:
                progress(row + 1, height)
        return x

    @torch.inference_mode()
    def sample_naive(
        self, noise: Noise, labels: Tensor | None = None, options: PixelCNNOptions | None = None
    ) -> Tensor:
        """The same images as `sample`, by a whole forward pass for every value: the oracle of the cached sampler."""
        options = options or PixelCNNOptions()
        labels = self._checked_labels(labels, noise.count)
        channels, height, width = self.spec.shape
        uniform = self._uniform(noise)
        x = torch.zeros(noise.count, *self.spec.shape, dtype=torch.uint8, device=self.device)
        dtype = _sampling_dtype(self.device)
        net = copy.deepcopy(self.net).to(dtype)
        for row in range(height):
            for column in range(width):
                for channel in range(channels):
                    logits = net(self.image_features(x).to(dtype), labels)[:, row, column, channel]
                    x[:, channel, row, column] = draw(logits, uniform[channel, row, column], options.temperature)
        return x

    def _uniform(self, noise: Noise) -> Tensor:
        """One value for each value of the images: [C, H, W, N], so that those of a pixel lie side by side."""
        return noise.uniform(*self.spec.shape).to(self.device).permute(1, 2, 3, 0).contiguous()

    def _labels(self, labels: Tensor | None, count: int) -> Tensor | None:
        """The labels on the model's device; "no label" for all where a conditional model is given none."""
        classes = self.spec.classes
        if labels is None:
            return torch.full((count,), classes, device=self.device) if classes else None
        if not classes:
            raise ValueError("this model was built without classes: call it without labels")
        if labels.shape != (count,):
            raise ValueError(f"labels must have shape [{count}], one per image, not {list(labels.shape)}")
        return labels.to(self.device)

    def _checked_labels(self, labels: Tensor | None, count: int) -> Tensor | None:
        """`_labels`, with the range checked too: not in training, where it would make a GPU wait."""
        null = self.spec.classes
        if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= null:
            raise ValueError(f"labels must be from 0 to {null} ({null} meaning no label), not {labels.tolist()}")
        return self._labels(labels, count)


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Invert the distribution function: logits [N, K] and uniform [N] on [0, 1) to uint8 [N]."""
    cumulative = (logits / temperature).softmax(1).cumsum(1)
    cumulative /= cumulative[:, -1:].clone()  # so that the last entry is exactly 1, above every u
    return torch.searchsorted(cumulative, uniform[:, None].to(cumulative.dtype), right=True)[:, 0].to(torch.uint8)


def _sampling_dtype(device: torch.device) -> torch.dtype:
    """float64 where there is one: rounding then flips no pixel, and the images do not depend on batch or device."""
    return torch.float32 if device.type == "mps" else torch.float64


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
