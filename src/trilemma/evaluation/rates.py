"""VAEs of several β side by side: what their codes cost, what they leave out, and how blurred that makes samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from trilemma.data import Dataset
from trilemma.data.dataset import Indices
from trilemma.images import to_display
from trilemma.metrics.spectrum import Spectrum, power_spectrum, sharpness
from trilemma.questions.rate_distortion import RatePoint, rate_point
from trilemma.run import Run
from trilemma.sampling import sample

SHOWN = 10
"""Samples of each β in the picture."""


@dataclass(frozen=True)
class Rates:
    """One point for each β, in the order of the runs.

    Attributes:
        points: rate, distortion, active latents and sharpness of the samples.
        samples: β → uint8 [10, C, H, W].
        spectra: of the held-out images, first, and of the samples by the name of their β.
    """

    points: list[RatePoint]
    samples: dict[float, Tensor]
    spectra: dict[str, Spectrum]


def rates(
    runs: Sequence[Run],
    dataset: Dataset,
    rows: Indices,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Rates:
    """Ask VAEs of different β about the same images, and draw as many samples from each.

    Args:
        runs: of VAEs of the data's shape.
        rows: which images of the data set; held-out ones.

    Raises:
        ValueError: two runs of one β, another shape, or a family without rate and distortion in nats, in one line.
    """
    for run in runs:
        if run.config.spec.image_shape != dataset.spec().image_shape:
            raise ValueError(f"{run.path} draws {run.config.spec.image_shape}, the images are of another shape")
    images = dataset.batch(rows)
    real = power_spectrum(to_display(images, dataset.levels))
    found = Rates([], {}, {"held-out images": real})
    for done, run in enumerate(runs, 1):
        point = rate_point(run, images, seed=seed, device=device)
        if point.beta in found.samples:
            raise ValueError(f"two of the runs have beta {point.beta:g}: one point for each beta")
        drawn = sample(run, len(rows), seed=seed, device=device).images
        spectrum = power_spectrum(to_display(drawn, dataset.levels))
        found.points.append(replace(point, sharpness=sharpness(spectrum, real)))
        found.samples[point.beta], found.spectra[f"beta {point.beta:g}"] = drawn[:SHOWN], spectrum
        if progress:
            progress(done, len(runs))
    return found


def in_words(point: RatePoint) -> str:
    """A point as a line."""
    blur = "" if point.sharpness is None else f", fine detail of samples {100 * point.sharpness:.1f} % of real"
    return (
        f"beta {point.beta:g}: rate {point.rate:.2f} + distortion {point.distortion:.2f} = {point.bound:.2f} nats, "
        f"{point.active} of {point.latents} latents active{blur}"
    )
