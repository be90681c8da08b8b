"""Posterior, codes for other work, and what can be drawn from a latent space; by closed forms and the command line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from coders import SPEC, linear_vae, noise_images
from conftest import write_blobs
from tiny import Linear, call
from torch import Tensor

import trilemma
from trilemma.data import load
from trilemma.families.autoencoder import Autoencoder, AutoencoderConfig
from trilemma.families.gan import GAN, GANConfig
from trilemma.families.pixelcnn import PixelCNN
from trilemma.families.vae import VAE
from trilemma.images import Spec, from_unit
from trilemma.questions import interpolate as between
from trilemma.questions import manifold as plane
from trilemma.questions import posterior as coded
from trilemma.questions.arithmetic import arithmetic, parse_arithmetic
from trilemma.questions.codes import Codes, decoded_codes
from trilemma.questions.downstream import downstream, downstream_check, linear_probe, vote
from trilemma.questions.interpolate import Interpolate, Interpolation, interpolate, spherical, straight
from trilemma.questions.manifold import manifold
from trilemma.questions.posterior import codes, decode, posterior, project
from trilemma.questions.traverse import Traverse, traverse
from trilemma.run import Run
from trilemma.training import train

# --- the posterior ---------------------------------------------------------------------------------------------------


def test_posterior_is_the_encoders_and_ranks_latents_by_their_rate() -> None:
    model, x = linear_vae([0.5, 0.0, 2.0], [-1.0, 0.0, -3.0]), noise_images(150)
    answer = posterior(model, x)
    unit = x.flatten(1)[:, :3].float() / 127.5 - 1
    assert torch.allclose(answer.mean, unit * torch.tensor([0.5, 0.0, 2.0]), atol=1e-6)
    assert torch.allclose(answer.std[0], torch.tensor([-0.5, 0.0, -1.5]).exp())
    rate = 0.5 * (answer.mean.square().mean(0) + answer.std[0].square() - 1 - 2 * answer.std[0].log())
    assert answer.rate is not None
    assert torch.allclose(answer.rate, rate, atol=1e-5)
    assert answer.order.tolist() == [2, 0, 1]
    assert answer.active.tolist() == [True, False, True]
    assert "2 of 3 latents are active" in answer.verdict
    assert torch.equal(answer.reconstructions.flatten(1)[:, 0], from_unit(answer.mean[:, 0], 256))


def test_collapse_is_said_in_words() -> None:
    answer = posterior(linear_vae([0.0, 0.0], [0.0, 0.0]), noise_images(20))
    assert answer.verdict.startswith("posterior collapse: none of 2 latents is active")
    assert answer.rate is not None
    assert answer.rate.sum() == 0
    assert "one image" in posterior(linear_vae([0.0], [0.0]), noise_images(1)).verdict


def test_draws_have_the_posteriors_moments_and_depend_on_seed_and_number() -> None:
    answer = posterior(linear_vae([1.0, 1.0], [-2.0, 0.5]), noise_images(3))
    drawn = answer.draw(4000, seed=1)
    assert drawn.shape == (3, 4000, 2)
    assert torch.allclose(drawn.mean(1), answer.mean, atol=0.1)
    assert torch.allclose(drawn.std(1), answer.std, rtol=0.05)
    assert torch.equal(drawn[:, :5], answer.draw(5, seed=1))
    assert not torch.equal(drawn[:, :5], answer.draw(5, seed=2))


def test_an_autoencoder_has_one_code() -> None:
    torch.manual_seed(0)
    model, x = Autoencoder(AutoencoderConfig(width=8, latent=3), SPEC).eval(), noise_images(70)
    answer = posterior(model, x)
    assert answer.kind == "point"
    assert answer.rate is None
    assert (answer.std == 0).all()
    assert torch.equal(answer.draw(2)[:, 0], answer.mean)
    with torch.no_grad():
        assert torch.allclose(answer.mean, model.encode(x).mean, atol=1e-5)
        assert torch.allclose(answer.distortion, model.distortion(x, model.encode(x).mean).double(), rtol=1e-4)
    assert torch.equal(decode(model, answer.mean), answer.reconstructions)


def test_errors_are_one_line() -> None:
    x = noise_images(2)
    gan = GAN(GANConfig(width=4, latent=2), SPEC)
    assert not any(issubclass(PixelCNN, each) for each in Interpolate.capabilities)
    assert not issubclass(GAN, Traverse.capabilities[0]) and issubclass(GAN, Interpolate.capabilities[0])
    with pytest.raises(ValueError, match="at least 2 steps"):
        interpolate(gan, x, x, 1)
    with pytest.raises(ValueError, match="this has 3 dimensions"):
        manifold(linear_vae([1.0] * 3, [0.0] * 3))
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        decode(gan, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="three groups"):
        arithmetic(gan, [x, x], x)
    with pytest.raises(ValueError, match="two classes"):
        downstream(torch.zeros(3, 2), torch.zeros(3).long(), torch.zeros(1, 2), torch.zeros(1).long())


# --- downstream ------------------------------------------------------------------------------------------------------


def test_linear_probe_separates_what_can_be_separated() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=generator)
    labels = (x[:, 0] + 0.5 * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0.3).long()
    assert (linear_probe(x[:200], labels[:200], x[200:]) == labels[200:]).double().mean() > 0.9
    far = torch.cat([x[:200] + 5 * labels[:200, None], x[:200] + 5 * labels[:200, None]])
    assert (linear_probe(far, labels[:200].repeat(2), far) == labels[:200].repeat(2)).double().mean() > 0.95


def test_neighbours_vote_and_ties_go_to_the_nearer() -> None:
    train_codes = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    assert vote(train_codes, labels, torch.tensor([[0.4], [9.0]]), 3).tolist() == [0, 1]
    assert vote(train_codes, labels, torch.tensor([[1.4], [1.6]]), 2).tolist() == [0, 1]


def test_good_codes_beat_bad_pixels() -> None:
    """The class is in the sign of one pixel among sixteen, and one latent reads it."""
    x = noise_images(400)
    labels = (x.flatten(1)[:, 0] > 127).long()
    answers = downstream_check(linear_vae([4.0], [0.0]), (x[:300], labels[:300]), (x[300:], labels[300:]))
    assert answers["codes"].neighbours[0] > 0.97
    assert answers["codes"].linear[0] > 0.97
    assert answers["pixels"].neighbours[0] < 0.92
    assert (answers["codes"].dims, answers["pixels"].dims) == (1, 16)
    share, error = answers["pixels"].neighbours
    assert error == pytest.approx(math.sqrt(share * (1 - share) / 100))


# --- exploration -----------------------------------------------------------------------------------------------------


def test_lines_and_arcs_have_their_ends_and_arcs_keep_the_radius() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 20, generator=generator), torch.randn(6, 20, generator=generator)
    b = b * (a.norm(dim=1) / b.norm(dim=1))[:, None]
    line, arc = straight(a, b, 9), spherical(a, b, 9)
    for way in (line, arc):
        assert torch.allclose(way[:, 0], a, atol=1e-6)
        assert torch.allclose(way[:, -1], b, atol=1e-6)
    assert torch.allclose(line[:, 4], (a + b) / 2, atol=1e-6)
    assert torch.allclose(arc.norm(dim=2), a.norm(dim=1)[:, None].expand(6, 9), rtol=1e-5)
    assert (line[:, 4].norm(dim=1) < arc[:, 4].norm(dim=1)).all()
    angles = torch.nn.functional.cosine_similarity(arc[:, :-1], arc[:, 1:], dim=2).acos()
    assert torch.allclose(angles, angles.mean(1, keepdim=True).expand_as(angles), atol=1e-3)  # even steps
    assert torch.allclose(spherical(a, 2 * a, 5), straight(a, 2 * a, 5), atol=1e-5)  # no arc: the line
    assert torch.isfinite(spherical(a, -a, 5)).all()


def test_interpolation_of_a_linear_decoder_is_the_blend_of_its_reconstructions() -> None:
    model = linear_vae([1.0] * 16, [0.0] * 16)
    a, b = noise_images(3), noise_images(3, seed=1)
    answer = interpolate(model, a, b, 5)
    assert answer.straight.shape == answer.spherical.shape == (3, 5, *SPEC.shape)
    assert torch.equal(answer.straight[:, 0], a)
    assert torch.equal(answer.spherical[:, -1], b)
    assert (answer.straight[:, 2].float() - (a.float() + b.float()) / 2).abs().max() <= 1


def test_traversal_moves_one_latent_the_most_important_first() -> None:
    model, x = linear_vae([0.5, 0.0, 1.0], [-1.0, 0.0, -3.0]), noise_images(50)
    known = posterior(model, x)
    answer = traverse(model, x[:1], known, steps=5, reach=0.8)
    assert answer.latents.tolist() == [2, 0, 1]
    assert answer.measure == "nats"
    assert torch.allclose(answer.values, torch.linspace(-0.8, 0.8, 5).expand(3, 5))
    pixels = answer.images.flatten(2).long()
    for i, latent in enumerate(answer.latents.tolist()):
        assert pixels[i, :, latent].tolist() == from_unit(torch.linspace(-0.8, 0.8, 5), 256).tolist()
        others = [j for j in range(16) if j != latent]
        assert (pixels[i, :, others] == pixels[i, :1, others]).all()
    assert len(traverse(model, x[:1], known, most=1).images) == 1


def test_manifold_holds_quantiles_of_the_prior() -> None:
    images = manifold(linear_vae([1.0, 1.0], [0.0, 0.0]), side=5)
    assert images.shape == (5, 5, *SPEC.shape)
    quantiles = torch.special.ndtri(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    across = images[0, :, 0, 0, 0]
    assert across.tolist() == from_unit(quantiles, 256).tolist()
    assert images[:, 0, 0, 0, 1].tolist() == from_unit(quantiles.flip(0), 256).tolist()  # upwards
    torch.manual_seed(0)
    plain = Autoencoder(AutoencoderConfig(width=8, latent=2), SPEC).eval()
    with pytest.raises(ValueError, match="no prior"):
        manifold(plain, 3)
    assert manifold(plain, 3, known=posterior(plain, noise_images(20))).shape == (3, 3, *SPEC.shape)


def test_arithmetic_of_a_linear_code_is_that_of_the_images() -> None:
    model = linear_vae([1.0] * 16, [0.0] * 16)
    a, b, c = (torch.full((2, *SPEC.shape), value, dtype=torch.uint8) for value in (200, 120, 60))
    pool = torch.stack([torch.full(SPEC.shape, value, dtype=torch.uint8) for value in (0, 139, 255, 150)])
    answer = arithmetic(model, [a, b, c], pool, copies=3, k=2)
    assert (answer.result.long() - 140).abs().max() <= 1
    assert answer.indices.tolist() == [1, 3]
    assert answer.around.shape == (3, *SPEC.shape)
    assert torch.equal(answer.neighbours, pool[answer.indices])


def test_projection_finds_the_code_behind_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GAN(GANConfig(width=4, latent=3), SPEC).eval()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 3, generator=generator) * 0.3
    model.generator = Linear(weight, torch.zeros(16), SPEC.shape)  # type: ignore[assignment]
    z = torch.randn(4, 3, generator=generator)
    with torch.no_grad():
        x = model.decode(z)
    keep = (model.generator(z).abs() < 1).flatten(1).all(1)
    answer = project(model, x, starts=3, steps=300)
    assert answer.starts.shape == (4, 3, 3)
    assert (answer.error.amin(1)[keep] < 1e-3).all()
    assert torch.allclose(answer.z[keep], z[keep], atol=0.15)
    assert torch.equal(codes(model, x[:1], seed=1), project(model, x[:1], seed=1).z)
    assert (answer.error.diff(dim=1) >= 0).all()  # the nearest first
    assert torch.equal(answer.z, answer.starts[:, 0])
    with torch.no_grad():
        ends = model.generator(answer.starts.flatten(0, 1)).view(4, 3, 16)
    target = (x.flatten(1).float() / 127.5 - 1)[:, None]
    assert torch.allclose((ends - target).square().mean(2).double(), answer.error, atol=1e-6)
    monkeypatch.setattr(coded, "TOGETHER", 3)  # an image at a time
    alone = project(model, x, starts=3, steps=300)
    assert torch.allclose(alone.starts, answer.starts, atol=1e-3)
    assert all(parameter.requires_grad for parameter in model.parameters())


# --- why an autoencoder is no generative model ------------------------------------------------------------------------


def test_laws_of_codes_are_ranked_by_how_much_they_know_of_the_codes() -> None:
    """Codes on two far clouds and an exact decoder: N(0, I) and a large box miss what real codes hit."""
    torch.manual_seed(0)
    spec = Spec((1, 8, 8))
    model = Autoencoder(AutoencoderConfig(width=8, latent=2), spec).eval()
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 2, generator=generator)).Q
    model.encoder = Linear(basis.T, torch.zeros(2), (2,))  # type: ignore[assignment, arg-type]
    model.encoder.forward = lambda x, labels=None: x.flatten(1) @ basis  # type: ignore[method-assign]
    model.decoder = Linear(basis, torch.zeros(64), spec.shape)  # type: ignore[assignment]
    z = torch.randn(700, 2, generator=generator) * 0.3 + torch.where(
        torch.rand(700, 1, generator=generator) < 0.5, 3, -3
    )
    images = model.decode(z)
    answer = decoded_codes(model, images[:500], images[500:], n=300)
    assert answer.n == 200  # no more held-out images than there are
    kept = posterior(model, images[500:]).reconstructions[:10]
    assert torch.equal(answer.kinds["real"].images, kept)  # their codes, not those of the training images
    frechet = {kind: sampled.frechet.value for kind, sampled in answer.kinds.items() if sampled.frechet}
    assert all(sampled.frechet and sampled.frechet.error for sampled in answer.kinds.values())
    assert answer.flag is not None and answer.flag.startswith("warning: 200 images for 128 features")
    near = {kind: sampled.near for kind, sampled in answer.kinds.items()}
    assert 5 * max(frechet["real"], frechet["mixture"]) < min(frechet[kind] for kind in ("gaussian", "box", "prior"))
    assert near["real"] == pytest.approx(0.95, abs=0.01)  # which says what near is
    assert near["mixture"] > 0.8
    assert near["gaussian"] < 0.5
    assert near["box"] < 0.1
    assert near["prior"] < 0.1
    assert int(model.seen) == 0  # as it was
    assert not all(issubclass(VAE, each) for each in Codes.capabilities)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("latent")
    data = load(write_blobs(folder / "blobs.npz"), progress=False)
    settings = {"batch": 8, "pictures": 0}
    return {
        name: train(
            name,
            data,
            out=folder / name,
            budget="2steps",
            settings=settings,
            model={"latent": 2, "width": 4},
            say=print,
        )
        for name in ("vae", "gan", "autoencoder")
    }


@pytest.mark.parametrize("name", ["vae", "gan", "autoencoder"])
@pytest.mark.parametrize(
    ("question", "fields"),
    [
        ("interpolate", {"n": 4}),
        ("traverse", {"n": 9}),
        ("manifold", {"n": 9}),
        ("arithmetic", {"expression": "@1,2-@3+@4", "n": 2}),
    ],
)
def test_pictures_of_questions(
    name: str, question: str, fields: dict[str, object], runs: dict[str, Run], tmp_path: Path
) -> None:
    if name == "gan" and question == "traverse":
        with pytest.raises(ValueError, match="it needs an encoder, which gan does not have; autoencoder and vae do"):
            trilemma.ask(runs[name], question, **fields)
        return
    record = trilemma.ask(runs[name], question, **fields).save(tmp_path / "picture.png")
    assert record["question"] == question
    assert (tmp_path / "picture.png").exists()


def test_laws_of_codes_have_errors_and_a_flag(tmp_path: Path) -> None:
    data = load(write_blobs(tmp_path / "blobs.npz", count=1500), progress=False)
    run = train(
        "autoencoder", data, out=tmp_path / "run", budget="2steps", settings={"batch": 8, "pictures": 0},
        model={"latent": 2, "width": 4}, say=print,
    )  # fmt: skip
    found = trilemma.ask(run, "codes", n=1000)
    record = found.values
    assert set(record["kinds"]) == {"real", "mixture", "gaussian", "marginal", "prior", "box"}
    assert record["n"] == len(data.test)
    assert record["flag"].startswith("warning")
    assert record["floor"]["standard_error"] > 0
    assert record["kinds"]["mixture"]["frechet"]["standard_error"] > 0
    lines = found.lines()
    assert " ± " in lines[0]
    assert any(f"warning: {len(data.test)} images" in line for line in lines)


@pytest.fixture(scope="module")
def classed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("classed")
    data = load(write_blobs(folder / "blobs.npz"), progress=False)
    return train(
        "vae", data, out=folder / "vae", budget="2steps", settings={"batch": 8, "pictures": 0}, conditional=True,
        model={"latent": 2, "width": 4}, say=print,
    )  # fmt: skip


def test_interpolation_with_true_labels_is_between_images_of_one_class(
    classed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Tensor | None] = []

    def spy(run: object, a: Tensor, b: Tensor, steps: int, labels: Tensor | None, **rest: object) -> Interpolation:
        told.append(labels)
        way = a[:, None].expand(-1, steps, -1, -1, -1)
        return Interpolation(way, way, 256)

    monkeypatch.setattr(between, "interpolate", spy)
    record = trilemma.ask(classed, "interpolate", n=8, labels="true").values
    data = load(classed.config.data)
    first, second = (data.label_batch(np.array(record[end])) for end in ("from", "to"))
    assert first is not None and second is not None
    assert len(first) == 4
    assert torch.equal(first, second)
    assert told[0] is not None and torch.equal(told[0], first)
    assert len(first.unique()) > 1  # or one class for all would pass
    assert not set(record["from"]) & set(record["to"])


def test_one_plane_is_of_one_class_and_says_which(classed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    titles, known = [], []
    drawn = plane.draw_manifold
    monkeypatch.setattr(
        plane,
        "draw_manifold",
        lambda images, levels, title, words: titles.append(title) or drawn(images, levels, title, words),
    )
    monkeypatch.setattr(
        plane, "posterior", lambda model, x, y, **rest: known.append(y) or posterior(model, x, y, **rest)
    )
    found = trilemma.ask(classed, "manifold", labels="1", n=30)
    assert set(found.figures) == {"manifold", "codes"}
    assert "the latent plane of class 1" in titles[0]
    assert 0 < len(known[0]) < 30
    assert (known[0] == 1).all()
    for labels, words in (("true", "name one class"), ("0,1", "one class, not 2")):
        with pytest.raises(ValueError, match=words):
            trilemma.ask(classed, "manifold", labels=labels, n=9)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("T-shirt/top-Coat+Bag", ["T-shirt/top", "Coat", "Bag"]),
        (" Coat - T-shirt/top + a+b", ["Coat", "T-shirt/top", "a+b"]),
        ("T-shirt/top-T-shirt/top+T-shirt/top", ["T-shirt/top"] * 3),
        ("@1,2-T-shirt/top+@3, @4", ["@1,2", "T-shirt/top", "@3, @4"]),
    ],
)
def test_arithmetic_reads_classes_with_signs_in_their_names(text: str, parts: list[str]) -> None:
    names = ("T-shirt/top", "Coat", "Bag", "a+b")
    labels = np.arange(40) % 4
    data = replace(load("mnist"), images=np.zeros((40, 1, 4, 4), np.uint8), labels=labels, class_names=names,
                   test=np.arange(40))  # fmt: skip
    groups, found = parse_arithmetic(text, data, 3, 0)
    assert found == parts
    for group, part in zip(groups, parts, strict=True):
        assert part.startswith("@") or (labels[group] == names.index(part)).all()


def test_arithmetic_that_can_be_read_twice_is_refused() -> None:
    data = replace(load("mnist"), class_names=("a", "a-b", "b", "b-c", "c"))
    with pytest.raises(ValueError, match="in 2 ways"):
        parse_arithmetic("a-b-c+a", data, 3, 0)
    with pytest.raises(ValueError, match="'x' is not a class"):
        parse_arithmetic("x-b+c", data, 3, 0)


def test_posterior_of_a_gan_is_points_found_by_search(runs: dict[str, Run], tmp_path: Path) -> None:
    found = trilemma.ask(runs["gan"], "posterior", n=2)
    record = found.save(tmp_path / "found.png")
    values = record["values"]
    assert values["kind"] == "search" and found.kind == "point"
    assert "not draws of p(z|x)" in values["reason"]
    with np.load(tmp_path / record["file"], allow_pickle=False) as saved:
        assert np.allclose(saved["z"], values["z"])
        assert saved["starts"].shape == (2, 8, 2)
        assert np.allclose(saved["error"], values["error"])
        assert saved["indices"].tolist() == record["protocol"]["indices"]
        assert len(saved["labels"]) == 2
    assert (tmp_path / "found.png").exists()
    assert "points found by search" in found.lines()[0]


def test_posterior_downstream_and_annealing_of_runs(runs: dict[str, Run], tmp_path: Path) -> None:
    found = trilemma.ask(runs["vae"], "posterior", n=5)
    record = found.save(tmp_path)
    with np.load(tmp_path / record["file"], allow_pickle=False) as saved:
        assert np.allclose(saved["mean"], record["values"]["mean"])
        assert np.allclose(saved["std"], record["values"]["std"])
        assert saved["order"].tolist() == record["values"]["order"]
        assert saved["indices"].tolist() == record["protocol"]["indices"]
        data = load(runs["vae"].config.data)
        assert saved["classes"].tolist() == list(data.class_names)
        labels = data.label_batch(saved["indices"])
        assert labels is not None and saved["labels"].tolist() == labels.tolist()
    with pytest.raises(ValueError, match="refused: 10 images do not determine the covariance of 128 features"):
        trilemma.ask(runs["autoencoder"], "codes", n=20)
    assert set(trilemma.ask(runs["autoencoder"], "downstream", n=40).values["features"]) == {"codes", "pixels"}
    for name, kind in (("vae", "bound"), ("gan", "estimate")):
        answer = trilemma.ask(runs[name], "annealed", n=2, temperatures=3, chains=2)
        assert answer.kind == kind
        assert len(answer.values["forward"]) == len(answer.values["simulated"]["backward"]) == 2
    with pytest.raises(ValueError, match="sigma must be above 0"):
        trilemma.ask(runs["gan"], "annealed", n=1, sigma=0.0)
    with pytest.raises(TypeError, match="interpolate has no 'chains'"):
        trilemma.ask(runs["vae"], "interpolate", chains=2)
    with pytest.raises(ValueError, match=r"write A-B\+C"):
        trilemma.ask(runs["vae"], "arithmetic", expression="a+b")


def test_the_command_writes_picture_and_codes(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.png"
    code, out, err = call(capsys, "query", "posterior", runs["gan"].path, "-n", 2, "--out", found, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["values"]["kind"] == "search"
    assert (tmp_path / "found.png").exists() and (tmp_path / record["file"]).exists()
