"""What one run was asked, question by question: the picture, the answer in words and its numbers."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from trilemma.report.pictures import load


def answered(family: dict[str, Any], folder: Path) -> str:
    """A part of the page for each answer; nothing where nothing was asked."""
    return "".join(_answer(family, record, folder) for record in family.get("asked") or ())


def _answer(family: dict[str, Any], record: dict[str, Any], folder: Path) -> str:
    title, place = f"{family['title']}: {record['title']}", record.get("folder", "")
    pictures = [load(folder, f"{place}/{name}") for name in record["figures"].values()]
    figures = "".join(f"<figure>{picture.html(title)}</figure>" for picture in pictures if picture)
    words = " ".join(_sentence(line) for line in record.get("reading") or ())
    flag = f'<p class="flag">{_sentence(record["flag"])}</p>' if record.get("flag") else ""
    caption = escape(record.get("caption") or "")
    return (
        f"<h4>{escape(record['title'])}</h4><p class='caption'>{escape(record.get('sentence', ''))} {caption}</p>"
        f"<p>{words}</p>{flag}{''.join(_table(name, table) for name, table in (record.get('tables') or {}).items())}"
        + (f'<div class="closest">{figures}</div>' if figures else "")
    )


def _sentence(text: str) -> str:
    """Escaped, with a capital letter at the start and a full stop at the end."""
    text = text.strip()
    return escape(text[:1].upper() + text[1:] + ("" if text[-1:] in ".!?" else "."))


def _table(name: str, table: dict[str, Any]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in table["heads"])
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table["rows"])
    caption = f"<caption>{escape(name)}</caption>" if name else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
