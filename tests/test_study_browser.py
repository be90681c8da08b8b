"""A rater's session in Chromium, by keyboard alone, up to the results."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import launched, needs_chromium
from conftest import blobs, write_blobs

from trilemma.study.design import Wanted, make, open_study, trials
from trilemma.study.vote import REAL
from trilemma.study.votes import Votes

pytest.importorskip("starlette")

pytestmark = [pytest.mark.slow, needs_chromium]

READY = (
    "() => document.querySelector('.answers button:not(:disabled):not([hidden])') || document.querySelector('.words')"
)
BOX = "() => JSON.stringify([...document.querySelectorAll('canvas, .answers')].map((n) => n.getBoundingClientRect()))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


class Served:
    """A study of its own server, and a page of one rater that asks nobody else."""

    def __init__(self, folder: Path, browser: Any, wanted: Wanted, sources: int = 2, **options: Any) -> None:
        data = write_blobs(folder / "real.npz", count=400)
        np.savez(folder / "alike.npz", images=blobs(60, seed=7)[0])
        np.savez(folder / "flat.npz", images=np.full((60, 8, 8, 1), 90, np.uint8))
        names = ("alike", "flat")[:sources]
        make(folder / "study", None, {name: str(folder / f"{name}.npz") for name in names}, str(data), wanted)
        self.folder = folder / "study"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self.start()
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.set_default_timeout(60_000)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", lambda r: None if r.url.startswith(self.address) else self.faults.append(r.url))
        self.page.goto(self.address)

    def start(self) -> None:
        words = [sys.executable, "-m", "trilemma", "study", "serve", str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen(words, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
        for _ in range(600):
            try:
                urllib.request.urlopen(self.address, timeout=5).read()
                return
            except OSError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.1)

    def close(self) -> None:
        self.context.close()
        self.process.kill()
        self.process.wait(20)
        assert self.faults == []

    @property
    def votes(self) -> list[Any]:
        kept = Votes(self.folder)
        found = kept.all()
        kept.close()
        return found

    def step(self, key: str) -> str:
        """Press a key at whatever is shown, and say what that was."""
        self.page.wait_for_function(READY)
        if self.page.query_selector(".words"):
            title = str(self.page.inner_text("h1"))
            if title != "Thank you":
                self.page.keyboard.press("Enter")
                self.page.wait_for_function("(t) => document.querySelector('h1').innerText !== t", arg=title)
            return title
        count = len(self.votes)
        if self.page.query_selector(".one:not([hidden])"):
            said = str(self.page.inner_text(".note"))
            self.page.keyboard.press("Enter")
            self.page.wait_for_function("() => !document.querySelector('.one:not([hidden])')")
            return said
        self.page.keyboard.press(key)
        limit = time.monotonic() + 20
        while len(self.votes) == count and time.monotonic() < limit:
            time.sleep(0.02)
        self.page.wait_for_function(
            "() => document.querySelector('.words, .one:not([hidden])') || !document.querySelector('button:disabled')"
        )
        return "trial"


def test_twenty_trials_by_keyboard_and_what_they_say(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path, browser, Wanted(images=12, trials=16, checks=4, practice=4))
    try:
        assert served.step("") == "Welcome"
        assert "Real or generated?" in served.step("")
        code = served.page.evaluate("() => Object.values(localStorage)[0]")
        truth = trials(open_study(served.folder), code)
        seen, boxes = [], set()
        while "Thank you" not in seen:
            at = len(served.votes)
            right = at < len(truth) and truth[at].source == REAL
            seen.append(served.step(("ArrowLeft", "1")[at % 2] if right else ("ArrowRight", "2")[at % 2]))
            if served.page.query_selector(".trial"):
                boxes.add(served.page.evaluate(BOX))
            if at == 10 and seen[-1] == "trial":
                served.page.reload()  # and goes on where it was
                assert "Go on where you stopped" in served.page.inner_text("button.primary")
        assert len(boxes) <= 2, "something moved"  # beside the one button after practice
        assert seen.count("trial") == 24 and sum(said.startswith("Right: ") for said in seen) == 4
        assert "Half of it is done" in seen and "Now it counts" in seen
        assert "100 %" in served.page.inner_text("main")
        assert [vote.right for vote in served.votes] == [True] * 24
    finally:
        served.close()
    words = [sys.executable, "-m", "trilemma", "study", "results", str(served.folder), "--json"]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert found["results"]["votes"] == 16 and found["results"]["raters"] == 1
    assert json.loads((served.folder / "results.json").read_text(encoding="utf-8")) == found["results"]


def test_an_answer_waits_for_a_server_that_is_gone(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path, browser, Wanted(images=12, trials=4, checks=0, practice=0))
    try:
        served.step("")
        served.step("")
        served.step("1")
        served.page.wait_for_function(READY)
        served.process.kill()
        served.process.wait()
        served.page.keyboard.press("1")
        served.page.wait_for_function("() => document.querySelector('.note').innerText.includes('kept on this device')")
        assert len(served.votes) == 1
        served.start()
        limit = time.monotonic() + 60
        while len(served.votes) < 2 and time.monotonic() < limit:
            time.sleep(0.1)
        assert [vote.trial for vote in served.votes] == [0, 1]
    finally:
        served.close()


def test_an_exposure_is_as_long_as_it_should_be(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path, browser, Wanted(images=12, trials=6, checks=0, practice=0, exposure="staircase"), 1)
    try:
        while served.step("1") != "Thank you":
            pass
        votes = served.votes
        now, meant = 500.0, []
        for vote in votes:
            meant.append(now)
            now += -10 if vote.right else 30
        # a busy machine may show one a frame longer: then what was seen is kept, and not what was meant
        assert sum(vote.exposure == each for vote, each in zip(votes, meant, strict=True)) >= 3
        assert all(vote.milliseconds >= vote.exposure for vote in votes)
    finally:
        served.close()


@pytest.mark.parametrize("form", ["real-or-fake", "pairs"])
def test_on_a_phone_everything_is_there_without_scrolling(browser: Any, tmp_path: Path, form: Any) -> None:
    served = Served(
        tmp_path, browser, Wanted(images=12, trials=4, checks=0, practice=2, form=form), 2,
        viewport={"width": 390, "height": 664}, has_touch=True, is_mobile=True, color_scheme="dark",
    )  # fmt: skip
    try:
        page = served.page
        page.tap("button.primary")
        page.wait_for_selector("text=Your code")
        page.tap("button.primary")
        page.wait_for_selector(".answers button:not(:disabled)")
        fits = page.evaluate(
            """() => document.documentElement.scrollWidth <= innerWidth
            && document.documentElement.scrollHeight <= innerHeight"""
        )
        assert fits
        heights = page.evaluate(
            "() => [...document.querySelectorAll('.answers button:not([hidden])')].map((n) => n.offsetHeight)"
        )
        assert min(heights) >= 44
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('button, canvas, progress')]
            .filter((n) => !n.innerText?.trim() && !n.getAttribute('aria-label')).length"""
        )
        assert unnamed == 0
        page.tap(".answers button")
        page.wait_for_selector(".one:not([hidden])")
        assert len(served.votes) == 1
    finally:
        served.close()
