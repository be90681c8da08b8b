"""``trilemma study new|simulate|serve|results|export``: people judge."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from trilemma.bars import Bars
from trilemma.cli.flags import DataFlags, Device, Json, data_config, given, print_json
from trilemma.files import write_json
from trilemma.run import Run
from trilemma.study.design import Wanted, make, open_study, trials
from trilemma.study.results import results as conclude
from trilemma.study.simulate import simulate
from trilemma.study.sitting import conclusions, standing
from trilemma.study.vote import Vote
from trilemma.study.votes import Votes, export
from trilemma.text import printable

RESULTS = "results.json"

app = App(
    name="study",
    help="""People judge which images are real, not knowing where they are from.

    `new` makes a study, a folder; `serve` opens it to raters; `results` and `export` may be asked at any time.
    """,
    help_format="markdown",
    help_epilogue="""Examples:

```
trilemma study new faces --runs runs/vae --runs runs/gan --against photos/
trilemma study simulate faces --d-prime vae=2 gan=0.5 --raters 20
trilemma study serve faces --host 0.0.0.0
trilemma study results faces
trilemma study export faces votes.csv
```
""",
)

Several = Parameter(consume_multiple=True, negative=())


@app.command
def new(
    out: Path,
    /,
    *,
    runs: Annotated[list[str] | None, Several] = None,
    samples: Annotated[list[str] | None, Several] = None,
    against: str | None = None,
    wanted: Annotated[Wanted | None, Parameter(name="*", group="Study")] = None,
    images: Annotated[DataFlags | None, Parameter(name="*", group="Images")] = None,
    device: Device = "auto",
) -> None:
    """Make a study: draw the images of every source, and make them alike in all but what they show.

    Parameters
    ----------
    out
        a new folder
    runs
        run folders, or zoo/NAME; NAME=FOLDER gives a row its name
    samples
        images from anywhere, each NAME=SOURCE: a folder, a zip, an npz or npy file
    against
        the real images, of which the held-out ones are shown; by default what the first run was trained on
    """
    opened = named_runs(runs or ())
    sets = {}
    for each in samples or ():
        name, found, source = each.partition("=")
        if not found or not name or not source:
            raise ValueError(f"--samples {each} has no name: write NAME={each}")
        if name in sets or name in opened:
            raise ValueError(f"two rows are called {name!r}: name them apart")
        sets[name] = source
    real = against if against is None or not given(images) else data_config(against, images)
    with Bars() as bars:
        study = make(
            out,
            opened,
            sets,
            real,
            wanted,
            device=device,
            tell=lambda name, done, total: bars.tell(name, "images", done, total),
        )
    if study.real.main < study.trials // 2:
        line = f"there are {study.real.main} held-out real images for {study.trials} trials: raters see some twice"
        warnings.warn(line, stacklevel=2)
    print(f"{printable(out)}: {study.length} trials for each rater, of {', '.join(s.name for s in study.sources)}")
    print(f"trilemma study serve {printable(out)}")


def named_runs(words: Sequence[str]) -> dict[str, Run]:
    """Runs by the names of their rows: those given as NAME=FOLDER, or of their folders, longer where two are alike."""
    opened: dict[str, Run] = {}
    for word in words:
        name, found, place = word.partition("=")
        if not found or Path(word).exists():
            name, place = "", word
        run = Run.open(place)
        parts = [part for part in Path(place).parts if part not in ("/", ".", "..")] or [run.path.resolve().name]
        names = [name] if name else ["/".join(parts[-i:]) for i in range(1, len(parts) + 1)]
        free = next((each for each in names if each not in opened), None)
        if free is None:
            raise ValueError(f"two rows are called {names[-1]!r}: name them apart, as in NAME={place}")
        opened[free] = run
    return opened


@app.command
def serve(
    folder: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 7870,
    name: Annotated[list[str] | None, Parameter(negative=())] = None,
) -> None:
    """Open a study to raters, by a link that is printed.

    Parameters
    ----------
    folder
        of the study
    host
        the address to listen on; any but this machine's own puts a token into the link
    port
        the port; where it is taken, the next free one
    name
        a host name by which it may be called from elsewhere; may be given several times
    """
    if [each for each in ("starlette", "uvicorn") if importlib.util.find_spec(each) is None]:
        raise ValueError('raters need a page, which is an extra: pip install "trilemma[studio]"')
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, not {port}")
    from trilemma.studio.studying import serve as serve_study

    serve_study(folder, host=host, port=port, names=name or (), say=lambda line: print(line, flush=True))


@app.command
def results(folder: Path, /, *, json: Json = False) -> None:
    """What the votes say so far; also written into the folder, as results.json.

    Parameters
    ----------
    folder
        of the study
    """
    study = open_study(folder)
    with closing(Votes(folder)) as votes:
        about = standing(votes, study)
        if not about["votes"]:
            raise ValueError(f"nobody has voted yet: `trilemma study serve {folder}` lets raters in")
        found = conclusions(votes)
    write_json(folder / RESULTS, found)
    if json:
        print_json({"study": about, "results": found})
    else:
        people = f"{about['raters']} {'rater' if about['raters'] == 1 else 'raters'}"
        _show(f"{study.title} — {people}, {about['votes']} votes, practice and checks among them", found)


def _show(title: str, found: dict[str, Any]) -> None:
    console = Console()
    console.print(Text(printable(title), style="bold"))
    for line in found["readings"]:
        console.print(Text(printable(line)))


@app.command(name="simulate")
def simulated(
    folder: Path,
    /,
    *,
    d_prime: Annotated[list[str], Several],
    raters: int = 20,
    seed: int = 0,
    json: Json = False,
) -> None:
    """What a study would find with simulated raters: how many it takes is known before anybody is asked.

    Parameters
    ----------
    folder
        of the study
    d_prime
        NAME=NUMBER for each source, by how many standard deviations it looks unreal: 0 not at all, 1 a bit, 3 plainly
    raters
        how many
    seed
        of their skill and their answers
    """
    study = open_study(folder)
    looks = {}
    for each in d_prime:
        name, _, text = each.rpartition("=")
        try:
            looks[name] = float(text)
        except ValueError:
            raise ValueError(f"--d-prime {each} is no NAME=NUMBER, such as {study.sources[0].name}=1.5") from None
    if wrong := sorted(set(looks) - {source.name for source in study.sources}):
        raise ValueError(f"--d-prime {wrong[0]}: the study has {', '.join(source.name for source in study.sources)}")
    if bad := [name for name, value in looks.items() if not 0 <= value < math.inf]:
        raise ValueError(f"--d-prime {bad[0]} must be a number of 0 or more")
    if not 1 <= raters <= 10_000:
        raise ValueError(f"--raters must be from 1 to 10,000, not {raters}")
    asked = [
        Vote(code, i, study.form, t.role, t.source, t.item, "real", t.other, t.other_item, study.exposure)
        for code in (f"r{number:03d}" for number in range(raters))
        for i, t in enumerate(trials(study, code))
    ]
    found = conclude(simulate(asked, looks, staircase=study.staircase, seed=seed), staircase=study.staircase).to_json()
    if json:
        print_json({"raters": raters, "d_prime": looks, "results": found})
    else:
        _show(f"{raters} simulated {'rater' if raters == 1 else 'raters'}", found)


@app.command(name="export")
def export_votes(folder: Path, out: Path, /) -> None:
    """Write every vote into a file.

    Parameters
    ----------
    folder
        of the study
    out
        a .csv or .json file
    """
    open_study(folder)
    with closing(Votes(folder)) as votes:
        found = votes.all()
    print(f"{printable(export(found, out))}: {len(found)} votes")
