"""A report to render, and a reader of pages, for the tests of the report."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

from trilemma.report import schema


def metric(value: float | None, error: float | None = None, better: str = "higher", **other: Any) -> dict[str, Any]:
    empty = {"unit": "", "n": 2000, "kind": None, "note": "", "flag": None}
    return {"value": value, "error": error, "better": better, **empty, **other}


def family(name: str, distance: float, kind: str | None) -> dict[str, Any]:
    bits = metric(1.23, 0.01, "lower", kind=kind, note=f"how {name} is scored")
    if kind is None:
        bits = metric(None, None, "lower", kind="undefined", note=f"{name} defines no density")
    return {
        "name": name,
        "title": f"The {name} family",
        "paper": "Somebody 2016, arXiv:1606.05328, and https://example.org/paper.",
        "density": "implicit",
        "gives_up": "something",
        "answers": {
            "sample": "yes, in one pass",
            "p(x)": "bound: an ELBO",
            "complete": "approximate",
            "classify": "no",
        },
        "parameters": 812_345,
        "config": {"model.width": 32},
        "options": {"steps": 50},
        "training": {
            "seconds": 75.1,
            "steps": 1200,
            "images": 76_800,
            "images_per_second": 1023.0,
            "curves": {"loss": [[i * 64, 1 / (i + 1)] for i in range(200)]},
            "alarms": ["it went slowly"],
        },
        "metrics": {
            "frechet": metric(distance, 0.3, "lower"),
            "mutual_fidelity": metric(0.712, 0.01),
            "mutual_coverage": metric(0.5, 0.01),
            "precision": metric(0.612, 0.01),
            "coverage": metric(0.5, 0.01, note="k = 5, of all"),
            "nearest_training": metric(31.5, None, "none", unit="grey levels"),
            "train_closer": metric(0.5, 0.01, "none"),
            "images_per_second": metric(100 * distance, 2.0),
            "bits_per_dim": bits,
        },
        "pictures": {"samples": f"{name}/samples.png"},
    }


def example() -> dict[str, Any]:
    """A report of three families, in the form in which a comparison writes it."""
    floor = {
        "frechet": metric(3.1, 0.1, "lower"),
        "mutual_fidelity": metric(1.0, 0.01),
        "mutual_coverage": metric(1.0, 0.01),
        "precision": metric(0.86, 0.01),
        "coverage": metric(0.96, 0.01),
    }
    return {
        "format": 1,
        "title": "A comparison",
        "created": "2026-11-22T15:04:05+00:00",
        "version": "0.1.0",
        "command": "trilemma compare mnist",
        "data": {
            "name": "mnist",
            "shape": [1, 28, 20],
            "levels": 256,
            "class_names": [str(i) for i in range(10)],
            "conditional": True,
            "train": 60_000,
            "test": 10_000,
            "notes": ["unchanged"],
        },
        "protocol": {
            "budget": "75s",
            "size": "tiny",
            "seed": 0,
            "n": 2000,
            "features": "small-v2",
            "dims": 128,
            "split": "the original one",
            "device": "cpu",
            "threads": 2,
            "hardware": "a computer",
        },
        "floor": floor,
        "pictures": {"real": "real.png"},
        "families": [family("one", 12.0, "exact"), family("two", 20.0, "bound"), family("three", 30.0, None)],
    }


def rungs(metrics: dict[str, list[float]]) -> list[dict[str, Any]]:
    found = []
    for name, strengths in (("noise", (8.0, 64.0)), ("jpeg", (50.0, 97.0)), ("dropped classes", (0.1, 0.9))):
        for i, strength in enumerate(strengths):
            text = (
                f"{round(10 * strength)} of 10 classes missing" if name == "dropped classes" else f"{name} {strength}"
            )
            values = {key: {"value": each[i], "error": 0.1} for key, each in metrics.items()}
            found.append({"name": name, "strength": strength, "text": text, "metrics": values})
    return found


def difference(a: str, b: str, real: bool, metric_name: str = "frechet", note: str = "") -> dict[str, Any]:
    p = 0.001 if real else 0.41
    return {
        "metric": metric_name, "a": a, "b": b, "difference": -8.0, "error": 5.0, "p": p, "real": real,
        "paired": False, "note": note,
    }  # fmt: skip


class Page(HTMLParser):
    """Checks that tags nest, and gathers the text, the elements and every address that a browser would fetch."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert [tag] == self.open[-1:], f"</{tag}> closes nothing"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def svg(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # raises where the markup is not well formed


def valid(report: dict[str, Any]) -> dict[str, Any]:
    """The same report, held to the published schema where there is a validator."""
    try:
        import jsonschema
    except ImportError:
        return report
    jsonschema.Draft202012Validator(schema()).validate(report)
    return report


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
