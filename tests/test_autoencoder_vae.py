"""The autoencoder and the VAE: the contract, the networks, and what is trained."""

from __future__ import annotations

import math

import pytest
import torch
from coders import SHAPES, autoencoder, batch_noise, blobs, random_images, train, vae

from trilemma.families.autoencoder import Autoencoder
from trilemma.families.family import QUESTIONS
from trilemma.families.vae import PATIENCE, VAE, VAEConfig, VAEOptions
from trilemma.images import Spec
from trilemma.nets.convnets import Decoder, Encoder, Ladder
from trilemma.noise import ImageNoise

# --- nets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "halvings", "seed"),
    [((28, 28), 2, (7, 7)), ((32, 32), 3, (4, 4)), ((17, 23), 2, (5, 6)), ((8, 8), 1, (4, 4)), ((64, 48), 3, (8, 6))],
)
def test_ladder_reaches_a_small_seed(size: tuple[int, int], halvings: int, seed: tuple[int, int]) -> None:
    ladder = Ladder.of(*size)
    assert (ladder.halvings, ladder.seed) == (halvings, seed)


def test_crop_inverts_pad() -> None:
    for size in [(17, 23), (28, 28), (5, 4), (9, 31), (1, 1)]:
        ladder = Ladder.of(*size)
        x = torch.randn(2, 3, *size)
        padded = ladder.pad(x)
        assert padded.shape[2:] == tuple(2**ladder.halvings * s for s in ladder.seed)
        assert torch.equal(ladder.crop(padded), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_encoder_and_decoder_shapes(shape: tuple[int, int, int]) -> None:
    encoder, decoder = Encoder(shape, 8, 1, 5, classes=3), Decoder(shape, 8, 1, 5, 2, classes=3)
    labels = torch.tensor([0, 3])
    z = encoder(torch.randn(2, *shape), labels)
    assert z.shape == (2, 5)
    assert decoder(z, labels).shape == (2, 2, *shape[1:])


# --- the contract ----------------------------------------------------------------------------------------------------

FAMILIES = [vae, autoencoder]


@pytest.mark.parametrize("make", FAMILIES)
def test_declares_everything(make: object) -> None:
    cls = VAE if make is vae else Autoencoder
    assert set(cls.answers) == set(QUESTIONS)
    assert all(
        answer.split()[0].strip(":,") in {"yes", "bound", "approximate", "no"} for answer in cls.answers.values()
    )
    assert cls.title
    assert cls.paper
    assert cls.gives_up
    assert cls.Config() == cls.Config()
    assert cls.Options() == cls.Options()


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", FAMILIES)
def test_shapes_gradients_and_state(make: object, shape: tuple[int, int, int], levels: int) -> None:
    spec = Spec(shape, levels, classes=3)
    model = make(spec)  # type: ignore[operator]
    x, labels = random_images(spec, 4), torch.tensor([0, 1, 2, 3])
    (objective,) = model.objectives()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective.loss(x, labels, batch_noise(0, 4))
    assert loss.total.dtype == torch.float32
    loss.total.backward()
    assert {id(p) for p in objective.parameters} == {id(p) for p in model.parameters()}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    for given in (labels, None):
        images = model.eval().sample(ImageNoise(0, range(4)), given)
        assert images.dtype == torch.uint8
        assert images.shape == (4, *shape)
        assert int(images.max()) < levels


@pytest.mark.parametrize("config", [{}, {"scale": "channel"}, {"observation": "l2"}, {"network": "dense"}])
@pytest.mark.parametrize("draw", ["mean", "sample"])
def test_vae_image_does_not_depend_on_its_batch(config: dict[str, str], draw: str) -> None:
    spec = Spec((1, 12, 10), classes=2)
    model = vae(spec, **config).double().eval()
    labels, options = torch.tensor([0, 1, 2, 1]), VAEOptions(draw=draw)  # type: ignore[arg-type]
    together = model.sample(ImageNoise(5, range(4)), labels, options)
    alone = model.sample(ImageNoise(5, [2]), labels[2:3], options)
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(together[1:2], alone)


def test_vae_likelihood_does_not_depend_on_the_batch_and_sees_labels() -> None:
    spec = Spec((1, 8, 8), classes=2)
    model = vae(spec).double().eval()
    x, labels = random_images(spec, 4), torch.tensor([0, 1, 2, 1])
    for samples in (None, 3):
        together = model.log_likelihood(x, labels, ImageNoise(5, range(4)), samples).nats
        alone = model.log_likelihood(x[2:3], labels[2:3], ImageNoise(5, [2]), samples).nats
        null = model.log_likelihood(x[2:3], None, ImageNoise(5, [2]), samples).nats
        other = model.log_likelihood(x[2:3], labels[:1], ImageNoise(5, [2]), samples).nats
        assert together is not None
        assert alone is not None
        assert other is not None
        assert null is not None
        assert together.shape == (4,)
        assert torch.allclose(together[2], alone[0], rtol=1e-12)
        assert torch.equal(alone, null)  # the label 2 is "no label"
        assert not torch.allclose(alone, other)


def test_undefined_likelihoods_say_why() -> None:
    spec = Spec((1, 8, 8))
    for model in (vae(spec, observation="l2"), autoencoder(spec)):
        answer = model.log_likelihood(random_images(spec, 2), None, ImageNoise(0, range(2)))
        assert answer.kind == "undefined"
        assert answer.nats is None
        assert answer.reason


def test_user_errors_are_one_clear_line() -> None:
    spec = Spec((1, 8, 8), classes=2)
    model = vae(spec).eval()
    with pytest.raises(ValueError, match=r"0 … 2"):
        model.sample(ImageNoise(0, [0]), torch.tensor([3]))
    with pytest.raises(ValueError, match="without labels"):
        vae(Spec((1, 8, 8))).sample(ImageNoise(0, [0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="at least 1"):
        model.log_likelihood(random_images(spec, 1), None, ImageNoise(0, [0]), 0)


def test_collapse_alarm() -> None:
    for logs in ({"rate": 0.05}, {"rate": 3.0, "active_units": 0.2}):
        model = vae(Spec((1, 8, 8)), beta=4.0)
        assert model.alarms({}) == []
        assert model.alarms({"rate": 1.0, "active_units": 3.0}) == []
        assert [model.alarms(logs) for _ in range(PATIENCE - 1)] == [[]] * (PATIENCE - 1)  # normal at the start
        (alarm,) = model.alarms(logs)
        assert "collapse" in alarm
        assert "none of the 3 latents" in alarm
        assert "now 4" in alarm


def test_a_collapsed_encoder_has_no_active_units() -> None:
    spec = Spec((1, 8, 8), levels=2)
    model, x = vae(spec), blobs(spec, 16)
    (objective,) = model.objectives()
    with torch.no_grad():
        model.encoder.head.weight.zero_()
    assert objective.loss(x, None, batch_noise(0, 16)).logs["active_units"] == 0
    with torch.no_grad():
        model.encoder.head.weight[1].normal_()
    assert objective.loss(x, None, batch_noise(0, 16)).logs["active_units"] == 1


def test_importance_weighted_loss_is_minus_the_bound_and_has_its_gradient() -> None:
    """∇ log 1/k Σ w = Σ w̃ ∇ log w with the normalised weights w̃ (Burda et al. 2015, eq. 14)."""
    spec, k = Spec((1, 6, 6), levels=2), 4
    model = vae(spec, importance=k, network="dense", width=12, depth=2).double()
    x = blobs(spec, 3)
    (objective,) = model.objectives()
    loss = objective.loss(x, None, batch_noise(0, 3))
    mu, logvar = model.moments(x)
    std = (0.5 * logvar).exp()
    z = mu[:, None] + std[:, None] * batch_noise(0, 3).normal(k, 3)
    normal = torch.distributions.Normal
    log_w = torch.distributions.Bernoulli(logits=model.decoder(z.flatten(0, 1)).view(3, k, -1)).log_prob(
        x.flatten(1)[:, None].double()
    ).sum(2) + (normal(0, 1).log_prob(z) - normal(mu[:, None], std[:, None]).log_prob(z)).sum(2)
    assert loss.terms["iwae"].item() == pytest.approx(-(log_w.exp().mean(1).log().mean()).item(), rel=1e-9)
    assert loss.logs["bits_per_dim"].item() == pytest.approx(loss.total.item() / (36 * math.log(2)))
    by_hand = -(log_w.softmax(1).detach() * log_w).sum(1).mean()
    ours = torch.autograd.grad(loss.total, list(model.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(by_hand, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_kl_warms_up_by_steps_of_training_and_a_resumed_run_goes_on() -> None:
    spec = Spec((1, 8, 8), levels=2)
    model, x = vae(spec, kl_warmup=4, beta=2.0), blobs(spec, 4)
    (objective,) = model.objectives()

    def weight() -> float:
        loss = objective.loss(x, None, batch_noise(0, 4))
        return (loss.terms["kl"] / loss.logs["rate"]).item()

    assert [weight() for _ in range(3)] == pytest.approx([0.5, 1.0, 1.5])
    assert model.eval() and weight() == pytest.approx(1.5)  # looking is not a step
    again = vae(spec, kl_warmup=4, beta=2.0)
    again.load_state_dict(model.state_dict())
    assert int(again.steps) == 3
    model.train()
    assert [weight() for _ in range(3)] == pytest.approx([2.0, 2.0, 2.0])
    assert "steps" not in vae(spec).state_dict()  # nothing new in a run without a warm-up


def test_free_bits_pay_nothing_below_their_threshold() -> None:
    spec = Spec((1, 8, 8), levels=2)
    model, x = vae(spec, free_bits=0.3), blobs(spec, 8)
    (objective,) = model.objectives()
    with torch.no_grad():
        model.encoder.head.weight.zero_()
        model.encoder.head.bias.copy_(torch.tensor([2.0, 0.1, 0.0, 0.0, 0.0, 0.0]))  # KLs of 2, 0.005 and 0 nats
    loss = objective.loss(x, None, batch_noise(0, 8))
    assert loss.terms["kl"].item() == pytest.approx(2.0 + 0.3 + 0.3, rel=1e-5)
    assert loss.logs["rate"].item() == pytest.approx(2.005, rel=1e-5)
    gradient = torch.autograd.grad(loss.terms["kl"], model.encoder.head.bias)[0]
    assert gradient[0].item() == pytest.approx(2.0)
    assert gradient[1] == gradient[2] == 0  # free: nothing pulls it to the prior


def test_fixed_scale_is_not_learnt() -> None:
    spec = Spec((1, 4, 4))
    model = vae(spec, scale="fixed", fixed_scale=0.1)
    mu, log_s = model.observation.parts(torch.zeros(1, 1, 4, 4))
    assert torch.allclose(log_s.exp(), torch.tensor(0.1))
    assert not any("scale" in name for name, _ in model.named_parameters())
    assert not any("scale" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"importance": 0}, "at least 1"), ({"beta": -1.0}, "at least 0"), ({"free_bits": 0.1, "importance": 5}, "free")],
)
def test_wrong_objectives_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VAEConfig(**wrong)  # type: ignore[arg-type]


def test_many_importance_samples_in_chunks_equal_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec((1, 8, 8), levels=2)
    model, x = vae(spec, network="dense", width=10, depth=2).double().eval(), blobs(spec, 3)
    answers = []
    for rows in (1, 7, 1000):
        monkeypatch.setattr("trilemma.families.vae.ROWS", rows)
        answers.append(model.log_likelihood(x, None, ImageNoise(0, range(3)), 23).nats)
    assert torch.allclose(answers[0], answers[1], rtol=1e-10)  # type: ignore[arg-type]
    assert torch.allclose(answers[0], answers[2], rtol=1e-10)  # type: ignore[arg-type]


def test_a_decoder_that_went_black_still_learns() -> None:
    """Behind a tanh its gradient would vanish: a few first steps on mostly black images would end the training."""
    spec = Spec((1, 8, 8))
    white = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    for model in (autoencoder(spec), vae(spec, observation="l2")):
        torch.nn.init.constant_(model.decoder.head.bias, -20.0)  # type: ignore[arg-type, union-attr]
        (objective,) = model.objectives()
        objective.loss(white, None, batch_noise(0, 2)).terms["reconstruction"].backward()
        assert model.decoder.head.bias.grad.abs().item() > 1  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("make", FAMILIES)
def test_fifty_steps_learn_blobs(make: object, levels: int) -> None:
    spec = Spec((1, 12, 12), levels)
    model = make(spec)  # type: ignore[operator]
    losses = train(model, blobs(spec, 32), 50)
    assert losses[-1] < 0.6 * losses[0]
