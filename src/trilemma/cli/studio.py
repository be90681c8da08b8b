"""``trilemma studio``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(
    name="studio",
    help_epilogue="""Examples:

```
trilemma studio
trilemma studio --runs runs/ --runs experiments/
trilemma studio --host 0.0.0.0 --port 8000
```
""",
    help_format="markdown",
)


@app.default
def studio(
    home: Path = Path("studio"),
    /,
    *,
    runs: Annotated[list[Path] | None, Parameter(negative=())] = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    name: Annotated[list[str] | None, Parameter(negative=())] = None,
    browse: bool = True,
) -> None:
    """Open the studio: a page on this machine to train, watch, play, ask, compare and judge.

    Parameters
    ----------
    home
        the folder for what it makes
    runs
        where else to look for runs and comparisons; may be given several times; the current folder by default
    host
        the address to listen on; any but this machine's own asks every visitor for a token
    port
        the port; where it is taken, the next free one
    name
        a host name by which it may be called from elsewhere; may be given several times
    browse
        open a browser
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError('the studio needs an extra: pip install "trilemma[studio]"')
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, not {port}")
    if home.exists() and not home.is_dir():
        raise ValueError(f"{home} is a file: choose a folder")
    for folder in runs or ():
        if not folder.is_dir():
            raise ValueError(f"--runs {folder} is no folder")
    from trilemma.studio.server import serve

    serve(home, [Path()] if runs is None else runs, host=host, port=port, names=name or (), browse=browse)
