"""What does "Fréchet 12" look like? Held-out real images, made worse on purpose and scored like samples.

The rungs stand beside every score: noise, blur, JPEG, averages, shuffled blocks and dropped classes, each at several
strengths. They are a test of the instrument too: a scale on which ruined images are as good as real ones, in these
features and on these data, is not to be trusted, and `distrust` says so.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.data.decoded import cache_folder, written_atomically
from trilemma.evaluation.glossary import choose
from trilemma.evaluation.protocol import Protocol
from trilemma.evaluation.reference import Reference, content_key
from trilemma.evaluation.scores import CHEAP_DIMS, LEAST_FLOOR, RELATIVE, fidelity
from trilemma.evaluation.stream import Supply, Tell, pool
from trilemma.images import grid, save_png
from trilemma.metrics import Distortion, distortions
from trilemma.number import Number
from trilemma.parallel import Ranks

VERSION = 2  # of the cache; raise it when the same images would give other rungs
MEASURED = ("frechet", "kernel", "mutual_fidelity", "mutual_coverage", "precision", "recall", "density", "coverage")
RUINED = {"blur": 4.0, "noise": 64.0, "averages": 8.0}
"""Kinds of damage whose strongest rung leaves nothing of an image; it must not be worth `MOST` of a real one."""
MOST = 0.4
SUBSETS = 20
"""Subsets of the kernel distance on each rung: its mean is all that is read here."""


def climb(real: Reference, where: Ranks, tell: Tell | None = None) -> list[dict[str, Any]] | None:
    """The rungs as plain values (name, strength, text, metrics), from the cache or measured; None if not asked for."""
    protocol = real.protocol
    wanted = [key for key in MEASURED if key in choose(protocol.metrics)]
    if real.dataset.vector:  # the distortions are those of images
        return None
    if protocol.ladder == "no" or not wanted or (protocol.ladder == "auto" and real.network.dims > CHEAP_DIMS):
        return None
    if "ladder" in real.memo:
        found: list[dict[str, Any]] = real.memo["ladder"]
        return found
    settings = (VERSION, real.network.key, protocol.k, protocol.kept, protocol.seed, wanted)
    real_side = content_key(real.dataset, real.train_indices)
    key = content_key(real.dataset, real.held_out_indices, "ladder", settings, real_side)
    path = cache_folder() / "ladders" / f"{key}.json"
    rungs = None
    with contextlib.suppress(OSError, ValueError):
        rungs = json.loads(path.read_text("utf-8"))
    if where.any(rungs is None):
        rungs = _measure(real, replace(protocol, metrics=",".join(wanted)), where, tell)
        if where.first:
            with contextlib.suppress(OSError, ValueError), written_atomically(path) as file:
                file.write(json.dumps(rungs, allow_nan=False).encode())
    assert rungs is not None
    real.memo["ladder"] = rungs
    return list(rungs)


def distrust(rungs: Sequence[Mapping[str, Any]] | None, floor: Mapping[str, Number]) -> list[str]:
    """Why fidelity and coverage cannot be trusted on these data in these features; empty where they can.

    Fidelity must not rise from one strength of a damage to the next, nor coverage from one share of dropped classes
    to the next, by more than twice the error of the difference; and what is ruined must not be worth `MOST` of a real
    image.

    Args:
        rungs: as `climb` gives them.
        floor: the scores of held-out images, not yet relative (`scores.relative`).
    """
    found = []
    for key, word in (("mutual_fidelity", "fidelity"), ("mutual_coverage", "coverage")):
        start = floor.get(key)
        if not rungs or start is None or start.value is None:
            continue
        if start.value < LEAST_FLOOR:
            found.append(f"held-out real images themselves have a {word} of {start.value:.2f} only")
            continue
        for kind in dict.fromkeys(rung["name"] for rung in rungs):
            if (kind == "dropped classes") != (word == "coverage"):
                continue
            last: tuple[str, float, float] = ("real images", start.value, start.error or 0.0)
            for rung in (rung for rung in rungs if rung["name"] == kind and key in rung["metrics"]):
                value, error = rung["metrics"][key]["value"], rung["metrics"][key]["error"] or 0.0
                if value is None:
                    continue
                if value - last[1] > 2 * math.hypot(error, last[2]) + 0.02:
                    before, after = last[1] / start.value, value / start.value
                    found.append(f"{word} rises from {before:.2f} ({last[0]}) to {after:.2f} ({rung['text']})")
                last = rung["text"], value, error
                ruined = word == "fidelity" and rung["strength"] >= RUINED.get(kind, math.inf)
                if ruined and value - 2 * error > MOST * start.value:
                    found.append(f"{rung['text']} leaves a fidelity of {value / start.value:.2f}")
    return found


def kinds(real: Reference) -> list[Distortion]:
    """Every distortion at every strength, for the held-out images that are kept."""
    labels = real.labels
    classes = len(real.dataset.class_names)
    return distortions(None if labels is None else labels[: real.protocol.kept], classes)


def _measure(real: Reference, protocol: Protocol, where: Ranks, tell: Tell | None) -> list[dict[str, Any]]:
    rungs, images = [], real.held_out_images
    all_of_them = kinds(real)
    for done, distortion in enumerate(all_of_them):
        try:
            drawn = _supply(images, distortion)
        except ValueError:  # no image of the classes that would be left
            continue
        sample = pool(drawn, real.network, where, kept=protocol.kept)
        metrics = fidelity(sample, real.train, real.network, protocol, real.against, subsets=SUBSETS)
        rungs.append(
            {
                "name": distortion.name,
                "strength": distortion.strength,
                "text": distortion.text,
                "metrics": {key: {"value": m.value, "error": m.error} for key, m in metrics.items()},
            }
        )
        if tell:
            tell("distorted real images, as a scale", done + 1, len(all_of_them))
    return rungs


def _supply(images: Tensor, distortion: Distortion) -> Supply:
    shape = (images.shape[1], images.shape[2], images.shape[3])
    if distortion.together:
        worse = distortion.apply(images)
        return Supply(len(images), shape, lambda start, stop: worse[start:stop])
    return Supply(len(images), shape, lambda start, stop: distortion.apply(images[start:stop]))


def relative(rungs: Sequence[dict[str, Any]] | None, floor: Mapping[str, Number]) -> list[dict[str, Any]]:
    """The rungs with the scores that are stated relative to held-out images divided by theirs."""
    found = []
    for rung in rungs or ():
        metrics = dict(rung["metrics"])
        for key in set(RELATIVE) & set(metrics):
            real = floor[key].value if key in floor else None
            value, error = metrics[key]["value"], metrics[key]["error"]
            if real is None or real < LEAST_FLOOR or value is None:
                metrics[key] = {"value": None, "error": None}
            else:
                metrics[key] = {"value": value / real, "error": None if error is None else error / real}
        found.append(rung | {"metrics": metrics})
    return found


def draw(rungs: Sequence[dict[str, Any]], real: Reference, out: Path, count: int = 3) -> list[dict[str, Any]]:
    """The rungs, each with the name of a small picture in ``out``: the same few held-out images on every rung."""
    images, placed = real.held_out_images, []
    drawn = {(distortion.name, distortion.strength): distortion for distortion in kinds(real)} if rungs else {}
    for rung in rungs:
        distortion = drawn[rung["name"], rung["strength"]]
        shown = distortion.apply(images if distortion.together else images[:count])[:count]
        path = out / "ladder" / f"{rung['name'].replace(' ', '-')}-{rung['strength']:g}.png"
        save_png(grid(_small(shown), columns=count, gap=1), path)
        placed.append(rung | {"picture": path.relative_to(out).as_posix()})
    return placed


def _small(images: Tensor, side: int = 64) -> Tensor:
    """Images brought down to thumbnails where they are larger."""
    if max(images.shape[-2:]) <= side:
        return images
    scale = side / max(images.shape[-2:])
    size = max(1, round(images.shape[-2] * scale)), max(1, round(images.shape[-1] * scale))
    return F.interpolate(images.float(), size, mode="area").round().to(torch.uint8)
