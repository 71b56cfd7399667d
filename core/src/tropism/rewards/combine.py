"""Several rewards as one: a weighted sum, each normalised in its own way; the raw values are kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tropism.rewards.base import Reward, fields, score
from tropism.types import Rollout


@dataclass
class Running:
    """Mean and variance of all values seen, by Welford's method in float64 (Chan's update for batches)."""

    count: int = 0
    mean: float = 0.0
    square: float = 0.0  # sum of squared deviations

    def update(self, values: torch.Tensor) -> None:
        batch, total = values.double(), self.count + len(values)
        shift = batch.mean().item() - self.mean
        self.square += (batch - batch.mean()).square().sum().item() + shift**2 * self.count * len(values) / total
        self.mean += shift * len(values) / total
        self.count = total

    @property
    def std(self) -> float:
        return float((self.square / max(self.count, 1)) ** 0.5)


@dataclass
class Part:
    """One reward of a sum. normalise: ``none``; ``batch`` (z-score in the rollout); ``running`` (z-score over the run)."""

    name: str
    reward: Reward
    weight: float = 1.0
    normalise: str = "none"


class Combined:
    """Score a rollout by every part and combine. Fills ``rollout.scores`` (raw, [B] each) and ``rollout.reward`` ([B])."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self.running = {part.name: Running() for part in self.parts}

    def __call__(self, rollout: Rollout) -> Rollout:
        given, seeds = fields(rollout), rollout.cond.seed.tolist()
        # All are scored before any is normalised: a reward that fails must leave the running statistics as they were.
        rollout.scores.update({part.name: score(part.name, part.reward, given, seeds) for part in self.parts})
        total = torch.zeros(len(rollout))
        for part in self.parts:
            total += part.weight * self._normalised(part, rollout.scores[part.name])
        rollout.reward = total
        return rollout

    def _normalised(self, part: Part, raw: torch.Tensor) -> torch.Tensor:
        if part.normalise == "batch":
            exact = raw.double()  # in float32 the mean of equal scores is not quite their value, and dividing by their deviation makes it 1
            return ((exact - exact.mean()) / (exact.std(correction=0) + 1e-8)).float()
        if part.normalise == "running":
            running = self.running[part.name]
            running.update(raw)
            return (raw - running.mean) / (running.std + 1e-8)
        return raw

    def state_dict(self) -> dict[str, Any]:
        return {name: [r.count, r.mean, r.square] for name, r in self.running.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.running = {name: Running(*values) for name, values in state.items()}
