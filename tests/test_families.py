"""The contract that every family keeps, over all families."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from trilemma.families import FAMILIES
from trilemma.families.family import QUESTIONS, Density, Family
from trilemma.images import Spec
from trilemma.noise import BatchNoise, ImageNoise
from trilemma.presets import PRESETS, SIZES, configure
from trilemma.sampling import sample

SPECS = [
    Spec((1, 8, 8)),
    Spec((3, 8, 8), classes=3),
    Spec((1, 7, 10), levels=2, classes=2),
    Spec((3, 9, 6), levels=2),
]
VECTORS = [
    Spec((2,), levels=0, center=(1.0, -2.0), scale=(3.0, 0.5)),
    Spec((5,), levels=0, classes=3, center=(0.0,) * 5, scale=(1.0,) * 5),
]
VECTOR_NAMES = [name for name, cls in FAMILIES.items() if cls.vectors]
names = pytest.mark.parametrize("name", list(FAMILIES))


def shown(spec: Spec) -> str:
    return "x".join(map(str, spec.shape)) + f"-{spec.levels}-{spec.classes}"


specs = pytest.mark.parametrize("spec", SPECS, ids=shown)
everything = pytest.mark.parametrize(
    ("name", "spec"),
    [
        pytest.param(name, spec, id=f"{name}-{shown(spec)}")
        for name in FAMILIES
        for spec in (SPECS + VECTORS if name in VECTOR_NAMES else SPECS)
    ],
)


def build(name: str, spec: Spec) -> Family:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FAMILIES[name](configure(name, "tiny", spec if spec.vector else Spec((1, 28, 28)))[0], spec)


def quick(name: str) -> object:
    """The family's sampling options, with few steps where it takes any."""
    options = FAMILIES[name].Options
    fields = {field.name for field in dataclasses.fields(options)}
    return options(**({"steps": 2} if "steps" in fields else {}))


def batch(spec: Spec, count: int = 4) -> tuple[torch.Tensor, torch.Tensor | None]:
    noise = ImageNoise(3, range(count))
    if spec.vector:
        return noise.normal(*spec.shape), (torch.arange(count) % (spec.classes + 1) if spec.classes else None)
    x = noise.integers(spec.levels, *spec.shape).to(torch.uint8)
    # The last label is "no class", which training mixes in.
    return x, (torch.arange(count) % (spec.classes + 1) if spec.classes else None)


@names
def test_says_what_it_is(name: str) -> None:
    cls = FAMILIES[name]
    assert cls.name == name
    assert isinstance(cls.density, Density)
    assert all(text for text in (cls.title, cls.paper, cls.gives_up))
    assert tuple(cls.answers) == QUESTIONS
    assert {text.split()[0].strip(",:;") for text in cls.answers.values()} <= {"yes", "bound", "approximate", "no"}
    for config in (cls.Config, cls.Options):
        assert dataclasses.is_dataclass(config)
        assert config.__dataclass_params__.frozen
        config()
    assert set(SIZES) <= set(vars(PRESETS[name]))


@everything
def test_objectives_cover_every_parameter_and_each_gets_a_gradient(name: str, spec: Spec) -> None:
    model = build(name, spec)
    objectives = model.objectives()
    listed = [id(p) for objective in objectives for p in objective.parameters]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters()}
    x, labels = batch(spec)
    for objective in objectives:
        model.zero_grad()
        loss = objective.loss(x, labels, BatchNoise((0,), 4, 0, 4, torch.device("cpu")))
        assert all(value.ndim == 0 and math.isfinite(value.item()) for value in (loss.terms | loss.logs).values())
        loss.total.backward()
        # Data-parallel training waits for the gradient of every parameter.
        assert all(p.grad is not None for p in objective.parameters)


@everything
def test_samples_are_images_of_the_spec(name: str, spec: Spec) -> None:
    model = build(name, spec).eval()
    drawn = sample(model, 3, options=quick(name), block=4)
    assert drawn.images.shape == (3, *spec.shape)
    if spec.vector:
        assert drawn.images.dtype == torch.float32
        assert torch.isfinite(drawn.images).all()
    else:
        assert drawn.images.dtype == torch.uint8
        assert int(drawn.images.max()) < spec.levels
    if spec.classes:
        assert drawn.labels is not None
        given = sample(model, 3, labels=[1], options=quick(name), block=4)
        assert given.labels is not None
        assert given.labels.tolist() == [1, 1, 1]


@everything
def test_image_i_depends_on_seed_and_i_alone(name: str, spec: Spec) -> None:
    model = build(name, spec).eval()
    few, many = (
        sample(model, 3, seed=5, options=quick(name), block=4),
        sample(model, 7, seed=5, options=quick(name), block=4),
    )
    assert torch.equal(few.images, many.images[:3])
    assert not torch.equal(sample(model, 3, seed=6, options=quick(name), block=4).images, few.images)
    # Another block size rounds its sums otherwise, and no more than that.
    with torch.no_grad():
        exact = model.double()
        one, other = (
            sample(exact, 4, seed=5, options=quick(name), block=4).images,
            sample(exact, 4, seed=5, options=quick(name), block=3).images,
        )
    if spec.vector:
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)
    else:
        assert (one.int() - other.int()).abs().max() <= 1


@everything
def test_log_likelihood_says_what_it_is(name: str, spec: Spec) -> None:
    model = build(name, spec).eval()
    x, labels = batch(spec)
    with torch.no_grad():
        answer = model.log_likelihood(x, labels, ImageNoise(0, range(4)), samples=2)
        again = model.log_likelihood(x, labels, ImageNoise(0, range(4)), samples=2)
    expected = {
        Density.TRACTABLE: {"exact"},
        Density.APPROXIMATE: {"bound", "estimate"},
        Density.IMPLICIT: {"undefined"},
        Density.NONE: {"undefined"},
    }
    assert answer.kind in expected[model.density]
    assert answer.reason
    if answer.kind == "undefined":
        assert answer.nats is None
    else:
        assert answer.nats is not None
        assert again.nats is not None
        assert answer.nats.shape == (4,)
        assert torch.isfinite(answer.nats).all()
        assert spec.vector or (answer.nats < 0).all()  # a probability of a discrete image
        assert torch.equal(answer.nats, again.nats)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in VECTOR_NAMES])
def test_a_family_of_pixels_refuses_vectors_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"^an autoregressive family predicts .*: use vae, gan, diffusion or flow$"):
        configure(name, "tiny", VECTORS[0])


@names
def test_labels_reach_the_samples(name: str) -> None:
    """Moving the embedding of one class changes its images and no other's."""
    model = build(name, Spec((1, 8, 8), classes=3)).eval()
    embeddings = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.num_embeddings == 4]
    assert embeddings, "labels are embedded with one row for 'no class'"
    with torch.no_grad():
        for parameter in model.parameters():  # zero-initialised outputs would hide every input
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        before = [sample(model, 4, labels=[k], options=quick(name), block=4).images for k in (1, 2)]
        for embedding in embeddings:
            embedding.weight[1] += 3.0
        after = [sample(model, 4, labels=[k], options=quick(name), block=4).images for k in (1, 2)]
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
