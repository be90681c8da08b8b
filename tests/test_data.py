"""The data room: MNIST, batches, the split, the fingerprint, and what users are told."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from files import fill, message, pixels, quiet, save
from hypothesis import given, settings
from hypothesis import strategies as st

from trilemma.data import DataConfig, Dataset, describe, load
from trilemma.data.dataset import image_digests, split_by_content
from trilemma.images import Spec
from trilemma.noise import BatchNoise, ImageNoise

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load("mnist", progress=False)


# --- MNIST and the Dataset itself


def test_embedded_mnist_is_the_original(mnist: Dataset) -> None:
    assert mnist.images.shape == (70_000, 1, 28, 28)
    assert mnist.images.dtype == np.uint8
    assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
    assert mnist.labels is not None
    assert mnist.labels.dtype == np.int64
    # published counts per digit, training and test
    counts = [np.bincount(mnist.labels[part]).tolist() for part in (mnist.train, mnist.test)]
    assert counts[0] == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert counts[1] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # the mean and deviation that everybody normalises with
    values = mnist.images[mnist.train] / 255
    assert (round(float(values.mean()), 4), round(float(values.std()), 4)) == (0.1307, 0.3081)
    assert mnist.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.spec() == Spec((1, 28, 28), 256, 0)
    assert mnist.spec(conditional=True).classes == 10


def test_batches(mnist: Dataset) -> None:
    indices = mnist.test[[3, 0, 3]]
    for form in (indices, indices.tolist(), torch.from_numpy(indices)):
        x = mnist.batch(form)
        assert x.shape == (3, 1, 28, 28)
        assert x.dtype == torch.uint8
        assert torch.equal(x[0], x[2])
        assert np.array_equal(x[1].numpy(), mnist.images[60_000])
        assert mnist.label_batch(form).tolist() == [0, 7, 0]  # type: ignore[union-attr]
    x[:] = 7  # a batch is a copy
    assert not (mnist.images[indices] == 7).all()
    assert mnist.batch([]).shape == (0, 1, 28, 28)


def test_dynamic_binarisation_is_bernoulli_of_the_pixel(tmp_path: Path) -> None:
    images = np.stack([np.full((100, 100), value, np.uint8) for value in (0, 51, 204, 255)])
    np.save(tmp_path / "a.npy", images)
    data = quiet(tmp_path / "a.npy", binarize="dynamic")
    assert data.levels == 2
    assert data.spec().levels == 2
    noise = BatchNoise((0, "test"), 4, 0, 4, torch.device("cpu"))
    for x in (data.batch([0, 1, 2, 3]), data.batch([0, 1, 2, 3], noise)):
        assert set(x.unique().tolist()) <= {0, 1}
        assert x.dtype == torch.uint8
        mean = x.float().mean((1, 2, 3)).tolist()
        assert mean[0] == 0
        assert mean[3] == 1
        # 10,000 pixels: five standard errors are 0.02
        assert abs(mean[1] - 0.2) < 0.02
        assert abs(mean[2] - 0.8) < 0.02


def test_held_out_images_are_binarised_once_and_for_all() -> None:
    data = quiet("mnist", binarize="dynamic", limit=10)
    whole = data.batch(data.test[:20])
    assert torch.equal(whole[5:8], data.batch(data.test[5:8]))
    assert torch.equal(whole[[7]], data.batch([int(data.test[7])]))
    # the rule, from its parts
    u = ImageNoise(0, [int(data.test[7])]).uniform(1, 28, 28)
    assert torch.equal(whole[7], (u[0] < torch.from_numpy(data.images[data.test[7]]) / 255).to(torch.uint8))
    # with noise it is another draw each time
    noise = BatchNoise((0, 1), 20, 0, 20, torch.device("cpu"))
    assert not torch.equal(data.batch(data.test[:20], noise), data.batch(data.test[:20], noise))
    images, labels = data.testing()
    assert torch.equal(images[:20], whole)
    # fixed binarisation is the same draw, in training too
    fixed = quiet("mnist", binarize="fixed", limit=10)
    assert torch.equal(fixed.batch(data.test[:20], noise), whole) and fixed.levels == 2
    assert labels is not None
    assert len(labels) == 10_000


def test_threshold_binarisation(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[[0, 127]], [[128, 255]]], np.uint8))
    data = quiet(tmp_path / "a.npy", binarize="threshold")
    assert data.batch([0, 1]).tolist() == [[[[0, 0]]], [[[1, 1]]]]
    assert data.levels == 2


def test_limit_takes_the_first_training_images_and_keeps_the_test_split() -> None:
    data = quiet("mnist", limit=100)
    assert data.train.tolist() == list(range(100))
    assert len(data.test) == 10_000
    assert any("100 of 60,000" in note for note in data.notes)
    assert len(data.training()[0]) == 100


def test_limit_of_a_folder_is_a_fair_draw_of_its_classes(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "a", 40, seed=1)
    fill(tmp_path / "set" / "b", 40, seed=2)
    data = quiet(tmp_path / "set", limit=20)
    assert data.labels is not None
    assert set(data.labels[data.train]) == {0, 1}
    assert len(data.train) == 20
    assert set(data.train) <= set(quiet(tmp_path / "set").train)


def test_conditional_without_labels(tmp_path: Path) -> None:
    data = quiet(fill(tmp_path / "set"))
    with pytest.raises(ValueError, match="no labels"):
        data.spec(conditional=True)
    assert data.label_batch([0]) is None
    assert data.testing()[1] is None


def test_describe(mnist: Dataset) -> None:
    text = describe(mnist)
    for part in ("mnist", "60,000", "10,000", "28 x 28 grey", "256 levels", "10 classes", "1 (7,877)", "test split"):
        assert part in text


# --- the split and the fingerprint


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=120))
def test_the_split_by_content(values: list[int]) -> None:
    images = np.array(values, np.uint8).reshape(-1, 1, 1, 1)
    digests = image_digests(images)
    if len(set(values)) < 2:
        with pytest.raises(ValueError, match="add images"):
            split_by_content(digests, "x")
        return
    is_test = split_by_content(digests, "x")
    assert 1 <= is_test.sum() < len(values)
    side: dict[int, bool] = {}
    for value, held_out in zip(values, is_test.tolist(), strict=True):
        assert side.setdefault(value, held_out) == held_out  # equal images on one side


def test_the_split_is_about_a_tenth_and_stays_when_images_are_added(tmp_path: Path) -> None:
    images = pixels(4000, 4, 4)
    np.save(tmp_path / "all.npy", images)
    np.save(tmp_path / "half.npy", images[:2000])
    whole, half = quiet(tmp_path / "all.npy"), quiet(tmp_path / "half.npy")
    assert 320 < len(whole.test) < 480  # 400 ± 4 standard deviations
    assert half.test.tolist() == [i for i in whole.test if i < 2000]
    assert sorted([*whole.train, *whole.test]) == list(range(4000))


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one"), fill(tmp_path / "two")
    first = quiet(one)
    assert quiet(one).fingerprint == first.fingerprint == quiet(two).fingerprint
    with zipfile.ZipFile(tmp_path / "three.zip", "w") as archive:
        for file in sorted(one.iterdir()):
            archive.write(file, f"folder/{file.name}")
    assert quiet(tmp_path / "three.zip").fingerprint == first.fingerprint
    others = [quiet(one, **{key: value}) for key, value in (("binarize", "dynamic"), ("limit", 3), ("color", "grey"))]
    save(two / "003.png", pixels(8, 8, 3, seed=99))
    others.append(quiet(two))
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_shared_images_of_an_own_split_are_reported(tmp_path: Path) -> None:
    images = pixels(10, 4, 4)
    np.savez(tmp_path / "a.npz", x_train=images, x_test=images[:3])
    assert any("3 of the test images" in note for note in quiet(tmp_path / "a.npz").notes)


# --- what a user is told


def test_wrong_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean mnist" in message("mnits")
    assert "did you mean fashion-mnist" in message("fashion_mnist")
    assert "did you mean cifar10" in message("CIFAR-10")
    (tmp_path / "pictures").mkdir()
    assert "did you mean pictures" in message("picturs")
    assert "no images" in message("pictures")
    assert "no file, folder or data set" in message("pictures/cats")  # not taken for an id of the Hub
    assert "Hub" in message("zzzzzz")
    assert "empty" in message("")
    assert "single image" in message(save(tmp_path / "a.png", pixels(4, 4)))
    (tmp_path / "b.tar").write_bytes(b"x")
    assert "no data set" in message("b.tar")
    message("a\0b")
    message("x" * 5000)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"size": (0, 8)}, "size"),
        ({"size": 8}, "(height, width)"),
        ({"size": (8, 8, 3)}, "size"),
        ({"size": (8.5, 8)}, "size"),
        ({"fit": "squash"}, "crop, pad"),
        ({"color": "gray"}, "auto, grey, rgb"),
        ({"binarize": "static"}, "dynamic"),
        ({"background": "whitish"}, "background"),
        ({"limit": 0}, "limit"),
        ({"max_bad": 5.0}, "max_bad"),
    ],
)
def test_wrong_options(option: dict[str, Any], said: str) -> None:
    assert said in message("mnist", **option)


def test_config_survives_json_and_options_override_it(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set")
    data = quiet(DataConfig(str(folder), size=(4, 6), color="grey"), color="rgb")
    assert data.config == DataConfig(str(folder), size=(4, 6), color="rgb")
    assert data.images.shape == (12, 3, 4, 6)
    again = DataConfig(**json.loads(json.dumps(data.config.__dict__)))
    assert again == data.config
    assert hash(again) == hash(data.config)
    assert quiet(again).fingerprint == data.fingerprint
