"""Run + seeds → images.

Image *i* is a function of ``(seed, i)`` alone. Its noise is its own (`ImageNoise`), and because the rounding of a
convolution depends on the shape of the batch it sits in, images are always computed in blocks of `BLOCK`: image *i* at
row ``i % BLOCK`` of block ``i // BLOCK``, however many are asked for, and whichever process computes the block.
"""

from __future__ import annotations

import math
import operator
import os
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trilemma.bars import told
from trilemma.blocks import BLOCK, part_of
from trilemma.config import options_of
from trilemma.data.dataset import examples
from trilemma.families.family import Family, Progress
from trilemma.images import NotFinite, Spec
from trilemma.noise import ImageNoise, derive_seed
from trilemma.parallel import Ranks, ranks
from trilemma.preview import PREVIEWED, preview, shape_text
from trilemma.run import Run, opened
from trilemma.validate import MOST_IMAGES


@dataclass(frozen=True, repr=False)
class Samples:
    """What a sampler gives.

    Attributes:
        images: uint8 [N, C, H, W] with ``spec.levels`` levels, or float32 [N, D] vectors.
        labels: int64 [N], the class each image was drawn from; ``spec.classes`` where no class was given; None where
            the model is not conditioned on classes.
        spec: the shape and levels of the images.
        seconds: time spent in the sampler, first block left out where there are more (it warms up).
        images_per_second: of those seconds, over all processes; the last block counts whole, as it is drawn.
        text: N captions, what each image was asked to show; None where nothing was asked.
    """

    images: Tensor
    labels: Tensor | None
    spec: Spec
    seconds: float
    images_per_second: float
    text: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        spec = self.spec
        what = f"{len(self.images):,} {'vectors of' if spec.vector else 'images'} {shape_text(spec.shape)}"
        classes = f", {spec.classes} classes" if spec.classes else ""
        return f"Samples({what}{classes}, {self.images_per_second:,.3g} {'vectors' if spec.vector else 'images'}/s)"

    def _repr_html_(self) -> str:
        """The first images, for a notebook."""
        return preview(self.images[: None if self.spec.vector else PREVIEWED], self.spec.levels, repr(self))


def sample(
    run: Run | Family | str | os.PathLike[str],
    n: int = 64,
    *,
    seed: int = 0,
    labels: int | Sequence[int] | Tensor | None = None,
    text: Sequence[str] | str | None = None,
    options: Any | None = None,
    device: str = "auto",
    progress: Progress | Literal["bar"] | None = None,
    block: int = BLOCK,
) -> Samples:
    """Draw ``n`` images from a trained run.

    Args:
        run: a run or its folder, or a model that was loaded from one.
        n: how many images.
        seed: any integer; the same seed gives the same images.
        labels: classes to draw from, repeated over the images; ``spec.classes`` means "no class". By default a
            conditional model draws each image's class uniformly.
        text: captions to draw from, repeated over the images, for a run trained on captions; by default the empty
            one, which means any.
        options: the family's sampling options, a dictionary such as ``{"steps": 20}`` or its ``Options``.
        device: where to compute.
        progress: told ``(images done, n)``; ``"bar"`` shows a bar, as a notebook does by default.
        block: images computed together; with the default the result never depends on ``n``. Another block size gives
            the same images up to the rounding of floating-point sums.

    Raises:
        ValueError: a label the model does not have, labels or text for a model without, or guidance without either, in
            one line; `NotFinite` where the weights or what they give are not numbers.
    """
    try:
        n = operator.index(n)
    except TypeError:
        raise ValueError(f"the number of images must be a whole number, not {n!r}") from None
    if not 1 <= n <= MOST_IMAGES:
        raise ValueError(f"the number of images must be at least 1 and at most {MOST_IMAGES:,}, not {n}")
    run = opened(run)
    texts = None if text is None else (text,) if isinstance(text, str) else tuple(text)
    if texts is not None:
        labels = read_text(run, texts, labels)
    if isinstance(labels, str):
        if not isinstance(run, Run):
            raise ValueError("names of classes are known to a run alone: give numbers to a model")
        labels = parse_labels(labels, run.config.class_names)
    where = ranks(device)
    model = run.model(where.device) if isinstance(run, Run) else run
    chosen = choose_labels(model.spec, n, seed, labels, block)
    options = options_of(type(model), options)
    model.check_conditions(options, chosen)
    if isinstance(run, Run) and chosen is not None:
        warn_untrained(run, chosen[:n])
    mine = [start for index, start in enumerate(range(0, n, block)) if index % where.size == where.rank]
    parts, seconds, timed = {}, 0.0, 0
    with told(progress, lambda bars: lambda done, total: bars.tell("", "sampling", done, total)) as heard:
        for done, start in enumerate(mine):
            began = time.perf_counter()
            tell = part_of(heard, start, min(block, n - start), n)
            parts[start] = sample_block(model, seed, start, block, chosen, options, tell)
            if done or len(mine) == 1:
                seconds += time.perf_counter() - began
                timed += block  # always drawn whole
            if heard:
                heard(min(start + block, n), n)
    images = _collect(parts, where)[:n]
    speeds = where.gather(timed / seconds if seconds else 0.0)
    classes = chosen[:n] if chosen is not None and model.spec.classes else None
    asked = None if texts is None else tuple(texts[i % len(texts)] for i in range(n))
    return Samples(images, classes, model.spec, seconds, sum(speeds), asked)


def read_text(run: Run | Family, texts: Sequence[str], labels: object = None) -> Tensor:
    """Captions as the run reads them, int64 [K, length]; words it has never seen are named in a warning.

    Raises:
        ValueError: the run reads no captions, or there are none or labels besides, in one line.
    """
    tokens = run.tokens() if isinstance(run, Run) else None
    if tokens is None:
        what = "this run" if isinstance(run, Run) else "a model without its run folder"
        raise ValueError(f"{what} cannot read text: give a run that was trained with --text")
    if labels is not None or not texts:
        raise ValueError("the list of texts is empty" if not texts else "give labels or text, not both")
    if unknown := tokens.unknown(texts):
        warnings.warn(f"no training caption has the word {', '.join(unknown)}", stacklevel=3)
    if cut := tokens.too_long(texts):
        warnings.warn(f"{cut} of the texts cut to {tokens.length} tokens, as in training", stacklevel=3)
    return tokens.rows(texts)


def warn_untrained(run: Run, labels: Tensor) -> None:
    """Warn where images are asked of classes that the run saw no image of."""
    if run.config.untrained and run.config.spec.classes:
        asked = {run.config.class_names[i] for i in set(labels.tolist()) if i < run.config.spec.classes}
        if names := [name for name in run.config.untrained if name in asked]:
            warnings.warn(f"no training image had the class {examples(names)}: its samples mean nothing", stacklevel=3)


def choose_labels(
    spec: Spec, n: int, seed: int, labels: int | Sequence[int] | Tensor | None, block: int = BLOCK
) -> Tensor | None:
    """The label of every image, padded to whole blocks: int64, or None for an unconditional model.

    Of a model conditioned on captions, the caption of every image, int64 [N, length]; the empty one by default.
    """
    padded = -(-n // block) * block
    if spec.vocabulary:
        rows = spec.unlabelled(1) if labels is None else torch.as_tensor(labels)
        if rows.ndim != 2 or rows.shape[1] != spec.length or not len(rows):
            raise ValueError("this model reads captions and takes no labels: give it --text")
        return rows[torch.arange(padded) % len(rows)]
    if not spec.classes:
        if labels is not None:
            raise ValueError("this model is unconditional and takes no labels: train it with --conditional")
        return None
    if labels is None:
        return ImageNoise(derive_seed(seed, "labels"), range(padded)).integers(spec.classes)
    given = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
    if not len(given):
        raise ValueError("the list of labels is empty")
    if int(given.min()) < 0 or int(given.max()) > spec.classes:
        bad = int(given.min()) if int(given.min()) < 0 else int(given.max())
        raise ValueError(f"label {bad} is out of range: this model has the classes 0 to {spec.classes - 1}")
    return given[torch.arange(padded) % len(given)]


def sample_block(
    model: Family,
    seed: int,
    start: int,
    block: int,
    labels: Tensor | None,
    options: Any = None,
    progress: Progress | None = None,
) -> Tensor:
    """Images ``start … start + block`` of a sample, on the CPU; ``labels`` are those of all images."""
    check_numbers(options)
    rows = range(start, start + block)
    noise = ImageNoise(seed, rows, model.device)
    given = None if labels is None else labels[start : start + block].to(model.device)
    with torch.no_grad():
        drawn = model.sample(noise, given, options, progress).cpu()
    if drawn.is_floating_point() and not bool(torch.isfinite(drawn).all()):
        raise NotFinite(
            "the model gives vectors that are not finite: its training has diverged, or a sampling option is extreme"
        )
    return drawn


def parse_labels(given: Any, names: Sequence[str]) -> list[int] | None:
    """Classes to label numbers: of a text names or numbers, ``all`` (every class in turn) or ``none`` (no class).

    A number is the place of a class, from 0, unless classes have whole numbers for names: then it is a name. A name in
    double quotes is always a class, so that those called ``all`` or ``none`` or with a comma can be asked for.

    Raises:
        ValueError: no such class, or a word that could mean two things, in one line.
    """
    if given is None:
        return None
    if not isinstance(given, str):  # numbers, one or many
        return [int(label) for label in torch.as_tensor(given).reshape(-1).tolist()]
    numbered = any(name.lstrip("-").isdigit() for name in names)
    labels: list[int] = []
    for part, quoted in _parts(given):
        if part in ("all", "none") and not quoted:
            if part in names:
                meant, name = "every class" if part == "all" else "no class", f"'\"{part}\"'"
                raise ValueError(f"--labels {part} may mean {meant} or the class {part}: write {name} for the class")
            labels += range(len(names)) if part == "all" else [len(names)]
        elif part in names:
            labels.append(names.index(part))
        elif part.lstrip("-").isdigit() and not quoted and not numbered:
            labels.append(int(part))
        else:
            raise ValueError(f"--labels {part!r} is not a class; there are {', '.join(names[:20]) or 'none'}")
    return labels


def _parts(text: str) -> list[tuple[str, bool]]:
    """The parts of a list between commas, and whether each stands in double quotes, within which commas are none."""
    found = re.findall(r'\s*(?:"([^"]*)"|([^,"]*))\s*(?:,|$)', text)
    parts = [(quoted or plain.strip(), bool(quoted)) for quoted, plain in found]
    return parts[:-1] if len(parts) > 1 and parts[-1] == ("", False) else parts


def check_numbers(options: Any) -> None:
    """``ValueError`` if a sampling option is NaN or infinite."""
    for name, value in vars(options).items() if options is not None else ():
        values = value if isinstance(value, tuple) else (value,)
        if bad := [each for each in values if isinstance(each, float) and not math.isfinite(each)]:
            raise ValueError(f"{name} must be a finite number, not {bad[0]}")


def _collect(parts: dict[int, Tensor], where: Ranks) -> Tensor:
    """Every rank's blocks, in order, on every rank."""
    merged: dict[int, Tensor] = {}
    for theirs in where.gather(parts):
        merged |= theirs
    return torch.cat([merged[start] for start in sorted(merged)])
