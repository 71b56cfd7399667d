"""Several rewards as one: a weighted sum, each normalised in its own way; the raw values are kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tropism.errors import RewardError
from tropism.rewards.base import Reward, fields, needs, score
from tropism.siblings import z_score
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
    """One reward of a sum.

    normalise: ``none``; ``batch``, z-score in the rollout; ``running``, z-score over the run; ``group``, z-score among the siblings of a
    prompt, which with ``batch`` credit is GDPO (arXiv 2601.05242): rewards of different spread count by their weights, none hides another.
    """

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
        return self.combine(rollout)

    def combine(self, rollout: Rollout) -> Rollout:
        """Fill ``rollout.reward`` from raw scores that are there already; the only place where running statistics change."""
        total = torch.zeros(len(rollout))
        for part in self.parts:
            total += part.weight * self._normalised(part, rollout.scores[part.name], rollout.cond.group)
        rollout.reward = total
        return rollout

    def value(self, rollout: Rollout) -> torch.Tensor:
        """The weighted sum [B] with gradient to the rollout's media, raw: for rewards that are followed downhill and not compared."""
        given, total = fields(rollout), torch.zeros(len(rollout), device=rollout.x0.device)
        for part in self.parts:
            scores = part.reward(**{key: given[key] for key in needs(part.reward)})
            if scores.shape != total.shape or not scores.requires_grad:
                raise RewardError(
                    f"reward '{part.name}' gave shape {list(scores.shape)}, {'with' if scores.requires_grad else 'without'} gradient; "
                    f"expected {list(total.shape)} with gradient to the samples"
                )
            total = total + part.weight * scores.float()
        return total

    def _normalised(self, part: Part, raw: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        if part.normalise == "group":
            return z_score(raw, group)
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
