"""The studio: who may talk to it, what a page may name, and long work that survives the page and the server."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import write_blobs
from PIL import Image

pytest.importorskip("starlette")
from starlette.testclient import TestClient

import trilemma
from trilemma.files import write_json
from trilemma.run import Run
from trilemma.studio import guard, uploads
from trilemma.studio.guard import Guard
from trilemma.studio.jobs import Queue
from trilemma.studio.listening import listen, loopback
from trilemma.studio.room import Studio
from trilemma.studio.server import application
from trilemma.studio.workspace import Unknown, Workspace


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    runs = tmp_path / "elsewhere"
    runs.mkdir()
    return Studio(Workspace(tmp_path / "home", [runs]), Queue(tmp_path / "home" / "jobs", slots=2))


@pytest.fixture
def page(studio: Studio) -> Iterator[TestClient]:
    with TestClient(application(studio), base_url="http://127.0.0.1:7860") as client:
        yield client


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = write_blobs(folder / "blobs.npz")
    for family in ("vae", "pixelcnn"):
        trilemma.train(family, str(data), out=folder / family, budget="6steps", conditional=True,
                       settings={"batch": 16, "log_every": 1, "pictures": 3}, say=lambda line: None)  # fmt: skip
    return folder


def until(done: Callable[[], Any], seconds: float = 120) -> Any:
    """What ``done`` gives once it gives something."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := done():
            return found
        time.sleep(0.1)
    raise AssertionError("it took too long")


# --------------------------------------------------------------------------------------------------------- guard


def test_only_this_machine_s_names_are_answered(page: TestClient) -> None:
    assert page.get("/api/studio").json()["families"][0]["name"] == "autoencoder"
    for host, status in (("localhost:7860", 200), ("[::1]:7860", 200), ("127.0.0.1", 200), ("evil.example", 421),
                         ("192.168.0.7", 421), ("localhost.evil.example", 421), ("", 421), ("[", 421)):  # fmt: skip
        assert page.get("/api/jobs", headers={"host": host}).status_code == status, host


def test_other_sites_change_nothing(page: TestClient) -> None:
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
                    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):  # fmt: skip
        answer = page.post("/api/uploads", json={"name": "a"}, headers=headers)
        assert answer.status_code == 403 and answer.json() == {"error": "a request from another site"}
    own = {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}
    assert page.post("/api/uploads", json={"name": "a"}, headers=own).status_code == 200


def test_beyond_this_machine_a_token_is_asked_for(studio: Studio) -> None:
    app = application(studio, token="a-long-secret", names=["Studio.example"])
    with TestClient(app, base_url="http://10.1.2.3:7860", follow_redirects=False) as page:
        for path in ("/", "/api/runs", "/static/studio.js", "/?token=wrong", "/api/runs?token="):
            assert page.get(path).status_code == 401, path
        assert page.get("/", headers={"cookie": "trilemma_token=a-long-secre"}).status_code == 401
        assert page.get("/", headers={"cookie": "trilemma_token=ä".encode()}).status_code == 401
        assert page.get("/", headers={"authorization": "Bearer a-long-secret"}).status_code == 200
        entered = page.get("/?token=a-long-secret")
        assert entered.status_code == 303 and entered.headers["location"] == "/"
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert page.get("/").status_code == 200
        assert page.get("/", headers={"host": "studio.example"}).status_code == 200
        assert page.get("/", headers={"host": "rebound.example"}).status_code == 421


def test_nothing_is_loaded_from_elsewhere(page: TestClient) -> None:
    for path in ("/", "/static/studio.js", "/api/runs", "/static/absent.js", "/api/run?run=absent"):
        policy = page.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    static = Path(trilemma.__file__).parent / "studio" / "static"
    for file in static.rglob("*.*"):
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert "http://" not in text and "https://" not in text and "innerHTML" not in text, file


def test_bodies_are_bounded_whatever_they_announce(page: TestClient) -> None:
    huge = b"x" * (guard.BODY + 1)
    assert page.post("/api/ask", content=huge).status_code == 413
    assert page.post("/api/ask", content=iter([huge])).status_code == 413
    assert page.post("/api/ask", content=b"{}", headers={"content-length": "-1"}).status_code in (400, 413)
    for body in (b"", b"[]", b"null", b'{"run": 3}', b"[" * 100_000, b'{"run": "a", "question": "b", "more": 1}'):
        answer = page.post("/api/ask", content=body)
        assert answer.status_code == 400 and "\n" not in answer.json()["error"], body[:20]


def test_a_flood_is_slowed_and_the_server_lives(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "RATE", 5.0)
    with TestClient(application(studio), base_url="http://127.0.0.1") as page:
        codes = [page.get("/static/icon.svg").status_code for _ in range(80)]
        assert codes[:10] == [200] * 10 and 429 in codes
        time.sleep(0.5)
        assert page.get("/static/icon.svg").status_code == 200


def test_there_are_no_websockets() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it came through")

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    anyio.run(Guard(app), {"type": "websocket", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_where_it_listens() -> None:
    assert loopback("127.0.0.1") and loopback("localhost") and not loopback("0.0.0.0") and not loopback("10.0.0.1")
    first = listen("127.0.0.1", 0)
    taken = first.getsockname()[1]
    second = listen("127.0.0.1", taken)
    assert second.getsockname()[1] > taken
    first.close()
    second.close()
    with pytest.raises(ValueError, match="cannot listen on 203.0.113.7"):
        listen("203.0.113.7", 7860)


# ------------------------------------------------------------------------------------------------ what can be named


def test_a_page_names_keys_and_no_paths(page: TestClient, studio: Studio, trained: Path, tmp_path: Path) -> None:
    studio.workspace.folders = [trained]
    studio.workspace.forget()
    (tmp_path / "secret").mkdir()
    runs = {run["key"]: run for run in page.get("/api/runs").json()}
    vae, other = f"{trained.name}/vae", f"{trained.name}/pixelcnn"
    assert {key for key in runs if not key.startswith("zoo/")} == {vae, other}
    assert runs["zoo/vae"]["path"] == "zoo/vae" and runs["zoo/vae"]["zoo"]
    assert runs[vae]["step"] == 6 and runs[vae]["classes"] == ["0", "1", "2"] and not runs[vae]["live"]
    for key in (str(trained / "vae"), f"{trained.name}/../{trained.name}/vae", "../secret", "", "\0", "/etc/passwd"):
        assert page.get("/api/run", params={"run": key}).status_code == 404, key
    assert page.get("/api/picture", params={"run": vae, "name": "../vae/checkpoints"}).status_code == 404
    assert page.get("/api/snapshot", params={"run": vae, "step": "../../config.json"}).status_code == 404
    shots = page.get("/api/live", params={"run": vae}).json()[vae]
    assert shots["snapshots"] and next(iter(shots["curves"])) == "loss (elbo)"
    picture = page.get("/api/snapshot", params={"run": vae, "step": shots["snapshots"][-1]})
    assert picture.headers["content-type"] == "image/png"
    for path in ("/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e/server.py"):
        assert page.get(path).status_code == 404


def test_a_look_at_a_data_set_by_its_key_alone(page: TestClient, studio: Studio, tmp_path: Path) -> None:
    write_blobs(studio.workspace.home / "data" / "blobs.npz")
    found = page.post("/api/data/look", json={"source": "blobs.npz"}).json()
    assert found["shape"] == [1, 8, 8] and found["labels"] and found["picture"].startswith("data:image/png;base64,")
    for source in (str(write_blobs(tmp_path / "out.npz")), "../home/data/blobs.npz", "/etc/passwd", "owner/name"):
        answer = page.post("/api/data/look", json={"source": source})
        assert answer.status_code == 404 and "no data set" in answer.json()["error"]


def test_the_workspace_stays_in_its_folders(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home", [])
    assert workspace.place("runs", "../../a b").parent == tmp_path / "home" / "runs"
    with pytest.raises(ValueError, match="letters and digits"):
        workspace.place("runs", "..")
    with pytest.raises(Unknown, match="no run"):
        workspace.path("runs", "absent")


# -------------------------------------------------------------------------------------------------------- uploads


def _png(colour: tuple[int, int, int] = (200, 20, 20)) -> bytes:
    import io

    file = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(file, "PNG")
    return file.getvalue()


def test_a_folder_arrives_file_by_file(page: TestClient, studio: Studio) -> None:
    key = page.post("/api/uploads", json={"name": "My photos!"}).json()["upload"]
    for i in range(12):
        path = f"photos/{('cats', 'dogs')[i % 2]}/IMG {i}.png"
        assert page.put(f"/api/uploads/{key}", params={"path": path}, content=_png((i * 20, 0, 0))).status_code == 200
    for bad in ("", "..", "photos/.hidden", "photos/" + "x" * 300, "/".join("abcdefgh")):
        assert page.put(f"/api/uploads/{key}", params={"path": bad}, content=b"x").status_code == 400, bad
    again = page.put(f"/api/uploads/{key}", params={"path": "photos/cats/IMG 0.png"}, content=b"x")
    assert again.status_code == 400 and "already" in again.json()["error"]
    climbing = page.put(f"/api/uploads/{key}", params={"path": "../../../../etc/cron.d/x.png"}, content=_png())
    assert climbing.status_code == 200  # into the set, whatever it said
    assert page.post(f"/api/uploads/{key}/done").json() == {"source": "My-photos"}
    inside = {str(path.relative_to(studio.workspace.home / "data")) for path in studio.workspace.home.rglob("*.png")}
    assert "My-photos/cats/IMG 0.png" in inside and "My-photos/cron.d/x.png" in inside and len(inside) == 13
    found = page.post("/api/data/look", json={"source": "My-photos"}).json()
    assert found["classes"] == ["cats", "cron.d", "dogs"]
    assert page.put(f"/api/uploads/{key}", params={"path": "a/b.png"}, content=b"").status_code == 404


def test_an_upload_is_bounded_and_leaves_nothing(
    page: TestClient, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "TOTAL", 1000)
    monkeypatch.setattr(uploads, "FILES", 3)
    key = page.post("/api/uploads", json={"name": "big"}).json()["upload"]
    assert page.put(f"/api/uploads/{key}?path=a/1.png", content=b"x" * 400).status_code == 200
    assert page.put(f"/api/uploads/{key}?path=a/2.png", content=b"x" * 700).status_code == 413
    assert not list(studio.workspace.home.rglob("2.png"))
    assert page.put(f"/api/uploads/{key}?path=a/3.png", content=b"x").status_code == 413  # the set is over its bytes
    assert page.put(f"/api/uploads/{key}?path=a/4.png", content=b"x").status_code == 413  # and over its files
    assert page.delete(f"/api/uploads/{key}").status_code == 200
    assert not list((studio.workspace.home / "data").iterdir())
    keys = [page.post("/api/uploads", json={"name": "n"}).json().get("upload") for _ in range(uploads.SETS + 1)]
    assert keys[-1] is None
    for each in keys[:-1]:
        page.delete(f"/api/uploads/{each}")


def test_a_lying_image_is_refused_by_the_reader(page: TestClient) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    bomb += chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")
    key = page.post("/api/uploads", json={"name": "bomb"}).json()["upload"]
    for i in range(3):
        page.put(f"/api/uploads/{key}?path=bomb/{i}.png", content=bomb)
    source = page.post(f"/api/uploads/{key}/done").json()["source"]
    answer = page.post("/api/data/look", json={"source": source})
    assert answer.status_code == 400 and "\n" not in answer.json()["error"]


# ----------------------------------------------------------------------------------------------------------- jobs


def test_jobs_run_fail_and_follow(studio: Studio, tmp_path: Path) -> None:
    queue = studio.queue
    queue.open()
    good = queue.add(["data", "ring"], "a look", group="g", then=[["data", "grid"]])
    bad = queue.add(["data", str(tmp_path / "absent")], "a look at nothing")
    until(lambda: queue.job(bad.id).status == "failed")
    assert "absent" in queue.job(bad.id).line and "Traceback" not in queue.job(bad.id).line
    followed = until(lambda: [job for job in queue.jobs() if job.argv == ("data", "grid") and job.status == "done"])
    assert queue.job(good.id).status == "done" and followed[0].group == "g"
    queue.close()
    again = Queue(queue.folder)
    again.open()
    assert {job.id: job.status for job in again.jobs()} == {job.id: job.status for job in queue.jobs()}
    again.close()


def test_a_training_is_paused_found_again_and_resumed(studio: Studio, tmp_path: Path) -> None:
    data, out = write_blobs(tmp_path / "blobs.npz"), studio.workspace.home / "runs" / "long" / "vae"
    queue = studio.queue
    queue.open()
    argv = ["train", "vae", str(data), "--out", str(out), "--budget", "100000steps", "--train.batch", "16",
            "--train.log-every", "1", "--resume"]  # fmt: skip
    job = queue.add(argv, "long")
    until(lambda: (out / "metrics.jsonl").exists())
    queue.close()  # the server goes, the training stays
    again = Queue(queue.folder, slots=2)
    again.open()
    time.sleep(1)
    assert again.job(job.id).status == "running"
    again.pause(job.id)
    until(lambda: again.job(job.id).status == "paused")
    step = Run.open(out).progress()["step"]
    assert step > 0
    again.resume(job.id)
    until(lambda: again.job(job.id).status == "running")
    until(lambda: Run.open(out).logs()[-1]["step"] > step + 1)
    os.kill(again.job(job.id).pid, signal.SIGKILL)  # pulled out from under it: it can go on
    until(lambda: again.job(job.id).status == "paused")
    assert again.resume(job.id).status == "queued"
    until(lambda: again.job(job.id).status == "running")
    again.stop(job.id)
    until(lambda: again.job(job.id).status == "stopped")
    again.close()


def test_a_damaged_job_file_is_no_job(studio: Studio) -> None:
    studio.queue.folder.mkdir(parents=True, exist_ok=True)
    (studio.queue.folder / "a.json").write_text("{", encoding="utf-8")
    write_json(studio.queue.folder / "b.json", {"id": "b", "argv": "rm -rf", "title": 3})
    studio.queue.open()
    assert studio.queue.jobs() == []
    studio.queue.close()


def test_a_training_from_the_page_is_a_run_of_the_command_line(page: TestClient, studio: Studio) -> None:
    write_blobs(studio.workspace.home / "data" / "blobs.npz", count=40)
    order = {"source": "blobs.npz", "families": ["vae", "gan"], "budget": "4steps", "evaluate": False}
    group = page.post("/api/trainings", json=order).json()["group"]
    assert group == "blobs"

    def over() -> Any:
        jobs = page.get("/api/training", params={"group": group}).json()["jobs"]
        return jobs if all(job["status"] in ("done", "failed") for job in jobs) else None

    jobs = until(over)
    assert [job["status"] for job in jobs] == ["done", "done"], [job["line"] for job in jobs]
    assert all("--resume" in job["command"] and job["spent"] == 1 for job in jobs)
    run = Run.open(studio.workspace.home / "runs" / "blobs" / "vae")
    assert run.progress()["step"] == 4 and len(run.pictures()) == 4
    trilemma.train("vae", run.config.data, out=run.path, budget="6steps", resume=True, say=lambda line: None)
    live = page.get("/api/live", params={"run": ["runs/blobs/vae", "runs/blobs/gan"]}).json()
    assert live["runs/blobs/vae"]["step"] == 4 or live["runs/blobs/vae"]["snapshots"]
    assert page.post("/api/trainings", json=order).json()["group"] == "blobs-2"
    for wrong, line in (
        ({"families": []}, "choose a family"), ({"families": ["nonsense"]}, "unknown family"),
        ({"budget": "soon"}, "budget"), ({"size": "huge"}, "huge"), ({"image_size": 1}, "image_size"),
        ({"source": "/etc"}, "no data set"), ({"seed": 1.5}, "seed"),
    ):  # fmt: skip
        answer = page.post("/api/trainings", json=order | wrong)
        assert answer.status_code in (400, 404) and line in answer.json()["error"], (wrong, answer.json())
    assert page.post("/api/jobs/absent/pause").status_code == 400
    assert page.post(f"/api/jobs/{jobs[0]['id']}/explode").status_code == 404


# ------------------------------------------------------------------------------------------------------------ ask


def test_the_forms_are_the_questions_own_fields(page: TestClient, studio: Studio, trained: Path) -> None:
    studio.workspace.folders = [trained]
    found = {each["name"]: each for each in page.get(f"/api/questions?run={trained.name}/pixelcnn").json()}
    assert found["complete"]["unable"] is None and "plane" in found["density"]["unable"]
    fields = {each["name"]: each for each in found["complete"]["fields"]}
    assert fields["copies"] | {"help": ""} == {
        "name": "copies", "help": "", "kind": "whole", "choices": [], "default": 4, "least": 1, "most": None
    }  # fmt: skip
    assert fields["images"]["kind"] == "data" and fields["keep"]["kind"] == "text" and fields["keep"]["help"]


def test_a_question_is_asked_with_the_command_s_own_answer(page: TestClient, studio: Studio, trained: Path) -> None:
    studio.workspace.folders = [trained]
    run = f"{trained.name}/pixelcnn"
    begun = page.post("/api/ask", json={"run": run, "question": "complete", "fields": {"copies": 2, "n": "3"}}).json()
    assert begun["command"].endswith("--copies 2 -n 3") and begun["command"].startswith("trilemma query complete ")

    def over() -> Any:
        now = page.get(f"/api/ask/{begun['task']}").json()
        return now if now["status"] != "running" else None

    now = until(over)
    assert now["status"] == "done", now["error"]
    (figure,) = now["answer"]["figures"]
    picture = page.get(f"/api/ask/{begun['task']}/figure", params={"name": figure})
    assert picture.content[:4] == b"\x89PNG"
    kept = json.loads((trained / "pixelcnn" / "queries" / "complete.json").read_text(encoding="utf-8"))
    assert kept["asked"] == now["answer"]["asked"] and kept["asked"]["copies"] == 2
    assert page.get(f"/api/ask/{begun['task']}/figure", params={"name": "../x"}).status_code == 404


def test_one_who_cancels_ends_only_their_own(page: TestClient, studio: Studio, trained: Path) -> None:
    studio.workspace.folders = [trained]
    run = f"{trained.name}/pixelcnn"
    ask = {"run": run, "question": "complete", "fields": {"copies": 1500, "n": 20}}
    long = page.post("/api/ask", json=ask).json()["task"]
    short = page.post("/api/ask", json={"run": run, "question": "likelihood", "fields": {"n": 4}}).json()["task"]
    page.post(f"/api/ask/{long}/cancel")
    ended = until(lambda: page.get(f"/api/ask/{short}").json()["status"] == "done")
    assert ended
    until(lambda: page.get(f"/api/ask/{long}").json()["status"] == "cancelled")


def test_a_question_names_no_files(page: TestClient, studio: Studio, trained: Path) -> None:
    studio.workspace.folders = [trained]
    run = f"{trained.name}/pixelcnn"
    for fields, line in (
        ({"keep": "/etc/passwd"}, "choose a data set"), ({"keep": "..\\x.png"}, "choose a data set"),
        ({"images": str(trained / "blobs.npz")}, "choose a data set"), ({"copies": -1}, "at least 1"),
        ({"nothing": 1}, "nothing"), ({"copies": "many"}, "copies"),
    ):  # fmt: skip
        answer = page.post("/api/ask", json={"run": run, "question": "complete", "fields": fields})
        assert answer.status_code == 400 and line in answer.json()["error"], (fields, answer.json())
    assert page.post("/api/ask", json={"run": run, "question": "density"}).status_code == 400
    assert page.post("/api/ask", json={"run": run, "question": "nonsense"}).status_code == 404


# -------------------------------------------------------------------------------------------------------- compare


def test_past_comparisons_are_found_and_their_pages_run_one_script(page: TestClient, studio: Studio) -> None:
    folder = studio.workspace.home / "comparisons" / "one"
    folder.mkdir(parents=True)
    report = {"title": "On <b>blobs</b>", "created": "2026-01-01T00:00:00", "families": [{"title": "VAE"}]}
    write_json(folder / "report.json", report)
    (folder / "report.html").write_text("<!doctype html><p>hello", encoding="utf-8")
    other = studio.workspace.home / "comparisons" / "two"
    other.mkdir()
    write_json(other / "report.json", {"of": "another program"})
    script = files("trilemma.report").joinpath("report.js").read_bytes()
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    (entry,) = page.get("/api/comparisons").json()
    assert entry["key"] == "comparisons/one" and entry["title"] == "On <b>blobs</b>" and entry["page"]
    answer = page.get("/comparison/report.html", params={"comparison": "comparisons/one"})
    assert re.findall("script-src ([^;]*)", answer.headers["content-security-policy"]) == [f"'sha256-{digest}'"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    saved = page.get("/comparison/report.html", params={"comparison": "comparisons/one", "save": 1})
    assert 'filename="one.html"' in saved.headers["content-disposition"]
    assert page.get("/comparison/report.html", params={"comparison": "comparisons/two"}).status_code == 404
    assert page.get("/comparison/report.html", params={"comparison": "../x"}).status_code == 404


# ------------------------------------------------------------------------------------------------------- together


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_requests_leave_nothing_behind(page: TestClient, studio: Studio, trained: Path, count: int) -> None:
    import gc
    import tracemalloc

    studio.workspace.folders = [trained]
    run = f"{trained.name}/vae"
    shot = page.get("/api/live", params={"run": run}).json()[run]["snapshots"][-1]
    paths = ("/api/runs", f"/api/live?run={run}", f"/api/snapshot?run={run}&step={shot}", "/api/jobs", "/api/run?run=x")

    def many(count: int) -> int:
        for i in range(count):
            page.get(paths[i % len(paths)])
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    studio_guard = guard.RATE
    guard.RATE = 1e9
    tracemalloc.start()
    try:
        before = many(50)
        after = many(count)
    finally:
        tracemalloc.stop()
        guard.RATE = studio_guard
    assert after - before < 2**19
