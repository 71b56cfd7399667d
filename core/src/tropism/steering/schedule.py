"""When rewards are looked at, and when particles are resampled.

Point i of S steps is before step i, after the forward that predicts x0 there; the finished sample is point S, and is always looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from tropism.errors import nearest
from tropism.steering.strength import is_number


@dataclass(frozen=True)
class Schedule:
    """start, end, every: fractions of the steps; the paper's 20-80-20 of 100 is 0.2, 0.8, 0.2, and ``every: 0`` is every step.
    ess: resample where the effective sample size is below this part of the particles: 0 is never, 0.5 of 4 is below 2.5, 1 is always (but
    not at equal weights).
    """

    start: float = 0.25
    end: float = 0.75
    every: float = 0.25
    ess: float = 0.5

    @staticmethod
    def read(given: Mapping[str, float], default: Schedule) -> Schedule:
        """From a recipe, ``{start: 0.1, every: 0}``; what is not given is as in ``default``."""
        known = [field.name for field in fields(Schedule)]
        if unknown := next((key for key in given if key not in known), None):
            raise ValueError(f"schedule: unknown key '{unknown}'{nearest(unknown, known)}; expected {', '.join(known)}")
        if odd := next((key for key, value in given.items() if not is_number(value)), None):
            raise ValueError(f"schedule: {odd} {given[odd]!r}; expected a fraction of the steps")
        return Schedule(**{name: given.get(name, getattr(default, name)) for name in known})

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"schedule: start {self.start}, end {self.end}; expected 0 <= start <= end <= 1, as fractions of the steps")
        if not 0 <= self.every <= 1:
            raise ValueError(f"schedule: every {self.every}; expected a fraction of the steps, or 0 for every step")
        if not 0 <= self.ess <= 1:
            raise ValueError(f"schedule: ess {self.ess}; expected 0 (never resample) to 1 (always)")

    def points(self, steps: int) -> list[int]:
        """The points on the way, increasing, of 0 to steps - 1."""
        first, last = round(self.start * steps), min(round(self.end * steps), steps - 1)
        if self.every == 0:
            return list(range(first, last + 1))
        count = int((self.end - self.start) / self.every + 1e-9) + 1
        return sorted({point for number in range(count) if (point := round((self.start + number * self.every) * steps)) <= last})


EVERY_STEP = Schedule(0.0, 1.0, 0.0)
