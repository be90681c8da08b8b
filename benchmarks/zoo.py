"""Make the zoo: small trained runs, which ship inside the package.

    python benchmarks/zoo.py work --into src/trilemma/zoo --picture docs/zoo.png

Trains every run of `RECIPES` in WORK/NAME, packs it for shipping (averaged weights in half precision, no optimiser
state), measures what was packed, and prints the table of docs/zoo.md. Started again it continues; a packed run is made
anew once its folder is removed. It stands here and not in the package because it names families, trains and measures:
what ships is only what it made.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import trilemma
from trilemma import drawing
from trilemma.bars import Bars
from trilemma.blocks import BLOCK
from trilemma.comparison import standard_metrics
from trilemma.evaluation import Protocol, Reference
from trilemma.files import new_folder, write_json
from trilemma.number import text
from trilemma.run import Run, is_run
from trilemma.sampling import choose_labels, sample_block
from trilemma.training.driver import show
from trilemma.validate import read_json
from trilemma.vectors import scatter


@dataclass(frozen=True)
class Recipe:
    """How a run of the zoo is trained; all are of the size ``tiny`` and of seed 0."""

    family: str
    budget: str
    data: str = "mnist"
    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=lambda: {"anneal": 0.5})

    @property
    def conditional(self) -> bool:
        return self.data != "ring"


RECIPES = {
    "autoencoder": Recipe("autoencoder", "40kimages", model={"width": 32, "latent": 8}),
    "vae": Recipe("vae", "128kimages", model={"width": 32, "latent": 8}),
    "gan": Recipe("gan", "120kimages"),
    "pixelcnn": Recipe("pixelcnn", "100kimages"),
    "pixelrnn": Recipe("pixelrnn", "30kimages"),
    "diffusion": Recipe("diffusion", "160kimages"),
    "flow": Recipe("flow", "160kimages"),
    "consistency": Recipe("consistency", "240kimages"),
    "gan-fashion": Recipe("gan", "160kimages", "fashion-mnist"),
    "vae-fashion": Recipe("vae", "128kimages", "fashion-mnist", model={"width": 32, "latent": 8}),
    "autoencoder-ring": Recipe("autoencoder", "200kimages", "ring"),
    "vae-ring": Recipe("vae", "200kimages", "ring"),
    "gan-ring": Recipe("gan", "1Mimages", "ring"),
    "diffusion-ring": Recipe("diffusion", "200kimages", "ring"),
    "flow-ring": Recipe("flow", "200kimages", "ring"),
    "consistency-ring": Recipe("consistency", "200kimages", "ring"),
}
"""A new run of the zoo is a line here."""


PROTOCOL = dict(n=1300, likelihood_n=100)
"""Enough samples for the 128 features, and little enough for what draws 40 images a second."""

COLUMNS = {
    "mutual_fidelity": "fidelity ↑",
    "mutual_coverage": "coverage ↑",
    "frechet": "Fréchet ↓",
    "accuracy": "right class ↑",
    "bits_per_dim": "bits/dim ↓",
    "images_per_second": "images/s ↑",
}


def train(name: str, work: Path) -> Run:
    recipe = RECIPES[name]
    with Bars() as bars:
        return trilemma.train(
            recipe.family,
            recipe.data,
            out=work / name,
            budget=recipe.budget,
            conditional=recipe.conditional,
            model=recipe.model,
            settings=recipe.settings,
            resume=True,
            progress=lambda report: show(bars, name, report),
            say=bars.say,
        )


def pack(run: Run, place: Path, real: Reference) -> None:
    """Pack a run and measure what was packed; what stood at ``place`` is replaced once all is done."""
    with new_folder(place) as fresh:
        fresh.rmdir()
        small = run.pack(fresh)
        with Bars() as bars:
            trilemma.evaluate(small, real, progress=lambda what, done, total: bars.tell(place.name, what, done, total))
        for file in fresh.rglob("*.json"):  # in the words of those who will open it, not of where it was made
            said = file.read_text("utf-8")
            file.write_text(said.replace(str(fresh), f"zoo/{place.name}").replace(fresh.name, place.name), "utf-8")
        (fresh / "lock").unlink(missing_ok=True)


def packed(zoo: Path) -> list[Path]:
    """The folders of the runs that are packed and measured, by name."""
    return sorted(path.parent for path in zoo.glob("[a-z]*/metrics.json"))


def time_sampling(zoo: Path, blocks: int = 3) -> None:
    """Measure the speed of all runs anew, in one go and in processor time, which other work on the machine does not
    lengthen as it does the time on the clock; with one thread the two agree on an idle one."""
    for folder in packed(zoo):
        model, rates = Run.open(folder).model(), []
        labels = choose_labels(model.spec, BLOCK * (blocks + 1), 0, None)
        for block in range(blocks + 1):
            began = time.process_time()
            sample_block(model, 0, block * BLOCK, BLOCK, labels, None)
            rates.append(BLOCK / (time.process_time() - began))
        rates = rates[1:]  # the first one warms up
        record = read_json(folder / "metrics.json")
        record["metrics"]["images_per_second"] |= {
            "value": statistics.mean(rates),
            "error": statistics.stdev(rates) / blocks**0.5,
            "n": BLOCK * blocks,
            "note": "processor time of the sampler alone",
            "protocol": f"blocks of {BLOCK} on cpu, {torch.get_num_threads()} threads; the error is over blocks",
        }
        write_json(folder / "metrics.json", record)


def table(zoo: Path) -> str:
    """The scores of all runs as Markdown."""
    lines = ["| run | MB | trained | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * (len(COLUMNS) + 2)]
    for folder in packed(zoo):
        record, megabytes = read_json(folder / "metrics.json"), size(folder) / 1e6
        progress = record["subject"]["progress"]
        cells = [
            f"`zoo/{folder.name}`",
            f"{megabytes:.1f}",
            f"{progress['images'] / 1000:,.0f} k in {progress['seconds']:,.0f} s",
        ]
        for name in COLUMNS:
            metric = record["metrics"].get(name)
            if metric is None or metric["value"] is None:
                cells.append("")
            else:
                bound = "≤ " if "bound" in (metric["kind"] or "") else ""
                cells.append(bound + text(metric["value"], metric["error"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{size(zoo) / 1e6:.1f} MB in all"


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def draw(zoo: Path, out: Path) -> None:
    """Two rows of samples of each run of images, and the points of each run of vectors in a picture of their own."""
    rows, points = [], []
    for folder in packed(zoo):
        run = Run.open(folder)
        if run.config.spec.vector:
            drawn = trilemma.sample(run, 2000).images
            points.append(drawing.to_pil(scatter(drawn, None, f"zoo/{folder.name}")))
        else:
            rows.append((f"zoo/{folder.name}", trilemma.sample(run, 20, labels=list(range(10))).images))
    drawing.save(drawing.captioned(rows, 256, columns=10, wanted=56), out)
    if points:
        drawing.save(drawing.framed(drawing.beside(points)), out.with_stem(f"{out.stem}-ring"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder of the runs that are trained")
    parser.add_argument("--into", type=Path, help="the folder of the packed runs; by default none are packed")
    parser.add_argument("--picture", type=Path, help="draw samples of the packed runs")
    parser.add_argument("--only", default="", help="names between commas; all by default")
    args = parser.parse_args()
    references: dict[str, Reference] = {}
    for name in args.only.split(",") if args.only else RECIPES:
        run = train(name, args.work)
        if run.stopped:
            return
        if args.into and not is_run(args.into / name):
            data = trilemma.load(RECIPES[name].data)
            if data.name not in references:
                protocol = Protocol(**PROTOCOL, metrics=standard_metrics(data))
                references[data.name] = Reference.prepare(data, protocol, "auto")
            pack(run, args.into / name, references[data.name])
    if args.into:
        time_sampling(args.into)
        print(table(args.into))
    if args.into and args.picture:
        draw(args.into, args.picture)


if __name__ == "__main__":
    main()
