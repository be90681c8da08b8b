"""Fully visible belief networks: p(x) = ∏ p(x_i | x_1 … x_{i-1}), whatever net gives the conditionals.

The order is raster order over pixels and R, G, B inside a pixel. `PixelCNN` and `PixelRNN` differ in their nets only.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from trilemma.families.conditionals import Conditional, LogisticMixture, Softmax, draw
from trilemma.families.family import (
    Completes,
    Completion,
    CompletionMethod,
    Density,
    Family,
    Likelihood,
    Loss,
    Objective,
    Orders,
    Progress,
)
from trilemma.images import Spec, check_images, to_unit
from trilemma.nets.masked import CachedNet
from trilemma.noise import Noise
from trilemma.validate import Positive, check_limits

ENCODING = 3
"""Input features of each value."""


class Net(Protocol):
    """A masked net: the distribution of every value from the values before it."""

    def __call__(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Features [B, groups * encoding, H, W], group by group, to [B, H, W, groups, outputs]."""

    def cached(self, labels: Tensor | None, count: int, dtype: torch.dtype) -> CachedNet:
        """The same for ``count`` images, one value at a time."""


@dataclass(frozen=True)
class AutoregressiveOptions:
    """How to draw."""

    temperature: Positive = 1.0
    """log p is divided by it: below 1 the samples are more typical and less varied than p(x)."""

    def __post_init__(self) -> None:
        check_limits(self)


class Autoregressive(Family, Completes, Orders):
    """A family with an exact likelihood. Class labels, where the data has them, condition every value."""

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
    vectors = False
    Options = AutoregressiveOptions
    CompletionOptions = AutoregressiveOptions

    def __init__(self, config: Any, spec: Spec, conditional: Conditional) -> None:
        super().__init__(config, spec)
        self.conditional = conditional

    @property
    @abstractmethod
    def net(self) -> Net:
        """The masked net."""

    @property
    def labels(self) -> int:
        """Rows of the net's label embeddings: the classes and "no label", or 0."""
        return self.spec.classes + 1 if self.spec.classes else 0

    @property
    def groups(self) -> int:
        return self.conditional.groups

    @property
    def outputs(self) -> int:
        return self.conditional.outputs

    def value_features(self, x: Tensor) -> Tensor:
        """What the net sees of uint8 values [...]: float [..., 3], the value on [-1, 1] and whether it is an end.

        Real images have exact blacks and whites in plenty, which a scale alone blurs into their neighbours.
        """
        top = self.spec.levels - 1
        return torch.stack([to_unit(x, self.spec.levels), (x == 0) * 2.0 - 1, (x == top) * 2.0 - 1], -1)

    def features(self, x: Tensor) -> Tensor:
        """uint8 [N, C, H, W] to [N, C * 3, H, W], channel by channel, channels last in memory."""
        features = self.value_features(x).permute(0, 1, 4, 2, 3).flatten(1, 2)
        return features.contiguous(memory_format=torch.channels_last)

    def conditionals(self, features: Tensor, labels: Tensor | None) -> Tensor:
        return self.net(features, labels)

    def nats(self, x: Tensor, labels: Tensor | None, features: Tensor | None = None) -> Tensor:
        return self.conditional.nats(self.net(self.features(x) if features is None else features, labels), x)

    def nll(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """-log p(x|y) in nats per image: uint8 [B, C, H, W] to float [B]."""
        return self.nats(x, labels).flatten(1).sum(1)

    def objectives(self) -> Sequence[Objective]:
        return [Objective("nll", list(self.parameters()), self.loss)]

    @torch.no_grad()
    def check(self) -> None:
        """Refuse a net that looks ahead: what is described up to a place must not change with what stands from it on.

        A quick test at five places; `questions.causality` verifies all of them by gradients.
        """
        groups, (channels, height, width) = self.conditional.groups, self.spec.image_shape
        generator = torch.Generator().manual_seed(0)
        places = torch.linspace(0, groups * height * width - 1, 5).long()
        order = torch.arange(groups * height * width).view(height, width, groups).permute(2, 0, 1)
        later = (order >= places[:, None, None, None]).repeat_interleave(channels // groups, 1)
        x, other = (
            torch.randint(self.spec.levels, (5, *self.spec.shape), generator=generator).to(torch.uint8)
            for _ in range(2)
        )
        labels = self.given(None, 5)
        before, after = (
            self.net(self.features(images.to(self.device)), labels).cpu()
            for images in (x, torch.where(later, other, x))
        )
        seen = (order <= places[:, None, None, None]).permute(0, 2, 3, 1)
        if not torch.allclose(before[seen], after[seen], rtol=1e-4, atol=1e-4):
            raise ValueError(
                f"this {self.name} looks ahead: what it says of a value changes with later values, so its p(x) is no "
                "probability; trilemma query causality RUN names the values"
            )

    def loss(self, x: Tensor, labels: Tensor | None, noise: Noise) -> Loss:
        nll = self.nll(x, self.given(labels, len(x))).mean()
        return Loss({"nll": nll}, {"bits_per_dim": nll.detach() / (self.spec.dims * math.log(2))})

    @torch.no_grad()
    def log_likelihood(self, x: Tensor, labels: Tensor | None, noise: Noise, samples: int | None = None) -> Likelihood:
        check_images(x, self.spec)
        labels = self.checked(labels, len(x))
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
        options: AutoregressiveOptions | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Draw images row by row with the cached net; see `Family.sample`. ``progress`` counts rows."""
        blank = torch.zeros(noise.count, *self.spec.shape, dtype=torch.uint8, device=self.device)
        nothing = torch.zeros(self.spec.shape, dtype=torch.bool)
        return self.complete(blank, nothing, noise, labels, options, progress).images

    def completion_method(self, known: Tensor, options: AutoregressiveOptions | None = None) -> CompletionMethod:
        """Exact where the known values stand before all others in the order; elsewhere by weighted particles."""
        in_order = known.permute(1, 2, 0).flatten()
        if bool((in_order[:-1] >= in_order[1:]).all()):
            return CompletionMethod(True, False, "exact draws from p(unknown | known)")
        return CompletionMethod(False, True, "particle filter")

    @torch.inference_mode()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        noise: Noise,
        labels: Tensor | None = None,
        options: AutoregressiveOptions | None = None,
        progress: Progress | None = None,
        particles: int = 1,
    ) -> Completion:
        """Keep the ``known`` values of images and draw the others.

        Where the known values come first in raster order (upper rows) every image is a draw from p(unknown | known).
        A value that is known later in the order cannot influence what is drawn before it; there the draws are
        proposals, weighted by the probability they give to what follows. With ``particles`` of each image side by side
        this is a particle filter (Gordon, Salmond, Smith 1993): after a row whose weights have become uneven, the
        images of each set are drawn anew from it in proportion to their weights. The sets' images then follow
        p(unknown | known) in the limit of many particles. Another temperature than 1 is another law p, whose
        conditionals both draw and weigh.

        Args:
            x: uint8 [N, C, H, W]; unknown values are ignored.
            known: bool [C, H, W].
            noise, labels, options, progress: as for `sample`.
            particles: how many consecutive images, all with the same known part, are one set; divides N.

        Raises:
            ValueError: shapes that do not fit, in one line.
        """
        if tuple(known.shape) != self.spec.shape or len(x) != noise.count:
            raise ValueError(f"known must have shape {list(self.spec.shape)}, and the noise one row per image")
        if particles < 1 or len(x) % particles:
            raise ValueError(f"{len(x)} images cannot be sets of {particles} particles")
        options = options or AutoregressiveOptions()
        labels = self.checked(labels, noise.count)
        channels, height, width = self.spec.image_shape
        shared = channels // self.conditional.groups  # channels in a group
        uniform, resampling = self._uniform(noise), noise.uniform(height).double()
        given: list[list[list[bool]]] = known.tolist()
        x = x.to(self.device).clone()
        log_weights = torch.zeros(len(x), dtype=sampling_dtype(self.device), device=self.device)
        drawn = False
        features = self.value_features(torch.arange(self.spec.levels, dtype=torch.uint8, device=self.device))
        net = self.net.cached(labels, noise.count, sampling_dtype(self.device))
        for row in range(height):
            net.begin_row(row)
            for column in range(width):
                pixel = x[:, :, row, column]
                for group in range(self.conditional.groups):
                    own = range(group * shared, (group + 1) * shared)
                    free = [channel for channel in own if not given[channel][row][column]]
                    drawn |= bool(free)
                    if drawn:
                        description = net.outputs(column, group)
                    else:
                        net.outputs(column, group)  # moves the state on
                    for channel in own if drawn else ():
                        log_p = self.conditional.log_p(description, pixel, channel)
                        if channel in free:
                            pixel[:, channel] = draw(log_p, uniform[channel, row, column], options.temperature)
                        else:
                            log_p = (log_p / options.temperature).log_softmax(1)  # of the law that is drawn from
                            log_weights += log_p.gather(1, pixel[:, channel, None].long())[:, 0]
                    net.write(column, group, features[pixel[:, own.start : own.stop].long()].flatten(1))
            if particles > 1 and row + 1 < height:
                index, uneven = resample(log_weights.view(-1, particles), resampling[::particles, row])
                if bool(uneven.any()):
                    x = x[index]
                    log_weights = log_weights.masked_fill(uneven.repeat_interleave(particles), 0)
                    net.select(index)
            if progress is not None:
                progress(row + 1, height)
        return Completion(x, log_weights.double().cpu() if self.device.type == "mps" else log_weights.double())

    @torch.inference_mode()
    def sample_naive(
        self, noise: Noise, labels: Tensor | None = None, options: AutoregressiveOptions | None = None
    ) -> Tensor:
        """The same images as `sample`, by a whole forward pass for every value: the oracle of the cached sampler."""
        options = options or AutoregressiveOptions()
        labels = self.checked(labels, noise.count)
        channels, height, width = self.spec.image_shape
        shared = channels // self.conditional.groups
        uniform = self._uniform(noise)
        x = torch.zeros(noise.count, *self.spec.shape, dtype=torch.uint8, device=self.device)
        dtype = sampling_dtype(self.device)
        model = copy.deepcopy(self).to(dtype)
        for row in range(height):
            for column in range(width):
                pixel = x[:, :, row, column]
                for channel in range(channels):
                    description = model.net(model.features(x).to(dtype), labels)[:, row, column]
                    log_p = self.conditional.log_p(description[:, channel // shared], pixel, channel)
                    pixel[:, channel] = draw(log_p, uniform[channel, row, column], options.temperature)
        return x

    def _uniform(self, noise: Noise) -> Tensor:
        """One value for each value of the images: [C, H, W, N], so that those of a pixel lie side by side."""
        return noise.uniform(*self.spec.shape).to(self.device).permute(1, 2, 3, 0).contiguous()

    def given(self, labels: Tensor | None, count: int) -> Tensor | None:
        """The labels on the model's device; "no label" for all where a conditional model is given none."""
        classes = self.spec.classes
        if labels is None:
            return torch.full((count,), classes, device=self.device) if classes else None
        if not classes:
            raise ValueError("this model was built without classes: call it without labels")
        if labels.shape != (count,):
            raise ValueError(f"labels must have shape [{count}], one per image, not {list(labels.shape)}")
        return labels.to(self.device)

    def checked(self, labels: Tensor | None, count: int) -> Tensor | None:
        """`given`, with the range checked too: not in training, where it would make a GPU wait."""
        null = self.spec.classes
        if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= null:
            found = f"{int(labels.min())} to {int(labels.max())}"
            raise ValueError(f"labels must be from 0 to {null} ({null} meaning no label), not {found}")
        return self.given(labels, count)


def conditional(kind: str, components: int, spec: Spec) -> Conditional:
    """The distribution of a pixel that a config asks for: ``softmax`` or ``mixture``."""
    if spec.vector:
        raise ValueError(
            "an autoregressive family predicts the levels of pixels one by one, and real-valued vectors have none: "
            "use vae, gan, diffusion or flow"
        )
    return Softmax(spec) if kind == "softmax" else LogisticMixture(spec, components)


def resample(log_weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Systematic resampling of each row of particles whose effective number is below half; the others stay.

    Args:
        log_weights: [sets, particles].
        uniform: [sets], one variate a set.

    Returns:
        int64 [sets * particles], which image stands in each place, and bool [sets], which sets were drawn anew.
    """
    sets, particles = log_weights.shape
    weights = log_weights.softmax(1)
    uneven = 1 / weights.square().sum(1) < particles / 2
    places = torch.arange(particles, device=weights.device)
    ladder = (places + uniform.to(weights)[:, None]) / particles
    cumulative = weights.cumsum(1)
    cumulative = cumulative / cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, ladder, right=True).clamp(max=particles - 1)
    chosen = torch.where(uneven[:, None], chosen, places)
    return (chosen + particles * torch.arange(sets, device=weights.device)[:, None]).flatten(), uneven


def sampling_dtype(device: torch.device) -> torch.dtype:
    """float64 where there is one: rounding then flips no pixel, and the images do not depend on batch or device."""
    return torch.float32 if device.type == "mps" else torch.float64
