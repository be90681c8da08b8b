"""How to draw from a denoising model: what every sampler reads, and the fields of each sampler as options beside it.

Clipping: with ``clip`` (the default) the estimate of the image is clamped to [-1, 1], the range of the pixels, and
the estimate of the noise follows from it, in every sampler. The published DDPM sampler clips, the published DDIM does
not; here all do unless told otherwise, because guidance and the first, noisiest steps overshoot otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from trilemma.families.diffusion.samplers import BUILT_IN, Sampler, samplers
from trilemma.families.diffusion.schedule import Schedule, Spacing
from trilemma.validate import Count, Limits, check_limits

O = TypeVar("O", bound="DrawingOptions")  # noqa: E741


@dataclass(frozen=True)
class DrawingOptions:
    """What every sampler reads; `with_fields_of` adds their own. Raises ``ValueError`` for values out of range."""

    sampler: str = "ddim"
    steps: Count | None = None
    times: Annotated[tuple[int, ...], Limits(count=1)] | None = None
    """the times to visit, in place of a number of steps: any that fall, such as 1000,600,200, from T down to 1; the
    noise is taken for x at the first of them"""
    spacing: Spacing = "trailing"
    """which times the steps visit: trailing, leading, linspace, quadratic or karras"""
    guidance: Annotated[float, Limits()] = 1.0
    """weight w of classifier-free guidance, u + w(c - u): 1 is plainly conditional, 0 unconditional"""
    clip: bool = True
    """clamp every estimate of the image to the range of the pixels"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """arithmetic of the network: bf16 autocast, fp32, or whichever is faster on the device"""

    def __post_init__(self) -> None:
        if self.sampler not in samplers():
            raise ValueError(f"there is no sampler {self.sampler!r}: choose {', '.join(samplers())}")
        for name, allowed in _choices(type(self)).items():  # type: ignore[arg-type]
            if getattr(self, name) not in allowed:
                raise ValueError(f"there is no {name} {getattr(self, name)!r}: choose {', '.join(allowed)}")
        check_limits(self)
        if self.times is not None:
            if self.times[-1] < 1 or any(s >= t for t, s in itertools.pairwise(self.times)):
                raise ValueError(f"times must fall from T to no less than 1, not {','.join(map(str, self.times))}")
            if self.steps is not None or self.spacing != "trailing":
                raise ValueError("times are the steps themselves: leave out steps and spacing")
        for field in self.foreign(self.sampler):
            if getattr(self, field.name) != field.default:
                owner = " or ".join(cls.name for cls in field.metadata["samplers"])
                raise ValueError(f"{field.name} belongs to the sampler {owner}, not to {self.sampler}")
        _ = self.method  # checks its own fields

    @classmethod
    def foreign(cls, sampler: str) -> list[dataclasses.Field[Any]]:
        """The fields that other samplers read, and this one does not."""
        own = {field.name for field in dataclasses.fields(samplers()[sampler])}
        return [field for field in dataclasses.fields(cls) if "samplers" in field.metadata and field.name not in own]

    @property
    def method(self) -> Sampler:
        """The sampler with its own options."""
        cls = samplers()[self.sampler]
        return cls(**{field.name: getattr(self, field.name, field.default) for field in dataclasses.fields(cls)})

    def visits(self, schedule: Schedule) -> list[int]:
        """The times that these options visit, from the noisiest down."""
        if self.times is not None:
            if self.times[0] > schedule.T:
                raise ValueError(f"times must lie within the {schedule.T} timesteps of the model, not {self.times[0]}")
            return list(self.times)
        steps = self.steps or min(self.method.usual or schedule.T, schedule.T)
        return schedule.times(steps, self.spacing)

    def by(self, sampler: str, steps: int) -> Self:
        """The same by another sampler in so many steps, without what is not its own."""
        usual: dict[str, Any] = {field.name: field.default for field in self.foreign(sampler)}
        return replace(self, sampler=sampler, steps=steps, **usual)

    def evaluations(self, schedule: Schedule) -> int:
        """How often these options evaluate the denoiser for an image."""
        return self.method.evaluations(self.visits(schedule), schedule)


@functools.cache
def _choices(cls: type) -> dict[str, tuple[str, ...]]:
    """The fields of a dataclass that are one of a few words."""
    return {
        name: get_args(hint)
        for name, hint in get_type_hints(cls).items()
        if get_origin(hint) is Literal and name != "sampler"
    }


def with_fields_of(some: Sequence[type[Sampler]], base: type[O], name: str, sampler: str | None = None) -> type[O]:
    """The dataclass ``base`` with the fields of some samplers too, each with its type and its default there.

    What the command's help says of a field stands in its metadata: the ``samplers`` that it belongs to, or ``help``.

    Args:
        name: of the class that is made.
        sampler: the default one, by default that of ``base``.
    """
    known = dict.fromkeys([*BUILT_IN, *some])
    choice = Literal[tuple(cls.name for cls in known)]  # type: ignore[valid-type]
    which = "; ".join(f"{cls.name}: {(cls.__doc__ or '').splitlines()[0].rstrip('.')}" for cls in known)
    usual = ", ".join(f"{cls.usual or 'all T'} for {cls.name}" for cls in known)
    steps = f"number of steps; by default {usual}"
    default = sampler or next(field.default for field in dataclasses.fields(base) if field.name == "sampler")
    owners = {field.name: field.metadata.get("samplers", ()) for field in dataclasses.fields(base)}
    fields: dict[str, tuple[str, Any, Any]] = {
        "sampler": ("sampler", choice, dataclasses.field(default=default, metadata={"help": which})),
        "steps": ("steps", Count | None, dataclasses.field(default=None, metadata={"help": steps})),
    }
    for cls in some:
        hints = get_type_hints(cls, include_extras=True)
        for field in dataclasses.fields(cls):
            owners[field.name] = (*owners.get(field.name, ()), cls)
            made: Any = dataclasses.field(default=field.default, metadata={"samplers": owners[field.name]})
            fields[field.name] = (field.name, hints[field.name], made)
    made_class = dataclasses.make_dataclass(name, fields.values(), bases=(base,), frozen=True)
    made_class.__module__, made_class.__doc__ = __name__, base.__doc__
    return made_class


if TYPE_CHECKING:

    class DiffusionOptions(DrawingOptions):
        """Its fields are made from those of the samplers."""

        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    class FlowOptions(DiffusionOptions): ...

else:
    DiffusionOptions = with_fields_of(BUILT_IN, DrawingOptions, "DiffusionOptions")
    FlowOptions = with_fields_of((), DiffusionOptions, "FlowOptions", sampler="euler")


class Extended:
    """``Options`` of a family: its own, with the fields of the samplers that others have registered."""

    def __init__(self, options: type[DrawingOptions]) -> None:
        self.options = options

    def __get__(self, model: object, family: type) -> type[DrawingOptions]:
        others = tuple(cls for cls in samplers().values() if cls not in BUILT_IN)
        return _extended(self.options, others)  # type: ignore[arg-type]


@functools.cache
def _extended(options: type[DrawingOptions], others: tuple[type[Sampler], ...]) -> type[DrawingOptions]:
    return with_fields_of(others, options, options.__name__) if others else options
