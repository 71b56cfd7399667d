"""How long a run has worked, and in which of its phases; goes on over a resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PHASES = (  # of every run; an offline run has "draw" besides
    "rollout",
    "score",
    "update",
    "evaluate",
    "save",
)


class Clock:
    """Seconds in all and by phase. ``synchronize`` waits for the device, or a phase would be charged with the work of the one before."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize
        self.phases = dict.fromkeys(PHASES, 0.0)
        self._before, self._begin = 0.0, time.monotonic()

    def elapsed(self) -> float:
        """Seconds of work, those before a resume included."""
        return self._before + time.monotonic() - self._begin

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the block to a phase. The device is waited for at its end only, and not where it raises."""
        begin = time.monotonic()
        yield
        self.synchronize()
        self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - begin

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.elapsed(), "phases": self.phases}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before, self.phases, self._begin = state["seconds"], state["phases"], time.monotonic()
