"""Speed against quality: one trained run, drawn from with few and with many steps by each of its samplers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import UnionType
from typing import Annotated, Any, ClassVar

from trilemma import drawing
from trilemma.drawing import Picture, Sheet
from trilemma.evaluation.sweeps import Bench, Point, Scores, Sweep, number, written
from trilemma.families import FAMILIES
from trilemma.families.family import Denoises, Distils
from trilemma.number import Number
from trilemma.questions.answer import Answer, Table
from trilemma.questions.question import Context
from trilemma.run import Run, names_run
from trilemma.validate import MOST, Limits

COUNTS = (1, 2, 5, 10, 20, 50, 100, 1000)
"""Steps of each sampler, where no others are asked for."""
STUDENTS, TEACHERS = (1, 2, 4, 8), (1, 2, 4, 8, 20)
"""The same of a student of few steps, and of its teacher beside it."""
WITHIN = 0.10
"""How near to the best counts as as good."""
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 60, 20), (230, 159, 0))
"""Hues that people with any kind of colour vision tell apart (Okabe and Ito), one for each sampler, then anew."""


@dataclass(frozen=True)
class Curve(Sweep):
    """Speed against quality; of a student of few steps its teacher's too."""

    counts: Annotated[tuple[int, ...], Limits(1, MOST, count=1)] | None = None
    """The numbers of steps, such as 1,10,100; by default from 1 to 1000, of a student from 1 to 8."""

    name: ClassVar[str] = "curve"
    title: ClassVar[str] = "Speed against quality"
    sentence: ClassVar[str] = "How good are samples of every sampler in few and in many steps, and which is cheapest?"

    capabilities: ClassVar[tuple[type | UnionType, ...]] = (Denoises | Distils,)

    def answer(self, context: Context) -> Answer:
        base = context.options(self.options) or FAMILIES[context.config.family].Options()
        if isinstance(context.model, Distils):
            return self.of_student(context, base)
        chosen = isinstance(self.options, Mapping) and "sampler" in self.options
        counts = self.counts or ((base.steps,) if base.steps else None)
        bench = self.bench(context)
        assert isinstance(bench.model, Denoises)
        asked = settings(bench.model, base, [base.sampler] if chosen else None, counts)
        points, before, others = bench.sweep(asked, context.progress)
        # What was asked of the same run before stays in the picture.
        others = [point for point in others if point.guidance == base.guidance]
        points, before = others + points, before + len(others)
        floor, (cheap, best) = bench.floor(), cheapest(points)
        note = "{0.label} in {0.steps} steps"
        numbers = {
            "best_frechet": number(best, "frechet", bench, note.format(best)),
            "cheapest_frechet": number(cheap, "frechet", bench, note.format(cheap)),
            "cheapest_evaluations": Number(cheap.evaluations, better="lower", n=self.n, note=note.format(cheap)),
        }
        return self.answered(
            bench, base, points, floor, before,
            numbers=numbers,
            reading=[verdict(points, bench.distance)],
            table=table(points, floor, bench.distance),
            values={"cheapest": asdict(cheap), "best": asdict(best)},
            found=(points, floor, bench.words, bench.distance),
        )  # fmt: skip

    def of_student(self, context: Context, base: Any) -> Answer:
        """The student in few evaluations, and its teacher in as many and in more, where it is still there."""
        bench = self.bench(context)
        steps = self.counts or STUDENTS
        points, before, _ = bench.sweep([replace(base, steps=count) for count in steps], context.progress)
        path, told = context.config.model.teacher, "its first part was its teacher, of which nothing is kept"
        student = min(points, key=lambda point: point.frechet)
        taught: list[Point] = []
        numbers: dict[str, Number] = {}
        if path and not names_run(path):
            told = f"its teacher {path} is no longer there, so it stands alone"
        elif path:
            taught, known = self.of_teacher(bench, path, base, context)
            before += known
            best = min(taught, key=lambda point: point.frechet)
            numbers["student_over_teacher"] = ratio = over(student, best, self.n)
            told = (
                f"the student in {student.steps} evaluations has {ratio} times the {bench.distance} of the best of its "
                f"teacher ({best.label} in {best.steps} steps, {best.evaluations} evaluations), and takes "
                f"{best.seconds / student.seconds:.3g} times fewer seconds"
            )
        points = points + taught
        floor, (cheap, best) = bench.floor(), cheapest(points)
        note = "{0.label} in {0.steps} steps"
        numbers["best_frechet"] = number(best, "frechet", bench, note.format(best))
        numbers["student_frechet"] = number(student, "frechet", bench, note.format(student))
        return self.answered(
            bench, base, points, floor, before,
            numbers=numbers,
            reading=[told, verdict(points, bench.distance)],
            table=table(points, floor, bench.distance),
            values={"cheapest": asdict(cheap), "best": asdict(best), "student": asdict(student), "teacher": path},
            found=(points, floor, bench.words, bench.distance),
        )  # fmt: skip

    def of_teacher(self, bench: Bench, path: str, base: Any, context: Context) -> tuple[list[Point], int]:
        """The teacher's points by its own sampler and by heun, and how many of them were known."""
        run = Run.open(path)
        model = run.model(bench.where.device)
        assert isinstance(model, Denoises)
        ledger = bench.ledger and bench.ledger.with_name(f"{bench.ledger.stem}-teacher.jsonl")
        theirs = replace(bench, run=run, model=model, ledger=ledger)
        usual = model.Options(guidance=base.guidance)
        steps = sorted({*(self.counts or ()), *TEACHERS})
        asked = settings(model, usual, list(dict.fromkeys((usual.sampler, "heun"))), steps)
        points, before, _ = theirs.sweep(asked, context.progress)
        return [replace(point, sampler=f"teacher, {point.sampler}") for point in points], before

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        points, floor, protocol, distance = answer.found
        return {"curve": draw_curve(points, floor, answer.title("speed and quality"), protocol, distance)}


def settings(
    model: Denoises, base: Any, samplers: Sequence[str] | None = None, counts: Sequence[int] | None = None
) -> list[Any]:
    """The sampling options of every point, the cheapest first, so that a first picture of the curve comes soon.

    Args:
        base: what all points share, such as the spacing; its sampler and steps are replaced. Its eta counts for ddim
            and its variance for ddpm alone.
        samplers: by default all that the model has, but only its own of ddim and euler, which take the same steps
            where no noise is added.
        counts: numbers of steps; by default those of `COUNTS` that the model can take (a student's may be few).

    Raises:
        ValueError: a count that was asked for and that the model cannot take, or a list of times, in one line.
    """
    if base.times:
        raise ValueError("the points of a curve are named by their number of steps: leave out times")
    if samplers is None:
        own = model.Options().sampler
        twin = {"ddim": "euler", "euler": "ddim"}.get(own) if base.eta == 0 else None
        samplers = [name for name in model.samplers if name != twin]
    chosen = []
    for count in counts or COUNTS:
        for name in samplers:
            each = base.by(name, count)
            try:
                each.visits(model.schedule)
            except ValueError:
                if counts is None:
                    continue
                raise
            chosen.append(each)
    return chosen


def cheapest(points: Sequence[Point]) -> tuple[Point, Point]:
    """The point of fewest evaluations whose Fréchet distance is within `WITHIN` of the best, and the best.

    Raises:
        ValueError: no point has a Fréchet distance, in one line.
    """
    best = min(points, key=lambda point: point.frechet)
    if not math.isfinite(best.frechet):
        raise ValueError("no Fréchet distance could be trusted: draw more images (-n) than the features have numbers")
    good = [point for point in points if point.frechet <= (1 + WITHIN) * best.frechet]
    return min(good, key=lambda point: (point.evaluations, point.frechet)), best


def over(one: Point, other: Point, n: int) -> Number:
    """The ratio of two Fréchet distances, with the error that theirs leave it."""
    a, b = one.frechet, other.frechet
    errors = [error or 0.0 for _, error in (one.scores["frechet"], other.scores["frechet"])]
    ratio = a / b if b else math.inf
    if not math.isfinite(ratio):
        return Number(None, note="no Fréchet distance could be trusted")
    return Number(ratio, ratio * math.hypot(errors[0] / a, errors[1] / b), "", "lower", n, note="student over teacher")


def verdict(points: Sequence[Point], distance: str = "Fréchet") -> str:
    """The answer in a sentence; ``distance`` is what the Fréchet distance is called in these features."""
    cheap, best = cheapest(points)
    return (
        f"cheapest within {WITHIN:.0%} of the best: {cheap.label} in {cheap.steps} steps ({cheap.evaluations} "
        f"evaluations, {distance} {cheap.frechet:.3g}, {cheap.seconds:.2g} s an image); the best is {best.label} in "
        f"{best.steps} ({best.evaluations} evaluations, {best.frechet:.3g}, {best.seconds:.2g} s)"
    )


def table(points: Sequence[Point], floor: Scores | None = None, distance: str = "Fréchet") -> Table:
    """A row for each point, each sampler's together; ± is one standard error."""
    names = ("frechet", "precision", "recall")
    rows = [
        (p.label, str(p.steps), str(p.evaluations), *written(p.scores, names), f"{p.seconds:.2g}")
        for p in by_sampler(points)
    ]
    if floor is not None:
        rows.append(("held-out real images", "", "", *written(floor, names), ""))
    return Table(("sampler", "steps", "evaluations", distance, "precision", "recall", "s/image"), tuple(rows))


def by_sampler(points: Sequence[Point]) -> list[Point]:
    """The points, each sampler's together by the number of steps."""
    order = list(dict.fromkeys(point.label for point in points))
    return sorted(points, key=lambda point: (order.index(point.label), point.steps))


# The picture


def draw_curve(
    points: Sequence[Point],
    floor: Scores | None,
    title: str,
    protocol: str,
    distance: str = "Fréchet",
) -> Sheet:
    """Fréchet distance, precision, recall and seconds against evaluations, a line for each sampler."""
    distance = distance.replace("é", "e")  # the font lacks it
    finite = by_sampler([point for point in points if math.isfinite(point.frechet)])
    cheap, _ = cheapest(finite)
    named = f"{distance} distance" if distance != "FID" else distance
    panels = [
        _panel(finite, cheap, floor, "frechet", f"{named}, lower is better", logarithmic=True),
        _panel(finite, cheap, floor, "precision", "precision: share of samples that look real"),
        _panel(finite, cheap, None, "seconds", "seconds for an image", logarithmic=True),
        _panel(finite, cheap, floor, "recall", "recall: share of real images that are reached"),
    ]
    samplers = list(dict.fromkeys(point.label for point in finite))
    entries = [(drawing.swatch(colour), name) for name, colour in zip(samplers, itertools.cycle(COLOURS), strict=False)]
    lines = [
        verdict(finite, distance),
        protocol,
        "ring: the cheapest within 10 % of the best" + ("; grey line: held-out real images" if floor else ""),
    ]
    parts = [
        drawing.words([title], 16),
        drawing.words(lines, 12),
        drawing.key(entries),
        drawing.beside(panels[:2]),
        drawing.beside(panels[2:]),
    ]
    return drawing.framed(drawing.below(parts))


def _panel(
    points: Sequence[Point], cheap: Point, floor: Scores | None, name: str, title: str, *, logarithmic: bool = False
) -> Sheet:
    """One number against evaluations, these by factors of ten."""

    def height(value: float) -> float:
        return math.log10(max(value, 1e-9)) if logarithmic else value

    def of(point: Point) -> float:
        return height(point.seconds if name == "seconds" else point.value(name))

    level = floor.get(name, (None, None))[0] if floor else None
    heights = [value for value in map(of, points) if math.isfinite(value)]
    heights += [] if level is None else [height(level)]
    low, high = min(heights, default=0.0), max(heights, default=1.0)
    margin = 0.06 * (high - low) or 0.05
    y = (low - margin, high + margin)
    x = (-0.03, math.log10(max(point.evaluations for point in points)) + 0.08)
    ticks = [k for k in (0, math.log10(2), math.log10(5), 1, math.log10(20), math.log10(50), 2, 3) if k <= x[1]]
    if logarithmic:
        decades = range(math.floor(y[0]), math.ceil(y[1]))
        nice = [(math.log10(n) + k, f"{n * 10**k:g}") for k in map(float, decades) for n in (1, 2, 5)]
        marks = [mark for mark in nice if y[0] <= mark[0] <= y[1]]
    else:
        marks = [(k, f"{k:g}") for k in drawing.steps(*y)]
    plot = drawing.Plot((470, 300), x, y, ("network evaluations for an image", title), ([], []))
    plot.mark_x([(k, f"{10**k:.0f}") for k in ticks])
    plot.mark_y(marks)
    if level is not None:
        plot.line([(x[0], height(level)), (x[1], height(level))], (150, 150, 150), 1)
    labels = dict.fromkeys(point.label for point in points)
    for label, colour in zip(labels, itertools.cycle(COLOURS), strict=False):
        own = [(math.log10(p.evaluations), of(p)) for p in points if p.label == label and math.isfinite(of(p))]
        plot.line(own, colour)
        for place in own:
            plot.dot(place, colour)
    if math.isfinite(of(cheap)):
        plot.dot((math.log10(cheap.evaluations), of(cheap)), None, 8)
    return plot.finished()
