"""Progress on standard error: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trilemma.text import printable

QUIET_SECONDS = 15.0
"""Where there is no terminal, seconds between two lines."""


class Bars:
    """Progress bars by ``(who, what)``; ``tell`` makes a bar when it first hears of it."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._lines: dict[tuple[str, str], float] = {}
        self._starts: dict[tuple[str, str], tuple[float, float]] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def tell(self, who: str, what: str, done: float, total: float, detail: str = "") -> None:
        """Move the bar of ``(who, what)`` to ``done`` of ``total``."""
        key = (who, what)
        if not self._console.is_terminal:
            self._line(key, done / total if total else 1.0, detail)
            return
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(f"{who:<12}{what}" if who else what, total=total, detail="")
        self._progress.update(self._bars[key], completed=done, total=total, detail=detail)

    def _line(self, key: tuple[str, str], share: float, detail: str) -> None:
        now = time.monotonic()
        if share < 1 and self._lines.get(key) == float("inf"):  # one of the same name begins: held-out after training
            del self._lines[key], self._starts[key]
        began, first = self._starts.setdefault(key, (now, share))
        if share < 1 and now - self._lines.get(key, -QUIET_SECONDS) < QUIET_SECONDS:
            return
        if share >= 1 and self._lines.get(key) == float("inf"):
            return
        self._lines[key] = float("inf") if share >= 1 else now
        if first < share < 1:
            detail = f"{_spoken((now - began) * (1 - share) / (share - first))} left{' · ' if detail else ''}{detail}"
        self._console.print(
            " ".join(part for part in (*key, f"{share:.0%}", detail) if part), highlight=False, markup=False
        )

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(printable(line), highlight=False, markup=False)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._progress.stop()


def _spoken(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.4 h``."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
