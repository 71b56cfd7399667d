"""Stopping politely: the first Ctrl-C (or SIGTERM) lets the loop save and end, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SAID = b"\nstopping after this iteration, saving first; press again to quit at once\n"


class Stop:
    """A context in which signals set ``asked`` instead of raising. Outside the main thread it only watches."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        # Straight to standard error: a signal may come in the middle of a print, whose buffers and locks must not be entered again.
        os.write(2, SAID)
