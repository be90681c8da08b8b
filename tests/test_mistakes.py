"""Mistakes end in one line that says what to do, whatever library they are met in."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from conftest import blobs, write_blobs
from safetensors import SafetensorError
from tiny import call

from trilemma.comparison import fitting
from trilemma.config import TrainConfig, parse_text
from trilemma.data import load
from trilemma.evaluation.metric import read
from trilemma.families import FAMILIES
from trilemma.faults import in_words
from trilemma.images import Spec
from trilemma.metrics import feature_network
from trilemma.noise import ImageNoise, philox
from trilemma.number import Number
from trilemma.run import Run
from trilemma.sampling import parse_labels, sample
from trilemma.training import train
from trilemma.training.driver import make_config

Record = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("mistakes")
    np.savez(folder / "blobs.npz", images=blobs(60)[0], labels=np.arange(60) % 3, classes=np.array(["1", "2", "3"]))
    settings = {"batch": 4, "pictures": 0}
    return train(
        "vae",
        folder / "blobs.npz",
        out=folder / "run",
        budget="1steps",
        conditional=True,
        model={"width": 4, "latent": 3},
        settings=settings,
        say=print,
    )


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("train ddpm --out OUT", "did you mean diffusion?"),
        ("train vae DATA --lr 3 --out OUT", "did you mean --train.lr?"),
        ("train vae DATA --batch-size 3 --out OUT", "did you mean --train.batch?"),
        ("train vae DATA --epochs 3 --out OUT", "did you mean --budget"),
        ("train vae DATA --latent 3 --out OUT", "did you mean --model.latent?"),
        ("train vae DATA --seed 1.5 --out OUT", "--seed must be a whole number, not 1.5"),
        ("train vae DATA --seed 99999999999999999999 --out OUT", "--seed must be smaller"),
        ("train vae DATA --model.width 0 --out OUT", "model.width must be at least 1, not 0"),
        ("train gan DATA --model.latent -1 --out OUT", "model.latent must be at least 1, not -1"),
        ("train vae DATA --train.lr nan --out OUT", "lr must be a finite number, not nan"),
        ("sample RUN -n 2.7", "-n must be a whole number, not 2.7"),
        ("sample RUN --n 0", "at least 1"),
        ("sample RUN --interpolte", "has no option --interpolte"),
        ("sample RUN --steps", "--steps needs a value"),
        ("sample RUN --num 3", "did you mean -n?"),
        ("data DATA --out OUT.foo", "must end in .png"),
        ("query receptive RUN", "cannot be asked receptive: it needs p(x) as a product"),
        ("query likelihood RUN --smaples 3", "did you mean --samples?"),
        ("query RUN --interpolte", "a question follows the verb, as in trilemma query interpolate RUN"),
        ("query interpolte RUN", "did you mean trilemma query interpolate RUN?"),
        ("evaluate RUN DATA", "did you mean --against"),
        ("sample RUN --labels 0", "'0' is not a class; there are 1, 2, 3"),
    ],
)
def test_what_was_likely_meant(
    typed: str, words: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": run.path, "OUT": tmp_path / "out", "DATA": run.config.data.source}
    code, out, err = call(
        capsys, *(places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in typed.split())
    )
    assert code in (1, 2) and words in err and len(err.splitlines()) == 1 and not out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("budget = 3", "budget must be str"),
        ("train = 3", "train must be dict (a table)"),
        ('seed = "a"', "seed must be int, not 'a'"),
        ("size = 3", "size must be one of tiny"),
        ("[model]\nlatent = 0", "latent must be at least 1"),
        ("[train]\nbetas = [2, 2]", "betas must be values at least 0 and below 1, not 2.0,2.0"),
        ("[data]\nlimit = 1.5", "limit must be int"),
        ("[modle]\n", "unknown key 'modle'"),
    ],
)
def test_a_settings_file_is_read_by_types(
    text: str, words: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text(text)
    arguments = ("train", "vae", run.config.data.source, "--out", tmp_path / "out", "--config", tmp_path / "s.toml")
    code, _, err = call(capsys, *arguments)
    assert code == 1 and words in err and len(err.splitlines()) == 1


def _set(*path: str, to: object) -> Callable[[Record], object]:
    def change(config: Record) -> Record:
        place = config
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = to
        return config

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda config: [config],
        lambda config: None,
        lambda config: {key: value for key, value in config.items() if key != "spec"},
        _set("format", to="one"),
        _set("family", to=["vae"]),
        _set("spec", to=3),
        _set("spec", "shape", to=[]),
        _set("spec", "shape", to=[1, 0, 8]),
        _set("spec", "levels", to=10**30),
        _set("model", "width", to=None),
        _set("model", "latent", to=-1),
        _set("train", "betas", to=[2, 2]),
        _set("class_names", to=["cat"]),
        _set("seed", to=10**30),
    ],
)
def test_a_config_of_another_kind_is_one_line(change: Callable[[Record], object], run: Run, tmp_path: Path) -> None:
    record = json.loads((run.path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(change(record)))
    with pytest.raises(ValueError, match=r"config\.json") as error:
        Run.open(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["null", "[]", '{"weights.safetensors": null}', "[" * 20_000, "\0"])
def test_damaged_checksums_are_a_damaged_checkpoint(text: str, run: Run, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run.path, tmp_path / "run")
    copy = Run.open(tmp_path / "run")
    (copy.checkpoint() / "checksums.json").write_text(text)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(ValueError, match="every one is damaged"):
        copy.checkpoint()


def test_a_run_is_continued_from_its_own_config(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but what is typed is compared: neither presets nor defaults."""
    code, _, err = call(capsys, "train", "vae", "--out", run.path, "--budget", "2steps", "--resume")
    assert code == 0, err
    again = Run.open(run.path)
    assert again.config == run.config and again.progress()["step"] == 2
    other = write_blobs(tmp_path / "other.npz")
    for typed, words in (
        (["vae", "--model.latent", 4], "model.latent is 3 in the run, 4 was asked for; leave --model.latent out"),
        (["vae", "--train.lr", 0.5], "train.lr is"),
        (["vae", "--seed", 1], "seed is 0 in the run"),
        (["vae", "--image-size", 16], "leave --image-size out"),
        (["gan"], "say `train vae`"),
        (["vae", other], "leave the data out"),
    ):
        code, _, err = call(capsys, "train", *typed, "--out", run.path, "--budget", "2steps", "--resume")
        assert code == 1 and words in err, err
    assert (
        call(capsys, "train", "vae", "--out", run.path, "--budget", "2steps", "--resume", "--model.latent", 3)[0] == 0
    )
    np.savez(
        run.config.data.source, images=blobs(60, seed=9)[0], labels=np.arange(60) % 3, classes=np.array(["1", "2", "3"])
    )
    code, _, err = call(capsys, "train", "vae", "--out", run.path, "--budget", "3steps", "--resume")
    assert code == 1 and "no longer holds the images" in err


def test_labels_are_names_or_numbers_but_never_both() -> None:
    numbers, words, digits = ("1", "2", "3"), ("none", "all", "a,b"), tuple("0123456789")
    assert parse_labels("1,3", numbers) == [0, 2]
    assert parse_labels("0,9,none", digits) == [0, 9, 10]
    assert parse_labels('"none","a,b", 1', words) == [0, 2, 1]
    assert parse_labels('"all"', words) == [1]
    for text, names in (
        ("0,1,2", numbers),
        ("none", words),
        ("all", words),
        ("a,b", words),
        ('"0"', ("cat",)),
        ("", words),
    ):
        with pytest.raises(ValueError, match="--labels"):
            parse_labels(text, names)


def test_every_seed_draws_its_own_noise() -> None:
    drawn = [ImageNoise(seed, [0]).normal(4) for seed in (*range(-1000, 3), -(2**63), 2**63 - 1)]
    assert len({tuple(row.flatten().tolist()) for row in drawn}) == len(drawn)
    old = np.random.Generator(np.random.Philox(key=[7, 3])).standard_normal(5)
    assert np.array_equal(philox(7, 3).standard_normal(5), old)  # what was drawn before stays
    for seed in (2**63, 1.5, True):
        with pytest.raises(ValueError, match="a seed must be a whole number"):
            philox(seed)  # type: ignore[arg-type]


def test_nearly_black_images_are_measured_inside_and_asked_about_outside() -> None:
    network, dark = feature_network("small"), torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    dark[0, 0, 0, 0] = 1
    assert network.of(dark).isfinite().all()
    with pytest.raises(ValueError, match="to_display"):
        network(dark)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_number_of_a_config_has_a_range(name: str) -> None:
    """No count is taken below 0, and no number that is none."""
    for field, hint in get_type_hints(FAMILIES[name].Config).items():
        if hint in (int, float):
            with pytest.raises(ValueError, match=field):
                FAMILIES[name].Config(**{field: -1 if hint is int else float("nan")})
    with pytest.raises(ValueError, match="shape must be"):
        Spec((28, 28))
    with pytest.raises(ValueError, match=r"train\.betas must be values at least 0 and below 1"):
        TrainConfig(betas=(2.0, 2.0))


def test_errors_of_other_libraries_are_said_in_words() -> None:
    known: list[tuple[BaseException, str]] = [
        (MemoryError(), "out of memory: ask for less"),
        (torch.OutOfMemoryError("Tried to allocate 20.00 GiB. GPU"), r"out of memory (20.00 GiB more were needed)"),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
            "out of",
        ),
        (SafetensorError("header too large"), "a file of weights is damaged"),
        (pickle.UnpicklingError("Weights only load failed"), "never opened"),
        (RecursionError("maximum"), "nested too deeply"),
        (OSError(28, "No space left on device", "x.npz"), "x.npz: No space left on device: make room"),
    ]
    for error, words in known:
        assert words in (in_words(error) or ""), error
    assert in_words(KeyError("x")) is None and in_words(RuntimeError("size mismatch")) is None


def test_a_bug_is_one_line_that_asks_for_a_report(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trilemma.cli.sample.parse_labels", lambda *_: dict[str, int]()["nothing"])
    code, _, err = call(capsys, "sample", run.path, "-n", 1)
    assert code == 1 and "this is a bug" in err and "KeyError at" in err and len(err.splitlines()) == 1
    monkeypatch.setenv("TRILEMMA_DEBUG", "1")
    with pytest.raises(KeyError):
        call(capsys, "sample", run.path, "-n", 1)


def test_a_comparison_of_few_images_takes_smaller_batches() -> None:
    assert fitting({}, 64, 60, 1) == {"batch": 32}
    assert fitting({"lr": 1.0}, 64, 33, 3) == {"lr": 1.0, "batch": 30}
    assert fitting({}, 64, 1000, 3) == {"batch": 63}
    assert fitting({}, 64, 64, 1) == {} and fitting({"batch": 99}, 99, 5, 1) == {"batch": 99}


def test_a_statistic_beyond_two_errors_is_not_near() -> None:
    said = [read("c_t", Number(value, 1.0), None, None).reading for value in (-1.9, -2.9, -3.1)]
    assert said[0].startswith("not distinguishable") and "nearer" not in said[1] and said[2].endswith("copying")


def test_classes_that_nothing_was_trained_on_are_named_when_drawn(run: Run, tmp_path: Path) -> None:
    """Runs of before do not say which; what is drawn of the others is silent."""
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    record = json.loads((path / "config.json").read_text())
    assert record.pop("untrained") == []
    (path / "config.json").write_text(json.dumps(record))
    assert Run.open(path).config.untrained == ()
    (path / "config.json").write_text(json.dumps(record | {"untrained": ["2"]}))
    with pytest.warns(UserWarning, match="no training image had the class 2"):
        sample(Run.open(path), 2, labels=[0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(Run.open(path), 2, labels=[0, 2, 3])
    dataset = load(run.config.data, progress=False)
    dataset = replace(dataset, train=dataset.train[dataset.labels[dataset.train] != 1])  # type: ignore[index]
    assert make_config("vae", dataset, size="tiny", seed=0, conditional=True).untrained == ("2",)


@pytest.mark.parametrize("family", ["diffusion", "flow"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_guidance_that_is_no_number_is_refused(family: str, value: str) -> None:
    with pytest.raises(ValueError, match="guidance must be"):
        parse_text(FAMILIES[family].Options, {"guidance": value}, family)
