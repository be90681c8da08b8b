"""The two chains of a diffusion model as film strips: images that dissolve into noise, and come from it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from trilemma.families import FAMILIES
from trilemma.families.diffusion import Denoising, Estimate, Schedule, diffuse
from trilemma.families.family import Family, Progress
from trilemma.files import write_picture
from trilemma.images import check_images, from_unit, to_unit
from trilemma.noise import ImageNoise, Noise
from trilemma.queries import drawing

FRAMES = 10
"""Pictures in a strip."""


def denoising(model: Family, question: str) -> Denoising:
    """The model itself, or a one-line ``ValueError`` that names the families that can answer the question."""
    if isinstance(model, Denoising):
        return model
    able = ", ".join(name for name, family in FAMILIES.items() if issubclass(family, Denoising))
    raise ValueError(f"{question} needs a model that denoises step by step; {model.name} does not, {able} do")


@dataclass(frozen=True)
class Film:
    """A chain, seen at a few times.

    Attributes:
        times: of each picture, down or up.
        x_t: float [len(times), N, C, H, W].
        other: of the same shape: the estimates of x_0 on the way back, or x_t by single steps on the way out.
        images: uint8 [N, C, H, W], where the chain starts (forwards) or ends (backwards).
    """

    times: list[int]
    x_t: Tensor
    other: Tensor
    images: Tensor


# Forwards


def step_by_step(x0: Tensor, schedule: Schedule, times: Sequence[int], noise: Noise) -> Tensor:
    """x_t at the rising ``times``, each drawn from q(x_t | x_{t-1}) in turn (Ho et al. 2020, eq. 2), float [len, …]."""
    x, kept = x0, []
    for t in range(1, times[-1] + 1):
        step = math.sqrt(float(schedule.alpha_bar[t] / schedule.alpha_bar[t - 1]))
        x = step * x + math.sqrt(float(schedule.added(t, t - 1))) * noise.normal(*x0.shape[1:]).to(x0)
        if t in times:
            kept.append(x)
    return torch.stack(kept)


def forward_chain(model: Family, images: Tensor, *, seed: int = 0) -> Film:
    """Images dissolving: x_t in closed form from one ε (eq. 4), and x_t by every single step, each with new noise.

    Args:
        model: of a denoising family.
        images: uint8 [N, C, H, W].
    """
    model = denoising(model, "the forward chain")
    schedule = model.schedule
    x0 = to_unit(check_images(images, model.spec), model.spec.levels)
    noise = ImageNoise(seed, range(len(images)))
    eps = noise.normal(*model.spec.shape)
    times = sorted({max(1, round(i * schedule.T / FRAMES)) for i in range(1, FRAMES + 1)})
    closed = torch.stack([diffuse(x0, torch.full((len(x0),), t), schedule, eps) for t in times])
    return Film(times, closed, step_by_step(x0, schedule, times, noise), images)


@dataclass(frozen=True)
class Moments:
    """How near x_T is to N(0, I), over all values of the images that were asked about.

    Attributes:
        mean, variance, kurtosis: of the values of x_T; 0, 1 and 3 in the limit.
        deviations: of each of the three from its limit, in standard errors of so many independent values.
        p: of the Kolmogorov-Smirnov test: how often values of N(0, 1) would lie as far from it in distribution.
        nats: the mean of KL(q(x_T | x_0) ‖ N(0, I)) of an image, exactly: 0 only if nothing of it is left.
        count: values.
    """

    mean: float
    variance: float
    kurtosis: float
    deviations: tuple[float, float, float]
    p: float
    nats: float
    count: int

    @property
    def text(self) -> str:
        worst = max(map(abs, self.deviations))
        return (
            f"x_T: mean {self.mean:.4f}, variance {self.variance:.4f}, kurtosis {self.kurtosis:.3f} over "
            f"{self.count:,} values, at most {worst:.1f} standard errors from N(0, 1), Kolmogorov-Smirnov p = "
            f"{self.p:.2g}; {self.nats:.2g} nats of an image are left"
        )


def end_moments(x_T: Tensor, nats: Tensor) -> Moments:
    """The moments of x_T, float of any shape; ``nats`` are what is left of each image."""
    x, n = x_T.double().flatten(), x_T.numel()
    mean, variance, kurtosis = float(x.mean()), float(x.square().mean()), float((x**4).mean())
    # Standard errors of the means of x, x² and x⁴ under N(0, 1): variances 1, 2 and 105 - 9.
    deviations = mean * math.sqrt(n), (variance - 1) * math.sqrt(n / 2), (kurtosis - 3) * math.sqrt(n / 96)
    return Moments(mean, variance, kurtosis, deviations, kolmogorov_smirnov(x), float(nats.mean()), n)


def kolmogorov_smirnov(x: Tensor) -> float:
    """The p-value of values [N] under N(0, 1), by the limit law of √N D (Kolmogorov 1933); good above N = 100."""
    n, law = len(x), torch.special.ndtr(x.double().sort().values)
    ranks = torch.arange(n + 1, dtype=torch.float64, device=x.device) / n
    distance = float(torch.maximum(ranks[1:] - law, law - ranks[:-1]).max())
    k = torch.arange(1, 101, dtype=torch.float64)
    terms = (-1) ** (k + 1) * torch.exp(-2 * k**2 * n * distance**2)
    return min(max(2 * float(terms.sum()), 0.0), 1.0)


# Backwards


def reverse_chain(
    model: Family,
    count: int = 6,
    *,
    labels: Tensor | None = None,
    options: Any | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    all_frames: bool = False,
) -> Film:
    """Samples on their way: x_t and the estimate of x_0 at the times that the sampler visits.

    Args:
        model: of a denoising family, on its device.
        count: samples; the same as `sample` draws from the seed, up to the rounding of another batch.
        labels: int64 [count].
        options: the family's ``Options``.
        all_frames: keep every time, for an animation, and not `FRAMES` of them.
    """
    model = denoising(model, "the reverse chain")
    if getattr(options, "churn", 0):
        raise ValueError("with churn the times go up as well as down, which no strip of times can show: leave it out")
    model.check_conditions(options, labels)
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(t: Any, x_t: Tensor, estimate: Estimate) -> None:
        seen[t] = x_t.float().cpu(), estimate.x0.float().cpu()  # heun comes twice; the last time is where it went on

    noise = ImageNoise(seed, range(count), model.device)
    given = None if labels is None else labels.to(model.device)
    images = model.decode(model.latent(noise), noise, given, options, progress, watch=watch)
    times = list(seen)
    if not all_frames and len(times) > FRAMES:
        times = [times[round(i * (len(times) - 1) / (FRAMES - 1))] for i in range(FRAMES)]
    return Film(times, torch.stack([seen[t][0] for t in times]), torch.stack([seen[t][1] for t in times]), images.cpu())


# Pictures


def draw_strip(
    film: Film, levels: int, path: str | os.PathLike[str], title: str, rows: tuple[str, str], lines: Sequence[str] = ()
) -> Path:
    """A PNG with two rows for each image, x_t and what stands beside it, a column for each time."""
    scale = drawing.scale_for(max(film.images.shape[2:]), 56)
    wide = scale * film.images.shape[3]
    backwards = film.times[0] > film.times[-1]
    head = [f"t = {t}" for t in film.times]
    names = [*head, "image"] if backwards else ["image", *head]
    blank = Image.new("RGB", (76, 1), drawing.PAPER)
    picture_rows = [drawing.beside([blank, *(drawing.words([name], 11, wide, True) for name in names)], 4)]
    for i in range(len(film.images)):
        image = drawing.magnified(drawing.rgb(film.images[i : i + 1], levels)[0], scale)
        for values, name in zip((film.x_t, film.other), rows, strict=True):
            frames = _frames(values[:, i], levels, scale)
            ordered = [*frames, image] if backwards else [image, *frames]
            picture_rows.append(drawing.beside([drawing.words([name], 11, 76), *ordered], 4))
    parts = [drawing.words([title], 16), drawing.below(picture_rows, 4)]
    if lines:
        parts.append(drawing.words(lines, 12))
    return drawing.save(drawing.framed(drawing.below(parts)), path)


def _frames(values: Tensor, levels: int, scale: int) -> list[Image.Image]:
    """Floats [K, C, H, W] on about [-1, 1] to K pictures; what lies outside is cut off."""
    return [drawing.magnified(pixels, scale) for pixels in drawing.rgb(from_unit(values, levels), levels)]


def animate(film: Film, levels: int, path: str | os.PathLike[str], milliseconds: int = 80) -> Path:
    """A GIF, or an APNG if the path ends in .png or .apng: x_t above the estimate of x_0, a column for each image."""
    path = Path(path)
    scale = drawing.scale_for(max(film.images.shape[2:]), 84)
    pictures = []
    for k, t in enumerate(film.times):
        above, below = (drawing.beside(_frames(values[k], levels, scale), 4) for values in (film.x_t, film.other))
        text = drawing.words([f"t = {t}: x_t, and below it the estimate of x_0"], 12, above.width)
        pictures.append(drawing.framed(drawing.below([above, below, text], 4), 6))
    width = max(picture.width for picture in pictures)
    same = [_widened(picture, width) for picture in pictures]
    # The last frame stays for a second and a half.
    durations = [milliseconds] * (len(same) - 1) + [1500]
    kind = "GIF" if path.suffix.lower() == ".gif" else "PNG"
    settings = {"save_all": True, "append_images": same[1:], "duration": durations, "loop": 0}
    return write_picture(path, same[0], kind, **settings)


def _widened(picture: Image.Image, width: int) -> Image.Image:
    canvas = Image.new("RGB", (width, picture.height), drawing.PAPER)
    canvas.paste(picture, (0, 0))
    return canvas


def quick(options: Any, schedule: Schedule) -> Any:
    """The options with as few steps as a strip can show, where none were asked for."""
    return options if options.steps or options.times else replace(options, steps=min(50, schedule.T))
