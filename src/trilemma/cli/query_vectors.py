"""The questions to a run of vectors."""

from __future__ import annotations

import torch

from trilemma.cli.query_asked import Asked, Reply
from trilemma.data import load
from trilemma.parallel import ranks
from trilemma.queries.density import density_map, draw_density
from trilemma.queries.likelihood import checked_labels

ANSWERED = ("likelihood", "density", "ode", "classify", "ood", "gradients", "annealed")
"""Questions that make sense of vectors; the others look at images."""


def ask_density(asked: Asked) -> Reply:
    """log p over the plane of the data, as a picture."""
    dataset = load(asked.config.data)
    model = asked.run.model(ranks(asked.device).device)
    labels = asked.labels()
    if labels is not None and len(labels) != 1:
        raise ValueError(f"one density is drawn at a time: give --labels one class, not {len(labels)}")
    if labels is not None:
        checked_labels(model.spec, torch.as_tensor(labels), 1)
    field = density_map(
        model,
        dataset.batch(dataset.test[:10_000]),
        label=None if labels is None else int(labels[0]),
        samples=asked.flags.samples,
        progress=asked.progress,
    )
    path = asked.picture("density")
    if asked.first:
        draw_density(field, path)
    top = float(field.log_p.max())
    record = {"picture": str(path), "kind": field.kind, "reason": field.reason, "highest_nats": top}
    return Reply(record, [f"{path}: log p(x), {field.kind} ({field.reason}); the highest is {top:.3f} nats"])


def refuse_image_questions(asked: Asked, name: str) -> None:
    """A one-line ``ValueError`` for a question that only images can be asked, or only vectors."""
    vector = asked.config.spec.vector
    if vector and name not in ANSWERED:
        able = ", ".join(f"--{each}" for each in ANSWERED if each != "likelihood")
        raise ValueError(f"--{name} looks at images, and {asked.run.path} draws vectors: ask log p(x), or {able}")
    if not vector and name == "density":
        raise ValueError(f"--density is drawn over a plane, and {asked.run.path} draws images: ask log p(x) instead")
