"""Rollover budget forcing (RBF, arXiv 2503.19385): a budget of forwards, spent where progress is hard.

The best of several first noises is moved on. At each step children are tried one by one, and the first whose promised x0 has a higher
reward than the state it comes from is taken; what is left of the step's quota rolls over to the next step. Where the quota ends before any
child is better, the best child is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tropism.errors import SteeringError
from tropism.steering.base import Method
from tropism.steering.best_of_n import at_least_one
from tropism.steering.search import Search, highest, put, ranked, rows_of
from tropism.steering.steered import Steered, everyone
from tropism.steering.task import Task, gather
from tropism.types import Tree


@dataclass
class Rollover(Method):
    """particles: first noises, of which the best by its promised x0 is moved on. forwards: the budget of a prompt, never exceeded; a child
    costs one. Prompts go side by side, each on its own quota. One sample of a prompt comes out."""

    particles: int = 4
    forwards: int = 64
    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __post_init__(self) -> None:
        at_least_one(self.particles)
        if not 1 <= self.forwards <= 10_000_000:
            raise ValueError(f"forwards: {self.forwards}; expected 1 to 10000000 for a prompt")

    @torch.no_grad()
    def run(self, task: Task) -> Steered:
        search, process, steps = Search(task), task.process, task.process.steps
        tries = self.forwards - task.particles
        if tries < steps - 1:
            raise SteeringError(
                f"forwards: {self.forwards} is less than {task.particles} first noises and one forward for each of the {steps - 1} steps "
                f"after; expected at least {task.particles + steps - 1}, and several times that for anything to be chosen from"
            )
        state = task.look(task.start(), 0)
        reward = search.read(task.rewards(state["x0"], state["row"], 0))
        best = highest(reward, 1)
        search.went(0, reward, best)
        rows = rows_of(best, task.particles)
        state, now, streams = gather(state, rows), ranked(reward).flatten()[rows], rows.tolist()
        left = torch.zeros(task.prompts, dtype=torch.long)
        for index in range(steps - 1):
            left += tries * (index + 1) // (steps - 1) - tries * index // (steps - 1)
            state, now = self._step(task, search, state, index, now, left, streams)
            search.went(index + 1, now[:, None])
        last = process.noise(task.draw.take(streams), state, steps - 1)
        state, _ = task.move_with(state, steps - 1, last)
        return search.ended(state, everyone)

    def _step(
        self, task: Task, search: Search, state: Tree, index: int, now: torch.Tensor, left: torch.Tensor, streams: list[int]
    ) -> tuple[Tree, torch.Tensor]:
        """The child that each prompt takes, and its reward [P]; what it cost is taken from ``left`` [P]."""
        taken, best = state, torch.full_like(now, -torch.inf)
        trying, first = torch.arange(task.prompts), True
        while len(trying):
            noise = task.process.noise(task.draw.take([streams[prompt] for prompt in trying.tolist()]), state, index)
            child, _ = task.move_with(gather(state, trying), index, noise)
            child = task.look(child, index + 1)
            reward = ranked(search.counted(task.rewards(child["x0"], child["row"], index + 1)))
            left[trying] -= 1
            better = torch.ones_like(reward, dtype=torch.bool) if first else reward > best[trying]
            taken = child if first else put(taken, trying[better], gather(child, better.nonzero()[:, 0]))
            best[trying] = torch.where(better, reward, best[trying])
            open_ = (best[trying] <= now[trying]) & (left[trying] > 0)
            trying, first = trying[open_ if task.process.noisy(index) else torch.zeros_like(open_)], False
        return taken, best
