"""The questions that draw thousands of images in many ways and measure each: hours that a kill does not undo."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from trilemma.cli.query_asked import Asked, Reply
from trilemma.evaluation import Protocol
from trilemma.evaluation.sweeps import Bench
from trilemma.families import FAMILIES
from trilemma.families.diffusion import Denoising
from trilemma.files import write_json
from trilemma.queries import curve, guidance
from trilemma.queries.sweep import Point, Scores
from trilemma.sampling import sample


def parse_numbers(flag: str, text: str | None, kind: type[int] | type[float]) -> tuple[Any, ...] | None:
    """``1,10,100`` to numbers; None where nothing was asked for."""
    if text is None:
        return None
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or (kind is int and not all(numbers)) or not all(map(math.isfinite, numbers)):
        example = "steps such as 1,10,100" if kind is int else "weights such as 0,1,3"
        raise ValueError(f"{flag} {text!r} is not understood: write numbers of {example}")
    return numbers


def ask_curve(asked: Asked) -> Reply:
    base = _base(asked)
    chosen = asked.flags.options or {}
    counts = parse_numbers("--counts", asked.flags.counts, int) or ((base.steps,) if base.steps else None)
    picture = Path(asked.picture("curve"))
    bench = _bench(asked, picture)
    samplers = [base.sampler] if "sampler" in chosen else None
    ways = curve.ways(bench.model, base, samplers, counts)
    points, before, others = bench.sweep(ways, picture.with_suffix(".jsonl"), asked.progress)
    # What was asked of the same run before stays in the picture.
    others = [point for point in others if point.guidance == base.guidance]
    points, before = others + points, before + len(others)
    floor, distance = bench.floor(), _distance(bench)
    cheap, best = curve.cheapest(points)
    if asked.first:
        curve.draw_curve(points, floor, picture, asked.title("speed and quality"), bench.words, distance)
    record = {"cheapest": asdict(cheap), "best": asdict(best)}
    lines = [*curve.table(points, floor, distance), curve.verdict(points, distance)]
    return _reply(asked, bench, base, points, floor, picture, record, lines, before)


def ask_guidance(asked: Asked) -> Reply:
    base = _base(asked)
    weights = parse_numbers("--weights", asked.flags.weights, float)
    picture = Path(asked.picture("guidance"))
    if not asked.config.spec.classes:
        raise ValueError("--guidance-sweep needs a class-conditional run: train one with --conditional")
    bench = _bench(asked, picture, accuracy=True)
    ways = guidance.ways(bench.model, base, sorted(weights) if weights else None)
    points, before, _ = bench.sweep(ways, picture.with_suffix(".jsonl"), asked.progress)
    floor, distance = bench.floor(), _distance(bench)
    classes = [i % asked.config.spec.classes for i in range(guidance.SHOWN)]
    rows = torch.stack(
        [
            sample(bench.model, len(classes), seed=asked.seed, labels=classes, options=way, device=asked.device).images
            for way in ways
        ]
    )
    if asked.first:
        levels, title = asked.config.spec.levels, asked.title(f"guidance, {base.sampler} in {ways[0].steps} steps")
        guidance.draw_guidance(points, floor, rows, levels, picture, title, bench.words, distance)
    lines = [*guidance.table(points, floor, distance), guidance.CONVENTION, guidance.verdict(points, distance)]
    record = {"convention": guidance.CONVENTION}
    return _reply(asked, bench, base, points, floor, picture, record, lines, before)


def _base(asked: Asked) -> Any:
    """The sampling options that all points share."""
    family = FAMILIES[asked.config.family]
    if not issubclass(family, Denoising):
        raise ValueError(
            f"{asked.run.path} is a {family.name}, which samples in one way: ask a diffusion or flow run for its steps"
        )
    return asked.options(family.Options) or family.Options()


def _bench(asked: Asked, picture: Path, accuracy: bool = False) -> Bench:
    flags = asked.flags
    protocol = Protocol(
        n=2000 if flags.n is None else flags.n,
        features=flags.features or "small",
        reference=10_000 if flags.reference is None else flags.reference,
        seed=asked.seed,
    )
    return Bench.prepare(asked.run, protocol, picture.with_name(f"{picture.stem}-parts"), asked.device, accuracy)


def _distance(bench: Bench) -> str:
    """Only Inception's Fréchet distance is called FID."""
    return "FID" if bench.real.protocol.official else "Fréchet"


def _reply(
    asked: Asked,
    bench: Bench,
    base: Any,
    points: list[Point],
    floor: Scores,
    picture: Path,
    more: dict[str, Any],
    lines: list[str],
    before: int,
) -> Reply:
    ledger = picture.with_suffix(".jsonl")
    record: dict[str, Any] = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "protocol": bench.protocol(base),
        "distance": _distance(bench),
        "floor": {"n": bench.real.held_out.n, **floor},
        "points": [asdict(point) for point in points],
        **more,
        "picture": str(picture),
        "ledger": str(ledger),
        "known_before": before,
        "flag": bench.flag,
    }
    if asked.first:
        write_json(picture.with_suffix(".json"), record)
    kept = f"{before} of {len(points)} points were there from before ({ledger})"
    lines = [*lines, f"{bench.words}; {bench.real.held_out.n:,} held-out images", str(picture)]
    lines += [kept] if before else []
    return Reply(record, lines + ([f"flag: {bench.flag}"] if bench.flag else []))
