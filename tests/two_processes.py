"""Trains families by the Python API; started by torchrun in test_training.py, and imported there for the comparison."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from trilemma.data import load
from trilemma.parallel import join
from trilemma.run import Run
from trilemma.training import train

WITHOUT_BATCH_NORM: dict[str, dict[str, Any]] = {
    "autoencoder": {},
    "vae": {},
    "gan": {"generator_norm": "none", "discriminator_norm": "layer", "r1": 1.0},
    "pixelcnn": {},
    "diffusion": {},
}
"""Batch norm sees a process's own share of the batch alone, so with it two processes train something else."""
SETTINGS = {"batch": 8, "precision": "fp32", "pictures": 0}


def fit(name: str, data: str, out: Path) -> Run:
    dataset = load(data, binarize="dynamic", progress=False)
    model = WITHOUT_BATCH_NORM[name]
    return train(
        name, dataset, out=out / name, budget="4steps", conditional=True, model=model, settings=SETTINGS, device="cpu"
    )


def fit_captions(data: str, out: Path) -> Run:
    """The same of a model that reads captions."""
    dataset = load(data, progress=False)
    assert dataset.labels is not None
    told = replace(dataset, captions=[f"a square in corner {label}" for label in dataset.labels])
    return train("flow", told, out=out / "captions", budget="4steps", text=True, settings=SETTINGS, device="cpu")


if __name__ == "__main__":
    with join("cpu"):
        for name in WITHOUT_BATCH_NORM:
            fit(name, sys.argv[1], Path(sys.argv[2]))
        fit_captions(sys.argv[1], Path(sys.argv[2]))
