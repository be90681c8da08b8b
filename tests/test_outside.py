"""Models from elsewhere are measured like runs: a function, a diffusers pipeline, a torch module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import blobs, write_blobs
from tiny import Linear

from trilemma.comparison import compare
from trilemma.data import Dataset, load
from trilemma.evaluation import Protocol, Reference, evaluate
from trilemma.report import overview

QUICK = Protocol(n=300, reference=0, metrics="mutual_fidelity,frechet,images_per_second,bits_per_dim", ladder="no")


@pytest.fixture
def real(tmp_path: Path) -> Reference:
    data: Dataset = load(write_blobs(tmp_path / "real.npz", 700), progress=False)
    return Reference.prepare(data, QUICK, "cpu")


def test_a_function_is_scored_as_the_images_that_it_draws(real: Reference, tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def draw(n: int, seed: int) -> np.ndarray[Any, Any]:
        asked.append((n, seed))
        return blobs(n, seed=seed % 2**32)[0]

    record = evaluate(draw, real, device="cpu")
    assert [n for n, _ in asked] == [256, 256] and len({seed for _, seed in asked}) == 2
    drawn = np.concatenate([blobs(n, seed=seed % 2**32)[0] for n, seed in asked])[:300]
    np.savez(tmp_path / "drawn.npz", images=drawn)
    files = evaluate(tmp_path / "drawn.npz", real, device="cpu")
    assert record["metrics"]["frechet"]["value"] == pytest.approx(files["metrics"]["frechet"]["value"], rel=1e-6)
    assert record["metrics"]["images_per_second"]["value"] > 0 and "bits_per_dim" not in record["metrics"]
    assert "images_per_second" not in files["metrics"]
    assert evaluate(draw, real, device="cpu")["metrics"]["frechet"] == record["metrics"]["frechet"]  # by its seeds
    page = compare(real.dataset, samples={"mine": draw}, protocol=QUICK, out=tmp_path / "page", say=lambda line: None)
    row = overview(page.parent).rows[0]
    assert row.marks["speed"].share is not None and row.marks["quality"].number.value is not None


def test_a_module_says_how_long_its_codes_are(real: Reference) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(64, 5, generator=generator) / 4, torch.zeros(64)
    module = Linear(weight, bias, (1, 8, 8))
    with pytest.raises(ValueError, match="latent_dim"):
        evaluate(module, real, device="cpu")
    module.latent_dim = 5  # type: ignore[assignment]
    seen: list[torch.Tensor] = []
    module.register_forward_hook(lambda own, given, made: seen.append(made.detach()))
    module.train()
    record = evaluate(module, real, device="cpu")
    assert module.training and record["metrics"]["frechet"]["n"] == 300
    # between -1 and 1, grey is 0
    images = ((torch.cat(seen)[:300].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    by_hand = evaluate(images, real, device="cpu")["metrics"]["frechet"]["value"]
    assert record["metrics"]["frechet"]["value"] == pytest.approx(by_hand, rel=0.02)  # but for rounding

    class Convolutional(torch.nn.Module):
        nz = 3

        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.ConvTranspose2d(3, 1, 8)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            if z.ndim != 4:
                raise RuntimeError("codes are pictures of one pixel")
            return torch.sigmoid(self.up(z))

    assert evaluate(Convolutional(), real, device="cpu")["metrics"]["frechet"]["value"] > 0


def test_a_diffusers_pipeline_is_drawn_from(real: Reference) -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipeline = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler(num_train_timesteps=60))
    few = {"num_inference_steps": 2}
    one = evaluate(pipeline, real, options=few, device="cpu")
    assert one["subject"]["images"] == "DDIMPipeline" and one["metrics"]["images_per_second"]["value"] > 0
    assert evaluate(pipeline, real, options=few, device="cpu")["metrics"]["frechet"] == one["metrics"]["frechet"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda n: None, "n, seed"),
        (lambda n, seed: np.zeros((n, 5, 5, 1), np.uint8), "shape"),
        (lambda n, seed: blobs(7)[0], "gave 7 images"),
        (lambda n, seed: "no image", "no images"),
    ],
)
def test_what_is_no_model_of_these_images_is_refused_in_a_line(model: Any, words: str, real: Reference) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        evaluate(model, real, device="cpu")
    assert "\n" not in str(refused.value)
