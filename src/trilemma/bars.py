"""Progress on standard error: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import ClassVar, Literal, TypeVar

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

F = TypeVar("F", bound=Callable[..., None])

QUIET_SECONDS = 15.0
"""Where there is no terminal, seconds between two lines."""


class Bars:
    """Progress bars by ``(who, what)``; ``tell`` makes a bar when it first hears of it."""

    shown: ClassVar[int] = 0
    """How many are on the screen, which has room for one."""

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
        Bars.shown += 1
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Bars.shown -= 1
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._progress.stop()


@contextlib.contextmanager
def told(progress: F | Literal["bar"] | None, make: Callable[[Bars], F]) -> Iterator[F | None]:
    """Whom a function tells of its progress: who was given, a bar (in a notebook by default), or nobody.

    Args:
        progress: a function, ``"bar"``, or None.
        make: from bars to a function that moves them.

    Raises:
        ValueError: it is none of these.
    """
    if progress == "bar" or (progress is None and not Bars.shown and _in_notebook()):
        with Bars() as bars:
            yield make(bars)
    elif progress is None or callable(progress):
        yield progress
    else:
        raise ValueError(f'progress must be "bar" or a function, not {progress!r}')


def _in_notebook() -> bool:
    """Whether this is a notebook that can show bars."""
    shell = sys.modules.get("IPython")
    kernel = type(shell.get_ipython()).__name__ == "ZMQInteractiveShell" if shell else False
    return kernel and importlib.util.find_spec("ipywidgets") is not None


def _spoken(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.4 h``."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
