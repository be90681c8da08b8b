"""Stacked MNIST: the data set, and the modes of a run counted by the published protocol."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trilemma.data import DataConfig, Dataset, describe, load
from trilemma.evaluation import Protocol, classifier, evaluate, real_scores
from trilemma.evaluation.reference import Reference
from trilemma.images import Spec
from trilemma.training import train


@pytest.fixture(scope="module")
def stacks() -> Dataset:
    return load("stacked-mnist", progress=False)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load("mnist", progress=False)


def test_the_published_protocol(stacks: Dataset) -> None:
    assert (len(stacks.train), len(stacks.test)) == (128_000, 26_000)
    assert stacks.spec() == Spec((3, 28, 28))
    assert stacks.class_names[0] == "000" and stacks.class_names[-1] == "999"
    assert stacks.labels is not None
    counts = np.bincount(stacks.labels[stacks.train], minlength=1000)
    assert (counts > 60).all() and counts.max() < 260  # 128 on average; digits are not equally many
    assert "stacked" in describe(stacks)


def test_each_channel_is_a_digit_of_its_own_split(stacks: Dataset, mnist: Dataset) -> None:
    assert stacks.labels is not None and mnist.labels is not None
    for indices, own in ((stacks.train, mnist.train), (stacks.test, mnist.test)):
        digits = {mnist.images[i].tobytes(): int(mnist.labels[i]) for i in own}
        for row in indices[:200]:
            image = stacks.images[row]
            assert image.shape == (3, 28, 28)
            red, green, blue = (digits[channel.tobytes()] for channel in image)
            assert 100 * red + 10 * green + blue == stacks.labels[row]


def test_channels_are_independent_draws(stacks: Dataset) -> None:
    assert stacks.labels is not None
    digits = np.stack([stacks.labels // 100, stacks.labels // 10 % 10, stacks.labels % 10]).astype(float)
    correlation = np.corrcoef(digits)
    assert np.abs(correlation - np.eye(3)).max() < 0.01


def test_images_are_composed_when_they_are_asked_for(stacks: Dataset) -> None:
    """And look like the array that they would be."""
    assert stacks.images.shape == (154_000, 3, 28, 28)
    assert stacks.images.digits.nbytes < 60e6  # type: ignore[attr-defined]
    rows = np.array([5, 3, 5, 140_000])
    batch = stacks.batch(rows)
    assert batch.dtype == torch.uint8 and batch.shape == (4, 3, 28, 28)
    assert torch.equal(batch[0], batch[2])
    assert np.array_equal(batch[1].numpy(), stacks.images[3])
    assert np.array_equal(next(iter(stacks.images)), stacks.images[0])


def test_the_fingerprint_is_stable(stacks: Dataset) -> None:
    """Runs name their data by it: a change here is a change of the data set."""
    assert stacks.fingerprint == "e0cf267d7ccb628d6ae4947e90dade18"
    assert load("stacked-mnist", limit=500, progress=False).fingerprint != stacks.fingerprint


def test_options() -> None:
    small = load("stacked-mnist", size=(14, 14), binarize="threshold", limit=100, progress=False)
    assert small.spec() == Spec((3, 14, 14), levels=2)
    assert len(small.train) == 100 and len(small.test) == 26_000
    with pytest.raises(ValueError, match="grey"):
        load(DataConfig("stacked-mnist", color="grey"), progress=False)


@pytest.fixture
def _quick_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "train_classifier", functools.partial(classifier.train_classifier, steps=60))


@pytest.mark.usefixtures("_quick_classifier")
def test_modes_of_a_run_are_counted_by_default(tmp_path: Path) -> None:
    data = load("stacked-mnist", limit=64, progress=False)
    run = train(
        "gan",
        data,
        out=tmp_path / "run",
        budget="2steps",
        model={"width": 8, "latent": 4},
        settings={"batch": 16, "pictures": 0},
        say=str,
    )
    protocol = Protocol(n=64, reference=64, ladder="no", modes_n=600)
    reference = Reference.prepare(data, protocol)
    record = evaluate(run, reference)
    modes, floor = (record[part]["stacked_modes"] for part in ("metrics", "floor"))
    assert modes["n"] == floor["n"] == 600
    assert modes["value"] < 100 < 400 < floor["value"] < 480  # a perfect sampler reaches 451 of 1,000
    assert "600 images" in modes["protocol"] and "perfect sampler reaches 451" in modes["protocol"]
    assert record["metrics"]["stacked_kl"]["value"] > 2 > record["floor"]["stacked_kl"]["value"]
    again = real_scores(replace(reference, memo={}))  # from the cache
    assert again["stacked_modes"].value == floor["value"]
    few = evaluate(run, Reference.prepare(data, Protocol(n=64, reference=64, ladder="no", metrics="frechet")))
    assert "stacked_modes" not in few["metrics"]
