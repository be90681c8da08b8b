"""Why is an autoencoder no generative model? What its decoder makes of codes from here and there, measured."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from trilemma import drawing
from trilemma.families.autoencoder import Autoencoder, AutoencoderOptions
from trilemma.families.family import Family, Progress
from trilemma.images import to_display
from trilemma.metrics.estimate import Estimate
from trilemma.metrics.features import Features, feature_network
from trilemma.metrics.frechet import frechet_estimate, frechet_flag
from trilemma.metrics.neighbours import nearest
from trilemma.noise import ImageNoise, derive_seed
from trilemma.parallel import ranks
from trilemma.questions.decoders import checked, evaluating, given_labels, opened
from trilemma.questions.posterior import decode, posterior
from trilemma.run import Run

BLOCK = 64
"""Images drawn together."""

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
class Sampled:
    """What decoding one kind of codes gives.

    Attributes:
        frechet: Fréchet distance to the training images, in the features named by `Samplers`, with its standard error;
            None where every image is the same.
        near: share of the images that are as near to a training image as 95 % of reconstructed held-out images are: of
            the kind ``real``, which are these, 0.95.
        images: uint8 [10, C, H, W], the first.
    """

    frechet: Estimate | None
    near: float
    images: Tensor


@dataclass(frozen=True)
class Samplers:
    """Each kind of codes in `KINDS`, from the most like real ones.

    Attributes:
        kinds: what each gives.
        floor: Fréchet distance of the held-out images themselves.
        n: images decoded for each kind, and held-out images in the floor.
        features: name of the feature space.
        levels: of the images.
        flag: what must be said beside distances of so few images, if anything (`frechet_flag`).
    """

    floor: Estimate
    n: int
    features: str
    levels: int
    flag: str | None
    kinds: dict[str, Sampled] = field(default_factory=dict)


def samplers(
    run: Run | Family,
    train: Tensor,
    held_out: Tensor,
    *,
    n: int = 2000,
    features: str = "small",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Samplers:
    """Decode N(0, I), densities fitted to the codes, real codes and a large box, and measure what comes out.

    The codes that the densities are fitted to are those of ``train`` under the weights that answer, not the ones
    remembered from training (a Gaussian and the mixture are fitted to the last 1,024). The real codes are those of
    ``held_out``: decoded codes of the training images would be judged by these images themselves. A conditional model
    is told no label.

    Args:
        run: a run, or a model loaded from one, of an autoencoder.
        train, held_out: uint8 [N, C, H, W].
        n: images decoded for each kind of codes, at most as many as ``held_out`` has.
        features: a feature space of `feature_network`.

    Raises:
        ValueError: another family, images that do not fit, or not more of them than features, in one line.
    """
    where = ranks(device).device
    model = opened(run, where)
    if not isinstance(model, Autoencoder):
        raise ValueError(f"--samplers is about an autoencoder, which lacks a sampler; {model.name} has one of its own")
    levels, network = model.spec.levels, feature_network(features, where)
    n = min(n, len(checked(held_out, model.spec)))
    held_out = held_out[:n]
    flag = frechet_flag(min(n, len(checked(train, model.spec))), network.dims)
    if flag and flag.startswith("refused"):
        raise ValueError(f"what an autoencoder's codes are worth is {flag} (-n, and held-out images)")
    codes = posterior(model, train, seed=seed, device=str(model.device)).mean
    again = posterior(model, held_out, seed=seed, device=str(model.device)).reconstructions
    real = network.of(to_display(train, levels))
    radius = torch.quantile(nearest(network.of(to_display(again, levels)), real)[0], NEAR)
    floor = frechet_estimate(network.of(to_display(held_out, levels)), real)
    answer = Samplers(floor, n, network.name, levels, flag)
    kept = model.memory.clone(), model.seen.clone(), model.code_mean.clone(), model.code_square.clone()
    try:
        model.seen.zero_()  # nothing of what training remembered, were there fewer codes than are kept
        model.remember(codes.to(model.device))
        model.code_mean.copy_(codes.mean(0))
        model.code_square.copy_(codes.square().mean(0))
        for i, kind in enumerate(KINDS):
            images = again if kind == "real" else _decoded(model, kind, codes, n, seed)
            answer.kinds[kind] = _measured(images, real, radius, network, levels)
            if progress:
                progress(i + 1, len(KINDS))
    finally:
        for buffer, value in zip((model.memory, model.seen, model.code_mean, model.code_square), kept, strict=True):
            buffer.copy_(value)
    return answer


def _decoded(model: Autoencoder, kind: str, codes: Tensor, n: int, seed: int) -> Tensor:
    """``n`` images of one kind of codes."""
    if kind == "box":
        low, high = codes.amin(0), codes.amax(0)
        centre, half = (low + high) / 2, high - low  # twice as wide: half of the width is the whole of the codes'
        u = ImageNoise(derive_seed(seed, "box"), range(n)).uniform(codes.shape[1])
        return decode(model, centre + (2 * u - 1) * half, device=str(model.device))
    options = AutoencoderOptions(codes=kind)  # type: ignore[arg-type]
    parts = []
    for start in range(0, n, BLOCK):
        rows = range(start, min(start + BLOCK, n))
        labels = given_labels(model, None, len(rows))
        with torch.no_grad(), evaluating(model):
            parts.append(model.sample(ImageNoise(seed, rows, model.device), labels, options).cpu())
    return torch.cat(parts)


def _measured(images: Tensor, real: Tensor, radius: Tensor, network: Features, levels: int) -> Sampled:
    drawn = network.of(to_display(images, levels))
    near = float((nearest(drawn, real)[0] <= radius).double().mean())
    try:
        distance = frechet_estimate(drawn, real)
    except ValueError:  # every image the same
        distance = None
    return Sampled(distance, near, images[:10])


def in_words(distance: Estimate | None) -> str:
    """A Fréchet distance with its error."""
    if distance is None:
        return "none, all are the same"
    return f"{distance.value:.2f}" + (f" ± {distance.error:.2f}" if distance.error is not None else "")


def draw_samplers(answer: Samplers, path: str | os.PathLike[str], title: str) -> Path:
    """A PNG: a row of decoded images for each kind of codes, with its numbers."""
    rows = []
    for kind, sampled in answer.kinds.items():
        scale = drawing.scale_for(max(sampled.images.shape[2:]), 56)
        pictures = [drawing.magnified(picture, scale) for picture in drawing.rgb(sampled.images, answer.levels)]
        numbers = [f"Frechet distance {in_words(sampled.frechet)}", f"near the data {100 * sampled.near:.0f} %"]
        rows.append(
            drawing.below([drawing.words([f"{KINDS[kind]}: {', '.join(numbers)}"], 12), drawing.beside(pictures, 3)], 2)
        )
    lines = [
        f"{answer.n} decoded codes of each kind, {answer.features} features; held-out images: {in_words(answer.floor)}",
        "near: as near to a training image as 95 % of reconstructed held-out images",
        *([answer.flag] if answer.flag else []),
    ]
    return drawing.save(
        drawing.framed(drawing.below([drawing.words([title], 16), drawing.words(lines, 12), *rows], 10)), path
    )
