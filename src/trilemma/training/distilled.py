"""Students of runs that are there: a few evaluations of the network in place of many."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal

from trilemma.data import DataConfig, Dataset, load
from trilemma.data.memory import ImagesLike
from trilemma.families import FAMILIES
from trilemma.families.family import Denoises, Distils
from trilemma.run import Run, opened
from trilemma.training.driver import train
from trilemma.training.recorder import Report


def distill(
    teacher: Run | str | os.PathLike[str],
    data: Dataset | DataConfig | str | os.PathLike[str] | ImagesLike | None = None,
    *,
    out: str | os.PathLike[str],
    budget: str | float | timedelta = "10m",
    seed: int | None = None,
    guidance: tuple[float, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    device: str = "auto",
    progress: Callable[[Report], None] | Literal["bar"] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Make a student of a run that denoises: images in one to eight evaluations of the same network.

    The student is trained on the teacher's images, from the teacher's averaged weights, into a run folder of its own.
    Of a conditional run it learns to draw under any weight of guidance in a range.

    Args:
        teacher: the run or its folder.
        data: the images, where the run does not know them (imported) or they are in memory alone.
        out: the student's run folder.
        budget: the total to train for, as in `train`.
        seed: of the batches and all noise; 0 by default.
        guidance: the smallest and the largest weight that the student learns; 1 to 4 by default, and none where the
            teacher is told no labels or captions. It costs a second network in training.
        settings: fields of `TrainConfig` that differ from the preset.
        resume, tensorboard, device, progress, say: as in `train`.

    Returns:
        The student's run.

    Raises:
        ValueError: a run that does not denoise, or is a student itself, or other images than the teacher's, in one
            line; and as `train`.
    """
    run = opened(teacher)
    if not isinstance(run, Run):
        raise ValueError("a student needs the run folder of its teacher, not a model alone: give its path")
    config, spec = run.config, run.config.spec
    family = FAMILIES[config.family]
    if issubclass(family, Distils):
        whose = getattr(config.model, "teacher", "")
        todo = f"distill its teacher {whose}" if whose else "train a run that denoises in many steps, and distill that"
        raise ValueError(f"{run.title} is a student of few steps already: {todo}")
    if not issubclass(family, Denoises):
        able = " and ".join(name for name, cls in FAMILIES.items() if issubclass(cls, Denoises))
        raise ValueError(f"{run.title} is a {family.name}, which has no denoiser to learn from: {able} have")
    if guidance and not spec.conditional:
        raise ValueError(f"{run.title} was trained without labels or captions, so there is no guidance to learn")
    dataset = images_of(run, data)
    name, student = next((name, cls) for name, cls in FAMILIES.items() if issubclass(cls, Distils))
    fields = student.student_of(run.model(), str(run.path.absolute()))
    if guidance:
        fields["guidance"] = tuple(guidance)
    return train(
        name, dataset,
        out=out, budget=budget, seed=seed, resume=resume, model=fields, settings=settings, tensorboard=tensorboard,
        conditional=spec.classes > 0, text=spec.vocabulary > 0, device=device, progress=progress, say=say,
    )  # fmt: skip


def images_of(run: Run, data: Dataset | DataConfig | str | os.PathLike[str] | ImagesLike | None) -> Dataset:
    """The images that a run was trained on.

    Raises:
        ValueError: they are not there, or others than it was trained on, in one line.
    """
    config, spec = run.config, run.config.spec
    if isinstance(data, Dataset):
        dataset = data
    elif data is None and not config.data_fingerprint:
        raise ValueError(f"{run.title} does not know its images, as it was imported: name them after it")
    elif data is None:
        dataset = load(config.data)
    elif isinstance(data, str | os.PathLike):
        dataset = load(config.data.like(spec, str(data)))
    else:
        dataset = load(data)
    shape = dataset.spec().shape
    if shape != spec.shape or (spec.classes and len(dataset.class_names) != spec.classes):
        raise ValueError(
            f"{dataset.name} has images of {list(shape)}, and {run.title} makes others: give its own images"
        )
    if config.data_fingerprint and dataset.fingerprint != config.data_fingerprint:
        raise ValueError(f"{dataset.name} no longer holds the images that {run.title} was trained on: bring them back")
    return dataset
