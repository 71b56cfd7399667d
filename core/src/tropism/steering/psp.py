"""PSP (arXiv 2607.21591): many first noises, of which the less promising are given up early.

It needs no noise in the steps, copies nothing, and who is kept becomes the sample that it would have become alone. Eight noises, four
after a quarter of the steps and two after a half, cost about what four whole samples cost: one look more at each cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tropism.errors import SteeringError
from tropism.steering.base import Method
from tropism.steering.best_of_n import at_least_one
from tropism.steering.search import Search, highest, rows_of
from tropism.steering.steered import SELECTORS, Steered, known
from tropism.steering.task import Task, gather


@dataclass
class Psp(Method):
    """particles: first noises. prune: (part of the steps, part of the particles kept there), in order. Any sampler will do."""

    particles: int = 8
    prune: Sequence[Sequence[float]] = ((0.25, 0.5), (0.5, 0.25))
    select: str = "best"

    def __post_init__(self) -> None:
        at_least_one(self.particles)
        known("select", self.select, SELECTORS)
        before = (0.0, 1.0)
        for pair in self.prune:
            if len(pair) != 2 or not before[0] < pair[0] < 1 or not 0 < pair[1] <= before[1]:
                raise ValueError(
                    f"prune: {list(pair)} after {list(before)}; expected pairs of a later part of the steps, below 1, and a part of the "
                    "particles kept there, not more than before"
                )
            before = (pair[0], pair[1])

    @torch.no_grad()
    def run(self, task: Task) -> Steered:
        search, process, draw = Search(task), task.process, task.draw
        cuts = {min(round(when * process.steps), process.steps - 1): math.ceil(part * task.particles) for when, part in self.prune}
        if len(cuts) < len(self.prune):
            raise SteeringError(f"prune: {[list(pair) for pair in self.prune]} has two cuts at one of {process.steps} steps; take fewer")
        state, rows = task.start(), torch.arange(task.prompts * task.particles)
        for index in range(process.steps):
            state = task.look(state, index)
            if index in cuts:
                reward = search.read(task.rewards(state["x0"], state["row"], index))
                kept = highest(reward, cuts[index])
                search.went(index, reward, kept)
                chosen = rows_of(kept, reward.shape[1])
                state, rows = gather(state, chosen), rows[chosen]
                draw = task.draw.take(rows.tolist())
            state, _ = task.move_with(state, index, process.noise(draw, state, index))
        return search.ended(state, SELECTORS[self.select])
