"""The contract of questions: every question on every able family, and one that a file outside the package adds."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import blobs
from tiny import call

import trilemma
from trilemma import drawing
from trilemma.blocks import Progress
from trilemma.data import load
from trilemma.evaluation.answers import answers_of
from trilemma.families import FAMILIES
from trilemma.families.family import Denoises
from trilemma.number import Number
from trilemma.questions import Answer, questions
from trilemma.run import Run
from trilemma.training import train

MODELS: dict[str, dict[str, Any]] = {
    "autoencoder": dict(width=4, latent=2),
    "vae": dict(width=4, latent=2),
    "pixelcnn": dict(features=4, layers=2, head=4, first_kernel=3, kernel=3),
    "pixelrnn": dict(features=4, layers=1, head=4, first_kernel=3),
    "gan": dict(width=8, latent=4, loss="nonsaturating"),  # whose D says probabilities; that of vectors is the default
    "diffusion": dict(width=16, multipliers=(1,), timesteps=20),
    "flow": dict(width=16, multipliers=(1,)),
}
"""The smallest model of each family; one that is not here is taken as its preset has it."""

BRIEF: dict[str, dict[str, Any]] = {
    "annealed": dict(n=2, temperatures=4, chains=2),
    "arithmetic": dict(expression="0-1+2", n=4),
    "classify": dict(n=4),
    "codes": dict(n=140),
    "complete": dict(n=2, copies=2, particles=2),
    "curve": dict(n=140, reference=140, counts=(2,), options={"sampler": "ddim"}),
    "density": dict(side=6),
    "disentangle": dict(factors="FACTORS", n=60),
    "downstream": dict(n=60),
    "gradients": dict(n=2),
    "guidance": dict(n=140, reference=140, weights=(0.0, 2.0), options={"steps": 2}),
    "interpolate": dict(n=4, points=3),
    "invert": dict(n=2, counts=(2,)),
    "likelihood": dict(n=4, samples=2),
    "manifold": dict(n=20),
    "ode": dict(n=1, tolerance=1.0),
    "ood": dict(other="OTHER", n=6),
    "posterior": dict(n=4),
    "rates": dict(others="", n=20),
    "receptive": dict(n=2, position="3,3"),
    "reverse": dict(n=2, options={"steps": 3}),
    "surprise": dict(n=2),
    "terms": dict(n=2, count=3),
    "traverse": dict(n=20, points=3),
}
"""How each question is asked here, where its defaults take long; one that is not here is asked as it is."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    images, labels = blobs(1400)
    np.savez(folder / "blobs.npz", images=images, labels=labels)
    images, labels = blobs(40, seed=1)
    np.savez(folder / "other.npz", images=255 - images, labels=labels)
    factors = np.stack([labels, np.arange(40) % 2], 1).astype(float)
    np.savez(folder / "factors.npz", images=np.concatenate([images] * 2), factors=np.concatenate([factors] * 2))
    vectors = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    np.savez(folder / "vectors.npz", images=vectors)
    return folder


@pytest.fixture(scope="module")
def runs(place: Path) -> dict[str, Run]:
    """A run of each family, of two steps: conditional where it can be, and one of vectors."""
    made = {}
    for name in FAMILIES:
        for kind, data in (("images", "blobs.npz"), ("vectors", "vectors.npz")):
            if kind == "vectors" and name not in ("vae", "gan", "flow"):
                continue  # a bound, none, and an equation
            made[f"{name}-{kind}"] = train(
                name,
                load(place / data, progress=False),
                out=place / f"{name}-{kind}",
                budget="2steps",
                conditional=kind == "images",
                model=MODELS.get(name) if kind == "images" else None,
                settings=dict(batch=16, precision="fp32", pictures=0),
                say=lambda line: None,
            )
    return made


def fields(name: str, place: Path, run: Run) -> dict[str, Any]:
    other = "vectors.npz" if run.config.spec.vector else "other.npz"
    words = {"OTHER": str(place / other), "FACTORS": str(place / "factors.npz")}
    brief = {k: words.get(v, v) if isinstance(v, str) else v for k, v in BRIEF.get(name, {}).items()}
    if name == "curve" and not issubclass(FAMILIES[run.config.family], Denoises):  # a student has one sampler
        del brief["options"]
    return brief


SLOW = ("guidance",)
"""Questions that train a classifier."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in questions()]
)
def test_a_question_keeps_its_contract(name: str, runs: dict[str, Run], place: Path, tmp_path: Path) -> None:
    cls = questions()[name]
    assert cls.title and cls.sentence.endswith((".", "?"))
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    first = None
    for key, run in runs.items():
        if (reason := cls.able(run)) is not None:
            assert reason and "\n" not in reason
            with pytest.raises(ValueError, match=name) as error:
                trilemma.ask(run, name)
            assert "\n" not in str(error.value)
            continue
        told: list[tuple[int, int]] = []
        found = trilemma.ask(run, name, progress=_listener(told), **fields(name, place, run))
        assert all(0 <= done <= of for done, of in told)
        assert found.kind in ("", "exact", "bound", "estimate", "undefined", "approximate", "point"), key
        assert all(isinstance(number, Number) for number in found.numbers.values())
        assert found.reading and all(isinstance(line, str) and line for line in found.lines())
        record = found.save(tmp_path / key)
        assert json.loads((tmp_path / key / f"{name}.json").read_text("utf-8")) == json.loads(json.dumps(record))
        for figure, picture in found.figures.items():
            assert (tmp_path / key / record["figures"][figure]).stat().st_size > 100
            if isinstance(picture, drawing.Sheet):
                beside = (tmp_path / key / record["figures"][figure]).with_suffix(".svg").read_text("utf-8")
                assert "prefers-color-scheme:dark" in beside
            if not isinstance(picture, drawing.Film):
                svg = drawing.save(picture, tmp_path / key / f"{figure}.svg").read_text("utf-8")
                assert ElementTree.fromstring(svg).tag.endswith("svg")
        if first is None:
            first = run
            _stops_and_goes_on(name, run, fields(name, place, run), found, bool(told))
    assert first is not None, f"no family was able to answer {name}"


def _listener(told: list[tuple[int, int]]) -> Progress:
    return lambda done, of: told.append((done, of))


def _stops_and_goes_on(name: str, run: Run, chosen: dict[str, Any], whole: Answer, tells: bool) -> None:
    """A question that was stopped answers the same when it is asked again."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    if tells:
        with pytest.raises(KeyboardInterrupt):
            trilemma.ask(run, name, progress=stop, seed=1, **chosen)
    assert _numbers(trilemma.ask(run, name, **chosen)) == _numbers(whole)


def _numbers(found: Answer) -> str:
    """All that is no time and no file."""
    timed = ("created", "known_before", "points")
    values = {key: value for key, value in found.to_json()["values"].items() if key not in timed}
    numbers = {key: number.value for key, number in found.numbers.items() if "second" not in key}
    return json.dumps([numbers, values], sort_keys=True)


def test_a_typing_error_is_a_type_error_and_a_wrong_value_one_line(runs: dict[str, Run]) -> None:
    run = runs["pixelcnn-images"]
    with pytest.raises(TypeError, match="did you mean keep"):
        trilemma.ask(run, "complete", kep="top")
    for wrong, words in (({"copies": 0}, "copies"), ({"copies": 1.5}, "copies"), ({"keep": 3}, "keep")):
        with pytest.raises(ValueError, match=words):
            trilemma.ask(run, "complete", **wrong)
    with pytest.raises(ValueError, match="there is no question"):
        run.ask("complet")


def test_all_images_that_are_given_are_asked_about(runs: dict[str, Run], place: Path) -> None:
    found = trilemma.ask(runs["pixelcnn-images"], "likelihood", images=str(place / "blobs.npz"))
    assert found.numbers["bits_per_dim"].n == 1400


def test_images_in_memory_are_asked_about(runs: dict[str, Run], place: Path) -> None:
    with np.load(place / "blobs.npz") as file:
        images = file["images"][:6]
    run = runs["pixelcnn-images"]
    arrays, tensors = (run.ask(images=each) for each in (images, torch.from_numpy(images)))
    assert arrays.numbers["bits_per_dim"].n == 6
    assert arrays.values["nats"] == tensors.values["nats"]


def test_an_answer_says_what_makes_its_images_no_fair_ones(
    runs: dict[str, Run], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["pixelcnn-images"]
    seen = run.ask(images=str(place / "blobs.npz"))
    assert "images of blobs are training images of the run" in str(seen.flag)
    larger, labels = blobs(5, 3, 12, 10)
    np.savez(tmp_path / "larger.npz", images=larger, labels=labels)
    changed = run.ask(images=str(tmp_path / "larger.npz"))
    assert "5 images of larger brought to 8 x 8" in str(changed.flag) and "made grey" in str(changed.flag)
    assert run.ask(images=larger[0, :8, :8, :1].transpose(2, 0, 1)).numbers["bits_per_dim"].n == 1  # one image
    assert "an AUROC of 4 images says little" in str(run.ask("ood", other=str(place / "other.npz"), n=4).flag)
    assert run.ask(n=3).flag is None
    for words, said in (
        (["query", run.path, "likelihood"], "the question comes first: trilemma query likelihood"),
        (["query", "likelihood", run.path, "-n", 2, "--out", tmp_path / "x.foo"], "end in .png, .svg"),
    ):
        code, _, err = call(capsys, *words)
        assert code == 1 and said in err
    assert "x.json" in call(capsys, "query", "likelihood", run.path, "-n", 2, "--out", tmp_path / "x.png")[1]
    assert trilemma.sample(run.path, 3, labels="all").labels is not None
    with pytest.raises(ValueError, match="did you mean interpolate"):
        run.ask("interpolat")


def test_the_command_lists_and_asks(runs: dict[str, Run], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = runs["pixelcnn-images"]
    code, listed, _ = call(capsys, "query", run.path)
    assert code == 0
    assert "surprise" in listed and "\n  gradients" not in listed and "bits/dim" in listed
    few = ["--copies", 2, "-n", 2, "--particles", 2]
    code, out, err = call(capsys, "query", "complete", run.path, "--keep", "left", *few, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["asked"]["keep"] == "left" and (run.answers / record["figures"]["completions"]).is_file()
    assert "complete" in [each["question"] for each in answers_of(run)]
    code, _, err = call(capsys, "query", "complete", run.path, "--kep", "left")
    assert code and "--keep" in err


def test_the_help_of_a_question_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "query", "complete", "--help")
    assert 20 < len(out.splitlines()) <= 50


def test_the_page_of_questions_is_that_of_the_classes() -> None:
    from trilemma.questions.pages import page

    written = Path(__file__).parent.parent / "docs" / "questions.md"
    assert written.read_text("utf-8") == page(), "run: python -m trilemma.questions > docs/questions.md"


PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar
from trilemma.number import Number
from trilemma.drawing import words
from trilemma.questions import AboutImages, Answer, Context


@dataclass(frozen=True)
class Brightness(AboutImages):
    """How bright images are."""

    gain: float = 1.0
    """What brightness is multiplied by."""

    name: ClassVar[str] = "brightness"
    title: ClassVar[str] = "Brightness"
    sentence: ClassVar[str] = "How bright are these images?"

    @classmethod
    def routine(cls, run):
        return cls(n=5)

    def answer(self, context: Context) -> Answer:
        batch = context.batch(self)
        mean = Number(self.gain * float(batch.x.float().mean()), n=len(batch.x))
        return Answer(self, context.run, numbers={"mean": mean}, reading=[f"the mean value is {mean}"])

    def draw(self, answer):
        return {"mean": words(answer.reading)}
'''


def test_a_question_is_one_file_outside_the_package(runs: dict[str, Run], tmp_path: Path) -> None:
    """It is in the help, the list, the API, the record of an evaluation and the page, and nothing else knows of it."""
    (tmp_path / "brightness.py").write_text(PLUGIN)
    code = """
import sys, json, trilemma
from pathlib import Path
from trilemma.cli import main
run, out = sys.argv[1:3]
for words in (["--help"], [run], ["brightness", run, "--gain", "2", "-n", "3", "--out", f"{out}/asked"]):
    try:
        main(["query", *words])
    except SystemExit:
        pass
print("API", trilemma.ask(run, "brightness", n=3).numbers["mean"].value)
few = trilemma.Protocol(n=20, reference=64, likelihood_n=4, ladder="no")
record = trilemma.evaluate(run, protocol=few, out=f"{out}/evaluated")
print("RECORD", [each["question"] for each in record["asked"]])
from trilemma.questions.pages import page
print("DOCS", "## `brightness`: Brightness" in page())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(runs["vae-images"].path), str(tmp_path)],
        capture_output=True, text=True, check=False, env=_plugin_environment(tmp_path / "brightness.py"),
    )  # fmt: skip
    out = done.stdout
    assert done.returncode == 0, done.stderr[-2000:]
    assert out.count("How bright are these images?") >= 2 and "the mean value is" in out
    assert "API" in out and "'brightness'" in out.split("RECORD")[1] and "DOCS True" in out
    assert (tmp_path / "asked" / "brightness.png").is_file()


def _plugin_environment(path: Path) -> dict[str, str]:
    import os

    return dict(os.environ, TRILEMMA_PLUGINS=str(path))
