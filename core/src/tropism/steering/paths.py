"""Search over paths (arXiv 2501.09732, section 3.2): samples on the way are noised again and taken further, and the best go on.

Any sampler will do, since noising again is what makes copies differ. With the ODE each copy is where it would have led from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch

from tropism.errors import SteeringError
from tropism.steering.base import Method
from tropism.steering.best_of_n import at_least_one
from tropism.steering.process import Process
from tropism.steering.search import Search, copies, highest, rows_of, several, walked
from tropism.steering.steered import SELECTORS, Steered, known
from tropism.steering.task import Task, gather
from tropism.types import Tree


class Rewindable(Process, Protocol):
    """A process that can noise its states again."""

    def renoise(self, state: Tree, index: int, to: int, noise: Tree) -> Tree:
        """States before step ``to``, an earlier one, from the law of noising those before step ``index``."""


@dataclass
class Paths(Method):
    """particles: paths. copies: of each path in a round. first, back, gain: parts of the steps that are gone before the first round, that a
    round goes back, and that it gains. A path has K copies of which the best K of all are kept; the last round ends with the samples.
    """

    particles: int = 2
    copies: int = 2
    first: float = 0.5
    back: float = 0.25
    gain: float = 0.25
    select: str = "best"

    def __post_init__(self) -> None:
        at_least_one(self.particles)
        known("select", self.select, SELECTORS)
        if not 1 <= self.copies <= 10_000:
            raise ValueError(f"copies: {self.copies}; expected 1 to 10000")
        for name in ("first", "back", "gain"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; expected a part of the steps, between 0 and 1")
        if self.back > self.first:
            raise ValueError(f"back: {self.back} is more than first: {self.first}; a round cannot go back further than the path has come")

    @torch.no_grad()
    def run(self, task: Task) -> Steered:
        search, steps = Search(task), task.process.steps
        if not hasattr(task.process, "renoise"):
            raise SteeringError("'paths' noises states again, which this process has no law for; take zero-order or svdd")
        process = cast(Rewindable, task.process)
        here = max(1, min(round(self.first * steps), steps - 1))
        back, gain = max(1, round(self.back * steps)), max(1, round(self.gain * steps))
        state = walked(task, task.start(), 0, here)
        while here < steps:
            to, there = max(here - back, 0), min(here + gain, steps)
            noise = several([process.noise(task.guess, state, to) for _ in range(self.copies)])
            state = process.renoise(copies(state, self.copies), here, to, noise)
            state = walked(task, state, to, there, self.copies)
            promised = state["x"] if there == steps else task.look(state, there)["x0"]
            reward = search.read(task.rewards(promised, state["row"], there))
            kept = highest(reward, task.particles)
            state, here = gather(state, rows_of(kept, reward.shape[1])), there
            search.root = search.root.repeat_interleave(self.copies, 1)
            search.went(there, reward, kept)
        return search.ended(state, SELECTORS[self.select])
