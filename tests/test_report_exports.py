"""What can be taken along from a report: tables as text, what to cite, and the published form of its record."""

from __future__ import annotations

import copy
import csv
import io
import re
from typing import Any

import pytest
from report_example import example, metric, valid

from trilemma.report import schema
from trilemma.report.exports import as_bibtex, as_csv, as_latex, as_markdown, csv_text, latex_escape
from trilemma.report.scores import FORMAT


@pytest.fixture
def report() -> dict[str, Any]:
    found = example()
    found["families"][0]["title"] = "50 % of_a | {B&W}"
    found["families"][1]["title"] = "=HYPERLINK(1)"
    found["families"][0]["metrics"]["precision"]["flag"] = "few"
    return found


def joined(lines: list[tuple[int | None, str]]) -> str:
    return "".join(text for _, text in lines)


def test_the_csv_holds_every_value_unrounded(report: dict[str, Any]) -> None:
    report["families"][0]["metrics"]["frechet"] = metric(12.345678901234567, 0.3, "lower")
    rows = list(csv.DictReader(io.StringIO(joined(as_csv(report)))))
    assert [row["name"] for row in rows] == [
        "50 % of_a | {B&W}", "'=HYPERLINK(1)", "The three family", "Held-out real images",
    ]  # fmt: skip
    assert float(rows[0]["frechet"]) == 12.345678901234567 and float(rows[0]["frechet_error"]) == 0.3
    assert rows[2]["bits_per_dim"] == ""  # not defined
    assert rows[3]["frechet"] == "3.1" and rows[3]["bits_per_dim"] == ""
    assert list(csv.reader(io.StringIO(csv_text(["a"], [['x,"y"\nz']])))) == [["a"], ['x,"y"\nz']]


def test_markdown_and_latex_round_bold_and_escape_alike(report: dict[str, Any]) -> None:
    lines = joined(as_markdown(report)).splitlines()
    width = lines[1].count("|")
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines[:6]] == [width] * 6
    assert lines[0].startswith("| | Fréchet ↓ | Fidelity ↑ |")
    assert lines[2].startswith("| 50 % of\\_a \\| \\{B&W\\} | **12.0 ± 0.3** |")
    assert "| ≤ 1.23" in lines[3] and "| – |" in lines[4] and "†" in lines[2]
    tex = joined(as_latex(report))
    assert "50 \\% of\\_a | \\{B\\&W\\} & $\\mathbf{12.0} \\pm 0.3$ &" in tex
    assert "$\\leq 1.23" in tex and "^\\dagger" in tex and "Fréchet $\\downarrow$" in tex
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    columns = len(tex.split("{tabular}{")[1].split("}")[0])
    assert len(body) == 5
    assert all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in body)
    assert latex_escape("\\~^") == r"\textbackslash{}\textasciitilde{}\textasciicircum{}"


def test_bibtex_has_one_entry_for_each_paper(report: dict[str, Any]) -> None:
    report["families"][2].update(name="two again", family="two")
    text = joined(as_bibtex(report))
    assert re.findall(r"@(\w+)\{([^,]+),", text) == [("software", "trilemma"), ("misc", "one"), ("misc", "two")]
    assert text.count("eprint = {1606.05328}") == 2 and "year = {2026}" in text
    assert text.count("{") == text.count("}")


def test_the_schema_says_what_a_report_is(report: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["properties"]["format"]["const"] == FORMAT and schema()["$id"].endswith(f":{FORMAT}")
    valid(report)
    for spoil in (
        lambda r: r.update(format=2),
        lambda r: r.pop("families"),
        lambda r: r["families"][0]["metrics"].update(frechet={"value": "12"}),
        lambda r: r["families"][0]["metrics"]["frechet"].update(better="more"),
        lambda r: r["families"][0].pop("training"),
        lambda r: r["data"].update(levels=16),
    ):
        spoilt = copy.deepcopy(report)
        spoil(spoilt)
        with pytest.raises(jsonschema.ValidationError):
            valid(spoilt)
