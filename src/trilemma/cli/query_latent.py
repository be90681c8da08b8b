"""The questions to families with a latent space: autoencoder, VAE and GAN."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from cyclopts import Parameter
from torch import Tensor

from trilemma.cli.query_asked import Asked, Flags, Indices, Mode, Reply, finite, true_labels
from trilemma.data import Dataset, load
from trilemma.evaluation import subset
from trilemma.families.family import Progress
from trilemma.parallel import ranks
from trilemma.queries.annealed import Annealed, Settings, annealed, bracket
from trilemma.queries.decoders import decoding
from trilemma.queries.disentangle import disentanglement, draw_disentanglement, read_factors
from trilemma.queries.downstream import downstream_check
from trilemma.queries.latent import arithmetic, interpolate, manifold, traverse
from trilemma.queries.latent_pictures import (
    draw_arithmetic,
    draw_interpolations,
    draw_manifold,
    draw_map,
    draw_traversal,
)
from trilemma.queries.posterior import decode, distortion_unit, draw_reconstructions, posterior, save_codes
from trilemma.queries.samplers import KINDS, draw_samplers, samplers

SHOWN = 24
"""Images in a picture of reconstructions."""


def _flag(text: str) -> Parameter:
    return Parameter(help=text, negative=(), show_default=False)


@Parameter(name="*")
@dataclass(frozen=True)
class LatentFlags:
    """The questions, and the flags that only they read."""

    annealed: Annotated[
        bool, _flag("log p(x) by annealed importance sampling, bracketed from both sides (vae, gan); -n 16 by default")
    ] = False
    posterior: Annotated[
        bool, _flag("p(z|x): reconstructions, active latents, codes as .npz (vae, autoencoder); -n 24 by default")
    ] = False
    downstream: Annotated[
        bool, _flag("classifiers on codes against raw pixels (vae, autoencoder); -n 2000 training images by default")
    ] = False
    traverse: Annotated[bool, _flag("draw what each latent does, the most important first (vae, autoencoder)")] = False
    manifold: Annotated[bool, _flag("draw the whole of a 2-D latent space, and the codes of images in it")] = False
    arithmetic: Annotated[
        str | None, _flag("A-B+C on mean codes of classes such as 9-4+1, or of images such as @12,40-@7+@3")
    ] = None
    disentangle: Annotated[
        str | None, _flag("mutual information gap and DCI on an .npz of images with 'factors' (vae, autoencoder)")
    ] = None
    samplers: Annotated[
        bool, _flag("what an autoencoder makes of N(0, I), of densities fitted to its codes, and of a large box")
    ] = False
    points: Annotated[int | None, _flag("pictures in a row of --interpolate (9, in z) and --traverse (9)")] = None
    chains: Annotated[int | None, _flag("with --annealed: chains for each image; 16 by default")] = None
    temperatures: Annotated[int | None, _flag("with --annealed: steps from prior to posterior; 500 by default")] = None
    sigma: Annotated[float | None, _flag("with --annealed: a gan's observation noise on [0, 1]; 0.1 by default")] = None
    start: Annotated[
        Literal["prior", "encoder"] | None, _flag("with --annealed: where the chains of a vae start; prior by default")
    ] = None
    codes: Annotated[Path | None, _flag("with --posterior: where the codes go, codes.npz in the run by default")] = None

    def extend(self, flags: Flags) -> Flags:
        """The flags of every question with those of these."""
        return replace(
            flags,
            points=self.points,
            chains=self.chains,
            temperatures=self.temperatures,
            sigma=self.sigma,
            start=self.start,
            codes=self.codes,
        )


def ask_annealed(asked: Asked) -> Reply:
    flags, usual = asked.flags, Settings()
    settings = Settings(
        temperatures=usual.temperatures if flags.temperatures is None else flags.temperatures,
        chains=usual.chains if flags.chains is None else flags.chains,
        start="encoder" if flags.start == "encoder" else "prior",
        sigma=usual.sigma if flags.sigma is None else flags.sigma,
    )
    model = asked.run.model(device=_device(asked))
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
    lines = [
        f"log p(x) of {len(x)} images of {dataset.name}: forward {_mean(real.forward)}, backward "
        f"{_mean(real.backward)} nats, gap {real.gap:.2f} ({real.kind}: {real.reason})",
        f"of {len(x)} images that the model drew, where the bracket is exact: forward {_mean(own.forward)}, backward "
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
    return f"{float(values.mean()):.2f} ± {error:.2f}"


def _half(progress: Progress | None, which: int) -> Progress | None:
    return None if progress is None else lambda done, total: progress(which * total + done, 2 * total)


def ask_posterior(asked: Asked) -> Reply:
    model = asked.run.model(device=_device(asked))
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


def ask_interpolate_codes(asked: Asked) -> Reply:
    dataset, indices = asked.images(8)
    if len(indices) < 2:
        raise ValueError("--interpolate needs at least two images: raise -n, or name a folder with more")
    pairs = len(indices) // 2
    x, classes = dataset.batch(indices), asked.classes(dataset, indices)
    a, b = x[:pairs], x[pairs : 2 * pairs]
    points = 9 if asked.flags.points is None else asked.flags.points
    answer = interpolate(
        asked.run, a, b, points, None if classes is None else classes[:pairs],
        seed=asked.seed, device=asked.device, progress=asked.progress,
    )  # fmt: skip
    path = asked.picture("interpolation")
    if asked.first:
        draw_interpolations(answer, a, b, path, asked.title(f"interpolation, {dataset.name}"))
    ends = [indices[:pairs].tolist(), indices[pairs : 2 * pairs].tolist()]
    return Reply({"images": dataset.name, "from": ends[0], "to": ends[1], "picture": str(path)}, [str(path)])


def ask_traverse(asked: Asked) -> Reply:
    model = asked.run.model(device=_device(asked))
    dataset, indices = asked.images(500)
    x, classes = dataset.batch(indices), asked.classes(dataset, indices)
    known = posterior(model, x, classes, seed=asked.seed, device=asked.device, progress=asked.progress)
    points = 9 if asked.flags.points is None else asked.flags.points
    first = None if classes is None else classes[:1]
    answer = traverse(model, x[:1], known, points, label=first, device=asked.device)
    path = asked.picture("traversal")
    if asked.first:
        draw_traversal(answer, path, asked.title(f"traversals of image {indices[0]} of {dataset.name}"))
    record = {
        "images": dataset.name,
        "image": int(indices[0]),
        "latents": answer.latents.tolist(),
        "importance": answer.importance.tolist(),
        "measure": answer.measure,
        "verdict": known.verdict,
        "picture": str(path),
    }
    return Reply(record, [known.verdict, str(path)])


def ask_manifold(asked: Asked) -> Reply:
    model = decoding(asked.run.model(device=_device(asked)), "a manifold")
    dataset, indices = asked.images(2000)
    label = asked.classes(dataset, indices[:1])
    known, path = None, asked.picture("manifold")
    plain = path.with_name(f"{path.stem}-codes{path.suffix}")
    if model.name != "gan" and model.config.latent == 2:
        x, classes = dataset.batch(indices), asked.classes(dataset, indices)
        known = posterior(model, x, classes, seed=asked.seed, device=asked.device, progress=asked.progress)
    images = manifold(model, 20, None if label is None else int(label[0]), known, device=asked.device)
    if asked.first:
        words = "quantiles of N(0, 1) each way: every picture stands for an equal share of the prior"
        if model.name == "autoencoder":
            words = "evenly over the middle 90 % of the codes, z0 to the right and z1 upwards"
        draw_manifold(images, model.spec.levels, path, asked.title("the latent plane"), words)
        if known is not None:
            labels = dataset.label_batch(indices)
            text = f"codes of {len(indices)} images of {dataset.name}; circles: 1, 2 and 3 of N(0, I)"
            draw_map(known.mean, labels, dataset.class_names, plain, asked.title("codes"), text)
    pictures = [str(path), *([str(plain)] if known is not None else [])]
    return Reply({"images": dataset.name, "pictures": pictures}, pictures)


def ask_arithmetic(asked: Asked) -> Reply:
    model = asked.run.model(device=_device(asked))
    dataset, everything = asked.images(16 if model.name == "gan" else 200)
    groups, names = parse_arithmetic(asked.value or "", dataset, len(everything), asked.seed)
    pool = subset(
        dataset.test if len(dataset.test) else np.arange(len(dataset.images)), 4 * len(everything), asked.seed
    )
    answer = arithmetic(
        model, [dataset.batch(group) for group in groups], dataset.batch(pool),
        seed=asked.seed, device=asked.device, progress=asked.progress,
    )  # fmt: skip
    path = asked.picture("arithmetic")
    if asked.first:
        draw_arithmetic(answer, names, path, asked.title(f"{names[0]} - {names[1]} + {names[2]}"))
    near = pool[answer.indices.numpy()]
    record: dict[str, Any] = {
        "images": dataset.name,
        "groups": [group.tolist() for group in groups],
        "names": names,
        "z": answer.z.tolist(),
        "neighbours": near.tolist(),
        "picture": str(path),
    }
    lines = [str(path)]
    if (labels := dataset.label_batch(near)) is not None:
        record["neighbour_classes"] = [dataset.class_names[label] for label in labels.tolist()]
        lines.insert(0, f"nearest codes are those of images of {', '.join(record['neighbour_classes'])}")
    return Reply(record, lines)


def parse_arithmetic(text: str, dataset: Dataset, n: int, seed: int) -> tuple[list[Indices], list[str]]:
    """``9-4+1`` to at most ``n`` held-out images of each class, ``@12,40-@7+@3`` to images by their number."""
    match = re.fullmatch(r"\s*(.+?)\s*-\s*(.+?)\s*\+\s*(.+?)\s*", text)
    if not match:
        raise ValueError(f"--arithmetic {text!r} is not understood: write A-B+C, such as 9-4+1 or @12,40-@7+@3")
    groups = []
    for part in match.groups():
        if part.startswith("@"):
            numbers = [number.strip().lstrip("@") for number in part.split(",")]
            if not all(number.isdigit() and int(number) < len(dataset.images) for number in numbers):
                raise ValueError(f"--arithmetic {part!r}: image numbers are 0 to {len(dataset.images) - 1}")
            groups.append(np.array([int(number) for number in numbers], np.int64))
            continue
        if dataset.labels is None or part not in dataset.class_names:
            classes = ", ".join(dataset.class_names[:20]) or "none"
            raise ValueError(f"--arithmetic {part!r} is not a class; there are {classes}")
        rows = dataset.test if len(dataset.test) else np.arange(len(dataset.images))
        mine = rows[dataset.labels[rows] == dataset.class_names.index(part)]
        if not len(mine):
            raise ValueError(f"--arithmetic {part!r}: {dataset.name} has no held-out image of this class")
        groups.append(subset(mine, min(n, len(mine)), seed))
    return groups, list(match.groups())


def _device(asked: Asked) -> torch.device:
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


def ask_samplers(asked: Asked) -> Reply:
    dataset, n = load(asked.config.data), 2000 if asked.flags.n is None else asked.flags.n
    if n < 10:
        raise ValueError(f"--samplers needs at least 10 images, not {n}")
    train, held_out = (dataset.batch(subset(rows, n, asked.seed)) for rows in (dataset.train, dataset.test))
    answer = samplers(
        asked.run, train, held_out, n=n, seed=asked.seed, device=asked.device, progress=asked.progress
    )  # fmt: skip
    path = asked.picture("samplers")
    if asked.first:
        draw_samplers(answer, path, asked.title(f"no sampler, {dataset.name}"))
    record: dict[str, Any] = {
        "images": dataset.name,
        "n": n,
        "features": answer.features,
        "floor": answer.floor,
        "kinds": {kind: {"frechet": finite(s.frechet), "near": s.near} for kind, s in answer.kinds.items()},
        "picture": str(path),
    }
    lines = [
        f"{kind:8} Fréchet distance {s.frechet:6.2f}, near the data {100 * s.near:3.0f} %: {KINDS[kind]}"
        for kind, s in answer.kinds.items()
    ]
    note = f"{n} images each, {answer.features} features; held-out images of {dataset.name} {answer.floor:.2f}"
    return Reply(record, [*lines, note, str(path)])


SCENE = frozenset({"images", "n", "labels", "out"})
LATENT_MODES = {
    "annealed": Mode(ask_annealed, frozenset({"images", "n", "labels", "chains", "temperatures", "sigma", "start"})),
    "posterior": Mode(ask_posterior, SCENE | {"codes"}),
    "downstream": Mode(ask_downstream, frozenset({"n"})),
    "traverse": Mode(ask_traverse, SCENE | {"points"}),
    "manifold": Mode(ask_manifold, SCENE),
    "samplers": Mode(ask_samplers, frozenset({"n", "out"})),
    "disentangle": Mode(ask_disentangle, frozenset({"n", "out"})),
    "arithmetic": Mode(ask_arithmetic, frozenset({"images", "n", "out"})),
}
LATENT_QUESTIONS = tuple(LATENT_MODES)
