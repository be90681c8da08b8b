"""The Python face: what a hand reaches for is taken, what is wrong is one line, and what comes back says what it is."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import trilemma
from tests.conftest import blobs
from trilemma.bars import told
from trilemma.cli import main
from trilemma.training.budget import Budget, budget_text

SMALL = {"batch": 16, "log_every": 1, "pictures": 1, "warmup": 0, "precision": "fp32"}
FEW: dict[str, Any] = {"n": 32, "reference": 64, "features": "small", "ladder": "no", "likelihood_n": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> trilemma.Run:
    """A VAE of a few steps on images that came from memory."""
    images, labels = blobs(160)
    data = trilemma.load(images, labels=labels)
    out = tmp_path_factory.mktemp("face") / "vae"
    return trilemma.train(
        "vae", data, out=out, budget="3steps", settings=SMALL, model={"width": 8}, device="cpu", conditional=True,
        say=lambda line: None,
    )  # fmt: skip


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 300
    return text


def same(images: Any, wanted: trilemma.Dataset, **more: Any) -> trilemma.Dataset:
    found = trilemma.load(images, progress=False, **more)
    assert np.array_equal(found.images, wanted.images)
    return found


def test_completion_lists_the_public_names() -> None:
    assert dir(trilemma) == sorted(trilemma.__all__)


def test_the_script_that_type_checkers_read_has_every_public_name() -> None:
    script = Path(__file__).with_name("user_script.py").read_text("utf-8")
    assert [name for name in trilemma.__all__ if f"trilemma.{name}" not in script] == []
    assert (Path(trilemma.__file__).parent / "py.typed").is_file()


def test_images_in_memory_of_every_kind_are_the_same_data() -> None:
    grey, labels = blobs(160)
    wanted = trilemma.load(grey)
    assert wanted.images.shape == (160, 1, 8, 8)
    first = np.moveaxis(grey, 3, 1)
    batches = [first[i : i + 64] for i in range(0, 160, 64)]
    for given in (
        grey[..., 0],
        first,
        torch.from_numpy(first.copy()),
        torch.from_numpy(first / 255.0).float(),
        (first / 255.0).astype(np.float64),
        [Image.fromarray(image[..., 0]) for image in grey],
        (part for part in batches),
        iter(torch.from_numpy(part / 255.0) for part in batches),
        list(first),
    ):
        assert same(given, wanted).fingerprint == wanted.fingerprint
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(first / 255.0), torch.from_numpy(labels))
    labelled = trilemma.load(grey, labels=labels)
    for given in (
        pairs,
        torch.utils.data.DataLoader(pairs, 64),
        (first, labels),
        list(zip(first, labels, strict=True)),
    ):
        assert same(given, wanted).fingerprint == labelled.fingerprint
    named = trilemma.load(
        ({"image": Image.fromarray(i[..., 0]), "label": "abc"[k]} for i, k in zip(grey, labels, strict=True))
    )
    assert named.class_names == ("a", "b", "c")


def test_colour_pictures_of_several_sizes_and_a_last_batch_of_three() -> None:
    colour, _ = blobs(67, channels=3)
    wanted = trilemma.load(colour)
    assert wanted.images.shape == (67, 3, 8, 8)
    same([colour[:64], colour[64:]], wanted)
    same([Image.fromarray(image) for image in colour], wanted)
    grey, _ = blobs(67)
    same([grey[:64, ..., 0], grey[64:, ..., 0]], trilemma.load(grey))
    mixed = [Image.fromarray(colour[0]), Image.fromarray(grey[0, ..., 0]).resize((12, 10)), Image.fromarray(colour[1])]
    assert trilemma.load(mixed, size=(8, 8), split=False).images.shape == (3, 3, 8, 8)
    with pytest.raises(ValueError, match="differ in shape.*size="):
        trilemma.load(mixed)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.rand(20, 1, 8, 8) * 2 - 1, r"\[0, 1\].*\(x \+ 1\) / 2"),
        (torch.rand(20, 1, 8, 8) * 255, r"\[0, 1\].*255"),
        (np.full((20, 8, 8), np.nan), r"\[0, 1\].*nan"),
        (np.zeros((8, 8)), "no images|must|one"),
        (np.zeros((20, 2, 8, 8), np.uint8), "C being 1, 3 or 4"),
        (3, "the int 3"),
        (None, "nothing"),
        ([], "empty"),
        ([object()], "item 0"),
        ((x for x in ["a.png"]), "item 0"),
        ({"x": 1}, "the dict"),
    ],
)
def test_what_is_no_image_is_one_line(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        trilemma.load(given)
    one_line(error)


def test_labels_must_fit() -> None:
    images, labels = blobs(40)
    for wrong in (labels[:5], [["a"]] * 39):
        with pytest.raises(ValueError, match="labels") as error:
            trilemma.load(images, labels=wrong)
        one_line(error)
    with pytest.raises(ValueError, match="labels belong to images in memory"):
        trilemma.load("mnist", labels=labels)
    with pytest.raises(ValueError, match="loaded already"):
        trilemma.load(trilemma.load(images), limit=3)


def test_everything_tells_what_it_is(run: trilemma.Run) -> None:
    assert repr(run) == f"Run({str(run.path)!r}: vae, <memory> 1x8x8, 3 classes, 3 steps, 48 images)"
    assert repr(trilemma.Run.open(run.path)) == repr(run)
    data = trilemma.load(blobs(160)[0])
    train, test = len(data.train), len(data.test)
    assert repr(data) == f"Dataset('images in memory': 160 images 1x8x8, {train} train, {test} held out)"
    drawn = trilemma.sample(run, n=4, device="cpu")
    assert repr(drawn).startswith("Samples(4 images 1x8x8, 3 classes, ") and repr(drawn).endswith(" images/s)")
    ring = trilemma.load("ring")
    assert "vectors of 2" in repr(ring)
    for shown in (run, data, drawn, ring):
        text = shown._repr_html_()
        assert text.count("data:image/png;base64,") == 1 and "<script" not in text
    assert "png" not in trilemma.Run(run.path.with_name("<new>"), run.config)._repr_html_()


def test_a_path_is_a_run_and_a_dictionary_is_options(run: trilemma.Run) -> None:
    wanted = trilemma.sample(run, 4, device="cpu", labels=[1]).images
    for path in (str(run.path), run.path):
        assert torch.equal(trilemma.sample(path, n=4, device="cpu", labels=1).images, wanted)
    warm = trilemma.sample(run.path, 4, device="cpu", options={"draw": "sample"}, labels=1)
    assert not torch.equal(warm.images, wanted)
    images = wanted
    nats = trilemma.log_likelihood(run.path, images, 1, device="cpu").nats
    assert nats is not None
    for given in (images.numpy(), images.float() / 255, [Image.fromarray(i[0].numpy()) for i in images], iter(images)):
        found = trilemma.log_likelihood(run, given, [1] * 4, device="cpu").nats
        assert found is not None and torch.equal(found, nats)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: trilemma.sample(3), "a run must be"),
        (lambda run: trilemma.sample("nowhere"), "not a run folder"),
        (lambda run: trilemma.sample(run, 2.5), "whole number"),
        (lambda run: trilemma.sample(run, 2, options={"drew": 1}), "drew"),
        (lambda run: trilemma.sample(run, 2, options={"draw": "hot"}), "draw must be"),
        (lambda run: trilemma.sample(run, 2, options=[1]), "dictionary"),
        (lambda run: trilemma.sample(run, 2, progress="yes"), '"bar" or a function'),
        (lambda run: trilemma.log_likelihood(run, torch.zeros(2, 3, 8, 8)), "shape"),
        (lambda run: trilemma.log_likelihood(run, 7), "no images"),
        (lambda run: trilemma.evaluate(run, protocol={"m": 3}), "unknown key 'm'"),
        (lambda run: trilemma.evaluate(run, protocol={"n": "3"}), "n must be int"),
        (lambda run: trilemma.evaluate(run, protocol=5), "dictionary"),
        (lambda run: trilemma.evaluate(run), "came from memory"),
        (lambda run: trilemma.compare("mnist", out=run.path / "x", families="vae,vea"), "vea"),
        (lambda run: trilemma.compare("mnist", out=run.path / "x", budget=-3), "budget"),
        (lambda run: trilemma.train("vae", "mnist", out=run.path / "x", budget=None), "budget must be"),
        (lambda run: trilemma.train("vae", "mnist", out=run.path / "x", model={"widht": 3}), "widht"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(run: trilemma.Run, call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        call(run)
    one_line(error)


@pytest.mark.parametrize("name", ["train", "sample", "evaluate", "compare", "load", "log_likelihood"])
def test_an_unknown_keyword_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError, match="unknown_word"):
        getattr(trilemma, name)("x", unknown_word=1)


def test_a_budget_is_seconds_a_time_or_text() -> None:
    for given in (90, 90.0, datetime.timedelta(minutes=1.5), "90s", "1.5m"):
        assert Budget.parse(budget_text(given)) == Budget(90, "seconds")
    assert Budget.parse(budget_text(1e-3)).amount == 1e-3
    for wrong in (0, -1, float("nan"), float("inf"), True, [3]):
        with pytest.raises(ValueError, match="budget"):
            Budget.parse(budget_text(wrong))  # type: ignore[arg-type]


def test_images_in_memory_are_measured(run: trilemma.Run) -> None:
    images, labels = blobs(400, seed=1)
    heard: list[str] = []
    record = trilemma.evaluate(
        run.path, trilemma.load(images, labels=labels), protocol=FEW, device="cpu", out=run.path.with_name("record"),
        progress=lambda what, done, total: heard.append(what),
    )  # fmt: skip
    assert record["metrics"]["kernel"]["value"] is not None and heard
    record = trilemma.evaluate(images[:64] / 255.0, images, protocol=FEW, device="cpu")
    assert record["subject"]["n"] == 32


def test_a_bar_is_shown_where_it_is_asked_for(run: trilemma.Run, capsys: pytest.CaptureFixture[str]) -> None:
    trilemma.sample(run, 4, device="cpu")
    assert capsys.readouterr().err == ""
    trilemma.sample(run, 4, device="cpu", progress="bar")
    assert "sampling" in capsys.readouterr().err
    with told(None, lambda bars: print) as nobody:
        assert nobody is None


def test_training_and_comparing_say_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(blobs(60, channels=3)[0]):
        Image.fromarray(image).resize((8, 9)).save(folder / f"{i:02d}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    flags = ["--image-size", "8", "--color", "grey"]

    def said(*command: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*command])
        captured = capsys.readouterr()
        assert ended.value.code in (0, None), captured.err
        return " ".join((captured.err + captured.out).split())

    told = said("data", str(folder), *flags)
    small = ["--budget", "1step", "--device", "cpu"]
    train = said("train", "vae", str(folder), *flags, *small, "--out", str(tmp_path / "vae"), "--train.batch", "16")
    few = ["-n", "16", "--ladder", "no", "--likelihood-n", "4", "--metrics", "frechet"]
    compare = said("compare", str(folder), *flags, *small, *few, "--families", "vae", "--out", str(tmp_path / "c"))
    for text in (told, train, compare):
        for word in ("broken.png", "reduced", "made grey"):
            assert word in text
