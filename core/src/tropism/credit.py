"""Credit: from the scores of a rollout to advantages [B]. One class a rule; a rule with a memory saves it in the checkpoint."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import torch

from tropism.siblings import centre, z_score
from tropism.types import Rollout


class Credit(Protocol):
    """A credit rule. ``min_group`` is the smallest number of siblings with which it makes sense."""

    min_group: int

    def __call__(self, rollout: Rollout) -> torch.Tensor: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Stateless:
    """The common part of rules that remember nothing."""

    min_group = 1

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return None


class Batch(Stateless):
    """(r - mean) / (std + 1e-8) over the whole rollout; DDPO without tracking (arXiv 2305.13301)."""

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        reward = _reward(rollout)
        return ((reward - reward.mean()) / (reward.std(correction=0) + 1e-8)).float()


class Group(Stateless):
    """(r - group mean) / (group std + 1e-4); with ``scale: batch`` the deviation of the whole rollout instead (Flow-GRPO).

    A group whose rewards are all equal gets advantage 0 exactly: it has nothing to teach.
    """

    min_group = 2

    def __init__(self, scale: str = "group") -> None:
        if scale not in ("group", "batch"):
            raise ValueError(f"scale: '{scale}'; expected 'group' or 'batch'")
        self.scale = scale

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        reward = _reward(rollout)
        if self.scale == "group":
            return z_score(reward, rollout.cond.group)
        return (centre(reward, rollout.cond.group)[0] / (reward.std(correction=0) + 1e-4)).float()


class PerPrompt:
    """DDPO's tracker: the mean and deviation of a prompt's last ``buffer`` rewards, this rollout's included.

    A prompt with fewer than ``min_count`` rewards is measured against the whole rollout, as in the released code.
    """

    min_group = 1

    def __init__(self, buffer: int = 32, min_count: int = 16) -> None:
        self.buffer, self.min_count = buffer, min_count
        self.seen: dict[str, deque[float]] = {}

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        reward = _reward(rollout)
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(rollout.cond.items):
            rows.setdefault(str(item.get("prompt", item)), []).append(row)
        advantage = (reward - reward.mean()) / (reward.std(correction=0) + 1e-6)
        for prompt, mine in rows.items():
            history = self.seen.setdefault(prompt, deque(maxlen=self.buffer))
            history.extend(reward[mine].tolist())
            if len(history) >= self.min_count:
                recent = torch.tensor(list(history), dtype=reward.dtype)
                advantage[mine] = (reward[mine] - recent.mean()) / (recent.std(correction=0) + 1e-6)
        return advantage.float()

    def state_dict(self) -> dict[str, Any]:
        return {prompt: list(history) for prompt, history in self.seen.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = {prompt: deque(history, maxlen=self.buffer) for prompt, history in state.items()}


def _reward(rollout: Rollout) -> torch.Tensor:
    """The combined reward in float64, in which the mean of equal float32 values is that value: they must have advantage 0 exactly."""
    if rollout.reward is None:
        raise ValueError("the rollout has not been scored")
    return rollout.reward.double()
