"""What a code costs and what it saves: rate against distortion, and how blurred the images become.

Alemi, Poole, Fischer, Dillon, Saurous & Murphy 2018, "Fixing a broken ELBO", arXiv 1711.00464: the ELBO is
-(rate + distortion), so all points of a line of slope -1 have one bound, and β chooses where on the curve of the best
codes a VAE ends up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress
from trilemma.data import Dataset
from trilemma.data.dataset import Indices
from trilemma.drawing import Picture
from trilemma.families import FAMILIES
from trilemma.families.family import Decodes, Encodes, Family, Observes
from trilemma.images import to_display
from trilemma.metrics.spectrum import Spectrum, power_spectrum, sharpness
from trilemma.number import Number
from trilemma.parallel import ranks
from trilemma.questions.answer import Answer
from trilemma.questions.posterior import posterior
from trilemma.questions.question import Context, Question
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.validate import MOST_IMAGES, Limits

SHOWN = 10
"""Samples of each β in the picture."""

LINES = (
    (32, 32, 32), (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233),
)  # fmt: skip
"""The first, dark, is for real images."""


@dataclass(frozen=True)
class Rates(Question):
    """Rate against distortion of this run and of others with another β, and how blurred their samples are."""

    others: str = ""
    """Runs with another --model.beta: RUN,RUN."""
    n: Annotated[int, Limits(1, MOST_IMAGES)] = 1000
    """Held-out images, and as many samples of each run."""

    name: ClassVar[str] = "rates"
    title: ClassVar[str] = "Rate and distortion"
    sentence: ClassVar[str] = "What do codes cost, what do they leave out, and how blurred does that make samples?"
    paper: ClassVar[str] = "Alemi et al. 2018, Fixing a broken ELBO, arXiv:1711.00464"
    capabilities: ClassVar[tuple[type, ...]] = (Encodes, Observes)
    argument: ClassVar[str] = "others"

    @classmethod
    def unable(cls, run: Run) -> str | None:
        family = FAMILIES[run.config.family]
        assert issubclass(family, Observes)
        if not family.defined:
            return "its distortion is in nats, of a p(x|z) that the family itself defines"
        return family.lacks_density(run.config.model)

    def answer(self, context: Context) -> Answer:
        runs = [context.run, *(Run.open(Path(other.strip())) for other in self.others.split(",") if other.strip())]
        for run in runs[1:]:
            if reason := self.able(run):
                raise ValueError(f"{run.title} cannot be asked {self.name}: {reason}")
        batch = context.source(None, self.n, self.n)
        found = rates(
            runs, batch.dataset, batch.indices, seed=context.seed, device=context.device, progress=context.progress
        )
        own, n = found.points[0], len(batch.indices)
        parts = {"rate": own.rate, "distortion": own.distortion, "bound": own.bound}
        return Answer(
            self,
            context.run,
            kind="bound",
            numbers={name: Number(value, unit="nats", n=n) for name, value in parts.items()},
            reading=[point.text for point in found.points],
            values={
                "n": n,
                "unit": "nats per image",
                "runs": [str(run.path) for run in runs],
                "points": [asdict(point) | {"bound": point.bound} for point in found.points],
            },
            found=found,
            protocol=batch.protocol,
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        found, levels = answer.found, answer.run.config.spec.levels
        n = answer.values["n"]
        title = f"{answer.protocol['images']}, {n} held-out images and as many samples"
        return {
            "rate-distortion": draw_rate_distortion(
                found.points, f"Rate and distortion: {title}", found.samples, levels
            ),
            "spectra": draw_spectra(found.spectra, f"Power spectra: {title}"),
        }


@dataclass(frozen=True)
class RatePoint:
    """One model on the plane, means over images in nats.

    Attributes:
        beta: that it was trained with.
        rate: KL(q(z|x) ‖ p(z)).
        distortion: -log p(x|z), z ~ q(z|x).
        active: latents that vary over the images.
        latents: how many there are.
        sharpness: of its samples, as `trilemma.metrics.spectrum.sharpness`; None where it was not measured.
    """

    beta: float
    rate: float
    distortion: float
    active: int
    latents: int
    sharpness: float | None = None

    @property
    def bound(self) -> float:
        """rate + distortion: -log p(x) is at most this."""
        return self.rate + self.distortion

    @property
    def text(self) -> str:
        blur = "" if self.sharpness is None else f", fine detail of samples {100 * self.sharpness:.1f} % of real"
        return (
            f"beta {self.beta:g}: rate {self.rate:.2f} + distortion {self.distortion:.2f} = {self.bound:.2f} nats, "
            f"{self.active} of {self.latents} latents active{blur}"
        )


def rate_point(model: Family, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> RatePoint:
    """Where a model stands for some images, uint8 [N, C, H, W].

    Raises:
        ValueError: its distortion is not in nats, or its codes are points, in one line.
    """
    assert isinstance(model, Encodes) and isinstance(model, Decodes)
    known = posterior(model, images, labels, seed=seed)
    if known.rate is None or model.distortion_unit != "nats":
        raise ValueError(f"a rate and a distortion in nats need q(z|x) and p(x|z): {model.name} has a distance alone")
    return RatePoint(
        getattr(model.config, "beta", 1.0),  # 1 is the bound itself
        float(known.rate.sum()),
        float(known.distortion.mean()),
        int(known.active.sum()),
        len(known.active),
    )


@dataclass(frozen=True)
class Sweep:
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
    rows: Indices | Sequence[int],
    *,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Sweep:
    """Ask models of different β about the same images, and draw as many samples from each.

    Args:
        runs: of models of the data's shape that have q(z|x) and p(x|z).
        rows: which images of the data set; held-out ones.

    Raises:
        ValueError: two runs of one β, another shape, or a model without rate and distortion in nats, in one line.
    """
    for run in runs:
        if run.config.spec.image_shape != dataset.spec().image_shape:
            raise ValueError(f"{run.title} draws {run.config.spec.image_shape}, the images are of another shape")
    images = dataset.batch(rows)
    real = power_spectrum(to_display(images, dataset.levels))
    found = Sweep([], {}, {"held-out images": real})
    for done, run in enumerate(runs, 1):
        model = run.model(ranks(device).device)
        point = rate_point(model, images, seed=seed)
        if point.beta in found.samples:
            raise ValueError(f"two of the runs have beta {point.beta:g}: one point for each beta")
        drawn = sample(model, len(rows), seed=seed, device=device).images
        spectrum = power_spectrum(to_display(drawn, dataset.levels))
        found.points.append(replace(point, sharpness=sharpness(spectrum, real)))
        found.samples[point.beta], found.spectra[f"beta {point.beta:g}"] = drawn[:SHOWN], spectrum
        if progress:
            progress(done, len(runs))
    return found


def draw_rate_distortion(
    points: Sequence[RatePoint], title: str, samples: Mapping[float, Tensor] | None = None, levels: int = 256
) -> Picture:
    """The curve: each β at its rate and distortion, with the line of the best bound, and what it looks like.

    Args:
        points: one for each β.
        samples: β → uint8 [N, C, H, W], drawn as a row under the curve.
        levels: of the samples.
    """
    points = sorted(points, key=lambda point: point.rate)
    rates, distortions = [p.rate for p in points], [p.distortion for p in points]
    x, y = _span(rates, 0.08), _span(distortions, 0.12)
    names = ("rate KL(q(z|x) || p(z)), nats", "distortion -log p(x|z), nats")
    plot = drawing.Plot((560, 420), x, y, names, (drawing.steps(*x, 6), drawing.steps(*y, 6)))
    best = min(point.bound for point in points)
    ends = [(rate, best - rate) for rate in torch.linspace(*x, 200).tolist() if y[0] <= best - rate <= y[1]]
    if len(ends) > 1:
        plot.line(ends, drawing.FAINT, 1)
    plot.line(list(zip(rates, distortions, strict=True)), drawing.BLUE)
    for point in points:
        across, up = plot.at(point.rate, point.distortion)
        plot.pen.ellipse((across - 4, up - 4, across + 4, up + 4), fill=drawing.ORANGE)
        text = f"beta {point.beta:g}"
        place = min(across + 7, plot.right - drawing.font(12).getlength(text))  # within the picture
        plot.pen.text((place, up - 18), text)
    lines = [f"grey: all codes with the best bound, rate + distortion = {best:.1f} nats"]
    for point in points:
        blur = "" if point.sharpness is None else f", fine detail of samples {100 * point.sharpness:.0f} % of real"
        lines.append(
            f"beta {point.beta:g}: rate {point.rate:.1f} + distortion {point.distortion:.1f} = {point.bound:.1f}, "
            f"{point.active} of {point.latents} latents active{blur}"
        )
    meaning = [
        "Rate: what the code says of an image. Distortion: what it leaves out. To the right codes say more and images",
        "are told apart; to the left (large beta) they say less, and what they leave out is averaged: blur.",
    ]
    parts = [drawing.words([title], 16), drawing.words(meaning, 12), plot.finished(), drawing.words(lines, 12)]
    for beta, images in sorted((samples or {}).items()):
        name = drawing.words([f"samples, beta {beta:g}"], 12, 130)
        parts.append(drawing.beside([name, drawing.tiles(images, levels, 48)], 4))
    return drawing.framed(drawing.below(parts, 10))


def draw_spectra(spectra: Mapping[str, Spectrum], title: str) -> Picture:
    """Power against frequency, logarithmic in power; the first of ``spectra`` should be the real images'."""
    logs = {name: spectrum.power.clamp(min=1e-12).log10() for name, spectrum in spectra.items()}
    values = torch.cat(list(logs.values()))
    y = _span(values.tolist(), 0.05)
    ticks = (drawing.steps(0, 0.5, 5), drawing.steps(*y, 6))
    plot = drawing.Plot((560, 380), (0, 0.5), y, ("cycles per pixel", "log10 of the power"), ticks)
    entries = []
    for colour, (name, spectrum) in zip(LINES * len(spectra), spectra.items(), strict=False):
        plot.line(list(zip(spectrum.frequencies.tolist(), logs[name].tolist(), strict=True)), colour)
        entries.append((drawing.swatch(colour, 10), name))
    keys = [drawing.key(entries[i : i + 4]) for i in range(0, len(entries), 4)]
    parts = [drawing.words([title], 16), plot.finished(), *keys]
    return drawing.framed(drawing.below(parts, 10))


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    wide = max(high - low, 1e-6)
    return low - margin * wide, high + margin * wide
