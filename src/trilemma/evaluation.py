"""Run (or folder of images) + held-out images → numbers, each with its protocol.

A score stands beside the score of held-out real images, computed by the same function on as many images: its floor.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trilemma import __version__
from trilemma.config import flatten, to_dict
from trilemma.data import DataConfig, Dataset, load
from trilemma.data.decoded import cache_folder, written_atomically
from trilemma.families import FAMILIES
from trilemma.images import grid, save_png, to_display
from trilemma.metrics.features import Features, feature_network
from trilemma.metrics.frechet import frechet_distance, frechet_flag
from trilemma.metrics.manifold import manifold_scores
from trilemma.metrics.neighbours import nearest, train_closer
from trilemma.parallel import find_device
from trilemma.queries.likelihood import log_likelihood
from trilemma.run import Run, is_run, write_json
from trilemma.sampling import Samples, sample

Tell = Callable[[str, int, int], None]
"""Called as ``tell(what, done, total)`` along an evaluation."""


@dataclass(frozen=True)
class Metric:
    """A number with what is needed to read it.

    Attributes:
        value: the number, or None (then ``note`` or ``flag`` says why).
        error: one standard error, or None where there is no estimate of it.
        unit: in words, empty for a pure number.
        better: which way is better.
        n: images it was computed from.
        kind: of a likelihood: ``exact``, ``bound``, ``estimate`` or ``undefined``.
        note: how to read it.
        flag: a reason to distrust it.
    """

    value: float | None
    error: float | None = None
    unit: str = ""
    better: Literal["lower", "higher", "none"] = "none"
    n: int = 0
    kind: str | None = None
    note: str = ""
    flag: str | None = None


@dataclass(frozen=True)
class Protocol:
    """How an evaluation is done; saved beside every number.

    Attributes:
        n: images drawn from the model, and held-out images used as the floor.
        reference: training images that scores are against; 0 for all of them.
        features: the feature network, ``small`` or ``inception``.
        k: neighbours of precision, recall, density and coverage.
        likelihood_n: held-out images whose log-likelihood is asked for.
        likelihood_samples: Monte-Carlo effort of families whose likelihood is not exact; 0 for their default.
        seed: of the samples and of every subset.
    """

    n: int = 2000
    reference: int = 10_000
    features: str = "small"
    k: int = 5
    likelihood_n: int = 500
    likelihood_samples: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n", 16), ("reference", 0), ("k", 1), ("likelihood_n", 0), ("likelihood_samples", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Reference:
    """The real side of a comparison, prepared once and shared by everything that is compared."""

    dataset: Dataset
    protocol: Protocol
    network: Features
    train: Tensor  # features of `reference` training images [R, d]
    held_out: Tensor  # features of n held-out images [n, d]
    held_out_indices: np.ndarray[Any, Any]

    @classmethod
    def prepare(cls, dataset: Dataset, protocol: Protocol, device: str = "auto", tell: Tell | None = None) -> Reference:
        """Compute, or fetch from the cache, the features of the real images."""
        network = feature_network(protocol.features, str(find_device(device)))
        train = subset(dataset.train, protocol.reference, protocol.seed)
        held_out = subset(dataset.test, protocol.n, protocol.seed)
        return cls(
            dataset,
            protocol,
            network,
            cached_features(dataset, train, network, tell),
            cached_features(dataset, held_out, network, tell),
            held_out,
        )

    @property
    def labels(self) -> Tensor | None:
        """Classes of the held-out images: conditional models are asked for the same."""
        return self.dataset.label_batch(self.held_out_indices)

    def floor(self) -> dict[str, Metric]:
        """The scores of held-out real images."""
        images = to_display(self.dataset.batch(self.held_out_indices), self.dataset.levels)
        return scores(self.held_out, self) | distances(images, self)


def subset(indices: np.ndarray[Any, Any], count: int, seed: int) -> np.ndarray[Any, Any]:
    """The first ``count`` of a seeded permutation (all of them if 0 or if there are fewer)."""
    order = np.random.Generator(np.random.Philox(key=[seed % 2**64, 0])).permutation(len(indices))
    return indices[order[: count or None]]


def scores(features: Tensor, real: Reference) -> dict[str, Metric]:
    """Fréchet distance, precision, recall, density, coverage and closeness to the training set of a sample.

    Args:
        features: float [N, d] in the feature space of ``real``.
    """
    n, d = features.shape
    if bool((features == features[0]).all()):
        names = {
            "frechet": "lower",
            "precision": "higher",
            "recall": "higher",
            "density": "higher",
            "coverage": "higher",
        }
        return {
            name: Metric(None, better=better, n=n, flag=f"all {n} samples are the same image")  # type: ignore[arg-type]
            for name, better in names.items()
        }
    reference = min(len(real.train), max(n, real.protocol.k + 1))
    flag = frechet_flag(min(n, len(real.train)), d)
    refused = min(n, len(real.train)) <= d
    note = f"Fréchet distance in {real.network.name} features against {len(real.train)} training images"
    distance = None if refused else frechet_distance(features, real.train)
    error = None if refused else jackknife(features, lambda part: frechet_distance(part, real.train))
    found = {"frechet": Metric(distance, error, "", "lower", n, None, note, flag)}
    manifold = manifold_scores(real.train[:reference], features, real.protocol.k)
    for name, meaning in (
        ("precision", "share of samples inside the balls around training images"),
        ("recall", "share of training images inside the balls around samples"),
        ("density", "training balls around a sample, over k"),
        ("coverage", "share of training images whose ball holds a sample"),
    ):
        value = getattr(manifold, name)
        # A share of N independent images; the balls are taken as given.
        spread = None if name == "density" else math.sqrt(max(value * (1 - value), 0) / n)
        found[name] = Metric(
            value, spread, "", "higher", n, None, f"{meaning} (k = {real.protocol.k}, {reference} training images)"
        )
    if real.held_out is not features:
        share, spread = train_closer(features, real.train, real.held_out)
        far = manifold.precision < 0.1
        found["train_closer"] = Metric(
            share,
            spread,
            "",
            "none",
            n,
            None,
            "share of samples nearer to training than to held-out images; 0.5 if none is memorised",
            "precision is so low that hardly a sample is near any real image" if far else None,
        )
    return found


def distances(images: Tensor, real: Reference) -> dict[str, Metric]:
    """Distance of each image to its nearest training image: root mean square over pixels, 0 … 255.

    Against *all* training images, in pixels: a copy is at 0 whatever features one believes in.
    """
    found, _ = nearest_training(images, real.dataset)
    rms = found / math.sqrt(images[0].numel())
    return {
        "nearest_training": Metric(
            float(rms.median()),
            None,
            "grey levels",
            "none",
            len(images),
            None,
            "median distance to the nearest of all training images, root mean square over pixels; 0 is a copy",
        )
    }


def nearest_training(images: Tensor, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Pixel distance to, and index of, the nearest training image of each uint8 [N, C, H, W] image (0 … 255)."""
    queries = images.flatten(1).float()
    best, where = torch.full((len(images),), math.inf, dtype=torch.float64), torch.zeros(len(images), dtype=torch.int64)
    for start in range(0, len(dataset.train), 10_000):
        indices = dataset.train[start : start + 10_000]
        real = to_display(dataset.batch(indices), dataset.levels).flatten(1).float()
        found, position = nearest(queries, real)
        closer = found < best
        best = torch.where(closer, found, best)
        where = torch.where(closer, torch.from_numpy(indices)[position], where)
    return best, where


def jackknife(features: Tensor, statistic: Callable[[Tensor], float], groups: int = 10) -> float:
    """Standard error of a smooth statistic by the delete-a-group jackknife."""
    part = torch.arange(len(features)) % groups
    values = [statistic(features[part != group]) for group in range(groups)]
    mean = sum(values) / groups
    return math.sqrt((groups - 1) / groups * sum((value - mean) ** 2 for value in values))


def cached_features(
    dataset: Dataset, indices: np.ndarray[Any, Any], network: Features, tell: Tell | None = None
) -> Tensor:
    """Features of real images, kept in the cache folder by the content they come from."""
    key = hashlib.sha256(
        repr((dataset.fingerprint, dataset.levels, dataset.config.binarize, network.name)).encode() + indices.tobytes()
    ).hexdigest()[:32]
    path = cache_folder() / "features" / f"{key}.npy"
    if path.exists():
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except (OSError, ValueError):
            path.unlink(missing_ok=True)  # cut off or damaged: made again
    parts = []
    for start in range(0, len(indices), 500):
        images = dataset.batch(indices[start : start + 500])
        parts.append(network(to_display(images, dataset.levels)).cpu())
        if tell:
            tell("features of real images", min(start + 500, len(indices)), len(indices))
    features = torch.cat(parts)
    # A cache that cannot be written only costs time.
    with contextlib.suppress(OSError, ValueError), written_atomically(path) as file:
        np.save(file, features.numpy())
    return features


def evaluate(
    subject: Run | str | os.PathLike[str],
    against: Reference | Dataset | DataConfig | str | None = None,
    *,
    protocol: Protocol | None = None,
    options: Any | None = None,
    device: str = "auto",
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Measure a run, or a folder, zip or array file of images, against real images.

    Args:
        subject: a run, its folder, or anything that `load` takes.
        against: the real images; by default those the run was trained on. Needed for a folder.
        protocol: how; `Protocol` has the defaults.
        options: sampling options of the run's family.
        device: where to compute.
        tell: told of the progress.

    Returns:
        A record of plain values: ``subject``, ``protocol``, ``metrics`` and ``floor`` (name → `Metric` as a
        dictionary) and, for a run, the names of its ``pictures``. For a run it is also saved in its folder.

    Raises:
        ValueError: bad input, in one line.
    """
    protocol = protocol or Protocol()
    if not isinstance(subject, Run) and is_run(subject):
        subject = Run.open(subject)
    if isinstance(subject, Run):
        real = _reference(against if against is not None else subject.config.data, protocol, device, tell)
        return _evaluate_run(subject, real, options, device, tell)
    if against is None:
        raise ValueError(f"{subject} is not a run folder: say with --against which real images to compare it with")
    real = _reference(against, protocol, device, tell)
    return _evaluate_images(subject, real, tell)


def _reference(
    against: Reference | Dataset | DataConfig | str, protocol: Protocol, device: str, tell: Tell | None
) -> Reference:
    if isinstance(against, Reference):
        return against
    dataset = against if isinstance(against, Dataset) else load(against)
    return Reference.prepare(dataset, protocol, device, tell)


def _evaluate_run(run: Run, real: Reference, options: Any | None, device: str, tell: Tell | None) -> dict[str, Any]:
    config, protocol, dataset = run.config, real.protocol, real.dataset
    if config.spec.shape != dataset.spec().shape or config.spec.levels != dataset.levels:
        raise ValueError(
            f"{run.path} makes images of shape {list(config.spec.shape)} with {config.spec.levels} levels, "
            f"{dataset.name} has {list(dataset.spec().shape)} with {dataset.levels}: compare like with like"
        )
    model = run.model(find_device(device))
    labels = real.labels if config.spec.classes else None
    drawn = sample(
        model,
        protocol.n,
        seed=protocol.seed,
        labels=labels,
        options=options,
        device=device,
        progress=(lambda done, total: tell("sampling", done, total)) if tell else None,
    )
    metrics = image_metrics(to_display(drawn.images, config.spec.levels), real)
    metrics["bits_per_dim"] = likelihood_metric(run, real, device, tell)
    metrics["images_per_second"] = speed_metric(drawn)
    pictures = draw_pictures(run, drawn, real)
    record = _record(
        {
            "run": str(run.path),
            "family": config.family,
            "size": config.size,
            "parameters": sum(p.numel() for p in model.parameters()),
            "options": to_dict(options if options is not None else FAMILIES[config.family].Options()),
            "config": {k: v for k, v in flatten(config).items() if k.startswith(("model.", "train."))},
            "progress": run.progress(),
        },
        metrics,
        real,
        device,
    ) | {"pictures": pictures}
    write_json(run.evaluation, record)
    return record


def _evaluate_images(source: str | os.PathLike[str], real: Reference, tell: Tell | None) -> dict[str, Any]:
    dataset, spec = real.dataset, real.dataset.spec()
    config = replace(
        dataset.config,
        source=str(source),
        size=(spec.height, spec.width),
        color="rgb" if spec.channels == 3 else "grey",
        limit=None,
    )
    images = load(config, split=False).images
    flag = None if len(images) >= real.protocol.n else f"only {len(images)} images; the floor has {real.protocol.n}"
    chosen = torch.from_numpy(np.array(images[: real.protocol.n]))
    metrics = image_metrics(chosen, real)
    record = _record({"images": str(source), "n": len(chosen)}, metrics, real, "cpu")
    return record | ({"flag": flag} if flag else {})


def image_metrics(images: Tensor, real: Reference) -> dict[str, Metric]:
    """Everything that can be measured from images alone: uint8 [N, C, H, W], 0 … 255."""
    return scores(real.network(images).cpu(), real) | distances(images, real)


def likelihood_metric(run: Run, real: Reference, device: str, tell: Tell | None) -> Metric:
    """Held-out bits per dimension, with the kind of answer the family can give."""
    protocol, dataset = real.protocol, real.dataset
    indices = subset(dataset.test, protocol.likelihood_n, protocol.seed)
    if not protocol.likelihood_n:
        return Metric(None, unit="bits/dim", better="lower", note="not asked for (likelihood_n is 0)")
    answer = log_likelihood(
        run,
        dataset.batch(indices),
        dataset.label_batch(indices) if run.config.spec.classes else None,
        samples=protocol.likelihood_samples or None,
        seed=protocol.seed,
        device=device,
        progress=(lambda done, total: tell("log-likelihood", done, total)) if tell else None,
    )
    given = " given its class" if run.config.spec.classes else ""
    if answer.mean is None:
        return Metric(None, unit="bits/dim", better="lower", kind=answer.kind, note=answer.reason)
    mean, error = answer.mean
    return Metric(
        mean if math.isfinite(mean) else None,
        error if math.isfinite(error) else None,
        "bits/dim",
        "lower",
        len(indices),
        answer.kind,
        f"of a held-out image{given}; {answer.reason}",
        None if math.isfinite(mean) else "not finite: some held-out image has probability 0 under the model",
    )


def speed_metric(drawn: Samples) -> Metric:
    """Images per second of the sampler as it was used."""
    value = drawn.images_per_second
    return Metric(value, None, "images/s", "higher", len(drawn.images), None, "wall-clock time of the sampler alone")


def draw_pictures(run: Run, drawn: Samples, real: Reference) -> dict[str, str]:
    """Save a grid of samples and a grid of samples above their nearest training images; returns their names."""
    spec, dataset = run.config.spec, real.dataset
    # Ten columns, every class in turn, however many there are; with more than ten, the first ten.
    labels = [i % 10 % spec.classes for i in range(80)] if spec.classes else None
    shown = sample(run, 80, seed=real.protocol.seed, labels=labels)
    save_png(grid(shown.images, levels=spec.levels, columns=10), run.figure("samples"))
    first = to_display(drawn.images[:20], spec.levels)
    _, indices = nearest_training(first, dataset)
    neighbours = to_display(dataset.batch(indices.numpy()), dataset.levels)
    rows = [part for row in range(0, len(first), 10) for part in (first[row : row + 10], neighbours[row : row + 10])]
    save_png(grid(torch.cat(rows), columns=10), run.figure("neighbours"))
    return {"samples": run.figure("samples").name, "neighbours": run.figure("neighbours").name}


def _record(subject: dict[str, Any], metrics: Mapping[str, Metric], real: Reference, device: str) -> dict[str, Any]:
    return {
        "format": 1,
        "version": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "subject": subject,
        "data": describe_data(real.dataset),
        "protocol": describe_protocol(real, device),
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        "floor": {name: asdict(metric) for name, metric in real.floor().items()},
    }


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """The data side of a record."""
    spec = dataset.spec()
    return {
        "name": dataset.name,
        "shape": list(spec.shape),
        "levels": dataset.levels,
        "class_names": list(dataset.class_names),
        "train": len(dataset.train),
        "test": len(dataset.test),
        "fingerprint": dataset.fingerprint,
        "notes": list(dataset.notes),
    }


def describe_protocol(real: Reference, device: str) -> dict[str, Any]:
    """The protocol side of a record: what was asked for, and where it was computed."""
    return asdict(real.protocol) | {
        "features": real.network.name,
        "dims": real.network.dims,
        "split": f"{len(real.train)} training images as reference, {len(real.held_out)} held-out images as floor",
        "device": str(find_device(device)),
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
    }


def hardware() -> str:
    """The processor, and the accelerator if there is one, by name."""
    names = [platform.processor() or platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))]
    except (OSError, StopIteration):
        pass
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join(name for name in names if name) + f", {os.cpu_count()} cores"


__all__ = ["Metric", "Protocol", "Reference", "evaluate", "subset"]
