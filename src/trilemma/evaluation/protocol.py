"""How an evaluation is done: the record that travels with its numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from trilemma.evaluation.metric import choose, metrics, named
from trilemma.machine import processor
from trilemma.metrics.features import FEATURES
from trilemma.validate import MOST_IMAGES, decode


@dataclass(frozen=True)
class Protocol:
    """How an evaluation is done; saved beside every number.

    Attributes:
        n: images drawn from the model, and held-out images used as the floor.
        metrics: which, separated by commas: names, groups (fidelity, memorisation, labelled, model), default or all.
        features: the feature network: small, inception, dinov2, clip.
        preprocessing: of inception: torch-fidelity, pytorch-fid or clean-fid (the default).
        spaces: feature spaces to measure in besides, separated by commas: inception, dinov2, clip/large.
        reference: training images that scores are against; 0 for all of them.
        k: neighbours of precision, recall, density and coverage.
        kept: at most so many samples are kept for the metrics that need each of them; means and covariances use all n.
        search: nearest training images are looked for exactly, or by an index (extra trilemma[index]) in large sets.
        ladder: distorted real images as a scale for the numbers: yes, no, or auto (where features are cheap).
        likelihood_n: held-out images whose log-likelihood is asked for.
        likelihood_samples: Monte-Carlo effort of families whose likelihood is not exact; 0 for their default.
        modes_n: samples of a run in which the 1,000 modes of stacked MNIST are counted; a slow sampler may need fewer.
        ask: questions that an able run is asked besides those of every evaluation: ood=fashion-mnist,invert.
        seed: of the samples and of every subset.
    """

    n: int = 2000
    metrics: str = "default"
    features: str = "small"
    preprocessing: str = ""
    spaces: str = ""
    reference: int = 10_000
    k: int = 5
    kept: int = 50_000
    search: Literal["exact", "index"] = "exact"
    ladder: Literal["auto", "yes", "no"] = "auto"
    likelihood_n: int = 500
    likelihood_samples: int = 0
    modes_n: int = 26_000
    ask: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"n": 16, "reference": 0, "k": 1, "kept": 16, "likelihood_n": 0, "likelihood_samples": 0, "modes_n": 16}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be at least {smallest}, not {getattr(self, name)}")
            if getattr(self, name) > MOST_IMAGES:
                raise ValueError(
                    f"--{name.replace('_', '-')} must be at most {MOST_IMAGES:,}, not {getattr(self, name)}"
                )
        if self.search not in ("exact", "index"):
            raise ValueError(f"--search must be exact or index, not {self.search!r}")
        if self.ladder not in ("auto", "yes", "no"):
            raise ValueError(f"--ladder must be auto, yes or no, not {self.ladder!r}")
        if self.preprocessing and self.features != "inception":
            raise ValueError(
                f"--preprocessing {self.preprocessing} belongs to --features inception, not to {self.features}"
            )
        for name in filter(None, (part.strip() for part in self.spaces.split(","))):
            kind = name.split("/")[0]
            if name not in FEATURES and kind not in ("dinov2", "clip"):
                raise ValueError(f"--spaces knows no features called {name!r}: choose from {', '.join(FEATURES)}")
        choose(self.metrics)  # refuses unknown names before any work
        for plain, metric in metrics().items():
            if metric.official in named(self.metrics) - {""} and not self.official:
                raise ValueError(
                    f"{metric.official} is measured in Inception features: add --features inception, or ask for {plain}"
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


def protocol_of(given: Protocol | Mapping[str, Any] | None) -> Protocol:
    """A protocol from a dictionary of its fields; the defaults from None.

    Raises:
        ValueError: no such field, or a value that it does not take, in one line.
    """
    if given is None or isinstance(given, Protocol):
        return given or Protocol()
    if not isinstance(given, Mapping):
        raise ValueError(f'protocol must be a Protocol or a dictionary such as {{"n": 500}}, not {given!r}')
    return decode(Protocol, given, "protocol")


def hardware() -> str:
    """The processor, and the accelerator if there is one, by name."""
    names = [processor()]
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join(name for name in names if name) + f", {os.cpu_count()} cores"
