"""Why is an autoencoder no generative model? What its decoder makes of codes from here and there, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.blocks import Progress, map_blocks
from trilemma.data import subset
from trilemma.drawing import Picture
from trilemma.families.family import Encodes, Family, FitsCodes
from trilemma.images import check_images, to_display
from trilemma.metrics.features import Features
from trilemma.metrics.frechet import frechet_estimate, frechet_flag
from trilemma.metrics.neighbours import nearest
from trilemma.metrics.network import feature_network
from trilemma.noise import ImageNoise, derive_seed
from trilemma.number import Number
from trilemma.parallel import ranks
from trilemma.questions.answer import Answer, Table
from trilemma.questions.posterior import decode, posterior
from trilemma.questions.question import Context, Question
from trilemma.run import Run
from trilemma.validate import MOST_IMAGES, Limits

KINDS = {
    "real": "the codes of held-out images",
    "mixture": "a mixture of ten Gaussians fitted to the codes",
    "gaussian": "one Gaussian fitted to the codes",
    "marginal": "noise with the spread of each dimension of the codes",
    "prior": "N(0, I)",
    "box": "evenly from a box twice as wide as the codes each way",
}
NEAR = 0.95
"""Share of reconstructed held-out images that count as near the data, which sets how near that is."""


@dataclass(frozen=True)
class Codes(Question):
    """What the decoder makes of N(0, I), of laws fitted to the codes, of real codes, and of a large box."""

    n: Annotated[int, Limits(1, MOST_IMAGES)] = 2000
    """Codes of each kind that are decoded, at most as many as there are held-out images."""

    name: ClassVar[str] = "codes"
    title: ClassVar[str] = "Laws fitted to the codes"
    sentence: ClassVar[str] = "What does a decoder without a prior make of codes that are drawn, and not encoded?"
    paper: ClassVar[str] = "Ghosh et al. 2020, From variational to deterministic autoencoders, arXiv:1903.12436"
    capabilities: ClassVar[tuple[type, ...]] = (Encodes, FitsCodes)

    @classmethod
    def routine(cls, run: Run) -> Question | None:
        return cls(n=1300)

    def answer(self, context: Context) -> Answer:
        data, seed = context.data, context.seed
        train, held_out = (data.batch(subset(rows, self.n, seed)) for rows in (data.train, data.test))
        found = decoded_codes(context.model, train, held_out, n=self.n, seed=seed, progress=context.progress)
        distances = {kind: _number(each.frechet, found.n) for kind, each in found.kinds.items()}
        floor = _number(found.floor, found.n)
        rows = [
            (kind, str(distances[kind]), f"{100 * each.near:.0f} %", KINDS[kind]) for kind, each in found.kinds.items()
        ]
        return Answer(
            self,
            context.run,
            numbers={"floor": floor} | {f"frechet_{kind}": number for kind, number in distances.items()},
            reading=[f"{found.n} images each, {found.features} features; held-out images of {data.name} {floor}"],
            flag=found.flag,
            values={
                "n": found.n,
                "features": found.features,
                "flag": found.flag,
                "floor": _plain(found.floor),
                "kinds": {k: {"frechet": _plain(each.frechet), "near": each.near} for k, each in found.kinds.items()},
            },
            tables={"": Table(("codes", "Fréchet distance", "near the data", "drawn from"), tuple(rows))},
            found=found,
            protocol={"images": data.name},
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        title = answer.title(f"no prior over codes, {answer.protocol['images']}")
        return {"codes": draw_codes(answer.found, title)}


def _plain(found: Number | None) -> dict[str, float | None] | None:
    return None if found is None else {"value": found.value, "standard_error": found.error}


def _number(found: Number | None, n: int) -> Number:
    if found is None:
        return Number(None, n=n, note="none, all are the same")
    return Number(found.value, found.error, better="lower", n=n)


@dataclass(frozen=True)
class Decoded:
    """What decoding one kind of codes gives.

    Attributes:
        frechet: Fréchet distance to the training images, in the features named by `DecodedCodes`, with its standard
            error; None where every image is the same.
        near: share of the images that are as near to a training image as 95 % of reconstructed held-out images are: of
            the kind ``real``, which are these, 0.95.
        images: uint8 [10, C, H, W], the first.
    """

    frechet: Number | None
    near: float
    images: Tensor


@dataclass(frozen=True)
class DecodedCodes:
    """Each kind of codes in `KINDS`, from the most like real ones.

    Attributes:
        kinds: what each gives.
        floor: Fréchet distance of the held-out images themselves.
        n: images decoded for each kind, and held-out images in the floor.
        features: name of the feature space.
        levels: of the images.
        flag: what must be said beside distances of so few images, if anything (`frechet_flag`).
    """

    floor: Number
    n: int
    features: str
    levels: int
    flag: str | None
    kinds: dict[str, Decoded] = field(default_factory=dict)


def decoded_codes(
    model: Family,
    train: Tensor,
    held_out: Tensor,
    *,
    n: int = 2000,
    features: str = "small",
    seed: int = 0,
    progress: Progress | None = None,
) -> DecodedCodes:
    """Decode N(0, I), laws fitted to the codes, real codes and a large box, and measure what comes out.

    The codes that the laws are fitted to are those of ``train`` under the weights that answer, not the ones remembered
    from training. The real codes are those of ``held_out``: decoded codes of the training images would be judged by
    these images themselves. A conditional model is told no label.

    Args:
        model: of a family that `Encodes` and `FitsCodes`, on its device.
        train, held_out: uint8 [N, C, H, W].
        n: images decoded for each kind of codes, at most as many as ``held_out`` has.
        features: a feature space of `feature_network`.

    Raises:
        ValueError: images that do not fit, or not more of them than features, in one line.
    """
    assert isinstance(model, FitsCodes)
    levels, network = model.spec.levels, feature_network(features, ranks(str(model.device)).device)
    held_out = check_images(held_out, model.spec)[:n]
    n = len(held_out)
    flag = frechet_flag(min(n, len(check_images(train, model.spec))), network.dims)
    if flag and flag.startswith("refused"):
        raise ValueError(f"what codes are worth is {flag}: ask with more images, by n")
    codes = posterior(model, train, seed=seed).mean.to(model.device)
    again = posterior(model, held_out, seed=seed).reconstructions
    real = network.of(to_display(train, levels))
    radius = torch.quantile(nearest(network.of(to_display(again, levels)), real)[0], NEAR)
    found = DecodedCodes(
        frechet_estimate(network.of(to_display(held_out, levels)), real), n, network.name, levels, flag
    )  # fmt: skip
    for i, kind in enumerate(KINDS):
        images = again if kind == "real" else decode(model, _drawn(model, kind, codes, n, seed))
        found.kinds[kind] = _measured(images, real, radius, network, levels)
        if progress:
            progress(i + 1, len(KINDS))
    return found


def _drawn(model: FitsCodes, kind: str, codes: Tensor, n: int, seed: int) -> Tensor:
    """``n`` codes of one kind, [n, latent]."""
    if kind == "box":
        low, high = codes.amin(0).cpu(), codes.amax(0).cpu()
        centre, half = (low + high) / 2, high - low  # twice as wide: half of the width is the whole of the codes'
        u = ImageNoise(derive_seed(seed, "box"), range(n)).uniform(codes.shape[1])
        return centre + (2 * u - 1) * half

    def drawn(rows: range, progress: Progress | None) -> tuple[Tensor]:
        return (model.draw_codes(kind, codes, ImageNoise(seed, rows, codes.device)),)

    return map_blocks(drawn, n, ranks(str(codes.device)))[0]


def _measured(images: Tensor, real: Tensor, radius: Tensor, network: Features, levels: int) -> Decoded:
    drawn = network.of(to_display(images, levels))
    near = float((nearest(drawn, real)[0] <= radius).double().mean())
    try:
        distance = frechet_estimate(drawn, real)
    except ValueError:  # every image the same
        distance = None
    return Decoded(distance, near, images[:10])


def draw_codes(found: DecodedCodes, title: str) -> Picture:
    """A row of decoded images for each kind of codes, with its numbers."""
    rows = []
    for kind, each in found.kinds.items():
        line = f"{KINDS[kind]}: Frechet distance {_in_words(each.frechet)}, near the data {100 * each.near:.0f} %"
        rows.append(drawing.below([drawing.words([line], 12), drawing.tiles(each.images, found.levels)], 2))
    lines = [
        f"{found.n} decoded codes of each kind, {found.features} features; held-out images: {_in_words(found.floor)}",
        "near: as near to a training image as 95 % of reconstructed held-out images",
        *([found.flag] if found.flag else []),
    ]
    return drawing.framed(drawing.below([drawing.words([title], 16), drawing.words(lines, 12), *rows], 10))


def _in_words(distance: Number | None) -> str:
    if distance is None:
        return "none, all are the same"
    return f"{distance.value:.2f}" + (f" ± {distance.error:.2f}" if distance.error is not None else "")
