"""``trilemma fid A B``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from trilemma.bars import Bars
from trilemma.cli.flags import Device, Json, print_json
from trilemma.cli.protocol import Preprocessing
from trilemma.evaluation.official import fid as measure
from trilemma.evaluation.official import save_statistics, statistics
from trilemma.number import error_text
from trilemma.text import printable

app = App(
    name="fid",
    help_epilogue="""Examples:

```
trilemma fid generated/ photos/
trilemma fid generated/ photos/ --preprocessing pytorch-fid
trilemma fid photos/ --save photos-clean-fid.npz
trilemma fid generated/ photos-clean-fid.npz
```
""",
    help_format="markdown",
)


@app.default
def fid(
    images: str,
    real: str | None = None,
    /,
    *,
    preprocessing: Preprocessing = "clean-fid",
    features: str = "inception",
    save: Annotated[Path | None, Parameter(negative=())] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Print the FID of two sets of images: every image of both, each from its own size, equal to the value of the
    program that the preprocessing is named after.

    The number alone goes to standard output, with its error, N and bias on standard error. `trilemma evaluate A
    --against B` measures much more than this.

    Parameters
    ----------
    images
        a folder, a zip, an npz, npy or idx file, a data set by name, or an npz with the mu and sigma of pytorch-fid or
        clean-fid
    real
        the real ones, any of the same
    preprocessing
        how images come to 299 x 299 pixels, which moves the value by up to 20 %
    features
        another feature network (small, dinov2, clip), whose distance is no FID
    save
        write the statistics of the first set to this npz file, which pytorch-fid and clean-fid read too
    """
    if real is None and save is None:
        raise ValueError("a distance is between two sets: name the real images too, or --save the statistics of one")
    chosen = {"preprocessing": preprocessing, "features": features, "device": device}
    with Bars() as bars:

        def tell(what: str, done: int, total: int) -> None:
            bars.tell("", what, done, total)

        first = statistics(images, **chosen, progress=tell)  # type: ignore[arg-type]
        if save is not None:
            save_statistics(save, first)
            print(printable(f"{save}: the statistics of {first.name}"), file=sys.stderr)
        if real is None:
            return
        found = measure(first, real, **chosen, progress=tell)  # type: ignore[arg-type]
    if json:
        print_json(asdict(found))
        return
    error = f"{error_text(found.known, found.error)}; " if found.error is not None else ""
    flag = f"; {found.flag}" if found.flag else ""
    print(printable(f"{error}{found.protocol}{flag}"), file=sys.stderr)
    print(f"{found.known:.5f}")
