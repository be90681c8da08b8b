"""The numbers of latent spaces, of autoencoder, VAE and GAN: p(z|x), evidence, and what codes are worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trilemma.cli.query_asked import Asked, Reply, true_labels, with_error
from trilemma.cli.query_projection import ask_projection
from trilemma.data import load
from trilemma.evaluation import subset
from trilemma.families.family import Progress
from trilemma.families.gan import GAN
from trilemma.metrics.estimate import Estimate
from trilemma.parallel import ranks
from trilemma.queries.annealed import Annealed, Settings, annealed, bracket
from trilemma.queries.disentangle import disentanglement, draw_disentanglement, read_factors
from trilemma.queries.downstream import downstream_check
from trilemma.queries.posterior import decode, distortion_unit, draw_reconstructions, posterior, save_codes
from trilemma.queries.samplers import KINDS, draw_samplers, in_words, samplers

SHOWN = 24
"""Images in a picture of reconstructions."""


def ask_annealed(asked: Asked) -> Reply:
    flags, usual = asked.flags, Settings()
    settings = Settings(
        temperatures=usual.temperatures if flags.temperatures is None else flags.temperatures,
        chains=usual.chains if flags.chains is None else flags.chains,
        start="encoder" if flags.start == "encoder" else "prior",
        sigma=usual.sigma if flags.sigma is None else flags.sigma,
    )
    model = asked.run.model(device=device_of(asked))
    dataset, indices = asked.images(16)
    x, classes = dataset.batch(indices), asked.classes(dataset, indices)
    told: dict[str, Any] = {"seed": asked.seed, "device": asked.device}
    real = annealed(model, x, classes, settings, **told, progress=_half(asked.progress, 0))
    own = bracket(model, len(x), classes, settings, **told, progress=_half(asked.progress, 1))
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "kind": real.kind,
        "reason": real.reason,
        "discrete": real.discrete,
        **_sides(real),
        "simulated": {"reason": own.reason, **_sides(own)},
    }
    things = "vectors" if model.spec.vector else "images"
    lines = [
        f"log p(x) of {len(x)} {things} of {dataset.name}: forward {_mean(real.forward)}, backward "
        f"{_mean(real.backward)} nats, gap {real.gap:.2f} ({real.kind}: {real.reason})",
        f"of {len(x)} {things} that the model drew, where the bracket is exact: forward {_mean(own.forward)}, backward "
        f"{_mean(own.backward)} nats, gap {own.gap:.2f}",
        f"accepted moves {real.acceptance:.2f}; effective chains {float(real.effective.mean()):.1f} of "
        f"{settings.chains}",
    ]
    return Reply(record, lines)


def _sides(answer: Annealed) -> dict[str, Any]:
    return {
        "forward": answer.forward.tolist(),
        "backward": answer.backward.tolist(),
        "mean_forward": float(answer.forward.mean()),
        "mean_backward": float(answer.backward.mean()),
        "gap": answer.gap,
        "acceptance": answer.acceptance,
        "effective_chains": answer.effective.tolist(),
    }


def _mean(values: Tensor) -> str:
    error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return with_error(float(values.mean()), error, 2)


def _half(progress: Progress | None, which: int) -> Progress | None:
    return None if progress is None else lambda done, total: progress(which * total + done, 2 * total)


def ask_posterior(asked: Asked) -> Reply:
    model = asked.run.model(device=device_of(asked))
    if isinstance(model, GAN):
        return ask_projection(asked, model)
    dataset, indices = asked.images(SHOWN)
    x, classes = dataset.batch(indices), asked.classes(dataset, indices)
    answer = posterior(model, x, classes, seed=asked.seed, device=asked.device, progress=asked.progress)
    path, file, unit = (
        asked.picture("posterior"),
        asked.flags.codes or asked.run.path / "codes.npz",
        distortion_unit(model),
    )
    if asked.first:
        drawn = None
        if answer.kind == "approximate":
            few = answer.draw(2, asked.seed)[:SHOWN]
            many = None if classes is None else classes[:SHOWN].repeat_interleave(2)
            drawn = decode(model, few.flatten(0, 1), many, device=asked.device).view(-1, 2, *model.spec.shape)
        draw_reconstructions(answer, x[:SHOWN], drawn, path, asked.title(dataset.name), unit)
        labels = dataset.label_batch(indices)
        save_codes(answer, file, indices=indices.tolist(), labels=labels, class_names=dataset.class_names)
    rate = answer.rate
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "kind": answer.kind,
        "mean": answer.mean.tolist() if len(indices) <= 1000 else None,
        "std": answer.std.tolist() if len(indices) <= 1000 else None,
        "rate": None if rate is None else rate.tolist(),
        "order": answer.order.tolist(),
        "active_units": int(answer.active.sum()),
        "distortion": float(answer.distortion.mean()),
        "distortion_unit": unit,
        "verdict": answer.verdict,
        "picture": str(path),
        "codes": str(file),
    }
    mean = f"reconstruction of {len(indices)} images of {dataset.name}: {_mean(answer.distortion)} {unit}"
    return Reply(record, [answer.verdict, mean, str(path), str(file)])


def ask_downstream(asked: Asked) -> Reply:
    dataset = load(asked.config.data)
    n = 2000 if asked.flags.n is None else asked.flags.n
    sides = [subset(rows, size, asked.seed) for rows, size in ((dataset.train, n), (dataset.test, max(1, n // 2)))]
    train, test = ((dataset.batch(rows), true_labels(dataset, rows)) for rows in sides)
    answers = downstream_check(asked.run, train, test, device=asked.device, progress=asked.progress)
    record: dict[str, Any] = {
        "train": len(sides[0]),
        "test": len(sides[1]),
        "features": {
            name: {
                "dims": answer.dims,
                "linear": answer.linear[0],
                "linear_standard_error": answer.linear[1],
                "neighbours": answer.neighbours[0],
                "neighbours_standard_error": answer.neighbours[1],
            }
            for name, answer in answers.items()
        },
    }
    lines = [
        f"{name} ({answer.dims} numbers): linear probe {answer.linear[0]:.3f} ± {answer.linear[1]:.3f}, "
        f"5 nearest neighbours {answer.neighbours[0]:.3f} ± {answer.neighbours[1]:.3f}"
        for name, answer in answers.items()
    ]
    note = f"accuracy on {len(sides[1])} held-out images of {dataset.name}, {len(sides[0])} training images"
    return Reply(record, [*lines, note])


def ask_samplers(asked: Asked) -> Reply:
    dataset, n = load(asked.config.data), 2000 if asked.flags.n is None else asked.flags.n
    if n < 1:
        raise ValueError(f"-n must be at least 1, not {n}")
    train, held_out = (dataset.batch(subset(rows, n, asked.seed)) for rows in (dataset.train, dataset.test))
    answer = samplers(
        asked.run, train, held_out, n=n, seed=asked.seed, device=asked.device, progress=asked.progress
    )  # fmt: skip
    path = asked.picture("samplers")
    if asked.first:
        draw_samplers(answer, path, asked.title(f"no sampler, {dataset.name}"))
    record: dict[str, Any] = {
        "images": dataset.name,
        "n": answer.n,
        "features": answer.features,
        "flag": answer.flag,
        "floor": _estimate(answer.floor),
        "kinds": {kind: {"frechet": _estimate(s.frechet), "near": s.near} for kind, s in answer.kinds.items()},
        "picture": str(path),
    }
    lines = [
        f"{kind:8} Fréchet distance {in_words(s.frechet)}, near the data {100 * s.near:3.0f} %: {KINDS[kind]}"
        for kind, s in answer.kinds.items()
    ]
    note = f"{answer.n} images each, {answer.features} features; held-out images of {dataset.name} "
    return Reply(record, [*lines, note + in_words(answer.floor), *([answer.flag] if answer.flag else []), str(path)])


def _estimate(found: Estimate | None) -> dict[str, float | None] | None:
    return None if found is None else {"value": found.value, "standard_error": found.error}


def device_of(asked: Asked) -> torch.device:
    return ranks(asked.device).device


def ask_disentangle(asked: Asked) -> Reply:
    path, source = asked.picture("disentanglement"), asked.value or ""
    factors, names = read_factors(source)
    flags = replace(asked.flags, n=5000 if asked.flags.n is None else asked.flags.n)
    dataset, indices = replace(asked, flags=flags).source(source, 5000)
    if len(factors) != len(dataset.images):
        raise ValueError(f"{source} has factors of {len(factors)} images and {len(dataset.images)} images")
    known = posterior(asked.run, dataset.batch(indices), device=asked.device, progress=asked.progress)
    answer = disentanglement(known.mean, factors[torch.from_numpy(indices)], names)
    if asked.first:
        draw_disentanglement(answer, path, asked.title(dataset.name))
    record = {
        "images": dataset.name,
        "n": len(indices),
        "factors": list(answer.names),
        "mutual_information_gap": answer.gap,
        "gaps": answer.gaps.tolist(),
        "disentanglement": answer.disentanglement,
        "completeness": answer.completeness,
        "informativeness": answer.informativeness,
        "informativeness_of_each": answer.scores.tolist(),
        "information": answer.information.tolist(),
        "importance": answer.importance.tolist(),
        "picture": str(path),
    }
    lines = [
        f"mutual information gap {answer.gap:.3f}; disentanglement {answer.disentanglement:.3f}, completeness "
        f"{answer.completeness:.3f}, informativeness {answer.informativeness:.3f} ({len(indices)} images of "
        f"{dataset.name}; factors {', '.join(answer.names)})",
        str(path),
    ]
    return Reply(record, lines)
