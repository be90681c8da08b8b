"""What a run learnt along the way, and when it should have stopped."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from trilemma import drawing, number
from trilemma.drawing import BLUE, ORANGE, Picture, Sheet
from trilemma.number import Number
from trilemma.questions.answer import Answer, Table
from trilemma.questions.question import Context, Question
from trilemma.run import Run
from trilemma.training.learning import TIME, Snapshot, best, over, quantity, snapshots

GREEN, PINK = (0, 158, 115), (204, 121, 167)

UNRECORDED = (
    "no images were held out from the training images, so only the training loss is known, which says neither when to "
    "stop nor what is copied: train with --train.validation 0.1"
)
NONE_YET = "no snapshot was measured: the training was too short to afford one"


@dataclass(frozen=True)
class Learning(Question):
    """The held-out loss, distance, fidelity, coverage and copies along a training."""

    name: ClassVar[str] = "learning"
    title: ClassVar[str] = "Learning curves"
    sentence: ClassVar[str] = "What was reached along the training, when was it best, and is it copying?"
    paper: ClassVar[str] = "Prechelt 1998, Early stopping - but when?, in Neural Networks: Tricks of the Trade"
    caption: ClassVar[str] = (
        "Each point is a snapshot, measured on images that were held out from the training images; bars are one "
        "standard error. The ring is the best, which is kept as the checkpoint best."
    )
    vectors_too: ClassVar[bool] = True

    @classmethod
    def routine(cls, run: Run) -> Question | None:
        return cls() if snapshots(run) else None

    def answer(self, context: Context) -> Answer:
        record = snapshots(context.run)
        if not record:
            return _of_the_log(self, context.run)
        name, values = quantity(record)
        found, last = best(record), record[-1]
        reading = [*_verdict(record), *_copies(record)]
        spent = sum(each.took for each in record)
        reading.append(
            f"{len(record)} snapshots of {last.n} samples took {spent:.3g} s, {spent / last.seconds:.1%} of the time "
            f"(at most {TIME:.0%} of a whole one)"
        )
        numbers = {} if found is None else {
            "best_step": Number(found.step, n=last.n, note=f"chosen by the {_words(name, record)}"),
            f"best_{name}": getattr(found, name),
            "best_fidelity": found.fidelity,
            "best_coverage": found.coverage,
            "last_copied": last.copied,
        }  # fmt: skip
        held = context.config.train.validation
        return Answer(
            self,
            context.run,
            kind="estimate",
            numbers=numbers,
            reading=reading,
            values={
                "chosen_by": name,
                "over": over(record),
                "snapshots": [each.plain() for each in record],
                "values": [value if math.isfinite(value) else None for value in values],
            },
            tables={"": _table(record, found)},
            found=(record, found),
            protocol={"validation": held, "n": last.n},
        )

    def draw(self, answer: Answer) -> Mapping[str, Picture]:
        if isinstance(answer.found, list):
            return {"learning": _draw_log(answer.found, answer.title("training loss"))}
        record, found = answer.found
        return {"learning": draw_learning(record, found, answer.title("learning"))}


def _words(name: str, record: Sequence[Snapshot]) -> str:
    """A quantity in words."""
    if name != "loss":
        return "kernel distance of samples to held-out images"
    return "held-out bits per dimension" if record[0].loss.note == "bits_per_dim" else "held-out loss"


def _verdict(record: Sequence[Snapshot]) -> list[str]:
    """When it was best, and what follows."""
    name, _ = quantity(record)
    found, last = best(record), record[-1]
    if found is None:
        return ["no snapshot has a value by which one could be called the best"]
    shown = _cell(getattr(found, name))
    said = f"best at step {found.step:,} by the {_words(name, record)}, {shown}"
    if found is last:
        return [f"{said}: the last snapshot, so it was still learning; more training may help"]
    now = _cell(getattr(last, name))
    later = last.step / found.step
    after = sum(each.step > found.step for each in record)
    if not over(record):
        later_ones = f"{after} later snapshot{'s' if after > 1 else ''}, up to {later:.2g} times as long, are no better"
        return [f"{said}; {later_ones} ({now}): too early to tell"]
    lines = [
        f"{said}; {later:.2g} times as long made it no better ({now}): --stop early would end there, its best is kept"
    ]
    near = min((each for each in record if each.distance.value is not None), key=lambda each: each.distance.known)
    if name == "loss" and near.step > found.step and _apart(near.distance, found.distance):
        more = f", {near.copied.value:.0%} of them copies" if near.copied.value else ""
        lines.append(
            f"samples went on to come nearer to held-out images, until step {near.step:,} "
            f"({_cell(found.distance)} to {_cell(near.distance)}{more}): look at both curves"
        )
    return lines


def _apart(a: Number, b: Number) -> bool:
    """Whether two values differ by more than two standard errors."""
    return abs(a.known - (b.value or 0.0)) > 2 * math.hypot(a.error or 0.0, b.error or 0.0)


def _copies(record: Sequence[Snapshot]) -> list[str]:
    """Whether it copies, and since when."""
    known = [each for each in record if each.copied.value is not None]
    if not known:
        return []
    some = [each for each in known if each.copied.value]
    n, (_, _, among) = known[-1].n, known[-1].copied.note.partition(", ")
    if not some:
        where = f" ({among})" if among else ""
        return [f"no more near copies than by chance{where}; fewer than {3 / n:.1%} cannot be seen in {n} samples"]
    first, last = some[0], known[-1]
    return [
        f"copies of training images are found from step {first.step:,} on; at the last they are "
        f"{_cell(last.copied)} of the samples"
    ]


def _cell(score: Number) -> str:
    if score.value is None:
        return "no value"
    return f"{number.text(score.value, score.error)} {number.error_text(score.value, score.error)}".strip()


def _table(record: Sequence[Snapshot], found: Snapshot | None) -> Table:
    head = "bits/dim" if record[0].loss.note == "bits_per_dim" else "loss"
    rows = [
        (
            f"{each.step:,}{' *' if each is found else ''}",
            f"{each.images:,}",
            f"{each.seconds:,.0f}",
            *(_cell(getattr(each, name)) for name in Snapshot.NUMBERS),
        )
        for each in record
    ]
    return Table(
        ("step", "images", "seconds", f"held-out {head}", "distance", "fidelity", "coverage", "copied"), tuple(rows)
    )


# Pictures


def draw_learning(record: Sequence[Snapshot], found: Snapshot | None, title: str) -> Sheet:
    """Held-out loss, distance, fidelity and coverage, and copies against the number of steps."""
    losses = [each for each in record if each.loss.value is not None]
    bits = bool(losses) and losses[0].loss.note == "bits_per_dim"
    panels = []
    if losses:
        name = "held-out bits/dim" if bits else "held-out loss"
        panels.append(_panel(record, found, ["loss"], f"{name}, lower is better"))
    panels.append(_panel(record, found, ["distance"], "kernel distance to held-out images"))
    panels.append(
        _panel(record, found, ["fidelity", "coverage"], "fidelity (blue), coverage (green); real = 1", (0.0, 1.1))
    )
    panels.append(_panel(record, found, ["copied"], "share of samples that are copies", (0.0, 1.0)))
    lines = [*_verdict(record), *_copies(record)]
    parts: list[Any] = [drawing.words([title], 16), drawing.words(_wrapped(lines), 12)]
    parts += [drawing.beside(panels[i : i + 2]) for i in range(0, len(panels), 2)]
    return drawing.framed(drawing.below(parts))


COLOURS = {"loss": BLUE, "distance": ORANGE, "fidelity": BLUE, "coverage": GREEN, "copied": PINK}


def _panel(
    record: Sequence[Snapshot],
    found: Snapshot | None,
    names: Sequence[str],
    title: str,
    range_: tuple[float, float] | None = None,
) -> Sheet:
    """Some numbers against steps, which grow by factors."""
    scores = [(each, getattr(each, name)) for name in names for each in record]
    known = [(each, score) for each, score in scores if score.value is not None]
    ends = [score.value + sign * (score.error or 0.0) for _, score in known for sign in (-1, 1)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.08 * (high - low) or 0.05
    y = (low - margin, high + margin)
    if range_:
        y = (min(range_[0], low) - 0.02, max(range_[1], high) + 0.02)
    first, last = math.log10(record[0].step), math.log10(record[-1].step)
    x = (first - 0.06, max(last, first + 0.1) + 0.06)
    plot = drawing.Plot((470, 270), x, y, ("training steps", title), ([], []))
    plot.mark_x(_decades(*x))
    plot.mark_y([(tick, f"{tick:g}") for tick in drawing.steps(*y)])
    if range_ and y[0] < 1 < y[1] and "fidelity" in names:
        plot.line([(x[0], 1.0), (x[1], 1.0)], (150, 150, 150), 1)
    for name in names:
        points = [(math.log10(e.step), getattr(e, name)) for e in record if getattr(e, name).value is not None]
        plot.line([(at, score.value) for at, score in points], COLOURS[name])
        for at, score in points:
            if score.error:
                plot.line([(at, score.value - score.error), (at, score.value + score.error)], COLOURS[name], 1)
            plot.dot((at, score.value), COLOURS[name])
        if found is not None and (score := getattr(found, name)).value is not None:
            plot.dot((math.log10(found.step), score.value), None, 8)
    return plot.finished()


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks at 1, 2 and 5 times powers of ten, no more than a few."""
    nice = [(math.log10(n) + k, n * 10**k) for k in range(math.floor(low), math.ceil(high) + 1) for n in (1, 2, 5)]
    inside = [(at, value) for at, value in nice if low <= at <= high]
    if len(inside) > 7:
        inside = [(at, value) for at, value in inside if str(value)[0] == "1"]
    return [(at, _short(value)) for at, value in inside]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _wrapped(lines: Sequence[str], width: int = 150) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, width)]


# Runs without a record


def _of_the_log(question: Learning, run: Run) -> Answer:
    """What the training log alone says, with a flag."""
    lines = [line for line in run.logs() if "alarm" not in line]
    log = [(int(line["step"]), value) for line in lines if (value := _loss(line)) is not None]
    flag = NONE_YET if run.config.train.validation else UNRECORDED
    last = f"the training loss went from {log[0][1]:.4g} to {log[-1][1]:.4g} in {log[-1][0]:,} steps" if log else ""
    return Answer(
        question,
        run,
        reading=[last] if last else ["there is no training log either"],
        flag=flag,
        values={"steps": [step for step, _ in log], "loss": [value for _, value in log]},
        found=log,
    )


def _loss(line: Mapping[str, Any]) -> float | None:
    """The first scalar of a line of the training log, which is the loss."""
    for name, value in line.items():
        if name not in ("step", "images", "seconds") and not name.startswith("gradient norm"):
            return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    return None


def _draw_log(log: Sequence[tuple[int, float]], title: str) -> Sheet:
    if not log:
        return drawing.framed(drawing.words([title, "There is no training log."], 14))
    values = [value for _, value in log]
    margin = 0.08 * (max(values) - min(values)) or 0.05
    y, x = (min(values) - margin, max(values) + margin), (0.0, max(step for step, _ in log) * 1.03)
    ticks = drawing.steps(*x), drawing.steps(*y)
    plot = drawing.Plot((600, 300), x, y, ("training steps", "training loss; nothing was held out"), ticks)
    plot.line(log, BLUE)
    return drawing.framed(drawing.below([drawing.words([title], 16), plot.finished()]))
