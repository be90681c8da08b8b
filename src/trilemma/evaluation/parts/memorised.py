"""Did the model copy its training images? A verdict with a p-value, in pixels and in features, and closest pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trilemma.evaluation import pictures
from trilemma.evaluation.measured import Measured, held_out
from trilemma.evaluation.metric import Metric
from trilemma.evaluation.nearness import (
    MOST_SAMPLES,
    Closest,
    by_pixels,
    real_nearness,
    shrunk,
    to_training,
    train_pixels,
)
from trilemma.evaluation.neighbourhoods import mutual, too_few
from trilemma.evaluation.reference import Reference
from trilemma.metrics import Alike, Copies, Nearness, Pair, Whitened, verdict
from trilemma.metrics.estimate import share_of
from trilemma.metrics.whitened import ENOUGH
from trilemma.number import Number

PAIRS = 10


class Memorised(Metric):
    name = "memorised"
    head = "Copied"
    group = "memorisation"
    meaning = (
        "Share of samples nearer to a training image, in pixels or features, than equally smooth real images come; "
        "with a p-value."
    )
    misleads = (
        "It counts near copies of whole images only: a model can reuse parts, turned or recoloured images unseen."
    )
    source = "held-out images as the null, after Meehan et al. 2020, arXiv:2004.05675"
    better = "lower"
    floor = False
    table, order = "first", 5

    def measure(self, of: Measured) -> Number:
        return _memory(of).number

    def record(self, of: Measured) -> dict[str, Any]:
        found = _memory(of).record
        return {"memorisation": found} if found else {}

    def draw(self, of: Measured, folder: Path) -> dict[str, str]:
        saved = {}
        for space, pairs in _memory(of).pairs.items():
            if pairs and not of.real.dataset.vector:
                picture = pictures.closest(folder / f"closest-{space}.png", pairs, of.sample.images, of.real)
                saved[f"closest_{space}"] = picture.name
        return saved

    def read(self, number: Number, floor: Number | None, rungs: Sequence[dict[str, Any]] | None) -> str:
        if number.value:
            return "samples that are too near to be chance"
        unseen = f"; fewer than {300 / number.n:.2g} % cannot be seen at N = {number.n:,}" if number.n > 3 else ""
        return f"no more near copies than by chance{unseen}"


@dataclass(frozen=True)
class Memory:
    """All that is known about copying.

    Attributes:
        number: the share of copies.
        record: the two verdicts in words, with p-values and pairs.
        pairs: the most suspicious pairs, closest first, by ``pixels`` and by ``features``; ``training`` is an index
            of the data set.
    """

    number: Number
    record: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, list[Closest]] = field(default_factory=dict)


def _memory(of: Measured) -> Memory:
    return of.once("memory", lambda: _verdict(of))


def _verdict(of: Measured) -> Memory:
    near, real = by_pixels(of), of.real
    n, protocol = len(near.distance), real.protocol
    try:
        found = _by_pixels_and_features(of, near)
    except ValueError as problem:
        return Memory(Number(None, n=n, flag=f"refused: {problem}"))
    # Two looks at the same question: the smaller p-value is doubled.
    space = min(found, key=lambda key: found[key].p_value)
    p_value = min(1.0, 2 * found[space].p_value)
    best, train = found[space], train_pixels(real)
    error = share_of(best.share * n, n).error
    flag = f"p = {p_value:.2g}: {best.text}, by {space}" if p_value < 0.01 else None
    number = Number(
        best.share if p_value < 0.05 else 0.0, error, n=n, flag=flag,
        note=f"{Memorised.meaning} Here by {space}, p = {p_value:.2g}",
        protocol=f"pixels against {len(train):,} training images and {real.network.name} features against "
        f"{real.train.n:,}; {len(real.held_out.features):,} held-out images"
        + (" are the null" if real.dataset.vector else ", in pixels also blurred and whitened, are the null")
        + ("; searched by an index, which may miss neighbours" if protocol.search == "index" else ""),
    )  # fmt: skip
    record = {
        key: {
            "share": c.share,
            "p_value": c.p_value,
            "exact": c.exact,
            "exact_held_out": c.exact_held_out,
            "text": c.text,
        }
        for key, c in found.items()
    }
    pairs = {
        "pixels": _pairs(found["pixels"], real.dataset.train, math.sqrt(train.shape[1])),
        "features": _pairs(found["features"], real.train_indices, 1.0),
    }
    told = {key: [asdict(pair) for pair in listed] for key, listed in pairs.items()}
    return Memory(number, {"p_value": p_value, **record, "pairs": told}, pairs)


def _by_pixels_and_features(of: Measured, near: Nearness) -> dict[str, Copies]:
    """The two verdicts; of images by whitened pixels, and by features only among images that are faithful in them.

    Smooth and average images are nearer to everything. By pixels they are compared with real images that are as smooth;
    in features there are none, so that only samples that are mutually near the data are judged, beside held-out images
    of which the same is true. A copy always is.
    """
    sample, real = of.sample, of.real
    by_features = to_training(sample.features, real.train.features, real)
    real_features = real_nearness(real, "features")
    plain = near, real_nearness(real, "pixels")
    if real.dataset.vector:
        return {
            "pixels": verdict(*plain, pairs=PAIRS),
            "features": verdict(by_features, real_features, pairs=PAIRS),
        }
    alike, images = _alike(real), shrunk(sample.images[:MOST_SAMPLES])
    pixels = verdict(*alike.judge(images), pairs=PAIRS, plain=plain, distinct=False)
    pixels = replace(pixels, pairs=tuple(_with_distance(pair, images, real) for pair in pixels.pairs))
    if len(real.dataset.train) < ENOUGH:
        text = f"{len(real.dataset.train)} training images are too few to say by pixels"
        pixels = replace(pixels, share=0.0, p_value=1.0, text=text)
    judged, null = (_faithful(each).nonzero()[:, 0] for each in (of, held_out(real)))
    if not len(judged) or not len(null):
        text = "no sample is near enough to the data to be a copy in features"
        return {"pixels": pixels, "features": Copies(0.0, 1.0, 0, 0, (), text)}
    features = verdict(_rows(by_features, judged), _rows(real_features, null), pairs=PAIRS)
    shown = tuple(replace(pair, sample=int(judged[pair.sample])) for pair in features.pairs)
    text, count = features.text, len(sample.features)
    if left_out := count - len(judged):
        text = f"{text}; {left_out:,} of {count:,} samples, too far from the data to be copies, are not judged"
    share = features.share * len(judged) / count
    return {"pixels": pixels, "features": replace(features, pairs=shown, share=share, text=text)}


def _faithful(of: Measured) -> Tensor:
    """Which images are mutually near the data, bool [N]; all of them where they are too few to say."""
    return torch.ones(len(of.sample.features), dtype=torch.bool) if too_few(of) else mutual(of).faithful


def _rows(near: Nearness, rows: Tensor) -> Nearness:
    return Nearness(near.distance[rows], near.index[rows], near.ratio[rows])


def _with_distance(pair: Pair, images: Tensor, real: Reference) -> Pair:
    """The pair with its Euclidean distance in pixels."""
    apart = images[pair.sample].flatten().double() - train_pixels(real)[pair.train].double()
    return replace(pair, distance=apart.norm().item())


def _alike(real: Reference) -> Alike:
    """Whitened training images, and the null; made once."""
    if "alike" not in real.memo:
        shape = shrunk(real.held_out_images[:1]).shape[1:]
        train, seed = train_pixels(real).view(-1, *shape), real.protocol.seed
        real.memo["alike"] = Alike(Whitened(train, seed), shrunk(real.held_out_images), train, seed)
    found: Alike = real.memo["alike"]
    return found


def _pairs(found: Copies, rows: Any, scale: float) -> list[Closest]:
    listed = [Closest(pair.sample, int(rows[pair.train]), pair.distance / scale) for pair in found.pairs]
    return sorted(listed, key=lambda pair: pair.distance)
