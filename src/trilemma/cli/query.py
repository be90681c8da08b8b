"""``trilemma query RUN [IMAGES]``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import App, Parameter

from trilemma.cli.flags import Device, Json, parse_labels, print_json
from trilemma.cli.progress import Bars
from trilemma.config import RunConfig
from trilemma.data import Dataset, load
from trilemma.evaluation import subset
from trilemma.parallel import join
from trilemma.queries.likelihood import Answer, log_likelihood
from trilemma.run import Run

app = App(
    name="query",
    help_epilogue="""Examples:

```
trilemma query runs/pixelcnn
trilemma query runs/vae photos/ --samples 100 --json
trilemma query runs/pixelcnn fashion-mnist -n 500
```
""",
    help_format="markdown",
)


@app.default
def query(
    run: Path,
    images: str | None = None,
    /,
    *,
    n: Annotated[int, Parameter(name=["-n", "--number"])] = 100,
    labels: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Ask a trained run for log p(x) of images, in nats and in bits per dimension over the discrete image.

    The answer says what it is: exact, a lower bound, an estimate, or undefined and why.

    Parameters
    ----------
    run
        a run folder
    images
        anything that train takes; by default held-out images of the run's own data
    n
        at most so many images
    labels
        ask for log p(x|y) with these classes: 3, or 0,1,2, or true (the images' own); by default log p(x)
    samples
        Monte-Carlo effort where the answer is not exact: importance samples, or noise levels
    seed
        of the Monte-Carlo noise and of the choice of images
    """
    opened = Run.open(run)
    config = opened.config
    dataset, indices = _images(config, images, n, seed)
    classes = dataset.label_batch(indices) if labels == "true" else None
    if labels == "true" and classes is None:
        raise ValueError(f"{dataset.name} has no labels: leave --labels out")
    if labels not in (None, "true"):
        given = parse_labels(labels, config.class_names) or []
        import torch

        classes = torch.tensor([given[i % len(given)] for i in range(len(indices))])
    with join(device) as where, Bars() as bars:
        answer = log_likelihood(
            opened,
            dataset.batch(indices),
            classes,
            samples=samples,
            seed=seed,
            device=device,
            progress=(lambda done, total: bars.tell(config.family, "log p(x)", done, total)) if where.first else None,
        )
    if not where.first:
        return
    if json:
        print_json(_record(opened, dataset, indices, answer))
    elif answer.nats is None or answer.mean is None:
        print(f"log p(x) is undefined: {answer.reason}")
    else:
        mean, error = answer.mean
        sign = {"exact": "=", "bound": "≤", "estimate": "≈"}[answer.kind]
        print(
            f"{sign} {mean:.4f} ± {error:.4f} bits/dim, −log p(x) {sign} {-float(answer.nats.mean()):.2f} nats "
            f"({answer.kind}: {answer.reason}; {len(indices)} images of {dataset.name})"
        )


def _images(config: RunConfig, images: str | None, n: int, seed: int) -> tuple[Dataset, np.ndarray[Any, Any]]:
    """The images asked about, brought to the run's shape, and which of them."""
    if n < 1:
        raise ValueError(f"-n must be at least 1, not {n}")
    if images is None:
        dataset = load(config.data)
        return dataset, subset(dataset.test, n, seed)
    spec = config.spec
    dataset = load(
        replace(
            config.data,
            source=images,
            size=(spec.height, spec.width),
            color="rgb" if spec.channels == 3 else "grey",
            limit=None,
        ),
        split=False,
    )
    everything = np.arange(len(dataset.images))
    return dataset, everything if len(everything) <= n else np.sort(subset(everything, n, seed))


def _record(run: Run, dataset: Dataset, indices: np.ndarray[Any, Any], answer: Answer) -> dict[str, Any]:
    mean = answer.mean
    return {
        "run": str(run.path),
        "family": run.config.family,
        "images": dataset.name,
        "indices": indices.tolist(),
        "kind": answer.kind,
        "reason": answer.reason,
        "dims": answer.dims,
        "nats": None if answer.nats is None else answer.nats.tolist(),
        "bits_per_dim": None if answer.bits is None else answer.bits.tolist(),
        "mean_bits_per_dim": None if mean is None else mean[0],
        "standard_error": None if mean is None or mean[1] != mean[1] else mean[1],
    }
