"""What a number is, and how it was made: the two records that travel with every score."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from trilemma.evaluation.glossary import choose

Better = Literal["lower", "higher", "none"]


@dataclass(frozen=True)
class Metric:
    """A number with what is needed to read it.

    Attributes:
        value: the number, or None (then ``note`` or ``flag`` says why).
        error: one standard error over images, or None where there is no estimate of it.
        unit: in words, empty for a pure number.
        better: which way is better.
        n: images it was computed from.
        kind: of a likelihood: ``exact``, ``bound``, ``estimate`` or ``undefined``.
        note: what it says, in one clause.
        flag: a reason to distrust it.
        protocol: how it was made: features with their preprocessing, and against what.
        reading: the value in plain words, where there is a scale to read it on.
    """

    value: float | None
    error: float | None = None
    unit: str = ""
    better: Better = "none"
    n: int = 0
    kind: str | None = None
    note: str = ""
    flag: str | None = None
    protocol: str = ""
    reading: str = ""


@dataclass(frozen=True)
class Protocol:
    """How an evaluation is done; saved beside every number.

    Attributes:
        n: images drawn from the model, and held-out images used as the floor.
        metrics: which, separated by commas: names, groups (fidelity, memorisation, labelled, model), default or all.
        features: the feature network: small, inception, dinov2, clip.
        preprocessing: of inception: torch-fidelity, pytorch-fid or clean-fid (the default).
        reference: training images that scores are against; 0 for all of them.
        k: neighbours of precision, recall, density and coverage.
        kept: at most so many samples are kept for the metrics that need each of them; means and covariances use all n.
        search: nearest training images are looked for exactly, or by an index (extra trilemma[index]) in large sets.
        ladder: distorted real images as a scale for the numbers: yes, no, or auto (where features are cheap).
        likelihood_n: held-out images whose log-likelihood is asked for.
        likelihood_samples: Monte-Carlo effort of families whose likelihood is not exact; 0 for their default.
        modes_n: samples of a run in which the 1,000 modes of stacked MNIST are counted; a slow sampler may need fewer.
        ood: another source of images, whose likelihood is compared with that of held-out ones (out of distribution).
        seed: of the samples and of every subset.
    """

    n: int = 2000
    metrics: str = "default"
    features: str = "small"
    preprocessing: str = ""
    reference: int = 10_000
    k: int = 5
    kept: int = 50_000
    search: Literal["exact", "index"] = "exact"
    ladder: Literal["auto", "yes", "no"] = "auto"
    likelihood_n: int = 500
    likelihood_samples: int = 0
    modes_n: int = 26_000
    ood: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"n": 16, "reference": 0, "k": 1, "kept": 16, "likelihood_n": 0, "likelihood_samples": 0, "modes_n": 16}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be at least {smallest}, not {getattr(self, name)}")
        if self.search not in ("exact", "index"):
            raise ValueError(f"--search must be exact or index, not {self.search!r}")
        if self.ladder not in ("auto", "yes", "no"):
            raise ValueError(f"--ladder must be auto, yes or no, not {self.ladder!r}")
        if self.preprocessing and self.features != "inception":
            raise ValueError(
                f"--preprocessing {self.preprocessing} belongs to --features inception, not to {self.features}"
            )
        choose(self.metrics)  # refuses unknown names before any work
        for name in ("fid", "fid_infinity"):
            if name in self.metrics.split(",") and not self.official:
                raise ValueError(
                    f"{name} is measured in Inception features: add --features inception, "
                    f"or ask for {name.replace('fid', 'frechet')}"
                )

    @property
    def official(self) -> bool:
        """Whether the features are those of the FID of the literature."""
        return self.features.split("/")[0] == "inception"

    @property
    def network(self) -> str:
        """The name to ask `metrics.feature_network` for."""
        return f"{self.features}/{self.preprocessing}" if self.preprocessing else self.features

    def wants(self, *names: str) -> bool:
        """Whether any of these metrics is asked for."""
        return bool(choose(self.metrics) & set(names))


def hardware() -> str:
    """The processor, and the accelerator if there is one, by name."""
    names = [platform.processor() or platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        names = [next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))]
    except (OSError, StopIteration):
        pass
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join(name for name in names if name) + f", {os.cpu_count()} cores"
