"""``trilemma import FOLDER --out RUN``."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from trilemma.cli.flags import DataFlags, Json, data_config, print_json
from trilemma.families.diffusion.exchange import drawn_otherwise
from trilemma.text import printable
from trilemma.training.imported import import_run

app = App(
    name="import",
    help_epilogue="""Where the folder's own scheduler adds another variance or does not clip, a line says which sampling
options do the same.

Examples:

```
trilemma import ddpm-cifar10-32/ --out runs/ddpm --data cifar10
trilemma sample runs/ddpm -n 64 --sampler dpm-solver --steps 20
trilemma evaluate runs/ddpm
```
""",
    help_format="markdown",
)


@app.default
def import_model(
    folder: Path, /, *, out: Path, data: str | None = None, images: DataFlags | None = None, json: Json = False
) -> None:
    """Make a run folder of a diffusers folder with an unconditional DDPM (weights as safetensors).

    The run samples, answers queries and is evaluated like one that was trained here.

    Parameters
    ----------
    folder
        a pipeline folder: unet/ and scheduler/
    out
        the run folder to make
    data
        what the model was trained on, anything that train takes: the folder does not say
    """
    run = import_run(folder, out, None if data is None else data_config(data, images))
    spec = run.config.spec
    notes = [drawn_otherwise(folder)]
    if not data:
        notes.append("the folder does not say on what it was trained: evaluate it with --against IMAGES")
    note = "\n".join(filter(None, notes))
    if json:
        record = {"run": str(run.path), "shape": list(spec.shape), "classes": spec.classes, "note": note or None}
        print_json(record)
        return
    channels, height, width = spec.shape
    print(f"{printable(run.path)}: {channels} x {height} x {width}, {run.config.model.timesteps} timesteps")
    if note:
        print(printable(note))
