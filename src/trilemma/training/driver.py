"""`train` drives the loop: checkpoints, sample grids, the log, alarms, progress, and a safe stop."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch

from trilemma import __version__
from trilemma.bars import Bars, told
from trilemma.config import RunConfig, to_dict
from trilemma.data import DataConfig, Dataset, load
from trilemma.data.captions import Tokens
from trilemma.data.memory import ImagesLike
from trilemma.families import FAMILIES
from trilemma.families.family import Distils
from trilemma.images import NotFinite, grid, save_png
from trilemma.machine import arithmetic
from trilemma.nets.pretrained import newest
from trilemma.noise import ImageNoise
from trilemma.parallel import Ranks, ranks
from trilemma.presets import check_fields, configure
from trilemma.run import PACKED, Run, check_new, is_run, lock, names_run, not_finite
from trilemma.text import printable
from trilemma.training.budget import Budget, Progress, budget_text
from trilemma.training.learning import Snapshot, Watcher, over, snapshots, trained_on
from trilemma.training.loop import Diverged, Learner, diverged, steps
from trilemma.training.recorder import Board, Recorder, Report, tensorboard_writer
from trilemma.training.stop import Stop
from trilemma.validate import decode
from trilemma.vectors import scatter

VALIDATION = 0.1
"""Share of the training images that early stopping holds out where nothing else is said."""

IMPORTED = "imported"
"""The size of a run that was made of another's weights."""


def train(
    family: str,
    data: Dataset | DataConfig | str | os.PathLike[str] | ImagesLike | None = None,
    *,
    out: str | os.PathLike[str],
    size: str | None = None,
    budget: str | float | timedelta = "2m",
    seed: int | None = None,
    conditional: bool | None = None,
    text: bool | None = None,
    model: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    stop: Literal["budget", "early"] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    device: str = "auto",
    progress: Callable[[Report], None] | Literal["bar"] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Train a family on a data set, into a run folder.

    A run that is continued is what its own config says: what is left out here is taken from there, and what is given
    must be the same.

    Args:
        family: a key of `FAMILIES`.
        data: a loaded `Dataset`, or what `load` takes; ``mnist`` by default.
        out: the run folder.
        size: the preset, ``tiny`` (the default) to ``large``.
        budget: the total to train for, ``90s``, ``5000steps`` or ``1Mimages``, or a number of seconds or a
            ``timedelta``; a resumed run counts what it has done.
        seed: decides the initial weights, the batches and all noise; 0 by default.
        conditional: train P(x|y) on the data's labels.
        text: train P(x|caption) on the data's captions.
        model: fields of the family's config that differ from the preset.
        settings: fields of `TrainConfig` that differ from the preset.
        stop: ``early`` ends the training once it is twice as long as at its best by images held out from the training
            images (see `trilemma.training.learning`); ``budget``, the default, never before its budget.
        resume: continue the run in ``out`` if there is one; its final weights equal those of an uninterrupted run.
        tensorboard: write the training log for TensorBoard too, into the run folder.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        progress: called after every step; ``"bar"`` shows a bar, as a notebook does by default.
        say: called with alarms and other single lines.

    Returns:
        The run. If a signal stopped it early it is saved and can be resumed, and ``run.stopped`` is the signal.

    Raises:
        ValueError: bad input, in one line.
        Diverged: the training broke down; the last good state is on disk.
        OSError: the run folder cannot be written; the last checkpoint stands.
    """
    limit = Budget.parse(budget_text(budget))
    settings = dict(settings or {}) | ({"stop": stop} if stop else {})
    board = tensorboard_writer(Path(out) / "tensorboard") if tensorboard else None
    where = ranks(device)
    check_fields(family, size or "tiny", model, settings)  # before minutes of reading images
    source = data.source if isinstance(data, DataConfig) else data
    if isinstance(source, str | os.PathLike) and names_run(source):
        raise ValueError(f"{source} is a run, and {family} learns from images: give a folder of them, a file or a name")
    again = resume and is_run(out)
    tokens: Tokens | None = None
    if again:
        run = Run.open(out)
        config = run.config
        typed = {"family": family, "size": size, "seed": seed, "conditional": conditional, "text": text}
        refuse_changes(run, typed, model or {}, settings or {})
        dataset = load(config.data if data is None else data, progress=where.first)
        refuse_other_data(run, dataset)
        slower = config.train.precision == "bf16" and arithmetic(where.device, "auto") == "fp32"
        if where.first and slower:
            say("this run computes in bf16, as it began, which is slower here than fp32")
    else:
        if where.first:
            check_new(Path(out))
        dataset = load("mnist" if data is None else data, progress=where.first)
        if text:
            model = where.agree(pinned(model or {}) if where.first else None)
        tokens = read_captions(family, dataset, model or {}, say if where.first else None) if text else None
        config = make_config(
            family,
            dataset,
            size=size or "tiny",
            seed=seed or 0,
            conditional=bool(conditional),
            tokens=tokens,
            model=model,
            settings=settings,
        )
        config = settled(config, where)
    if dataset is not data and where.first:
        for loss in dataset.losses:  # a caller who loaded the data has seen them
            say(printable(f"{dataset.name}: {loss}"))
    check_batch(config, dataset, where)
    if not where.first:
        where.wait()
        return _drive(Run(Path(out), config), dataset, limit, where, None, lambda line: None)
    with lock(out):  # before anything is written: another training may have begun here a moment ago
        run = Run.open(out) if again else Run.create(out, config, tokens)
        where.wait()
        with told(progress, lambda bars: lambda report: show(bars, family, report)) as listen:
            return _drive(run, dataset, limit, where, listen, say, board)


def show(bars: Bars, name: str, report: Report) -> None:
    """Move the bar of a training."""
    detail = f"step {report.step:,} · {report.images_per_second:,.0f} images/s · loss {report.loss:.4g}"
    bars.tell(name, "training", min(report.spent, 1.0), 1.0, detail)


def make_config(
    family: str,
    dataset: Dataset,
    *,
    size: str = "tiny",
    seed: int = 0,
    conditional: bool = False,
    tokens: Tokens | None = None,
    model: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The whole config of a run, as `train` would save it; ``tokens`` where it is trained on captions."""
    spec = dataset.spec(conditional)
    if tokens:
        spec = replace(spec, vocabulary=tokens.vocabulary, length=tokens.length)
    suited = FAMILIES[family].suited(spec, len(dataset.train)) if family in FAMILIES else {}
    model_config, train_config = configure(family, size, spec, {**suited, **(model or {})}, settings)
    if train_config.stop == "early" and not train_config.validation:
        train_config = replace(train_config, validation=VALIDATION)
    return RunConfig(
        family=family,
        size=size,
        seed=seed,
        spec=spec,
        data=dataset.config,
        model=model_config,
        train=train_config,
        data_fingerprint=dataset.fingerprint,
        class_names=dataset.class_names if conditional else (),
        untrained=tuple(dataset.class_names[label] for label in dataset.untrained) if conditional else (),
        version=__version__,
    )


def refuse_changes(run: Run, typed: Mapping[str, Any], model: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """A one-line ``ValueError`` for the first thing typed that the run is not; None was not typed."""
    config = run.config
    if config.size == IMPORTED:
        raise ValueError(f"{run.path} was imported: what it was trained with is not known, so it cannot be trained on")
    if run.packed:
        raise ValueError(f"{run.title} {PACKED}; `trilemma train {config.family} --out RUN` trains one of your own")
    conditional, text = config.spec.classes > 0, config.spec.vocabulary > 0
    old: dict[str, Any] = {
        "family": config.family, "size": config.size, "seed": config.seed, "conditional": conditional, "text": text
    }  # fmt: skip
    new = {name: value for name, value in typed.items() if value is not None}
    for name, fields, saved in (("model", model, config.model), ("train", settings, config.train)):
        values = decode(type(saved), {**to_dict(saved), **fields}, f"{name} settings of {config.family}")
        for key in fields:
            old[f"{name}.{key}"], new[f"{name}.{key}"] = getattr(saved, key), getattr(values, key)
    for key, value in new.items():
        if value != old[key]:
            todo = f"leave --{key.replace('_', '-')} out" if key != "family" else f"say `train {config.family}`"
            raise ValueError(
                f"cannot resume {run.path}: {key} is {old[key]!r} in the run, {value!r} was asked for; "
                f"{todo} or choose another --out"
            )


def refuse_other_data(run: Run, dataset: Dataset) -> None:
    """A one-line ``ValueError`` unless these are the images that the run was trained on so far."""
    old, new = to_dict(run.config.data), to_dict(dataset.config)
    for key in old:
        if old[key] != new[key]:
            flag = {"source": "the data", "size": "--image-size"}.get(key, f"--{key.replace('_', '-')}")
            raise ValueError(
                f"cannot resume {run.path}: data.{key} is {old[key]!r} in the run, {new[key]!r} was asked for; leave "
                f"{flag} out or choose another --out"
            )
    if run.config.data_fingerprint != dataset.fingerprint:
        raise ValueError(
            f"cannot resume {run.path}: {dataset.name} no longer holds the images that it was trained on; bring them "
            "back or choose another --out"
        )


def pinned(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a model with the revision of a pretrained text encoder: a run names what it was made with."""
    fields = dict(model)
    name = str(fields.get("text_encoder") or "")
    if name and not fields.get("text_revision"):
        fields["text_revision"] = newest(name)
    return fields


def read_captions(family: str, dataset: Dataset, model: Mapping[str, Any], say: Callable[[str], None] | None) -> Tokens:
    """How captions are to be read, learnt from those of the training images.

    Raises:
        ValueError: the family reads none, or there are none, in one line.
    """
    if family in FAMILIES and not FAMILIES[family].reads_text:
        *others, last = (name for name, cls in FAMILIES.items() if cls.reads_text)
        able = f"{', '.join(others)} and {last}"
        raise ValueError(f"{family} reads no captions, {able} do: leave --text out, or train one of them")
    if dataset.captions is None:
        why = dataset.no_captions or "put a metadata.jsonl with file_name and text beside the images"
        raise ValueError(f"{dataset.name} has no captions to condition on: {why}, or train without --text")
    captions = [dataset.captions[i] for i in dataset.train]
    name, revision = str(model.get("text_encoder") or ""), str(model.get("text_revision") or "")
    tokens = Tokens.pretrained(name, revision, captions) if name else Tokens.train(captions)
    for count, what in (
        (captions.count(""), "training images have no caption: they stand for every caption"),
        (tokens.too_long(captions), f"captions are cut to {tokens.length} tokens"),
    ):
        if count and say:
            say(f"{count:,} of {len(captions):,} {what}")
    return tokens


def settled(config: RunConfig, where: Ranks) -> RunConfig:
    """The config with the arithmetic of training named where it was left open, so that a run goes on as it began."""
    if config.train.precision != "auto":
        return config
    here = where.agree(arithmetic(where.device, "auto"))
    return replace(config, train=replace(config.train, precision=here))


def check_batch(config: RunConfig, dataset: Dataset, where: Ranks) -> None:
    """Refuse a batch that the data or the processes cannot fill."""
    batch, count = config.train.batch, len(trained_on(dataset, config.train))
    if count < batch:
        raise ValueError(
            f"{dataset.name} has {count} training images, fewer than one batch of {batch}: "
            f"add images or set --train.batch {max(1, count // 2)}"
        )
    if batch % where.size:
        raise ValueError(f"--train.batch {batch} cannot be shared by {where.size} processes: use a multiple of it")
    pack = FAMILIES[config.family].least_batch(config.model)
    if batch // where.size < pack:
        raise ValueError(
            f"--train.batch {batch} gives each of {where.size} processes {batch // where.size} images, fewer than one "
            f"pack of {pack}: raise it to {pack * where.size}, or lower --model.pack"
        )


def _drive(
    run: Run,
    dataset: Dataset,
    limit: Budget,
    where: Ranks,
    listen: Callable[[Report], None] | None,
    say: Callable[[str], None],
    board: Callable[[], Board] | None = None,
) -> Run:
    learner, progress = Learner.build(run, where), Progress()
    learner.model.check()
    if run.has_checkpoint:
        state = run.load()
        learner.restore(state, str(run.checkpoint()))
        progress = Progress(state.step, state.images, state.seconds)
    taught(run, learner)
    if where.first:
        run.rewind_logs(progress.step)
    where.wait()
    # A listener whose terminal is gone must not end a training.
    say, listen = _heedless(say), _heedless(listen) if listen else None
    recorder = Recorder(run, learner, where, say, board() if board else None)
    saved = time.monotonic()
    pictures = run.config.train.pictures
    watcher = Watcher(run, dataset, limit) if where.first and run.config.train.validation else None
    with Stop() as stop:
        loop = steps(learner, dataset, run.config, progress, where, limit)

        def ended() -> bool:
            return limit.spent(progress) >= 1 or ended_early(run, watcher.record if watcher else [])

        # The end is agreed on: clocks differ between processes, decisions must not.
        while not where.agree(ended()) and not where.any(stop.asked):
            drawn = int(limit.spent(progress) * pictures)
            started = time.perf_counter()
            try:
                logs = next(loop)
            except Diverged:
                if where.first and not run.has_checkpoint:
                    with contextlib.suppress(NotFinite):
                        run.save(learner.state(progress))
                raise
            progress.seconds += time.perf_counter() - started
            report = recorder.hear(logs, progress, limit)
            if not where.first:
                continue
            if listen and report:
                listen(report)
            if int(limit.spent(progress) * pictures) > drawn:
                _good(draw, run, learner, dataset, progress)
            if watcher:
                _good(watcher.look, learner.shown, progress)
            if time.monotonic() - saved > run.config.train.save_every:
                _good(run.save, learner.state(progress))
                saved = time.monotonic()
        if stop.asked:
            say("stopping after this step; saving …")
        recorder.flush(progress)
        if watcher and ended():
            _good(watcher.look, learner.shown, progress, True)
        if where.first:
            _good(run.save, learner.state(progress))
        if watcher and limit.spent(progress) < 1 and ended():
            say(f"{run.path.name} has been no better for half of its time: stopped early, and its best is kept")
        number = max(where.gather(stop.number))
        run.stopped = 0 if where.agree(ended()) else number
    where.wait()
    return run


def ended_early(run: Run, record: Sequence[Snapshot] | None = None) -> bool:
    """Whether a run is one that stops early, and has come to its end."""
    return run.config.train.stop == "early" and over(snapshots(run) if record is None else record)


def taught(run: Run, learner: Learner) -> None:
    """Give a student its teacher: the weights to begin with, and the one to ask.

    Raises:
        ValueError: the teacher is no longer there, in one line.
    """
    model, teacher = learner.model, getattr(run.config.model, "teacher", "")
    if not teacher or not isinstance(model, Distils):
        return
    found = Run.open(teacher).model(model.device)
    model.follow(found)
    if not run.has_checkpoint:
        for student in (model, learner.ema):
            if isinstance(student, Distils):
                student.inherit(found)


def _good(function: Callable[..., Any], *arguments: Any) -> None:
    """Do what needs finite weights; where they are not, the training has diverged."""
    try:
        function(*arguments)
    except NotFinite as error:
        raise Diverged(diverged(str(error))) from None


def _heedless(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """The same, whether or not it can be heard."""

    def told(what: Any) -> None:
        with contextlib.suppress(OSError):
            function(what)

    return told


def draw(run: Run, learner: Learner, dataset: Dataset, progress: Progress) -> None:
    """Save a grid of samples from fixed seeds; rows of classes where the model is conditional. Vectors as a scatter.

    Raises:
        NotFinite: the weights are not numbers; nothing is drawn.
    """
    model = learner.shown
    if bad := not_finite(model.state_dict()):
        raise NotFinite(f"{bad} is not finite after step {progress.step}")
    training = model.training
    model.eval()
    spec = run.config.spec
    count = 1000 if spec.vector else 40
    device = model.device
    labels = torch.arange(count, device=device) % 10 % spec.classes if spec.classes else None
    if spec.vocabulary:  # the first ten held-out captions, one a column
        captions = run.conditions(dataset, dataset.test[:10])
        labels = captions[torch.arange(count) % len(captions)].to(device) if captions is not None else None
    with torch.no_grad():
        images = model.sample(ImageNoise(run.config.seed, range(count), device), labels)
    model.train(training)
    if spec.vector:
        picture = scatter(images.cpu(), dataset.batch(dataset.train[:count]), f"step {progress.step:,}")
    else:
        picture = grid(images, levels=spec.levels, columns=10)
    save_png(picture, run.picture(progress.step))
