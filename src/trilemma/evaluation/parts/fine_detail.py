"""How sharp are samples? Their power at each spatial frequency beside that of real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trilemma.evaluation.measured import Measured
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.reading import WITHIN, unclear
from trilemma.evaluation.reference import Reference, display
from trilemma.evaluation.standing import place
from trilemma.metrics.spectrum import Spectrum, power_spectrum, sharpness_estimate
from trilemma.number import Number

MOST = 2000
"""Images of each kind, at most: a mean power needs no more."""


class FineDetail(Metric):
    name = "fine_detail"
    head = "Fine detail"
    group = "fidelity"
    meaning = (
        "Power of the samples in the finer half of the spatial frequencies, as a share of that of real images: 1 is as "
        "sharp as real, below 1 is blurred, above 1 has noise that real images have not."
    )
    misleads = (
        "Blur and noise at different frequencies cancel in it, and a sharp image need not be a good one: look at the "
        "curve and at the samples."
    )
    source = "power spectra, after Durall et al. 2020, arXiv:2003.01826"
    order = 50

    def measure(self, of: Measured) -> Number:
        if of.real.dataset.vector:
            return self.undefined("undefined, because these are vectors: they have no frequencies")
        shown, count = of.sample.images[:MOST], min(MOST, len(of.real.train_indices))
        return of.once("fine_detail", lambda: self.number(
            lambda: sharpness_estimate(shown, _real(of.real)), len(shown),
            f"{len(shown):,} images against {count:,} training images; Hann window, geometric mean over the "
            "frequencies",
        ))  # fmt: skip

    def record(self, of: Measured) -> dict[str, Any]:
        """Both spectra, for the page."""
        if self.measure(of).value is None:
            return {"spectrum": {}}
        own, wanted = power_spectrum(of.sample.images[:MOST]), _real(of.real)
        curves = {"frequencies": wanted.frequencies, "power": own.power, "real": wanted.power}
        return {"spectrum": {k: [float(f"{v:.5g}") for v in values.tolist()] for k, values in curves.items()}}

    def read(self, number: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> str:
        if floor is None or floor.value is None:
            return ""
        where = place(number, floor)
        if where == "alike":
            return f"as sharp as held-out real images, {WITHIN}"
        if where == "unclear":
            return unclear(number)
        share = f"{100 * (number.value or 0.0):.0f} % of the fine detail of real images"
        if where == "unknown":
            return share
        return f"blurred: {share}" if where == "worse" else f"noise that real images have not: {share}"


def _real(real: Reference) -> Spectrum:
    """Of training images; computed once."""
    if "spectrum" not in real.memo:
        real.memo["spectrum"] = power_spectrum(display(real.dataset, real.train_indices[:MOST]))
    found: Spectrum = real.memo["spectrum"]
    return found
