"""VAEs of several β on one plane: rate against distortion, and how blurred their samples are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from trilemma.cli.query_asked import Asked, Reply
from trilemma.evaluation.rates import in_words, rates
from trilemma.queries.rate_distortion import draw_rate_distortion, draw_spectra
from trilemma.run import Run


def ask_rates(asked: Asked) -> Reply:
    runs = [asked.run, *(Run.open(Path(other.strip())) for other in (asked.value or "").split(",") if other.strip())]
    dataset, rows = asked.images(1000)
    found = rates(runs, dataset, rows, seed=asked.seed, device=asked.device, progress=asked.progress)
    path = asked.picture("rate-distortion")
    second = path.with_name(f"{path.stem}-spectra{path.suffix}")
    if asked.first:
        title = f"{dataset.name}, {len(rows)} held-out images and as many samples"
        draw_rate_distortion(found.points, path, f"Rate and distortion: {title}", found.samples, dataset.levels)
        draw_spectra(found.spectra, second, f"Power spectra: {title}")
    record = {
        "images": dataset.name,
        "n": len(rows),
        "unit": "nats per image",
        "runs": [str(run.path) for run in runs],
        "points": [asdict(point) | {"bound": point.bound} for point in found.points],
        "picture": str(path),
        "spectra": str(second),
    }
    return Reply(record, [*map(in_words, found.points), str(path), str(second)])
