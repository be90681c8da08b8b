"""From a finished comparison to something to read: one HTML page that needs nothing else, or a terminal table."""

from trilemma.report.page import render, write
from trilemma.report.scores import check
from trilemma.report.tables import table

__all__ = ["check", "render", "table", "write"]
