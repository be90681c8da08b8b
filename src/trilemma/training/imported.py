"""Models from elsewhere as run folders."""

from __future__ import annotations

import os
from pathlib import Path

from trilemma import __version__
from trilemma.config import RunConfig
from trilemma.data import DataConfig, load
from trilemma.families.diffusion.exchange import import_diffusers
from trilemma.files import remove
from trilemma.parallel import ranks
from trilemma.presets import configure
from trilemma.run import Run, check_new, is_run, lock, not_finite
from trilemma.training.budget import Progress
from trilemma.training.driver import IMPORTED
from trilemma.training.loop import Learner

UNKNOWN = "(not known: the model was imported)"
"""In the place of the data's name."""


def import_run(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], data: DataConfig | str | None = None
) -> Run:
    """A diffusers DDPM folder as a run, which samples, answers and is measured like one that was trained here.

    Its step and its images are 0. It cannot be trained on: what it was trained with is not known.

    Args:
        folder: see `trilemma.families.diffusion.exchange.import_diffusers`.
        out: the run folder to make.
        data: what the model was trained on, which the folder does not say. It is brought to the size and the colours
            of the model. Without it the run draws and answers, but knows no real images of its own.

    Raises:
        ValueError: a folder or data that will not do, in one line.
    """
    try:
        model = import_diffusers(folder)
    except ValueError as error:
        raise error if str(folder) in str(error) else ValueError(f"{folder}: {error}") from None
    spec, betas = model.spec, model.schedule.beta
    again = type(model)(model.config, spec).schedule.beta
    if not bool(((again - betas).abs() <= 1e-6 * betas).all()):
        raise ValueError(
            f"{folder} has a noise schedule of its own that no config can tell; it can be used in Python alone, "
            "by import_diffusers"
        )
    given, fingerprint, names = DataConfig(source=UNKNOWN), "", tuple(map(str, range(spec.classes)))
    if data is not None:
        wanted = data if isinstance(data, DataConfig) else DataConfig(source=data)
        color = {1: "grey", 3: "rgb"}.get(spec.channels, "auto")
        size = (spec.height, spec.width)
        dataset = load(wanted, size=size, color=color)  # type: ignore[arg-type]
        if dataset.spec().shape != spec.shape:
            raise ValueError(
                f"the model makes images of shape {list(spec.shape)}, {dataset.name} has {list(dataset.spec().shape)}"
            )
        if spec.classes and len(dataset.class_names) != spec.classes:
            raise ValueError(f"the model knows {spec.classes} classes, {dataset.name} has {len(dataset.class_names)}")
        given, fingerprint = dataset.config, dataset.fingerprint
        names = dataset.class_names if spec.classes else ()
    _, settings = configure(model.name, "tiny", spec, {}, {})
    config = RunConfig(
        model.name, IMPORTED, 0, spec, given, model.config, settings, fingerprint, names, version=__version__
    )
    _start_over(Path(out))
    if bad := not_finite(model.state_dict()):
        raise ValueError(f"{folder} holds weights that are not numbers ({bad}): it cannot be used")
    with lock(out):
        run = Run.create(out, config)
        learner = Learner.build(run, ranks("cpu"))
        for copy in (learner.model, learner.ema):
            if copy is not None:
                copy.load_state_dict(model.state_dict())
        run.save(learner.state(Progress()))
    return run


def _start_over(out: Path) -> None:
    """Take away what an import that was cut short left at ``out``; ``ValueError`` if anything else is there."""
    if is_run(out):
        run = Run.open(out)
        if run.config.size != IMPORTED or run.has_checkpoint:
            raise ValueError(f"{out} already holds a run: choose another --out")
        with lock(out):
            (out / "config.json").unlink()
            remove(out / "checkpoints")
    check_new(out)
