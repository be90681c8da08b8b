"""Non-leaky augmentation (Karras et al. 2020, "Training generative adversarial networks with limited data", arXiv
2006.06676).

With few images D learns them by heart. So D never sees an image as it is, neither real nor generated: each is mirrored,
turned, shifted, scaled and tinted, each change with probability p. As long as p is well below 1 the changed images of
two laws are alike only if the laws are (section 2.2), so that G does not learn to draw changed ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trilemma.noise import Noise

TARGET = 0.6
"""Of r: p rises while D knows real images better than this, and falls below it (section 3)."""

SPEED = 50_000
"""Images over which p may rise from 0 to 1: a tenth of the paper's, for budgets of minutes."""

MOST = 0.8
"""Of p, above which augmentation begins to leak (section 2.2, figure 3)."""

SHIFT = 0.125
"""Of the image's sides, at most."""

DRAWS = 17
"""Uniform values for one image."""


@dataclass(frozen=True)
class Change:
    """What is done to each of B images.

    Attributes:
        place: float32 [B, 2, 3], where a pixel of the changed image lies in the old one, both on [-1, 1].
        gain, saturation, offset: float32 [B, 1, 1, 1] of colours.
    """

    place: Tensor
    gain: Tensor
    saturation: Tensor
    offset: Tensor

    @classmethod
    def draw(cls, noise: Noise, p: Tensor, shape: tuple[int, ...]) -> Change:
        """Mirroring, quarter turns, shifts by whole pixels, scale, turns, contrast, saturation and brightness.

        Args:
            noise: of a batch.
            p: the probability of each.
            shape: ``(C, H, W)`` of the images, on [-1, 1].
        """
        u = noise.uniform(DRAWS)  # the first eight say whether, the others how
        on = (u[:, :8] < p).float()
        how = u[:, 8:]
        height, width = shape[1:]
        mirror = 1 - 2 * on[:, 0] * (how[:, 0] < 0.5)
        # Images that are not square are turned by halves.
        turns = (4 * how[:, 1]).floor() if height == width else 2 * (2 * how[:, 1]).floor()
        angle = on[:, 1] * turns * (math.pi / 2) + on[:, 4] * (2 * how[:, 4] - 1) * math.pi
        scale = 2 ** (on[:, 3] * 0.2 * normal(how[:, 3]))
        cos, sin = angle.cos() / scale, angle.sin() / scale
        ratio = height / width  # a turn is one of pixels, and both sides are two units long
        far = (2 * how[:, [2, 8]] - 1) * SHIFT  # of the sides, across and down
        sides = far.new_tensor([width, height])
        shift = on[:, 2:3] * (far * sides).round() * 2 / sides
        across = torch.stack([cos * mirror, -sin * ratio, shift[:, 0]], 1)
        down = torch.stack([sin * mirror / ratio, cos, shift[:, 1]], 1)
        column = (-1, 1, 1, 1)
        return cls(
            torch.stack([across, down], 1),
            (2 ** (on[:, 5] * 0.5 * normal(how[:, 5]))).view(column),
            (2 ** (on[:, 6] * normal(how[:, 6]))).view(column),
            (on[:, 7] * 0.2 * normal(how[:, 7])).view(column),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` changed, differentiable in them; what comes in from outside is mirrored."""
        grid = F.affine_grid(self.place, list(x.shape), align_corners=False)
        x = F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        grey = x.mean(1, keepdim=True)
        return (grey + (x - grey) * self.saturation) * self.gain + self.offset


def normal(u: Tensor) -> Tensor:
    """Uniform values as standard normal ones, at most 3 from 0."""
    z: Tensor = torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
    return z.clamp(-3, 3)


@torch.no_grad()
def adapt(p: Tensor, real: Tensor, fake: Tensor, relativistic: bool) -> None:
    """Move p, in place, by what D answered ``[B]``: up where it knows real images too well.

    Overfitting shows in r, the mean sign of D's answers to real images (eq. 1); where only differences of answers mean
    something, in that of D(x) - D(G(z)).
    """
    r = ((real - fake) if relativistic else real).float().sign().mean()
    p.add_((r - TARGET).sign() * (len(real) / SPEED)).clamp_(0, MOST)
