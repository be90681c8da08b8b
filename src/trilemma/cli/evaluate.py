"""``trilemma evaluate A [--against B]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from trilemma import number
from trilemma.bars import Bars
from trilemma.cli.errors import refuse_unknown
from trilemma.cli.flags import Checkpoint, DataFlags, Device, Json, data_config, given, print_json
from trilemma.cli.protocol import ProtocolFlags
from trilemma.config import parse_text
from trilemma.evaluation import evaluate as measure
from trilemma.evaluation import protocol_of
from trilemma.evaluation.metric import find, groups
from trilemma.families import FAMILIES
from trilemma.number import Number
from trilemma.parallel import join
from trilemma.report.scores import read
from trilemma.run import Run, names_run
from trilemma.text import printable


def _listed() -> str:
    """What ``--metrics`` can name, Markdown: the sets, and the metrics of each."""
    return "\n".join(f"- `{group}`: {', '.join(each.name for each in named)}" for group, named in groups().items())


app = App(
    name="evaluate",
    help_epilogue="""Examples:

```
trilemma evaluate runs/vae
trilemma evaluate runs/diffusion -n 5000 --features inception --preprocessing pytorch-fid --steps 100
trilemma evaluate generated/ --against photos/ --image-size 64 --json
trilemma evaluate samples.npz --against cifar10 --metrics default,accuracy,modes,per_class
trilemma evaluate runs/student --against runs/teacher --metrics frechet,kernel
```

`--metrics` takes these, and the sets that they are in:

"""
    + _listed()
    + """

What each number means and when it lies: docs/metrics.md.
""",
    help_format="markdown",
)


@app.default
def evaluate(
    subject: str,
    /,
    *,
    against: str | None = None,
    out: Path | None = None,
    checkpoint: Checkpoint = "last",
    protocol: Annotated[ProtocolFlags | None, Parameter(name="*", group="Protocol")] = None,
    images: Annotated[DataFlags | None, Parameter(name="*", group="Images")] = None,
    device: Device = "auto",
    json: Json = False,
    **options: str,
) -> None:
    """Measure a run, or any images, against real images.

    Fréchet and kernel distance, precision, recall, density, coverage, copies of training images, held-out bits per
    dimension and images per second; each with its standard error, beside the same score of held-out real images,
    which is as good as it gets, and on a scale of real images made worse on purpose. Of two sets of images every one
    counts, unless -n or --reference says otherwise; `trilemma fid` prints their FID alone.

    Parameters
    ----------
    subject
        a run folder, zoo/NAME, a folder of images, a zip, npz or npy file, or the name of a data set
    against
        the real images, any of the same; by default those that the run was trained on. A run stands for its samples
    out
        a folder for metrics.json and the pictures, such as the pairs nearest to training images; a run has its own
    options
        a sampling option of the run's family, such as --steps: `trilemma sample --help` lists them
    """
    refuse_unknown("evaluate", app, options)
    chosen: Any = None
    asked: str | Run = subject
    if names_run(subject):
        asked = Run.open(subject).at(checkpoint)
        family = FAMILIES[asked.config.family]
        chosen = parse_text(family.Options, options, family.name)
    elif options:
        raise ValueError(f"{subject} is not a run folder, so it has no option --{next(iter(options))}")
    elif checkpoint != "last":
        raise ValueError(f"{subject} is not a run folder, so it has no checkpoint {checkpoint}")
    wanted = given(protocol)
    protocol_of(wanted)  # refused before anything is loaded
    real = None if against is None else data_config(against, images)
    with join(device) as where, Bars() as bars:
        record = measure(
            asked,
            real,
            protocol=wanted,
            options=chosen,
            device=device,
            out=out,
            progress=(lambda what, done, total: bars.tell("", what, done, total)) if where.first else None,
        )
    if not where.first:
        return
    if json:
        print_json(record)
    else:
        Console().print(shown(record))


def shown(record: dict[str, Any]) -> RenderableType:
    """The record for people: what is wrong first, then a line for each number, then what was found in words."""
    subject, protocol = record["subject"], record["protocol"]
    title = f"{subject.get('run') or subject['images']} against {record['data']['name']}"
    lines: list[RenderableType] = [Text(printable(title), style="bold")]
    lines += [Text(printable(f"! {flag}"), style="yellow") for flag in record["flags"]]
    lines.append(_table(record))
    if "memorisation" in record:
        said = record["memorisation"]
        lines += [Text(f"Copies, by {space}: {said[space]['text']}") for space in ("pixels", "features")]
    for asked in record.get("asked", ()):
        lines += [Text(printable(f"{asked['title']}: {line}")) for line in asked["reading"][:1]]
    if record.get("per_class"):
        lines.append(_classes(record["per_class"]))
    lines.append(
        Text(
            f"± is one standard error over images, not over training seeds. {protocol['features']} features, "
            f"{protocol['split']}, seed {protocol['seed']}.",
            style="dim",
        )
    )
    return Group(*lines)


def _table(record: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("score", "value", "±", "real images", "how to read it"):
        table.add_column(name, justify="right" if name in ("value", "±", "real images") else "left", overflow="fold")
    for name in record["metrics"]:
        score = read(record["metrics"], name)
        floor = read(record["floor"], name)
        arrow = {"lower": " ↓", "higher": " ↑"}.get(score.better, "")
        table.add_row(
            f"{name}{arrow}",
            *_number(score),
            number.text(floor.value, floor.error) if floor.value is not None else "",
            _reading(name, score),
        )
    return table


def _number(score: Number) -> tuple[str, str]:
    if not score.defined or score.value is None:
        return score.kind or ("refused" if score.flag else "—"), ""
    sign = "≤ " if score.kind == "bound" else ""
    unit = {"%": " %", "nats": " nats"}.get(score.unit, "")
    error = number.error_text(score.value, score.error).removeprefix("±")
    return f"{sign}{number.text(score.value, score.error)}{unit}", error


def _reading(name: str, score: Number) -> Text:
    """What it says here, what it means, and why to distrust it."""
    meaning = find(name)
    if score.value is None:
        return Text(score.flag, style="yellow") if score.flag else Text(score.note, style="dim")
    says = score.note if score.kind or meaning is None else meaning.meaning
    text = Text.assemble(f"{score.reading}. ", (says, "dim")) if score.reading else Text(says, style="dim")
    return text.append(f" — {score.flag}", style="yellow") if score.flag else text


def _classes(per_class: dict[str, Any]) -> Table:
    names = list(
        dict.fromkeys(key for scores in per_class["classes"].values() for key in scores if key not in ("n", "flag"))
    )
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title=f"by class, {per_class['labels']}")
    for head in ("class", "N", *names):
        table.add_column(head, justify="left" if head == "class" else "right")
    for label, scores in per_class["classes"].items():
        cells = [Number.read(scores.get(key)) for key in names]
        written = [
            "refused" if c.value is None else f"{number.text(c.value, c.error)}{'*' if c.flag else ''}" for c in cells
        ]
        table.add_row(Text(printable(label)), str(scores["n"]), *written)
    table.caption = "* biased upwards: few images to a class"
    return table
