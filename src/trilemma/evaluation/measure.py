"""Run, folder, archive or data set + real images → numbers, each with its error, its floor and its protocol."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trilemma import __version__
from trilemma.bars import told
from trilemma.config import options_of
from trilemma.data import DataConfig, Dataset, load
from trilemma.data.dataset import image_digests
from trilemma.data.memory import ImagesLike, images_like
from trilemma.evaluation import ladder, pictures
from trilemma.evaluation.answers import FOLDER, answers_of, ask_routine, besides
from trilemma.evaluation.captions import text_metrics
from trilemma.evaluation.glossary import ENTRIES, place_of
from trilemma.evaluation.labelled import label_metrics
from trilemma.evaluation.likelihood import Scored, calibrated_for, flow_metric, likelihood_metric
from trilemma.evaluation.memorisation import Memory, memory
from trilemma.evaluation.misuse import identical_images, trained_on_held_out
from trilemma.evaluation.mixtures import density_gap, mixture_floor, mixture_scores
from trilemma.evaluation.protocol import Protocol, protocol_of
from trilemma.evaluation.reading import read
from trilemma.evaluation.record import describe
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.scores import fidelity, relative, two_sample
from trilemma.evaluation.spectra import spectra
from trilemma.evaluation.stacked import stacked_floor, stacked_metrics
from trilemma.evaluation.stream import Pool, Tell, pool
from trilemma.evaluation.subject import Subject, image_subject, run_subject, samples_as_dataset, tensor_subject
from trilemma.evaluation.sweeps import kept, weights_digest
from trilemma.families import FAMILIES
from trilemma.files import write_json
from trilemma.metrics import Features
from trilemma.number import Number
from trilemma.parallel import Ranks, ranks
from trilemma.run import Run, is_run

Source = Run | Dataset | DataConfig | str | os.PathLike[str] | ImagesLike


def evaluate(
    subject: Source,
    against: Reference | Source | None = None,
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
        subject: a run or its folder, or anything that `load` takes; images in memory must have the shape of
            the real ones, uint8 [N, C, H, W] with their levels, or floats in [0, 1].
        against: the real images; by default those the run was trained on. A run here stands for its samples.
        protocol: how, a `Protocol` or a dictionary of its fields, whose defaults it has.
        options: sampling options of the run's family, a dictionary such as ``{"steps": 20}`` or its ``Options``.
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
    if isinstance(subject, (str, os.PathLike)) and is_run(subject):
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
        real = against if isinstance(against, Reference) else _prepare(against, asked, device, network, tell)
        if isinstance(subject, Run):
            measured = run_subject(subject, real, options, where)
        elif isinstance(subject, Dataset | DataConfig | str | os.PathLike):
            measured = image_subject(subject.source if isinstance(subject, DataConfig) else subject, real)
        else:
            measured = tensor_subject(images_like(subject, real.dataset.spec()), real)
        return _evaluate(measured, real, options, device, _place(subject, out), tell)


def _prepare(
    against: Source, protocol: Protocol, device: str, network: Features | None, tell: Tell | None
) -> Reference:
    if isinstance(against, (str, os.PathLike)) and is_run(against):
        against = Run.open(against)
    elif isinstance(against, DataConfig) and is_run(against.source):
        against = Run.open(against.source)
    if isinstance(against, Run):
        against = samples_as_dataset(against, protocol.reference, protocol.n, protocol.seed, device)
    dataset = load(against)
    return Reference.prepare(dataset, protocol, device, tell, network)


def _place(subject: object, out: str | os.PathLike[str] | None) -> Path | None:
    """The folder of the record and the pictures."""
    if out is not None:
        place = Path(out)
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file: choose a folder for --out")
        place.mkdir(parents=True, exist_ok=True)
        return place
    return subject.path if isinstance(subject, Run) else None


def _named(subject: object) -> str:
    if isinstance(subject, Dataset):
        return subject.name
    if isinstance(subject, DataConfig):
        return subject.source
    return str(subject) if isinstance(subject, str | os.PathLike) else "what is in memory"


def _evaluate(
    subject: Subject, real: Reference, options: Any | None, device: str, place: Path | None, tell: Tell | None
) -> dict[str, Any]:
    where, protocol = ranks(device), real.protocol
    unfinished = _unfinished(subject, real, place)
    if unfinished:
        subject = kept(subject, unfinished)
    hashes: list[np.ndarray[Any, Any]] = []
    drawn = protocol.wants(*(key for key in ENTRIES if key not in ("bits_per_dim", "ode_bits_per_dim")))
    if subject.run is None and not protocol.wants(*(e.key for e in ENTRIES.values() if e.group != "model")):
        raise ValueError(
            f"--metrics {protocol.metrics} asks a model, and {subject.about['images']} is not a run folder"
        )
    sample = None
    if drawn:
        sample = pool(
            subject.supply,
            real.network,
            where,
            kept=protocol.kept,
            keep_images=True,
            look=lambda images: hashes.append(image_digests(images.numpy())),
            tell=tell,
            what="samples and their features" if subject.run else "features",
        )
    # What the processes share comes first; what is left is the first one's.
    metrics: dict[str, Number] = {}
    per_image: dict[str, list[float]] = {}
    calibrated_for(subject, real)
    likelihood: Scored = (Number(None), [])
    if subject.run and protocol.wants("bits_per_dim", "density_kl"):
        likelihood = _once(unfinished, "likelihood", where, lambda: likelihood_metric(subject, real, device, tell))
        metrics |= density_gap("density_kl", *likelihood, real)
        if protocol.wants("bits_per_dim"):
            metrics["bits_per_dim"], per_image["bits_per_dim"] = likelihood
    if sample is not None:
        metrics |= mixture_scores(subject, sample, real, options, device)
    if subject.run and drawn and protocol.wants("images_per_second"):
        metrics["images_per_second"] = subject.speed(where)
    metrics |= stacked_metrics(subject, real, options, where, tell)
    shown = pictures.of_run(subject, sample, real, options, device) if subject.run and sample and place else None
    if shown is not None and place:
        ask_routine(subject, real, place, device, tell)
    rungs = ladder.climb(real, where, tell) if drawn else None
    record = None
    if where.first:
        if subject.run and protocol.wants("ode_bits_per_dim", "ode_density_kl"):
            flow = flow_metric(subject, real, device, tell, likelihood)
            if flow:
                metrics |= density_gap("ode_density_kl", *flow, real)
                if protocol.wants("ode_bits_per_dim"):
                    metrics["ode_bits_per_dim"], per_image["ode_bits_per_dim"] = flow
        seen = np.concatenate(hashes) if hashes else None
        record, remembered = _judge(subject, sample, seen, metrics, real, rungs, device, tell)
        record |= {"per_image": per_image}
        if place is not None and subject.run is not None:
            record["asked"] = answers_of(subject.run, place / FOLDER)
        if place is not None:
            if sample is not None:
                record["pictures"] = pictures.save(place, sample, shown, real, remembered)
            write_json(place / "metrics.json", record)
        if unfinished:
            shutil.rmtree(unfinished.parent, ignore_errors=True)
    found: dict[str, Any] = where.agree(record)
    return found


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


def _once(
    folder: Path | None, name: str, where: Ranks, measure: Callable[[], tuple[Number, list[float]]]
) -> tuple[Number, list[float]]:
    """A number and its parts, from the folder of an unfinished evaluation if they are there."""
    known = None
    if folder and where.first:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            known = Number(**record["metric"]), [float(value) for value in record["parts"]]
    agreed: tuple[Number, list[float]] | None = where.agree(known)
    if agreed is not None:
        return agreed
    found = measure()
    if folder and where.first:
        with contextlib.suppress(OSError, ValueError):
            write_json(folder / f"{name}.json", {"metric": asdict(found[0]), "parts": found[1]})
    return found


def _judge(
    subject: Subject,
    sample: Pool | None,
    hashes: np.ndarray[Any, Any] | None,
    shared: dict[str, Number],
    real: Reference,
    rungs: list[dict[str, Any]] | None,
    device: str,
    tell: Tell | None,
) -> tuple[dict[str, Any], Memory | None]:
    """Everything that one process does with the gathered features and images: the record, and what it found copied."""
    flags = list(subject.flags)
    metrics: dict[str, Number] = {}
    extra: dict[str, Any] = {}
    remembered: Memory | None = None
    if sample is not None and hashes is not None:
        if tell:
            tell("scores", 0, 3)
        flags += identical_images(hashes, real)
        metrics |= fidelity(sample, real.train, real.network, real.protocol, real.against)
        if real.protocol.wants("fine_detail"):
            found, extra["spectrum"] = spectra(sample.images, real)
            metrics |= found
        if tell:
            tell("scores", 1, 3)
        remembered = memory(sample, real)
        metrics |= remembered.metrics
        if remembered.record:
            extra["memorisation"] = remembered.record
        if tell:
            tell("scores", 2, 3)
        found, per_class = label_metrics(sample, subject.labels, real, tell)
        metrics |= found
        if per_class:
            extra["per_class"] = per_class
        metrics |= text_metrics(sample, real, subject.captioned)
    if subject.run is not None:
        flags += trained_on_held_out(subject.run, real)
    raw = _raw_floor(real) if sample is not None else {}
    floor = relative(raw, raw)
    scale = {"distrust": ladder.distrust(rungs, raw), "judged": rungs is not None}
    rungs = ladder.relative(rungs, raw)
    if sample is not None and (scale["distrust"] or real.protocol.wants("passed")):
        metrics["passed"] = two_sample(sample, real, device)
    metrics = relative(metrics | shared, raw)
    metrics = {name: read(name, metric, floor.get(name), rungs) for name, metric in metrics.items()}
    metrics = dict(sorted(metrics.items(), key=lambda item: place_of(item[0])))
    if tell:
        tell("scores", 3, 3)
    record = describe(subject.about, metrics, floor, real, device)
    return record | {"flags": flags, "ladder": rungs, "scale": scale} | extra, remembered


def real_scores(real: Reference) -> dict[str, Number]:
    """The floor: held-out real images, scored by the same functions. Computed once for each reference."""
    floor = _raw_floor(real)
    return relative(floor, floor)


def _raw_floor(real: Reference) -> dict[str, Number]:
    """The same before what is relative is divided by itself."""
    if "floor" not in real.memo:
        floor = fidelity(real.held_out, real.train, real.network, real.protocol, real.against)
        images = replace(real.held_out, images=real.held_out_images)
        if real.protocol.wants("fine_detail"):
            floor |= spectra(images.images, real)[0]
        floor |= memory(images, real, held_out=True).metrics
        floor |= label_metrics(images, real.labels, real, None, held_out=True)[0]
        floor |= text_metrics(images, real, real.dataset.captions is not None)
        floor |= mixture_floor(real)
        floor |= stacked_floor(real)
        real.memo["floor"] = floor
    found: dict[str, Number] = real.memo["floor"]
    return found
