"""Rewards of finished and predicted samples during steering: one number a row, NaN where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from tropism.policy import Policy
from tropism.rewards.base import answer, fields
from tropism.rewards.combine import Combined
from tropism.types import Condition, Level, Rollout, Steps


@dataclass
class Judged:
    """Rewards [B] float64 on the CPU, NaN where there is none; the raw scores [B] of each part, and the decoded media, on the CPU."""

    reward: torch.Tensor
    scores: dict[str, torch.Tensor]
    media: dict[str, torch.Tensor]


class Scorer(Protocol):
    """What x0 [B, ...] of rows [B] of the conditions is worth. index: the point whose states it was predicted from; the number of steps if
    it is finished."""

    calls: int  # samples that were asked about so far

    def __call__(self, x0: torch.Tensor, rows: torch.Tensor, index: int) -> torch.Tensor:
        """Rewards [B] float64 on the CPU, without gradient."""

    def finished(self, x0: torch.Tensor, rows: torch.Tensor) -> Judged:
        """The rewards of finished samples, with all that is known of them."""

    def value(self, x0: torch.Tensor, rows: torch.Tensor, index: int) -> torch.Tensor:
        """Rewards [B] with gradient to x0, on its device."""

    def shown(self, x0: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of finished samples, and what is scored of them, [B, ...]: their media of the first kind, with gradient."""


class Rewards:
    """The rewards of a recipe on what a policy decodes: the weighted sum of raw scores. ``normalise`` is left aside: what a reward adds
    to a log-weight must not depend on the other samples; lambda by effective sample size does what it is for. levels: [S+1], of the points;
    a reward that asks for ``t`` is told that of the states that x0 was predicted from."""

    def __init__(self, policy: Policy, rewards: Combined, cond: Condition, levels: Level) -> None:
        self.policy, self.rewards, self.cond, self.levels, self.calls = policy, rewards, cond, levels, 0

    def __call__(self, x0: torch.Tensor, rows: torch.Tensor, index: int) -> torch.Tensor:
        return self._judged(x0, rows, index)[0]

    def finished(self, x0: torch.Tensor, rows: torch.Tensor) -> Judged:
        reward, scores, media = self._judged(x0, rows, len(self.levels) - 1)
        return Judged(reward, scores, {kind: made.cpu() for kind, made in media.items()})

    @torch.no_grad()
    def _judged(
        self, x0: torch.Tensor, rows: torch.Tensor, index: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        made = self._made(x0, rows, index)
        given = fields(made)
        self.calls += len(made)
        scores = {part.name: answer(part.name, part.reward, given, len(made)) for part in self.rewards.parts}
        total = torch.stack([part.weight * scores[part.name].double() for part in self.rewards.parts]).sum(0)
        return total, scores, made.media

    def value(self, x0: torch.Tensor, rows: torch.Tensor, index: int) -> torch.Tensor:
        self.calls += len(x0)
        return self.rewards.value(self._made(x0, rows, index))

    def shown(self, x0: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += len(x0)
        made = self._made(x0, rows, len(self.levels) - 1)
        return self.rewards.value(made), next(iter(made.media.values()))

    def _made(self, x0: torch.Tensor, rows: torch.Tensor, index: int) -> Rollout:
        steps = no_steps(x0)
        if index < len(self.levels) - 1:
            steps = replace(steps, levels=self.levels, at=torch.full((len(x0),), index - 1, device=self.levels.t.device))
        return Rollout(cond=self._condition(rows), x0=x0, steps=steps, media=self.policy.decode(x0))

    def _condition(self, rows: torch.Tensor) -> Condition:
        """What rewards may ask for of the conditions: what the network is told is not copied for them."""
        return replace(self.cond, encoded={}).take(rows)


def no_steps(x0: torch.Tensor) -> Steps:
    """The trajectory of samples whose steps were not kept."""
    none = torch.zeros(1, device=x0.device)
    return Steps(x=x0[:, None][:, :0], levels=Level(none, none, none), logp=x0.new_zeros(len(x0), 0), on=torch.zeros(0, dtype=torch.bool))


class Plain:
    """A function of x0 alone, for processes that have nothing to decode; differentiable if it is."""

    def __init__(self, reward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.reward, self.calls = reward, 0

    def __call__(self, x0: torch.Tensor, rows: torch.Tensor, index: int) -> torch.Tensor:
        self.calls += len(x0)
        with torch.no_grad():
            return self.reward(x0).double().cpu()

    def finished(self, x0: torch.Tensor, rows: torch.Tensor) -> Judged:
        return Judged(self(x0, rows, 0), {}, {})  # it is the same at every point

    def value(self, x0: torch.Tensor, rows: torch.Tensor, index: int) -> torch.Tensor:
        self.calls += len(x0)
        return self.reward(x0)

    def shown(self, x0: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.value(x0, rows, 0), x0
