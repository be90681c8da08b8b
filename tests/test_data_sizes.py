"""Families on more and more images: nested sets, one protocol, copies among their own, and laws with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_blobs
from PIL import Image
from tiny import call

from trilemma.comparison import sizes as room
from trilemma.comparison.sizes import Found, compare_sizes, draw_sizes, first
from trilemma.data import load
from trilemma.run import Run
from trilemma.sampling import Samples

TINY = dict(batch=16, precision="fp32", pictures=0)
BRIEF = dict(n=64, likelihood_n=16)


def asked(data: Path, out: Path, **more: Any) -> Found:
    return compare_sizes(
        data, (40, 80, 160, 320), out=out, families=["autoencoder"], budget="2steps", settings=TINY, protocol=BRIEF,
        device="cpu", say=lambda line: None, **more,
    )  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_blobs(tmp_path / "blobs.npz", 500)


def test_the_sets_are_nested_and_the_held_out_images_the_same(data: Path) -> None:
    whole = load(data, progress=False)
    some, fewer = first(whole, 100), first(whole, 30)
    assert len(some.train) == 100
    assert set(fewer.train) < set(some.train) < set(whole.train)
    assert some.test.tolist() == whole.test.tolist()
    assert first(whole, len(whole.train)) is whole
    memory = load(np.asarray(whole.images), progress=False)
    assert first(memory, 30).train.tolist() == memory.train[:30].tolist()
    assert first(memory, 30).fingerprint not in ("", memory.fingerprint)


def test_known_answers_who_copies_few_images_and_who_never_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of trained models: one that draws its own training images where they are few, else fresh ones."""
    whole = load("mnist", progress=False)
    fresh = torch.as_tensor(np.asarray(whole.images[whole.train[-3000:]]))

    def drawn(run: Run, n: int, **more: Any) -> Samples:
        own = load(run.config.data, progress=False)
        rows = torch.from_numpy(np.random.default_rng(0).integers(0, len(own.train), n))
        copied = own.batch(own.train)[rows]
        keep = torch.arange(n) < n * min(1.0, 90 / len(own.train))
        images = torch.where(keep[:, None, None, None], copied, fresh[:n])
        return Samples(images, None, run.config.spec, 1.0, 1.0)

    monkeypatch.setattr(room, "sample", drawn)
    found = compare_sizes(
        "mnist", (60, 180, 720, 2000), out=tmp_path / "out", families=["autoencoder"], budget="1steps", settings=TINY,
        protocol=dict(n=400, reference=1000, likelihood_n=16), device="cpu", say=lambda line: None,
    )  # fmt: skip
    scores = found.record["families"]["autoencoder"]
    shares = [scores[n]["memorised"]["value"] for n in ("60", "180", "720", "2000")]
    assert shares[0] > 0.85
    assert shares[1] == pytest.approx(0.5, abs=0.12)
    assert shares[2] < 0.3
    law = found.record["laws"]["autoencoder"]["memorised"]
    low, high = law["intervals"]["h"]
    assert low < law["parameters"]["h"] < high
    assert 100 < law["parameters"]["h"] < 350
    assert any("copies are found" in line for line in found.lines())


def test_a_comparison_of_sizes_and_that_it_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    found = asked(data, out, seeds=2)
    files = {f"data-sizes.{end}" for end in ("json", "png", "svg", "csv")}
    assert {path.name for path in out.iterdir()} >= files | {"autoencoder-40", "autoencoder-320-seed-1"}
    assert Run.open(out / "autoencoder-80").config.data.limit == 80
    scores = found.record["families"]["autoencoder"]
    assert list(scores) == ["40", "80", "160", "320"]
    assert len(scores["40"]["kernel"]["seeds"]["values"]) == 2
    assert not any("one seed" in line for line in found.lines())
    json.dumps(found.record, allow_nan=False)
    with Image.open(out / "data-sizes.png") as picture:
        assert picture.width > 900

    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("it was measured already")

    monkeypatch.setattr(room, "sample", never)
    assert asked(data, out, seeds=2).record == found.record


def test_the_picture_is_drawn_without_laws(data: Path, tmp_path: Path) -> None:
    record = asked(data, tmp_path / "out").record
    assert draw_sizes(record | {"laws": {"autoencoder": {}}}).width > 900
    assert any("one seed" in line for line in record["reading"])


def scored(values: list[float]) -> dict[int, Any]:
    return {
        n: {"kernel": {"value": value, "error": 0.01, "better": "lower", "n": 400}}
        for n, value in zip((100, 300, 1000, 3000, 10_000), values, strict=True)
    }


def test_what_falls_by_a_law_is_foretold_and_what_does_not_is_said() -> None:
    law, line = room._falling(scored([1 + 30 * n**-0.5 for n in (100, 300, 1000, 3000, 10_000)]), "kernel")
    assert law is not None
    assert law.at([100_000])[0] == pytest.approx(1.1, abs=0.03)
    assert "10 times as many images as 10,000 would bring it from 1.3" in line
    rising, said = room._falling(scored([1, 2, 3, 4, 5]), "kernel")
    assert rising is None
    assert "does not fall" in said
    wild, said = room._falling(scored([9, 1, 8, 1, 5]), "kernel")
    assert wild is None
    assert "no power law" in said
    assert room._falling(scored([1, 1, 1, 1, 1]), "bits_per_dim") == (None, "")


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ((100, 300), "at least 3 numbers from 16 on"),
        ((4, 100, 300), "at least 3 numbers from 16 on"),
        ((100, 300, 10**6), "has 438 training images, fewer than 1,000,000"),
    ],
)
def test_sizes_that_cannot_be(sizes: tuple[int, ...], told: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told) as error:
        compare_sizes(data, sizes, out=tmp_path / "out", families=["vae"])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["--families", "vae", "--budget", "1steps", "-n", 32, "--likelihood-n", 16, "--out", tmp_path / "out"]
    code, out, _ = call(capsys, "compare", data, "--data-sizes", "40,80,160", *typed)
    assert code == 0
    assert "vae" in out
    assert "data-sizes.png" in out
    code, _, err = call(capsys, "compare", data, "--data-sizes", "many", *typed)
    assert code != 0
    assert "write numbers such as 100,300,1000" in err
    code, _, err = call(capsys, "compare", data, "--data-sizes", "40,80,160", "--runs", tmp_path / "out" / "vae-40")
    assert code != 0
    assert "parts of one data set" in err
