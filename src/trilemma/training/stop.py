"""Ctrl-C, SIGTERM and a closed terminal end a training between two steps."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Stop:
    """Turns signals into a question the loop asks after each step, so that it stops between steps, saved.

    The handler only sets a flag: it may come at any instruction, also inside an import or a write.

    Attributes:
        number: the first signal that came, 0 if none has.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        return self.number != 0

    def __enter__(self) -> Stop:
        # Signals can be handled in the main thread only; elsewhere (a web studio) the caller stops the loop itself.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: object) -> None:
        self.number = self.number or number

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
