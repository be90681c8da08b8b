"""Does a model look ahead? Differentiation tells: no output may depend on its own or on a later value.

A leak of the kind is the usual reason of likelihoods that are too good to be true.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trilemma.families.autoregressive import Autoregressive
from trilemma.families.family import Family, Progress
from trilemma.nets.masked import influence
from trilemma.noise import derive_seed
from trilemma.questions.order import Value, autoregressive, raster, value_at

BLOCK = 25_000
"""Values of images differentiated together, which bounds the memory."""


@dataclass(frozen=True)
class Causality:
    """The outcome of the test.

    Attributes:
        ok: no value sees itself or a later one.
        checked: at how many places of the order the test was made.
        places: how many there are.
        leaks: ``(value, what it sees of itself or ahead)``, each as (channel, row, column); in a net that describes a
            pixel as a whole, channel 0 stands for all.
        text: the outcome in one line.
    """

    ok: bool
    checked: int
    places: int
    leaks: tuple[tuple[Value, Value], ...]
    text: str

    def require(self) -> Causality:
        """Itself, or a one-line ``ValueError`` that names the first leak."""
        if not self.ok:
            raise ValueError(self.text)
        return self


def causality(
    model: Family, progress: Progress | None = None, *, positions: Sequence[int] | None = None, seed: int = 0
) -> Causality:
    """Prove that a model keeps the order, by differentiation in float64 on the CPU.

    At place i, outputs of all values up to and including i, weighted by random numbers, are differentiated by all
    inputs from i on, at an image of random values and with a random label: each derivative must be exactly zero.
    Checked at every i this covers every pair of an output and an input that does not come before it. Every place is an
    item of a batch with an image of its own, so that a block of places costs one pass forward and one back.

    A ReLU that happens to be off would hide what stands behind it; here all ReLUs leak, so that every connection of
    the net carries a derivative.

    Args:
        model: any variant of an autoregressive family.
        progress: told ``(places checked, all)``.
        positions: the places to check, by default all; `few_places` gives some for a quick test.
        seed: of the images, labels and weights.

    Raises:
        ValueError: the family is not autoregressive, or a position outside the image, in one line.
    """
    model = autoregressive(model, "the causality test")
    groups = model.conditional.groups
    places = model.spec.height * model.spec.width * groups
    wanted = range(places) if positions is None else sorted(set(positions))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < places:
        raise ValueError(f"positions must be from 0 to {places - 1}, not {wanted[0]} to {wanted[-1]}")
    twin = copy.deepcopy(model).cpu().double().eval()
    ahead = _ahead(twin, wanted, seed, so_far=True, progress=progress)
    if not ahead:
        text = f"no value sees itself or a later one: checked at {len(wanted)} of {places} places by differentiation"
        return Causality(True, len(wanted), places, (), text)
    # Which outputs are to blame: each by itself. What a place sees from itself on is a leak of an earlier output, too.
    alone = _ahead(twin, range(max(i for i, _ in ahead) + 1), seed, so_far=False) or ahead
    leaks = tuple((value_at(i, groups, model.spec), value_at(j, groups, model.spec)) for i, j in alone)
    value, seen = leaks[0]
    text = (
        f"the model looks ahead: value {value} sees {seen}, as (channel, row, column); "
        f"{len(leaks)} values do, so its p(x) is no probability"
    )
    return Causality(False, len(wanted), places, leaks, text)


def few_places(model: Autoregressive) -> list[int]:
    """Places for a quick test: all groups of the first and last pixel and of three along the middle row."""
    height, width, groups = model.spec.height, model.spec.width, model.conditional.groups
    row = height // 2
    pixels = {0, row * width, row * width + width // 2, row * width + width - 1, height * width - 1}
    return sorted(pixel * groups + group for pixel in pixels for group in range(groups))


def _ahead(
    model: Autoregressive, places: Iterable[int], seed: int, so_far: bool, progress: Progress | None = None
) -> list[tuple[int, int]]:
    """``(i, j)`` of each place i where the outputs up to i, or of i alone, see an input j >= i; j is the first."""
    spec, conditional = model.spec, model.conditional
    net = model.net
    assert isinstance(net, nn.Module)
    order = raster(conditional.groups, spec)
    generator = torch.Generator().manual_seed(derive_seed(seed, "causality"))
    wanted, found = torch.tensor(list(places)), []
    size = max(1, BLOCK // spec.dims)
    for start in range(0, len(wanted), size):
        i = wanted[start : start + size]
        x = torch.randint(spec.levels, (len(i), *spec.shape), generator=generator).to(torch.uint8)
        labels = torch.randint(spec.classes + 1, (len(i),), generator=generator) if spec.classes else None
        shape = (len(i), spec.height, spec.width, conditional.groups, conditional.outputs)
        place = i[:, None, None, None]
        asked = order <= place if so_far else order == place  # [b, groups, H, W]
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        weights *= asked.permute(0, 2, 3, 1)[..., None]
        with LeakyReLUs():
            gradient = influence(net, model.image_features(x).double(), weights, labels)
        leaks = (gradient != 0) & (order >= place)  # NaN is unequal to 0 too
        first = torch.where(leaks, order, order.numel()).flatten(1).amin(1)
        found += [(a, b) for a, b in zip(i.tolist(), first.tolist(), strict=True) if b < order.numel()]
        if progress:
            progress(start + len(i), len(wanted))
    return found


class LeakyReLUs(TorchFunctionMode):
    """Within it every ReLU lets a tenth of the negative values through."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.relu, Tensor.relu, F.relu):
            return F.leaky_relu(args[0], 0.1)
        return func(*args, **(kwargs or {}))
