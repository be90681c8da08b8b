"""How sharp are samples? Their power at each spatial frequency beside that of real images."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trilemma.evaluation.reference import Reference, display
from trilemma.evaluation.scores import attempt
from trilemma.metrics.spectrum import Spectrum, power_spectrum, sharpness_estimate
from trilemma.number import Number

MOST = 2000
"""Images of each kind, at most: a mean power needs no more."""


def spectra(images: Tensor, real: Reference) -> tuple[dict[str, Number], dict[str, Any]]:
    """The share of fine detail that images keep, and both spectra as plain values for the report.

    Args:
        images: uint8 [N, C, H, W], 0 … 255.
        real: whose training images are the measure.
    """
    if real.dataset.vector:
        return {"fine_detail": Number(None, note="undefined, because these are vectors: they have no frequencies")}, {}
    shown, count = images[:MOST], min(MOST, len(real.train_indices))
    metric = attempt(
        lambda: sharpness_estimate(shown, _real(real)), "fine_detail", "none", len(shown),
        f"{len(shown):,} images against {count:,} training images; Hann window, geometric mean over the frequencies",
    )  # fmt: skip
    if metric.value is None:
        return {"fine_detail": metric}, {}
    own, wanted = power_spectrum(shown), _real(real)
    plain = {"frequencies": wanted.frequencies, "power": own.power, "real": wanted.power}
    return {"fine_detail": metric}, {k: [float(f"{v:.5g}") for v in values.tolist()] for k, values in plain.items()}


def _real(real: Reference) -> Spectrum:
    """Of training images; computed once."""
    if "spectrum" not in real.memo:
        real.memo["spectrum"] = power_spectrum(display(real.dataset, real.train_indices[:MOST]))
    found: Spectrum = real.memo["spectrum"]
    return found
