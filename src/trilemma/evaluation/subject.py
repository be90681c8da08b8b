"""What is measured: a run, or images from anywhere, as a supply of images that are made when they are asked for."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.blocks import BLOCK
from trilemma.config import flatten, to_dict
from trilemma.data import DataConfig, Dataset, load, subset
from trilemma.data.dataset import Raw, assemble
from trilemma.evaluation.reference import Reference, supply
from trilemma.evaluation.stream import Supply
from trilemma.families import FAMILIES
from trilemma.families.family import Family
from trilemma.images import check_images, to_display
from trilemma.number import Number
from trilemma.parallel import Ranks
from trilemma.run import Run
from trilemma.sampling import choose_labels, sample, sample_block, warn_untrained


@dataclass(frozen=True)
class Subject:
    """Something that is measured.

    Attributes:
        supply: its images.
        labels: int64 [n], the class each image was asked for or is known to have; None where there is none.
        about: what the record says of it.
        flags: reasons to distrust every number of it.
        run: the run, and ``model`` its model, where it is one.
        captioned: whether its images were asked for by the captions of held-out images.
        blocks: images drawn and seconds of each block of this process; filled while the supply is used.
        draws: whether it draws its images, so that it has a speed.
    """

    supply: Supply
    labels: Tensor | None
    about: dict[str, Any]
    flags: tuple[str, ...] = ()
    run: Run | None = None
    model: Family | None = None
    captioned: bool = False
    blocks: list[tuple[int, float]] = field(default_factory=list)
    draws: bool = False

    def speed(self, where: Ranks) -> Number:
        """Images per second of the sampler as it was used, over all processes; the first block warms up.

        A block is always drawn whole (`sampling.BLOCK`), so that all its images count, asked for or not.
        """
        timed = self.blocks[1:] or self.blocks
        block = timed[0][0] if timed else BLOCK
        seconds = torch.tensor([taken for _, taken in timed], dtype=torch.float64)
        rate = sum(count for count, _ in timed) / float(seconds.sum()) if timed else 0.0
        spread = float(seconds.std() / seconds.mean()) / math.sqrt(len(timed)) if len(timed) > 1 else math.nan
        rates = where.gather((rate, rate * spread))
        error = math.hypot(*(each for _, each in rates))
        return Number(
            sum(each for each, _ in rates),
            error if math.isfinite(error) else None,
            "images/s",
            "higher",
            self.supply.n,
            note="wall-clock time of the sampler alone",
            protocol=f"blocks of {block} on {where.device}, {where.size} process{'es' if where.size > 1 else ''}, "
            f"{torch.get_num_threads()} threads; the error is over blocks",
        )


def check_alike(run: Run, dataset: Dataset) -> None:
    """``ValueError``, one line, where a run makes images of another form than these."""
    spec = run.config.spec
    if spec.shape != dataset.spec().shape or spec.levels != dataset.levels:
        raise ValueError(
            f"{run.title} makes images of shape {list(spec.shape)} with {spec.levels} levels, "
            f"{dataset.name} has {list(dataset.spec().shape)} with {dataset.levels}: compare like with like"
        )


def run_subject(run: Run, real: Reference, options: Any | None, where: Ranks) -> Subject:
    """A run, whose images are drawn as they are asked for; conditional ones for the classes, or the captions, of
    held-out images."""
    config, dataset, protocol = run.config, real.dataset, real.protocol
    check_alike(run, dataset)
    model = run.model(where.device)
    asked = run.conditions(dataset, real.held_out_indices)
    warn_untrained(run, torch.arange(config.spec.classes) if asked is None else torch.as_tensor(asked))
    drawn = drawn_from(model, protocol.n, protocol.seed, asked, options)
    about = {
        "run": str(run.path),
        "family": config.family,
        "size": config.size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "options": to_dict(options if options is not None else FAMILIES[config.family].Options()),
        "config": {k: v for k, v in flatten(config).items() if k.startswith(("model.", "train."))},
        "progress": run.progress(),
    }
    captioned = config.spec.vocabulary > 0 and asked is not None
    labels = drawn.labels
    if labels is not None and asked is not None and config.data_fingerprint:  # numbered as the run's classes are
        number = {name: i for i, name in enumerate(dataset.class_names)}
        labels = torch.tensor([number.get(name, -1) for name in config.class_names])[labels]
    return replace(drawn, labels=labels, about=about, run=run, captioned=captioned, draws=True)


def drawn_from(model: Family, n: int, seed: int, asked: Tensor | Sequence[int] | None, options: Any | None) -> Subject:
    """Images 0 … n of the sample with this seed, as `sampling.sample` draws them."""
    labels = choose_labels(model.spec, n, seed, asked)
    blocks: list[tuple[int, float]] = []

    def draw(start: int, stop: int) -> Tensor:
        parts = []
        for first in range(start, stop, BLOCK):  # units are whole blocks
            began = time.perf_counter()
            parts.append(sample_block(model, seed, first, BLOCK, labels, options))
            blocks.append((BLOCK, time.perf_counter() - began))
        return to_display(torch.cat(parts)[: stop - start], model.spec.levels)

    known = labels[:n] if labels is not None and model.spec.classes else None
    return Subject(Supply(n, model.spec.shape, draw), known, {}, model=model, blocks=blocks)


def image_subject(source: str | os.PathLike[str] | Dataset, real: Reference) -> Subject:
    """Images of a folder, an archive or a data set, brought to the size and colours of the real ones."""
    dataset, spec = real.dataset, real.dataset.spec()
    if isinstance(source, Dataset):
        found = source
        if found.spec().shape != spec.shape:
            raise ValueError(
                f"{found.name} has images of shape {list(found.spec().shape)}, {dataset.name} of {list(spec.shape)}: "
                "load both at one size"
            )
    elif spec.vector:
        found = load(dataset.config.like(spec, str(source)), split=False)
        if found.spec().shape != spec.shape:
            what = f"vectors of {found.images.shape[1]} values" if found.vector else "images"
            raise ValueError(f"{source} holds {what}, {dataset.name} vectors of {spec.dims}: compare like with like")
    else:
        found = load(dataset.config.like(spec, str(source)), split=False)
    flags = []
    n = len(found.images) if real.whole else real.protocol.n
    if len(found.images) < n:
        flags.append(_fewer(len(found.images), real))
    if not isinstance(source, Dataset):  # whose size and colours are the caller's choice
        size_of = " x ".join(map(str, found.images.shape[2:]))
        if found.resized:
            flags.append(f"{_of(found.resized, found)} brought to {size_of}: resizing alone moves every score")
        if found.decoloured:
            flags.append(f"{_of(found.decoloured, found)} made grey, because those of {dataset.name} are")
    # A folder lists one class after the other, so the first n would not be a fair draw.
    chosen = subset(np.arange(len(found.images)), n, real.protocol.seed)
    chosen = chosen if real.whole else np.sort(chosen)  # of all of them, what looks at few takes the first
    labels, notes = None, list(found.notes)
    if set(found.class_names) <= set(dataset.class_names):
        labels = found.labels_as(dataset.class_names, chosen, dataset.name)
    elif dataset.labels is not None:
        notes.append(f"labels: not used, because its classes are not those of {dataset.name}")
    name = found.name if isinstance(source, Dataset) else str(source)
    about = {"images": name, "n": len(chosen), "notes": notes, "fingerprint": found.fingerprint}
    return Subject(supply(found, chosen), labels, about, tuple(flags))


def _of(count: int, found: Dataset) -> str:
    return f"{count:,} of {len(found.images):,} images were"


def tensor_subject(images: Tensor, real: Reference, labels: Tensor | None = None) -> Subject:
    """Images that are in memory: uint8 [N, C, H, W] with the levels of the real ones."""
    spec = real.dataset.spec()
    check_images(images, spec)
    n = len(images) if real.whole else min(len(images), real.protocol.n)
    if n < 16:
        raise ValueError(f"{n} images are too few to measure anything: give at least 16")
    shown = to_display(images[:n], spec.levels)
    flags = () if real.whole or n == real.protocol.n else (_fewer(n, real),)
    known = None if labels is None else torch.as_tensor(labels)[:n]
    fingerprint = hashlib.blake2b(np.ascontiguousarray(shown.numpy()).data, digest_size=16).hexdigest()
    about = {"images": "a tensor", "n": n, "fingerprint": fingerprint}
    return Subject(Supply(n, spec.shape, lambda a, b: shown[a:b]), known, about, flags)


def _fewer(n: int, real: Reference) -> str:
    """What to distrust of fewer images than were asked for."""
    floor = real.held_out.n
    beside = "and as many held-out ones" if floor == n else f"the floor has {floor:,}"
    return f"only {n} images of {real.protocol.n:,} asked for; {beside}"


def samples_as_dataset(run: Run, reference: int, n: int, seed: int, device: str) -> Dataset:
    """A run in the place of real images: `reference` samples as training images and n further ones as held out."""
    reference = reference or 10_000
    model_labels = run.config.spec.classes > 0
    drawn = sample(run, reference + n, seed=seed + 1, device=device)  # another seed than that of a subject
    held_out = np.arange(reference + n) >= reference
    raw = Raw(
        f"samples of {run.path.name}",
        to_display(drawn.images, drawn.spec.levels).numpy(),
        drawn.labels.numpy() if model_labels and drawn.labels is not None else None,
        class_names=run.config.class_names if model_labels else (),
        is_test=held_out,
        notes=[f"drawn from {run.title} with seed {seed + 1}"],
    )
    config = DataConfig(source=str(run.path), binarize="threshold" if drawn.spec.levels == 2 else "none")
    return assemble(raw, config)
