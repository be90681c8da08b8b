"""The report in a browser, as people read it: where there is a Chromium, from a file, without a network."""

from __future__ import annotations

import copy
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from browsers import launched, needs_chromium
from PIL import Image
from report_example import contrast, difference, example, family, metric, rungs

from trilemma.drawing import save, words
from trilemma.images import save_png
from trilemma.report import write

pytestmark = needs_chromium

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
SIZES = {"desk": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


def report() -> dict[str, Any]:
    """Eight rows with everything that a page can have, and with values and names that strain it."""
    found = example()
    found["families"] = [
        family(name, 10.0 * 2**i, "exact" if i % 2 else None)
        for i, name in enumerate(("vae", "gan", "flow", "diffusion", "pixelcnn", "pixelrnn", "autoencoder"))
    ]
    for i, entry in enumerate(found["families"]):
        entry["metrics"]["images_per_second"] = metric(10.0 ** (i - 2), 0.001)
        frequencies = [k / 20 for k in range(1, 11)]
        entry["spectrum"] = {"frequencies": frequencies, "power": [0.1 * (i + 1)] * 10, "real": [0.1] * 10}
    images = copy.deepcopy(found["families"][0])
    images.update(name="mine", title=f"A set with a name that is long {HOSTILE}", family="", gives_up="", answers={})
    found["families"].append(images)
    found["ladder"] = rungs({"frechet": [5.0, 60.0], "precision": [0.9, 0.1]})
    names = [entry["name"] for entry in found["families"]]
    found["differences"] = [difference(a, b, False) for i, a in enumerate(names) for b in names[:i]]
    found["families"][0]["asked"] = [{"title": "A question", "figures": {"a": "asked.png"}, "folder": "vae"}]
    found["scale"] = {"distrust": ["fidelity rises from 0.2 to 0.9 (blur)"]}
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for name in ("real.png", "vae/samples.png"):
        save_png(torch.randint(0, 255, (3, 90, 120), dtype=torch.uint8), folder / name)
    (folder / "vae" / "samples.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="120" height="90" onload="alert(3)"><script>alert(4)</script>'
        '<image href="http://elsewhere.test/x.png" width="9" height="9"/></svg>'
    )
    drawing = words(["a drawing"], width=120)
    for kind in ("png", "svg"):
        save(drawing, folder / "vae" / f"asked.{kind}")
    return write(report(), folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


class Read:
    """The page as one reader sees it, and whatever went wrong."""

    def __init__(self, browser: Any, page: Path, size: str = "desk", **options: Any) -> None:
        self.context = browser.new_context(viewport=SIZES[size], **options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.faults.append("a script ran"), dialog.dismiss()))
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on(
            "request", lambda r: None if r.url[:5] in ("file:", "data:", "blob:") else self.faults.append(r.url)
        )
        self.page.goto(page.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: object, *rest: object) -> None:
        self.context.close()
        if kind is None:
            assert not self.faults


def unfold(page: Any) -> None:
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")


def bottom(page: Any, what: str) -> float:
    return float(page.locator(what).first.evaluate("node => node.getBoundingClientRect().bottom"))


@pytest.mark.parametrize("size", list(SIZES))
def test_the_verdict_and_a_triangle_are_seen_before_anything_is_scrolled(browser: Any, page: Path, size: str) -> None:
    with Read(browser, page, size) as seen:
        height = SIZES[size]["height"]
        assert 0 < bottom(seen, "p.verdict") < height
        assert 0 < bottom(seen, ".card svg.triangle") < height
        words = seen.locator("body").inner_text().split("The numbers")[0].replace(HOSTILE, "")
        assert (
            50 < len(re.findall(r"[^\W\d_]+", words)) < 400
        )  # with eight rows, a warning and everything else that may stand there
        assert seen.evaluate("document.documentElement.scrollHeight") < 5 * 1000
        unfold(seen)
        assert seen.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]


@pytest.mark.parametrize("size", list(SIZES))
def test_no_word_of_a_drawing_is_cut(browser: Any, page: Path, size: str) -> None:
    cut = """[...document.querySelectorAll('svg[role=img]')].filter((each) => each.getClientRects().length)
      .flatMap((each) => [...each.querySelectorAll('text')].map((text) => {
        const [box, frame] = [text.getBoundingClientRect(), each.getBoundingClientRect()];
        const out = Math.max(frame.left - box.left, box.right - frame.right,
                             frame.top - box.top, box.bottom - frame.bottom);
        return out > 1 ? `${text.textContent} by ${out.toFixed(1)} in ${each.className.baseVal}` : "";
      })).filter(Boolean)"""
    with Read(browser, page, size) as seen:
        unfold(seen)
        assert seen.evaluate("document.querySelectorAll('svg[role=img] text').length") > 200
        assert seen.evaluate(cut) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_has_the_contrast_of_wcag_aa(browser: Any, page: Path, scheme: Any) -> None:
    """What is computed, and not what the style sheet seems to say: no white plot with light words on a dark page."""
    colours = """() => {
      const digits = (v) => Math.round(v).toString(16).padStart(2, '0');
      const hex = (c) => '#' + c.match(/[\\d.]+/g).slice(0, 3).map(digits).join('');
      const ground = (node) => {
        const c = getComputedStyle(node).backgroundColor;
        return /, 0\\)|transparent/.test(c) ? ground(node.parentElement) : hex(c);
      };
      const found = new Set();
      const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const node = walker.currentNode.parentElement, style = getComputedStyle(node);
        if (!walker.currentNode.textContent.trim() || !node.getClientRects().length) continue;
        const ink = node.closest('svg') ? style.fill : style.color;
        found.add(`${hex(ink)} ${ground(node)} ${node.outerHTML.slice(0, 60)}`);
      }
      return [...found];
    }"""
    with Read(browser, page, color_scheme=scheme) as seen:
        unfold(seen)
        pairs = [each.split(" ", 2) for each in seen.evaluate(colours)]
        assert len(pairs) > 20
        assert not [pair for pair in pairs if contrast(pair[0], pair[1]) < 4.5]
        paper = seen.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) < 150) == (scheme == "dark")


def corner(page: Any, what: str) -> int:
    """The grey level at the upper left of an image, as it is shown."""
    image = Image.open(io.BytesIO(page.locator(what).last.screenshot()))
    return int(image.convert("L").getpixel((8, 8)))  # type: ignore[arg-type]


def test_plots_on_white_paper_are_dark_on_a_dark_page(browser: Any, page: Path, tmp_path: Path) -> None:
    ring = example()
    ring["data"].update(levels=0, shape=[2])
    save_png(torch.full((3, 90, 120), 255, dtype=torch.uint8), tmp_path / "one" / "samples.png")
    plain = write(ring, tmp_path)
    for scheme, least, most in (("light", 250, 255), ("dark", 10, 60)):
        with Read(browser, page, color_scheme=scheme) as seen:
            unfold(seen)
            assert least <= corner(seen, "#family-0 .closest img") <= most  # of a question: its drawing as SVG
        with Read(browser, plain, color_scheme=scheme) as seen:
            assert least <= corner(seen, "#pictures img") <= most  # vectors: pixels


def titles(page: Any) -> list[str]:
    return [each.strip() for each in page.locator(".card:visible h3").all_inner_texts()]


def test_families_are_sorted_found_and_hidden_everywhere_at_once(browser: Any, page: Path) -> None:
    with Read(browser, page) as seen:
        names = titles(seen)
        assert names[0] == "The vae family" and len(names) == 8
        unfold(seen)
        seen.select_option("#sort", "images_per_second")
        assert titles(seen)[0] == "The autoencoder family"  # the fastest
        seen.locator('th[data-key="frechet"] button').first.click()
        assert titles(seen)[0] == "The vae family"  # the lowest
        seen.locator('th[data-key="frechet"] button').first.click()
        assert titles(seen)[0] == "The autoencoder family"
        assert seen.locator('th[data-key="frechet"]').first.get_attribute("aria-sort") == "descending"
        rows = seen.locator("table.comparison").first.locator("tbody tr").all_inner_texts()
        assert rows[0].startswith("The autoencoder") and rows[-1].startswith("Held-out real images")
        seen.select_option("#sort", "")
        assert titles(seen) == names
        seen.locator('.chooser input[value="1"]').uncheck()
        assert titles(seen) == [name for name in names if "gan" not in name]
        assert seen.locator('[data-row="1"]:visible').count() == 0
        assert seen.locator('svg.scatter [data-row="2"]:visible').count() > 0
        assert "The gan family" not in seen.locator('pre[data-file="table.md"]').inner_text()
        seen.fill("#find", "pixel")
        assert titles(seen) == ["The pixelcnn family", "The pixelrnn family"]


def test_a_word_is_explained_to_pointer_key_and_finger(browser: Any, page: Path) -> None:
    meaning = "mutually"
    with Read(browser, page) as seen:
        unfold(seen)
        link = seen.locator('table.comparison a[href="#means-mutual_fidelity"]').first
        link.hover()
        assert meaning in seen.locator("#tip").inner_text()
        seen.keyboard.press("Escape")
        assert not seen.locator("#tip").is_visible()
        link.focus()
        assert meaning in seen.locator("#tip").inner_text()
        assert link.get_attribute("aria-describedby") == "tip"
    with Read(browser, page, "phone", has_touch=True) as seen:
        unfold(seen)
        link = seen.locator('table.comparison a[href="#means-mutual_fidelity"]').first
        link.tap()
        box = seen.locator("#tip").bounding_box()
        assert meaning in seen.locator("#tip").inner_text()
        assert box["x"] >= 0 and box["x"] + box["width"] <= SIZES["phone"]["width"]
        assert "#" not in seen.url  # told in place, and not somewhere else on the page
        seen.locator("h1").tap()
        assert not seen.locator("#tip").is_visible()


def test_a_link_opens_the_part_that_it_points_into(browser: Any, page: Path) -> None:
    with Read(browser, page) as seen:
        assert not seen.locator("#family-2").is_visible()
        seen.locator('.card[data-row="2"] a').click()
        seen.locator("#family-2").wait_for(state="visible")


def test_figures_are_saved_as_svg_that_needs_no_style_and_as_csv(browser: Any, page: Path) -> None:
    with Read(browser, page, color_scheme="dark") as seen:
        unfold(seen)
        figures = seen.locator("figure.plot")
        assert figures.count() == seen.locator("figure.plot button:text-is('SVG')").count() > 5
        for name in ("triangles", "speed-distance", "spectra", "scale-frechet", "vae-loss"):
            figure = seen.locator(f'figure.plot[data-name="{name}"]')
            with seen.expect_download() as saved:
                figure.locator("button:text-is('SVG')").click()
            assert saved.value.suggested_filename == f"{name}.svg"
            text = saved.value.path().read_text(encoding="utf-8")
            drawn = ElementTree.fromstring(text)
            assert "var(" not in text and "class=" not in text and "data-row" not in text
            words = [each for each in drawn.iter() if each.tag.endswith("}text")]
            assert len(words) > 3
            assert all("236" not in (each.get("fill") or "") for each in words)  # in the colours of paper
            with seen.expect_download() as saved:
                figure.locator("button:text-is('CSV')").click()
            rows = list(csv.reader(io.StringIO(saved.value.path().read_text(encoding="utf-8"))))
            assert len(rows) > 2 and len({len(row) for row in rows}) == 1
            if name == "triangles":
                assert [row[0] for row in rows[1:]] == [entry["title"] for entry in report()["families"]]
                assert len([each for each in drawn.iter() if each.tag.endswith("}svg")]) == 1 + 8


def test_the_table_is_copied(browser: Any, page: Path) -> None:
    with Read(browser, page, permissions=["clipboard-read", "clipboard-write"]) as seen:
        unfold(seen)
        seen.locator('.export:has(pre[data-file="table.tex"]) button:text-is("Copy")').click()
        seen.locator("button:text-is('Copied')").wait_for()
        assert seen.evaluate("navigator.clipboard.readText()").startswith("\\begin{tabular}")


def test_on_paper_everything_is_unfolded_and_no_control_is_printed(browser: Any, page: Path) -> None:
    with Read(browser, page) as seen:
        seen.emulate_media(media="print")
        assert not seen.evaluate("document.querySelector('details[open]')")
        hidden = """[...document.querySelectorAll('details:not(.chooser, #take) > :not(summary)')]
          .filter((each) => !each.checkVisibility() || each.getBoundingClientRect().height < 5)
          .map((each) => each.outerHTML.slice(0, 60))"""
        seen.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert seen.evaluate(hidden) == []
        assert seen.locator("button:visible").count() == 0
        seen.evaluate("dispatchEvent(new Event('afterprint'))")
        assert not seen.evaluate("document.querySelector('details[open]')")


def test_without_its_script_the_page_can_be_read(browser: Any, page: Path) -> None:
    with Read(browser, page, java_script_enabled=False) as seen:
        assert seen.locator(".card").count() == 8
        assert not seen.locator(".chooser").is_visible()
        seen.locator("#numbers > summary").click()
        assert seen.locator("table.comparison").first.is_visible()
