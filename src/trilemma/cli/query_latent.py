"""The pictures of latent spaces, of autoencoder, VAE and GAN: interpolation, traversals, the plane, arithmetic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trilemma.cli.query_asked import Asked, Indices, Reply, true_labels
from trilemma.cli.query_codes import device_of
from trilemma.data import Dataset
from trilemma.evaluation import subset
from trilemma.queries.arithmetic import arithmetic
from trilemma.queries.decoders import decoding
from trilemma.queries.latent import interpolate, manifold, traverse
from trilemma.queries.latent_pictures import (
    draw_arithmetic,
    draw_interpolations,
    draw_manifold,
    draw_map,
    draw_traversal,
)
from trilemma.queries.posterior import posterior


def ask_interpolate_codes(asked: Asked) -> Reply:
    dataset, first, second = _pairs(asked, 8)
    labels = asked.classes(dataset, first)
    a, b = dataset.batch(first), dataset.batch(second)
    points = 9 if asked.flags.points is None else asked.flags.points
    answer = interpolate(asked.run, a, b, points, labels, seed=asked.seed, device=asked.device, progress=asked.progress)
    path = asked.picture("interpolation")
    if asked.first:
        draw_interpolations(answer, a, b, path, asked.title(f"interpolation, {dataset.name}"))
    record = {"images": dataset.name, "from": first.tolist(), "to": second.tolist(), "picture": str(path)}
    return Reply(record, [str(path)])


def _pairs(asked: Asked, most: int) -> tuple[Dataset, Indices, Indices]:
    """The images an interpolation goes between: of those asked about, the first half and the second; with ``--labels
    true`` as many pairs of one class, because what lies between two classes can be decoded as neither."""
    own = asked.flags.labels == "true"
    count = most if asked.flags.n is None else asked.flags.n
    wide = replace(asked.flags, n=20 * count) if own else asked.flags  # enough to find a second of each class
    dataset, indices = replace(asked, flags=wide).images(most)
    if min(count, len(indices)) < 2:
        raise ValueError("--interpolate needs at least two images: raise -n, or name a folder with more")
    if not own:
        pairs = len(indices) // 2
        return dataset, indices[:pairs], indices[pairs : 2 * pairs]
    waiting: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for row, label in zip(indices.tolist(), true_labels(dataset, indices).tolist(), strict=True):
        if label not in waiting:
            waiting[label] = row
        elif len(found) < count // 2:
            found.append((waiting.pop(label), row))
    if not found:
        raise ValueError(
            f"--interpolate --labels true goes between images of one class, and none of {len(indices)} images share "
            "one: leave --labels out, or name images with more of a class"
        )
    first, second = np.array(found, np.int64).T
    return dataset, first, second


def ask_traverse(asked: Asked) -> Reply:
    model = asked.run.model(device=device_of(asked))
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
    model = decoding(asked.run.model(device=device_of(asked)), "a manifold")
    dataset, indices = asked.images(2000)
    label = _one_class(asked)
    known, path = None, asked.picture("manifold")
    plain = path.with_name(f"{path.stem}-codes{path.suffix}")
    if model.name != "gan" and model.config.latent == 2:
        if label is not None and (own := asked.run.conditions(dataset, indices)) is not None:
            mine = own.numpy() == label
            indices = indices[mine] if mine.any() else indices  # an image is encoded as what it is
        x, classes = dataset.batch(indices), asked.classes(dataset, indices)
        known = posterior(model, x, classes, seed=asked.seed, device=asked.device, progress=asked.progress)
    images = manifold(model, 20, label, known, device=asked.device)
    of = "" if label is None else f" of class {[*asked.config.class_names, 'none'][label]}"
    if asked.first:
        words = "quantiles of N(0, 1) each way: every picture stands for an equal share of the prior"
        if model.name == "autoencoder":
            words = "evenly over the middle 90 % of the codes, z0 to the right and z1 upwards"
        draw_manifold(images, model.spec.levels, path, asked.title(f"the latent plane{of}"), words)
        if known is not None:
            labels = dataset.label_batch(indices)
            text = f"codes of {len(indices)} images of {dataset.name}; circles: 1, 2 and 3 of N(0, I)"
            draw_map(known.mean, labels, dataset.class_names, plain, asked.title("codes"), text)
    pictures = [str(path), *([str(plain)] if known is not None else [])]
    return Reply({"images": dataset.name, "pictures": pictures}, pictures)


def _one_class(asked: Asked) -> int | None:
    """The class that the plane is drawn in; None where none was named."""
    if asked.flags.labels == "true":
        raise ValueError(
            "--manifold draws one plane, not images with a class of their own: name one class, such as --labels 3"
        )
    given = asked.labels()
    if given is None:
        return None
    if len(given) != 1:
        raise ValueError(f"--manifold draws one plane: give --labels one class, not {len(given)}")
    return int(given[0])


def ask_arithmetic(asked: Asked) -> Reply:
    model = asked.run.model(device=device_of(asked))
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
    groups, parts = [], _parts(text, dataset.class_names)
    for part in parts:
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
    return groups, parts


def _parts(text: str, names: Sequence[str]) -> list[str]:
    """A, B and C of A-B+C, where a class may have signs in its name (``T-shirt/top``)."""
    minus, plus = ([i for i, sign in enumerate(text) if sign == wanted] for wanted in "-+")
    ways = [[text[:i], text[i + 1 : j], text[j + 1 :]] for i in minus for j in plus if i < j]
    ways = [parts for way in ways if all(parts := [part.strip() for part in way])]
    known = [parts for parts in ways if all(part in names or re.fullmatch(r"@[@\d,\s]+", part) for part in parts)]
    if not ways:
        raise ValueError(f"--arithmetic {text!r} is not understood: write A-B+C, such as 9-4+1 or @12,40-@7+@3")
    if len(known) > 1:
        raise ValueError(f"--arithmetic {text!r} can be read in {len(known)} ways: name images by number, as @12-@7+@3")
    return known[0] if known else ways[0]
