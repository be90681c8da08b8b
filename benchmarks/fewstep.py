"""What a student of few steps is worth beside its teacher: quality, breadth and speed.

    trilemma train diffusion fashion-mnist.npz --out teacher --budget 90m
    trilemma distill teacher --out student-0 --budget 30m             # and with --seed 1, 2
    python benchmarks/fewstep.py student-0 student-1 student-2

Each student is measured in 1, 2, 4 and 8 evaluations and its teacher along its own curve (`trilemma query curve`, which
keeps what it has measured). The best of the student in at most 4 evaluations stands beside the best of the teacher in
any number: a **Fréchet ratio** of at most 1.1 and a recall less by at most 0.02 is what is aimed at. Speed is that of
64 images at a time, against the ancestral sampler in all steps of the same network, measured in turns in this process;
the median over rounds. With several students ± is the standard deviation over them, else the error over images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import trilemma
from trilemma.bars import Bars
from trilemma.machine import described
from trilemma.noise import ImageNoise
from trilemma.questions.answer import Table
from trilemma.run import Run

AIMS = {"ratio": 1.1, "recall": -0.02, 4: 200.0, 2: 400.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", type=Path, help="runs of trilemma distill")
    parser.add_argument("-n", type=int, default=1000, help="samples for each point")
    parser.add_argument("--features", default="small", help="small, or inception for FID")
    parser.add_argument("--rounds", type=int, default=1, help="of the measure of speed; each takes a minute or so")
    args = parser.parse_args()
    found = [measured(Run.open(path), args.n, args.features) for path in args.students]
    faster = speeds(Run.open(args.students[0]), args.rounds)
    print(f"{described()}\n")
    heads = ("run", "steps", "evaluations", "Fréchet", "precision", "recall")
    rows = [
        (path.name, *each[who])
        for path, each in zip(args.students, found, strict=True)
        for who in ("teacher", "student")
    ]
    print("\n".join(Table(heads, tuple(rows)).lines()))
    ratios, recalls = [each["ratio"] for each in found], [each["recall"] for each in found]
    print()
    for what, values, errors, aim, better in (
        ("Fréchet ratio, at most 4 evaluations", ratios, [each["error"] for each in found], AIMS["ratio"], "at most"),
        ("recall less the teacher's", recalls, [each["recall_error"] for each in found], AIMS["recall"], "at least"),
    ):
        mean = statistics.fmean(values)
        spread = statistics.stdev(values) if len(values) > 1 else errors[0]
        good = mean <= aim if better == "at most" else mean >= aim
        print(
            f"{what}: {mean:.3g} ± {spread:.2g} over {len(values)}; {better} {aim}: {'reached' if good else 'MISSED'}"
        )
    for steps, ratio in faster.items():
        said = f"aim {AIMS[steps]:g}: {'reached' if ratio >= AIMS[steps] else 'MISSED'}" if steps in AIMS else ""
        print(f"images/s in {steps} evaluations against all steps of the ancestral sampler: × {ratio:.0f} {said}")


def measured(run: Run, n: int, features: str) -> dict[str, Any]:
    """The best points of a student and its teacher, and what lies between them."""
    with Bars() as bars:
        answer = trilemma.ask(
            run, "curve", n=n, features=features, progress=lambda done, of: bars.tell(run.path.name, "curve", done, of)
        )
    points = answer.values["points"]
    own = [point for point in points if point["sampler"] == "student" and point["evaluations"] <= 4]
    theirs = [point for point in points if point["sampler"] != "student"]
    if not theirs:
        raise SystemExit(f"fewstep: {run.path} has no teacher to stand beside: give runs of trilemma distill")
    best, other = (min(each, key=lambda point: point["scores"]["frechet"][0]) for each in (own, theirs))
    (a, da), (b, db) = best["scores"]["frechet"], other["scores"]["frechet"]
    (r, dr), (q, dq) = best["scores"]["recall"], other["scores"]["recall"]
    return {
        "student": told(best),
        "teacher": told(other),
        "ratio": a / b,
        "error": a / b * ((da / a) ** 2 + (db / b) ** 2) ** 0.5,
        "recall": r - q,
        "recall_error": (dr**2 + dq**2) ** 0.5,
    }


def told(point: dict[str, Any]) -> tuple[str, ...]:
    """A point in words: its steps, its evaluations and its scores."""
    scores = (f"{v:.3g} ± {e:.2g}" for v, e in (point["scores"][name] for name in ("frechet", "precision", "recall")))
    return f"{point['sampler']} {point['steps']}", str(point["evaluations"]), *scores


def speeds(run: Run, rounds: int) -> dict[int, float]:
    """By its steps how many times faster a student is than all steps of the ancestral sampler of its teacher."""
    student, teacher = run.model(), Run.open(run.config.model.teacher).model()
    every = teacher.Options(sampler="ddpm")
    spec, count = student.spec, 64
    labels = torch.arange(count) % spec.classes if spec.classes else None

    def seconds(model: Any, options: Any, repeats: int) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            with torch.no_grad():
                model.sample(ImageNoise(0, range(count)), labels, options)
        return (time.perf_counter() - began) / repeats

    ratios: dict[int, list[float]] = {1: [], 2: [], 4: [], 8: []}
    for steps in ratios:
        seconds(student, student.Options(steps=steps), 1)  # the first one allocates
    for _ in range(rounds):
        slow = seconds(teacher, every, 1)
        for steps, each in ratios.items():
            each.append(slow / seconds(student, student.Options(steps=steps), 16 // steps))
    return {steps: statistics.median(each) for steps, each in ratios.items()}


if __name__ == "__main__":
    main()
