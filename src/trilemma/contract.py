"""What every family keeps, as checks that can be run on any: those of the library in its tests, yours by
``trilemma check-family``.

Each check is a function of a model's class and a `Spec`, and fails with a sentence on what is wrong.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.families.family import QUESTIONS, Density, Family
from trilemma.images import Spec
from trilemma.noise import BatchNoise, ImageNoise
from trilemma.presets import configure
from trilemma.sampling import sample

SPECS = (
    Spec((1, 8, 8)),
    Spec((3, 8, 8), classes=3),
    Spec((1, 7, 10), levels=2, classes=2),
    Spec((3, 9, 6), levels=2),
)
"""Images that every family takes: of odd sizes, of two levels, with and without classes."""

VECTORS = (
    Spec((2,), levels=0, center=(1.0, -2.0), scale=(3.0, 0.5)),
    Spec((5,), levels=0, classes=3, center=(0.0,) * 5, scale=(1.0,) * 5),
)
"""Vectors, which some take too."""

KINDS = {
    Density.TRACTABLE: {"exact"},
    Density.APPROXIMATE: {"bound", "estimate"},
    Density.IMPLICIT: {"undefined"},
    Density.NONE: {"undefined"},
}
"""What a log-likelihood may say it is, by what the family says of its density."""

Check = Callable[[type[Family], Spec], None]


class Broken(AssertionError):
    """A family does not keep the contract."""


def must(kept: bool, otherwise: str) -> None:
    if not kept:
        raise Broken(otherwise)


@dataclass(frozen=True)
class Result:
    """One check of one family.

    Attributes:
        check: its name, in words.
        spec: of which data; None where it is of none.
        fault: what is wrong; empty where nothing is.
    """

    check: str
    spec: Spec | None
    fault: str


def check_family(cls: type[Family]) -> Iterator[Result]:
    """Run every check, one after the other."""
    for check in CHECKS:
        for spec in specs_of(cls):
            yield Result(_words(check), spec, _fault(check, cls, spec))
            if check is says_what_it_is:
                break


def specs_of(cls: type[Family]) -> tuple[Spec, ...]:
    """The data that a family must take."""
    return SPECS + VECTORS if cls.vectors else SPECS


def shown(spec: Spec) -> str:
    """A spec in a few characters: shape, levels, classes."""
    what = f"{spec.levels} levels" if spec.levels else "vectors"
    return f"{'x'.join(map(str, spec.shape))}, {what}" + (f", {spec.classes} classes" if spec.classes else "")


def _words(check: Check) -> str:
    return check.__name__.replace("_", " ")


def _fault(check: Check, cls: type[Family], spec: Spec) -> str:
    try:
        check(cls, spec)
    except Broken as error:
        return str(error)
    except Exception as error:  # of somebody's code, whatever it is
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ""


# ---------------------------------------------------------------------------------------------------- the checks


def says_what_it_is(cls: type[Family], spec: Spec) -> None:
    """Its name, what it answers, and its two frozen dataclasses, which make the flags of the command."""
    for field in ("name", "title", "paper", "gives_up"):
        must(bool(isinstance(getattr(cls, field, None), str) and getattr(cls, field)), f"{field} must be a text")
    must(isinstance(getattr(cls, "density", None), Density), "density must be a Density")
    must(tuple(cls.answers) == QUESTIONS, f"answers must have the keys {', '.join(QUESTIONS)}, in this order")
    said = {text.split()[0].strip(",:;") for text in cls.answers.values() if text.strip()}
    must(said <= {"yes", "bound", "approximate", "no"}, "each of answers begins with yes, bound, approximate or no")
    for name in ("Config", "Options"):
        config = getattr(cls, name, None)
        frozen = dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen  # type: ignore[union-attr]
        must(bool(frozen), f"{name} must be a frozen dataclass")
        must(all(_has_default(field) for field in dataclasses.fields(config)), f"every field of {name} has a default")  # type: ignore[arg-type]


def _has_default(field: dataclasses.Field[object]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def every_parameter_gets_a_gradient(cls: type[Family], spec: Spec) -> None:
    """Objectives share out the parameters, their losses are finite, and each parameter gets a gradient."""
    model = built(cls, spec)
    objectives = model.objectives()
    listed = [id(parameter) for objective in objectives for parameter in objective.parameters]
    must(len(listed) == len(set(listed)), "a parameter belongs to two objectives")
    must(set(listed) == {id(p) for p in model.parameters()}, "some parameters belong to no objective")
    x, labels = batch(spec)
    for objective in objectives:
        model.zero_grad()
        loss = objective.loss(x, labels, BatchNoise((0,), 4, 0, 4, torch.device("cpu")))
        for name, value in (loss.terms | loss.logs).items():
            good = value.ndim == 0 and math.isfinite(value.item())
            must(good, f"the loss {name!r} of {objective.name} must be one finite number")
        loss.total.backward()  # type: ignore[no-untyped-call]
        # Data-parallel training waits for the gradient of every parameter.
        lost = [name for name, p in model.named_parameters() if p.grad is None and _within(p, objective.parameters)]
        must(not lost, f"{', '.join(lost[:3])} gets no gradient from {objective.name}")


def _within(parameter: Tensor, parameters: object) -> bool:
    return any(parameter is other for other in parameters)  # type: ignore[attr-defined]


def samples_are_images_of_the_spec(cls: type[Family], spec: Spec) -> None:
    """Shape, type and levels of what is drawn; classes as they were asked for."""
    model = built(cls, spec).eval()
    drawn = sample(model, 3, options=quick(cls), block=4)
    must(
        drawn.images.shape == (3, *spec.shape), f"3 samples must be {[3, *spec.shape]}, not {list(drawn.images.shape)}"
    )
    if spec.vector:
        must(drawn.images.dtype == torch.float32, f"vectors are float32, not {drawn.images.dtype}")
        must(bool(torch.isfinite(drawn.images).all()), "samples must be finite")
    else:
        must(drawn.images.dtype == torch.uint8, f"images are uint8, not {drawn.images.dtype}")
        must(int(drawn.images.max()) < spec.levels, f"values must be below {spec.levels}")
    if spec.classes:
        given = sample(model, 3, labels=[1], options=quick(cls), block=4)
        must(given.labels is not None and given.labels.tolist() == [1, 1, 1], "the classes asked for are not kept")


def image_i_depends_on_seed_and_i_alone(cls: type[Family], spec: Spec) -> None:
    """Sample i is the same however many are drawn, and another with another seed."""
    model, options = built(cls, spec).eval(), quick(cls)
    few = sample(model, 3, seed=5, options=options, block=4).images
    many = sample(model, 7, seed=5, options=options, block=4).images
    must(torch.equal(few, many[:3]), "image i changes with how many are drawn: draw from `noise` alone, row by row")
    other = sample(model, 3, seed=6, options=options, block=4).images
    must(not torch.equal(few, other), "another seed gives the same images")
    # Another block size rounds its sums otherwise, and no more than that.
    with torch.no_grad():
        exact = model.double()
        one, two = (sample(exact, 4, seed=5, options=options, block=size).images for size in (4, 3))
    alike = (
        torch.allclose(one, two, rtol=1e-5, atol=1e-5) if spec.vector else int((one.int() - two.int()).abs().max()) <= 1
    )
    must(alike, "image i changes with the images beside it: is there batch norm in training mode?")


def log_likelihood_says_what_it_is(cls: type[Family], spec: Spec) -> None:
    """Its kind fits the density, it is a log-probability, and the same noise gives the same number."""
    model = built(cls, spec).eval()
    x, labels = batch(spec)
    with torch.no_grad():
        answer, again = (model.log_likelihood(x, labels, ImageNoise(0, range(4)), samples=2) for _ in range(2))
    allowed = KINDS[model.density]
    must(
        answer.kind in allowed, f"a density that is {model.density.value} is {' or '.join(allowed)}, not {answer.kind}"
    )
    must(bool(answer.reason), "it must say how it was computed, or why there is none")
    if answer.kind == "undefined":
        must(answer.nats is None, "what is undefined has no nats")
        return
    must(answer.nats is not None and answer.nats.shape == (4,), "nats must be one number for each image")
    assert answer.nats is not None and again.nats is not None
    must(bool(torch.isfinite(answer.nats).all()), "nats must be finite")
    must(spec.vector or bool((answer.nats < 0).all()), "log p of a discrete image is below 0")
    must(torch.equal(answer.nats, again.nats), "the same noise must give the same number")


CHECKS: tuple[Check, ...] = (
    says_what_it_is,
    every_parameter_gets_a_gradient,
    samples_are_images_of_the_spec,
    image_i_depends_on_seed_and_i_alone,
    log_likelihood_says_what_it_is,
)
"""All of them, in order."""


# ------------------------------------------------------------------------------------------------------- what they use


def built(cls: type[Family], spec: Spec) -> Family:
    """A fresh model of the smallest preset."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(configure(cls.name, "tiny", spec if spec.vector else Spec((1, 28, 28)))[0], spec)


def quick(cls: type[Family]) -> object:
    """The family's sampling options, with few steps where it takes any."""
    fields = {field.name for field in dataclasses.fields(cls.Options)}
    return cls.Options(**({"steps": 2} if "steps" in fields else {}))


def batch(spec: Spec, count: int = 4) -> tuple[Tensor, Tensor | None]:
    """Random data, and labels of which the last is "no class", which training mixes in."""
    noise = ImageNoise(3, range(count))
    labels = torch.arange(count) % (spec.classes + 1) if spec.classes else None
    if spec.vector:
        return noise.normal(*spec.shape), labels
    return noise.integers(spec.levels, *spec.shape).to(torch.uint8), labels
