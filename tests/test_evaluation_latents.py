"""What an evaluation says of codes, and how the report shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blobs
from PIL import Image

from trilemma.data import Dataset, load
from trilemma.families.family import Family
from trilemma.questions import Answer, Context, answer, questions
from trilemma.report.answers import answered
from trilemma.run import Run
from trilemma.training import train


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("real") / "real.npz"
    images, labels = blobs(5000)
    np.savez(path, images=images, labels=labels)
    return load(path, progress=False)


def untrained(name: str, real: Dataset, path: Path) -> tuple[Run, Family]:
    run = train(
        name, real, out=path / name, budget="1steps", model=dict(width=8, latent=3), settings=dict(pictures=0),
        say=lambda line: None,
    )  # fmt: skip
    return run, run.model()


def routine(name: str, run: Run, model: Family, real: Dataset) -> Answer:
    """What every evaluation asks."""
    question = questions()[name].routine(run)
    assert question is not None
    return answer(question, Context(run, known=(model, real)))


def page(found: Answer, folder: Path) -> str:
    record: dict[str, Any] = found.save(folder / "queries")
    return answered({"title": "A model", "asked": [record | {"folder": "queries"}]}, folder)


def test_a_collapsed_vae_is_named(real: Dataset, tmp_path: Path) -> None:
    run, vae = untrained("vae", real, tmp_path)
    for parameter in vae.encoder.head.parameters():  # type: ignore[union-attr]
        parameter.data.zero_()  # q(z|x) is the prior
    found = routine("posterior", run, vae, real)
    assert found.numbers["active_units"].value == 0
    assert found.numbers["rate"].value == 0
    assert "posterior collapse" in str(found.flag)
    assert '<p class="flag">Posterior collapse' in page(found, tmp_path)


def test_an_autoencoder_shows_why_it_is_no_sampler(real: Dataset, tmp_path: Path) -> None:
    run, coder = untrained("autoencoder", real, tmp_path)
    before = {name: value.clone() for name, value in coder.state_dict().items()}
    found = routine("codes", run, coder, real)
    assert {"real", "mixture", "gaussian"} <= set(found.values["kinds"])
    assert all((value == before[name]).all() for name, value in coder.state_dict().items())
    assert found.numbers["floor"].n == len(real.test)  # all held-out images that there are
    shown = page(found, tmp_path)
    assert "Laws fitted to the codes" in shown and "Warning: " in shown
    assert str(found.numbers["frechet_real"]) in shown
    assert shown.count("<img") == 1
    with Image.open(tmp_path / "queries" / "codes.png") as picture:
        assert picture.size[0] > 100


def test_a_gan_has_neither(real: Dataset, tmp_path: Path) -> None:
    run = train("gan", real, out=tmp_path / "gan", budget="1steps", settings=dict(pictures=0), say=lambda line: None)
    assert questions()["posterior"].routine(run) is None
    assert questions()["codes"].able(run) is not None
