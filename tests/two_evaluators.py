"""Evaluates a run by the Python API; started by torchrun in test_evaluation_stream.py, and imported there."""

import json
import sys
from pathlib import Path
from typing import Any

from trilemma.evaluation import Protocol, evaluate
from trilemma.parallel import join, ranks

PROTOCOL = Protocol(
    n=300, reference=0, likelihood_n=70, likelihood_samples=2,
    metrics="frechet,precision,coverage,memorised,c_t,bits_per_dim,images_per_second",
)  # fmt: skip


def measure(run: str, out: Path) -> dict[str, Any]:
    record = evaluate(run, protocol=PROTOCOL, out=out, device="cpu")
    if ranks("cpu").first:
        (out / "record.json").write_text(json.dumps(record))
    return record


if __name__ == "__main__":
    with join("cpu"):
        measure(sys.argv[1], Path(sys.argv[2]))
