"""p(z|x) of a GAN, which has no encoder: points found by search."""

from __future__ import annotations

from trilemma.cli.query_asked import Asked, Reply
from trilemma.families.gan import GAN
from trilemma.queries.posterior import decode
from trilemma.queries.projection import POINTS, draw_projection, project, save_projection

SHOWN = 12
"""Images in the picture."""


def ask_projection(asked: Asked, model: GAN) -> Reply:
    dataset, indices = asked.images(8)
    x, classes = dataset.batch(indices), asked.classes(dataset, indices)
    answer = project(model, x, classes, seed=asked.seed, device=asked.device, progress=asked.progress)
    path, file = asked.picture("posterior"), asked.flags.codes or asked.run.path / "codes.npz"
    starts = answer.error.shape[1]
    if asked.first:
        ends = answer.starts[:SHOWN]
        many = None if classes is None else classes[:SHOWN].repeat_interleave(starts)
        found = decode(model, ends.flatten(0, 1), many, device=asked.device).view(-1, starts, *model.spec.shape)
        draw_projection(answer, x[:SHOWN], found, model.spec.levels, path, asked.title(dataset.name))
        labels = dataset.label_batch(indices)
        save_projection(answer, file, indices=indices.tolist(), labels=labels, class_names=dataset.class_names)
    best, worst = float(answer.error[:, 0].mean()), float(answer.error[:, -1].mean())
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "kind": "search",
        "reason": POINTS,
        "z": answer.z.tolist() if len(indices) <= 1000 else None,
        "error": answer.error.tolist() if len(indices) <= 1000 else None,
        "mean_error": best,
        "error_unit": "squared error on [-1, 1], mean over the values of an image",
        "picture": str(path),
        "codes": str(file),
    }
    lines = [
        POINTS,
        f"{len(indices)} images of {dataset.name}, {starts} searches each: squared error on [-1, 1] of the nearest "
        f"{best:.4f}, of the farthest {worst:.4f}",
        str(path),
        str(file),
    ]
    return Reply(record, lines)
