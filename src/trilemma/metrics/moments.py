"""Mean and covariance of a set of features, from batches and from many workers, in memory that does not grow with N."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from trilemma.files import write_bytes
from trilemma.metrics.checks import check_features, check_same_dims


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set of features: all that the Fréchet distance knows of it.

    Attributes:
        mean: float64 ``[d]``.
        covariance: float64 ``[d, d]``, normalised by ``n - 1``.
        n: number of images it was estimated from.
    """

    mean: Tensor
    covariance: Tensor
    n: int

    @property
    def dims(self) -> int:
        return len(self.mean)

    @classmethod
    def fit(cls, features: Tensor) -> Gaussian:
        """Estimate from features ``[N, d]``; ``ValueError`` for N < 2, NaN, or rows that are all the same."""
        return Moments.of(check_features(features)).gaussian()


@dataclass(frozen=True)
class Moments:
    """Count, mean and centred sum of products of features: all that adds up over batches, shards and workers.

    ``Moments.empty(d).add(batch).add(batch)`` and ``one.merge(other)`` return new objects. Order and grouping change
    the result by rounding alone, about 1e-15 of it, because sums are kept centred (Chan, Golub & LeVeque 1979).

    Attributes:
        count: number of images.
        mean: float64 ``[d]``.
        scatter: float64 ``[d, d]``, Σ (x - mean)(x - mean)ᵀ.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @property
    def dims(self) -> int:
        return len(self.mean)

    @classmethod
    def empty(cls, dims: int) -> Moments:
        return cls(0, torch.zeros(dims, dtype=torch.float64), torch.zeros(dims, dims, dtype=torch.float64))

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of one batch of features ``[N, d]``; ``ValueError`` where they are no matrix or contain NaN."""
        x = check_features(features, least=0)
        if not len(x):
            return cls.empty(x.shape[1])
        mean = x.mean(0)
        centred = (x - mean).numpy()
        scatter = centred.T @ centred  # numpy sees the symmetry and does half the work; torch does not
        return cls(len(x), mean, torch.from_numpy(scatter))

    def add(self, features: Tensor) -> Moments:
        """With another batch ``[N, d]``; batches of hundreds of images are worth their d² of work."""
        return self.merge(Moments.of(features))

    def merge(self, other: Moments) -> Moments:
        """Of both sets together; ``ValueError`` where their dimensions differ."""
        check_same_dims(self.dims, other.dims)
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter.addr_(delta, delta, alpha=self.count * other.count / count)
        return Moments(count, self.mean + delta * (other.count / count), scatter)

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance; ``ValueError`` for fewer than two images or images that are all the same."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.count}")
        if not self.scatter.any():
            raise ValueError(f"features are the same in all {self.count} rows: there is no distribution to measure")
        return Gaussian(self.mean, self.scatter / (self.count - 1), self.count)

    def state(self) -> dict[str, Tensor]:
        """As tensors, to be sent to another worker or saved; `from_state` is the inverse."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Moments:
        """From what `state` returned; ``ValueError`` where it is something else."""
        if set(state) != {"count", "mean", "scatter"}:
            raise ValueError(f"these are not saved moments: they have {', '.join(sorted(state)) or 'nothing'}")
        count, mean, scatter = int(state["count"]), state["mean"].cpu(), state["scatter"].cpu()
        if mean.ndim != 1 or scatter.shape != (len(mean),) * 2 or not mean.dtype == scatter.dtype == torch.float64:
            raise ValueError(f"saved moments have mean {list(mean.shape)} and scatter {list(scatter.shape)}")
        return cls(count, mean, scatter)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as safetensors."""
        write_bytes(path, to_safetensors({name: tensor.contiguous() for name, tensor in self.state().items()}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Moments:
        """Read what `save` wrote; ``ValueError`` where it is damaged or something else."""
        try:
            return cls.from_state(load_file(path))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{os.fspath(path)} holds no saved moments: {error}") from error
