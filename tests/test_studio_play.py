"""Play: what the page is given is what the library gives, and who leaves ends only what was his."""

from __future__ import annotations

import base64
import io
import json
import math
import shlex
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from conftest import blobs as squares
from conftest import write_blobs
from tiny import Linear, call
from torch import Tensor

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from trilemma.data import Dataset, load
from trilemma.families.family import Decodes
from trilemma.images import Spec
from trilemma.likelihood import log_likelihood
from trilemma.questions.posterior import codes
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.studio.jobs import Queue
from trilemma.studio.room import Studio
from trilemma.studio.server import application
from trilemma.studio.stock import from_page
from trilemma.studio.streams import Hearer, Parts, part, pictures
from trilemma.studio.walking import directions
from trilemma.studio.workspace import Workspace
from trilemma.training import train

MODELS: Mapping[str, dict[str, Any]] = {
    "autoencoder": dict(width=4, latent=2),
    "vae": dict(width=4, latent=3),
    "pixelcnn": dict(features=4, layers=2, head=4, first_kernel=3, kernel=3),
    "gan": dict(width=8, latent=4),
    "diffusion": dict(width=16, multipliers=(1,), timesteps=20),
    "flow": dict(width=16, multipliers=(1,)),
    "consistency": dict(width=16, multipliers=(1,)),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studio's folder with a run of each kind, of two steps, and one of vectors."""
    folder = tmp_path_factory.mktemp("studio")
    write_blobs(folder / "blobs.npz")
    np.savez(folder / "points.npz", images=np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32))
    quiet: dict[str, Any] = dict(
        budget="2steps", settings=dict(batch=16, precision="fp32", pictures=0), say=lambda line: None
    )
    for name, model in MODELS.items():
        data = load(folder / "blobs.npz", progress=False)
        train(name, data, out=folder / "runs" / name, conditional=name in ("gan", "flow"), model=model, **quiet)
    train("flow", load(folder / "points.npz", progress=False), out=folder / "runs" / "points", **quiet)
    return folder


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[TestClient]:
    studio = Studio(Workspace(home), Queue(home / "jobs", 1))
    with TestClient(application(studio), base_url="http://localhost") as client:
        yield client


def parts(content: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """Read as the page reads."""
    found, at = [], 0
    while at < len(content):
        head, size = struct.unpack_from("<II", content, at)
        body = at + 8 + head
        found.append((json.loads(content[at + 8 : body]), content[body : body + size]))
        at = body + size
    return found


def last(answer: Any) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """The head of an answer, and what it holds: pictures [N, H, W, C] or numbers."""
    assert answer.status_code == 200, answer.text
    head, content = parts(answer.content)[-1]
    assert "error" not in head, head
    values = np.frombuffer(content, np.float32 if head.get("floats") else np.uint8)
    return head, values.reshape(head["shape"]) if "shape" in head else values


def ask(client: TestClient, what: str, **body: Any) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    return last(client.post(f"/api/play/{what}", json=body))


def as_shown(images: Tensor) -> np.ndarray[Any, Any]:
    return images.permute(0, 2, 3, 1).numpy()


def near(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Equal up to the rounding of another batch."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max()) <= 1


def text(pixels: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(pixels, np.uint8).tobytes()).decode()


def blobs(home: Path) -> Dataset:
    return load(home / "blobs.npz", progress=False)


# -------------------------------------------------------------------------------------------------------------- draw


@pytest.mark.parametrize("name", MODELS)
def test_what_is_drawn_is_what_sample_draws(client: TestClient, home: Path, name: str) -> None:
    head, images = ask(client, "draw", run=f"runs/{name}", n=5, seed=3)
    right = sample(home / "runs" / name, 5, seed=3)
    assert near(images, as_shown(right.images))
    assert head["labels"] == (None if right.labels is None else right.labels.tolist())


def test_the_command_gives_the_same(
    client: TestClient, home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = {"steps": 3, "guidance": "2", "clip": False}
    head, images = ask(client, "draw", run="runs/flow", n=4, seed=-2, labels="all", options=options)
    words = shlex.split(head["command"])
    assert words[0] == "trilemma"
    code, _, err = call(capsys, *words[1:], "--out", tmp_path / "s.npz")
    assert code == 0, err
    assert near(images, as_shown(torch.from_numpy(np.load(tmp_path / "s.npz")["images"])))


def test_points_are_drawn_as_numbers(client: TestClient, home: Path) -> None:
    head, values = ask(client, "draw", run="runs/points", n=30, seed=1, options={"steps": 4})
    assert np.allclose(values, sample(home / "runs" / "points", 30, seed=1, options={"steps": 4}).images, atol=1e-4)
    assert client.get("/api/play", params={"run": "runs/points"}).json()["codes"] is None


def test_what_is_saved_is_what_was_shown(client: TestClient) -> None:
    head, images = ask(client, "draw", run="runs/gan", n=3)
    labels = ",".join(map(str, head["labels"]))
    answer = client.post("/api/play/npz", params={"run": "runs/gan", "labels": labels}, content=images.tobytes())
    file = np.load(io.BytesIO(answer.content))
    assert np.array_equal(file["images"].transpose(0, 2, 3, 1), images) and file["labels"].tolist() == head["labels"]


def test_sliders_come_from_the_options(client: TestClient) -> None:
    form = {each["name"]: each for each in client.get("/api/play", params={"run": "runs/flow"}).json()["options"]}
    assert form["steps"]["low"] == 1 and form["steps"]["kind"] == "whole" and not form["steps"]["fold"]
    assert form["eta"]["samplers"] == ["ddim"] and (form["eta"]["low"], form["eta"]["high"]) == (0, 1)
    assert "ddpm" in form["sampler"]["choices"] and form["times"]["fold"]


def test_captions_are_asked_for_by_their_words(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    images, labels = squares(60)
    np.savez(tmp_path / "told.npz", images=images, text=np.array(["a square at the top", "a corner", "below"])[labels])
    train(
        "diffusion", load(tmp_path / "told.npz", progress=False), out=tmp_path / "runs" / "told", budget="4steps",
        text=True, settings=dict(batch=8, precision="fp32", pictures=0), say=lambda line: None,
    )  # fmt: skip
    options = {"steps": 2, "guidance": 500}
    with TestClient(application(Studio(Workspace(tmp_path), Queue(tmp_path / "jobs", 1))), "http://localhost") as own:
        head, images = ask(own, "draw", run="runs/told", n=3, text="a corner", options=options)
        right = sample(tmp_path / "runs" / "told", 3, text="a corner", options=options)
        assert near(images, as_shown(right.images)) and "--text 'a corner'" in head["command"]
        assert (images != ask(own, "draw", run="runs/told", n=3, text="below", options=options)[1]).any()
        _, plain = ask(own, "draw", run="runs/told", n=2, options={"steps": 2})
        _, z = ask(own, "codes", run="runs/told", images=[{"seed": 0, "index": 1}])
        assert near(decode(own, "told", z, steps=2), plain[1:])


def test_two_levels_go_to_the_page_and_come_back() -> None:
    spec = Spec((1, 2, 2), 2)
    x = torch.tensor([[[[0, 1], [1, 0]]]], dtype=torch.uint8)
    head, content = parts(pictures(x, 2))[0]
    assert head["shape"] == [1, 2, 2, 1] and content == bytes([0, 255, 255, 0])
    assert torch.equal(from_page(spec, np.frombuffer(content, np.uint8)), x)


# ------------------------------------------------------------------------------------------------------------- codes


def decode(client: TestClient, name: str, z: np.ndarray[Any, Any], **more: Any) -> np.ndarray[Any, Any]:
    answer = client.post("/api/play/decode", params={"run": f"runs/{name}", **more}, content=z.astype("<f4").tobytes())
    return last(answer)[1]


@pytest.mark.parametrize(
    ("name", "steps"), [("vae", 0), ("gan", 0), ("diffusion", 3), ("flow", 3), ("flow", 12), ("consistency", 1)]
)
def test_the_code_of_a_draw_decodes_to_it(client: TestClient, home: Path, name: str, steps: int) -> None:
    _, z = ask(client, "codes", run=f"runs/{name}", images=[{"seed": 5, "index": i} for i in range(3)])
    label = {"label": 1} if name in ("gan", "flow") else {}
    options = {"steps": steps} if steps else None
    right = sample(home / "runs" / name, 3, seed=5, labels=1 if label else None, options=options)
    assert near(decode(client, name, z, steps=steps, **label), as_shown(right.images))


@pytest.mark.parametrize("name", ["vae", "autoencoder"])
def test_the_code_of_a_held_out_image_is_the_encoders(client: TestClient, home: Path, name: str) -> None:
    held, images = last(client.get("/api/play/held", params={"run": f"runs/{name}", "count": 2}))
    data, model = blobs(home), Run.open(home / "runs" / name).model()
    assert set(held["held"]) <= set(data.test.tolist()) and np.array_equal(images, as_shown(data.batch(held["held"])))
    asked = [{"held": held["held"][0]}, {"pixels": text(images[1])}]
    _, z = ask(client, "codes", run=f"runs/{name}", images=asked)
    assert np.allclose(z, codes(model, data.batch(held["held"])).numpy(), atol=1e-5)
    _, means = ask(client, "classes", run=f"runs/{name}", classes=["1"], n=200)
    mine = data.test[data.labels[data.test] == 1]  # type: ignore[index]
    assert np.allclose(means[0], codes(model, data.batch(mine)).mean(0), atol=1e-5)


class Plain(torch.nn.Module, Decodes):
    """A decoder that is a matrix."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.net, self.spec = Linear(weight, torch.zeros(len(weight)), (1, 4, 4)), Spec((1, 4, 4))

    latent = property(lambda self: self.net.weight.shape[1])  # type: ignore[assignment]
    device = torch.device("cpu")

    def render(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.net(z)
        return images

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.spec.from_unit(self.render(z))


def test_directions_of_a_matrix_are_its_singular_vectors() -> None:
    """Of x = W z the two directions that change x most are the first right singular vectors of W."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(size, 5, generator=generator))[0] for size in (16, 5))
    sizes = torch.tensor([0.5, 0.25, 0.05, 0.02, 0.0])
    weight = u * sizes @ v.T
    found, mean, spread, change = directions(Plain(weight), None)  # type: ignore[arg-type]
    cosines = (found @ v[:, :2]).abs()
    assert cosines.diagonal().min() > 0.97 and not bool(mean.any()) and bool((spread == 1).all())
    assert torch.allclose(change[0], 127.5 * weight.square().mean(0).sqrt(), rtol=1e-4)
    known = torch.randn(4000, 5, generator=generator) * torch.tensor([1.0, 3.0, 0.1, 2.0, 0.1]) + 1
    found, mean, spread, _ = directions(Plain(weight), None, known)  # type: ignore[arg-type]
    assert torch.allclose(found.abs(), torch.tensor([[0.0, 3, 0, 0, 0], [0, 0, 0, 2, 0]]), atol=0.15)
    assert torch.allclose(mean, torch.ones(1, 5), atol=0.2) and abs(float(spread[0, 1]) - 3) < 0.15


# --------------------------------------------------------------------------------------------------- chain, complete


def test_a_chain_ends_in_the_samples(client: TestClient, home: Path) -> None:
    head, frames = ask(client, "chain", run="runs/diffusion", n=3, seed=2, options={"steps": 5})
    frames = frames.reshape(len(head["times"]), 2, 3, 8, 8, 1)
    right = sample(home / "runs" / "diffusion", 3, seed=2, options={"steps": 5})
    assert head["times"][0] == 20 and head["times"] == sorted(head["times"], reverse=True) and len(head["times"]) == 6
    assert near(frames[-1, 0], as_shown(right.images)) and np.array_equal(frames[-1, 0], frames[-1, 1])
    head, values = ask(client, "chain", run="runs/points", n=10, options={"steps": 4})
    assert values.reshape(5, 2, 10, 2).shape[0] == len(head["times"])
    right = sample(home / "runs" / "points", 10, options={"steps": 4})
    assert np.allclose(values.reshape(5, 2, 10, 2)[-1, 0], right.images, atol=1e-4)


@pytest.mark.parametrize("name", ["pixelcnn", "diffusion", "flow", "consistency"])
def test_a_completion_keeps_what_is_known(client: TestClient, name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1))
    known = np.zeros((8, 8), np.uint8)
    known[:4] = 1
    head, images = ask(client, "complete", run=f"runs/{name}", pixels=text(image), known=text(known), copies=2, seed=1)
    assert images.shape == (2, 8, 8, 1) and (images[:, :4] == image[:4]).all() and (images[0] != images[1]).any()
    assert head["exact"] == (name == "pixelcnn") and head["how"]


def test_the_others_are_listed_with_what_they_can(client: TestClient) -> None:
    peers = client.get("/api/play/peers", params={"run": "runs/vae"}).json()
    assert peers[0]["key"] == "runs/vae" and {each["family"] for each in peers} == set(MODELS)
    assert {each["family"] for each in peers if each["completes"]} == {
        "pixelcnn",
        "diffusion",
        "flow",
        "consistency",
    }
    assert all(each["same"] for each in peers)


# ----------------------------------------------------------------------------------------------------- one image


@pytest.mark.parametrize("features", [False, True])
def test_the_nearest_of_a_training_image_is_itself(client: TestClient, home: Path, features: bool) -> None:
    data = blobs(home)
    row = int(data.train[7])
    image = as_shown(data.batch([row]))
    head, images = ask(client, "near", run="runs/vae", pixels=text(image), features=features)
    assert head["rows"][0] == row and head["distances"][0] < 1e-3 and np.array_equal(images[0], image[0])
    if not features:
        every = data.batch(data.train).double() - data.batch([row]).double()
        right = every.square().mean((1, 2, 3)).sqrt().sort().values[:8]
        assert np.allclose(head["distances"], right, atol=1e-4)


def test_every_run_rates_by_its_kind(client: TestClient, home: Path) -> None:
    image = as_shown(blobs(home).batch([0]))
    kinds = {}
    for name in MODELS:
        answer = client.post("/api/play/rate", json={"run": f"runs/{name}", "pixels": text(image)})
        head, values = last(answer)
        kinds[name] = head["kind"]
        assert ("nats" in head) == (head["kind"] != "undefined") and head["reason"]
        right = log_likelihood(home / "runs" / name, blobs(home).batch([0]))
        assert right.kind == head["kind"]
        if right.nats is not None:
            assert head["nats"] == pytest.approx(float(right.nats[0]), rel=1e-3)
        if name == "pixelcnn":  # the map adds up to −log p
            assert float(values.sum()) * math.log(2) == pytest.approx(-head["nats"], rel=1e-4)
    assert kinds["gan"] == kinds["autoencoder"] == "undefined" and kinds["pixelcnn"] == "exact"
    assert kinds["vae"] == kinds["diffusion"] == "bound"


# ---------------------------------------------------------------------------------------------- refusals and leaving


@pytest.mark.parametrize(
    ("what", "body", "status", "line"),
    [
        ("draw", {"run": "runs/none"}, 404, "there is no run"),
        ("draw", {"run": "../runs/vae"}, 404, "there is no run"),
        ("draw", {"run": "runs/vae", "n": 10**9}, 400, "at most 2,000"),
        ("draw", {"run": "runs/flow", "options": {"steps": "many"}}, 400, "steps"),
        ("draw", {"run": "runs/flow", "options": {"wings": "2"}}, 400, "no option --wings"),
        ("draw", {"run": "runs/gan", "labels": "<script>"}, 400, "is not a class"),
        ("codes", {"run": "runs/vae", "images": []}, 400, "choose from 1"),
        ("complete", {"run": "runs/pixelcnn", "pixels": "AA==", "known": ""}, 400, "64 bytes, not 1"),
        ("complete", {"run": "runs/pixelcnn", "pixels": text(np.ones(64)), "known": text(np.ones(64))}, 400, "is kept"),
        ("near", {"run": "runs/vae", "pixels": "not base64!"}, 400, "not base64"),
        ("rate", {"run": "runs/points", "pixels": ""}, 400, "these are vectors"),
    ],
)
def test_what_does_not_fit_is_one_line(
    client: TestClient, what: str, body: dict[str, Any], status: int, line: str
) -> None:
    answer = client.post(f"/api/play/{what}", json=body)
    error = answer.json()["error"]
    assert answer.status_code == status and line in error and "\n" not in error


def test_what_goes_wrong_on_the_way_is_a_last_part(client: TestClient) -> None:
    for what, body, line in (
        ("codes", {"run": "runs/pixelcnn", "images": [{"seed": 1}]}, "has no codes"),
        ("codes", {"run": "runs/consistency", "images": [{"held": 1}]}, "no way from an image back"),
        ("chain", {"run": "runs/vae", "n": 2}, "no chain"),
        ("classes", {"run": "runs/vae", "classes": ["zebra"]}, "is no class"),
    ):
        answer = client.post(f"/api/play/{what}", json=body)
        assert answer.status_code == 200 and line in parts(answer.content)[-1][0]["error"]


def test_codes_that_are_no_numbers_are_refused(client: TestClient) -> None:
    for content, line in ((b"", "multiple"), (b"123", "multiple"), (np.full(3, np.nan, "<f4").tobytes(), "finite")):
        answer = client.post("/api/play/decode", params={"run": "runs/vae"}, content=content)
        assert answer.status_code == 400 and line in answer.json()["error"]
    assert client.post("/api/play/decode", params={"run": "runs/pixelcnn"}, content=b"1234").status_code == 400


def test_who_leaves_ends_only_his_own_work() -> None:
    """Two wait for an answer; one leaves. His ends at its next step, the other's is whole, and turns are given back."""
    ended: dict[str, str] = {}
    steps = threading.Event()

    def work(name: str) -> Any:
        def compute(hearer: Hearer) -> None:
            try:
                for done in range(200):
                    hearer.tell(done, 200)
                    steps.wait(0.005)
                hearer.give(part({"whole": True}))
                ended[name] = "whole"
            except BaseException as error:
                ended[name] = type(error).__name__
                raise

        return compute

    async def ask(name: str, leaves: bool, limiter: anyio.CapacityLimiter) -> bytes:
        sent: list[bytes] = []

        async def receive() -> dict[str, Any]:
            while not (leaves and len(sent) > 3):
                await anyio.sleep(0.005)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))

        await Parts(work(name), limiter)({"type": "http"}, receive, send)
        return b"".join(sent)

    async def both() -> list[bytes]:
        limiter, found = anyio.CapacityLimiter(2), [b"", b""]

        async def one(i: int) -> None:
            found[i] = await ask("stays" if i else "leaves", not i, limiter)

        async with anyio.create_task_group() as group:
            group.start_soon(one, 0)
            group.start_soon(one, 1)
        assert limiter.borrowed_tokens == 0
        return found

    found = anyio.run(both)
    assert ended == {"leaves": "Gone", "stays": "whole"}
    assert parts(found[1])[-1][0] == {"whole": True} and not any("whole" in head for head, _ in parts(found[0]))
