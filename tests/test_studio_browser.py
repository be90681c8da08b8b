"""The studio in a browser, as people use it: where there is a Chromium; nothing is asked of any other host."""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import launched, needs_chromium, until
from conftest import blobs, write_blobs
from PIL import Image

import trilemma

pytest.importorskip("starlette")

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studio's folder with a data set whose classes have dangerous names, and a run of it."""
    folder = tmp_path_factory.mktemp("studio")
    images, labels = blobs(120, channels=3, height=16, width=16)
    names = ("<img src=x onerror=alert(1)>", "b", "c")
    (folder / "data").mkdir()
    np.savez(folder / "data" / "odd.npz", images=images, labels=np.array(names)[labels])
    data = write_blobs(folder / "data" / "blobs.npz", height=16, width=16)
    for source, name in ((folder / "data" / "odd.npz", "odd"), (data, "blobs")):
        trilemma.train("vae", str(source), out=folder / "runs" / name / "vae", budget="8steps", conditional=True,
                       settings={"batch": 16, "log_every": 1, "pictures": 4}, say=lambda line: None)  # fmt: skip
    return folder


def train(home: Path, family: str) -> None:
    """A run of the second set for a moment, unless it is there."""
    trilemma.train(family, str(home / "data" / "blobs.npz"), out=home / "runs" / "blobs" / family, budget="4steps",
                   settings={"batch": 16, "pictures": 0}, resume=True, say=lambda line: None)  # fmt: skip


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """A studio that runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "trilemma", "studio", str(home), "--runs", str(home / "runs"), "--no-browse",
             "--port", str(port)]  # fmt: skip
    process = subprocess.Popen(words, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}, cwd=home)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(url, timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, "the studio ended"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


class Watched:
    """A page, and whatever it said or asked of anybody else."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.faults.append("a script ran"), dialog.dismiss()))
        self.page.on(
            "console", lambda m: self.faults.append(m.text) if m.type == "error" and "400" not in m.text else None
        )
        self.page.on("request", lambda r: self._asked(r.url, address))
        self.page.set_default_timeout(60_000)

    def _asked(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.faults.append(f"asked {url}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture
def watched(browser: Any, address: str) -> Iterator[Watched]:
    seen = Watched(browser, address)
    yield seen
    assert seen.faults == []
    seen.context.close()


def test_every_room_opens_and_asks_nobody_else(watched: Watched, address: str) -> None:
    page = watched.page
    for room, words in (("", "Every family"), ("train", "Watch them learn"), ("lab", "Lab"), ("compare", "Compare"),
                        ("study", "Study"), ("run/runs%2Fodd%2Fvae", "Variational autoencoder")):  # fmt: skip
        page.goto(f"{address}#/{room}")
        page.wait_for_selector(f"main h1:has-text('{words}')")
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), (
            f"{room} is wider than the page"
        )


def test_names_from_outside_are_words(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}#/train")
    page.select_option("select >> nth=0", "odd.npz")
    until(lambda: "onerror" in page.inner_text(".seen details") or page.click(".seen summary"))
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark"), (2560, "light")])
def test_nothing_sticks_out(browser: Any, address: str, width: int, scheme: str, tmp_path: Path) -> None:
    seen = Watched(browser, address, viewport={"width": width, "height": 900}, color_scheme=scheme)
    for room in ("", "train", "lab", "compare", "study", "run/runs%2Fblobs%2Fvae"):
        seen.page.goto(f"{address}#/{room}")
        seen.page.wait_for_selector("main h1")
        time.sleep(1)
        assert seen.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), (room, width)
        unnamed = seen.page.evaluate(
            """() => [...document.querySelectorAll("button, a[href], input:not([hidden]), select, canvas")]
            .filter((node) => node.offsetParent && !node.closest("[aria-hidden=true]")
              && !(node.innerText || "").trim() && !node.getAttribute("aria-label")
              && !node.labels?.length && !node.title).map((node) => node.outerHTML.slice(0, 120))"""
        )
        assert unnamed == [], room
    assert seen.faults == []
    seen.context.close()


@pytest.mark.slow
def test_from_a_dropped_folder_to_two_trained_families(
    watched: Watched, address: str, home: Path, tmp_path: Path
) -> None:
    images, labels = blobs(60, channels=3, height=16, width=16, seed=5)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "corners" / f"kind {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "corners" / f"kind {label}" / f"{i}.png")
    page = watched.page
    page.goto(f"{address}#/train")
    page.wait_for_selector(".seen img")
    page.set_input_files("input[webkitdirectory]", tmp_path / "corners")
    until(lambda: page.locator("select").first.input_value() == "corners")
    until(lambda: "3 classes" in page.inner_text(".seen"))
    for name in ("diffusion", "gan"):
        page.uncheck(f"input[value={name}]")
    page.check("input[value=autoencoder]")
    page.select_option("select:has(option[value='20s'])", "20s")
    page.click("text=Start training")
    page.wait_for_selector(".column img:not([hidden])")
    page.click("[aria-label='Pause vae']")
    until(lambda: "paused" in page.inner_text(".column:has-text('Variational')"))
    page.click("[aria-label='Resume vae']")
    until(lambda: page.inner_text(".columns").count("trained and measured") == 2, 400)
    before = page.get_attribute(".column img", "src")
    page.focus(".time input")
    page.keyboard.press("Home")  # back to the first snapshot
    until(lambda: page.get_attribute(".column img", "src") != before)
    until(lambda: page.locator(".tri-family").count() == 2)
    assert (home / "runs" / "corners" / "vae" / "metrics.json").is_file()


@pytest.mark.slow
def test_a_question_is_asked_by_keyboard(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}#/run/runs%2Fblobs%2Fvae")
    page.wait_for_selector("[role=tab]")
    page.focus("[role=tab]:has-text('Ask')")
    page.keyboard.press("Enter")
    page.wait_for_selector(".question")
    page.focus(".question:has-text('Interpolation')")
    page.keyboard.press("Enter")
    page.focus(".ask button.primary")
    page.keyboard.press("Enter")
    page.wait_for_selector("figure.answer img")
    assert "trilemma query interpolate" in page.inner_text(".command")


@pytest.mark.slow
def test_one_plays_with_a_run_by_keyboard(watched: Watched, address: str, home: Path) -> None:
    """Samples follow the slider, a code the arrow keys; a mask is completed by whoever can; one looks closer."""
    train(home, "pixelcnn")
    page = watched.page
    shown = "() => document.querySelector('%s').toDataURL()"
    page.goto(f"{address}#/run/runs%2Fblobs%2Fvae")
    page.wait_for_selector("button.sample:enabled")
    before = page.evaluate(shown % ".samples canvas")
    page.focus(".controls input[type=range]")
    page.keyboard.press("ArrowRight")
    until(lambda: page.evaluate(shown % ".samples canvas") != before)
    until(lambda: "--seed 1" in page.inner_text(".command"))

    page.click("button:has-text('Latent space')")
    page.wait_for_selector(".thumbs button:enabled")
    until(lambda: "standard deviations" in page.inner_text(".space"))
    page.focus(".pad")
    before = page.get_attribute(".pad", "aria-valuetext")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert page.get_attribute(".pad", "aria-valuetext") != before
    until(lambda: page.evaluate("() => document.querySelector('.pad canvas').width") > 16)

    page.click(".ways button:has-text('Complete')")
    until(lambda: "p(unknown | known)" in page.inner_text(".filled"))
    page.select_option(".fill select", "right half")
    until(lambda: "particle filter" in page.inner_text(".filled"))
    page.focus(".filled button.sample")
    page.keyboard.press("Enter")
    until(lambda: page.inner_text("dialog .near figcaption >> nth=0").strip())
    until(lambda: "exact" in page.inner_text(".rates") and "bound" in page.inner_text(".rates"))
    page.keyboard.press("Escape")
    until(lambda: page.locator("dialog").count() == 0)


@pytest.mark.slow
def test_points_drawn_by_keyboard_are_learnt_live(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}#/lab")
    until(lambda: page.locator(".lab-card").count() >= 5)  # it begins by itself
    for name in ("autoencoder", "diffusion", "flow", "consistency"):
        page.uncheck(f".lab-choice input[value={name}]")
    until(lambda: page.locator(".lab-card").count() == 2)
    page.check("input[value=own]")
    until(lambda: page.evaluate("document.activeElement.className") == "lab-pen")
    for key in ("Space", "ArrowLeft", "ArrowLeft", "ArrowUp", "Space", "ArrowUp", "Space"):
        page.keyboard.press(key)
    assert page.inner_text(".lab-own output") == "60 of 5,000 points"
    page.click("text=Learn these")
    until(lambda: page.inner_text(".lab-card:has-text('VAE')").count("covered") == 1)
    picture = "document.querySelector('.lab-card canvas').toDataURL()"
    before = page.evaluate(picture)
    until(lambda: page.evaluate(picture) != before)  # the dots move
    page.click("text=Pause")
    until(lambda: page.inner_text(".lab-facts >> nth=0") == (time.sleep(1), page.inner_text(".lab-facts >> nth=0"))[1])
    step = page.inner_text(".lab-facts >> nth=0").split(" · ")[0]
    page.click("text=10 steps")
    until(lambda: page.inner_text(".lab-facts >> nth=0").split(" · ")[0] != step)
    page.select_option(".lab-card:has-text('GAN') select:has(option[value=wasserstein])", "wasserstein")
    page.click("text=Read out")
    assert "GAN after" in page.inner_text(".room-lab p[role=status]")


def drop(page: Any, file: Path) -> None:
    """Let a file fall on the page's field, as a hand with a mouse does."""
    carried = page.evaluate_handle(
        """([name, text]) => {
            const held = new DataTransfer();
            held.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
            return held;
        }""",
        [file.name, base64.b64encode(file.read_bytes()).decode()],
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": carried})


@pytest.mark.slow
def test_a_zip_is_dropped(watched: Watched, address: str, tmp_path: Path) -> None:
    """Its folders are classes; what is no archive at all is said in a line, and the page goes on."""
    images, labels = blobs(30, channels=1, height=16, width=16, seed=7)
    with zipfile.ZipFile(tmp_path / "shapes.zip", "w") as archive:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            picture = io.BytesIO()
            Image.fromarray(image[..., 0] if image.ndim == 3 else image).save(picture, "PNG")
            archive.writestr(f"shapes/kind {label}/{i}.png", picture.getvalue())
    (tmp_path / "broken.zip").write_bytes(b"PK no archive")
    page = watched.page
    page.goto(f"{address}#/train")
    page.wait_for_selector(".seen img")
    drop(page, tmp_path / "broken.zip")
    until(lambda: "broken.zip is not a readable zip file" in page.inner_text(".seen"))
    drop(page, tmp_path / "shapes.zip")
    until(lambda: page.locator("select").first.input_value() == "shapes.zip")
    until(lambda: "3 classes" in page.inner_text(".seen"))
    assert "26 to learn from, 16 × 16" in page.inner_text(".seen")  # 30, of which a tenth of each class is held out


@pytest.mark.slow
def test_fingers_drag_a_code_and_paint_a_mask(browser: Any, address: str, home: Path) -> None:
    """On a phone a drag moves the code, or takes pixels away, and does not scroll the page."""
    train(home, "pixelcnn")
    seen = Watched(browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = seen.page
    finger = seen.context.new_cdp_session(page)

    def drag(selector: str) -> None:
        page.locator(selector).scroll_into_view_if_needed()
        box = page.locator(selector).bounding_box()
        at = lambda share: [{"x": box["x"] + share * box["width"], "y": box["y"] + share * box["height"]}]  # noqa: E731
        finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at(0.3)})
        for share in (0.4, 0.5, 0.6, 0.7):
            finger.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": at(share)})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    page.goto(f"{address}#/run/runs%2Fblobs%2Fvae")
    page.wait_for_selector("button.sample:enabled")
    page.tap("button:has-text('Latent space')")
    until(lambda: "standard deviations" in page.inner_text(".space"))
    page.locator(".pad").scroll_into_view_if_needed()
    before, scrolled = page.get_attribute(".pad", "aria-valuetext"), page.evaluate("scrollY")
    drag(".pad")
    until(lambda: page.get_attribute(".pad", "aria-valuetext") != before)
    assert page.evaluate("scrollY") == scrolled

    time.sleep(1)  # a tap at once after a drag is taken for a part of it
    page.tap(".ways button:has-text('Complete')")
    page.wait_for_selector(".fill canvas")
    shown = "() => [...document.querySelectorAll('.fill canvas')].map((each) => each.toDataURL()).join()"
    page.locator(".fill canvas").first.scroll_into_view_if_needed()
    before, scrolled = page.evaluate(shown), page.evaluate("scrollY")
    drag(".fill canvas >> nth=0")
    until(lambda: page.evaluate(shown) != before)
    assert page.evaluate("scrollY") == scrolled
    assert seen.faults == []
    seen.context.close()


@pytest.mark.slow
def test_a_code_of_a_gan_is_searched_for(watched: Watched, address: str, home: Path) -> None:
    """It has no encoder: the page says that it searches, and a held-out image then has a place in the plane."""
    train(home, "gan")
    page = watched.page
    page.goto(f"{address}#/run/runs%2Fblobs%2Fgan")
    page.wait_for_selector("button.sample:enabled")
    page.click("button:has-text('Latent space')")
    until(lambda: "standard deviations" in page.inner_text(".space"))
    page.click("button:has-text('held-out images')")
    until(lambda: "held-out" in (page.get_attribute(".thumbs button >> nth=0", "title") or ""))
    page.click(".thumbs button >> nth=0")
    until(lambda: "codes are searched for" in page.inner_text(".explore"))
    until(lambda: "codes are searched for" not in page.inner_text(".explore"))
    until(lambda: "standard deviations" in page.inner_text(".space"))
    assert "held-out" in page.get_attribute(".slot >> nth=0", "title")


@pytest.mark.slow
def test_what_a_terminal_trains_shows_up_while_it_learns(watched: Watched, address: str, home: Path) -> None:
    page = watched.page
    page.goto(f"{address}#/")
    page.wait_for_selector("h2:has-text('Your runs')")
    words = [sys.executable, "-m", "trilemma", "train", "vae", str(home / "data" / "blobs.npz"), "--out",
             str(home / "runs" / "terminal" / "vae"), "--budget", "12s"]  # fmt: skip
    training = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tile = page.locator("[data-key='runs/terminal/vae']")
    until(lambda: tile.count() == 1 and "learning" in tile.inner_text())
    assert training.wait(120) == 0
    until(lambda: "learning" not in tile.inner_text() and tile.locator("img").count() == 1)
