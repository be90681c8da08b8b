"""Streaming: memory that does not grow, and values that do not depend on batches, shards or processes."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import two_evaluators
from coders import vae
from conftest import blobs
from torch import Tensor

from trilemma.data import Dataset, load
from trilemma.evaluation import Protocol, Reference, evaluate
from trilemma.evaluation.reference import cached_pool
from trilemma.evaluation.scores import fidelity
from trilemma.evaluation.stream import UNIT, Pool, Supply, pool, windows
from trilemma.evaluation.subject import drawn_from
from trilemma.images import Spec
from trilemma.metrics import CustomFeatures, Moments, feature_network, frechet_distance
from trilemma.parallel import Ranks, ranks
from trilemma.sampling import BLOCK, sample
from trilemma.training import train

HERE = ranks("cpu")


def images(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(blobs(count, seed=seed)[0]).permute(0, 3, 1, 2).contiguous()


def supply_of(shown: Tensor, asked: list[tuple[int, int]] | None = None) -> Supply:
    def draw(start: int, stop: int) -> Tensor:
        if asked is not None:
            asked.append((start, stop))
        return shown[start:stop]

    return Supply(len(shown), (shown.shape[1], shown.shape[2], shown.shape[3]), draw)


class Shard(Ranks):
    """One of several processes that notes what it would send and gets what all of them would send."""

    def __init__(self, rank: int, size: int, shown: Tensor) -> None:
        super().__init__(rank, size, torch.device("cpu"))
        object.__setattr__(self, "shown", shown)

    def gather(self, value: object) -> list[object]:
        # what the others send: every unit, computed by a process that is alone
        network, shown = feature_network("small"), self.shown  # type: ignore[attr-defined]
        others = {}
        for begin in range(0, len(shown), UNIT):
            found = [f for _, f in windows(supply_of(shown[begin : begin + UNIT]), network, HERE)]
            others[begin] = (shown[begin : begin + UNIT], torch.cat(found))
        return [value, others]


def test_features_do_not_depend_on_who_computes_them() -> None:
    shown, network = images(3 * UNIT + 17), feature_network("small")
    alone = torch.cat([f for _, f in windows(supply_of(shown), network, HERE)])
    for rank in range(3):
        shared = torch.cat([f for _, f in windows(supply_of(shown), network, Shard(rank, 3, shown))])
        assert torch.equal(alone, shared)
    assert torch.equal(alone[:UNIT], torch.cat([f for _, f in windows(supply_of(shown[:UNIT]), network, HERE)]))


def test_moments_use_every_image_and_features_are_kept_for_the_first() -> None:
    shown, network, asked = images(2 * UNIT + 100), feature_network("small"), []
    whole = pool(supply_of(shown, asked), network, HERE, kept=10_000)
    part = pool(supply_of(shown), network, HERE, kept=50, keep_images=True)
    assert max(stop - start for start, stop in asked) <= UNIT
    assert (len(part.features), len(part.images), part.n) == (50, 50, len(shown))
    assert torch.equal(part.features, whole.features[:50])
    assert part.moments.count == len(shown)
    assert torch.allclose(part.moments.scatter, Pool.of(whole.features).moments.scatter, rtol=1e-10)


def test_shards_merge_to_the_whole() -> None:
    shown, network = images(1000), feature_network("small")
    whole = pool(supply_of(shown), network, HERE, kept=1000)
    parts = [pool(supply_of(shown[cut]), network, HERE, kept=1) for cut in (slice(0, 300), slice(300, 1000))]
    merged = parts[0].moments.merge(parts[1].moments)
    real = Pool.of(network(images(900, seed=5)))
    assert torch.allclose(merged.scatter, whole.moments.scatter, rtol=1e-9, atol=1e-9)
    distances = frechet_distance(merged, real.moments), frechet_distance(whole.moments, real.moments)
    assert distances[0] == pytest.approx(distances[1], rel=1e-6)  # some of these features hardly vary


def test_scores_beyond_what_is_kept() -> None:
    """With fewer features kept than there are images, the distance is that of all images, its error scaled."""
    network, shown = feature_network("small"), images(1200, seed=3)
    real, protocol = Pool.of(network(images(1500))), Protocol(metrics="frechet", reference=0)
    all_kept = pool(supply_of(shown), network, HERE, kept=1200)
    some = pool(supply_of(shown), network, HERE, kept=600)
    a = fidelity(all_kept, real, network, protocol, "real images")["frechet"]
    b = fidelity(some, real, network, protocol, "real images")["frechet"]
    assert a.value == pytest.approx(b.value, rel=1e-6)
    assert a.error is not None
    assert b.error == pytest.approx(a.error, rel=0.5)
    assert a.n == b.n == 1200


def test_a_cache_of_moments_gives_the_same_reference(
    blobs_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path))
    protocol = Protocol(n=16, kept=20, reference=0)
    first, again = (Reference.prepare(blobs_data, protocol) for _ in range(2))
    assert first.train.n == again.train.n == len(blobs_data.train)
    assert len(again.train.features) == 20
    assert torch.equal(first.train.moments.scatter, again.train.moments.scatter)
    next(tmp_path.rglob("*.moments")).write_bytes(b"rubbish")
    repaired = Reference.prepare(blobs_data, protocol)
    assert torch.equal(first.train.moments.mean, repaired.train.moments.mean)


def test_custom_features_whose_dimension_is_not_known_before() -> None:
    network = feature_network(lambda x: x.flatten(1).float()[:, :7], name="corner")
    found = pool(supply_of(images(20)), network, HERE, kept=20)
    assert found.moments.dims == 7
    assert isinstance(found.moments, Moments)


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    data = tmp_path / "blobs.npz"
    shown, labels = blobs(400)
    np.savez(data, images=shown, labels=labels)
    settings = {"batch": 8, "pictures": 0}
    run = train("vae", load(data, progress=False), out=tmp_path / "vae", budget="2steps", settings=settings, say=print)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the two have: sums over several threads round differently
    try:
        one = evaluate(run, protocol=two_evaluators.PROTOCOL, out=tmp_path / "one", device="cpu")
    finally:
        torch.set_num_threads(threads)
    (tmp_path / "two").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [two_evaluators.__file__, str(run.path), str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRILEMMA_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "two" / "record.json").read_text())
    for name, metric in one["metrics"].items():
        if name != "images_per_second":
            assert two["metrics"][name]["value"] == metric["value"], name
            assert two["metrics"][name]["error"] == metric["error"], name
    assert [rung["metrics"] for rung in two["ladder"]] == [rung["metrics"] for rung in one["ladder"]]
    assert two["per_image"] == one["per_image"]


def test_the_speed_of_a_sampler_does_not_depend_on_how_many_images_fill_its_last_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))  # a second for each block
    model = vae(Spec((1, 8, 8))).eval()
    for n in (BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 20):
        subject = drawn_from(model, n, 0, None, None)
        subject.supply.draw(0, n)
        assert subject.speed(HERE).value == BLOCK
        assert sample(model, n, device="cpu").images_per_second == BLOCK


def test_other_weights_under_the_same_name_are_not_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path))
    folder = tmp_path / "blobs.npz"
    np.savez(folder, images=images(40).numpy())
    data = load(folder, progress=False)
    found = []
    for weights, factor in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        network = CustomFeatures(lambda x, factor=factor: x.flatten(1)[:, :3].float() * factor, "mine")
        network.weights = weights
        found.append(cached_pool(data, data.train, network, 100, HERE).features)
    assert torch.equal(found[1], 2 * found[0])
    assert torch.equal(found[2], found[0])  # kept
    path = Path(str(files("trilemma.metrics"))) / "small-v2.safetensors"
    assert feature_network("small").weights == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
