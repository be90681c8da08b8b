"""What a matrix of features must be before anything is measured on it; every refusal is one line."""

from __future__ import annotations

import torch
from torch import Tensor


def check_features(features: Tensor, what: str = "features", least: int = 2, convert: bool = True) -> Tensor:
    """Return a matrix of features ``[N, d]`` as float64 on the CPU, or raise ``ValueError`` with one line.

    Args:
        what: what to call them in the message.
        least: fewest rows allowed; with 2 or more, rows that are all the same are refused as well.
        convert: False to keep the type, for sets that are converted in parts.
    """
    features = torch.as_tensor(features).detach().cpu()
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{what} must be a matrix [N, d], not of shape {list(features.shape)}")
    if len(features) < least:
        raise ValueError(f"{what} need at least {least} rows, not {len(features)}")
    if features.is_floating_point() and not features.isfinite().all():
        bad = int((~features.isfinite()).any(1).sum())
        raise ValueError(f"{what} contain NaN or infinity in {bad} of {len(features)} rows")
    if least > 1 and torch.equal(features[0], features[-1]) and bool((features == features[0]).all()):
        raise ValueError(f"{what} are the same in all {len(features)} rows: there is no distribution to measure")
    return features.double() if convert else features


def check_same_dims(a: int, b: int) -> None:
    """Raise ``ValueError`` where two sets have different feature dimensions."""
    if a != b:
        raise ValueError(f"the two sets have features of {a} and {b} dimensions: use the same features for both")


def check_labels(labels: Tensor, count: int, classes: int) -> Tensor:
    """Return labels ``[count]`` of 0 … classes - 1 as int64 on the CPU, or raise ``ValueError`` with one line."""
    labels = torch.as_tensor(labels).detach().cpu()
    if labels.ndim != 1 or len(labels) != count or labels.is_floating_point():
        raise ValueError(f"labels must be {count} integers, one per image, not {labels.dtype} {list(labels.shape)}")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"labels must be 0 to {classes - 1} for {classes} classes, not {int(labels.min())} to {int(labels.max())}"
        )
    return labels.long()
