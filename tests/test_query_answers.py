"""Queries with numbers: completions follow p(unknown | known), surprise adds up, Bayes' rule, areas under the curve."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_blobs
from PIL import Image
from scipy.stats import chisquare, mannwhitneyu
from tiny import build, call, random_images
from torch import Tensor

from trilemma.data import load
from trilemma.families.diffusion import Flow, FlowConfig
from trilemma.families.family import Orders
from trilemma.families.pixelcnn import PixelCNN
from trilemma.families.pixelrnn import PixelRNN
from trilemma.families.vae import VAE, VAEConfig
from trilemma.images import Spec
from trilemma.likelihood import LogLikelihood, log_likelihood
from trilemma.noise import ImageNoise
from trilemma.questions.classify import Classified, classify, draw_reliability
from trilemma.questions.complete import complete, known_part
from trilemma.questions.ood import Outliers, auroc, draw_histograms, outliers
from trilemma.questions.surprise import draw_surprise, surprise
from trilemma.run import Run
from trilemma.training import train

BINARY = Spec((1, 3, 3), 2)


def posterior(model: Any, image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """All images that agree with the known part, and p of each given it, by enumeration."""
    everything = torch.tensor(list(itertools.product((0, 1), repeat=9)), dtype=torch.uint8).view(-1, 1, 3, 3)
    fits = ((everything == image) | ~known).flatten(1).all(1)
    log_p = log_likelihood(model, everything[fits]).nats
    assert log_p is not None
    return everything[fits], log_p.softmax(0)


def counts(images: Tensor, among: Tensor) -> Tensor:
    found = (images[:, None] == among[None]).flatten(2).all(2)
    assert found.any(1).all()  # the known part was kept
    return found.sum(0)


@pytest.mark.parametrize("network", ["gated", "row-lstm"])
def test_what_comes_first_is_completed_by_exact_draws(network: str) -> None:
    model = build(PixelCNN if network == "gated" else PixelRNN, network, BINARY, seed=3)
    image, known = random_images(BINARY, 1), known_part("top", BINARY)
    assert known.sum() == 3
    completed = complete(model, image, known, copies=1500)
    assert completed.exact
    assert completed.effective is None
    among, p = posterior(model, image, known)
    assert chisquare(counts(completed.images[0], among), p * 1500).pvalue > 1e-3


def test_any_part_is_completed_by_a_particle_filter() -> None:
    model = build(PixelCNN, "gated", BINARY, spread=0.5)
    image = random_images(BINARY, 1, seed=4)
    known = torch.tensor([[0, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)[None]
    among, p = posterior(model, image, known)
    completed = complete(model, image, known, copies=250, particles=64)
    assert not completed.exact
    assert "64 particles" in completed.how
    assert completed.effective is not None
    assert completed.effective.shape == (1, 250)
    assert 1 <= float(completed.effective.min()) <= float(completed.effective.max()) <= 64
    assert chisquare(counts(completed.images[0], among), p * 250).pvalue > 1e-3
    # Without weights the draws follow something else: the test can fail.
    blind = model.complete(image.expand(250, 1, 3, 3), known, ImageNoise(0, range(250))).images
    assert chisquare(counts(blind, among), p * 250).pvalue < 1e-6


@pytest.mark.parametrize("keep", ["top", "left"])
def test_a_completion_depends_on_its_image_alone(keep: str) -> None:
    spec = Spec((3, 4, 6), 4, classes=2)
    model = build(PixelRNN, "diagonal-bilstm", spec)
    images, labels, known = random_images(spec, 3), torch.tensor([0, 1, 2]), known_part(keep, spec)
    told: list[int] = []
    whole = complete(
        model, images, known, 3, 4, labels, indices=[7, 9, 11], progress=lambda done, total: told.append(done)
    )
    assert told == sorted(told)
    assert told[-1] == 9
    assert whole.images.shape == (3, 3, *spec.shape)
    assert torch.equal(whole.images[..., known], images[:, None, known].expand(3, 3, -1))
    alone = complete(model, images[1:2], known, 2, 4, labels[1:2], indices=[9])
    assert torch.equal(alone.images[0], whole.images[1, :2])
    assert not torch.equal(complete(model, images, known, 3, 4, labels, seed=1).images, whole.images)


def test_what_is_kept(tmp_path: Path) -> None:
    spec = Spec((3, 5, 4), 256)
    assert known_part("top", spec)[:, :2].all()
    assert not known_part("top", spec)[:, 2:].any()
    assert known_part("left", spec).sum() == 3 * 5 * 2
    mask = np.zeros((5, 4), np.uint8)
    mask[1:3, 2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert torch.equal(known_part(str(tmp_path / "mask.png"), spec), torch.from_numpy(mask > 0).expand(3, 5, 4))
    (tmp_path / "text.png").write_text("no picture")
    for keep, fault in {
        "nothere.png": "there is no mask nothere.png",
        str(tmp_path / "text.png"): "cannot be read as a picture",
    }.items():
        with pytest.raises(ValueError, match=fault):
            known_part(keep, spec)
    with pytest.raises(ValueError, match=r"has 5 x 4 pixels \(height x width\), the images have 4 x 5"):
        known_part(str(tmp_path / "mask.png"), Spec((1, 4, 5), 2))
    Image.new("L", (4, 5), 255).save(tmp_path / "all.png")
    with pytest.raises(ValueError, match="keeps the whole image"):
        known_part(str(tmp_path / "all.png"), spec)
    with pytest.raises(ValueError, match="vae cannot draw from p.unknown . known."):
        complete(
            VAE(VAEConfig(), Spec((1, 8, 8), 2)), torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.ones(1, 8, 8) > 0
        )
    with pytest.raises(ValueError, match="at least 2 particles, not 1"):
        complete(build(PixelCNN, "plain", spec), random_images(spec, 1), known_part("left", spec), particles=1)


@pytest.mark.parametrize("output", ["softmax", "mixture"])
def test_surprise_adds_up_to_the_likelihood(output: str) -> None:
    spec = Spec((3, 5, 4), 256, classes=2)
    model = build(PixelCNN, "gated", spec, output)
    images, labels = random_images(spec, 12), torch.arange(12) % 3
    answer, whole = surprise(model, images, labels), log_likelihood(model, images, labels)
    assert whole.nats is not None
    assert whole.bits is not None
    assert torch.allclose(answer.nats, -whole.nats, rtol=1e-5)
    assert torch.allclose(answer.bits_per_dim, whole.bits, rtol=1e-5)
    assert answer.bits.shape == (12, 5, 4)
    assert torch.allclose(answer.bits.sum((1, 2)) * math.log(2), answer.nats)
    # A value's surprise is that of its conditional alone: it does not hear of what comes after.
    changed = images.clone()
    changed[:, :, 3:] = 0
    assert torch.allclose(surprise(model, changed, labels).values[:, :, :3], answer.values[:, :, :3], rtol=1e-4)
    assert draw_surprise(answer, images, 256).width > 100


def test_bayes_rule() -> None:
    spec = Spec((1, 3, 3), 2, classes=3)
    model = build(PixelCNN, "gated", spec)
    images, labels = random_images(spec, 20), torch.arange(20) % 3
    told: list[tuple[int, int]] = []
    prior = torch.tensor([1.0, 2.0, 5.0])
    answer = classify(model, images, labels, prior, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (60, 60)
    assert answer.kind == "exact"
    likelihoods = [log_likelihood(model, images, torch.full((20,), y)).nats for y in range(3)]
    joint = torch.stack([p for p in likelihoods if p is not None], 1).exp() * torch.tensor([0.125, 0.25, 0.625])
    assert torch.allclose(answer.log_posterior.exp(), joint / joint.sum(1, keepdim=True))
    assert answer.confusion.sum() == 20
    assert int(answer.confusion.diagonal().sum()) == round(answer.accuracy[0] * 20)
    never = classify(model, images, labels, torch.tensor([0.0, 1.0, 1.0]))
    assert not (never.predicted == 0).any()
    with pytest.raises(ValueError, match="unconditional"):
        classify(build(PixelCNN, "gated", BINARY), images, labels)
    with pytest.raises(ValueError, match="labels must be 0 to 2, not 0 to 3"):
        classify(model, images, torch.arange(20) % 4)
    vae = VAE(VAEConfig(), Spec((1, 8, 8), 2, classes=3)).eval()
    assert classify(vae, random_images(vae.spec, 6), labels[:6]).kind == "bound"
    flow = Flow(FlowConfig(width=16, multipliers=(1,), timesteps=40), vae.spec).eval()
    noised = classify(flow, random_images(vae.spec, 6), labels[:6], samples=5)
    assert noised.kind == "estimate"
    assert noised.reason == "mean of the bound on log p(x_s|y) over noise levels s, 5 times"
    with pytest.raises(ValueError, match="samples must be at least 1, not 0"):
        classify(flow, random_images(vae.spec, 6), labels[:6], samples=0)


def known_classifier(confidence: Tensor, right: Tensor) -> Classified:
    p = torch.stack([confidence, 1 - confidence], 1)
    return Classified(p.log(), 1 - right.long(), torch.tensor([0.5, 0.5]), "exact", "")


def test_calibration_of_known_classifiers() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = 0.5 + 0.5 * torch.rand(40_000, generator=generator, dtype=torch.float64)
    u = torch.rand(40_000, generator=generator, dtype=torch.float64)
    honest = known_classifier(confidence, u < confidence)
    assert honest.calibration_error < 0.01
    assert honest.accuracy[0] == pytest.approx(0.75, abs=0.01)
    assert honest.accuracy[1] == pytest.approx(math.sqrt(0.75 * 0.25 / 40_000), rel=0.01)
    boastful = known_classifier(confidence, u < confidence - 0.2)
    assert boastful.calibration_error == pytest.approx(0.2, abs=0.01)
    # By hand: two bins, off by 0.1 and by 0.4.
    by_hand = known_classifier(
        torch.tensor([0.6, 0.6, 0.6, 0.6, 0.9, 0.9]).double(), torch.tensor([1, 1, 0, 0, 1, 0]) > 0
    )
    assert by_hand.calibration_error == pytest.approx((4 * 0.1 + 2 * 0.4) / 6)
    nats = [-math.log(p) for p in (0.6, 0.6, 0.4, 0.4, 0.9, 0.1)]
    assert by_hand.negative_log_likelihood[0] == pytest.approx(np.mean(nats))
    assert sum(count for count, _, _ in by_hand.reliability) == 6
    assert by_hand.confusion.tolist() == [[3, 0], [3, 0]]
    assert draw_reliability(by_hand, "by hand").width > 300


def test_auroc_against_scipy_and_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    negative, positive = random.integers(0, 8, 60), random.integers(2, 10, 40)  # with ties
    area, error = auroc(torch.from_numpy(negative), torch.from_numpy(positive))
    assert area == pytest.approx(mannwhitneyu(positive, negative).statistic / 2400)
    again = [
        auroc(torch.from_numpy(random.choice(negative, 60)), torch.from_numpy(random.choice(positive, 40)))[0]
        for _ in range(2000)
    ]
    assert error == pytest.approx(np.std(again), rel=0.1)
    assert math.isnan(auroc(torch.tensor([1.0]), torch.tensor([2.0]))[1])


def test_likelier_outliers_are_atypical() -> None:
    generator = torch.Generator().manual_seed(0)

    def scored(mean: float, count: int = 300) -> LogLikelihood:
        nats = -784 * math.log(2) * (mean + 0.05 * torch.randn(count, generator=generator, dtype=torch.float64))
        return LogLikelihood("exact", "", nats, 784)

    simpler = Outliers(scored(3.0), scored(1.5))
    assert simpler.likelihood[0] < 0.01
    assert simpler.typicality[0] > 0.99
    assert "MORE likely" in simpler.verdict
    stranger = Outliers(scored(3.0), scored(3.2))
    assert stranger.likelihood[0] > 0.95
    assert "less likely" in stranger.verdict
    same = Outliers(scored(3.0), scored(3.0))
    assert same.likelihood[0] == pytest.approx(0.5, abs=0.1)
    assert same.typicality[0] == pytest.approx(0.5, abs=0.1)
    for outcome in (simpler, stranger, same):
        assert "Nalisnick" in outcome.verdict
    assert draw_histograms(simpler, ("own", "other"), "title").width > 250
    model = build(PixelCNN, "gated", BINARY)
    answer = outliers(model, random_images(BINARY, 5), random_images(BINARY, 6, seed=1))
    assert answer.other.nats is not None
    assert len(answer.other.nats) == 6


# ------------------------------------------------------------------------------------------------ the command line


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("query-runs")
    data = load(write_blobs(folder / "blobs.npz"), progress=False)
    small = {"features": 6, "head": 6, "first_kernel": 3}
    made = {}
    for name, model, conditional in (
        ("pixelcnn", {**small, "layers": 2, "kernel": 3}, True),
        ("pixelrnn", small, False),
        ("gan", {}, True),
    ):
        made[name] = train(
            name,
            data,
            out=folder / name,
            budget="2steps",
            conditional=conditional,
            model=model,
            settings={"batch": 8, "pictures": 0},
        )
    return made


QUESTIONS: Sequence[tuple[str, Sequence[Any], str]] = [
    ("receptive", ["-n", 3], "receptive"),
    ("receptive", ["--position", "4,1", "-n", 3], "receptive"),
    ("complete", ["-n", 2, "--copies", 2], "completions"),
    ("complete", ["-n", 1, "--keep", "left", "--copies", 1, "--particles", 3], "completions"),
    ("surprise", ["-n", 3, "--labels", "true"], "surprise"),
    ("classify", ["-n", 6, "--prior", "training"], "reliability"),
]


@pytest.mark.parametrize(("question", "flags", "picture"), QUESTIONS, ids=lambda value: str(value)[:20])
def test_every_question_has_a_record_words_and_a_picture(
    runs: dict[str, Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    question: str,
    flags: Sequence[Any],
    picture: str,
) -> None:
    run = runs["pixelcnn"]
    code, out, err = call(capsys, "query", question, run.path, *flags, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["question"] == question
    Image.open(run.answers / record["figures"][picture]).verify()
    own = tmp_path / "pictures" / "own.png"
    code, out, err = call(capsys, "query", question, run.path, *flags, "--out", own)
    assert code == 0, err
    assert str(own) in out.splitlines()
    Image.open(own).verify()


def test_the_numbers_of_an_answer(runs: dict[str, Run]) -> None:
    """What an answer says is what its function computes of the same images."""
    run = runs["pixelcnn"]
    found = run.ask("classify", n=6, prior="training", device="cpu")
    data = load(run.config.data, progress=False)
    assert data.labels is not None
    counts = torch.bincount(torch.as_tensor(data.labels[data.train]).long(), minlength=3)
    x, labels = data.batch(found.protocol["indices"]), data.label_batch(found.protocol["indices"])
    assert labels is not None
    by_hand = classify(run.model("cpu"), x, labels, counts)
    assert found.numbers["accuracy"].value == by_hand.accuracy[0]
    assert found.numbers["negative_log_likelihood"].value == by_hand.negative_log_likelihood[0]
    assert found.values["confusion"] == by_hand.confusion.tolist()
    mapped = run.ask("surprise", n=5, labels="true", device="cpu")
    x, labels = data.batch(mapped.protocol["indices"]), data.label_batch(mapped.protocol["indices"])
    model = run.model("cpu")
    assert isinstance(model, Orders)
    assert mapped.values["nats"] == surprise(model, x, labels).nats.tolist()


def test_causality_and_outliers_on_the_command_line(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pixelcnn", "pixelrnn"):
        code, out, err = call(capsys, "query", "causality", runs[name].path, "--json")
        assert code == 0, err
        assert json.loads(out)["values"]["ok"] is True
    assert call(capsys, "query", "causality", runs["pixelrnn"].path)[1].startswith("no value sees itself")
    other = tmp_path / "other.npz"
    np.savez(other, images=np.random.default_rng(0).integers(0, 256, (9, 12, 10, 3)).astype(np.uint8))
    code, out, err = call(capsys, "query", "ood", runs["pixelrnn"].path, other, "--json", "-n", 9)
    assert code == 0, err
    record = json.loads(out)
    assert len(record["values"]["other"]["nats"]) == 9
    assert len(record["values"]["own"]["nats"]) == 9
    assert 0 <= record["numbers"]["auroc"]["value"] <= 1
    assert "Nalisnick" in call(capsys, "query", "ood", runs["pixelrnn"].path, other)[1]


def test_a_question_out_of_place_is_one_line(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cnn, rnn, gan = (runs[name].path for name in ("pixelcnn", "pixelrnn", "gan"))
    for arguments, fault in (
        (["receptive", cnn, "--position", "4"], "write ROW,COLUMN"),
        (["receptive", cnn, "--position", "8,0"], "position 8,0 is outside the image"),
        (["classify", rnn], "unconditional"),
        (["ood", rnn], "name one"),
        (["causality", gan], "gan does not have; pixelcnn and pixelrnn do"),
        (["surprise", gan], "gan does not have; pixelcnn and pixelrnn do"),
        (["complete", gan], "gan does not have; pixelcnn, pixelrnn"),
        (["receptive", gan], "gan does not have; pixelcnn and pixelrnn do"),
        (["classify", gan, "-n", 3], "undefined for gan"),
        (["ood", gan, rnn.parent / "blobs.npz"], "undefined for gan"),
    ):
        code, out, err = call(capsys, "query", *arguments)
        assert code == 1, arguments
        assert fault in err
        assert len([line for line in err.splitlines() if line.startswith("trilemma: ")]) == 1
        assert not out
    code, out, err = call(capsys, "query", "surprise", cnn, "--copies", 2)
    assert code and "--copies" in err and not out
