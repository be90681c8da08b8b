"""What to load and how to bring it to one shape: the part of a run's config that concerns its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from PIL import ImageColor

from trilemma.images import Spec

Fit = Literal["crop", "pad"]
Color = Literal["auto", "grey", "rgb"]
Binarize = Literal["none", "dynamic", "fixed", "threshold"]

MAX_SIDE = 4096


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are made alike. Saved in the run's ``config.json``.

    Raises:
        ValueError: one line naming the field that is wrong and what it may be.
    """

    source: str = "mnist"
    """A name (mnist, fashion-mnist, cifar10, mnist-pairs, stacked-mnist; ring and grid, which are vectors), a folder,
    zip, npz, npy, idx or csv file, or the id of a Hub data set."""

    size: tuple[int, int] | None = None
    """(height, width). By default the images' own size; for files of differing sizes, or larger than 256 pixels, a
    square of 64, or less where most of the images are smaller."""

    fit: Fit = "crop"
    """How another shape is brought to this size: cut off the longer side, or fill the shorter with the background."""

    color: Color = "auto"
    """One channel or three; auto takes one where no image has any colour."""

    background: str = "white"
    """What transparent pixels and padding show: a colour by name or as #rrggbb."""

    binarize: Binarize = "none"
    """Two levels instead of 256: drawn with probability value/255, afresh each time (dynamic) or once for every image
    (fixed), or value > 127 (threshold)."""

    limit: int | None = None
    """Train on the first so many training images only, for quick trials; the test split stays whole."""

    max_bad: float = 0.05
    """Share of unreadable files above which loading stops."""

    def like(self, spec: Spec, source: str | None = None) -> DataConfig:
        """The same for images of another source, all of them, brought to the shape of ``spec``."""
        found = replace(self, source=self.source if source is None else source, limit=None)
        if spec.vector:
            return found
        return replace(found, size=(spec.height, spec.width), color="rgb" if spec.channels == 3 else "grey")

    def __post_init__(self) -> None:
        for field, kind in (("fit", Fit), ("color", Color), ("binarize", Binarize)):
            if getattr(self, field) not in get_args(kind):
                raise ValueError(f"{field} must be one of {', '.join(get_args(kind))}, not {getattr(self, field)!r}")
        if self.size is not None:
            # JSON has no tuples, so a saved config comes back with a list here
            object.__setattr__(self, "size", _checked_size(self.size))
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, not {self.limit}")
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad is a share between 0 and 1, not {self.max_bad}")
        try:
            ImageColor.getrgb(self.background)
        except (ValueError, AttributeError):
            raise ValueError(f"background must be a colour such as white or #ff8800, not {self.background!r}") from None


def _checked_size(size: object) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) == 2 and all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in sides):
        return sides
    raise ValueError(f"size must be two whole numbers (height, width) from 1 to {MAX_SIDE}, not {size!r}")
