"""Why non-saturating: the closed forms, and the gradient norms that are measured on a generator."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny import call

from trilemma import drawing
from trilemma.data import load
from trilemma.families.gan import GAN, GANConfig, generator_loss
from trilemma.families.vae import VAE
from trilemma.images import Spec
from trilemma.questions.gradients import GradientNorms, draw_gradients, gradients, loss_of, slope_of
from trilemma.training import train

SPEC = Spec((1, 12, 12))


def gan(bias: float = 0.0, spec: Spec = SPEC, **config: object) -> GAN:
    """With a D whose logits are shifted by ``bias``."""
    torch.manual_seed(0)
    model = GAN(GANConfig(**{"width": 8, "latent": 6, **config}), spec)  # type: ignore[arg-type]
    with torch.no_grad():
        model.discriminator.head.bias += bias
    return model


@pytest.mark.parametrize("loss", ["nonsaturating", "minimax"])
@pytest.mark.parametrize("d", [0.001, 0.3, 0.5, 0.9])
def test_the_curves_are_those_of_the_losses(d: float, loss: str) -> None:
    logit = torch.tensor([math.log(d / (1 - d))], dtype=torch.float64, requires_grad=True)
    value = generator_loss(logit, loss)  # type: ignore[arg-type]
    value.backward()
    assert logit.grad is not None
    assert loss_of(d, loss) == pytest.approx(value.item(), rel=1e-9)  # type: ignore[arg-type]
    assert slope_of(d, loss) == pytest.approx(logit.grad.item(), rel=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [-6.0, 0.0, 3.0])
def test_the_ratio_of_the_norms_is_that_of_the_slopes(bias: float) -> None:
    """Where D says d of every sample, both gradients point alike and their norms are as (1 - d) to d."""
    found = gradients(gan(bias), batches=2, batch=16)
    d = 1 / (1 + math.exp(-bias))
    assert found.d == pytest.approx(d, rel=0.01)
    assert found.ratio == pytest.approx((1 - d) / d, rel=0.02)
    assert f"{found.ratio:.3g} times" in found.verdict


def test_measuring_changes_nothing() -> None:
    model = gan(spectral_norm=True, discriminator_norm="batch", pack=2, spec=Spec((1, 16, 16), classes=2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = model.training
    assert gradients(model, batches=2, batch=8) == gradients(model, batches=2, batch=8)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training == training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_what_has_no_such_answer_says_so() -> None:
    assert not issubclass(VAE, GradientNorms.capabilities)
    with pytest.raises(ValueError, match="D is a critic"):
        gradients(gan(loss="wasserstein"))
    with pytest.raises(ValueError, match="at least 2 batches"):
        gradients(gan(), batches=1)


def test_the_picture_marks_where_the_generator_stands() -> None:
    drawn = [drawing.as_pixels(draw_gradients(gradients(gan(bias), 2, 8), "x")).tobytes() for bias in (-3.0, 2.0)]
    assert drawn[0] != drawn[1]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(
        "gan",
        load("mnist", limit=32, progress=False),
        out=tmp_path / "run",
        budget="1steps",
        model={"width": 8, "latent": 4, "loss": "nonsaturating"},
        settings={"batch": 8, "pictures": 0},
        say=str,
    )
    code, out, err = call(capsys, "query", "gradients", run.path, "-n", 2, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["question"] == "gradients" and record["values"]["batches"] == 2
    assert set(record["values"]["gradient_norms"]) == {"nonsaturating", "minimax"}
    assert (run.answers / record["figures"]["gradients"]).exists()
