"""The gradient norm of a generator in early training, under the minimax and the non-saturating loss.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/saturation.py --steps 300 --seeds 3 --out saturation.png

Two runs for each seed differ in G's loss alone: initial weights, batches and noise are the same. Drawn is the norm of
the gradient with respect to all of G's parameters, as the training log has it, beside D(G(z)). Goodfellow et al. 2014,
section 3, say why to expect a difference. The medians of the first steps are printed for every seed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

from PIL import Image

from trilemma.data import Dataset, load
from trilemma.families.gan.losses import LossName
from trilemma.parallel import ranks
from trilemma import drawing
from trilemma.questions.saturation import COLOURS
from trilemma.run import Run
from trilemma.training import Progress, make_config, steps
from trilemma.training.loop import Learner

NORM, FAKE = "gradient norm (generator)", "D(G(z))"
Curve = dict[str, list[float]]


def curve(data: Dataset, loss: LossName, seed: int, count: int, width: int, folder: Path) -> Curve:
    """The two logs, step by step."""
    config = make_config("gan", data, seed=seed, model={"loss": loss, "width": width}, settings={"ema": 0.0})
    run = Run.create(folder / f"{loss}-{seed}", config)
    where, progress = ranks("cpu"), Progress()
    loop = steps(Learner.build(run, where), data, config, progress, where)
    found: Curve = {NORM: [], FAKE: []}
    for _ in range(count):
        logs = next(loop)
        for name, values in found.items():
            values.append(logs[name].item())
    return found


def draw(curves: dict[LossName, list[Curve]], count: int, path: Path, title: str) -> Path:
    """Each seed a line."""
    plots: list[Image.Image] = []
    for name, words, read in ((NORM, "log10 of the gradient norm of G", log10), (FAKE, FAKE, float)):
        lines = {loss: [[read(value) for value in run[name]] for run in runs] for loss, runs in curves.items()}
        values = [value for runs in lines.values() for run in runs for value in run]
        low, high = math.floor(min(values)), math.ceil(max(values))
        ticks = drawing.steps(0, count, 5), drawing.steps(low, high, 4)
        plot = drawing.Plot((430, 320), (0, count), (low, high), ("step", words), ticks)
        for loss, runs in lines.items():
            for run in runs:
                plot.line(list(enumerate(run)), COLOURS[loss], 1)
        plots.append(plot.finished())
    entries = [(drawing.swatch(colour), loss) for loss, colour in COLOURS.items()]
    parts = [drawing.words([title], 16), drawing.beside(plots), drawing.key(entries)]
    return drawing.save(drawing.framed(drawing.below(parts)), path)


def log10(value: float) -> float:
    return math.log10(max(value, 1e-6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--early", type=int, default=100, help="steps that the printed ratio is over")
    parser.add_argument("--out", type=Path, default=Path("saturation.png"))
    args = parser.parse_args()
    data = load("mnist")
    with tempfile.TemporaryDirectory() as folder:
        curves: dict[LossName, list[Curve]] = {
            loss: [curve(data, loss, seed, args.steps, args.width, Path(folder)) for seed in range(args.seeds)]
            for loss in COLOURS
        }
    for loss, runs in curves.items():
        norms = [f"{statistics.median(run[NORM][: args.early]):.3g}" for run in runs]
        answers = [f"{statistics.median(run[FAKE][: args.early]):.3f}" for run in runs]
        print(f"{loss}, medians of the first {args.early} steps by seed: gradient norm {', '.join(norms)}", end="; ")
        print(f"D(G(z)) {', '.join(answers)}")
    title = f"MNIST, width {args.width}, {args.seeds} seed{'s' * (args.seeds > 1)}: the same start, two losses of G"
    print(draw(curves, args.steps, args.out, title))


if __name__ == "__main__":
    main()
