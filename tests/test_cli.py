"""The verbs as a user types them."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs, write_blobs
from PIL import Image
from rich.console import Console
from tiny import call

from trilemma.bars import Bars
from trilemma.cli.evaluate import shown
from trilemma.cli.flags import parse_size
from trilemma.data import load
from trilemma.families import FAMILIES
from trilemma.run import Run
from trilemma.sampling import parse_labels
from trilemma.training import train

TINY = ["--train.batch", "8", "--train.pictures", "0", "--budget", "2steps"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A barely trained run of a few families, conditional on three classes."""
    folder = tmp_path_factory.mktemp("runs")
    data = load(write_blobs(folder / "blobs.npz"), progress=False)
    settings = {"batch": 8, "pictures": 0}
    return {
        name: train(name, data, out=folder / name, budget="2steps", conditional=True, settings=settings, say=print)
        for name in ("vae", "gan", "pixelcnn", "diffusion")
    }


VERBS = ["train", "sample", "query", "evaluate", "compare", "data", "fid", "report", "check-family"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, verb, "--help")
    assert code == 0
    assert f"trilemma {verb}" in out
    assert "Example" in out


def test_flags_come_from_the_config_of_the_family(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "train", "gan", "--help")
    assert "--model.discriminator-steps" in out
    assert "--train.label-dropout" in out
    assert "--binarize" in out


def test_train_with_flags_over_a_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_blobs(tmp_path / "blobs.npz")
    (tmp_path / "s.toml").write_text(
        'seed = 3\nbudget = "1steps"\n[data]\nbinarize = "threshold"\n'
        "[model]\nlatent = 5\n[train]\nlr = 0.5\nbatch = 4\n"
    )
    arguments = ["train", "vae", data, "--out", tmp_path / "run", "--config", tmp_path / "s.toml", "--train.lr", "0.01"]
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    assert json.loads(out)["step"] == 1
    config = Run.open(tmp_path / "run").config
    assert (config.seed, config.model.latent, config.train.lr, config.train.batch) == (3, 5, 0.01, 4)
    assert config.data.binarize == "threshold"
    assert config.spec.levels == 2
    (tmp_path / "s.toml").write_text("[modle]\n")
    assert call(capsys, *arguments)[0] == 1


def test_sample_writes_pictures_arrays_and_folders(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs["vae"].path
    assert call(capsys, "sample", path, "-n", "9", "--out", tmp_path / "grid.png")[0] == 0
    assert Image.open(tmp_path / "grid.png").size == (32, 32)
    code, out, _ = call(capsys, "sample", path, "-n", 5, "--labels", 2, "--out", tmp_path / "s.npz", "--json")
    assert code == 0
    assert json.loads(out)["n"] == 5
    arrays = np.load(tmp_path / "s.npz", allow_pickle=False)
    assert arrays["images"].shape == (5, 1, 8, 8)
    assert arrays["images"].dtype == np.uint8
    assert arrays["labels"].tolist() == [2] * 5
    assert call(capsys, "sample", path, "-n", 40, "--labels", "all", "--out", tmp_path / "folder")[0] == 0
    again = load(tmp_path / "folder", progress=False)
    assert again.images.shape == (40, 1, 8, 8)
    assert again.labels is not None
    assert call(capsys, "sample", path, "-n", 1, "--out", tmp_path / "one.png", "--seed", 4)[0] == 0
    # Fewer than before: none of those is left to be scored beside them. Any name is a folder's or an archive's.
    for name in ("folder", "with.a.dot"):
        assert call(capsys, "sample", path, "-n", 3, "--out", tmp_path / name)[0] == 0
        assert load(tmp_path / name, split=False, progress=False).images.shape == (3, 1, 8, 8)
    assert call(capsys, "sample", path, "-n", 3, "--out", tmp_path / "s.NPZ")[0] == 0
    assert len(np.load(tmp_path / "s.NPZ")["images"]) == 3
    (tmp_path / "folder" / "mine.png").write_bytes((tmp_path / "one.png").read_bytes())
    for name, words in (
        ("folder", "no folder of samples (there is mine.png in it)"),
        ("x.jpg", "must end in .png"),
        ("with.a.dot/000000.png/x", "could not be written"),
    ):
        code, out, err = call(capsys, "sample", path, "-n", 3, "--out", tmp_path / name)
        assert code == 1 and words in err.splitlines()[-1] and "Traceback" not in err
    assert (tmp_path / "folder" / "mine.png").exists()


def test_sampling_options_belong_to_the_family(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "x.png", "-n", 2]
    assert call(capsys, "sample", runs["diffusion"].path, *out, "--steps", 3, "--eta", 0.5)[0] == 0
    code, _, err = call(capsys, "sample", runs["gan"].path, *out, "--steps", 3)
    assert code == 1
    assert "gan has no option --steps" in err


def test_query_says_what_its_answer_is(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {"pixelcnn": "exact", "vae": "bound", "diffusion": "bound", "gan": "undefined"}
    for name, kind in expected.items():
        code, out, err = call(capsys, "query", "likelihood", runs[name].path, "-n", 4, "--samples", 2, "--json")
        assert code == 0, err
        answer = json.loads(out)
        assert answer["kind"] == kind
        record = answer["values"]
        assert record["reason"]
        if kind == "undefined":
            assert record["nats"] is None
        else:
            assert len(record["nats"]) == len(record["bits_per_dim"]) == 4
            bits = -np.array(record["nats"]) / (64 * np.log(2))
            assert np.allclose(bits, record["bits_per_dim"])
            assert answer["numbers"]["bits_per_dim"]["value"] == pytest.approx(bits.mean())
        assert call(capsys, "query", "likelihood", runs[name].path, "-n", 4, "--samples", 2)[0] == 0
    images = tmp_path / "other.npz"
    np.savez(images, images=blobs(6, 3, 12, 10)[0])  # brought to the run's shape
    code, out, err = call(capsys, "query", "likelihood", runs["vae"].path, images, "--labels", "1", "--json")
    assert code == 0, err
    assert len(json.loads(out)["values"]["nats"]) == 6
    code, out, err = call(capsys, "query", runs["vae"].path, images, "--json")
    assert code == 0, err
    assert json.loads(out)["questions"]["surprise"] and json.loads(out)["questions"]["posterior"] is None


def test_evaluate_and_compare_print_json(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["-n", 16, "--likelihood-n", 4, "--k", 2, "--metrics", "default", "--ladder", "no"]
    code, out, err = call(capsys, "evaluate", runs["vae"].path, *quick, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert {"frechet", "precision", "recall", "density", "coverage", "bits_per_dim"} <= record["metrics"].keys()
    assert {"precision", "recall"} <= record["floor"].keys()
    code, out, err = call(capsys, "evaluate", runs["vae"].path, *quick)
    assert code == 0, err
    assert "precision" in out
    data = write_blobs(tmp_path / "blobs.npz")
    arguments = [data, "--families", "vae,gan", "--budget", "1steps", "--limit", 80, "--out", tmp_path / "c", *quick]
    code, out, err = call(capsys, "compare", *arguments, "--json")
    assert code == 0, err
    assert [entry["name"] for entry in json.loads(out)["families"]] == ["vae", "gan"]
    code, out, err = call(capsys, "compare", *arguments)
    assert code == 0, err
    assert "report.html" in out


def test_evaluate_measures_anything_against_anything(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, other = write_blobs(tmp_path / "real.npz", 300), tmp_path / "other.npz"
    np.savez(other, images=blobs(40, seed=5)[0])
    some = ["-n", 20, "--metrics", "precision,recall,nearest_training", "--reference", 60]
    for subject, against in ((other, data), (other, runs["gan"].path), (runs["vae"].path, runs["gan"].path)):
        code, out, err = call(capsys, "evaluate", subject, "--against", against, *some, "--json")
        assert code == 0, err
        record = json.loads(out)
        assert set(record["metrics"]) == {"precision", "recall", "nearest_training"}
        assert all(m["error"] is not None and m["protocol"] for m in record["metrics"].values())
    code, out, err = call(capsys, "evaluate", other, "--against", data, *some, "--out", tmp_path / "out")
    assert code == 0, err
    assert "not over training seeds" in " ".join(out.split())
    assert "recall" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "samples.png", "neighbours.png"}
    for flags, words in (
        (["--metrics", "fid"], "--features inception"),
        (["--metrics", "nonsense"], "no metric 'nonsense'"),
        (["--preprocessing", "clean-fid"], "belongs to --features inception"),
        (["--features", "psychic"], "psychic"),
        (["--steps", "3"], "has no option --steps"),
    ):
        code, _, err = call(capsys, "evaluate", other, "--against", data, *flags)
        assert code == 1
        assert words in err


def test_an_evaluation_is_written_for_people() -> None:
    score = {
        "value": 0.5,
        "error": 0.01,
        "unit": "",
        "better": "higher",
        "n": 20,
        "kind": None,
        "note": "",
        "flag": None,
    }
    record = {
        "subject": {"images": "some/[red]folder"},
        "data": {"name": "real"},
        "protocol": {"features": "small-v2", "split": "60 training images", "seed": 0},
        "flags": ["20 of 20 images are repeats"],
        "metrics": {
            "precision": score | {"reading": "50 % of what held-out real images reach"},
            "frechet": score | {"value": None, "flag": "refused: too few"},
            "bits_per_dim": score | {"value": 1.5, "kind": "bound", "note": "of a held-out image", "better": "lower"},
        },
        "floor": {"precision": score | {"value": 1.0}},
        "memorisation": {space: {"text": "no evidence of copies"} for space in ("pixels", "features")},
        "per_class": {
            "labels": "asked for",
            "classes": {"cat": {"n": 9, "precision": {"value": 0.4, "error": 0.1, "flag": "few"}}, "dog": {"n": 1}},
        },
    }
    out = io.StringIO()
    Console(file=out, width=120).print(shown(record))
    text = " ".join(out.getvalue().split())
    for said in (
        "some/[red]folder against real", "! 20 of 20 images are repeats", "50 % of what held-out real images reach",
        "refused: too few", "≤ 1.500", "Copies, by pixels: no evidence", "cat", "0.40*", "dog", "over images, not over",
    ):  # fmt: skip
        assert said in text, said


def test_data_describes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_blobs(tmp_path / "blobs.npz")
    code, out, _ = call(capsys, "data", data, "--out", tmp_path / "d.png", "--image-size", "16")
    assert code == 0
    assert "16" in out
    assert (tmp_path / "d.png").exists()


def test_mistakes_are_one_line_with_a_way_out(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    vae = runs["vae"].path
    cases = [
        (["sample", tmp_path / "nowhere"], "is not a run folder"),
        (["sample", vae, "--labels", "9"], "'9' is not a class"),
        (["sample", vae, "--labels", "cat"], "'cat' is not a class"),
        (["sample", vae, "-n", "0"], "at least 1"),
        (["sample", vae, "--out", "x.gif"], "must end in .png, in .npz, or be a folder"),
        (["train", "vae", tmp_path / "empty", "--out", tmp_path / "r", *TINY], "no images"),
        (["train", "vae", "mnits", "--out", tmp_path / "r", *TINY], "mnist"),
        (["train", "vae", "mnist", "--out", tmp_path / "r", "--budget", "soon"], "write 90s"),
        (["train", "vae", "mnist", "--out", tmp_path / "r", "--device", "tpu"], "device"),
        (["train", "vae", "mnist", "--out", tmp_path / "r", "--image-size", "big"], "--image-size"),
        (["evaluate", tmp_path / "empty"], "--against"),
        (["compare", "mnist", "--families", "transformer", "--out", tmp_path / "r"], "unknown family"),
    ]
    for arguments, words in cases:
        code, out, err = call(capsys, *arguments)
        assert code == 1, arguments
        assert words in err
        assert len(err.strip().splitlines()) == 1, err
        assert not out
    assert not (tmp_path / "r").exists()


def test_small_parsers() -> None:
    assert parse_size("32") == [32, 32]
    assert parse_size("48x64") == [48, 64]
    names = ("cat", "dog")
    assert parse_labels(None, names) is None
    assert parse_labels("dog,0,none", names) == [1, 0, 2]
    assert parse_labels("all", names) == [0, 1]


def test_a_second_pool_of_the_same_name_is_told_of_again(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        for _ in ("training", "held-out"):
            for done in (0, 50, 100):
                bars.tell("inception", "features of real images", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == ["0%", "100%"] * 2


def test_the_sampling_options_of_every_family_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """With what their docstrings say, the convention of guidance among it."""
    code, out, _ = call(capsys, "sample", "--help")
    words = " ".join(out.split())
    assert code == 0
    for name, family in FAMILIES.items():
        assert name in words
        for field in fields(family.Options):
            assert f"--{field.name.replace('_', '-')}" in words, field.name
    assert "u + w(c - u): 1 is plainly conditional" in words and "--clip (true): clamp every estimate" in words
    assert "flow: those of diffusion, but" in words and "gan: none" in words
