"""``trilemma compare [DATA] --out DIR``."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from trilemma.bars import Bars
from trilemma.cli.flags import DataFlags, Device, Json, Size, data_config, given, print_json
from trilemma.cli.protocol import SeedlessFlags
from trilemma.comparison import as_run, compare_sizes, is_comparison, runs_in
from trilemma.comparison import compare as run_comparison
from trilemma.comparison.sizes import Found
from trilemma.evaluation import protocol_of
from trilemma.parallel import join
from trilemma.questions import Table
from trilemma.report import table

app = App(
    name="compare",
    help_epilogue="""Examples:

```
trilemma compare mnist --conditional --budget 75s --out demo
trilemma compare photos/ --image-size 32 --budget 1h --out report
trilemma compare fashion-mnist --families vae,gan,diffusion --size small --budget 200kimages --out report
```

Without training anything, runs and images from anywhere on one page:

```
trilemma compare --runs runs/vae runs/gan --out page
trilemma compare --runs runs/vae --samples mine=generated/ other=x.npz --against photos/ --out page
```

Several training seeds, so that a difference is one of recipes and not of two trainings:

```
trilemma compare mnist --families vae,gan --seeds 3 --out report
```

How many images does it take, and does it copy?

```
trilemma compare photos/ --families flow --data-sizes 100,300,1000,3000 --budget 10m --out sizes
```

A comparison that is there, with one more family, or with all its families trained once more:

```
trilemma compare report/ --families flow
trilemma compare report/ --seed 1
trilemma compare report/ --seeds 5
```
""",
    help_format="markdown",
)

Several = Parameter(consume_multiple=True, negative=())


@app.default
def compare(
    *sources: Annotated[str, Parameter(name="DATA")],
    out: Path | None = None,
    families: str = "",
    runs: Annotated[list[str] | None, Several] = None,
    samples: Annotated[list[str] | None, Several] = None,
    against: str | None = None,
    budget: str | None = None,
    size: Size | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    data_sizes: str = "",
    conditional: Annotated[bool, Parameter(negative=())] = False,
    protocol: Annotated[SeedlessFlags | None, Parameter(name="*", group="Protocol")] = None,
    images: Annotated[DataFlags | None, Parameter(name="*", group="Images")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train several families under an equal budget, measure them alike, and write one report; or put runs that are
    trained, and images from anywhere, on such a page.

    Run again, the same command reuses what is finished and continues what is not.

    Parameters
    ----------
    sources
        mnist (built in, the default), fashion-mnist, cifar10, stacked-mnist, a folder or zip of images, an .npz, .npy
        or idx file, or a Hub id; or runs and comparisons, as with --runs
    out
        the folder for the runs, report.html and report.json [default: comparison, or that of the comparison given]
    families
        which to train, separated by commas; all by default, with --runs or --samples none
    runs
        run folders, folders of runs, and comparisons, to stand on the page; NAME=FOLDER gives a row its name
    samples
        images to stand on the page, each NAME=SOURCE: a folder, a zip, an npz or npy file
    against
        the real images, where nothing is trained on them; by default what the runs were trained on
    budget
        of each family: 90s, 2m, 1h, 5000steps, 200kimages [default: 2m, or that of the comparison given]
    size
        the preset, matched for compute per training image; under equal seconds families see unequal numbers of images
        [default: tiny]
    seed
        decides weights, batches, noise and subsets [default: 0]
    seeds
        train each family with so many seeds, from --seed on; its numbers are means over them, with the error over seeds
        beside that over images, and what is called different would be so after another training too [default: 1]
    data_sizes
        train each family on so many images of the set, 100,300,1000, each for the whole budget, and say what more
        images would change and below how many it copies: data-sizes.png, .svg, .csv and .json in --out
    conditional
        train on the labels: log p(x|y), and every grid drawn from the same classes
    """
    wanted = given(protocol)
    protocol_of(wanted)  # refused before anything is loaded
    if data_sizes:
        if runs or samples or against or len(sources) > 1:
            raise ValueError("--data-sizes trains on parts of one data set: leave out runs, samples and --against")
        source = data_config(sources[0] if sources else "mnist", images)
        named = [name.strip() for name in families.split(",") if name.strip()]
        with join(device) as where, Bars() as bars:
            found = compare_sizes(
                source, _sizes(data_sizes), out=out or Path("comparison"), families=named, budget=budget or "2m",
                size=size or "tiny", seed=seed or 0, seeds=seeds or 1, conditional=conditional, protocol=wanted,
                device=device, progress=bars.tell, say=bars.say,
            )  # fmt: skip
        if where.first:
            print_json(found.record) if json else print("\n".join(_shown(found)))
        return
    models = [source for source in sources if is_comparison(source) or runs_in(source) or as_run(source)]
    data = [source for source in sources if source not in models]
    if len(data) > 1:
        raise ValueError(f"{data[0]} and {data[1]}: one data set can be compared on at a time, and neither is a run")
    if data and against is not None:
        raise ValueError(f"the real images are given twice, {data[0]} and --against {against}: give them once")
    real = data[0] if data else against
    form = given(images)
    if form and real is None and (models or runs or samples):
        flag = next(iter(form)).replace("_", "-")
        raise ValueError(f"--{flag} says how the real images are read: name them with --against")
    models += runs or []
    beside = bool(models or samples)
    extended = len(models) == 1 and is_comparison(models[0])
    with join(device) as where, Bars() as bars:
        page = run_comparison(
            data_config(real or "mnist", images) if form or not beside else real,
            out=out if out is not None or extended else Path("comparison"),
            families=families,
            runs=_named(models) if any(map(_is_named, models)) else models,
            samples=_named(samples or []),
            budget=budget,
            size=size,
            seed=seed,
            seeds=seeds,
            conditional=conditional or None,
            protocol=wanted,
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


def _sizes(text: str) -> list[int]:
    """``100,300,1000`` to numbers."""
    try:
        return [int(part) for part in text.replace("_", "").split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"--data-sizes {text!r} is not understood: write numbers such as 100,300,1000") from None


def _shown(found: Found) -> list[str]:
    """The table, what it says, and where the picture is."""
    head, *rows = found.rows()
    return [*Table(head, tuple(rows)).lines(), "", *found.lines(), "", str(found.folder / "data-sizes.png")]


def _is_named(text: str) -> bool:
    return "=" in text and not Path(text).exists()


def _named(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=SOURCE`` to names and sources; what has no name goes by its file or folder."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, source = text.partition("=") if _is_named(text) else (Path(text).stem, "", text)
        if not source or not name:
            raise ValueError(f"{text} is no NAME=SOURCE: write mine=folder/")
        if name in found:
            raise ValueError(f"there are two rows of the name {name}: give them names, such as {name}2={source}")
        found[name] = source
    return found
