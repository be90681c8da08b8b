"""The families on the embedded sets, on one page: docs/leaderboard.md.

    python benchmarks/leaderboard.py work [--sets mnist,ring] [--budget 75s] [--page docs/leaderboard.md]

Each set is a comparison in WORK/SET, trained for an equal time and judged by equal protocols; it is taken up again
where it was stopped. The page carries the date, the commit and the hardware, since equal seconds are worth
unequal images on other machines.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trilemma
from trilemma.evaluation.protocol import hardware
from trilemma.families import FAMILIES
from trilemma.number import text

IMAGES = {
    "mutual_fidelity": "fidelity ↑",
    "mutual_coverage": "coverage ↑",
    "frechet": "Fréchet ↓",
    "memorised": "copied",
    "bits_per_dim": "bits/dim ↓",
    "images_per_second": "images/s ↑",
}
POINTS = {
    "mixture_modes": "modes ↑",
    "high_quality": "good points ↑",
    "mutual_fidelity": "fidelity ↑",
    "mutual_coverage": "coverage ↑",
    "density_kl": "KL (bound) ↓",
    "images_per_second": "points/s ↑",
}
N = 1300


def measured(name: str, work: Path, budget: str) -> dict[str, Any]:
    """The record of a comparison of all families that can learn the set."""
    page = trilemma.compare(name, out=work / name, budget=budget, protocol={"n": N}, progress="bar")
    found: dict[str, Any] = json.loads(page.with_name("report.json").read_text("utf-8"))
    return found


def cell(metric: dict[str, Any] | None, floor: dict[str, Any] | None) -> str:
    """A number as the page prints it; bold where it is as good as that of real images, within its error."""
    if metric is None or metric["value"] is None:
        return ""
    said = ("≤ " if "bound" in (metric.get("kind") or "") else "") + text(metric["value"], metric["error"])
    if floor is None or floor["value"] is None or metric["better"] not in ("higher", "lower"):
        return said
    ahead = (metric["value"] - floor["value"]) * (1 if metric["better"] == "higher" else -1)
    return f"**{said}**" if ahead > -2 * (metric["error"] or 0) else said


def table(record: dict[str, Any]) -> list[str]:
    columns = POINTS if len(record["data"]["shape"]) == 1 else IMAGES
    lines = [
        "| family | learnt from | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    floor = record["floor"]
    for row in record["families"]:
        images = (row.get("training") or {}).get("images")
        cells = [FAMILIES[row["family"]].title, "" if images is None else f"{images / 1000:,.0f} k"]
        cells += [cell(row["metrics"].get(name), floor.get(name)) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    real = ["*held-out real images*", ""]
    real += [text(floor[n]["value"], floor[n]["error"]) if n in floor and floor[n]["value"] else "" for n in columns]
    return [*lines, "| " + " | ".join(real) + " |"]


def page(records: dict[str, dict[str, Any]], budget: str) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    threads = next(iter(records.values()))["protocol"]["threads"]
    lines = [
        "# Leaderboard",
        "",
        f"Every family on the sets that ship with the package, trained for {budget} each at size tiny, seed 0; "
        f"{N:,} samples, features small-v2 (of points: their own plane). Bold: within two errors of held-out real "
        "images, or better. [metrics.md](metrics.md) says what each number means and when it misleads.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d} · commit {commit or 'unknown'} · trilemma {trilemma.__version__} · "
        f"{hardware()}, {threads} threads · `python benchmarks/leaderboard.py work --budget {budget}`",
    ]
    for name, record in records.items():
        lines += ["", f"## {name}", "", *table(record)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--sets", default="mnist,ring")
    parser.add_argument("--budget", default="75s")
    parser.add_argument("--page", type=Path, help="where to write it; by default it is printed")
    args = parser.parse_args()
    records = {name: measured(name, args.work, args.budget) for name in args.sets.split(",")}
    said = page(records, args.budget)
    if args.page:
        args.page.write_text(said, "utf-8")
    else:
        print(said)


if __name__ == "__main__":
    main()
