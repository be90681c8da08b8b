"""The lab: families learn points while a page looks on; what it is told from outside is refused in one line."""

from __future__ import annotations

import itertools
import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from trilemma.data import load
from trilemma.data.mixtures import Law
from trilemma.families import FAMILIES
from trilemma.families.family import Denoises
from trilemma.noise import BatchNoise
from trilemma.studio import lab as labs
from trilemma.studio import pupil as pupils
from trilemma.studio.jobs import Queue
from trilemma.studio.lab import LABS, Lab, Labs, Start, Steer, law, learners, own_points, points
from trilemma.studio.pupil import Pupil, View, flow_density
from trilemma.studio.room import Studio
from trilemma.studio.server import application
from trilemma.studio.workspace import Workspace
from trilemma.vectors import Plane


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TestClient]:
    studio = Studio(Workspace(tmp_path / "home", []), Queue(tmp_path / "home" / "jobs", slots=1))
    with TestClient(application(studio), base_url="http://127.0.0.1:7860") as client:
        yield client
    LABS.close()


def learner(family: str, source: str = "ring", **chosen: Any) -> Pupil:
    data = points(source, 0)
    dataset = load(data, progress=False)
    made = Pupil(family, dataset, Plane.of(torch.from_numpy(data)), 0, law(source), itertools.count(1), chosen)
    made.begin()
    return made


def frame(answer: bytes) -> tuple[dict[str, Any], np.ndarray]:
    size = struct.unpack("<I", answer[:4])[0]
    assert size % 4 == 0
    return json.loads(answer[4 : 4 + size]), np.frombuffer(answer[4 + size :], "<f4")


def part(head: dict[str, Any], values: np.ndarray, family: str, name: str) -> np.ndarray:
    start, shape = head["families"][family]["parts"][name]
    return values[start : start + int(np.prod(shape))].reshape(shape)


def until(done: Callable[[], Any], seconds: float = 60) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := done():
            return found
        time.sleep(0.05)
    raise AssertionError("it took too long")


def distance(pupil: Pupil, view: View) -> float:
    """The mean distance of the dots to the nearest mode, in shares of the plane."""
    pupil._draw_dots(view)
    modes = pupil.plane.place(torch.from_numpy(pupil.law.means)).float()  # type: ignore[union-attr]
    return float(torch.cdist(torch.from_numpy(pupil.parts["dots"][1]), modes).amin(1).mean())


# ------------------------------------------------------------------------------------------------------ the sets


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_the_points_of_a_mixture_lie_on_its_modes(name: str) -> None:
    mixture = law(name)
    assert isinstance(mixture, Law)
    apart = torch.cdist(torch.from_numpy(points(name, 0)).double(), torch.from_numpy(mixture.means)).amin(1)
    # In two dimensions r²/2σ² is exponential: its mean is 1, with a standard error of 1/√N.
    assert float((apart**2).mean() / (2 * mixture.sigma**2)) == pytest.approx(1, abs=4 / len(apart) ** 0.5)


def test_half_moons_and_spiral_lie_on_their_curves() -> None:
    moons = points("moons", 0).astype(np.float64)
    upper, lower = np.hypot(*moons.T), np.hypot(*(moons - [1.0, 0.5]).T)
    assert float(np.minimum(abs(upper - 1), abs(lower - 1)).max()) < 5 * 0.06
    spiral = points("spiral", 0).astype(np.float64)
    radius = np.hypot(*spiral.T)
    outside = radius > 0.3  # nearer the middle the noise turns the angle far
    angle = np.arctan2(spiral[:, 1], spiral[:, 0])
    off = (angle - 3 * np.pi * radius) / np.pi  # whole numbers: one arm for even ones, the other for odd
    assert float(abs(off - off.round())[outside].max()) < 0.4
    assert np.array_equal(points("spiral", 3), points("spiral", 3))
    assert not np.array_equal(points("spiral", 3), points("spiral", 4))


# ------------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize("family", learners())
def test_a_family_learns_and_is_drawn(family: str) -> None:
    pupil, view = learner(family), View(playing=False, lines=True)
    before = distance(pupil, view)
    first = [next(pupil.steps) for _ in range(10)]
    for _ in range(110 if family != "gan" else 10):
        last = next(pupil.steps)
    name = next(name for name in last if not pupils.HIDDEN.fullmatch(name))
    if family != "gan":  # whose losses are a game
        assert float(last[name]) < float(first[0][name])
        assert distance(pupil, view) < 0.9 * before
    while pupil.turn(view):
        pass
    assert not pupil.error
    stamp, dots = pupil.parts["dots"]
    assert dots.shape == (pupils.DOTS, 2) and np.isfinite(dots).all() and stamp > 0
    assert pupil.parts["lines"][1].ndim == 3
    kinds = {"autoencoder": "none", "vae": "bound", "gan": "discriminator", "consistency": "none"}
    assert pupil.facts["kind"] == kinds.get(family, "estimate")
    if pupil.facts["kind"] != "none":
        heat = pupil.parts["heat"][1]
        assert heat.shape == (pupils.SIDE, pupils.SIDE) and 0 <= heat.min() < heat.max() <= 1


@pytest.mark.parametrize("family", ["vae", "flow"])
def test_the_same_seed_draws_the_same_and_another_another(family: str) -> None:
    def dots(seed: int) -> np.ndarray:
        pupil = learner(family)
        pupil.seed = seed
        pupil.begin()
        pupil.owed = 3
        pupil.turn(View(playing=False, heat=False))
        assert pupil.progress.step == 3
        return pupil.parts["dots"][1]

    assert np.array_equal(dots(0), dots(0)) and not np.allclose(dots(0), dots(1))


@pytest.mark.parametrize("family", [name for name in learners() if issubclass(FAMILIES[name], Denoises)])
def test_the_map_of_a_denoiser_is_the_density_of_its_flow(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pupil = learner(family, "moons")
    for _ in range(60):
        next(pupil.steps)
    model = pupil.learner.model.eval()
    x = pupil.real[:24]
    assert isinstance(model, Denoises)
    exact, _ = model.flow_log_likelihood(x, None, BatchNoise((0,), 24, 0, 24, torch.device("cpu")))
    errors = []
    for steps in (pupils.STEPS, 4 * pupils.STEPS):
        monkeypatch.setattr(pupils, "STEPS", steps)
        *_, found = flow_density(model, x)
        errors.append(float((found - exact).abs().mean()))
    assert errors[0] < 0.3 and errors[1] < 0.05


def test_dots_and_field_of_a_time() -> None:
    pupil = learner("flow", steps=8)
    pupil._draw_dots(View(time=1.0))
    noise = torch.from_numpy(pupil.parts["dots"][1])
    spread = noise.std(0) * torch.tensor(pupil.plane.side) / torch.tensor(pupil.dataset.spec(False).scale)
    assert spread.numpy() == pytest.approx(1, abs=0.15)  # at the end of the path all is N(0, 1) in units of the data
    assert pupil.parts["lines"][1].shape == (pupils.ARROWS**2, 2, 2)
    pupil._draw_dots(View())
    assert pupil.parts["lines"][1].shape == (pupils.PATHS, 9, 2)
    assert np.allclose(pupil.parts["lines"][1][:, 0], noise[: pupils.PATHS], atol=1e-6)  # where the paths begin


def test_a_switch_goes_on_with_the_same_weights_or_begins_anew() -> None:
    pupil = learner("gan")
    for _ in range(5):
        next(pupil.steps)
    weights = [each.clone() for each in pupil.learner.model.parameters()]
    pupil.choose("loss", "wasserstein")
    assert pupil.progress.step == 5 and pupil.learner.model.config.loss == "wasserstein"
    assert all(torch.equal(a, b) for a, b in zip(weights, pupil.learner.model.parameters(), strict=True))
    pupil.choose("discriminator_steps", 5)
    pupil.choose("lr", 1e-4)
    assert pupil.learner.objectives[0].repeats == 5
    next(pupil.steps)
    assert pupil.learner.optimizers[0].param_groups[0]["lr"] <= 1e-4
    pupil.choose("pack", 2)
    assert pupil.progress.step == 0 and pupil.learner.model.config.pack == 2
    assert pupil.learner.model.config.loss == "wasserstein"  # what was chosen before stays


def test_a_family_that_breaks_down_says_so_and_can_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    pupil = learner("vae")

    def broken(view: View) -> bool:
        raise ValueError("the loss term is not finite")

    monkeypatch.setattr(pupil, "_learn", broken)
    assert not pupil.turn(View()) and pupil.error == "the loss term is not finite"
    monkeypatch.undo()
    pupil.begin()
    assert pupil.turn(View()) and not pupil.error


# ------------------------------------------------------------------------------------------------------ the page


def test_a_lab_is_opened_steered_and_closed(page: TestClient) -> None:
    about = page.get("/api/lab").json()
    assert about["families"] == learners() and set(about["sets"]) == {"ring", "grid", "moons", "spiral", "own"}
    opened = page.post("/api/lab", json={"source": "grid", "families": ["vae", "gan"], "seed": 1}).json()
    address = f"/api/lab/{opened['key']}"
    assert [each["name"] for each in opened["families"]] == ["vae", "gan"] and opened["points"] == 2000

    def look(since: int = 0) -> tuple[dict[str, Any], np.ndarray]:
        answer = page.get(f"{address}/frame?since={since}")
        assert answer.status_code == 200
        return frame(answer.content)

    def learnt() -> Any:
        found = look()
        return found if all("heat" in each["parts"] for each in found[0]["families"].values()) else None

    head, values = until(learnt)
    start, shape = head["data"]
    data = values[start : start + int(np.prod(shape))].reshape(shape)
    assert shape == [2000, 2] and data.min() >= 0 and data.max() <= 1
    assert part(head, values, "vae", "dots").shape == (400, 2)
    assert head["families"]["gan"]["score"]["of"] == 25 and not head["families"]["gan"]["error"]
    assert page.post(address, json={"playing": False}).json() == {}

    def at_rest() -> Any:
        first = look()[0]
        time.sleep(0.4)
        return first if look()[0]["stamp"] == first["stamp"] else None

    still = until(at_rest)
    assert all(not each["parts"] for each in look(still["stamp"])[0]["families"].values())  # nothing is sent twice
    before = still["families"]["vae"]["step"]
    page.post(address, json={"step": 4})
    until(lambda: look()[0]["families"]["vae"]["step"] == before + 4)
    page.post(address, json={"reset": True, "seed": 7})
    until(lambda: look()[0]["families"]["vae"].get("step") == 0)
    assert page.delete(address).json() == {}
    assert page.get(f"{address}/frame").json() == {"error": "this lab has ended: start it again"}


def test_a_lab_is_kept_as_runs(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[list[str]] = []
    monkeypatch.setattr(Queue, "add", lambda self, argv, *rest, **more: queued.append(list(argv)))
    opened = page.post("/api/lab", json={"source": "moons", "families": ["vae", "flow"]}).json()
    address = f"/api/lab/{opened['key']}/keep"
    assert page.post(address, json={"budget": "for ever"}).status_code == 400 and not queued
    assert page.post(address, json={"budget": "20s"}).json() == {"group": "moons-points"}
    assert [argv[:2] for argv in queued] == [["train", "vae"], ["train", "flow"]]
    kept = load(queued[0][2], progress=False)
    assert np.array_equal(kept.images, points("moons", 0))
    assert page.post(address, json={}).status_code == 200 and queued[2][2].endswith("moons-points-2.npy")


def test_points_of_one_s_own(page: TestClient) -> None:
    drawn = np.random.default_rng(0).normal([100, -3], [5, 0.01], (60, 2)).tolist()
    opened = page.post("/api/lab", json={"source": "own", "families": ["flow"], "points": drawn}).json()
    assert opened["points"] == 60

    def near() -> Any:
        head, _ = frame(page.get(f"/api/lab/{opened['key']}/frame").content)
        return head["families"]["flow"].get("score")

    assert set(until(near)) == {"near", "covered"}


def test_hostile_orders_are_refused_in_one_line(page: TestClient) -> None:
    many = [[float(i), float(-i)] for i in range(30)]
    base = {"source": "own", "families": ["vae"], "points": many}
    for change, words in (
        ({"source": "../../etc/passwd"}, "no set"),
        ({"source": "ring"}, "brings its own points"),
        ({"families": []}, "choose a family"),
        ({"families": ["<script>"]}, "unknown family"),
        ({"families": ["pixelcnn"]}, "learns images and no points"),
        ({"families": "vae"}, "families"),
        ({"points": None}, "list of pairs"),
        ({"points": "1,2"}, "list of pairs"),
        ({"points": [[1, 2, 3]] * 30}, "list of pairs"),
        ({"points": [{"0": 1, "1": 2}] * 30}, "list of pairs"),
        ({"points": many[:5]}, "20 to 5,000 points, not 5"),
        ({"points": many * 200}, "20 to 5,000 points, not 6,000"),
        ({"points": [["a", "b"]] * 30}, "must be numbers"),
        ({"points": [[True, False]] * 30}, "must be numbers"),
        ({"points": [[1e300, 1]] * 30}, "within a million"),
        ({"points": [[1, i] for i in range(30)]}, "one vertical or horizontal line"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"shell": "rm"}, "unknown key"),
    ):
        answer = page.post("/api/lab", json={**base, **change})
        line = answer.json()["error"]
        assert answer.status_code == 400 and words in line and "\n" not in line, (change, line)
    for body in (b"", b"[", b"[]", b'{"points": [[NaN, Infinity]]}', b"[" * 100_000):
        assert page.post("/api/lab", content=body).status_code == 400
    with pytest.raises(ValueError, match="within a million"):
        own_points([[float("nan"), 1.0]] * 30)
    opened = page.post("/api/lab", json=base).json()
    address = f"/api/lab/{opened['key']}"
    for order, words in (
        ({"speed": -1}, "speed"),
        ({"time": 2}, "time"),
        ({"step": 10**9}, "step"),
        ({"playing": "yes"}, "playing"),
        ({"family": "gan"}, "does not learn here"),
        ({"family": "vae", "name": "width", "value": 10**9}, "no switch 'width'"),
        ({"family": "vae", "name": "lr", "value": 1e9}, "must be one of"),
        ({"family": "vae", "name": "latent", "value": True}, "must be one of"),
        ({"family": "vae", "name": "beta", "value": [1]}, "a switch is turned by"),
        ({"name": "beta", "value": 1.0}, "a switch is turned by"),
    ):
        answer = page.post(address, json=order)
        assert answer.status_code == 400 and words in answer.json()["error"], (order, answer.text)
    for since in ("-1", "x", "9" * 99, "²"):
        assert page.get(f"{address}/frame", params={"since": since}).status_code == 400
    assert page.get("/api/lab/nothing/frame").status_code == 404
    assert page.get(f"{address}/frame").status_code == 200  # and the lab goes on


def test_few_are_open_at_a_time_and_idle_ones_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labs, "LABS", opened := Labs())
    start = Start("moons", ("autoencoder",))
    first, second = opened.open(start), opened.open(start)
    try:
        with pytest.raises(ValueError, match="2 labs are open already"):
            opened.open(start)
        first.touched -= labs.GONE + 1  # nobody has asked for it for a while
        third = opened.open(start)
        first.thread.join(20)
        assert not first.thread.is_alive() and second.thread.is_alive() and third.thread.is_alive()
        second.touched -= labs.SILENT + 1
        time.sleep(0.3)
        rested = second.pupils[0].progress.step
        time.sleep(0.3)
        assert second.pupils[0].progress.step == rested  # it waits where nobody looks
        second.touched -= labs.ENDS
        second.thread.join(20)
        assert not second.thread.is_alive()
        with pytest.raises(ValueError, match="has ended"):
            opened.get(second.key)
    finally:
        opened.close()
    assert not third.thread.is_alive()


def test_a_slow_pace_is_kept() -> None:
    opened = Lab(Start("ring", ("autoencoder",)))
    opened.view = View(speed=10, heat=False, lines=False)
    pupil = opened.pupils[0]
    pupil.begin()
    begun = time.monotonic()
    while time.monotonic() - begun < 1.5:
        pupil.turn(opened.view)
        time.sleep(0.002)
    assert 3 <= pupil.progress.step <= 17


def test_steering_is_bounded() -> None:
    opened = Lab(Start("ring", ("autoencoder",)))  # whose thread is not started, so nothing is taken off the list
    for _ in range(201):
        opened.steer(Steer(playing=True))
    with pytest.raises(ValueError, match="too many changes"):
        opened.steer(Steer(playing=True))
