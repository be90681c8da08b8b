"""What an evaluation says of codes, and how the report shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from conftest import blobs
from PIL import Image
from trilemma.evaluation.latents import draw_latents
from trilemma.report.latents import latents

from trilemma.data import Dataset, load
from trilemma.evaluation import Protocol, Reference
from trilemma.evaluation.stream import Supply
from trilemma.evaluation.subject import Subject
from trilemma.families import FAMILIES
from trilemma.families.family import Family
from trilemma.report.scores import error_text


def real(tmp_path: Path) -> Reference:
    images, labels = blobs(5000)
    np.savez(tmp_path / "real.npz", images=images, labels=labels)
    dataset: Dataset = load(tmp_path / "real.npz", progress=False)
    return Reference.prepare(dataset, Protocol(n=60, reference=100), "cpu")


def subject(name: str, reference: Reference) -> Subject:
    torch.manual_seed(0)
    config = FAMILIES[name].Config(width=8, latent=3)
    model: Family = FAMILIES[name](config, reference.dataset.spec()).eval().requires_grad_(False)
    return Subject(Supply(0, model.spec.shape, lambda a, b: torch.empty(0)), None, {}, model=model)


def test_a_collapsed_vae_is_named_and_an_autoencoder_shows_why_it_is_no_sampler(tmp_path: Path) -> None:
    reference = real(tmp_path)
    vae = subject("vae", reference)
    for parameter in vae.model.encoder.head.parameters():  # type: ignore[union-attr]
        parameter.data.zero_()  # q(z|x) is the prior
    said, pictures = draw_latents(vae, reference, tmp_path, "cpu")
    assert said["active"] == 0
    assert said["rate"] == 0
    assert "posterior collapse" in said["verdict"]
    assert set(pictures) == {"reconstructions"}
    family = {"title": "A VAE", "latent": said, "pictures": pictures}
    assert "<b>Posterior collapse</b>" in latents(family, tmp_path)

    coder = subject("autoencoder", reference)
    before = {name: value.clone() for name, value in coder.model.state_dict().items()}  # type: ignore[union-attr]
    said, pictures = draw_latents(coder, reference, tmp_path, "cpu")
    assert {"real", "mixture", "gaussian"} <= set(said["kinds"])
    assert all(torch.equal(value, before[name]) for name, value in coder.model.state_dict().items())  # type: ignore[union-attr]
    for name in pictures.values():
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 100
    page = latents({"title": "A coder", "latent": said, "pictures": pictures}, tmp_path)
    assert "no generative model" in page
    assert said["decoded"]["n"] == len(reference.dataset.test)  # all held-out images that there are
    assert f"({said['decoded']['n']} images of each, small" in page
    real_one = said["kinds"]["real"]
    assert error_text(real_one["frechet"], real_one["frechet_error"]) in page
    assert f"Warning: {said['decoded']['n']} images for 128 features" in page
    assert page.count("<img") == 2
    assert draw_latents(subject("gan", reference), reference, tmp_path, "cpu") == ({}, {})
    assert latents({"title": "A GAN"}, tmp_path) == ""
