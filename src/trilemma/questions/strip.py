"""What the two chains of a denoising model share: x_t at several times, as a strip of pictures and as a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from trilemma import drawing
from trilemma.drawing import Film, Sheet
from trilemma.images import from_unit

FRAMES = 10
"""Pictures in a strip."""


@dataclass(frozen=True)
class Trajectory:
    """A chain, seen at a few times.

    Attributes:
        times: of each picture, down or up.
        x_t: float [len(times), N, C, H, W].
        other: of the same shape: the estimates of x_0 in the reverse chain, or x_t by single steps in the forward one.
        images: uint8 [N, C, H, W], where the chain starts (forward) or ends (reverse).
    """

    times: list[int]
    x_t: Tensor
    other: Tensor
    images: Tensor

    def thinned(self, count: int = FRAMES) -> Trajectory:
        """At no more than ``count`` of its times, evenly spread."""
        if len(self.times) <= count:
            return self
        places = [round(i * (len(self.times) - 1) / (count - 1)) for i in range(count)]
        return Trajectory([self.times[i] for i in places], self.x_t[places], self.other[places], self.images)


def draw_strip(chain: Trajectory, levels: int, title: str, rows: tuple[str, str], lines: Sequence[str] = ()) -> Sheet:
    """Two rows for each image, x_t and what stands beside it, and a column for each time."""
    scale = drawing.scale_for(max(chain.images.shape[2:]), 56)
    wide = scale * chain.images.shape[3]
    reverse = chain.times[0] > chain.times[-1]
    head = [f"t = {t}" for t in chain.times]
    names = [*head, "image"] if reverse else ["image", *head]
    picture_rows = [drawing.beside([Sheet(76, 1), *(drawing.words([name], 11, wide, True) for name in names)], 4)]
    for i in range(len(chain.images)):
        image = drawing.magnified(drawing.rgb(chain.images[i : i + 1], levels)[0], scale)
        for values, name in zip((chain.x_t, chain.other), rows, strict=True):
            frames = _frames(values[:, i], levels, scale)
            ordered = [*frames, image] if reverse else [image, *frames]
            picture_rows.append(drawing.beside([drawing.words([name], 11, 76), *ordered], 4))
    parts = [drawing.words([title], 16), drawing.below(picture_rows, 4)]
    if lines:
        parts.append(drawing.words(lines, 12))
    return drawing.framed(drawing.below(parts))


def animate(chain: Trajectory, levels: int) -> Film:
    """A frame for each time: x_t above the estimate of x_0, a column for each image."""
    scale = drawing.scale_for(max(chain.images.shape[2:]), 84)
    frames = []
    for k, t in enumerate(chain.times):
        above, below = (drawing.beside(_frames(values[k], levels, scale), 4) for values in (chain.x_t, chain.other))
        text = drawing.words([f"t = {t}: x_t, and below it the estimate of x_0"], 12, above.width)
        frames.append(drawing.framed(drawing.below([above, below, text], 4), 6))
    return Film(frames)


def _frames(values: Tensor, levels: int, scale: int) -> list[Image.Image]:
    """Floats [K, C, H, W] on about [-1, 1] to K pictures; what lies outside is cut off."""
    return [drawing.magnified(pixels, scale) for pixels in drawing.rgb(from_unit(values, levels), levels)]
