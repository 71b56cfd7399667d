"""SVDD (arXiv 2408.08252): each chain tries several moves at a step and takes one by the reward of the x0 that it promises.

Chains never take each other's places, so each first noise keeps its own sample: the way to go where samples must stay different.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from tropism.steering import intermediate
from tropism.steering.base import Method
from tropism.steering.best_of_n import at_least_one
from tropism.steering.resampling import multinomial
from tropism.steering.schedule import EVERY_STEP, Schedule
from tropism.steering.search import Search, copies, heights, ranked, several
from tropism.steering.steered import SELECTORS, Steered, known
from tropism.steering.task import Task, gather
from tropism.types import Tree


@dataclass
class Svdd(Method):
    """particles: B chains of a prompt. candidates: M moves of each; one is taken with chance softmax(r / alpha) (the paper), or the best
    where alpha is 0 (its released code). intermediate: ``predicted`` or ``{lookahead: 3}``. schedule: where candidates are tried, at every
    step unless told otherwise; a step without noise has one. B (1 + M (S - 1)) forwards of S steps that all have noise before the last.
    """

    particles: int = 1
    candidates: int = 4
    alpha: float = 0.0
    intermediate: Any = "predicted"
    schedule: Mapping[str, float] = field(default_factory=dict)
    select: str = "best"
    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __post_init__(self) -> None:
        at_least_one(self.particles)
        if not 1 <= self.candidates <= 10_000:
            raise ValueError(f"candidates: {self.candidates}; expected 1 (the policy itself) to 10000")
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha: {self.alpha}; expected 0 (the best candidate) or more, in units of the reward")
        if "ess" in self.schedule:
            raise ValueError("schedule: ess; chains are not resampled here, so expected start, end and every alone")
        known("select", self.select, SELECTORS)
        self.when, self.value = Schedule.read(self.schedule, EVERY_STEP), intermediate.read(self.intermediate)
        if isinstance(self.value, intermediate.Several):
            raise ValueError("intermediate: samples are drawn one for each chain, not for each candidate; expected predicted or lookahead")

    @torch.no_grad()
    def run(self, task: Task) -> Steered:
        search, process, steps = Search(task), task.process, task.process.steps
        points = {*self.when.points(steps), *([steps] if self.when.end == 1 else [])}
        state = task.look(task.start(), 0)
        for index in range(steps):
            tried = self.candidates if index + 1 in points and process.noisy(index) else 1
            # The first candidate is the chain's own: one candidate is the policy itself, bit for bit.
            draws = [process.noise(task.guess if number else task.draw, state, index) for number in range(tried)]
            state, _ = task.move_with(copies(state, tried), index, several(draws))
            if index + 1 < steps:
                state = task.look(state, index + 1)
            if tried > 1:
                reward = search.read(self._rewards(task, state, index + 1))
                taken = self._taken(task, reward.reshape(-1, tried))
                rows = taken + torch.arange(len(taken)) * tried
                search.went(index + 1, reward.flatten()[rows].reshape(task.prompts, -1))
                state = gather(state, rows)
        return search.ended(state, SELECTORS[self.select])

    def _rewards(self, task: Task, state: Tree, index: int) -> torch.Tensor:
        if index == task.process.steps:
            return task.rewards(state["x"], state["row"], index)
        lam = torch.full((len(state["x"]),), 1 / self.alpha if self.alpha else torch.inf, dtype=torch.float64)
        return self.value(task, state, index, lam)

    def _taken(self, task: Task, reward: torch.Tensor) -> torch.Tensor:
        """Which candidate [B] each chain takes; its own where none of [B, M] has a reward."""
        u = task.guess.uniform((1,)).double().cpu()  # drawn for the best too: a small alpha is then the same run
        if self.alpha == 0:
            return ranked(reward).argmax(1)
        return multinomial(torch.softmax(heights(reward) / self.alpha, 1), u)[:, 0]
