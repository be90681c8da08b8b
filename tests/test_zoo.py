"""The zoo: what ships opens, draws and answers by its name, and nothing of it is ever written to or trained on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import call
from torch import Tensor

import trilemma
from trilemma.data import Dataset
from trilemma.evaluation import FORMAT
from trilemma.families import FAMILIES
from trilemma.images import NotFinite
from trilemma.run import Run, damage, names_run, read_weights
from trilemma.sampling import sample
from trilemma.shipped import ZOO
from trilemma.training import train

NAMES = trilemma.zoo()
CONDITIONAL = [name for name in NAMES if Run.open(ZOO / name).config.data.source == "mnist"]

LEAST = {"autoencoder": 0.4, "pixelcnn": 0.6, "pixelrnn": 0.4}
"""Of the digits, those that are as asked for, where it is not 0.8: an autoencoder is no sampler, and the two others saw
few images."""


def in_package() -> dict[str, str]:
    """Every file of the zoo in the package, and its hash."""
    files = (path for path in ZOO.rglob("*") if path.is_file())
    return {str(path.relative_to(ZOO)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_written_in_the_package():  # type: ignore[no-untyped-def]
    before = in_package()
    yield
    assert in_package() == before


def test_every_family_is_in_it_and_it_is_small() -> None:
    assert {Run.open(ZOO / name).config.family for name in NAMES} == set(FAMILIES)
    assert {Run.open(ZOO / name).config.family for name in NAMES if name.endswith("-ring")} == {
        name for name, family in FAMILIES.items() if family.vectors
    }
    assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) <= 25e6


@pytest.mark.parametrize("name", NAMES)
def test_a_run_draws_the_same_finite_images_each_time(name: str) -> None:
    run = trilemma.zoo(name)
    count = 3
    first, again = (sample(run, count, seed=seed).images for seed in (0, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample(run, count, seed=1).images)
    assert tuple(first.shape) == (count, *run.config.spec.shape)
    assert bool(torch.isfinite(first.float()).all())
    assert first.float().std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_whole_has_its_scores_and_says_nothing_of_where_it_was_made(name: str) -> None:
    folder = ZOO / name
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert damage(checkpoint) is None
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "checksums.json", "state.json", "weights.safetensors"
    ]  # fmt: skip
    record = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert record["format"] == FORMAT
    assert record["subject"]["run"] == f"zoo/{name}"
    assert record["subject"]["progress"] == Run.open(folder).progress()
    assert all((folder / picture).is_file() for picture in record["pictures"].values())
    for path in folder.rglob("*.json*"):
        assert not [word for word in ("/tmp", "/home", "/work", "/root") if word in path.read_text("utf-8")]


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """5,000 training digits as points, and their classes."""
    data = trilemma.load("mnist", progress=False)
    labels = data.label_batch(data.train[:5000])
    assert labels is not None
    return data.batch(data.train[:5000]).float().flatten(1), labels


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_digit_is_the_one_that_was_asked_for(name: str, digits: tuple[Tensor, Tensor]) -> None:
    """By its nearest training image, which is right for 94 of 100 real digits; by chance 10 would be."""
    points, classes = digits
    drawn = sample(trilemma.zoo(name), 60, labels=list(range(10)))
    assert drawn.labels is not None
    found = classes[torch.cdist(drawn.images.float().flatten(1), points).argmin(1)]
    assert (found == drawn.labels).float().mean() > LEAST.get(name, 0.8)


def test_a_ring_lies_on_the_circle_in_all_of_its_modes() -> None:
    """Of the law of the data: eight means on the unit circle; a diffusion finds each of them."""
    points = sample(trilemma.zoo("diffusion-ring"), 512).images
    assert (points.norm(dim=1) - 1).abs().median() < 0.05
    assert len((torch.atan2(points[:, 1], points[:, 0]) / (torch.pi / 4)).round().remainder(8).unique()) == 8


def test_its_name_stands_for_a_run_folder_wherever_one_is_read(cache: Path) -> None:
    run = Run.open("zoo/vae")
    assert run.path.is_relative_to(cache / "zoo") and run.path.name == "vae"
    assert run.path == trilemma.zoo("vae").path == Run.open(Path("zoo") / "vae").path
    assert torch.equal(sample("zoo/vae", 2).images, sample(run, 2).images)
    assert trilemma.ask("zoo/vae-ring", n=4).numbers
    assert names_run("zoo/vae") and not names_run("zoo/nothing") and not names_run("other/vae")


def test_what_is_not_in_it_is_one_line_with_what_was_likely_meant() -> None:
    with pytest.raises(ValueError, match=r"no run zoo/difusion: did you mean zoo/diffusion\?"):
        Run.open("zoo/difusion")
    with pytest.raises(ValueError, match="there are autoencoder, "):
        trilemma.zoo("xyz")


def test_a_folder_of_the_users_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ZOO / "gan", tmp_path / "zoo" / "vae")
    assert Run.open("zoo/vae").config.family == "gan"
    assert Run.open("zoo/gan").config.family == "gan"  # the folder zoo/ hides no other run
    (tmp_path / "zoo" / "flow").mkdir()
    with pytest.raises(ValueError, match="zoo/flow is not a run folder"):
        Run.open("zoo/flow")
    assert trilemma.zoo("vae").config.family == "vae"


def test_answers_and_evaluations_go_to_the_cache(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "query", "likelihood", "zoo/vae-ring", "-n", "4")
    assert code == 0
    (answer,) = cache.glob("zoo/*/vae-ring/queries/likelihood.json")
    assert str(answer) in out
    brief = ["-n", "200", "--reference", "300", "--likelihood-n", "4", "--metrics", "frechet", "--ladder", "no"]
    code, out, _ = call(capsys, "evaluate", "zoo/vae-ring", *brief)
    assert code == 0
    assert "frechet" in out
    (record,) = cache.glob("zoo/*/vae-ring/metrics.json")
    assert json.loads(record.read_text("utf-8"))["protocol"]["n"] == 200


def test_as_the_images_that_others_are_measured_against(capsys: pytest.CaptureFixture[str]) -> None:
    brief = ["-n", "200", "--reference", "300", "--likelihood-n", "0", "--metrics", "frechet", "--ladder", "no"]
    code, out, _ = call(capsys, "evaluate", "zoo/flow-ring", "--against", "zoo/diffusion-ring", *brief, "--json")
    assert code == 0
    assert json.loads(out)["data"]["name"] == "samples of diffusion-ring"


def test_the_command_draws_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "sample", "zoo/vae", "-n", "4", "--out", tmp_path / "digits.png")
    assert code == 0
    assert (tmp_path / "digits.png").is_file()
    code, out, _ = call(capsys, "query", "zoo/vae", "--json")
    assert code == 0
    assert "bits_per_dim" in out


def test_it_cannot_be_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = trilemma.zoo("vae")
    with pytest.raises(ValueError, match="of an optimiser: it cannot be trained on; `trilemma train vae --out RUN`"):
        train("vae", out=run.path, resume=True, budget="1Mimages")
    with pytest.raises(ValueError, match="without the state of an optimiser"):
        run.load()
    code, _, err = call(capsys, "train", "vae", "--out", "zoo/vae", "--resume")
    assert code == 1
    assert "zoo/vae is of the zoo" in err and "cannot be trained on" in err
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="cannot be written .*: set TRILEMMA_CACHE to another folder"):
        trilemma.zoo("vae")


@pytest.fixture
def run(blobs_data: Dataset, tmp_path: Path) -> Run:
    settings = {"batch": 8, "pictures": 1}
    return train("autoencoder", blobs_data, out=tmp_path / "run", budget="4steps", settings=settings, say=print)


def test_packing_halves_the_weights_and_leaves_statistics_as_they_are(run: Run, tmp_path: Path) -> None:
    small = run.pack(tmp_path / "packed")
    whole, halved = run.model(), small.model()
    for name, value in whole.named_parameters():
        rounded = dict(halved.named_parameters())[name]
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, value.half().float())
    for name, value in whole.named_buffers():
        assert torch.equal(dict(halved.named_buffers())[name], value)
    (file,) = small.path.glob("checkpoints/*/weights.safetensors")
    assert {value.dtype for name, value in read_weights(file).items() if name in dict(whole.named_parameters())} == {
        torch.float16
    }
    assert small.progress() == run.progress()
    assert small.packed and not run.packed
    assert [path.name for path in (small.path / "samples").iterdir()] == ["step-00000004.png"]
    with pytest.raises(ValueError, match="already holds a run"):
        run.pack(small.path)


def test_a_weight_too_large_for_half_precision_is_not_packed(run: Run, tmp_path: Path) -> None:
    state = run.load()
    assert state.ema is not None
    trained = {name for name, _ in run.model().named_parameters()}
    name = next(name for name in state.ema if name in trained)
    state.ema[name][...] = 70_000.0
    state.step += 1
    run.save(state)
    with pytest.raises(NotFinite, match="too large for half precision"):
        run.pack(tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
