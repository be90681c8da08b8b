"""Run, folder, archive or data set + real images → numbers, each with its error, its floor and its protocol."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trilemma import __version__
from trilemma.bars import told
from trilemma.config import options_of
from trilemma.data import DataConfig, Dataset, load
from trilemma.data.dataset import image_digests
from trilemma.evaluation import ladder, pictures
from trilemma.evaluation.answers import FOLDER, answers_of, ask_routine, besides
from trilemma.evaluation.measured import Measured, held_out, number_of
from trilemma.evaluation.metric import Metric, metrics, read
from trilemma.evaluation.misuse import identical_images, trained_on_held_out
from trilemma.evaluation.outside import Images, Source, is_model, subject_of
from trilemma.evaluation.protocol import Protocol, protocol_of
from trilemma.evaluation.record import describe
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.relative import relative, relative_rungs
from trilemma.evaluation.stream import Pool, Tell, pool
from trilemma.evaluation.subject import Subject, samples_as_dataset
from trilemma.evaluation.sweeps import kept, weights_digest
from trilemma.families import FAMILIES
from trilemma.files import write_json
from trilemma.likelihood import calibrate
from trilemma.metrics import Features
from trilemma.number import Number
from trilemma.parallel import Ranks, ranks
from trilemma.run import Run, names_run


def evaluate(
    subject: Source | Subject,
    against: Reference | Run | Images | None = None,
    *,
    protocol: Protocol | Mapping[str, Any] | None = None,
    options: Any | None = None,
    network: Features | None = None,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    progress: Tell | Literal["bar"] | None = None,
) -> dict[str, Any]:
    """Measure a run, or a folder, archive, data set or tensor of images, against real images.

    Args:
        subject: a run or its folder; anything that `load` takes; a function ``(n, seed) → images``, a diffusers
            pipeline or a torch module with a ``latent_dim``, from which images are drawn (`outside_subject`). Images
            in memory must have the shape of the real ones, uint8 [N, C, H, W] with their levels, or floats in [0, 1].
            A `Subject` is measured as it is.
        against: the real images; by default those the run was trained on. A run here stands for its samples.
        protocol: how, a `Protocol` or a dictionary of its fields, whose defaults it has.
        options: of the sampler of a run's family, a dictionary such as ``{"steps": 20}`` or its ``Options``; or of a
            pipeline, what it is called with.
        network: features of your own; by default those that ``protocol`` names.
        device: where to compute.
        out: a folder for ``metrics.json`` and the pictures; by default the run's own, or none.
        progress: called as ``progress(what, done, total)``; ``"bar"`` shows bars, as a notebook does by default.

    Returns:
        A record of plain values: ``subject``, ``protocol``, ``metrics`` and ``floor`` (name → `Number` as a
        dictionary), ``flags``, ``memorisation``, ``spectrum``, ``ladder``, ``per_class``, the answers in
        ``asked`` and the names of its ``pictures``. Under torchrun all processes share the work and return the same.

    Raises:
        ValueError: bad input, in one line.
    """
    asked = protocol_of(protocol)
    besides(asked.ask)  # refuses unknown names before any work
    if protocol is None and isinstance(against, Reference):
        asked = against.protocol
    if isinstance(subject, (str, os.PathLike)) and names_run(subject):
        subject = Run.open(subject)
    if against is None and not isinstance(subject, Run):
        raise ValueError(
            f"{_named(subject)} is not a run folder: say with --against which real images to compare it with"
        )
    if against is None and isinstance(subject, Run):
        against = subject.config.data
    assert against is not None
    if isinstance(subject, Run):
        options = options_of(FAMILIES[subject.config.family], options)
    where = ranks(device)
    with told(progress, lambda bars: lambda what, done, total: bars.tell("", what, done, total)) as tell:
        whole = _whole(subject, against, protocol)
        real = against if isinstance(against, Reference) else _prepare(against, asked, device, network, tell, whole)
        measured = subject if isinstance(subject, Subject) else subject_of(subject, real, options, where)
        return _evaluate(measured, real, options, device, _place(subject, out), tell)


def _prepare(
    against: Run | Images, protocol: Protocol, device: str, network: Features | None, tell: Tell | None, whole: bool
) -> Reference:
    if isinstance(against, (str, os.PathLike)) and names_run(against):
        against = Run.open(against)
    elif isinstance(against, DataConfig) and names_run(against.source):
        against = Run.open(against.source)
    if isinstance(against, Run):
        against = samples_as_dataset(against, protocol.reference, protocol.n, protocol.seed, device)
        whole = False  # a run draws as many as it is asked for
    dataset = load(against)
    return Reference.prepare(dataset, protocol, device, tell, network, whole)


def _whole(subject: object, against: object, protocol: Protocol | Mapping[str, Any] | None) -> bool:
    """Whether two sets of images are compared, and nobody said how many of them: then every image counts."""
    if isinstance(subject, Run | Subject) or isinstance(against, Run | Reference) or is_model(subject):
        return False
    if isinstance(protocol, Protocol):
        return (protocol.n, protocol.reference) == (Protocol.n, Protocol.reference)
    return not {"n", "reference"} & set(protocol or ())


def _place(subject: object, out: str | os.PathLike[str] | None) -> Path | None:
    """The folder of the record and the pictures."""
    if out is not None:
        place = Path(out)
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file: choose a folder for --out")
        place.mkdir(parents=True, exist_ok=True)
        return place
    if isinstance(subject, Run):
        subject.place.mkdir(exist_ok=True)
        return subject.place
    return None


def _named(subject: object) -> str:
    if isinstance(subject, Dataset):
        return subject.name
    if isinstance(subject, DataConfig):
        return subject.source
    return str(subject) if isinstance(subject, str | os.PathLike) else "what is in memory"


def _evaluate(
    subject: Subject, real: Reference, options: Any | None, device: str, place: Path | None, tell: Tell | None
) -> dict[str, Any]:
    where = ranks(device)
    unfinished = _unfinished(subject, real, place)
    if unfinished:
        subject = kept(subject, unfinished)
    asked = [metric for metric in metrics().values() if metric.wanted(real)]
    if subject.run is None:
        asked = [metric for metric in asked if not metric.of_a_run or (subject.draws and metric.of_a_sampler)]
        if not asked:
            raise ValueError(
                f"--metrics {real.protocol.metrics} asks a model, and {subject.about['images']} is not a run folder"
            )
    drawn = any("likelihood" not in metric.needs for metric in asked)
    sample, seen = _drawn(subject, real, where, tell) if drawn else (None, [])
    of = Measured(real, sample, subject, options, device, where, tell, unfinished)
    # What the processes share comes first; what is left is the first one's.
    if subject.model is not None and subject.run is not None:
        calibrate(subject.model, subject.run, real.dataset)  # by training images, what its likelihood leaves open
    numbers = _measure((metric for metric in asked if metric.shared), of)
    shown = pictures.of_run(subject, sample, real, options, device) if subject.run and sample and place else None
    if shown is not None and place:
        ask_routine(subject, real, place, device, tell)
    rungs = ladder.climb(real.whole.near if real.whole else real, where, tell) if drawn else None
    record = None
    if where.first:
        flags = [*subject.flags, *(identical_images(np.concatenate(seen), real) if seen else [])]
        flags += trained_on_held_out(subject.run, real) if subject.run is not None else []
        raw = _raw_floor(real)
        scale = {"distrust": ladder.distrust(rungs, raw), "judged": rungs is not None}
        if scale["distrust"] and drawn:
            asked += [metric for metric in metrics().values() if metric.stands_in and metric not in asked]
        numbers |= _measure((metric for metric in asked if not metric.shared), of)
        record = _record(asked, numbers, raw, relative_rungs(rungs, raw), of)
        record |= {"flags": flags, "scale": scale}
        if real.whole is not None:
            record["protocol"] |= {"n": subject.supply.n, "reference": 0}
        if place is not None and subject.run is not None:
            record["asked"] = answers_of(subject.run, place / FOLDER)
        if place is not None:
            if sample is not None:
                record["pictures"] = pictures.save(place, sample, shown, real)
                for metric in asked:
                    record["pictures"] |= metric.draw(of.beside(metric), place)
            write_json(place / "metrics.json", record)
        if unfinished:
            shutil.rmtree(unfinished.parent, ignore_errors=True)
    found: dict[str, Any] = where.agree(record)
    return found


def _drawn(
    subject: Subject, real: Reference, where: Ranks, tell: Tell | None
) -> tuple[Pool, list[np.ndarray[Any, Any]]]:
    """The features and images of a subject, and a hash of each image."""
    hashes: list[np.ndarray[Any, Any]] = []
    sample = pool(
        subject.supply,
        real.network,
        where,
        kept=real.protocol.kept,
        keep_images=True,
        look=lambda images: hashes.append(image_digests(images.numpy())),
        tell=tell,
        what="samples and their features" if subject.run else "features",
    )
    return sample, hashes


def _unfinished(subject: Subject, real: Reference, place: Path | None) -> Path | None:
    """The folder for what is drawn and measured of a run before its evaluation is done: the next one goes on with it.

    Its name is that of the weights, the options and the protocol.
    """
    if place is None or subject.run is None or subject.model is None:
        return None
    told = repr((subject.about["options"], asdict(real.protocol), real.dataset.fingerprint, __version__))
    digest = hashlib.sha256((weights_digest(subject.model) + told).encode())
    if subject.labels is not None:
        digest.update(subject.labels.numpy().tobytes())
    return place / ".unfinished" / digest.hexdigest()[:16]


def _measure(asked: Iterable[Metric], of: Measured) -> dict[str, Number]:
    """The numbers of some metrics by their names in JSON, as they are measured."""
    found: dict[str, Number] = {}
    listed = list(asked)
    for done, metric in enumerate(listed):
        if of.tell and not of.held_out:
            of.tell("scores", done, len(listed))
        number = number_of(metric, of.beside(metric))
        if number is not None:
            found[metric.label(of.real.network.name)] = number
    if of.tell and not of.held_out:
        of.tell("scores", len(listed), len(listed))
    return found


def _record(
    asked: list[Metric], numbers: dict[str, Number], raw: dict[str, Number], rungs: list[dict[str, Any]], of: Measured
) -> dict[str, Any]:
    """What was measured as plain values: each number beside its floor and in words, and what belongs to it."""
    floor, numbers = relative(raw, raw), relative(numbers, raw)
    features = of.real.network.name
    names = [name for metric in metrics().values() if (name := metric.label(features)) in numbers]
    told = {name: read(name, numbers[name], floor.get(name), rungs) for name in names}
    assert of.subject is not None
    record = describe(of.subject.about, told, floor, of.real, of.device) | {"ladder": rungs, "per_image": {}}
    for metric in asked:
        here = of.beside(metric)
        each = metric.per_image(here) if metric.label(features) in numbers else None
        record["per_image"] |= {} if each is None else {metric.name: each}
        record |= metric.record(here)
    return record


def real_scores(real: Reference) -> dict[str, Number]:
    """The floor: held-out real images, scored by the same functions. Computed once for each reference."""
    floor = _raw_floor(real)
    return relative(floor, floor)


def _raw_floor(real: Reference) -> dict[str, Number]:
    """The same before what is relative is divided by itself."""
    if "floor" not in real.memo:
        asked = [metric for metric in metrics().values() if metric.floor and metric.wanted(real)]
        real.memo["floor"] = _measure(asked, held_out(real))
    found: dict[str, Number] = real.memo["floor"]
    return found
