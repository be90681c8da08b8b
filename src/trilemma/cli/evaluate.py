"""``trilemma evaluate RUN|FOLDER``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from trilemma.cli.flags import DataFlags, Device, Json, data_config, print_json
from trilemma.cli.progress import Bars
from trilemma.config import parse_text
from trilemma.evaluation import Protocol
from trilemma.evaluation import evaluate as measure
from trilemma.families import FAMILIES
from trilemma.parallel import join
from trilemma.run import Run, is_run

app = App(
    name="evaluate",
    help_epilogue="""Examples:

```
trilemma evaluate runs/vae
trilemma evaluate runs/diffusion --n 5000 --features inception --steps 100
trilemma evaluate generated/ --against photos/ --image-size 64 --json
```
""",
    help_format="markdown",
)


@app.default
def evaluate(
    subject: Path,
    /,
    *,
    against: str | None = None,
    protocol: Annotated[Protocol | None, Parameter(name="*", group="Protocol")] = None,
    images: Annotated[DataFlags | None, Parameter(name="*", group="Images")] = None,
    device: Device = "auto",
    json: Json = False,
    **options: str,
) -> None:
    """Measure a run, or a folder of images, against real images.

    Fréchet distance, precision, recall, density, coverage, nearest training images, held-out bits per dimension and
    images per second; beside each the same score of held-out real images, which is as good as it gets.

    Parameters
    ----------
    subject
        a run folder, or a folder, zip or array file of images
    against
        the real images; by default those that the run was trained on
    options
        a sampling option of the run's family, such as --steps
    """
    chosen: Any = None
    if is_run(subject):
        family = FAMILIES[Run.open(subject).config.family]
        chosen = parse_text(family.Options, options, family.name)
    elif options:
        raise ValueError(f"{subject} is not a run folder, so it has no option --{next(iter(options))}")
    real = None if against is None else data_config(against, images)
    with join(device) as where, Bars() as bars:
        record = measure(
            subject,
            real,
            protocol=protocol,
            options=chosen,
            device=device,
            tell=(lambda what, done, total: bars.tell("", what, done, total)) if where.first else None,
        )
    if not where.first:
        return
    if json:
        print_json(record)
    else:
        Console().print(_table(record))


def _table(record: dict[str, Any]) -> Table:
    protocol = record["protocol"]
    table = Table(
        title=f"{record['subject'].get('run') or record['subject']['images']} against {record['data']['name']}"
    )
    table.caption = f"{protocol['features']} features, {protocol['split']}, seed {protocol['seed']}"
    for name in ("score", "value", "real images", "how to read it"):
        table.add_column(name, justify="right" if name in ("value", "real images") else "left")
    for name, metric in record["metrics"].items():
        floor = record["floor"].get(name)
        notes = [metric["note"], f"[yellow]{metric['flag']}" if metric["flag"] else ""]
        table.add_row(name, _number(metric), _number(floor) if floor else "", "; ".join(note for note in notes if note))
    return table


def _number(metric: dict[str, Any]) -> str:
    if metric["value"] is None:
        return metric["kind"] or "refused"
    error = f" ± {metric['error']:.2g}" if metric["error"] is not None else ""
    return f"{'≤ ' if metric['kind'] == 'bound' else ''}{metric['value']:.4g}{error}"
