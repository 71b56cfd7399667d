"""The reward of a state on the way: what x0 it will lead to, and what that is worth.

The best potential is h(x) = log E[exp(lambda r(x0)) | x] / lambda. All of these are estimates of it; none changes the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tropism.steering.process import stops
from tropism.steering.task import Task
from tropism.steering.weights import log_mean
from tropism.types import Tree


class Intermediate(Protocol):
    """Rewards of states that were looked at."""

    def __call__(self, task: Task, state: Tree, index: int, lam: torch.Tensor) -> torch.Tensor:
        """[B] float64 on the CPU, NaN where there is none. lam: [B] float64, lambda as far as it is known; infinite where it is not."""


@dataclass(frozen=True)
class Predicted:
    """The reward of the predicted x0: no forward more, and right where x0 is nearly certain."""

    def __call__(self, task: Task, state: Tree, index: int, lam: torch.Tensor) -> torch.Tensor:
        return task.rewards(state["x0"], state["row"], index)


@dataclass(frozen=True)
class Several:
    """Log-mean-exp of lambda r over ``count`` plausible x0 of a state: no forward more, ``count`` rewards."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"intermediate: {self.count} samples; expected at least 1")

    def __call__(self, task: Task, state: Tree, index: int, lam: torch.Tensor) -> torch.Tensor:
        draws = [task.plausible(state, index) for _ in range(self.count)]
        rewards = torch.stack([task.rewards(x0, state["row"], index) for x0 in draws], 1)
        scaled = log_mean(lam[:, None] * rewards) / lam
        return torch.where((lam > 0) & lam.isfinite(), scaled, rewards.mean(1))


@dataclass(frozen=True)
class Learned:
    """A value function: ``value(state, index) -> [B]``, of a state that was looked at, in units of the reward."""

    value: Callable[[Tree, int], torch.Tensor]

    def __call__(self, task: Task, state: Tree, index: int, lam: torch.Tensor) -> torch.Tensor:
        return self.value(state, index).double().cpu()


@dataclass(frozen=True)
class LookAhead:
    """The reward of where ``steps`` deterministic steps lead, spread evenly over the levels that are left; ``steps`` - 1 forwards more."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"intermediate: lookahead {self.steps}; expected at least 1 step")

    def __call__(self, task: Task, state: Tree, index: int, lam: torch.Tensor) -> torch.Tensor:
        last = stops(index, self.steps, task.process.steps)[-2]  # from where the x0 that is scored was predicted
        return task.rewards(task.ahead(state, index, self.steps), state["row"], last)


def read(given: Any) -> Intermediate:
    """From a recipe: ``predicted``, ``{samples: 4}`` or ``{lookahead: 3}``."""
    if given == "predicted":
        return Predicted()
    if isinstance(given, Mapping) and len(given) == 1 and isinstance(next(iter(given.values())), int):
        ((kind, count),) = given.items()
        if kind == "samples":
            return Several(count)
        if kind == "lookahead":
            return LookAhead(count)
    if callable(given):
        return given  # type: ignore[no-any-return]
    raise ValueError(f"intermediate: {given!r}; expected predicted, {{samples: 4}} or {{lookahead: 3}}")
