"""``trilemma sample RUN``."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import App, Parameter
from PIL import Image
from torch import Tensor

from trilemma.cli.flags import Device, Json, options_text, parse_labels, print_json
from trilemma.cli.progress import Bars
from trilemma.config import parse_text
from trilemma.data import load
from trilemma.families import FAMILIES
from trilemma.images import grid, save_png, to_display
from trilemma.parallel import join
from trilemma.queries import drawing
from trilemma.run import Run
from trilemma.sampling import Samples
from trilemma.sampling import sample as draw
from trilemma.text import printable
from trilemma.vectors import scatter

MAX_TILES = 10_000


app = App(
    name="sample",
    help_epilogue="""Examples:

```
trilemma sample runs/vae -n 64 --out grid.png
trilemma sample runs/gan -n 10000 --labels 3 --out samples.npz
trilemma sample runs/diffusion -n 100 --labels all --steps 20 --eta 0 --out folder/
trilemma sample runs/diffusion -n 64 --sampler ddim --times 1000,600,200 --clip false
trilemma sample runs/emoji --text "a red apple" --text "a green apple" -n 16 --guidance 3
```

"""
    + options_text({name: family.Options for name, family in FAMILIES.items()}),
    help_format="markdown",
)


@app.default
def sample(
    run: Path,
    /,
    *,
    n: Annotated[int | None, Parameter(name=["-n", "--number"])] = None,
    seed: int = 0,
    labels: str | None = None,
    text: list[str] | None = None,
    out: Path | None = None,
    device: Device = "auto",
    json: Json = False,
    **options: str,
) -> None:
    """Draw images from a trained run.

    Image i depends only on the seed and on i: asking for more adds to the ones before.

    Every family has sampling options of its own, such as --steps: they are listed below.

    Parameters
    ----------
    run
        a run folder
    n
        how many in all; 64 by default, or 8 for each text
    seed
        any integer
    labels
        classes of a conditional run, by number or name: 3, or 0,1,2, or all (in turn), or none (no class); by default
        drawn at random
    text
        a caption, of a run trained with --text; several in turn, a row of the picture for each
    out
        grid.png (one picture; vectors as a scatter over real ones), samples.npz (the arrays images, or vectors, and
        labels or text) or folder/ (one PNG each, with metadata.jsonl); RUN/samples-SEED.png by default
    options
        a sampling option of the run's family: see the list below
    """
    n = n if n is not None else 8 * len(text) if text else 64
    opened = Run.open(run)
    family = FAMILIES[opened.config.family]
    chosen: Any = parse_text(family.Options, options, family.name)
    out = out or run / f"samples-{seed}.png"
    if out.suffix.lower() not in (".png", ".npz", ""):
        raise ValueError(f"--out {out} must end in .png, in .npz, or be a folder")
    vector = opened.config.spec.vector
    if vector and not out.suffix:
        raise ValueError(
            f"vectors are no pictures that a folder could hold: write --out {out}.npz, or .png for a scatter"
        )
    if out.suffix.lower() == ".png" and n > MAX_TILES and not vector:
        raise ValueError(f"{n} images do not fit in one picture: write --out samples.npz or --out folder/")
    with join(device) as where, Bars() as bars:
        drawn = draw(
            opened,
            n,
            seed=seed,
            labels=parse_labels(labels, opened.config.class_names),
            text=text or None,
            options=chosen,
            device=device,
            progress=(lambda done, total: bars.tell(family.name, "sampling", done, total)) if where.first else None,
        )
    if not where.first:
        return
    if vector and out.suffix.lower() == ".png":
        out.parent.mkdir(parents=True, exist_ok=True)
        save_png(scatter(drawn.images, _real(opened, max(n, 2000))), out)
    else:
        write(drawn, out, opened.config.class_names)
    record = {"out": str(out), "n": n, "seed": seed, "images_per_second": round(drawn.images_per_second, 3)}
    if json:
        print_json(record | {"options": dataclasses.asdict(chosen)})
    else:
        what = "vectors" if vector else "images"
        print(f"{printable(out)}: {n} {what} at {drawn.images_per_second:,.1f} {what}/s")


def write(drawn: Samples, out: Path, class_names: tuple[str, ...]) -> None:
    """Write samples as one picture, as arrays, or as a folder that `trilemma` and the Hub read as a data set."""
    out.parent.mkdir(parents=True, exist_ok=True)
    labels = np.full(len(drawn.images), -1) if drawn.labels is None else drawn.labels.numpy()
    if out.suffix.lower() == ".npz":
        arrays: dict[str, np.ndarray[Any, Any]] = {"labels": labels}
        if drawn.spec.vector:
            arrays["vectors"] = drawn.images.numpy()
        else:
            arrays |= {"images": drawn.images.numpy(), "levels": np.array(drawn.spec.levels)}
        if drawn.text:
            arrays["text"] = np.array(drawn.text)
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
        return
    if out.suffix.lower() == ".png" and drawn.text:
        drawing.save(by_text(drawn), out)
        return
    if out.suffix.lower() == ".png":
        save_png(grid(drawn.images, levels=drawn.spec.levels), out)
        return
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    shown = to_display(drawn.images, drawn.spec.levels)
    for i, (image, label) in enumerate(zip(shown, labels.tolist(), strict=True)):
        name = f"{i:06d}.png"
        save_png(image, out / name)
        known = {"label": class_names[label]} if 0 <= label < len(class_names) else {}
        asked = {"text": drawn.text[i]} if drawn.text else {}
        lines.append(json.dumps({"file_name": name} | known | asked) + "\n")
    (out / "metadata.jsonl").write_text("".join(lines), "utf-8")


def by_text(drawn: Samples) -> Image.Image:
    """The images of each text in a row beside it; images take the texts in turn."""
    texts = list(dict.fromkeys(drawn.text or ()))
    rows = [[i for i, text in enumerate(drawn.text or ()) if text == wanted] for wanted in texts]
    return drawing.captioned(
        [(text, drawn.images[row]) for text, row in zip(texts, rows, strict=True)], drawn.spec.levels, wanted=112
    )


def _real(run: Run, count: int) -> Tensor | None:
    """Some held-out vectors of the run's own data to draw under its samples; None where it is no longer there."""
    with suppress(ValueError, OSError):
        dataset = load(run.config.data, progress=False)
        return dataset.batch(dataset.test[:count])
    return None
