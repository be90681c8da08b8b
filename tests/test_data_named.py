"""Sets by name, from a file in the cache or a false network, and the Hub."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import fill, idx, message, pixels, quiet
from PIL import Image

from trilemma.data import embedded
from trilemma.data.dataset import image_digests

pytestmark = pytest.mark.usefixtures("cache")


# --- sets by name, from a file in the cache or a false network


class Response(io.BytesIO):
    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content))}


def no_network(address: str) -> Any:
    raise OSError(101, "Network is unreachable")


def test_a_named_set_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_open_address", no_network)
    for name in ("fashion-mnist", "cifar10"):
        text = message(name)
        assert "network is unreachable" in text
        assert f"{name}.npz" in text
        assert str(cache) in text
    cache.mkdir()
    (cache / "cifar10.npz").write_bytes(b"broken")
    assert "cannot download" in message("cifar10")


def test_a_named_set_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_open_address", no_network)
    cache.mkdir()
    images = np.zeros((70_000, 28, 28), np.uint8)
    images[:, 0, :2] = np.arange(70_000, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    labels = (np.arange(70_000) % 10).astype(np.uint8)
    parts = {
        "x_train": images[:60_000],
        "y_train": labels[:60_000],
        "x_test": images[60_000:],
        "y_test": labels[60_000:],
    }
    np.savez(cache / "fashion-mnist.npz", **parts)
    data = quiet("fashion-mnist")
    assert data.class_names[9] == "Ankle boot"
    assert len(data.test) == 10_000


def test_fashion_mnist_is_downloaded_checked_and_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrays = {
        "x_train": np.zeros((60_000, 28, 28), np.uint8), "y_train": np.zeros(60_000, np.uint8),
        "x_test": np.ones((10_000, 28, 28), np.uint8), "y_test": np.ones(10_000, np.uint8),
    }  # fmt: skip
    served = {}
    for key, (name, _) in list(embedded.FASHION_FILES.items()):
        served[name] = idx(tmp_path / name, arrays[key]).read_bytes()
        monkeypatch.setitem(embedded.FASHION_FILES, key, (name, hashlib.md5(served[name]).hexdigest()))
    asked: list[str] = []

    def opener(address: str) -> Response:
        asked.append(address)
        return Response(served[address.rsplit("/", 1)[1]])

    got = embedded.fetch("fashion-mnist", False, opener)
    assert all(np.array_equal(got[key], arrays[key]) for key in arrays)
    assert len(asked) == 4
    again = embedded.fetch("fashion-mnist", False, no_network)  # now from the cache
    assert np.array_equal(again["x_test"], arrays["x_test"])
    assert not list(cache.glob("*.part"))

    (cache / "fashion-mnist.npz").unlink()
    served["t10k-labels-idx1-ubyte.gz"] += b"x"
    with pytest.raises(ValueError, match="not the published file"):
        embedded.fetch("fashion-mnist", False, opener)
    assert not list(cache.iterdir())


def test_cifar10_records(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
            records = np.zeros((10_000, 3073), np.uint8)
            records[:, 0] = number
            records[:, 1 : 1 + 1024] = 10  # red
            records[:, 1 + 32] = 99  # red, second row, first column
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = records.nbytes
            archive.addfile(info, io.BytesIO(records.tobytes()))
    monkeypatch.setattr(embedded, "CIFAR10_MD5", hashlib.md5(packed.getvalue()).hexdigest())
    got = embedded._cifar10(lambda address: Response(packed.getvalue()), False)  # type: ignore[arg-type]
    embedded._check(got, "cifar10")
    assert got["x_train"][0, 0, 0].tolist() == [10, 0, 0]
    assert got["x_train"][0, 1, 0].tolist() == [99, 0, 0]
    assert got["y_train"][[0, 10_000, 49_999]].tolist() == [0, 1, 4]
    assert got["y_test"][0] == 5


# --- the Hub, through a stand-in for the datasets package, and the real one where it is installed


class Table:
    """As much of ``datasets.Dataset`` as is used."""

    def __init__(self, split: str, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self.split, self.columns, self.features, self._fingerprint = split, columns, features, "f" + split

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        return self.columns[key] if isinstance(key, str) else {name: c[key] for name, c in self.columns.items()}

    def cast_column(self, name: str, kind: Any) -> Table:
        assert kind.decode is False
        return self


def stand_in(loaded: Callable[[str, str | None], Any]) -> types.ModuleType:
    module = types.ModuleType("datasets")

    class HubImage:
        def __init__(self, decode: bool = True) -> None:
            self.decode = decode

    class ClassLabel:
        def __init__(self, names: list[str]) -> None:
            self.names = names

    module.Image, module.ClassLabel, module.load_dataset = HubImage, ClassLabel, loaded  # type: ignore[attr-defined]
    return module


def encoded(seed: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(pixels(6, 6, 3, seed=seed)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_hub_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert 'pip install "trilemma[hub]"' in message("owner/name")


def test_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(name: str, configuration: str | None) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nand a long story")

    monkeypatch.setitem(sys.modules, "datasets", stand_in(loaded))
    text = message("owner/name")
    assert "Couldn't reach the Hub" in text
    assert "pass a folder" in text


def test_hub_columns_splits_and_broken_images(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def loaded(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        features = {"id": None, "img": module.Image(), "label": module.ClassLabel(["cat", "dog"]), "text": None}

        def table(split: str, count: int, seed: int) -> Table:
            images = [encoded(seed + i) for i in range(count)]
            columns = {"id": list(range(count)), "img": images, "label": [i % 2 for i in range(count)]}
            return Table(split, columns | {"text": [f"{split} {i}" for i in range(count)]}, features)

        tables = {"train": table("train", 6, 0), "validation": table("validation", 2, 10), "test": table("test", 4, 20)}
        tables["train"].columns["img"][2] = {"bytes": b"rubbish", "path": None}
        tables["test"].columns["img"][0] = None
        return tables

    module = stand_in(loaded)
    monkeypatch.setitem(sys.modules, "datasets", module)
    data = quiet("owner/name:small", max_bad=0.3)
    assert asked == [("owner/name", "small")]
    assert data.images.shape == (8, 3, 6, 6)
    assert (len(data.train), len(data.test)) == (5, 3)
    assert data.class_names == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 1, 0, 1, 1, 0, 1]
    assert data.captions is not None
    assert data.captions[5] == "test 1"
    assert np.array_equal(data.images[7], pixels(6, 6, 3, seed=23).transpose(2, 0, 1))
    assert any("train/2" in note and "test/0 (no image)" in note for note in data.notes)
    assert "splits not used: validation" in data.notes
    assert quiet("hub:name", max_bad=0.3).fingerprint == data.fingerprint
    assert asked[-1] == ("name", None)


def test_the_real_datasets_package(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for part, seed in (("train", 1), ("test", 2)):
        for number, label in enumerate(("cat", "dog")):
            fill(tmp_path / "owner" / "set" / part / label, 3, seed=10 * seed + number)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "owner")
        patch.setenv("HF_HOME", str(tmp_path / "hf"))
        data = quiet(f"hub:{tmp_path / 'owner' / 'set'}")
    assert data.images.shape == (12, 3, 8, 8)
    assert data.class_names == ("cat", "dog")
    assert len(data.test) == 6
    direct = quiet(tmp_path / "owner" / "set")
    assert sorted(image_digests(data.images)) == sorted(image_digests(direct.images))
