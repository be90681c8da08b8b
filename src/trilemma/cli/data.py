"""``trilemma data [DATA]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from trilemma.cli.flags import DataFlags, data_config
from trilemma.data import describe, load
from trilemma.images import grid, save_png
from trilemma.text import printable
from trilemma.vectors import scatter

app = App(
    name="data",
    help_epilogue="""Examples:

```
trilemma data photos/ --image-size 64
trilemma data photos.zip --color grey --out photos.png
```
""",
    help_format="markdown",
)


@app.default
def data(
    source: str = "mnist",
    /,
    *,
    images: Annotated[DataFlags | None, Parameter(name="*", group="Images")] = None,
    out: Path | None = None,
) -> None:
    """Look at a data set as the models will see it: shape, classes, split, and what was done to the images.

    Parameters
    ----------
    source
        mnist, mnist-pairs, stacked-mnist, ring, grid (built in), fashion-mnist, cifar10, a folder or zip of images, an
        .npz, .npy, .csv or idx file, or a Hub id
    out
        draw the first training images into this PNG; vectors as a scatter
    """
    if out is not None and out.suffix.lower() != ".png":
        raise ValueError(f"--out {out} must end in .png: the picture is a PNG")
    dataset = load(data_config(source, images))
    print(describe(dataset))
    if out is not None:
        if dataset.vector:
            save_png(scatter(dataset.batch(dataset.train[:2000]), None), out)
            print(f"{printable(out)}: the first {min(2000, len(dataset.train)):,} training vectors")
            return
        save_png(grid(dataset.batch(dataset.train[:100]), levels=dataset.levels), out)
        print(f"{printable(out)}: the first {min(100, len(dataset.train))} training images")
