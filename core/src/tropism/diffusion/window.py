"""A window of steps: only they are trained, and only they need noise (MixGRPO, arXiv 2507.21802; Flow-GRPO-Fast).

Where the window lies follows from the iteration and the run's seed alone, so a resumed run has the windows of an unbroken one.
"""

from __future__ import annotations

import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Window(BaseModel):
    """``size`` steps among steps ``first`` to ``last`` (exclusive; all by default) of a rollout.

    place: ``fixed`` at ``first``; ``random``, another place every iteration; ``progressive``, a step further every ``every`` iterations
    and back to ``first`` from the end. elsewhere: the other steps follow the ``ode``, or have ``noise`` but are not trained.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int = Field(ge=1, le=1000)
    place: Literal["fixed", "random", "progressive"] = "fixed"
    first: int = Field(0, ge=0, le=999)
    last: int | None = Field(None, ge=1, le=1000)
    every: int = Field(1, ge=1)
    elsewhere: Literal["ode", "noise"] = "ode"

    def problem(self, steps: int) -> str | None:
        """Why this window does not fit ``steps`` steps, or None."""
        last = steps if self.last is None else self.last
        if last > steps:
            return f"last is {last}, but there are {steps} steps"
        if self.first + self.size > last:
            return f"{self.size} steps from step {self.first} do not fit before step {last}"
        return None

    def at(self, steps: int, iteration: int, seed: int) -> range:
        """The window's steps in an iteration of a run."""
        places = (steps if self.last is None else self.last) - self.size - self.first + 1
        if self.place == "random":
            begin = self.first + random.Random(f"window {seed} {iteration}").randrange(places)
        elif self.place == "progressive":
            begin = self.first + iteration // self.every % places
        else:
            begin = self.first
        return range(begin, begin + self.size)
