"""The questions that only families that denoise step by step can answer: each a picture, some with a number."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch

from trilemma.cli.query_asked import Asked, Reply, finite, with_error
from trilemma.cli.query_quality import parse_numbers
from trilemma.cli.query_scores import SIGNS, flagged, likelihood_record
from trilemma.families import FAMILIES
from trilemma.families.diffusion import prior_term
from trilemma.families.family import Family
from trilemma.images import to_unit
from trilemma.metrics.likelihood import worse_than_uniform
from trilemma.parallel import find_device
from trilemma.queries.diffusion_chain import (
    animate,
    denoising,
    draw_strip,
    end_moments,
    forward_chain,
    quick,
    reverse_chain,
)
from trilemma.queries.diffusion_latent import (
    DECODING,
    draw_interpolation,
    draw_inversion,
    interpolate,
    invert,
)
from trilemma.queries.diffusion_likelihood import bound_by_time, draw_terms, flow_likelihood
from trilemma.queries.likelihood import calibrated, log_likelihood
from trilemma.sampling import choose_labels

NONE = (math.nan, math.nan)


def loaded(asked: Asked) -> Family:
    return asked.run.model(find_device(asked.device))


def sampling_options(asked: Asked) -> Any:
    return asked.options(FAMILIES[asked.config.family].Options)


def decoding_options(asked: Asked) -> Any:
    """Those of questions that decode a given noise: what is not given stays deterministic, unclipped and float32."""
    return asked.options(FAMILIES[asked.config.family].Options, DECODING)


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
    steps = len(options.visits(model.schedule))
    return Reply(record, [f"{options.sampler}, {steps} steps, {count} samples", str(path)])


def ask_terms(asked: Asked) -> Reply:
    dataset, indices = asked.images(8)
    classes = asked.classes(dataset, indices)
    model = denoising(calibrated(asked.run, asked.device), "the bound by its terms")
    terms = bound_by_time(model, dataset.batch(indices), classes, seed=asked.seed, progress=asked.progress)
    path = asked.picture("terms")
    if asked.first:
        draw_terms(terms, path, asked.title(f"the bound on {dataset.name}, term by term"))
    (mean, error), T = terms.total, len(terms.mean) - 1
    flag = worse_than_uniform(mean, asked.config.spec.levels)
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "kind": "bound",
        "timesteps": T,
        "decoder": {"time": terms.first, "how": terms.decoder},
        "mean_bits_per_dim": mean,
        "standard_error": finite(error),
        "flag": flag,
        "terms": terms.mean.tolist(),
        "picture": str(path),
    }
    return Reply(record, [terms.text, terms.how, *flagged(flag), str(path)])


def ask_ode(asked: Asked) -> Reply:
    """The equation, and the bound of the same images beside it, so that their agreement is to be seen."""
    dataset, indices = asked.images(32)
    x, classes = dataset.batch(indices), asked.classes(dataset, indices)
    model = calibrated(asked.run, asked.device)
    found = flow_likelihood(
        model,
        x,
        classes,
        samples=1 if asked.flags.samples is None else asked.flags.samples,
        dequantize=asked.flags.dequantize or "decoder",
        tolerance=1e-4 if asked.flags.tolerance is None else asked.flags.tolerance,
        seed=asked.seed,
        progress=asked.progress,
    )
    bound = log_likelihood(model, x, classes, seed=asked.seed, device=asked.device)
    (mean, error), (most, spread) = found.answer.mean or NONE, bound.mean or NONE
    gap, doubt = found.below(bound)
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        **likelihood_record(found.answer),
        "noise_bits_per_dim": finite(found.noise),
        "evaluations": found.evaluations,
        "bound": likelihood_record(bound),
        "bound_minus_equation": {"bits_per_dim": gap, "standard_error": finite(doubt)},
    }
    what = f"{len(indices)} {'vectors' if dataset.vector else 'images'}"
    single = "ask for --samples 2 or more to know the noise of the draws in it"
    noise = single if math.isnan(found.noise) else f"the draws leave {found.noise:.4f} of noise in that of one"
    lines = [
        f"{SIGNS[found.answer.kind]} {with_error(mean, error)} bits/dim over {what} of {dataset.name}; {noise} "
        f"({found.answer.reason}; {found.evaluations:.0f} evaluations a draw)",
        f"{SIGNS[bound.kind]} {with_error(most, spread)} bits/dim for the same ({bound.reason}); "
        f"that is {'+' if gap > 0 else ''}{with_error(gap, doubt)} against the equation",
        *flagged(found.answer.flag or bound.flag),
    ]
    return Reply(record, lines)


def ask_invert(asked: Asked) -> Reply:
    dataset, indices = asked.images(6)
    x, classes = dataset.batch(indices), asked.classes(dataset, indices)
    counts = parse_numbers("--counts", asked.flags.counts, int)
    answer = invert(loaded(asked), x, classes, steps=counts, options=decoding_options(asked), progress=asked.progress)
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
    points = 9 if asked.flags.points is None else asked.flags.points
    if points < 2:
        raise ValueError(f"--points must be at least 2, the ends, not {points}")
    model, options = loaded(asked), decoding_options(asked)
    rows = interpolate(model, x, classes, between=points - 2, options=options, progress=asked.progress)
    path = asked.picture("interpolation")
    if asked.first:
        title = asked.title(f"between pairs of {dataset.name}, in noise space")
        draw_interpolation(rows, x, asked.config.spec.levels, path, title)
    record = {"images": dataset.name, "indices": indices.tolist(), "points": points, "picture": str(path)}
    return Reply(record, [str(path)])
