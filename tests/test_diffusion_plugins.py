"""A sampler is added by one file outside the package, and is an option like the others."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trilemma.families import FAMILIES
from trilemma.families.diffusion import Diffusion, DiffusionConfig, DiffusionOptions, Sampler, Trajectory, register
from trilemma.families.diffusion.samplers import _REGISTRY, DDIM, SHARED
from trilemma.images import Spec
from trilemma.noise import ImageNoise
from trilemma.sampling import sample
from trilemma.training import train

FILE = '''
"""A sampler from elsewhere."""

from dataclasses import dataclass

from trilemma.families.diffusion import Sampler, register


@register
@dataclass(frozen=True)
class Damped(Sampler):
    """DDIM with a damped noise (nobody 2026).

    x_s = α_s x_0 + κ σ_s ε.
    """

    name = "damped"
    usual = 3

    kappa: float = 1.0
    """share of the noise that is kept"""

    def step(self, x_t, t, s, on):
        x_0, eps, _ = on.denoise(x_t, t)
        alpha_s, sigma_s = on.schedule(s)
        return alpha_s * x_0 + self.kappa * sigma_s * eps
'''


@pytest.fixture
def registry() -> Iterator[None]:
    """Samplers that a test registers are gone after it."""
    before = dict(_REGISTRY)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(before)


def model() -> Diffusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Diffusion(DiffusionConfig(width=16, multipliers=(1,), timesteps=20), Spec((1, 4, 4)))
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


def test_a_sampler_by_entry_point(tmp_path: Path) -> None:
    """From a file on the path with the metadata of its package: the command samples with it, and its help names it."""
    (tmp_path / "damped.py").write_text(FILE)
    package = tmp_path / "damped-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: damped\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[trilemma.plugins]\ndamped = damped\nbroken = nowhere\n")
    data = tmp_path / "data.npz"
    import numpy as np

    np.savez(data, images=np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8))
    net = {"width": 16, "multipliers": [1], "blocks": 1, "timesteps": 20}
    run = train("diffusion", data, out=tmp_path / "run", budget="1steps", model=net, device="cpu")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = f"""
import damped, trilemma  # first the file itself, which opens the library
from trilemma.cli import main
from trilemma.families import FAMILIES
import torch
options = FAMILIES["diffusion"].Options
one, same, other = (trilemma.sample({str(run.path)!r}, 2, options=chosen, device="cpu").images for chosen in (
    options(sampler="damped", precision="fp32"),
    options(sampler="ddim", steps=3, precision="fp32"),
    options(sampler="damped", kappa=0.2, precision="fp32"),
))
assert torch.equal(one, same), "damped by 1 is ddim"
assert options(sampler="damped").method == damped.Damped()
for words in (["--sampler", "damped", "--kappa", "0.5"], ["--sampler", "ddim", "--kappa", "0.5"], ["--help"]):
    try:
        main(["sample", {str(run.path)!r}, "-n", "1", "--out", {str(tmp_path / "s.png")!r}, *words])
    except SystemExit as end:
        print("exit", end.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert (tmp_path / "s.png").is_file()
    assert "kappa belongs to the sampler damped, not to ddim" in said
    assert "damped: DDIM with a damped noise (nobody 2026)" in said and "damped only: share of the noise" in said
    assert "the plugin broken (nowhere) cannot be used" in said


def test_a_registered_sampler_is_an_option_of_every_family(registry: None) -> None:
    @register
    @dataclass(frozen=True)
    class Half(Sampler):
        """Half of what is asked for."""

        name = "half"
        usual = 4

        eta: float = 0.0
        amount: float = 0.5

        def step(self, x_t: Tensor, t: int, s: int, on: Trajectory) -> Tensor:
            return self.amount * on.denoise(x_t, t).x0

    made = model()
    for family in ("diffusion", "flow"):
        options = FAMILIES[family].Options(sampler="half", amount=0.25)
        assert isinstance(options, DiffusionOptions) and options.method == Half(amount=0.25)
        assert len(options.visits(made.schedule)) == 4
    assert FAMILIES["flow"].Options().sampler == "euler"
    assert made.Options(sampler="half", eta=0.5).method.eta == made.Options(eta=0.5).method.eta == 0.5
    assert "half" in made.samplers
    with pytest.raises(ValueError, match="amount belongs to the sampler half, not to ddim"):
        made.Options(amount=0.1)
    with pytest.raises(ValueError, match="eta belongs to the sampler ddim or half, not to heun"):
        made.Options(sampler="heun", eta=0.1)
    grey = sample(made, 2, options=made.Options(sampler="half", amount=0.0)).images
    assert bool((grey == 128).all())
    assert torch.equal(
        made.sample(ImageNoise(0, [0]), options=made.Options(sampler="half")),
        made.sample(ImageNoise(0, [0]), options=DiffusionOptions(sampler="half")),
    )


def test_samplers_that_will_not_do_are_refused(registry: None) -> None:
    def made(**fields: object) -> type[Sampler]:
        body = {"__annotations__": dict.fromkeys(fields, float), "name": "other", "step": DDIM.step} | {
            name: value for name, value in fields.items() if value is not None
        }
        return dataclass(frozen=True)(type("Other", (Sampler,), body))

    for fields, fault in (({"steps": 3}, "rename"), ({"eta": 0.7}, "rename"), ({"bare": None}, "needs a default")):
        with pytest.raises(ValueError, match=fault):
            register(made(**fields))
    again = made()
    again.name = "ddim"
    with pytest.raises(ValueError, match="there is a sampler ddim already"):
        register(again)


def test_the_names_that_all_samplers_share_are_the_options_own() -> None:
    fields = dataclasses.fields(DiffusionOptions)
    assert {field.name for field in fields if "samplers" not in field.metadata} == SHARED
