"""Ctrl-C and SIGTERM end a training between two steps."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Stop:
    """Turns Ctrl-C and SIGTERM into a question the loop asks after each step, so that it stops between steps, saved.

    The handler only sets a flag: it may come at any instruction, also inside an import or a write.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        # Signals can be handled in the main thread only; elsewhere (a web studio) the caller stops the loop itself.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: object) -> None:
        self.asked = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
