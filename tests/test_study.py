"""The user study: who sees what, that nothing tells which is which, and that no vote is lost."""

from __future__ import annotations

import collections
import concurrent.futures
import csv
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import blobs, write_blobs
from PIL import Image

from trilemma.cli import main
from trilemma.files import Unwritten
from trilemma.study import design
from trilemma.study.design import Source, Study, Wanted, make, open_study, trials
from trilemma.study.sitting import LENGTH, Closed, Sitting
from trilemma.study.vote import REAL, Vote
from trilemma.study.votes import Votes, as_text


def study(**fields: Any) -> Study:
    sources = (Source("a", "", 40, 3), Source("b", "", 40, 3), Source("c", "", 40, 3))
    given: dict[str, Any] = {"title": "t", "form": "real-or-fake", "sources": sources, "real": Source(REAL, "", 120, 6),
             "shape": (1, 8, 8), "question": "q"}  # fmt: skip
    return Study(**(given | fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small study: a set that looks like the real one, and one that does not."""
    data = write_blobs(tmp_path / "real.npz", count=400)
    np.savez(tmp_path / "alike.npz", images=blobs(60, seed=7)[0])
    np.savez(tmp_path / "flat.npz", images=np.full((60, 8, 8, 1), 90, np.uint8))
    wanted = Wanted(images=12, trials=12, checks=2, practice=4)
    sets = {"alike": str(tmp_path / "alike.npz"), "flat": str(tmp_path / "flat.npz")}
    make(tmp_path / "study", None, sets, str(data), wanted)
    return tmp_path / "study"


# --------------------------------------------------------------------------------------------------------- design


@pytest.mark.parametrize("count", [60, 61, 7])
def test_real_as_often_as_generated_and_every_source_alike(count: int) -> None:
    made = study(trials=count)
    for rater in ("anna", "ben"):
        main_trials = [t for t in trials(made, rater) if t.role == "main"]
        seen = collections.Counter(t.source for t in main_trials)
        assert len(main_trials) == count
        assert abs(2 * seen[REAL] - count) <= 1
        fakes = [seen[name] for name in "abc"]
        assert max(fakes) - min(fakes) <= 1


def test_pairs_come_equally_often_on_both_sides() -> None:
    made = study(form="pairs", pair="models", trials=60)
    seen = collections.Counter((t.source, t.other) for t in trials(made, "anna") if t.role == "main")
    assert len(seen) == 6 and set(seen.values()) == {10}
    made = study(form="pairs", trials=60)
    seen = collections.Counter((t.source, t.other) for t in trials(made, "anna") if t.role == "main")
    assert len(seen) == 6 and set(seen.values()) == {10}
    assert all(REAL in pair for pair in seen)


@pytest.mark.parametrize("fields", [{}, {"form": "pairs"}])
def test_no_image_comes_twice_and_practice_images_never_count(fields: Any) -> None:
    made = study(**fields)
    shown = [
        (t.role, *each) for t in trials(made, "x") for each in ((t.source, t.item), (t.other, t.other_item)) if each[0]
    ]
    assert len({each[1:] for each in shown}) == len(shown)
    for role, name, item in shown:
        if name in "abc":
            assert (item >= 40) == (role == "practice")


def test_a_session_is_a_function_of_seed_and_rater() -> None:
    made = study()
    assert trials(made, "anna") == trials(made, "anna")
    assert trials(made, "anna") != trials(made, "ben")
    assert trials(made, "anna") != trials(study(seed=1), "anna")
    roles = [t.role for t in trials(made, "anna")]
    assert roles[:6] == ["practice"] * 6 and roles.count("check") == made.checks and len(roles) == made.length
    # nothing is learnt from the place: over many raters a real image is as likely at every place
    real = np.mean([[t.source == REAL for t in trials(made, str(i)) if t.role == "main"] for i in range(200)], 0)
    assert np.abs(real - 0.5).max() < 4.5 * 0.5 / np.sqrt(200)


def test_the_staircase_goes_down_after_right_and_up_after_wrong() -> None:
    made = study(sources=(Source("a", "", 40, 3),), exposure=500.0, staircase=True)

    def vote(right: bool, role: Any = "main") -> Vote:
        return Vote("r", 0, "real-or-fake", role, REAL, 0, "real" if right else "fake")

    assert design.exposure(made, []) == 500
    assert design.exposure(made, [vote(True)] * 2 + [vote(False)]) == 510
    assert design.exposure(made, [vote(True, "practice"), vote(True, "check")]) == 500
    assert design.exposure(made, [vote(True)] * 50) == 100
    assert design.exposure(made, [vote(False)] * 500) == 1000
    assert design.exposure(study(), [vote(True)]) is None


def test_what_cannot_be_a_study_is_refused_in_one_line(tmp_path: Path, blobs_file: Path) -> None:
    real = str(blobs_file)
    for sets, against, fields, line in (
        ({}, real, {}, "needs something to judge"),
        ({"real": real}, real, {}, "cannot be called 'real'"),
        ({"a": real}, None, {}, "needs real images"),
        ({"a": "ring"}, "ring", {}, "vectors"),
        ({"a": real}, real, {"form": "pairs", "pair": "models"}, "need two"),
        ({"a": real}, real, {"form": "pairs", "exposure": "250"}, "one image at a time"),
        ({"a": real, "b": real}, real, {"exposure": "staircase"}, "of one source"),
    ):
        with pytest.raises(ValueError, match=line) as caught:
            make(tmp_path / "out", None, sets, against, Wanted(images=8, **fields))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    for wrong in ({"exposure": "soon"}, {"images": 1}, {"trials": 0}, {"title": "x" * 500}):
        with pytest.raises(ValueError):
            Wanted(**wrong)  # type: ignore[arg-type]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="exists"):
        make(tmp_path / "full", None, {"a": real}, real)


# ------------------------------------------------------------------------------------------------------ blindness


def test_images_differ_in_what_they_show_and_in_nothing_else(folder: Path) -> None:
    files = sorted((folder / "images").iterdir())
    made = open_study(folder)
    assert [(each.main, each.practice) for each in made.sources] == [(12, 4), (12, 4)]
    assert len(files) == len(set(made.items())) == 2 * 16 + made.real.main + made.real.practice + 2
    assert len({file.stat().st_size for file in files}) == 1
    assert len({len(file.name) for file in files}) == 1
    heads = set()
    for file in files:
        with Image.open(file) as image:
            image.load()
            heads.add((image.size, image.mode, tuple(image.info)))
    assert heads == {((8, 8), "L", ())}
    real = np.load(folder.parent / "real.npz")["images"][..., 0]
    shown = np.asarray(Image.open(folder / "images" / made.file(REAL, 0)))
    assert (real == shown).all((1, 2)).any()  # filled up, and still the same pixels


def test_answers_to_a_rater_are_alike_whatever_is_true(folder: Path) -> None:
    sitting = Sitting(folder)
    state = sitting.begin()
    addresses = set()
    truth = trials(sitting.study, state.code)
    for i in range(sitting.study.length):
        assert len(state.text()) == LENGTH
        record = json.loads(state.text())
        words = json.dumps({k: v for k, v in record.items() if k not in ("title", "question", "form", "pair")})
        assert not any(name in words for name in ("alike", "flat", "noise", "check", REAL))
        for (address,) in state.images:
            assert len(address) == 32
            addresses.add(address)
        image = sitting.image(state.code, state.images[0][0])
        assert image == (folder / "images" / sitting.study.file(truth[i].source, truth[i].item)).read_bytes()
        state = sitting.vote(state.code, i, "real", 10.0)
        assert bool(state.feedback) == (i < 4)  # the truth is told of practice alone, after the vote
    assert state.done and state.score == 0.5
    assert len(addresses) == sitting.study.length
    other = sitting.begin()
    assert not addresses & {address for each in other.images for address in each}
    assert sitting.image(other.code, next(iter(addresses))) is None
    sitting.close()


def test_images_far_ahead_cannot_be_had(folder: Path) -> None:
    sitting = Sitting(folder)
    state = sitting.begin()
    far = sitting._address(state.code, 5, 0)
    assert sitting.image(state.code, far) is None
    assert sitting.image("nobody", state.images[0][0]) is None
    assert sitting.image(state.code, "") is None
    sitting.close()


# ---------------------------------------------------------------------------------------------------------- votes


def test_a_vote_counts_once_and_none_is_skipped(folder: Path) -> None:
    sitting = Sitting(folder)
    code = sitting.begin().code
    assert sitting.vote(code, 0, "real", 5.0).trial == 1
    assert sitting.vote(code, 0, "fake", 9.0).trial == 1
    assert [vote.answer for vote in sitting.votes.of(code)] == ["real"]
    for trial, answer, took in ((2, "real", 1.0), (-1, "real", 1.0), (999, "real", 1.0), (1, "left", 1.0), (1, "", 1.0),
                                (1, "real", float("nan")), (1, "real", -1.0), (1, "real", float("inf"))):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            sitting.vote(code, trial, answer, took)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    for stranger in ("", "nobody", "'; DROP TABLE votes"):
        with pytest.raises(ValueError, match="code"):
            sitting.vote(stranger, 0, "real", 1.0)
    assert sitting.begin(code).trial == 1
    sitting.votes.open = False
    with pytest.raises(Closed):
        sitting.begin(code)
    sitting.votes.open = True
    sitting.close()
    again = Sitting(folder)  # another server
    assert again.begin(code).trial == 1 and again.begin(code).images == again.begin(code).images
    again.close()


def test_a_full_disk_loses_no_vote_that_was_acknowledged(folder: Path) -> None:
    sitting = Sitting(folder)
    base = sitting.votes._base
    (pages,) = base.execute("PRAGMA page_count").fetchone()
    base.execute(f"PRAGMA max_page_count={pages + 2}")  # SQLite then says what it says of a full disk
    code = ""

    def until_full() -> None:
        nonlocal code
        while True:
            state = sitting.begin()
            code = state.code
            while not state.done:
                state = sitting.vote(code, state.trial, "real", 1.0)

    with pytest.raises(Unwritten, match="full") as caught:
        until_full()
    assert "\n" not in str(caught.value)
    before = sitting.votes.all()
    base.execute("PRAGMA max_page_count=100000")  # somebody made room
    sitting.vote(code, len(sitting.votes.of(code)), "real", 1.0)
    assert len(sitting.votes.all()) == len(before) + 1 and before == [v for v in sitting.votes.all() if v in before]
    sitting.close()


def test_votes_that_share_a_turn_of_the_disk_fail_and_count_alone(
    folder: Path,
) -> None:
    """Forty at once, of which one cannot be written: it alone is told so, and every other is there."""
    votes = Votes(folder)
    bad = Vote("r07", 0, "real-or-fake", "main", REAL, 0, object())  # type: ignore[arg-type]
    given = [
        bad if i == 7 else Vote(f"r{i:02d}", 0, "real-or-fake", "main", REAL, i, "real", made=1.0) for i in range(40)
    ]
    gate = threading.Barrier(40)

    def add(vote: Vote) -> object:
        gate.wait()
        try:
            return votes.add(vote)
        except (ValueError, OSError) as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        told = list(pool.map(add, given))
    assert isinstance(told.pop(7), ValueError)
    assert told == [True] * 39
    assert [vote.rater for vote in votes.all()] == [vote.rater for vote in given if vote is not bad]
    votes.close()


KILLED = """
import sys
from trilemma.study.sitting import Sitting
sitting = Sitting(sys.argv[1])
while True:
    code = sitting.begin().code
    for i in range(sitting.study.length):
        sitting.vote(code, i, "real", 1.0)
        print(code, i, flush=True)
"""


def test_votes_survive_a_kill(folder: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [process.stdout.readline().split() for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    told += [line.split() for line in process.stdout.read().splitlines() if len(line.split()) == 2]
    process.wait()
    votes = Votes(folder)
    kept = {(vote.rater, str(vote.trial)) for vote in votes.all()}
    assert {(code, trial) for code, trial in told[:-1]} <= kept
    assert votes._base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    votes.close()


def test_votes_leave_as_tables(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sitting = Sitting(folder)
    code = sitting.begin().code
    for i in range(3):
        sitting.vote(code, i, "real", 5.0)
    sitting.close()
    for name in ("v.csv", "v.json"):
        with pytest.raises(SystemExit) as ended:
            main(["study", "export", str(folder), str(tmp_path / name)])
        assert ended.value.code == 0
    with (tmp_path / "v.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rater"] for row in rows] == [code] * 3 and [row["trial"] for row in rows] == ["0", "1", "2"]
    listed = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert [row["right"] for row in listed] == [row["source"] == REAL for row in listed]
    with pytest.raises(SystemExit):
        main(["study", "export", str(folder), str(tmp_path / "v.xlsx")])
    assert "csv or .json" in capsys.readouterr().err
    formula = Vote("r", 0, "real-or-fake", "main", "=cmd()", 0, "real")
    assert ",'=cmd()," in as_text([formula], "csv")


def test_simulated_raters_find_what_they_were_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "simulate", str(folder), "--d-prime", "alike=0", "flat=4", "--raters", "30", "--json"]
    with pytest.raises(SystemExit):
        main(words)
    rows = {row["source"]: row for row in json.loads(capsys.readouterr().out)["results"]["rows"]}
    assert rows["alike"]["verdict"] in ("alike", "unclear") and abs(rows["alike"]["d_prime"]["value"]) < 0.6
    assert rows["flat"]["verdict"] == "told" and rows["flat"]["d_prime"]["value"] > 2
    for wrong in (["alike"], ["alike=x"], ["other=1"], ["alike=1"], ["alike=nan", "flat=1"]):
        with pytest.raises(SystemExit):
            main(["study", "simulate", str(folder), "--d-prime", *wrong])
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_damaged_files_are_refused_in_one_line(folder: Path) -> None:
    Sitting(folder).close()
    base = sqlite3.connect(folder / "votes.sqlite")
    base.execute("INSERT INTO votes (rater, trial, form) VALUES ('a', 'b', 3)")
    base.commit()
    base.close()
    votes = Votes(folder)
    with pytest.raises(ValueError, match="damaged"):
        votes.all()
    votes.close()
    for file in folder.glob("votes.sqlite*"):
        file.unlink()
    (folder / "votes.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(ValueError, match="not of a study"):
        Votes(folder)
    next((folder / "images").iterdir()).write_bytes(b"short")
    with pytest.raises(ValueError, match="one length"):
        Sitting(folder)


# ------------------------------------------------------------------------------------------------------ the server


@pytest.fixture
def page(folder: Path) -> Iterator[Any]:
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from trilemma.studio.studying import alone

    with TestClient(alone(folder), base_url="http://127.0.0.1:7870") as client:
        yield client


def test_a_session_over_http_tells_nothing(page: Any, folder: Path) -> None:
    assert "page.js" in page.get("/").text
    state = page.post("/study/study/begin", json={}).json()
    shapes, images = set(), set()
    while not state["done"]:
        (address,) = state["images"][0]
        image = page.get(f"/study/study/image/{state['code']}/{address}")
        images.add((image.status_code, len(image.content), tuple(sorted(image.headers.items()))))
        given = {"code": state["code"], "trial": state["trial"], "answer": "fake", "milliseconds": 321.5}
        answer = page.post("/study/study/vote", json=given)
        shapes.add(
            (answer.status_code, len(answer.content), tuple(sorted(answer.headers.items())), tuple(answer.json()))
        )
        state = answer.json()
    assert len(shapes) == 1 and len(images) == 1
    assert dict(next(iter(images))[2])["cache-control"] == "no-store"
    votes = Votes(folder)
    assert votes.counts() == (1, 14)
    assert {vote.milliseconds for vote in votes.all()} == {321.5}
    votes.close()


def test_hostile_requests_are_refused_in_one_line(page: Any) -> None:
    state = page.post("/study/study/begin", json={}).json()
    good = {"code": state["code"], "trial": 0, "answer": "real", "milliseconds": 1}
    for change in ({"trial": 1}, {"trial": "0"}, {"trial": 10**30}, {"answer": "left"}, {"answer": ["real"]},
                   {"milliseconds": "soon"}, {"milliseconds": -5}, {"code": "nobody"}, {"code": None}, {"more": 1},
                   {"shown": -1}, {"rater": "x"}):  # fmt: skip
        answer = page.post("/study/study/vote", json=good | change)
        assert answer.status_code == 400 and "\n" not in answer.json()["error"], change
    for body in (b"", b"[]", b"{", b"[" * 100_000, b'{"milliseconds": 1e999}'):
        assert page.post("/study/study/vote", content=body).status_code == 400
    for path in ("/study/other/", "/study/..%2f..%2fetc/", "/study/study/image/x/y", "/study/study/image/..%2f/..%2f",
                 "/study/study/study.json", "/study/study/votes.sqlite", "/api/runs", "/static/studio.js",
                 "/static/study/..%2f..%2fserver.py", f"/study/study/image/{state['code']}/{'0' * 32}"):  # fmt: skip
        assert page.get(path).status_code == 404, path
    assert page.get("/", headers={"host": "evil.example"}).status_code == 421
    foreign = page.post("/study/study/vote", json=good, headers={"origin": "http://evil.example"})
    assert foreign.status_code == 403
    assert page.post("/study/study/vote", json=good).json()["trial"] == 1  # and it lives


def test_raters_from_elsewhere_need_the_link(folder: Path) -> None:
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from trilemma.studio.studying import alone

    with TestClient(alone(folder, "a-secret"), base_url="http://10.0.0.5:7870") as client:
        assert client.get("/study/study/").status_code == 401
        assert client.post("/study/study/begin", json={}).status_code == 401
        entered = client.get("/study/study/?token=a-secret", follow_redirects=False)
        assert entered.status_code == 303 and entered.headers["location"] == "/study/study/"
        assert "samesite=lax" in entered.headers["set-cookie"].lower()
        assert client.post("/study/study/begin", json={}).status_code == 200


def test_a_disk_that_is_full_is_told_to_the_page(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = page.post("/study/study/begin", json={}).json()

    def full(self: Votes, vote: Vote) -> bool:
        raise Unwritten("votes.sqlite cannot be kept: send it again (database or disk is full)")

    with monkeypatch.context() as patch:
        patch.setattr(Votes, "add", full)
        given = {"code": state["code"], "trial": 0, "answer": "real", "milliseconds": 1}
        answer = page.post("/study/study/vote", json=given)
        assert answer.status_code == 507 and "full" in answer.json()["error"]
    assert page.post("/study/study/vote", json=given).json()["trial"] == 1


def test_the_studio_s_room_makes_opens_and_reads_a_study(tmp_path: Path, folder: Path) -> None:
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from trilemma.studio.jobs import Queue
    from trilemma.studio.room import Studio
    from trilemma.studio.server import application
    from trilemma.studio.workspace import Workspace

    studio = Studio(Workspace(tmp_path / "home", [folder.parent]), Queue(tmp_path / "home" / "jobs", 1))
    write_blobs(tmp_path / "home" / "data" / "mine.npz", count=400)
    with TestClient(application(studio), base_url="http://127.0.0.1") as client:
        (entry,) = client.get("/api/studies").json()
        assert entry["open"] and entry["raters"] == 0 and entry["sources"] == ["alike", "flat"]
        assert client.get("/api/study", params={"study": entry["key"]}).json()["results"] is None
        begin, vote = entry["link"] + "begin", entry["link"] + "vote"
        state = client.post(begin, json={}).json()
        truth = trials(open_study(folder), state["code"])
        while not state["done"]:
            answer = "real" if truth[state["trial"]].source == REAL else "fake"
            given = {"code": state["code"], "trial": state["trial"], "answer": answer, "milliseconds": 1}
            state = client.post(vote, json=given).json()
        found = client.get("/api/study", params={"study": entry["key"]}).json()
        assert found["raters"] == 1 and found["votes"] == 14
        assert {row["source"]: row["error_rate"]["value"] for row in found["results"]["rows"]} == {
            "alike": 0,
            "flat": 0,
        }
        votes = client.get("/api/study/votes", params={"study": entry["key"], "kind": "csv"})
        assert len(votes.text.splitlines()) == 19 and "attachment" in votes.headers["content-disposition"]
        assert client.get("/api/study/votes", params={"study": entry["key"], "kind": "html"}).status_code == 400
        client.post("/api/study/open", json={"study": entry["key"], "open": False})
        assert client.post(begin, json={}).status_code == 403
        client.post("/api/study/open", json={"study": entry["key"], "open": True})
        assert client.post(begin, json={}).status_code == 200
        for order in (
            {"samples": ["absent"]},
            {"runs": ["../../etc"]},
            {"runs": ["zoo/../../etc"]},
            {"name": "///", "runs": []},
        ):
            assert client.post("/api/studies", json=order).status_code in (400, 404)
        for path in ("/study/other/", "/study/..~..~etc/", "/api/study?study=../home"):
            assert client.get(path).status_code == 404, path
        job = client.post("/api/studies", json={"samples": ["mine.npz"], "against": "mine.npz", "name": "new one"})
        assert job.json()["command"].startswith("trilemma study new ") and job.json()["out"] == "studies/new-one"


def served(folder: Path, port: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "trilemma", "study", "serve", str(folder), "--port", str(port)]
    process = subprocess.Popen(words, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
            return process
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server did not begin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_twenty_raters_at_once_lose_nothing_to_a_kill(tmp_path: Path) -> None:
    """5,000 votes of 20 raters who load images and answer in half a second; the server is killed in the middle."""
    data = write_blobs(tmp_path / "real.npz", count=400)
    np.savez(tmp_path / "alike.npz", images=blobs(200, seed=7)[0])
    wanted = Wanted(images=100, trials=240, checks=4, practice=6)
    make(tmp_path / "study", None, {"alike": str(tmp_path / "alike.npz")}, str(data), wanted)
    port = free_port()
    process = served(tmp_path / "study", port)
    times: list[float] = []
    beside: list[float] = []  # of a file that needs no vote: what this machine takes at this moment
    acknowledged: list[tuple[str, int]] = []
    restart = threading.Lock()
    pauses = np.random.default_rng(0).exponential(0.5, (20, 250))

    open_here = threading.local()  # a connection for each rater, as browsers keep one

    def ask(path: str, body: dict[str, Any] | None = None) -> bytes:
        for _ in range(400):
            try:
                if not hasattr(open_here, "line"):
                    open_here.line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                method = "GET" if body is None else "POST"
                open_here.line.request(method, path, None if body is None else json.dumps(body))
                answer = open_here.line.getresponse()
                content = bytes(answer.read())
                if answer.status != 429:
                    assert answer.status == 200, content
                    return content
            except (OSError, http.client.HTTPException):  # it was killed and comes back
                open_here.line.close()
                del open_here.line
            time.sleep(0.1)
        raise AssertionError("it does not come back")

    def rate(number: int) -> None:
        nonlocal process
        state = json.loads(ask("/study/study/begin", {}))
        while not state["done"]:
            ask(f"/study/study/image/{state['code']}/{state['images'][0][0]}")
            given = {"code": state["code"], "trial": state["trial"], "answer": "real", "milliseconds": 1}
            began = time.perf_counter()
            after = json.loads(ask("/study/study/vote", given))
            times.append(time.perf_counter() - began)
            acknowledged.append((state["code"], state["trial"]))
            state = after
            if state["trial"] % 5 == 0:
                began = time.perf_counter()
                ask("/static/study/page.css")
                beside.append(time.perf_counter() - began)
            time.sleep(float(pauses[number, state["trial"] - 1]))
            with restart:
                if number == 0 and state["trial"] == 125:
                    process.kill()
                    process.wait()
                    process = served(tmp_path / "study", port)

    try:
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(rate, range(20)))
    finally:
        process.terminate()
        process.wait(20)
    votes = Votes(tmp_path / "study")
    kept = [(vote.rater, vote.trial) for vote in votes.all()]
    assert set(acknowledged) == set(kept) and len(kept) == 20 * 250
    quick, plain = (sorted(each)[int(0.95 * len(each))] for each in (times, beside))
    print(f"median {1000 * np.median(times):.0f} ms, p95 {1000 * quick:.0f} ms, p95 of a file {1000 * plain:.0f} ms")
    assert quick < max(0.1, 4 * plain)
