"""Models from elsewhere as a supply of images: a function (n, seed) → images, a diffusers pipeline, a torch module."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trilemma.data import DataConfig, Dataset
from trilemma.data.memory import ImagesLike, images_like
from trilemma.evaluation.reference import Reference
from trilemma.evaluation.stream import UNIT, Supply
from trilemma.evaluation.subject import Subject, drawn_from, image_subject, run_subject, tensor_subject
from trilemma.families.family import Family
from trilemma.images import Spec, to_display
from trilemma.noise import ImageNoise, derive_seed
from trilemma.parallel import Ranks
from trilemma.run import Run

Draw = Callable[[int, int], ImagesLike]
"""``draw(n, seed)`` gives n images, uint8 [N, C, H, W] or whatever `load` takes; equal seeds give equal images."""

CODES = ("latent_dim", "latent_size", "latent", "z_dim", "nz", "dim_z", "zdim")
"""Attributes by which generators say how long their codes are."""


def outside_subject(model: Any, real: Reference, options: Mapping[str, Any] | None, where: Ranks) -> Subject:
    """A model from elsewhere, whose images are drawn as they are asked for, `UNIT` at a time, each unit by a seed.

    Its speed is that of the calls. Classes and likelihoods are asked of runs alone.

    Args:
        model: a function ``(n, seed) → images``; a diffusers pipeline that takes no prompt; or a module from codes
            z ~ N(0, I) to images in [0, 1] or [-1, 1], which says by ``latent_dim`` (`CODES`) how long they are.
        options: what a pipeline is called with besides, such as ``{"num_inference_steps": 20}``.

    Raises:
        ValueError: it is none of these, or its images are not like the real ones, in one line.
    """
    spec, n, seed = real.dataset.spec(), real.protocol.n, real.protocol.seed
    if isinstance(model, Family):
        about = {"images": f"a {model.name} in memory", "n": n}
        return replace(drawn_from(model, n, seed, None, None), about=about, draws=True)
    draw, name = _drawing(model, dict(options or {}))
    blocks: list[tuple[int, float]] = []

    def supplied(start: int, stop: int) -> Tensor:
        began = time.perf_counter()
        with torch.inference_mode():
            given = draw(UNIT, derive_seed(seed, "images", start // UNIT))
        blocks.append((UNIT, time.perf_counter() - began))
        images = to_display(_checked(given, spec, name), spec.levels)
        return images[: stop - start]

    return Subject(Supply(n, spec.shape, supplied), None, {"images": name, "n": n}, blocks=blocks, draws=True)


def is_model(source: object) -> bool:
    """Whether something draws images when it is called, and is none itself."""
    return callable(source) and not isinstance(source, type)


def _checked(given: Any, spec: Spec, name: str) -> Tensor:
    try:
        images = images_like(given, spec)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if len(images) < UNIT:
        raise ValueError(f"{name} gave {len(images)} images where {UNIT} were asked for")
    return images.cpu()


def _drawing(model: Any, options: Mapping[str, Any]) -> tuple[Draw, str]:
    """How it is called, and what it is called."""
    kind = type(model).__name__
    if hasattr(model, "scheduler") and hasattr(model, "components"):
        if "prompt" in inspect.signature(model.__call__).parameters:
            raise ValueError(f"{kind} takes prompts: give a function (n, seed) that calls it with yours")
        return _pipeline(model, options), kind
    if options:
        raise ValueError(f"{kind} takes no options: give a function (n, seed) that knows them")
    if isinstance(model, nn.Module):
        return _module(model, kind), kind
    name = str(getattr(model, "__name__", kind))
    try:
        inspect.signature(model).bind(1, 0)
    except (TypeError, ValueError):
        raise ValueError(f"{name} cannot be called with (n, seed): give a function of these two, to images") from None
    return model, "a function" if name == "<lambda>" else name


def _pipeline(model: Any, options: Mapping[str, Any]) -> Draw:
    quiet = getattr(model, "set_progress_bar_config", None)
    if quiet is not None:
        quiet(disable=True)

    def draw(n: int, seed: int) -> ImagesLike:
        generator = torch.Generator().manual_seed(seed)
        found = torch.from_numpy(model(batch_size=n, generator=generator, output_type="np", **options).images)
        return found.clamp(0, 1).movedim(-1, 1).contiguous()

    return draw


def _module(model: nn.Module, kind: str) -> Draw:
    length = next((value for name in CODES if type(value := getattr(model, name, None)) is int and value > 0), None)
    if length is None:
        raise ValueError(
            f"{kind} does not say how long its codes are: set {CODES[0]} on it, or give a function (n, seed) to images"
        )
    place = next(model.parameters(), torch.empty(0)).device

    def draw(n: int, seed: int) -> ImagesLike:
        z = ImageNoise(seed, range(n)).normal(length).to(place)
        was = model.training
        model.eval()
        try:
            try:
                x = model(z)
            except RuntimeError:  # convolutional generators take codes as pictures of one pixel
                x = model(z[:, :, None, None])
        finally:
            model.train(was)
        x = x.detach().float().cpu()
        images: Tensor = ((x + 1) / 2 if x.min() < -0.01 else x).clamp(0, 1)
        return images

    return draw


Images = Dataset | DataConfig | str | os.PathLike[str] | ImagesLike
"""Images from anywhere."""

Source = Run | Images | Draw | nn.Module
"""A run, images from anywhere, or a model from elsewhere."""


def subject_of(source: Source, real: Reference, options: Any | None, where: Ranks) -> Subject:
    """Whatever is to be measured beside these real images.

    Raises:
        ValueError: it cannot be, in one line.
    """
    if isinstance(source, Run):
        return run_subject(source, real, options, where)
    if isinstance(source, Dataset | DataConfig | str | os.PathLike):
        return image_subject(source.source if isinstance(source, DataConfig) else source, real)
    if is_model(source):
        return outside_subject(source, real, options, where)
    return tensor_subject(images_like(source, real.dataset.spec()), real)  # type: ignore[arg-type]
