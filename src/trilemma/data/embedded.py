"""Data sets by name: MNIST lies in the package (and so stacked MNIST, which is made of it); Fashion-MNIST and CIFAR-10
are fetched once from their authors.

MNIST is Y. LeCun's and C. Cortes's, under CC BY-SA 3.0 (see NOTICE).
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from trilemma.data.arrays import Array, from_arrays, read_idx, read_npz
from trilemma.data.config import DataConfig
from trilemma.data.dataset import Raw
from trilemma.data.decoded import cache_folder, with_progress, written_atomically
from trilemma.data.fit import reason
from trilemma.data.pairs import NAME as PAIRS
from trilemma.data.pairs import load_pairs
from trilemma.data.stacked import STACKED, stacked

Opener = Callable[[str], AbstractContextManager[Any]]
Arrays = dict[str, Array]

CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip
NAMES = (*CLASSES, PAIRS, STACKED)

FASHION_ADDRESS = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
FASHION_FILES = {  # array → file and the MD5 that its authors publish
    "x_train": ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "y_train": ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    "x_test": ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
    "y_test": ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
}
CIFAR10_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

MAX_DOWNLOAD_BYTES = 2**28
PIECE = 2**20


def load_named(name: str, config: DataConfig, progress: bool) -> Raw:
    """One of `NAMES`. Raises ``ValueError`` where it is neither in the cache nor to be had from the network."""
    if name == STACKED:
        return stacked(load_named("mnist", replace(config, color="auto"), progress), config)
    packed = Path(__file__).with_name("mnist.npz")
    arrays = read_npz(packed) if name in ("mnist", PAIRS) else fetch(name, progress)
    if name == PAIRS:
        return load_pairs(arrays, config, progress)
    images = [arrays["x_train"], arrays["x_test"]]
    labels: list[Array | None] = [arrays["y_train"], arrays["y_test"]]
    return from_arrays(name, name, images, labels, np.array(CLASSES[name]), config, progress, [])


def fetch(name: str, progress: bool, opener: Opener | None = None) -> Arrays:
    """The four arrays of a data set: from ``NAME.npz`` in the cache, else downloaded and put there."""
    kept = cache_folder() / f"{name}.npz"
    try:
        arrays = read_npz(kept)
        _check(arrays, name)
        return arrays
    except ValueError:
        pass  # absent or broken: it is fetched
    download = {"fashion-mnist": _fashion_mnist, "cifar10": _cifar10}[name]
    try:
        arrays = download(opener or _open_address, progress)
        _check(arrays, name)
    except (OSError, ValueError, KeyError, tarfile.TarError, HTTPException) as error:
        raise ValueError(
            f"cannot download {name} ({reason(error)}): on a machine without a network put {name}.npz "
            f"(x_train, y_train, x_test, y_test) into {kept.parent}, or give the path of a file instead of the name"
        ) from error
    with written_atomically(kept) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return arrays


def _check(arrays: Arrays, name: str) -> None:
    """Whether these are the arrays that the name promises, by their shapes."""
    shape, train = ((28, 28), 60_000) if name == "fashion-mnist" else ((32, 32, 3), 50_000)
    wanted = {"x_train": (train, *shape), "y_train": (train,), "x_test": (10_000, *shape), "y_test": (10_000,)}
    for key, expected in wanted.items():
        if key not in arrays or arrays[key].shape != expected:
            raise ValueError(f"{key} is missing or not of shape {list(expected)}")


def _fashion_mnist(opener: Opener, progress: bool) -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        arrays: Arrays = {}
        for key, (name, md5) in FASHION_FILES.items():
            file = Path(folder) / name
            file.write_bytes(_download(FASHION_ADDRESS + name, md5, opener, progress))
            arrays[key] = read_idx(file)
    return arrays


def _cifar10(opener: Opener, progress: bool) -> Arrays:
    """The binary version: records of one label byte and 3072 pixel bytes, channel by channel."""
    data = io.BytesIO(_download(CIFAR10_ADDRESS, CIFAR10_MD5, opener, progress))
    with tarfile.open(fileobj=data, mode="r:gz") as archive:

        def records(name: str) -> Array:
            member = archive.extractfile(f"cifar-10-batches-bin/{name}.bin")
            if member is None:
                raise ValueError(f"{name} is not a file")
            return np.frombuffer(member.read(), np.uint8).reshape(-1, 3073)

        train = np.concatenate([records(f"data_batch_{i}") for i in range(1, 6)])
        test = records("test_batch")

    def images(part: Array) -> Array:
        return np.ascontiguousarray(part[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))

    return {"x_train": images(train), "y_train": train[:, 0], "x_test": images(test), "y_test": test[:, 0]}


def _download(address: str, md5: str, opener: Opener, progress: bool) -> bytes:
    """The bytes at an address, if they are the ones expected."""
    name = address.rsplit("/", 1)[-1]
    with opener(address) as response:
        length = min(int(response.headers.get("Content-Length") or MAX_DOWNLOAD_BYTES), MAX_DOWNLOAD_BYTES)
        pieces = range(-(-length // PIECE))
        data = b"".join(response.read(PIECE) for _ in with_progress(pieces, f"downloading {name}", progress))
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"what came as {name} is not the published file")
    return data


def _open_address(address: str) -> AbstractContextManager[Any]:
    return urllib.request.urlopen(address, timeout=30)  # type: ignore[no-any-return]
