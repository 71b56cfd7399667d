"""BFS (arXiv 2505.23614): particles have children by softmax of the reward at a temperature that changes over the steps.

Unlike ``fk``, a point forgets the points before it, so rewards are counted anew each time: greedier, and no draw from a tilted law. The
released code rounds the children's numbers and cuts them off, which favours the first; here SSP resampling gives as many as are expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from tropism.steering.base import Method
from tropism.steering.best_of_n import at_least_one
from tropism.steering.resampling import ssp
from tropism.steering.schedule import Schedule
from tropism.steering.search import Search, heights, rows_of
from tropism.steering.smc import useful
from tropism.steering.steered import SELECTORS, Steered, known
from tropism.steering.strength import Strength
from tropism.steering.task import Task, gather

QUARTERS = Schedule(0.25, 0.75, 0.25)


@dataclass
class Bfs(Method):
    """particles: K. lam: ``lambda`` in a recipe, what the reward is multiplied by at the end: a number or ``{ess: 0.2}``; before step i of
    S it is i / S of that. schedule: what differs from ``{start: 0.25, end: 0.75, every: 0.25}``."""

    particles: int = 4
    lam: Any = field(default_factory=lambda: {"ess": 0.2})
    schedule: Mapping[str, float] = field(default_factory=dict)
    select: str = "best"
    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __post_init__(self) -> None:
        at_least_one(self.particles)
        known("select", self.select, SELECTORS)
        if "ess" in self.schedule:
            raise ValueError("schedule: ess; particles have children at every point here, so expected start, end and every alone")
        self.strength, self.when = Strength.read(self.lam), Schedule.read(self.schedule, QUARTERS)

    @torch.no_grad()
    def run(self, task: Task) -> Steered:
        search, steps, points = Search(task), task.process.steps, useful(task, self.when)
        lam = torch.full((task.prompts,), torch.inf, dtype=torch.float64)
        state = task.start()
        for index in range(steps):
            state = task.look(state, index)
            if index in points:
                reward = search.read(task.rewards(state["x0"], state["row"], index))
                lam = self.strength.full(reward, lam)
                counting = torch.where(lam.isfinite(), lam, 0.0) * index / steps
                chance = task.chance.uniform((task.particles,)).double().cpu()
                children = ssp(torch.softmax(heights(counting[:, None] * reward), 1), chance)
                search.went(index, reward, children, counting)
                state = gather(state, rows_of(children, task.particles))
            state, _ = task.move(state, index)
        return search.ended(state, SELECTORS[self.select])
