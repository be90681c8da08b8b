"""A family is one file outside the package: trained, drawn from, asked, measured and compared like the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import write_blobs

FAMILY = '''
"""One Gaussian a pixel, with one spread for all."""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import nn

from trilemma.families.family import Density, Family, Likelihood, Loss, Objective


@dataclass(frozen=True)
class Config:
    """Hyperparameters."""

    spread: float = 0.3
    """Standard deviation on [-1, 1]."""


@dataclass(frozen=True)
class Options:
    """None."""


class Blur(Family):
    """The mean image and noise."""

    name = "blur"
    title = "A Gaussian"
    paper = "Gauss 1809"
    density = Density.TRACTABLE
    answers = {each: "no" for each in ("sample", "p(x)", "p(z|x)", "complete", "interpolate", "classify")}
    gives_up = "everything"
    vectors = False
    Config = Config
    Options = Options

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.mean = nn.Parameter(torch.zeros(spec.shape))

    def objectives(self):
        def loss(x, labels, noise):
            return Loss({"error": (self.spec.to_unit(x) - self.mean).square().sum((1, 2, 3)).mean()})

        return [Objective("error", [self.mean], loss)]

    def sample(self, noise, labels=None, options=None, progress=None):
        return self.spec.from_unit(self.mean + self.config.spread * noise.normal(*self.spec.shape))

    def log_likelihood(self, x, labels, noise, samples=None):
        z = (self.spec.to_unit(x) - self.mean).flatten(1) / self.config.spread
        nats = -0.5 * z.square().sum(1) - z.shape[1] * log(self.config.spread * (2 * pi) ** 0.5 * 127.5)
        return Likelihood("estimate", nats, "a density at the middle of each bin")
'''


def test_a_family_is_one_file_outside_the_package(tmp_path: Path) -> None:
    (tmp_path / "blur.py").write_text(FAMILY)
    data = write_blobs(tmp_path / "blobs.npz")
    environment = dict(os.environ, TRILEMMA_PLUGINS=str(tmp_path / "blur.py"))

    run, report = tmp_path / "run", tmp_path / "report"
    few = "-n 20 --reference 64 --likelihood-n 4 --ladder no"
    commands = f"""train blur --help
train blur {data} --out {run} --budget 3steps --model.spread 0.2
sample {run} -n 4 --out {tmp_path / "s.png"}
query {run} --json
compare {data} --families blur,vae --budget 2steps --out {report} {few}"""
    code = "import sys\nfrom trilemma.cli import main\nfor line in sys.argv[1].splitlines():\n    try:\n        "
    code += "main(line.split())\n    except SystemExit as stop:\n        print('exit', stop.code)"
    done = subprocess.run(
        [sys.executable, "-c", code, commands], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.count("exit 0") == 5, done.stderr[-2000:]
    assert "--model.spread" in done.stdout and '"kind": "estimate"' in done.stdout
    assert (tmp_path / "s.png").is_file() and "A Gaussian" in (report / "report.html").read_text("utf-8")


def test_a_plugin_that_fails_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError('no')")
    for name, words in (("bad.py", "fails: RuntimeError: no"), ("nowhere.py", "is no Python file")):
        environment = dict(os.environ, TRILEMMA_PLUGINS=str(tmp_path / name))
        done = subprocess.run(
            [sys.executable, "-m", "trilemma", "train", "--help"],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 1
        assert words in done.stderr and len(done.stderr.splitlines()) == 1
