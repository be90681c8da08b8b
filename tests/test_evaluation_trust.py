"""Misuse is flagged, copies are found, sources of every kind are read, and labels are used where they are."""

from __future__ import annotations

import functools
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs
from PIL import Image

import trilemma.evaluation.labelled
from trilemma.data import Dataset, load
from trilemma.evaluation import Protocol, Reference, evaluate
from trilemma.evaluation.glossary import GLOSSARY, choose
from trilemma.evaluation.memorisation import pixels
from trilemma.evaluation.reading import read
from trilemma.number import Number
from trilemma.run import Run
from trilemma.training import train

FAST = Protocol(n=100, reference=0, ladder="no", metrics="precision,recall,memorised,train_closer,nearest_training")


def textures(count: int, seed: int = 0) -> np.ndarray:
    """Random images of which no two are alike: smooth noise on 8x8 pixels, [N, 8, 8, 1]."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 1)).repeat(2, 1).repeat(2, 2)
    return (0.7 * coarse + 0.3 * random.integers(0, 256, (count, 8, 8, 1))).astype(np.uint8)


def save(path: Path, images: np.ndarray, **more: np.ndarray) -> Path:
    np.savez(path, images=images, **more)
    return path


@pytest.fixture
def real(tmp_path: Path) -> Dataset:
    return load(save(tmp_path / "real.npz", textures(1500)), progress=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    images, labels = blobs(200)
    data = load(save(tmp_path / "blobs.npz", images, labels=labels), progress=False)
    settings = {"batch": 8, "pictures": 0}
    return train("vae", data, out=tmp_path / "run", budget="2steps", conditional=True, settings=settings, say=print)


def channels_last(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    return np.array(dataset.images[indices]).transpose(0, 2, 3, 1)


# ----------------------------------------------------------------------------------------------------------- copies


def test_planted_copies_are_found_and_fresh_images_are_not_accused(real: Dataset, tmp_path: Path) -> None:
    reference = Reference.prepare(real, replace(FAST, n=140))
    fresh = textures(140, seed=1)
    planted = fresh.copy()
    planted[:14] = channels_last(real, real.train[:14])
    planted[:14] = np.clip(planted[:14].astype(int) + np.random.default_rng(0).integers(-2, 3, (14, 8, 8, 1)), 0, 255)
    clean = evaluate(save(tmp_path / "fresh.npz", fresh), reference)
    found = evaluate(save(tmp_path / "planted.npz", planted), reference, out=tmp_path / "out")
    assert clean["metrics"]["memorised"]["flag"] is None
    assert clean["memorisation"]["p_value"] > 0.01
    assert found["metrics"]["memorised"]["flag"]
    assert found["memorisation"]["p_value"] < 0.01
    assert 0.03 < found["metrics"]["memorised"]["value"] < 0.2
    pairs = found["memorisation"]["pairs"]["pixels"]
    assert [pair["distance"] for pair in pairs] == sorted(pair["distance"] for pair in pairs)
    assert {pair["training"] for pair in pairs} <= set(real.train[:14].tolist())
    picture = Image.open(tmp_path / "out" / found["pictures"]["closest_pixels"])
    assert picture.width > 10 * 8


def test_pixels_are_averaged_down_and_copies_stay_copies() -> None:
    large = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert pixels(large).shape == (2, 3 * 32 * 21)
    assert torch.equal(pixels(large), pixels(large.clone()))
    assert torch.equal(pixels(large[:, :, :8, :8]), large[:, :, :8, :8].flatten(1))


# ----------------------------------------------------------------------------------------------------------- misuse


def flags_of(images: np.ndarray, real: Dataset, path: Path) -> str:
    return " | ".join(evaluate(save(path, images), real, protocol=FAST)["flags"])


def test_training_images_themselves_are_recognised(real: Dataset, tmp_path: Path) -> None:
    assert "these are the training images themselves" in flags_of(
        channels_last(real, real.train[:100]), real, tmp_path / "train.npz"
    )
    mixed = textures(100, seed=4)
    mixed[:5] = channels_last(real, real.train[:5])
    assert "5 of 100 images are identical to training images" in flags_of(mixed, real, tmp_path / "mixed.npz")


def test_held_out_images_and_exchanged_sides_are_recognised(real: Dataset, tmp_path: Path) -> None:
    record = evaluate(save(tmp_path / "test.npz", channels_last(real, real.test[:100])), real, protocol=FAST)
    assert any("identical to held-out images" in flag for flag in record["flags"])
    assert "exchanged" in record["metrics"]["train_closer"]["flag"]


def test_repeated_images_are_flagged_and_clean_ones_have_no_flag(real: Dataset, tmp_path: Path) -> None:
    repeated = np.concatenate([textures(50, seed=5)] * 2)
    assert "50 of 100 images are repeats" in flags_of(repeated, real, tmp_path / "repeated.npz")
    assert flags_of(textures(100, seed=6), real, tmp_path / "clean.npz") == ""


def test_images_of_another_size_are_resized_and_flagged(real: Dataset, tmp_path: Path) -> None:
    large = textures(100, seed=7).repeat(2, 1).repeat(2, 2)
    assert "100 of 100 images were brought to 8 x 8" in flags_of(large, real, tmp_path / "large.npz")


def test_floats_beyond_0_and_1_and_wrong_tensors_are_refused(real: Dataset, tmp_path: Path) -> None:
    floats = textures(100).astype(np.float32) / 127.5 - 1
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        evaluate(save(tmp_path / "floats.npz", floats), real, protocol=FAST)
    with pytest.raises(ValueError, match="uint8"):
        evaluate(torch.from_numpy(floats).permute(0, 3, 1, 2), real, protocol=FAST)
    with pytest.raises(ValueError, match="shape"):
        evaluate(torch.zeros(100, 1, 9, 8, dtype=torch.uint8), real, protocol=FAST)
    with pytest.raises(ValueError, match="too few"):
        evaluate(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), real, protocol=FAST)


def test_a_run_that_saw_the_held_out_images_is_flagged(run: Run, tmp_path: Path) -> None:
    images = channels_last(load(run.config.data, progress=False), np.arange(200))
    other = Image.new("L", (8, 8), 9)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[:, :, 0]).save(tmp_path / "folder" / f"{i:03d}.png")
    other.save(tmp_path / "folder" / "other.png")
    # the same images, of which others are held out
    np.savez(tmp_path / "split.npz", x_train=images[100:], x_test=images[:100])
    record = evaluate(run, tmp_path / "split.npz", protocol=replace(FAST, n=32, metrics="precision"))
    assert any("trained on" in flag and "nothing here is held out" in flag for flag in record["flags"])
    assert not evaluate(run, protocol=replace(FAST, n=32, metrics="precision"))["flags"]


# ---------------------------------------------------------------------------------------------------------- sources


def test_folders_zips_arrays_data_sets_tensors_and_runs_are_measured(run: Run, tmp_path: Path) -> None:
    real = load(run.config.data, progress=False)
    reference = Reference.prepare(real, replace(FAST, n=40, metrics="precision"))
    images, _ = blobs(40, seed=3)
    (tmp_path / "folder" / "a").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i, image in enumerate(images):
            path = tmp_path / "folder" / "a" / f"{i:02d}.png"
            Image.fromarray(image[:, :, 0]).save(path)
            archive.write(path, f"{i:02d}.png")
    np.save(tmp_path / "images.npy", images)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    sources = [tmp_path / "folder", tmp_path / "images.zip", tmp_path / "images.npy", tensor]
    sources += [save(tmp_path / "images.npz", images), load(tmp_path / "images.npy", split=False, progress=False)]
    values = [evaluate(source, reference)["metrics"]["precision"]["value"] for source in sources]
    assert values == [values[0]] * len(values)
    assert values[0] > 0.8
    against_run = evaluate(tmp_path / "folder", run, protocol=replace(FAST, n=40, reference=60, metrics="precision"))
    assert against_run["data"]["name"] == "samples of run"
    assert (against_run["data"]["train"], against_run["data"]["test"]) == (60, 40)
    assert evaluate(run, run, protocol=replace(FAST, n=40, reference=60, metrics="precision"))["floor"]


def test_only_what_is_asked_for_is_measured(run: Run) -> None:
    record = evaluate(run, protocol=replace(FAST, n=32, metrics="bits_per_dim", likelihood_n=8))
    assert set(record["metrics"]) == {"bits_per_dim"}
    assert len(record["per_image"]["bits_per_dim"]) == 8
    assert np.mean(record["per_image"]["bits_per_dim"]) == pytest.approx(
        record["metrics"]["bits_per_dim"]["value"], rel=1e-4
    )
    assert record["floor"] == {}
    with pytest.raises(ValueError, match="asks a model"):
        evaluate(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), run.config.data, protocol=Protocol(metrics="model"))


def test_unknown_metrics_and_wrong_pairings_are_refused_before_any_work() -> None:
    assert "cas" in choose("all")
    assert "cas" not in choose("default")
    assert choose("fid,fid-infinity") == {"frechet", "frechet_infinity"}
    for wrong, words in (
        ({"metrics": "fidd"}, "no metric 'fidd'"),
        ({"metrics": "fid"}, "--features inception"),
        ({"metrics": "precision,kid"}, "kid is measured in Inception features: .* or ask for kernel"),
        ({"metrics": ","}, "empty"),
        ({"preprocessing": "clean-fid"}, "belongs to --features inception"),
        ({"n": 3}, "--n must be at least 16"),
        ({"ladder": "maybe"}, "--ladder"),
    ):
        with pytest.raises(ValueError, match=words):
            Protocol(**wrong)  # type: ignore[arg-type]
    assert Protocol(features="inception", preprocessing="pytorch-fid", metrics="fid").network == "inception/pytorch-fid"


# ----------------------------------------------------------------------------------------------------------- labels


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    images, labels = blobs(900)
    path = save(tmp_path_factory.mktemp("labelled") / "real.npz", images, labels=labels)
    metrics = "accuracy,modes,mode_kl,per_class,cas"
    return Reference.prepare(load(path, progress=False), Protocol(n=80, reference=0, ladder="no", metrics=metrics))


@pytest.fixture
def _quick_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train_classifier", "classification_accuracy_score"):
        original = getattr(trilemma.evaluation.labelled, name)
        monkeypatch.setattr(f"trilemma.evaluation.labelled.{name}", functools.partial(original, steps=60))


@pytest.mark.usefixtures("_quick_classifiers")
def test_modes_accuracy_and_classes_of_labelled_images(labelled: Reference, tmp_path: Path) -> None:
    images, labels = blobs(80, seed=2)
    good = evaluate(save(tmp_path / "good.npz", images, labels=labels), labelled)
    assert good["metrics"]["accuracy"]["value"] > 0.95
    assert good["metrics"]["cas"]["value"] > 0.9
    assert good["metrics"]["modes"]["value"] == 3
    assert good["metrics"]["mode_kl"]["value"] < 0.1
    assert good["floor"]["accuracy"]["value"] > 0.95
    assert set(good["per_class"]["classes"]) == {"0", "1", "2"}
    assert good["per_class"]["classes"]["0"]["precision"]["value"] > 0.7
    one = np.resize(images[labels == 1], (80, 8, 8, 1))
    collapsed = evaluate(save(tmp_path / "one.npz", one, labels=np.arange(80) % 3), labelled)
    assert collapsed["metrics"]["modes"]["value"] == 1
    assert collapsed["metrics"]["mode_kl"]["value"] == pytest.approx(np.log(3), abs=0.15)
    assert collapsed["metrics"]["accuracy"]["value"] == pytest.approx(1 / 3, abs=0.05)
    unlabelled = evaluate(save(tmp_path / "unlabelled.npz", images), labelled)
    assert unlabelled["metrics"]["accuracy"]["value"] is None
    assert "nobody asked" in unlabelled["metrics"]["accuracy"]["note"]
    assert unlabelled["per_class"]["labels"] == "seen by the classifier"


# ------------------------------------------------------------------------------------------------------ the scale


def test_the_ladder_is_climbed_once_and_read(real: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path / "cache"))
    protocol = Protocol(n=140, reference=0, metrics="frechet,kernel,precision")
    noise = np.random.default_rng(0).integers(0, 256, (140, 8, 8, 1)).astype(np.uint8)
    record = evaluate(save(tmp_path / "noise.npz", noise), real, protocol=protocol)
    assert {rung["name"] for rung in record["ladder"]} == {"noise", "blur", "jpeg", "averages", "blocks"}
    for name in ("noise", "blur", "jpeg"):
        steps = [rung["metrics"]["frechet"]["value"] for rung in record["ladder"] if rung["name"] == name]
        assert steps[-1] > steps[0]
    assert "real images with" in record["metrics"]["frechet"]["reading"]
    assert len(list((tmp_path / "cache" / "ladders").glob("*.json"))) == 1
    told: list[str] = []
    evaluate(tmp_path / "noise.npz", real, protocol=protocol, progress=lambda what, done, total: told.append(what))
    assert not any("distorted" in what for what in told)


def test_a_distance_is_read_between_its_rungs() -> None:
    rungs = [{"text": f"blur, {i}", "metrics": {"frechet": {"value": float(i)}}} for i in (2, 8, 20)]
    metric = Number(10.0, 0.1, better="lower", n=300)
    floor = Number(1.0, 0.1, better="lower", n=300)
    assert read("frechet", metric, floor, rungs).reading == "between real images with blur 8 (8) and with blur 20 (20)"
    assert "farther than real images with blur 20" in read("frechet", replace(metric, value=50.0), floor, rungs).reading
    assert "nearer than real images with blur 2" in read("frechet", replace(metric, value=1.9), floor, rungs).reading
    near = "as near as held-out real images, nearer than real images with blur 2"
    assert read("frechet", replace(metric, value=1.1), floor, rungs).reading == near
    assert read("frechet", metric, None, None) == metric


def test_every_metric_has_its_place_in_the_glossary_and_in_the_documentation() -> None:
    page = Path(__file__).parent.parent / "docs" / "metrics.md"
    text = page.read_text()
    for entry in GLOSSARY:
        assert f"`{entry.key}`" in text, entry.key
        assert entry.meaning.endswith(".")
        assert entry.misleads.endswith(".")
    assert "`fid`" in text
    assert "`fid_infinity`" in text
