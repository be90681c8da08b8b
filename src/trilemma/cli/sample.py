"""``trilemma sample RUN``."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import App, Parameter
from torch import Tensor

from trilemma import drawing
from trilemma.bars import Bars
from trilemma.cli.errors import refuse_unknown
from trilemma.cli.flags import Checkpoint, Device, Json, options_text, print_json
from trilemma.config import parse_text
from trilemma.data import load
from trilemma.families import FAMILIES
from trilemma.files import new_folder, write_bytes, write_json, write_text
from trilemma.images import grid, save_png, to_display, to_pil
from trilemma.parallel import join
from trilemma.run import Run
from trilemma.sampling import Samples, parse_labels
from trilemma.sampling import sample as draw
from trilemma.text import printable
from trilemma.vectors import scatter

MAX_TILES = 10_000

MADE = ".trilemma.json"
"""The file in a folder of samples that says how they were drawn."""

OTHERS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "pdf", "svg", "html", "npy", "pt", "pth", "safetensors"),
        *("zip", "tar", "gz", "csv", "json", "jsonl", "txt"),
    )
)
"""Suffixes that name a file which is not written here; any other belongs to the name of a folder."""

app = App(
    name="sample",
    help_epilogue="""Examples:

```
trilemma sample zoo/diffusion --out digits.png
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
    n: Annotated[int | None, Parameter(name=["-n", "--n", "--number"])] = None,
    seed: int = 0,
    labels: str | None = None,
    text: list[str] | None = None,
    out: Path | None = None,
    checkpoint: Checkpoint = "last",
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
        a run folder, or zoo/NAME of one that ships with trilemma
    n
        how many in all; 64 by default, or 8 for each text
    seed
        any integer
    labels
        classes of a conditional run, by name, or by number where no name is one: 3, or 0,1,2, or all (in turn), or none
        (no class); a name in double quotes is always a class: '"all","a,b"'; by default drawn at random
    text
        a caption, of a run trained with --text; several in turn, a row of the picture for each
    out
        grid.png (one picture; vectors as a scatter over real ones), samples.npz (the arrays images, or vectors, and
        labels or text) or folder/ (one PNG each, with metadata.jsonl); RUN/samples-SEED.png by default
    options
        a sampling option of the run's family: see the list below
    """
    refuse_unknown("sample", app, options)
    n = n if n is not None else 8 * len(text) if text else 64
    opened = Run.open(run).at(checkpoint)
    family = FAMILIES[opened.config.family]
    chosen: Any = parse_text(family.Options, options, family.name)
    out = out or opened.place / f"samples-{seed}.png"
    kind = kind_of(out)
    vector = opened.config.spec.vector
    if vector and kind == "folder":
        raise ValueError(
            f"vectors are no pictures that a folder could hold: write --out {out}.npz, or .png for a scatter"
        )
    if kind == "png" and n > MAX_TILES and not vector:
        raise ValueError(f"{n} images do not fit in one picture: write --out samples.npz or --out folder/")
    if kind == "folder":
        check_folder(out)
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
    if vector and kind == "png":
        save_png(scatter(drawn.images, _real(opened, max(n, 2000))), out)
    else:
        made = {"run": str(run), "checkpoint": checkpoint, "n": n, "seed": seed, "options": dataclasses.asdict(chosen)}
        write(drawn, out, opened.config.class_names, made)
    record = {"out": str(out), "n": n, "seed": seed, "images_per_second": round(drawn.images_per_second, 3)}
    if json:
        print_json(record | {"options": dataclasses.asdict(chosen)})
    else:
        what = "vectors" if vector else "images"
        print(f"{printable(out)}: {n} {what} at {drawn.images_per_second:,.1f} {what}/s")


def kind_of(out: Path) -> str:
    """``png``, ``npz`` or ``folder``; a one-line ``ValueError`` for the suffix of a file of another kind."""
    suffix = out.suffix.lower()
    if suffix in (".png", ".npz"):
        if out.is_dir():
            raise ValueError(f"--out {out} is a folder: choose another name")
        return suffix[1:]
    if out.is_file():
        raise ValueError(f"--out {out} is a file: name a .png, an .npz, or a folder")
    if not out.is_dir() and suffix in OTHERS:
        raise ValueError(f"--out {out} must end in .png, in .npz, or be a folder")
    return "folder"


def check_folder(out: Path) -> None:
    """Refuse a folder that holds anything but samples: an evaluation of it would score what else is there.

    Samples of before are replaced as a whole, once the new ones are complete.
    """
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    others = sorted(name for name in names if not re.fullmatch(r"\d{6,}\.png|metadata\.jsonl", name) and name != MADE)
    if names and (others or MADE not in names):
        what = f"{others[0]} in it" if others else "pictures that were not drawn by `trilemma sample`"
        raise ValueError(f"--out {out} is no folder of samples (there is {what}): choose a new or an empty folder")


def write(drawn: Samples, out: Path, class_names: tuple[str, ...], made: dict[str, Any] | None = None) -> None:
    """Write samples as one picture, as arrays, or as a folder that `trilemma` and the Hub read as a data set.

    Whatever happens, what stands at ``out`` is whole: the samples of before or these. ``made`` says how a folder was
    drawn; it marks the folder as one that may be replaced.
    """
    labels = np.full(len(drawn.images), -1) if drawn.labels is None else drawn.labels.numpy()
    kind = kind_of(out)
    if kind == "npz":
        arrays: dict[str, np.ndarray[Any, Any]] = {"labels": labels}
        if drawn.spec.vector:
            arrays["vectors"] = drawn.images.numpy()
        else:
            arrays |= {"images": drawn.images.numpy(), "levels": np.array(drawn.spec.levels)}
        if drawn.text:
            arrays["text"] = np.array(drawn.text)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes(out, buffer.getbuffer())
        return
    if kind == "png" and drawn.text:
        drawing.save(by_text(drawn), out)
        return
    if kind == "png":
        save_png(grid(drawn.images, levels=drawn.spec.levels), out)
        return
    check_folder(out)
    lines = []
    shown = to_display(drawn.images, drawn.spec.levels)
    with new_folder(out) as folder:
        for i, (image, label) in enumerate(zip(shown, labels.tolist(), strict=True)):
            name = f"{i:06d}.png"
            to_pil(image).save(folder / name, format="PNG", optimize=True)
            known = {"label": class_names[label]} if 0 <= label < len(class_names) else {}
            asked = {"text": drawn.text[i]} if drawn.text else {}
            lines.append(json.dumps({"file_name": name} | known | asked) + "\n")
        write_text(folder / "metadata.jsonl", "".join(lines))
        write_json(folder / MADE, made or {})


def by_text(drawn: Samples) -> drawing.Sheet:
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
