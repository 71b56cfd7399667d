"""Stopping politely: the first Ctrl-C (or SIGTERM) lets the loop save and end, the second ends at once.

A process of several stops in the same way when the program that started it is gone: it must not go on unseen.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from tropism.scale.launch import LAUNCHER

SAID = b"\nstopping after this iteration, saving first; press again to quit at once\n"


class Stop:
    """A context in which signals set ``asked`` instead of raising. Outside the main thread it only watches.

    ``tell``: whether this process, of several, says that it has heard.
    """

    def __init__(self, tell: bool = True) -> None:
        self.tell, self.signalled = tell, False
        self._launcher = int(os.environ.get(LAUNCHER, "0"))
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        return self.signalled or self._launcher not in (0, os.getppid())

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signalled:
            raise KeyboardInterrupt
        self.signalled = True
        # Straight to standard error: a signal may come in the middle of a print, whose buffers and locks must not be entered again.
        if self.tell:
            os.write(2, SAID)
