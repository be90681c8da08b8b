"""The Fréchet distance of two sets, whole against whole: the textbook's value, honest about its bias."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import blobs
from PIL import Image
from tiny import call

from trilemma.evaluation import evaluate, official
from trilemma.evaluation.official import biased, fid, read_statistics, save_statistics, statistics
from trilemma.metrics import frechet_distance
from trilemma.metrics.moments import Gaussian
from trilemma.metrics.small import SmallFeatures

DIMS = 128


def folder(path: Path, count: int, seed: int, sides: tuple[int, ...] = (8,)) -> Path:
    """Colour images of several sizes; every third is half transparent, in a subfolder."""
    images, _ = blobs(count, 3, max(sides), max(sides), seed)
    for i, image in enumerate(images):
        side = sides[i % len(sides)]
        file = path / ("deep" if i % 3 == 0 else ".") / f"{i:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        alpha = np.full((side, side, 1), 60 if i % 3 == 0 else 255, np.uint8)
        Image.fromarray(np.concatenate([image[:side, :side], alpha], 2)).save(file)
    return path


def textbook(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance as pytorch-fid computes them, file by file."""
    network, rows = SmallFeatures(), []
    for file in sorted(path.rglob("*.png")):
        pixels = np.array(Image.open(file).convert("RGB"))
        rows.append(network(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy())
    return np.mean(rows, 0), np.cov(np.array(rows, np.float64), rowvar=False)


def distance(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    (m, s), (n, t) = one, other
    return float(((m - n) ** 2).sum() + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real))


def test_every_file_of_both_counts_in_its_own_size(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", 150, 0, (8, 12)), folder(tmp_path / "b", 170, 1, (10,))
    (a / "notes.txt").write_text("no image")
    found = fid(a, b, features="small", device="cpu")
    assert found.value == pytest.approx(distance(textbook(a), textbook(b)), rel=1e-5)
    assert found.n == 150 and "150 images of a against 170 images of b" in found.protocol and found.error is not None
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for file in b.rglob("*.png"):
            archive.write(file, file.relative_to(b))
    assert fid(a, tmp_path / "b.zip", features="small", device="cpu").value == pytest.approx(found.value, rel=1e-9)
    assert fid(b, a, features="small", device="cpu").value == pytest.approx(found.value, rel=1e-9)


def test_statistics_are_those_of_other_programs(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", 150, 0), folder(tmp_path / "b", 170, 1)
    value = fid(a, b, features="small", device="cpu").known
    mean, covariance = textbook(b)
    np.savez(tmp_path / "theirs.npz", mu=mean, sigma=covariance)  # as pytorch-fid and clean-fid write them
    theirs = fid(a, tmp_path / "theirs.npz", features="small", device="cpu")
    assert theirs.value == pytest.approx(value, rel=1e-5) and "statistics in theirs.npz" in theirs.protocol
    save_statistics(tmp_path / "ours.npz", statistics(b, features="small", device="cpu"))
    with np.load(tmp_path / "ours.npz") as file:  # as they read them
        assert np.allclose(file["mu"][:], mean, atol=1e-5) and np.allclose(file["sigma"][:], covariance, atol=1e-5)
    ours = read_statistics(tmp_path / "ours.npz")
    assert ours.law.n == 170 and ours.network == "small-v2"
    assert fid(tmp_path / "ours.npz", a, features="small", device="cpu").value == pytest.approx(value, rel=1e-9)


def test_the_bias_that_is_said_is_the_bias_that_there_is() -> None:
    """Two samples of one law, whose true distance is 0."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.arange(1, 61).double() ** -0.5
    law = Gaussian(torch.zeros(60).double(), torch.diag(spread**2), 0)
    for n in (90, 240):
        draws = [torch.randn(n, 60, generator=generator, dtype=torch.float64) * spread for _ in range(12)]
        seen = np.mean([frechet_distance(x, y) for x, y in zip(draws[::2], draws[1::2], strict=True)])
        said = biased(Gaussian(law.mean, law.covariance, n), Gaussian(law.mean, law.covariance, n))
        assert said is not None
        words = re.search(r"by ([\d.]+) or", said)
        assert words is not None and float(words[1]) == pytest.approx(seen, rel=0.1)
    assert biased(Gaussian(law.mean, law.covariance, 601), Gaussian(law.mean, law.covariance, 900)) is None
    assert "was not saved" in str(biased(law, law))


def test_what_has_no_distance_is_refused_in_a_line(tmp_path: Path) -> None:
    a, few = folder(tmp_path / "a", 140, 0), folder(tmp_path / "few", 100, 1)
    eye = np.eye(DIMS)
    files = {
        "narrow": {"mu": np.zeros(64), "sigma": np.eye(64)},
        "skew": {"mu": np.zeros(DIMS), "sigma": np.triu(np.ones((DIMS, DIMS)))},
        "torn": {"mu": np.zeros(DIMS), "sigma": eye[:5]},
        "nan": {"mu": np.full(DIMS, np.nan), "sigma": eye},
        "other": {"mu": np.zeros(DIMS), "sigma": eye, "features": np.array("clip")},
        "pickled": {"mu": np.array([{}], object), "sigma": eye},
    }
    for name, arrays in files.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    folder(tmp_path / "b", 140, 2)
    (tmp_path / "b" / "x.png").write_bytes(b"\x89PNG no image")
    for source, words in (
        (few, "100 images"),
        (tmp_path / "narrow.npz", "64 features"),
        (tmp_path / "skew.npz", "not symmetric"),
        (tmp_path / "torn.npz", "do not fit"),
        (tmp_path / "nan.npz", "not finite"),
        (tmp_path / "other.npz", "statistics of clip"),
        (tmp_path / "pickled.npz", "cannot be read"),
        (tmp_path / "b", "x.png"),
        (tmp_path / "nowhere", "no file, folder or data set"),
        ("ring", "vectors"),
    ):
        with pytest.raises(ValueError, match=words) as refused:
            fid(a, source, features="small", device="cpu")
        assert "\n" not in str(refused.value)


def test_images_in_memory_and_large_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (torch.from_numpy(blobs(300, seed=seed)[0]).permute(0, 3, 1, 2) for seed in (0, 1))
    found = fid(x, y, features="small", device="cpu")
    network = SmallFeatures()
    assert found.value == pytest.approx(frechet_distance(network(x), network(y)), rel=1e-9)
    monkeypatch.setattr(official, "KEPT", 100)  # too many to keep: the same value, and no error
    streamed = fid(x, y, features="small", device="cpu")
    assert streamed.value == pytest.approx(found.value, rel=1e-9) and streamed.error is None and found.error


def test_the_command_prints_a_number_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = folder(tmp_path / "a", 140, 0), folder(tmp_path / "b", 140, 1)
    code, out, err = call(capsys, "fid", a, b, "--features", "small", "--device", "cpu")
    assert code == 0 and out.count("\n") == 1 and "140 images of a against 140 images of b" in err
    assert float(out) == pytest.approx(fid(a, b, features="small", device="cpu").known, abs=1e-5)
    code, out, err = call(capsys, "fid", b, "--save", tmp_path / "new" / "b.npz", "--features", "small")
    assert code == 0 and not out and (tmp_path / "new" / "b.npz").is_file()
    code, out, err = call(capsys, "fid", a)
    assert code == 1 and "--save" in err and err.count("\n") == 1


def test_inception_is_asked_for_by_its_preprocessing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "fid", tmp_path, tmp_path, "--preprocessing", "mine")
    assert code != 0 and "clean-fid" in err


def test_two_sets_are_compared_whole_against_whole(tmp_path: Path) -> None:
    """Every image of both counts for a distance; its floor is one half of the real ones against the other."""
    for name, count, seed in (("a", 330, 0), ("b", 290, 1)):
        images, labels = blobs(count, seed=seed)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    metrics = "frechet,kernel,mutual_fidelity,precision,memorised,per_class"
    record = evaluate(a, str(b), protocol={"metrics": metrics, "ladder": "no"}, device="cpu", out=tmp_path / "out")
    frechet = record["metrics"]["frechet"]
    assert frechet["value"] == pytest.approx(fid(a, b, features="small", device="cpu").known, rel=1e-6)
    assert frechet["n"] == 330 and "330 images against 290 images, all of b" in frechet["protocol"]
    bias = re.search(r"by ([\d.]+) or", frechet["flag"])
    assert bias is not None and 0.3 < float(bias[1]) / frechet["value"] < 1.2  # one law: most of the value is bias
    floor = record["floor"]["frechet"]
    assert floor["n"] == 145 and floor["value"] > frechet["value"]  # of fewer images, hence larger
    assert record["metrics"]["mutual_fidelity"]["n"] == 145 == record["floor"]["mutual_fidelity"]["n"]
    assert 0.8 < record["metrics"]["mutual_fidelity"]["value"] < 1.2
    assert record["metrics"]["memorised"]["n"] == 330 == record["protocol"]["n"] and not record["flags"]
    assert sum(scores["n"] for scores in record["per_class"]["classes"].values()) == 330
    # asked for a number of images, it is the usual split
    record = evaluate(a, str(b), protocol={"metrics": "frechet", "n": 200}, device="cpu")
    assert record["metrics"]["frechet"]["n"] == 200 and record["protocol"]["n"] == 200
    copies = evaluate(b, str(b), protocol={"metrics": "memorised,frechet", "ladder": "no"}, device="cpu")
    assert copies["metrics"]["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert any("identical to training images" in flag for flag in copies["flags"])
