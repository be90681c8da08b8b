"""``trilemma report DIR``."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from cyclopts import App
from rich.console import Console

from trilemma.cli.flags import Json, print_json
from trilemma.comparison import rebuild
from trilemma.report import table

app = App(
    name="report",
    help_epilogue="""Examples:

```
trilemma report demo
trilemma report demo --json
```
""",
    help_format="markdown",
)


@app.default
def report(folder: Path, /, *, json: Json = False) -> None:
    """Open a comparison that is there: its table, and its page written anew, with what its runs were asked since.

    Nothing is trained and nothing is measured: `trilemma compare DIR` does that.

    Parameters
    ----------
    folder
        that of `trilemma compare --out`
    """
    page = rebuild(folder)
    record = json_module.loads(page.with_suffix(".json").read_text("utf-8"))
    if json:
        print_json(record)
    else:
        Console().print(table(record))
        print(f"\nThe report: {page.resolve().as_uri()}")
