"""The questions that only families that denoise step by step can answer: each a picture, some with a number."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trilemma.cli.query_asked import Asked, Reply, finite
from trilemma.cli.query_scores import SIGNS, likelihood_record
from trilemma.data import load
from trilemma.evaluation import Protocol, Reference
from trilemma.evaluation.protocol import hardware
from trilemma.families import FAMILIES
from trilemma.families.diffusion.likelihood import prior_term
from trilemma.families.family import Family, Progress
from trilemma.images import to_display, to_unit
from trilemma.metrics import frechet_estimate, frechet_flag, manifold_scores
from trilemma.parallel import find_device
from trilemma.queries.curve import COUNTS, cheapest, draw_curve, speed_quality, table, verdict
from trilemma.queries.diffusion_chain import (
    animate,
    denoising,
    draw_strip,
    end_moments,
    forward_chain,
    quick,
    reverse_chain,
)
from trilemma.queries.diffusion_latent import STEPS, draw_interpolation, draw_inversion, interpolate, invert
from trilemma.queries.diffusion_likelihood import bound_by_time, draw_terms, flow_likelihood
from trilemma.run import write_json
from trilemma.sampling import choose_labels, sample


def loaded(asked: Asked) -> Family:
    return asked.run.model(find_device(asked.device))


def sampling_options(asked: Asked) -> Any:
    return asked.options(FAMILIES[asked.config.family].Options)


def parse_counts(text: str | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """``1,10,100`` to numbers of steps."""
    if text is None:
        return default
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--counts {text!r} is not understood: write numbers of steps such as 1,10,100")
    return tuple(int(part) for part in parts)


def ask_forward(asked: Asked) -> Reply:
    model = denoising(asked.run.model(), "the forward chain")
    dataset, indices = asked.images(6)
    x = dataset.batch(indices)
    film = forward_chain(model, x, seed=asked.seed)
    # The moments are those of many images, and of the last of single steps.
    many = to_unit(x.repeat(-(-256 // len(x)), 1, 1, 1), asked.config.spec.levels)
    left = prior_term(many[: len(x)], model.schedule)
    noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(asked.seed))
    ends = {
        "closed form": float(model.schedule.signal[-1]) * many + float(model.schedule.sigma[-1]) * noise,
        "single steps": film.other[-1],
    }
    moments = {name: end_moments(end, left) for name, end in ends.items()}
    lines = [f"{name}: {found.text}" for name, found in moments.items()]
    path = asked.picture("forward")
    if asked.first:
        rows = ("in one go", "step by step")
        draw_strip(film, asked.config.spec.levels, path, asked.title("images to noise"), rows, lines)
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "times": film.times,
        "end": {name: asdict(found) for name, found in moments.items()},
        "picture": str(path),
    }
    return Reply(record, [*lines, str(path)])


def ask_reverse(asked: Asked) -> Reply:
    model = denoising(loaded(asked), "the reverse chain")
    count = 6 if asked.flags.n is None else asked.flags.n
    if count < 1:
        raise ValueError(f"-n must be at least 1, not {count}")
    options = quick(sampling_options(asked) or model.Options(), model.schedule)
    named = asked.labels()
    labels = choose_labels(model.spec, count, asked.seed, named, count)
    path = asked.picture("reverse")
    moving = path.suffix.lower() in (".gif", ".apng")
    film = reverse_chain(
        model, count, labels=labels, options=options, seed=asked.seed, progress=asked.progress, all_frames=moving
    )
    levels, title = model.spec.levels, asked.title(f"noise to images by {options.sampler}")
    if asked.first and moving:
        animate(film, levels, path)
    elif asked.first:
        draw_strip(film, levels, path, title, ("x_t", "estimate of x_0"))
    record = {"samples": count, "options": asdict(options), "times": film.times, "picture": str(path)}
    return Reply(record, [f"{options.sampler}, {options.steps} steps, {count} samples", str(path)])


def ask_terms(asked: Asked) -> Reply:
    dataset, indices = asked.images(8)
    classes = asked.classes(dataset, indices)
    terms = bound_by_time(loaded(asked), dataset.batch(indices), classes, seed=asked.seed, progress=asked.progress)
    path = asked.picture("terms")
    if asked.first:
        draw_terms(terms, path, asked.title(f"the bound on {dataset.name}, term by term"))
    (mean, error), T = terms.total, len(terms.mean) - 1
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "kind": "bound",
        "timesteps": T,
        "mean_bits_per_dim": mean,
        "standard_error": finite(error),
        "terms": terms.mean.tolist(),
        "picture": str(path),
    }
    return Reply(record, [terms.text, str(path)])


def ask_ode(asked: Asked) -> Reply:
    dataset, indices = asked.images(32)
    found = flow_likelihood(
        loaded(asked),
        dataset.batch(indices),
        asked.classes(dataset, indices),
        samples=asked.flags.samples or 1,
        dequantize=asked.flags.dequantize or "decoder",
        seed=asked.seed,
        progress=asked.progress,
    )
    answer = found.answer
    mean, error = answer.mean or (float("nan"),) * 2
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        **likelihood_record(answer),
        "noise_bits_per_dim": finite(found.noise),
        "evaluations": found.evaluations,
    }
    sign = SIGNS[answer.kind]
    line = (
        f"{sign} {mean:.4f} ± {error:.4f} bits/dim ({answer.reason}; {found.evaluations:.0f} evaluations a draw; "
        f"{len(indices)} images of {dataset.name})"
    )
    return Reply(record, [line])


def ask_invert(asked: Asked) -> Reply:
    dataset, indices = asked.images(6)
    x, classes = dataset.batch(indices), asked.classes(dataset, indices)
    counts = parse_counts(asked.flags.counts, STEPS)
    answer = invert(loaded(asked), x, classes, steps=counts, options=sampling_options(asked), progress=asked.progress)
    path = asked.picture("inversion")
    if asked.first:
        draw_inversion(answer, x, asked.config.spec.levels, path, asked.title(f"{dataset.name} to noise and back"))
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "steps": answer.steps,
        "errors": answer.errors.tolist(),
        "picture": str(path),
    }
    return Reply(record, [*answer.lines, str(path)])


def ask_interpolate_noise(asked: Asked) -> Reply:
    dataset, indices = asked.images(8)
    x, classes = dataset.batch(indices), asked.classes(dataset, indices)
    rows = interpolate(loaded(asked), x, classes, options=sampling_options(asked), progress=asked.progress)
    path = asked.picture("interpolation")
    if asked.first:
        title = asked.title(f"between pairs of {dataset.name}, in noise space")
        draw_interpolation(rows, x, asked.config.spec.levels, path, title)
    return Reply({"images": dataset.name, "indices": indices.tolist(), "picture": str(path)}, [str(path)])


def ask_curve(asked: Asked) -> Reply:
    model, spec = denoising(loaded(asked), "the speed-quality curve"), asked.config.spec
    protocol = Protocol(
        n=2000 if asked.flags.n is None else asked.flags.n, features=asked.flags.features or "small", seed=asked.seed
    )
    real = Reference.prepare(load(asked.config.data), protocol, asked.device)
    if min(protocol.n, real.train.n) <= real.network.dims:
        raise ValueError(
            f"--curve rests on the Fréchet distance, which needs more images than its {real.network.dims} features, "
            f"not {min(protocol.n, real.train.n)}: draw more images with -n, or train on more"
        )
    labels = real.labels if spec.classes else None

    def draw(options: Any, progress: Progress | None) -> tuple[Tensor, float]:
        drawn = sample(
            model, protocol.n, seed=asked.seed, labels=labels, options=options, device=asked.device, progress=progress
        )
        return drawn.images, drawn.images_per_second

    def measure(images: Tensor) -> Mapping[str, tuple[float | None, float | None]]:
        return _scores(real.network(to_display(images, spec.levels)).cpu(), real)

    counts = parse_counts(asked.flags.counts, COUNTS)
    points = speed_quality(
        model, draw, measure, protocol.n, counts=counts, options=sampling_options(asked), progress=asked.progress
    )
    floor, flag = _scores(real.held_out.features, real)["frechet"][0], frechet_flag(protocol.n, real.network.dims)
    words = f"{protocol.n} samples against {real.train.n} training images, {real.network.name} features"
    picture = asked.picture("curve")
    record: dict[str, Any] = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "protocol": asdict(protocol) | {"device": str(model.device), "hardware": hardware()},
        "floor": floor,
        "points": [asdict(point) for point in points],
        "cheapest": asdict(cheapest(points)[0]),
        "picture": str(picture),
        "flag": flag,
    }
    if asked.first:
        draw_curve(points, floor, picture, asked.title("speed and quality"), words)
        write_json(Path(picture).with_suffix(".json"), record)
    lines = [*table(points), f"{words}; held-out real images: {floor:.4g}", verdict(points), str(picture)]
    return Reply(record, lines + ([f"flag: {flag}"] if flag else []))


def _scores(features: Tensor, real: Reference) -> dict[str, tuple[float | None, float | None]]:
    """Fréchet distance, precision and recall of features [N, d], each with its standard error."""
    distance = frechet_estimate(features, real.train.moments)
    beside = real.train.features[: max(len(features), real.protocol.k + 1)]
    found = manifold_scores(beside, features, real.protocol.k)
    error = found.error
    return {
        "frechet": (distance.value, distance.error),
        "precision": (found.precision, None if error is None else error.precision),
        "recall": (found.recall, None if error is None else error.recall),
    }
