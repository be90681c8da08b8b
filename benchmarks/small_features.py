"""Teaches `small-v2`, the feature space that ships with the package. Seeds are fixed; about two hours of two cores.

    python benchmarks/small_features.py images work --cifar10 cifar10.npz --fashion fashion-mnist.npz \\
        --emoji emoji.zip --dsprites dsprites.npz --drawings stamps/ --photographs wallpapers/
    bash work/samples.sh                                    # trains families for seconds and draws from them
    python benchmarks/small_features.py teach work          # Inception's features of all of these; trilemma[inception]
    python benchmarks/small_features.py train work --minutes 45
    python benchmarks/small_features.py write work src/trilemma/metrics/small-v2.safetensors

The weights that ship were trained for 42 minutes of one core (11,000 steps) without the sets `small-*` and without the
samples of MNIST and of emoji at 64 pixels, and for 13 minutes of two busy cores more, `--start work/student.pt --rate
6e-4`, with them.

**What is learnt.** A network of 1.4 million parameters predicts the 128 principal components of the official FID
Inception's features from images of 32 to 64 pixels; beside it, from the same pooled features, it names the classes of
CIFAR-10, Fashion-MNIST and MNIST, and says how an image was ruined. Inception alone hardly sees noise in averages;
labels alone do not see damage; a regression of damage alone does not see what is in an image.

**From what.** CIFAR-10's training images, the first 30,000 of Fashion-MNIST and of MNIST (so that the rest can judge),
three fifths of the Twemoji, dSprites, drawings (Tux Paint's stamps) and crops of photographs (wallpapers of
KDE, GNOME, MATE, UKUI and Lomiri, all under free licences; see NOTICE); grey and small versions; each of them ruined
in fifteen ways; and samples of five families after 20 to 110 seconds of training, which look like nothing that a
filter makes.
"""

from __future__ import annotations

import argparse
import io
import random
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from trilemma.machine import autocast
from trilemma.metrics.small import DIMS, LEAST, WIDTHS, Network

Array = np.ndarray[Any, Any]

# -------------------------------------------------------------------------------------------- images, and their ruin


DAMAGE = ("blur", "noise", "order", "average", "compression", "other")
"""What is regressed, each from 0 (none) to about 1."""

KINDS = {
    "blur": 4, "noise": 4, "pixels": 2, "blocks": 3, "average": 4, "mush": 2, "constant": 1, "jpeg": 2, "down": 2,
    "grain": 2, "contrast": 1, "warp": 1.5, "mix": 1, "colour": 1, "holes": 1,
}  # fmt: skip
"""Ways of ruining an image, with weights."""


def smooth(x: Array, sigma: float) -> Array:
    """Gaussian blur of ``[H, W, C]`` floats."""
    reach = min(max(1, int(3 * sigma + 0.5)), 3 * len(x))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    t = torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[:, None]
    t = F.conv2d(F.pad(t, (reach, reach, 0, 0), mode="replicate"), taps.view(1, 1, 1, -1))
    t = F.conv2d(F.pad(t, (0, 0, reach, reach), mode="replicate"), taps.view(1, 1, -1, 1))
    return t[:, 0].permute(1, 2, 0).numpy()


def ruin(pool: Array, row: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """One image of ``pool [N, S, S, 3]`` ruined in a random way, and its `DAMAGE`."""
    weights = np.array(list(KINDS.values()), float)
    kind = str(rng.choice(list(KINDS), p=weights / weights.sum()))
    x, n = pool[row].astype(np.float32), pool.shape[1]
    y, scale = np.zeros(len(DAMAGE), np.float32), pool.shape[1] / 32
    if kind == "blur":
        sigma = np.exp(rng.uniform(np.log(0.5), np.log(10)))
        x, y[0] = smooth(x, sigma * scale), np.log(sigma / 0.4) / 3.3
    elif kind == "noise":
        sigma = np.exp(rng.uniform(np.log(4), np.log(90)))
        x = x + sigma * rng.standard_normal(x.shape if rng.random() < 0.7 else (*x.shape[:2], 1))
        y[1] = np.log(sigma / 3) / 3.4
    elif kind == "grain":  # noise that is correlated
        sigma = rng.uniform(8, 70)
        grain = smooth(rng.standard_normal(x.shape), rng.uniform(0.5, 3) * scale)
        x, y[1] = x + sigma * grain / grain.std(), np.log(sigma / 3) / 3.4
    elif kind == "holes":
        hit = rng.random((n, n, 1)) < rng.uniform(0.05, 0.5)
        filled = rng.choice([0, 255, 128]) if rng.random() < 0.6 else rng.uniform(0, 255, x.shape)
        x, y[1] = np.where(hit, filled, x), 0.8
    elif kind == "pixels":
        moved = rng.random(n * n) < rng.choice([0.3, 1.0, 1.0])
        order = np.arange(n * n)
        order[moved] = rng.permutation(order[moved])
        x, y[2] = x.reshape(-1, 3)[order].reshape(x.shape), 1.0 if moved.all() else 0.7
    elif kind == "blocks":
        side = int(rng.choice([2, 4, 8, 16]) * n / 32) if n % 8 == 0 else n // 4
        count = n // side
        if count > 1:
            cut = x[: count * side, : count * side].reshape(count, side, count, side, 3).transpose(0, 2, 1, 3, 4)
            cut = cut.reshape(count * count, side, side, 3)[rng.permutation(count * count)]
            cut = cut.reshape(count, count, side, side, 3).transpose(0, 2, 1, 3, 4)
            x[: count * side, : count * side] = cut.reshape(count * side, count * side, 3)
            y[2] = 0.9 - 0.18 * np.log2(side * 32 / n)
    elif kind == "mix":  # half of it is another image
        other, at = pool[rng.integers(len(pool))], rng.integers(n // 4, 3 * n // 4)
        if rng.random() < 0.5:
            x[at:] = other[at:]
        else:
            x[:, at:] = other[:, at:]
        y[2] = 0.3
    elif kind == "average":
        count = int(rng.choice([2, 2, 3, 4, 8]))
        shares = rng.dirichlet(np.ones(count) * 3)
        rows = [row, *rng.integers(0, len(pool), count - 1)]
        x = sum(share * pool[r].astype(np.float32) for share, r in zip(shares, rows, strict=True))
        y[3] = 1 - shares.max()
        if rng.random() < 0.3:
            x = (x - x.mean()) * rng.uniform(1.2, 2) + x.mean()
    elif kind == "mush":
        mean = pool[rng.integers(0, len(pool), 8)].astype(np.float32).mean(0)
        x, y[0], y[3] = smooth(mean, 6 * scale * rng.uniform(0.3, 1.3)), 0.9, 0.875
    elif kind == "constant":
        x, y[0] = np.zeros_like(x) + (x.mean((0, 1)) if rng.random() < 0.5 else rng.uniform(0, 255, 3)), 1
    elif kind == "jpeg":
        quality, file = np.exp(rng.uniform(np.log(3), np.log(50))), io.BytesIO()
        Image.fromarray(pool[row]).save(file, "JPEG", quality=int(quality))
        x, y[4] = np.asarray(Image.open(file).convert("RGB")), np.log(60 / quality) / 3
    elif kind == "down":
        share = rng.uniform(0.1, 0.7)
        small = Image.fromarray(pool[row]).resize((max(2, int(n * share)),) * 2, Image.Resampling.BOX)
        how = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)[rng.integers(2)]
        x, y[0] = np.asarray(small.resize((n, n), how)), min(1, 0.9 - share)
    elif kind == "contrast":
        x, y[5] = (x - x.mean()) * rng.choice([0.1, 0.3, 0.5, 1.8, 3]) + x.mean(), 0.5
    elif kind == "warp":
        reach = rng.uniform(1, 6) * scale
        flow = np.stack([smooth(rng.standard_normal((n, n, 1)), rng.uniform(1, 4) * scale)[..., 0] for _ in "yx"])
        places = np.mgrid[:n, :n] + reach * flow / flow.std()
        down, right = np.clip(places.round().astype(int), 0, n - 1)
        x, y[5] = x[down, right], min(1, reach / scale / 6)
    elif rng.random() < 0.4:  # colours
        x, y[5] = x[..., rng.permutation(3)], 0.6
    else:
        x, y[5] = (x + rng.uniform(-60, 60, 3)) if rng.random() < 0.6 else 255 - x, 0.6
    return np.clip(np.rint(x), 0, 255).astype(np.uint8), y


def write_set(work: Path, name: str, pool: Array, clean: int, ruined: int, rng: np.random.Generator) -> None:
    """So many images of a pool as they are, and so many ruined."""
    kept = rng.permutation(len(pool))[:clean]
    made = [ruin(pool, int(row), rng) for row in rng.integers(0, len(pool), ruined)]
    np.savez(
        work / f"set-{name}.npz",
        images=np.concatenate([pool[kept], np.stack([x for x, _ in made])]),
        damage=np.concatenate([np.zeros((len(kept), len(DAMAGE)), np.float32), np.stack([y for _, y in made])]),
    )


def crops(paths: Sequence[Path], size: int, each: int, largest: int, rng: np.random.Generator) -> Array:
    """Square pieces of image files: the middle, then random ones."""
    found = []
    for path in paths:
        with Image.open(path) as opened:
            image = on_white(opened)
        image.thumbnail((largest, largest))
        width, height = image.size
        for i in range(each):
            side = min(width, height) if i == 0 else int(min(width, height) * rng.uniform(0.25, 0.9))
            side = side if side >= size // 2 else min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            if i:
                left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
            how = Image.Resampling.BOX if side >= 2 * size else Image.Resampling.BICUBIC
            piece = image.crop((left, top, left + side, top + side)).resize((size, size), how)
            found.append(np.asarray(piece))
    return np.stack(found)


def on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    return paper.convert("RGB")


def rgb(images: Array) -> Array:
    return np.repeat(images[..., None] if images.ndim == 3 else images, 3, -1)


def grey(images: Array) -> Array:
    return rgb((images @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8))


def resized(images: Sequence[Array], size: int) -> Array:
    box, cubic = Image.Resampling.BOX, Image.Resampling.BICUBIC
    made = [Image.fromarray(x).resize((size, size), box if size < len(x) else cubic) for x in images]
    return np.stack([np.asarray(x) for x in made])


def make_images(args: argparse.Namespace) -> None:
    work, rng = args.work, np.random.default_rng(1)
    (work / "sources").mkdir(parents=True, exist_ok=True)
    cifar, fashion = np.load(args.cifar10), np.load(args.fashion)
    import trilemma

    mnist = trilemma.load("mnist")
    digits = mnist.batch(mnist.train[:30_000]).permute(0, 2, 3, 1).numpy()
    sprites = np.load(args.dsprites)
    shapes = (next(sprites[key] for key in sprites if sprites[key].ndim >= 3)[:4000] > 0).astype(np.uint8) * 255
    with zipfile.ZipFile(args.emoji) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        emoji = np.stack([np.asarray(on_white(Image.open(io.BytesIO(archive.read(name))))) for name in names])
    emoji = emoji[np.random.default_rng(0).permutation(len(emoji))[: len(emoji) * 3 // 5]]
    drawings, photographs = (
        sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
        for folder in (args.drawings, args.photographs)
    )
    random.Random(0).shuffle(drawings)
    drawings = drawings[: len(drawings) * 3 // 5]
    stamps, scenes = crops(drawings, 64, 1, 160, rng), crops(photographs, 64, 16, 1024, rng)
    colour = cifar["x_train"]
    write_set(work, "cifar", colour, 12_000, 11_000, rng)
    write_set(work, "fashion", rgb(fashion["x_train"][:30_000]), 1700, 1300, rng)
    write_set(work, "mnist", rgb(digits[..., 0]), 900, 700, rng)
    write_set(work, "emoji", resized(list(emoji), 32), 2300, 2000, rng)
    write_set(work, "drawings", crops(drawings, 32, 2, 160, rng), 960, 900, rng)
    write_set(work, "photographs", crops(photographs, 32, 16, 800, rng), 3800, 1200, rng)
    write_set(work, "emoji-64", emoji, 800, 800, rng)
    write_set(work, "drawings-64", stamps, 480, 400, rng)
    write_set(work, "photographs-64", scenes, 2500, 700, rng)
    write_set(work, "shapes-64", rgb(shapes), 300, 200, rng)
    for size, count in ((16, 300), (20, 400), (25, 700), (28, 400), (32, 900), (48, 300)):
        pool = [*colour[rng.integers(0, len(colour), 2000)], *scenes[rng.integers(0, len(scenes), 900)], *stamps[:200]]
        small = resized(pool, size)
        grey_too = rng.random(len(small)) < (1.0 if size == 32 else 0.6)
        small[grey_too] = grey(small[grey_too])
        write_set(work, f"small-{size}", small, count, count, rng)
    labels = {"cifar": (colour, cifar["y_train"])}
    labels["fashion"] = (rgb(fashion["x_train"][:30_000]), fashion["y_train"][:30_000])
    labels["mnist"] = (rgb(digits[..., 0]), np.asarray(mnist.label_batch(mnist.train[:30_000])))
    for name, (images, classes) in labels.items():
        np.savez(work / f"labelled-{name}.npz", images=images, labels=classes)
    np.savez(work / "sources" / "cifar.npz", images=colour[:25_000])
    np.savez(work / "sources" / "emoji.npz", images=resized(list(emoji), 32))
    np.savez(work / "sources" / "fashion.npz", images=fashion["x_train"][:30_000])
    np.savez(work / "sources" / "mnist.npz", images=digits)
    np.savez(work / "sources" / "emoji-64.npz", images=emoji)
    (work / "samples.sh").write_text(samples_script())
    print(f"next: bash {work}/samples.sh")


def samples_script() -> str:
    """Commands that train families for seconds and draw from them."""
    runs = [("cifar", f, b, 600) for b in ("25s", "110s") for f in ("flow", "diffusion", "gan", "vae")]
    runs += [("emoji", f, "60s", 500) for f in ("flow", "gan", "vae")]
    runs += [("cifar", "pixelcnn", "60s", 300), ("emoji", "pixelcnn", "60s", 300)]
    runs += [("fashion", f, "30s", 400) for f in ("flow", "gan", "vae")]
    runs += [("mnist", f, "20s", 300) for f in ("flow", "gan", "vae")]
    runs += [("emoji-64", f, "60s", 300) for f in ("flow", "gan", "vae")]
    lines = ["set -e", 'cd "$(dirname "$0")"', "mkdir -p samples"]
    for source, family, budget, n in runs:
        run = f"runs/{source}-{family}"
        resume = "--resume" if budget == "110s" else ""
        lines.append(f"trilemma train {family} sources/{source}.npz --out {run} --budget {budget} --seed 101 {resume}")
        lines.append(f"trilemma sample {run} -n {n} --seed 7 --out samples/{source}-{family}-{budget}.npz")
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------------------------- the teacher


def pictures(path: Path) -> Tensor:
    """uint8 [N, 3, H, W] of a set, or of samples."""
    with np.load(path) as file:
        x = torch.from_numpy(file["images"])
    x = x[..., None] if x.ndim == 3 else x
    x = x if x.shape[1] in (1, 3) else x.permute(0, 3, 1, 2)
    return x.expand(-1, 3, -1, -1).contiguous()


def teach(args: argparse.Namespace) -> None:
    """Features of the teacher beside every file, in bfloat16 where that is fast: what is learnt is coarser anyway."""
    from trilemma.metrics.inception import InceptionFeatures

    teacher = InceptionFeatures("clean-fid", torch.device("cpu"))
    for path in [*sorted(args.work.glob("set-*.npz")), *sorted(args.work.glob("samples/*.npz"))]:
        beside = path.with_suffix(".inception.npy")
        if beside.exists():
            continue
        start, x, parts = time.time(), pictures(path), []
        with torch.inference_mode(), autocast(torch.device("cpu"), "auto"):
            parts.extend(teacher._network(teacher._prepare(part)).float() for part in x.split(64))
        np.save(beside, torch.cat(parts).half().numpy())
        print(f"{path.name}: {len(x) / (time.time() - start):.0f} images/s", flush=True)


# -------------------------------------------------------------------------------------------------------- the student


class Trained(nn.Module):
    """`Network` as it is trained: a batch normalisation after each convolution, not yet folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Network()
        convolutions = [m for m in self.net.modules() if isinstance(m, nn.Conv2d)]
        for conv in convolutions:
            conv.bias = None
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for conv in convolutions)
        stages = len(WIDTHS) - 1
        for i in range(1 + 2 * stages, 1 + 3 * stages):  # the last of each block starts at nothing
            nn.init.zeros_(self.norms[i].weight)

    def pooled(self, x: Tensor) -> Tensor:
        """What `read` and the heads see, ``[N, 320]``."""
        stages, means = len(WIDTHS) - 1, []
        x = F.relu(self.norms[0](self.net.stem(x)))
        for i in range(stages):
            x = F.relu(self.norms[1 + i](self.net.down[i](x)))
            y = F.relu(self.norms[1 + stages + i](self.net.first[i](x)))
            x = F.relu(x + self.norms[1 + 2 * stages + i](self.net.second[i](y)))
            means.append(x.mean((2, 3)))
        return torch.cat(means[-2:], 1)

    def folded(self) -> dict[str, Tensor]:
        """State of a `Network` with the same outputs, without normalisation."""
        state = {f"read.{key}": value for key, value in self.net.read.state_dict().items()}
        named = [(n, m) for n, m in self.net.named_modules() if isinstance(m, nn.Conv2d)]
        for (name, conv), norm in zip(named, self.norms, strict=True):
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None and norm.running_mean is not None
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            state[f"{name}.weight"] = conv.weight * gain[:, None, None, None]
            state[f"{name}.bias"] = norm.bias - norm.running_mean * gain
        return {key: value.detach().contiguous() for key, value in state.items()}


def to_least(x: Tensor) -> Tensor:
    """Images whose longer side is below `LEAST` brought to it, as `SmallFeatures` does."""
    if max(x.shape[2:]) >= LEAST:
        return x
    grown = F.interpolate(x.float(), (LEAST, LEAST), mode="bilinear", antialias=True)
    return grown.round().clamp(0, 255).to(torch.uint8)


def float_of(x: Tensor) -> Tensor:
    return ((x.float() - 127.5) / 64).contiguous(memory_format=torch.channels_last)


def train(args: argparse.Namespace) -> None:
    """Three losses on two kinds of batches, until the minutes are over; the average of the weights is kept."""
    torch.manual_seed(0)
    rng, work, started = np.random.default_rng(0), args.work, time.time()
    taught: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}  # side → (images, teacher's features, damage)
    for path in [*sorted(work.glob("set-*.npz")), *sorted(work.glob("samples/*.npz"))]:
        x, y = to_least(pictures(path)), torch.from_numpy(np.load(path.with_suffix(".inception.npy"))).float()
        damage = torch.zeros(len(x), len(DAMAGE))
        damage[:, -1] = 1  # of samples
        with np.load(path) as file:
            damage = torch.from_numpy(file["damage"]) if "damage" in file else damage
        taught.setdefault(x.shape[-1], []).append((x, y, damage))
    everything = torch.cat([y for group in taught.values() for _, y, _ in group])
    mean = everything.mean(0)
    spread, directions = torch.linalg.eigh(torch.cov((everything - mean).double().T))
    directions = directions.flip(1)[:, :DIMS].float()
    scale = float(spread.sum().sqrt() / DIMS**0.5)
    print(f"{DIMS} components keep {spread.flip(0)[:DIMS].sum() / spread.sum():.3f} of the teacher's variance")
    groups = {side: [torch.cat(part) for part in zip(*group, strict=True)] for side, group in taught.items()}
    labelled = []
    for name, count in (("cifar", 44), ("fashion", 12), ("mnist", 8)):
        with np.load(work / f"labelled-{name}.npz") as file:
            x = to_least(torch.from_numpy(file["images"]).permute(0, 3, 1, 2).contiguous())
            labelled.append((name, x, torch.from_numpy(file["labels"]).long(), count))

    student = Trained().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pooled = WIDTHS[-2] + WIDTHS[-1]
    classes = nn.ModuleList(nn.Linear(pooled, 10) for _ in labelled)
    damages = nn.Sequential(nn.Linear(pooled, 64), nn.ReLU(), nn.Linear(64, len(DAMAGE)))
    if args.start:
        began = torch.load(args.start, weights_only=True)
        student.load_state_dict(began["student"])
        mean, directions, scale = began["mean"], began["directions"], began["scale"]
    parameters = [*student.parameters(), *classes.parameters(), *damages.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=args.rate, weight_decay=0.02, betas=(0.9, 0.98), fused=True)
    average: dict[str, Tensor] | None = None
    sides, weights = list(groups), [1.0 if side == LEAST else 1 / 3 / (len(groups) - 1) for side in groups]
    step = 0
    while (spent := (time.time() - started) / 60 / args.minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, step / 200) * (1 - spent) + 1e-6
        side = int(rng.choice(sides, p=np.array(weights) / sum(weights)))
        images, features, damage = groups[side]
        rows = torch.from_numpy(rng.integers(0, len(images), 64 if side == LEAST else 20))
        mirrored = torch.from_numpy(rng.random(len(rows)) < 0.5)[:, None, None, None]
        x = torch.where(mirrored, images[rows].flip(3), images[rows])
        drawn, names = [], []
        for name, pool, labels, count in labelled:
            rows_ = torch.from_numpy(rng.integers(0, len(pool), count))
            down, right = rng.integers(0, 7, 2)
            shifted = F.pad(pool[rows_].float(), (3, 3, 3, 3), mode="replicate")
            shifted = shifted[..., down : down + LEAST, right : right + LEAST]
            flip = torch.from_numpy(rng.random(count) < (0 if name == "mnist" else 0.5))[:, None, None, None]
            drawn.append(torch.where(flip, shifted.flip(3), shifted))
            names.append(labels[rows_])
        with autocast(torch.device("cpu"), "auto"):
            if side == LEAST:  # one batch, so that all are normalised alike
                both = student.pooled(float_of(torch.cat([x.float(), *drawn]))).float()
                seen, seen_labelled = both[: len(x)], both[len(x) :]
            else:
                seen = student.pooled(float_of(x)).float()
                seen_labelled = student.pooled(float_of(torch.cat(drawn))).float()
        target = (features[rows] - mean) @ directions / scale
        predicted = student.net.read(seen)
        distil = (predicted - target).square().mean()
        apart, wanted = torch.cdist(predicted, predicted), torch.cdist(target, target)
        relations = (apart - wanted).square().sum() / wanted.square().sum()
        ruin_loss = (damages(seen) - damage[rows]).square().mean() + 0.3 * damages(seen_labelled).square().mean()
        naming = torch.stack([
            F.cross_entropy(head(part), labels, label_smoothing=0.1, reduction="sum")
            for head, part, labels in zip(classes, seen_labelled.split([len(n) for n in names]), names, strict=True)
        ]).sum() / len(seen_labelled)  # fmt: skip
        loss = 2 * distil + relations + 2 * ruin_loss + 0.5 * naming
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        step += 1
        keep = 0.998 if step > 500 else 0.98
        if average is None:
            average = {key: value.clone() for key, value in student.state_dict().items()}
        for key, value in student.state_dict().items():
            if value.is_floating_point():
                average[key].lerp_(value, 1 - keep)
        if step % 200 == 0:
            losses = {"distil": distil, "relations": relations, "damage": ruin_loss, "classes": naming}
            said = ", ".join(f"{key} {value.item():.3f}" for key, value in losses.items())
            print(f"{100 * spent:.0f} %, step {step}: {said}", flush=True)
    assert average is not None
    saved = {"student": average, "scale": scale, "mean": mean, "directions": directions}
    torch.save(saved, work / "student.pt")


def write(args: argparse.Namespace) -> None:
    """Fold the normalisations in, bring the features to the teacher's units, and save in half precision."""
    saved = torch.load(args.work / "student.pt", weights_only=True)
    student = Trained().eval()
    student.load_state_dict(saved["student"])
    state = student.folded()
    state["read.weight"], state["read.bias"] = (
        state["read.weight"] * saved["scale"],
        state["read.bias"] * saved["scale"],
    )
    network = Network().eval()
    network.load_state_dict(state)
    x = torch.randn(8, 3, LEAST, LEAST, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            network(x), student.net.read(student.pooled(x)) * saved["scale"], rtol=1e-3, atol=1e-3
        )
    save_file({key: value.half() for key, value in state.items()}, args.out)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.2f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name in ("images", "teach", "train", "write"):
        stages.add_parser(name).add_argument("work", type=Path)
    images, learn = stages.choices["images"], stages.choices["train"]
    for name in ("cifar10", "fashion", "emoji", "dsprites", "drawings", "photographs"):
        images.add_argument(f"--{name}", type=Path, required=True)
    learn.add_argument("--minutes", type=float, default=45)
    learn.add_argument("--rate", type=float, default=2e-3)
    learn.add_argument("--start", type=Path, help="a student.pt to go on from")
    stages.choices["write"].add_argument("out", type=Path)
    args = parser.parse_args()
    {"images": make_images, "teach": teach, "train": train, "write": write}[args.stage](args)


if __name__ == "__main__":
    main()
