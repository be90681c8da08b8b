"""The page of a comparison is there with its first family, and grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import write_blobs

import trilemma
from trilemma.comparison import together
from trilemma.comparison.together import Row


def test_the_page_grows_with_each_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_blobs(tmp_path / "blobs.npz", height=16, width=16)
    pages: list[tuple[list[str], list[str], str]] = []
    whole, measured = together.write, []

    def seen(report: dict, folder: Path) -> Path:
        page = whole(report, folder)
        names = [family["name"] for family in report["families"]]
        pages.append((names, report["coming"], page.read_text("utf-8")))
        return page

    def counted(row: Row, *args: object) -> object:
        measured.append(row.name)
        return original(row, *args)  # type: ignore[arg-type]

    original = together.measure_all
    monkeypatch.setattr(together, "write", seen)
    monkeypatch.setattr(together, "measure_all", counted)
    options = dict(budget="4steps", protocol={"n": 32, "likelihood_n": 0}, settings={"batch": 16, "pictures": 0})
    trilemma.compare(str(data), families="vae,autoencoder,gan", out=tmp_path / "out", say=lambda line: None, **options)
    assert [(names, coming) for names, coming, _ in pages] == [
        (["vae"], ["autoencoder", "gan"]),
        (["vae", "autoencoder"], ["gan"]),
        (["vae", "autoencoder", "gan"], []),
    ]
    assert measured == ["vae", "autoencoder", "gan"]  # each once
    assert "Still learning: autoencoder and gan" in pages[0][2] and 'http-equiv="refresh"' in pages[0][2]
    assert "Still learning" not in pages[2][2] and 'http-equiv="refresh"' not in pages[2][2]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["coming"] == []
