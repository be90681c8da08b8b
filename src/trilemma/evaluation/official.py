"""The FID of two sets of images, whole against whole, each image as it is: the number that papers print.

Every image of both sets is used, and goes from its own size straight to the network's 299 x 299 pixels, as pytorch-fid,
clean-fid and torch-fidelity do; so the value is theirs. Either side may be the mean and covariance that these programs
save. Parts of the larger `evaluate` that say what a value is worth are in it too: its error over images, and its bias.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trilemma.bars import told
from trilemma.data import DataConfig, Dataset, load
from trilemma.data.folder import Originals
from trilemma.data.memory import SOURCE, ImagesLike
from trilemma.evaluation.reference import display
from trilemma.evaluation.stream import UNIT, Tell
from trilemma.files import replacing
from trilemma.metrics import Features, Gaussian, Moments, feature_network, frechet_bias, frechet_distance
from trilemma.metrics import frechet_estimate as estimate
from trilemma.metrics import frechet_flag as flag_of
from trilemma.number import Number, text
from trilemma.parallel import find_device
from trilemma.text import printable

KEPT = 50_000
"""Features kept, for the error over images."""

SET = str | os.PathLike[str] | Dataset | DataConfig | ImagesLike


@dataclass(frozen=True)
class Statistics:
    """What a Fréchet distance knows of a set of images.

    Attributes:
        law: mean and covariance of its features; ``law.n`` is 0 where nobody said of how many images.
        features: float32 [N, d] of all of them, where they are known and few enough.
        name: where they come from.
        network: the name of the features; empty where nobody said.
    """

    law: Gaussian
    features: Tensor | None
    name: str
    network: str = ""


def fid(
    a: SET | Statistics,
    b: SET | Statistics,
    *,
    preprocessing: str = "clean-fid",
    features: str = "inception",
    device: str = "auto",
    progress: Tell | Literal["bar"] | None = None,
) -> Number:
    """Fréchet Inception distance of two sets of images (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    >>> import trilemma
    >>> trilemma.fid("generated/", "photos/", preprocessing="pytorch-fid").value  # doctest: +SKIP

    Args:
        a: the images in question: a folder, a zip, an array file, a data set, images in memory; an npz with ``mu``
            and ``sigma``; or `Statistics`.
        b: the real ones, any of the same. With the two exchanged the value is the same.
        preprocessing: how images come to 299 x 299 pixels: clean-fid, pytorch-fid or torch-fidelity.
        features: another feature network, whose Fréchet distance is then no FID.
        device: where to compute.
        progress: called as ``progress(what, done, total)``.

    Returns:
        The value; its standard error over the images of ``a``, where they are more than features; in ``flag`` its
        bias where it matters.

    Raises:
        ValueError: no images, statistics of other features, or fewer images than features, in one line.
    """
    network = feature_network(_network(features, preprocessing), str(find_device(device)))
    sides = [_opened(each) for each in (a, b)]
    for name, count in ((side.name, side.law.n) if isinstance(side, Statistics) else side[:2] for side in sides):
        if 0 < count <= network.dims:  # said before minutes of features
            raise ValueError(
                f"{name} holds {count:,} images, which do not determine the covariance of {network.dims:,} features: a "
                f"distance needs more than {network.dims:,}; `trilemma evaluate A --against B` has scores for fewer"
            )
    with told(progress, lambda bars: lambda what, done, total: bars.tell("", what, done, total)) as tell:
        x, y = (_statistics(side, network, tell) for side in sides)
    for side in (x, y):
        if side.network not in ("", network.name):
            raise ValueError(
                f"{side.name} has statistics of {printable(side.network)}, not of {network.name}: make them again, or "
                "ask for those"
            )
        if side.law.dims != network.dims:
            raise ValueError(
                f"{side.name} has statistics of {side.law.dims} features, {network.name} has {network.dims}"
            )
    found = estimate(x.features, y.law) if x.features is not None else Number(frechet_distance(x.law, y.law))
    return Number(
        found.value,
        found.error,
        better="lower",
        n=x.law.n,
        flag=biased(x.law, y.law),
        note=""
        if found.error is not None
        else "no error: of saved statistics, or too many images to keep, it is unknown",
        protocol=f"{network.name}, {_counted(x)} against {_counted(y)}",
    )


def biased(x: Gaussian, y: Gaussian) -> str | None:
    """The bias of a distance in words, where it is a large part of what it measures; by `frechet_bias` of ``y``."""
    counts = [law.n for law in (x, y) if law.n]
    if not counts:
        return "of how many images these are was not saved: the bias is unknown"
    flag = flag_of(min(counts), y.dims)
    if flag is None:
        return None
    bias = sum(frechet_bias(y, count) for count in counts)
    return flag.replace("biased upwards", f"biased upwards, by {text(bias, digits=2)} or somewhat more")


def _network(features: str, preprocessing: str) -> str:
    return f"{features}/{preprocessing}" if features == "inception" else features


def _counted(side: Statistics) -> str:
    return f"{side.law.n:,} images of {side.name}" if side.law.n else f"the statistics in {side.name}"


# ------------------------------------------------------------------------------------------------------ statistics


def statistics(
    source: SET,
    *,
    preprocessing: str = "clean-fid",
    features: str = "inception",
    device: str = "auto",
    progress: Tell | Literal["bar"] | None = None,
) -> Statistics:
    """Mean and covariance of the features of a set of images, for `fid` and `save_statistics`; arguments as `fid`."""
    network = feature_network(_network(features, preprocessing), str(find_device(device)))
    with told(progress, lambda bars: lambda what, done, total: bars.tell("", what, done, total)) as tell:
        return _statistics(_opened(source), network, tell)


def _opened(source: SET | Statistics) -> Statistics | tuple[str, int, Iterator[Tensor]]:
    """Statistics, or the name, the number and the batches of images."""
    if isinstance(source, Statistics):
        return source
    if isinstance(source, str | os.PathLike) and _saved(Path(source)):
        return read_statistics(source)
    return _images(source)


def _statistics(
    source: Statistics | tuple[str, int, Iterator[Tensor]], network: Features, tell: Tell | None
) -> Statistics:
    if isinstance(source, Statistics):
        return source
    name, count, batches = source
    moments, kept, seen = None, list[Tensor](), 0
    for images in batches:
        part = network.of(images)
        moments = Moments.of(part) if moments is None else moments.add(part)
        kept += [part] if count <= KEPT else []
        seen += len(images)
        if tell:
            tell(f"{network.name} features of {name}", seen, count)
    assert moments is not None
    return Statistics(moments.gaussian(), torch.cat(kept) if kept else None, name, network.name)


def _images(source: SET) -> tuple[str, int, Iterator[Tensor]]:
    """The name of a set, how many images it has, and they themselves, uint8 [N, C, H, W], in batches of one size."""
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if path.is_dir() or path.suffix.lower() == ".zip":
            originals = Originals(path)
            return printable(path.name or path), len(originals.names), _alike(originals)
    config = source if isinstance(source, DataConfig | Dataset) else None
    if config is None:
        config = DataConfig(os.fspath(source)) if isinstance(source, str | os.PathLike) else DataConfig(SOURCE)
    dataset = config if isinstance(config, Dataset) else load(
        source if config.source == SOURCE else config, split=False
    )  # fmt: skip
    if dataset.vector:
        raise ValueError(f"{dataset.name} holds vectors, and this looks at images")
    rows = np.arange(len(dataset.images))
    parts = (display(dataset, rows[start : start + UNIT]) for start in range(0, len(rows), UNIT))
    return printable(dataset.name), len(rows), parts


def _alike(originals: Originals) -> Iterator[Tensor]:
    """Images in batches of one size, in their order."""
    batch: list[np.ndarray[Any, Any]] = []
    for image in originals:
        pixels = image.shape[1] * image.shape[2]
        if batch and (image.shape != batch[0].shape or len(batch) * pixels >= UNIT * 2**16 or len(batch) == UNIT):
            yield torch.from_numpy(np.stack(batch))
            batch = []
        batch.append(image)
    if batch:
        yield torch.from_numpy(np.stack(batch))


def save_statistics(path: str | os.PathLike[str], found: Statistics) -> Path:
    """Write ``mu`` and ``sigma`` as pytorch-fid and clean-fid do, with N and the name of the features beside them."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(
            file,
            mu=found.law.mean.numpy(),
            sigma=found.law.covariance.numpy(),
            n=np.int64(found.law.n),
            features=np.array(found.network),
        )
    return path


def read_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read mean and covariance from an npz of pytorch-fid, clean-fid or `save_statistics`.

    Raises:
        ValueError: the file holds something else, in one line.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (torch.from_numpy(np.asarray(file[name], np.float64)) for name in ("mu", "sigma"))
            n = int(file["n"]) if "n" in file else 0
            made = str(file["features"]) if "features" in file else ""
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as statistics, mu and sigma: {error}") from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or n < 0:
        raise ValueError(f"{path} holds mu {list(mean.shape)} and sigma {list(covariance.shape)}: they do not fit")
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise ValueError(f"{path} holds statistics that are not finite: it is damaged")
    if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * float(covariance.abs().max())):
        raise ValueError(f"{path}: sigma is no covariance, it is not symmetric")
    return Statistics(Gaussian(mean, covariance, n), None, printable(path.name), made)


def _saved(path: Path) -> bool:
    """Whether a file holds mean and covariance and no images."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as file:
            return {"mu", "sigma"} <= set(file.files)
    except (OSError, ValueError, EOFError):
        return False
