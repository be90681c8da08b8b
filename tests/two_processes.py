"""Trains families by the Python API; started by torchrun in test_training.py, and imported there for the comparison."""

import sys
from dataclasses import replace
from pathlib import Path

from trilemma.data import load
from trilemma.parallel import join
from trilemma.run import Run
from trilemma.training import train

FAMILIES_WITHOUT_BATCH_NORM = ["autoencoder", "vae", "pixelcnn", "diffusion"]
SETTINGS = {"batch": 8, "precision": "fp32", "pictures": 0}


def fit(name: str, data: str, out: Path) -> Run:
    dataset = load(data, binarize="dynamic", progress=False)
    return train(name, dataset, out=out / name, budget="4steps", conditional=True, settings=SETTINGS, device="cpu")


def fit_captions(data: str, out: Path) -> Run:
    """The same of a model that reads captions."""
    dataset = load(data, progress=False)
    assert dataset.labels is not None
    told = replace(dataset, captions=[f"a square in corner {label}" for label in dataset.labels])
    return train("flow", told, out=out / "captions", budget="4steps", text=True, settings=SETTINGS, device="cpu")


if __name__ == "__main__":
    with join("cpu"):
        for name in FAMILIES_WITHOUT_BATCH_NORM:
            fit(name, sys.argv[1], Path(sys.argv[2]))
        fit_captions(sys.argv[1], Path(sys.argv[2]))
