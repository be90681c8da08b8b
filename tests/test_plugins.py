"""A family is one file outside the package: trained, drawn from, asked, measured and compared like the others."""

from __future__ import annotations

import os
import re
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


def run(folder: Path, commands: str) -> str:
    """What some commands print, one after the other, and how each ended."""
    code = "import sys\nfrom trilemma.cli import main\nfor line in sys.argv[1].splitlines():\n    try:\n        "
    code += "main(line.split())\n    except SystemExit as stop:\n        print('exit', stop.code, flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", code, commands],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=folder,
    )
    return done.stdout


def test_a_family_is_named_by_its_file_and_class(tmp_path: Path) -> None:
    (tmp_path / "blur.py").write_text(FAMILY)
    write_blobs(tmp_path / "blobs.npz")
    few = "-n 20 --reference 64 --metrics frechet,images_per_second --ladder no"
    said = run(
        tmp_path,
        f"""train blur.py:Blur blobs.npz --out run --budget 2steps
compare --runs run --out report {few}
sample run -n 4 --out s.png --family ./blur.py:Blur
train blur.py:Config blobs.npz --out x
train blur.py:Blurred blobs.npz --out x
train blue.py:Blur blobs.npz --out x""",
    )
    assert said.count("exit 0") == 3 and said.count("exit 1") == 3, said
    assert "blur.py:Config is no family" in said and "no class Blurred in blur.py" in said
    assert "blue.py, which is no Python file" in said and "Traceback" not in said
    assert "A Gaussian" in (tmp_path / "report" / "report.html").read_text("utf-8")


def test_a_family_of_ones_own_is_checked_against_the_contract(tmp_path: Path) -> None:
    good = FAMILY.replace("Density.TRACTABLE", "Density.APPROXIMATE")
    files = {
        "good": (good, "good keeps the contract"),
        "kind": (FAMILY, "is exact, not estimate"),
        "chance": (
            good.replace("noise.normal(", "torch.randn(noise.count, "),
            "image i changes with how many are drawn",
        ),
        "lost": (good.replace("self.mean = ", "self.lost = nn.Linear(2, 2)\n        self.mean = "), "to no objective"),
        "torn": (good.replace("self.spec.from_unit(", "self.spec.fromunit("), "AttributeError"),
    }
    for name, (text, _) in files.items():
        (tmp_path / f"{name}.py").write_text(text.replace('name = "blur"', f'name = "{name}"'))
    said = run(tmp_path, "\n".join(f"check-family {name}.py:Blur" for name in files))
    parts = re.split(r"(?<=exit \d)\n", said)
    for (_, words), part in zip(files.values(), parts, strict=False):
        assert words.replace("None", "0") in part and "Traceback" not in part, said
    assert said.count("exit 0") == 1 and said.count("exit 1") == 4
