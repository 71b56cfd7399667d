"""Ascent: finished samples moved up a differentiable reward, each by itself, and held to what they were.

    maximise R(decode(x)) - tie |decode(x) - decode(x0)|^2 / D    from x = x0, by Adam

No step of the sampler is taken again, so any sampler will do and nothing is asked of the denoiser: a step costs a decoding and a
reward, forwards and backwards. Of all that Adam passes the best is kept, so no sample ends lower than it began. What comes out has left
the model's law, by as little as ``tie`` says; where a reward can be cheated this is the shortest way to do it, so look at a reward that was
not climbed. It suits rewards that say what is wrong with a sample and then fall silent, such as ``3d/barrier``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tropism.diffusion.schedules import like
from tropism.steering.base import Method
from tropism.steering.best_of_n import at_least_one
from tropism.steering.search import Search, walked
from tropism.steering.steered import SELECTORS, Steered, known
from tropism.steering.task import Task


@dataclass
class Ascent(Method):
    """particles: samples of a prompt. steps, lr: of Adam, in units of x0, whose deviation is about 1. tie: units of reward for a mean
    square distance of 1 in decoded media."""

    particles: int = 1
    steps: int = 40
    lr: float = 0.03
    tie: float = 1.0
    select: str = "best"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def __post_init__(self) -> None:
        at_least_one(self.particles)
        if not isinstance(self.steps, int) or not 0 <= self.steps <= 100_000:
            raise ValueError(f"steps: {self.steps!r}; expected 0 (the samples as they are) to 100000")
        for name, value in (("lr", self.lr), ("tie", self.tie)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: {value}; expected 0 or more")
        known("select", self.select, SELECTORS)

    def run(self, task: Task) -> Steered:
        search = Search(task)
        with torch.no_grad():
            state = walked(task, task.start(), 0, task.process.steps)
        state = {**state, "x": task.in_parts(state, lambda part: self._climbed(task, part["x"], part["row"]))}
        return search.ended(state, SELECTORS[self.select])

    def _climbed(self, task: Task, x0: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Samples [B, ...] where they are highest; a row whose reward or gradient is no number stays where it was last a number."""
        moving = x0.detach().clone().requires_grad_(True)
        adam = torch.optim.Adam([moving], lr=self.lr)
        best, height = x0.detach().clone(), torch.full((len(x0),), -torch.inf, device=x0.device)
        begun: torch.Tensor | None = None
        for step in range(self.steps + 1):
            with torch.enable_grad():
                reward, seen = task.scorer.shown(moving, rows)
                begun = seen.detach().clone() if begun is None else begun
                objective = reward - self.tie * (seen - begun).float().square().flatten(1).mean(1)
            higher = objective.detach().isfinite() & (objective.detach() > height)
            height = torch.where(higher, objective.detach(), height)
            best = torch.where(like(higher, best), moving.detach(), best)
            if step == self.steps:
                break
            (gradient,) = torch.autograd.grad(objective.sum(), moving)
            told = objective.detach().isfinite() & gradient.flatten(1).isfinite().all(1)
            moving.grad = torch.where(like(told, gradient), -gradient, 0.0)
            adam.step()
        return best
