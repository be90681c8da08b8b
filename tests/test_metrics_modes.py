"""Modes, the classifier that tells them apart, and real images made worse on purpose."""

from __future__ import annotations

import math
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.data import load
from trilemma.metrics import (
    Classifier,
    classification_accuracy_score,
    conditional_accuracy,
    distortions,
    feature_network,
    frechet_distance,
    mode_coverage,
    stacked_labels,
    train_classifier,
)

# Modes


@pytest.mark.parametrize("dropped", [0, 1, 10, 24])
def test_dropped_modes_have_their_closed_form(dropped: int) -> None:
    labels = torch.arange(25 - dropped).repeat(40)
    found = mode_coverage(labels, 25)
    assert found.kl.value == pytest.approx(math.log(25 / (25 - dropped)), abs=1e-12)
    assert (found.covered.value, found.total) == (25 - dropped, 25)


def test_a_perfect_sampler_of_stacked_mnist() -> None:
    labels = torch.randint(1000, (26_000,), generator=torch.Generator().manual_seed(0))
    found = mode_coverage(labels, 1000)
    assert found.expected_kl == pytest.approx(0.0193, abs=5e-5)
    assert found.covered.value == 1000 and found.expected_covered == pytest.approx(1000, abs=1e-6)
    assert abs(found.kl.known - found.expected_kl) < 4 * (found.kl.error or 0)


def test_kl_against_a_given_law() -> None:
    law = torch.tensor([0.5, 0.3, 0.2, 0.0])
    found = mode_coverage(torch.tensor([0] * 5 + [1] * 3 + [2] * 2), 4, law)
    assert found.kl.value == pytest.approx(0, abs=1e-7) and found.covered.value == 3
    assert found.expected_covered == pytest.approx(3 - 0.5**10 - 0.7**10 - 0.8**10, abs=1e-6)
    counts = torch.tensor([50, 30, 20, 0])
    assert mode_coverage(torch.zeros(8, dtype=torch.int64), 4, counts).kl.value == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="weight 0"):
        mode_coverage(torch.tensor([3]), 4, law)
    with pytest.raises(ValueError, match="4 weights"):
        mode_coverage(torch.tensor([0]), 4, law[:3])


@pytest.mark.parametrize("weights", [[1.0] * 8, [8.0, 4.0, 2.0, 1.0]])
def test_expected_kl_and_its_error_are_what_simulation_shows(weights: list[float]) -> None:
    law, generator = torch.tensor(weights), torch.Generator().manual_seed(0)
    draws = [torch.multinomial(law, 60, replacement=True, generator=generator) for _ in range(300)]
    found = [mode_coverage(labels, len(law), law) for labels in draws]
    assert np.mean([m.kl.value for m in found]) == pytest.approx(found[0].expected_kl, rel=0.15)
    deviation = np.std([m.kl.value for m in found])
    assert np.mean([m.kl.error for m in found]) == pytest.approx(deviation, rel=0.15)


def test_error_of_modes_covered_is_what_simulation_shows() -> None:
    generator = torch.Generator().manual_seed(0)
    for law in (torch.ones(100), torch.randn(100, generator=generator).exp()):
        found = [mode_coverage(torch.multinomial(law, 300, True, generator=generator), 100) for _ in range(100)]
        truth = np.std([m.covered.value for m in found])
        assert 0.8 * truth < np.mean([m.covered.error for m in found]) < 1.3 * truth


def test_stacked_labels() -> None:
    r, g, b = torch.tensor([1, 9]), torch.tensor([2, 9]), torch.tensor([3, 9])
    assert stacked_labels(r, g, b).tolist() == [123, 999]
    with pytest.raises(ValueError, match="0 to 9"):
        stacked_labels(r, g, b + 5)
    with pytest.raises(ValueError, match="one per image"):
        stacked_labels(r, g, b[:1])


def test_labels_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="no labels"):
        mode_coverage(torch.zeros(0, dtype=torch.int64), 3)
    with pytest.raises(ValueError, match="0 to 2"):
        mode_coverage(torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match="integers"):
        mode_coverage(torch.tensor([0.5]), 3)


# The classifier


def bars(n: int, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy pictures of one horizontal (class 0) or vertical (class 1) bar, or of none (class 2)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 90, (n, 1, size, size), generator=generator)
    labels = torch.randint(3, (n,), generator=generator)
    at = torch.randint(2, size - 2, (n,), generator=generator)
    for image, label, place in zip(images, labels, at, strict=True):
        if label == 0:
            image[0, place] += 120
        elif label == 1:
            image[0, :, place] += 120
    return images.to(torch.uint8), labels


def test_a_classifier_learns_and_is_deterministic(tmp_path: Path) -> None:
    images, labels = bars(300)
    test, test_labels = bars(200, seed=1)
    classifier = train_classifier(images, labels, 3, steps=40)
    found = conditional_accuracy(test, test_labels, classifier)
    assert found.value > 0.95 and 0 < (found.error or 0) < 0.03
    assert conditional_accuracy(test, (test_labels + 1) % 3, classifier).value < 0.05
    logits = classifier(test)
    assert logits.shape == (200, 3) and logits.dtype == torch.float32
    assert torch.equal(train_classifier(images, labels, 3, steps=40)(test), logits)
    assert not torch.equal(train_classifier(images, labels, 3, steps=40, seed=1)(test), logits)
    classifier.save(tmp_path / "classifier.safetensors")
    assert torch.equal(Classifier.load(tmp_path / "classifier.safetensors")(test), logits)


def test_training_a_classifier_leaves_global_randomness_alone() -> None:
    before = torch.random.get_rng_state()
    train_classifier(*bars(20), 3, steps=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 61, 40), (1, 3, 5)])
def test_classifiers_take_images_of_any_size(shape: tuple[int, int, int]) -> None:
    images = torch.randint(0, 256, (9, *shape), dtype=torch.uint8)
    classifier = train_classifier(images, torch.arange(9) % 2, 2, steps=1)
    assert classifier(images).shape == (9, 2) and classifier.labels(images[:0]).shape == (0,)


def test_classification_accuracy_score_falls_for_wrong_labels_and_missing_classes() -> None:
    (samples, labels), (test, test_labels) = bars(300, seed=2), bars(150, seed=3)
    good = classification_accuracy_score(samples, labels, test, test_labels, 3, steps=40)
    wrong = classification_accuracy_score(samples, (labels + 1) % 3, test, test_labels, 3, steps=40)
    kept = labels != 2
    missing = classification_accuracy_score(samples[kept], labels[kept], test, test_labels, 3, steps=40)
    assert good.value > 0.9 > 0.8 > missing.value > wrong.value


def test_misused_classifiers(tmp_path: Path) -> None:
    images, labels = bars(20)
    classifier = train_classifier(images, labels, 3, steps=1)
    with pytest.raises(ValueError, match=r"shape \[1, 8, 8\]"):
        classifier(images[:, :, :7])
    with pytest.raises(ValueError, match="uint8"):
        classifier(images.float())
    with pytest.raises(ValueError, match="one per image"):
        conditional_accuracy(images, labels[:5], classifier)
    with pytest.raises(ValueError, match="0 to 1"):
        train_classifier(images, labels, 2)
    with pytest.raises(ValueError, match="cannot be learnt"):
        train_classifier(images[:0], labels[:0], 3)
    (tmp_path / "text").write_text("x")
    with pytest.raises(ValueError, match="no saved classifier"):
        Classifier.load(tmp_path / "text")


@pytest.mark.slow
def test_the_classifier_reads_mnist() -> None:
    digits = load("mnist")
    labels, test_labels = digits.label_batch(digits.train), digits.label_batch(digits.test)
    assert labels is not None and test_labels is not None
    classifier = train_classifier(digits.batch(digits.train), labels, 10)
    assert conditional_accuracy(digits.batch(digits.test), test_labels, classifier).value >= 0.99


# The ladder of distortions


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Reference images, other images, and their labels."""
    dataset = load("mnist")
    labels = dataset.label_batch(dataset.test[:1000])
    assert labels is not None
    return dataset.batch(dataset.train[:2000]), dataset.batch(dataset.test[:1000]), labels


def test_frechet_distance_rises_with_every_distortion(digits: tuple[Tensor, Tensor, Tensor]) -> None:
    reference, images, labels = digits
    network = feature_network("small")
    law, floor = network(reference), frechet_distance(network(images), network(reference))
    ladder = distortions(labels, 10)
    assert {step.name for step in ladder} == {"noise", "blur", "jpeg", "averages", "blocks", "dropped classes"}
    for name, steps in groupby(ladder, lambda step: step.name):
        values = [floor] + [frechet_distance(network(step.apply(images)), law) for step in steps]
        assert len(values) >= 4 and all(a < b for a, b in pairwise(values)), (name, values)


def test_distortions_keep_the_form_of_images() -> None:
    images = torch.randint(0, 256, (6, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    for step in distortions(torch.arange(6) % 3, 3):
        out = step.apply(images)
        assert out.shape == images.shape and out.dtype == torch.uint8, step.text
        assert torch.equal(out, step.apply(images)) and not torch.equal(out, images), step.text
    assert torch.equal(images, before)
    for step in distortions():
        if step.together:
            continue
        # one at a time as all at once
        assert torch.equal(torch.cat([step.apply(image[None]) for image in images]), step.apply(images)), step.text
    assert {step.name for step in distortions()} == {"noise", "blur", "jpeg", "averages", "blocks"}


def test_dropped_classes_are_gone_and_the_rest_stays() -> None:
    labels = torch.arange(40) % 4
    images = labels.to(torch.uint8).view(40, 1, 1, 1).expand(40, 1, 2, 2) + 10
    (step,) = [s for s in distortions(labels, 4) if s.name == "dropped classes" and s.strength == 0.5]
    out = step.apply(images)[:, 0, 0, 0] - 10
    assert out.max() == 1 and torch.equal(out[labels < 2], labels[labels < 2].to(torch.uint8))
    with pytest.raises(ValueError, match="none of 2 images is left"):
        [s for s in distortions(labels[2:4], 4) if s.name == "dropped classes"][-1].apply(images[2:4])
