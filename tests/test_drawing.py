"""Words in pictures."""

from __future__ import annotations

from trilemma import drawing


def test_signs_that_the_font_lacks_are_written_otherwise() -> None:
    """A minus sign is a hyphen in pixels, and not the box of a missing sign; the SVG keeps it."""

    def drawn(text: str) -> drawing.Sheet:
        sheet = drawing.Sheet(80, 20)
        sheet.text((0, 0), text)
        return sheet

    assert drawn("−0.5 ≤ σ").pixels().tobytes() == drawn("-0.5 <= sigma").pixels().tobytes()
    assert "−0.5 ≤ σ" in drawn("−0.5 ≤ σ").svg()
