"""Power spectra of images whose spectrum is known, and the plane of rate and distortion."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from coders import linear_vae, noise_images
from PIL import Image
from tiny import call
from torch import Tensor

from trilemma.data import load
from trilemma.drawing import save
from trilemma.families.autoencoder import Autoencoder, AutoencoderConfig
from trilemma.images import Spec
from trilemma.metrics.spectrum import power_spectrum, sharpness, sharpness_estimate
from trilemma.questions.rates import RatePoint, draw_rate_distortion, draw_spectra, rate_point
from trilemma.training import train


def white(count: int, size: tuple[int, int] = (24, 32), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, *size), generator=generator, dtype=torch.uint8)


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    spectrum = power_spectrum(white(400))
    variance = (256**2 - 1) / 12 / 255**2
    assert spectrum.n == 400
    assert len(spectrum.frequencies) == 12
    assert spectrum.frequencies[-1] == 0.5
    assert torch.allclose(spectrum.power[1:], torch.full((11,), variance, dtype=torch.float64), rtol=0.1)
    assert spectrum.power[0] < variance  # the mean that was taken away


@pytest.mark.parametrize("cycles", [3, 7, 11])
def test_a_wave_stands_at_its_frequency(cycles: int) -> None:
    size = 24
    across = torch.arange(size) / size
    wave = (127.5 + 100 * torch.sin(2 * math.pi * cycles * across)).round().to(torch.uint8).expand(1, 1, size, size)
    power = power_spectrum(wave).power
    assert int(power.argmax()) + 1 == cycles
    assert power[cycles - 1] > 5 * power[[i for i in range(12) if abs(i + 1 - cycles) > 2]].max()


def test_blur_takes_the_share_that_its_transfer_function_says() -> None:
    """Averaging each pixel with its right neighbour has the power transfer cos²(π f) along rows."""
    x = white(300, (32, 32))
    mean = ((x.int() + x.int().roll(1, 3)) // 2).to(torch.uint8)
    both = ((mean.int() + mean.int().roll(1, 2)) // 2).to(torch.uint8)
    real, once, twice = (power_spectrum(images) for images in (x, mean, both))
    assert 1 > sharpness(once, real) > sharpness(twice, real) > 0
    f = torch.fft.fftfreq(32).double()
    radius = torch.sqrt(f[:, None] ** 2 + f**2)
    transfer = (torch.cos(math.pi * f[:, None]) * torch.cos(math.pi * f)) ** 2
    for ring in (6, 10, 14):
        expected = transfer[(radius * 32).round() == ring].mean()
        assert float(twice.power[ring - 1] / real.power[ring - 1]) == pytest.approx(float(expected), rel=0.15)
    assert sharpness(real, real) == pytest.approx(1.0)


def test_constant_images_have_no_power_and_bad_ones_are_refused() -> None:
    flat = power_spectrum(torch.full((2, 3, 8, 8), 77, dtype=torch.uint8))
    assert flat.power.abs().max() < 1e-12
    with pytest.raises(ValueError, match="at least 4 x 4"):
        power_spectrum(white(1, (3, 9)))
    with pytest.raises(ValueError, match="uint8"):
        power_spectrum(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="different sizes"):
        sharpness(power_spectrum(white(1)), power_spectrum(white(1, (8, 8))))


def test_rate_and_distortion_of_a_linear_vae() -> None:
    model, x = linear_vae([0.5, 0.0], [-1.0, 0.0]), noise_images(200)
    point = rate_point(model, x)
    mean = (x.flatten(1)[:, 0].float() / 127.5 - 1) * 0.5
    assert point.rate == pytest.approx(float(0.5 * (mean.square().mean() + math.exp(-1) - 1 + 1)), rel=1e-5)
    assert (point.active, point.latents) == (1, 2)
    assert point.bound == point.rate + point.distortion
    with pytest.raises(ValueError, match="a distance alone"):
        rate_point(Autoencoder(AutoencoderConfig(width=8, latent=2), Spec((1, 4, 4))), x)


def test_pictures(tmp_path: Path) -> None:
    points = [RatePoint(4.0, 5.0, 120.0, 3, 8, 0.4), RatePoint(1.0, 20.0, 90.0, 8, 8, None)]
    pictures = [
        draw_rate_distortion(points, "a sweep"),
        draw_rate_distortion(points[:1], "one point", {1.0: white(3)}),
        draw_spectra({"real": power_spectrum(white(2)), "flat": power_spectrum(white(2) // 2)}, "t"),
    ]
    for i, drawn in enumerate(pictures):
        with Image.open(save(drawn, tmp_path / f"{i}.png")) as picture:
            assert picture.size[0] > 300


def test_the_error_of_the_sharpness_is_that_over_images() -> None:
    real = power_spectrum(white(300, (16, 16), seed=100))
    found = [sharpness_estimate(white(60, (16, 16), seed), real) for seed in range(40)]
    spread = torch.tensor([each.value for each in found]).std()
    mean = torch.tensor([each.error for each in found]).mean()
    assert float(mean) == pytest.approx(float(spread), rel=0.35)
    x = white(60, (16, 16))
    assert sharpness_estimate(x, real).value == pytest.approx(sharpness(power_spectrum(x), real))
    with pytest.raises(ValueError, match="at least 2 images"):
        sharpness_estimate(x[:1], real)
    with pytest.raises(ValueError, match="no fine detail"):
        sharpness_estimate(x, power_spectrum(torch.zeros(2, 1, 16, 16, dtype=torch.uint8)))


def test_several_betas_are_asked_about_the_same_images(
    blobs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / "one", tmp_path / "heavy"]
    data = load(blobs_file, progress=False)
    for run, beta in zip(runs, (1.0, 50.0), strict=True):
        train("vae", data, out=run, budget="60steps", model={"beta": beta}, device="cpu", say=lambda line: None)

    plane = tmp_path / "plane.png"
    code, out, err = call(capsys, "query", "rates", runs[0], runs[1], "-n", 16, "--json", "--out", plane)
    assert code == 0, err
    one, heavy = json.loads(out)["values"]["points"]
    assert (one["beta"], heavy["beta"]) == (1.0, 50.0)
    assert one["rate"] > heavy["rate"]
    assert one["bound"] == pytest.approx(one["rate"] + one["distortion"])
    assert one["sharpness"] > 0
    for picture in (plane, tmp_path / "plane-spectra.png"):
        assert Image.open(picture).size[0] > 300
    assert "two of the runs have beta 1" in call(capsys, "query", "rates", runs[0], runs[0])[2]
