"""Raw scores in slices: a reward model sees no more samples at once than the rollout, and only their pictures are on the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tropism.rewards.base import Reward, fields, score
from tropism.types import Rollout


def raw_scores(rewards: Mapping[str, Reward], samples: Rollout, batch: int, device: torch.device) -> dict[str, torch.Tensor]:
    """What every reward says of ``samples``: [B] float32 on the CPU by name. ``batch`` samples are asked about at a time, on ``device``.

    Raises RewardError, see :func:`tropism.rewards.base.score`.
    """
    given, seeds = fields(samples), samples.cond.seed.tolist()
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in rewards}
    for begin in range(0, len(samples), batch):
        cut = {key: value[begin : begin + batch] for key, value in given.items()}
        cut = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in cut.items()}
        for name, reward in rewards.items():
            parts[name].append(score(name, reward, cut, seeds[begin : begin + batch]))
    return {name: torch.cat(values) for name, values in parts.items()}
