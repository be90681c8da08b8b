"""``trilemma compare [DATA] --out DIR``."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from trilemma.bars import Bars
from trilemma.cli.flags import DataFlags, Device, Json, Size, data_config, print_json
from trilemma.cli.protocol import SeedlessFlags, protocol_of
from trilemma.comparison import compare as run_comparison
from trilemma.comparison import standard_metrics
from trilemma.data import load
from trilemma.parallel import join
from trilemma.report import table

app = App(
    name="compare",
    help_epilogue="""Examples:

```
trilemma compare mnist --conditional --budget 75s --out demo
trilemma compare photos/ --image-size 32 --budget 1h --out report
trilemma compare fashion-mnist --families vae,gan,diffusion --size small --budget 200kimages --out report
```
""",
    help_format="markdown",
)


@app.default
def compare(
    data: str = "mnist",
    /,
    *,
    out: Path = Path("comparison"),
    families: str = "",
    budget: str = "2m",
    size: Size = "tiny",
    seed: int = 0,
    conditional: Annotated[bool, Parameter(negative=())] = False,
    protocol: Annotated[SeedlessFlags | None, Parameter(name="*", group="Protocol")] = None,
    images: Annotated[DataFlags | None, Parameter(name="*", group="Images")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train several families under an equal budget, measure them alike, and write one report.

    Run again, the same command reuses what is finished and continues what is not.

    Parameters
    ----------
    data
        mnist (built in), fashion-mnist, cifar10, stacked-mnist, a folder or zip of images, an .npz, .npy or idx file,
        or a Hub id
    out
        the folder for the runs, report.html and report.json
    families
        which, separated by commas; all by default
    budget
        of each family: 90s, 2m, 1h, 5000steps, 200kimages
    size
        the preset, matched for compute per training image; under equal seconds families see unequal numbers of images
    seed
        decides weights, batches, noise and subsets
    conditional
        train on the labels: log p(x|y), and every grid drawn from the same classes
    """
    protocol_of(protocol)  # refused before anything is loaded
    dataset = load(data_config(data, images))
    with join(device) as where, Bars() as bars:
        page = run_comparison(
            dataset,
            out=out,
            families=families,
            budget=budget,
            size=size,
            seed=seed,
            conditional=conditional,
            protocol=protocol_of(protocol, seed=seed, metrics=standard_metrics(dataset)),
            device=device,
            progress=bars.tell,
            say=bars.say,
        )
    if not where.first:
        return
    report = json_module.loads(page.with_suffix(".json").read_text("utf-8"))
    if json:
        print_json(report)
    else:
        Console().print(table(report))
        print(f"\nThe report: {page.resolve().as_uri()}")
