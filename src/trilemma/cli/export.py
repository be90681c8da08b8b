"""``trilemma export RUN --out WHERE``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cyclopts import App

from trilemma.cli.flags import Json, print_json
from trilemma.families.diffusion.exchange import export_diffusers, export_onnx
from trilemma.run import Run
from trilemma.text import printable

app = App(
    name="export",
    help_epilogue="""A folder is one that diffusers' DDIMPipeline opens (diffusion with --model.network ddpm). As it is,
it draws from the same noise the same images as `trilemma sample RUN --clip false --steps S`, to 1e-4, where S divides
the timesteps of the run. The pipeline clips in another way than ours, so the folder tells it not to.

A file that ends in .onnx is the network alone, of diffusion or flow: (x_t, t in 1 … T, labels) to its prediction.

Examples:

```
trilemma train diffusion --out runs/ddpm --model.network ddpm --budget 1h
trilemma export runs/ddpm --out pipeline/
trilemma export runs/flow --out net.onnx
```
""",
    help_format="markdown",
)


@app.default
def export(run: Path, /, *, out: Path, json: Json = False) -> None:
    """Write the averaged weights of a run for others.

    Parameters
    ----------
    run
        a run folder
    out
        a new folder, or a file that ends in .onnx
    """
    opened = Run.open(run)
    if opened.config.spec.vector:
        raise ValueError(f"{run} draws vectors, and only denoisers of images are exported")
    model = opened.model()
    if out.suffix.lower() == ".onnx":
        if importlib.util.find_spec("onnxscript") is None:
            raise ValueError('ONNX needs an extra: pip install "trilemma[onnx]"')
        export_onnx(model, out)
    elif out.exists():
        raise ValueError(f"{out} exists: choose another --out")
    else:
        export_diffusers(model, out)
    print_json({"run": str(run), "out": str(out)}) if json else print(printable(out))
