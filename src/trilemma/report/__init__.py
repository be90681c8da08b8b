"""From a finished comparison to something to read: one HTML page that needs nothing else, a terminal table, values."""

from trilemma.report.page import render, write
from trilemma.report.scores import check, schema
from trilemma.report.tables import table
from trilemma.report.values import Mark, Overview, OverviewRow, overview

__all__ = ["Mark", "Overview", "OverviewRow", "check", "overview", "render", "schema", "table", "write"]
