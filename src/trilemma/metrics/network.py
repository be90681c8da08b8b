"""Feature spaces by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trilemma.metrics.features import FEATURES, CustomFeatures, Features, VectorFeatures
from trilemma.metrics.inception import InceptionFeatures
from trilemma.metrics.small import SmallFeatures
from trilemma.metrics.transformer import TransformerFeatures


def feature_network(
    features: str | Features | Callable[[Tensor], Tensor] = "small", device: torch.device | str = "cpu", name: str = ""
) -> Features:
    """Make a feature space by name, or of a function.

    Args:
        features: ``small``; ``vectors``, of data that are no images; ``inception``, that is ``inception/clean-fid``, or
            ``inception/`` and another preprocessing; ``dinov2`` or ``clip``, or those with ``/`` and a size, a Hub id
            or a local folder; or a function of images, as `CustomFeatures` takes it.
        device: where a network runs; ``small`` always runs on the CPU, a function where it likes.
        name: of a function; needed there, because cached statistics of real images go by it.

    Raises:
        ValueError: no such name, or the weights are missing or damaged.
    """
    if isinstance(features, Features):
        return features
    if not isinstance(features, str):
        return CustomFeatures(features, name)
    if features == "vectors":
        return VectorFeatures()
    kind, _, rest = features.partition("/")
    if features == "small":
        return SmallFeatures()
    if kind == "inception" and (not rest or features in FEATURES):
        return InceptionFeatures(rest or "clean-fid", torch.device(device))
    if kind in ("dinov2", "clip"):
        return TransformerFeatures(kind, rest, torch.device(device))
    raise ValueError(f"there are no features called {features!r}: choose from {', '.join(FEATURES)}")
