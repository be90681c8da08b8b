"""What the queries of autoregressive models share: the order of the values, and the refusal of every other family."""

from __future__ import annotations

import torch
from torch import Tensor

from trilemma.families import FAMILIES
from trilemma.families.autoregressive import Autoregressive
from trilemma.families.family import Family
from trilemma.images import Spec

Value = tuple[int, int, int]
"""Channel, row and column of one value of an image."""


def autoregressive(model: Family, question: str) -> Autoregressive:
    """The model itself, or a one-line ``ValueError`` that names the families that can answer the question."""
    if isinstance(model, Autoregressive):
        return model
    able = ", ".join(name for name, family in FAMILIES.items() if issubclass(family, Autoregressive))
    raise ValueError(
        f"{question} needs p(x) as a product over the values of an image; {model.name} has none, {able} do"
    )


def raster(groups: int, spec: Spec) -> Tensor:
    """The place of every group in the order, int64 [groups, H, W]: row by row, and R, G, B inside a pixel."""
    places = torch.arange(spec.height * spec.width * groups)
    return places.view(spec.height, spec.width, groups).permute(2, 0, 1)


def value_at(place: int, groups: int, spec: Spec) -> Value:
    """The inverse of `raster`: ``(group, row, column)``."""
    pixel, group = divmod(place, groups)
    return group, pixel // spec.width, pixel % spec.width


def checked_labels(model: Autoregressive, labels: Tensor | None, count: int) -> Tensor | None:
    """`Autoregressive.checked`, moved to the CPU: labels of all images, "no label" where a conditional model has none.

    Raises:
        ValueError: labels for an unconditional model, of another number or out of range, in one line.
    """
    checked = model.checked(labels, count)
    return None if checked is None else checked.cpu()
