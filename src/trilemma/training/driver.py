"""`train` drives the loop: checkpoints, sample grids, the log, alarms, progress, and a safe stop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trilemma import __version__
from trilemma.config import RunConfig
from trilemma.data import DataConfig, Dataset, load
from trilemma.data.captions import Tokens
from trilemma.families import FAMILIES
from trilemma.images import grid, save_png
from trilemma.nets.pretrained import newest
from trilemma.noise import ImageNoise
from trilemma.parallel import Ranks, ranks
from trilemma.presets import configure
from trilemma.run import Run, is_run, same_run
from trilemma.text import printable
from trilemma.training.budget import Budget, Progress
from trilemma.training.loop import Diverged, Learner, steps
from trilemma.training.recorder import Board, Recorder, Report, tensorboard_writer
from trilemma.training.stop import Stop
from trilemma.vectors import scatter


def train(
    family: str,
    data: Dataset | DataConfig | str | os.PathLike[str] = "mnist",
    *,
    out: str | os.PathLike[str],
    size: str = "tiny",
    budget: str = "2m",
    seed: int = 0,
    conditional: bool = False,
    text: bool = False,
    model: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    device: str = "auto",
    listen: Callable[[Report], None] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Train a family on a data set, into a run folder.

    Args:
        family: a key of `FAMILIES`.
        data: a loaded `Dataset`, or what `load` takes.
        out: the run folder.
        size: the preset, ``tiny`` to ``large``.
        budget: the total to train for, ``90s``, ``5000steps`` or ``1Mimages``; a resumed run counts what it has done.
        seed: decides the initial weights, the batches and all noise.
        conditional: train P(x|y) on the data's labels.
        text: train P(x|caption) on the data's captions.
        model: fields of the family's config that differ from the preset.
        settings: fields of `TrainConfig` that differ from the preset.
        resume: continue the run in ``out`` if there is one; its final weights equal those of an uninterrupted run.
        tensorboard: write the training log for TensorBoard too, into the run folder.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        listen: called after every step.
        say: called with alarms and other single lines.

    Returns:
        The run. If a signal stopped it early it is saved and can be resumed.

    Raises:
        ValueError: bad input, in one line.
        Diverged: the training broke down; the last good state is on disk.
    """
    limit = Budget.parse(budget)
    board = tensorboard_writer(Path(out) / "tensorboard") if tensorboard else None
    where = ranks(device)
    dataset = data if isinstance(data, Dataset) else load(data, progress=where.first)
    if dataset is not data and where.first:
        for loss in dataset.losses:  # a caller who loaded the data has seen them
            say(printable(f"{dataset.name}: {loss}"))
    resumed = Run.open(out) if resume and is_run(out) else None
    if text:
        model = where.agree(pinned(model or {}, resumed) if where.first else None)
    tokens = read_captions(family, dataset, model or {}, resumed, say if where.first else None) if text else None
    config = make_config(
        family, dataset, size=size, seed=seed, conditional=conditional, tokens=tokens, model=model, settings=settings
    )
    check_batch(config, dataset, where)
    if resumed:
        run = resumed
        if difference := same_run(run.config, config):
            raise ValueError(f"cannot resume {out}: {difference}; leave that option out or choose another --out")
    else:
        run = Run.create(out, config, tokens) if where.first else Run(Path(out), config)
    where.wait()
    if not where.first:
        return _drive(run, dataset, limit, where, None, lambda line: None)
    with run.lock():
        return _drive(run, dataset, limit, where, listen, say, board)


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
    model_config, train_config = configure(family, size, spec, model, settings)
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
        version=__version__,
    )


def pinned(model: Mapping[str, Any], resumed: Run | None) -> dict[str, Any]:
    """The fields of a model with the revision of a pretrained text encoder, so that a run names what it was made with.

    A resumed run keeps the one that it has.
    """
    fields = dict(model)
    name = str(fields.get("text_encoder") or "")
    if name and not fields.get("text_revision"):
        kept: Any = resumed.config.model if resumed else None
        fields["text_revision"] = kept.text_revision if getattr(kept, "text_encoder", "") == name else newest(name)
    return fields


def read_captions(
    family: str, dataset: Dataset, model: Mapping[str, Any], resumed: Run | None, say: Callable[[str], None] | None
) -> Tokens:
    """How captions are to be read: as the run to be resumed does, or learnt from those of the training images.

    Raises:
        ValueError: the family reads none, or there are none, in one line.
    """
    if family in FAMILIES and not FAMILIES[family].reads_text:
        able = " and ".join(name for name, cls in FAMILIES.items() if cls.reads_text)
        raise ValueError(f"{family} reads no captions, {able} do: leave --text out, or train one of them")
    if dataset.captions is None:
        why = dataset.no_captions or "put a metadata.jsonl with file_name and text beside the images"
        raise ValueError(f"{dataset.name} has no captions to condition on: {why}, or train without --text")
    captions = [dataset.captions[i] for i in dataset.train]
    if resumed and (tokens := resumed.tokens()):
        return tokens
    name, revision = str(model.get("text_encoder") or ""), str(model.get("text_revision") or "")
    tokens = Tokens.pretrained(name, revision, captions) if name else Tokens.train(captions)
    for count, what in (
        (captions.count(""), "training images have no caption: they stand for every caption"),
        (tokens.too_long(captions), f"captions are cut to {tokens.length} tokens"),
    ):
        if count and say:
            say(f"{count:,} of {len(captions):,} {what}")
    return tokens


def check_batch(config: RunConfig, dataset: Dataset, where: Ranks) -> None:
    """Refuse a batch that the data or the processes cannot fill."""
    batch = config.train.batch
    if len(dataset.train) < batch:
        raise ValueError(
            f"{dataset.name} has {len(dataset.train)} training images, fewer than one batch of {batch}: "
            f"add images or set --train.batch {max(1, len(dataset.train) // 2)}"
        )
    if batch % where.size:
        raise ValueError(f"--train.batch {batch} cannot be shared by {where.size} processes: use a multiple of it")
    pack = getattr(config.model, "pack", 1)
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
        learner.restore(state, str(run.path))
        progress = Progress(state.step, state.images, state.seconds)
    if where.first:
        run.rewind_logs(progress.step)
    where.wait()
    recorder = Recorder(run, learner, where, say, board() if board else None)
    saved = time.monotonic()
    pictures = run.config.train.pictures
    with Stop() as stop:
        loop = steps(learner, dataset, run.config, progress, where, limit)
        # The budget is checked by agreement: clocks differ between processes, decisions must not.
        while not where.agree(limit.spent(progress) >= 1) and not where.any(stop.asked):
            drawn = int(limit.spent(progress) * pictures)
            started = time.perf_counter()
            try:
                logs = next(loop)
            except Diverged:
                if where.first and not run.has_checkpoint:
                    run.save(learner.state(progress))
                raise
            progress.seconds += time.perf_counter() - started
            report = recorder.hear(logs, progress, limit)
            if not where.first:
                continue
            if listen and report:
                listen(report)
            if int(limit.spent(progress) * pictures) > drawn:
                draw(run, learner, dataset, progress)
            if time.monotonic() - saved > run.config.train.save_every:
                run.save(learner.state(progress))
                saved = time.monotonic()
        if stop.asked:
            say("stopping after this step; saving …")
        recorder.flush(progress)
        if where.first:
            run.save(learner.state(progress))
    where.wait()
    return run


def draw(run: Run, learner: Learner, dataset: Dataset, progress: Progress) -> None:
    """Save a grid of samples from fixed seeds; rows of classes where the model is conditional. Vectors as a scatter."""
    model = learner.ema if learner.ema is not None else learner.model
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
