"""Questions about the values of an image, one by one or in part: each a picture or a proof."""

from __future__ import annotations

from trilemma.cli.query_asked import Asked, Reply
from trilemma.cli.query_scores import flagged
from trilemma.families import FAMILIES
from trilemma.families.family import Completing
from trilemma.metrics.likelihood import worse_than_uniform
from trilemma.queries.causality import causality
from trilemma.queries.completion import complete, draw_completions, known_part
from trilemma.queries.receptive import receptive_field
from trilemma.queries.receptive_pictures import draw_field
from trilemma.queries.surprise import draw_surprise, surprise


def ask_causality(asked: Asked) -> Reply:
    answer = causality(asked.run.model(), asked.progress, seed=asked.seed).require()
    return Reply({"ok": answer.ok, "checked": answer.checked, "places": answer.places}, [answer.text])


def ask_receptive(asked: Asked) -> Reply:
    model = asked.run.model()
    position = None if asked.value is None else parse_position(asked.value)
    dataset, indices = asked.images(16)
    classes = asked.classes(dataset, indices)
    field = receptive_field(model, dataset.batch(indices), position, classes, seed=asked.seed, progress=asked.progress)
    path = asked.picture("receptive")
    if asked.first:
        draw_field(field, path, asked.title(dataset.name))
    up, left, right = field.reach
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "position": list(field.position),
        "seen": int(field.pixels.sum()),
        "before": int(field.before.sum()),
        "reach": {"up": up, "left": left, "right": right},
        "pixels": field.pixels.int().tolist(),
        "influence": field.influence.tolist(),
        "picture": str(path),
    }
    return Reply(record, [field.text, str(path)])


def ask_complete(asked: Asked) -> Reply:
    flags, spec = asked.flags, asked.config.spec
    known = known_part(flags.keep or "top", spec)
    dataset, indices = asked.images(8)
    x = dataset.batch(indices)
    answer = complete(
        asked.run,
        x,
        known,
        4 if flags.copies is None else flags.copies,
        16 if flags.particles is None else flags.particles,
        asked.classes(dataset, indices),
        asked.options(options) if (options := completion_options(asked)) else None,
        indices=indices.tolist(),
        seed=asked.seed,
        device=asked.device,
        progress=asked.progress,
    )
    path = asked.picture("completion")
    if asked.first:
        draw_completions(answer, x, known, spec.levels, path)
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "exact": answer.exact,
        "how": answer.how,
        "effective_particles": None if answer.effective is None else answer.effective.tolist(),
        "picture": str(path),
    }
    effective = ""
    if answer.effective is not None:
        effective = (
            f"; effective particles at the end {answer.effective.mean():.1f}, least {answer.effective.min():.1f}"
        )
    return Reply(record, [f"{answer.how}{effective}", str(path)])


def completion_options(asked: Asked) -> type | None:
    """What the family of the run is told when it completes; None for one that cannot, which `complete` refuses."""
    family = FAMILIES[asked.config.family]
    return family.CompletionOptions if issubclass(family, Completing) else None


def ask_surprise(asked: Asked) -> Reply:
    dataset, indices = asked.images(8)
    x = dataset.batch(indices)
    classes = asked.classes(dataset, indices)
    answer = surprise(asked.run, x, classes, device=asked.device, progress=asked.progress)
    path = asked.picture("surprise")
    if asked.first:
        draw_surprise(answer, x, asked.config.spec.levels, path)
    nats, rates = answer.nats.tolist(), answer.bits_per_dim.tolist()
    record = {
        "images": dataset.name,
        "indices": indices.tolist(),
        "nats": nats,
        "bits_per_dim": rates,
        "bits_per_pixel": answer.bits.tolist(),
        "picture": str(path),
    }
    lines = [
        f"image {index}: −log p(x) = {nat:.2f} nats, {rate:.4f} bits/dim"
        for index, nat, rate in zip(indices.tolist(), nats, rates, strict=True)
    ]
    flag = worse_than_uniform(float(answer.bits_per_dim.mean()), asked.config.spec.levels)
    return Reply(record | {"flag": flag}, [*lines, *flagged(flag), str(path)])


def parse_position(text: str) -> tuple[int, int]:
    """``14,10`` to (row, column)."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--receptive {text!r} is not understood: write ROW,COLUMN such as 14,10, counted from 0")
    return int(parts[0]), int(parts[1])
