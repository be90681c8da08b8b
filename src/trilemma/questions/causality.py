"""Does a model look ahead? Gradients tell: no output may depend on its own or on a later value.

A leak of the kind is the usual reason of likelihoods that are too good to be true.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trilemma.blocks import Progress
from trilemma.families.family import Orders
from trilemma.images import Spec
from trilemma.nets.masked import influence
from trilemma.noise import derive_seed
from trilemma.questions.answer import Answer
from trilemma.questions.question import Context, Question

BLOCK = 25_000
"""Values of images differentiated together, which bounds the memory."""

Value = tuple[int, int, int]
"""Channel, row and column of one value of an image."""


@dataclass(frozen=True)
class CausalityTest(Question):
    """Whether a model keeps its order."""

    name: ClassVar[str] = "causality"
    title: ClassVar[str] = "Causality"
    sentence: ClassVar[str] = "Verify causality by gradients: no value depends on itself or on a later one."
    capabilities: ClassVar[tuple[type, ...]] = (Orders,)

    def answer(self, context: Context) -> Answer:
        model = context.model
        assert isinstance(model, Orders)
        found = causality(model, context.progress, seed=context.seed).require()
        values = {"ok": found.ok, "checked": found.checked, "places": found.places}
        return Answer(self, context.run, kind="exact", reading=[found.text], values=values, found=found)


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
    model: Orders, progress: Progress | None = None, *, positions: Sequence[int] | None = None, seed: int = 0
) -> Causality:
    """Verify by gradients in float64 on the CPU that a model keeps the order.

    At place i, outputs of all values up to and including i, weighted by random numbers, are differentiated by all
    inputs from i on, at an image of random values and with a random label: each derivative must be exactly zero.
    Checked at every i this covers every pair of an output and an input that does not come before it. Every place is an
    item of a batch with an image of its own, so that a block of places costs one pass forward and one back.

    A ReLU that happens to be off would hide what stands behind it; here all ReLUs leak, so that every connection of
    the net carries a derivative.

    Args:
        model: of any family that `Orders`.
        progress: told ``(places checked, all)``.
        positions: the places to check, by default all; `few_places` gives some for a quick test.
        seed: of the images, labels and weights.

    Raises:
        ValueError: a position outside the image, in one line.
    """
    places = model.spec.height * model.spec.width * model.groups
    wanted = range(places) if positions is None else sorted(set(positions))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < places:
        raise ValueError(f"positions must be from 0 to {places - 1}, not {wanted[0]} to {wanted[-1]}")
    twin = in_double(model)
    ahead = _ahead(twin, wanted, seed, so_far=True, progress=progress)
    if not ahead:
        text = f"no value sees itself or a later one: verified at {len(wanted)} of {places} places by gradients"
        return Causality(True, len(wanted), places, (), text)
    # Which outputs are to blame: each by itself. What a place sees from itself on is a leak of an earlier output, too.
    alone = _ahead(twin, range(max(i for i, _ in ahead) + 1), seed, so_far=False) or ahead
    leaks = tuple((_value(i, model.groups, model.spec), _value(j, model.groups, model.spec)) for i, j in alone)
    value, seen = leaks[0]
    text = (
        f"the model looks ahead: value {value} sees {seen}, as (channel, row, column); "
        f"{len(leaks)} values do, so its p(x) is no probability"
    )
    return Causality(False, len(wanted), places, leaks, text)


def few_places(model: Orders) -> list[int]:
    """Places for a quick test: all groups of the first and last pixel and of three along the middle row."""
    height, width, groups = model.spec.height, model.spec.width, model.groups
    row = height // 2
    pixels = {0, row * width, row * width + width // 2, row * width + width - 1, height * width - 1}
    return sorted(pixel * groups + group for pixel in pixels for group in range(groups))


def in_double(model: Orders) -> Orders:
    """A copy in float64 on the CPU, to be differentiated."""
    twin = copy.deepcopy(model)
    assert isinstance(twin, nn.Module)
    return twin.cpu().double().eval()


def _ahead(
    model: Orders, places: Iterable[int], seed: int, so_far: bool, progress: Progress | None = None
) -> list[tuple[int, int]]:
    """``(i, j)`` of each place i where the outputs up to i, or of i alone, see an input j >= i; j is the first."""
    spec = model.spec
    grid = spec.height, spec.width, model.groups
    order = torch.arange(spec.height * spec.width * model.groups).view(grid).permute(2, 0, 1)  # [groups, H, W]
    generator = torch.Generator().manual_seed(derive_seed(seed, "causality"))
    wanted, found = torch.tensor(list(places)), []
    size = max(1, BLOCK // spec.dims)
    for start in range(0, len(wanted), size):
        i = wanted[start : start + size]
        x = torch.randint(spec.levels, (len(i), *spec.shape), generator=generator).to(torch.uint8)
        labels = torch.randint(spec.classes + 1, (len(i),), generator=generator) if spec.classes else None
        place = i[:, None, None, None]
        looked_at = order <= place if so_far else order == place  # [N, groups, H, W]
        weights = torch.randn((len(i), *grid, model.outputs), generator=generator, dtype=torch.float64)
        weights *= looked_at.permute(0, 2, 3, 1)[..., None]
        with LeakyReLUs():
            gradient = influence(model.conditionals, model.features(x).double(), weights, labels)
        leaks = (gradient != 0) & (order >= place)  # NaN is unequal to 0 too
        first = torch.where(leaks, order, order.numel()).flatten(1).amin(1)
        found += [(a, b) for a, b in zip(i.tolist(), first.tolist(), strict=True) if b < order.numel()]
        if progress:
            progress(start + len(i), len(wanted))
    return found


def _value(place: int, groups: int, spec: Spec) -> Value:
    """Which value stands at a place of the order: ``(group, row, column)``."""
    pixel, group = divmod(place, groups)
    return group, pixel // spec.width, pixel % spec.width


class LeakyReLUs(TorchFunctionMode):
    """Within it every ReLU lets a tenth of the negative values through."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.relu, Tensor.relu, F.relu):
            return F.leaky_relu(args[0], 0.1)
        return func(*args, **(kwargs or {}))
