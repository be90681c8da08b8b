"""Ctrl-C, SIGTERM and a closed terminal: one line, the command that continues, and an exit code that says so."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PATIENCE = 1.0
"""Seconds in which further signals are taken for the first one again: what cleans up after it is let finish."""


class Interrupted(KeyboardInterrupt):
    """A signal, ``number``, stopped a verb that has saved what it did."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupts:
    """Turns the signals that end a program into `Interrupted`, once and not ten times.

    Args:
        last: whether the program ends with this.
    """

    def __init__(self, last: bool) -> None:
        self._last = last
        self._ignoring = False
        self._when = -PATIENCE
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._when > PATIENCE:
            self._when = time.monotonic()
            raise Interrupted(number)

    def ignore(self) -> None:
        """From now on nothing interrupts: the program is about to end."""
        self._ignoring = True
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            if not self._last:
                signal.signal(number, handler)
            elif not self._ignoring:  # Python's own handler prints a traceback while the interpreter closes down
                signal.signal(number, signal.SIG_DFL)


def again(arguments: Sequence[str]) -> str:
    """The command line that continues what was stopped, as one would type it."""
    words = list(arguments)
    if words[:1] == ["train"] and "--resume" not in words:
        words.append("--resume")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        count = os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
        program = ["torchrun", "--nproc-per-node", count, "-m", "trilemma"]
    elif os.path.basename(sys.argv[0]) == "__main__.py":
        program = [sys.executable, "-m", "trilemma"]
    else:
        program = ["trilemma"]
    return shlex.join([*program, *words])
