"""Equally many batches in all processes, as sharded weights want it: they come together in every forward, and all have to be there."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from tropism.diffusion.samplers import Sampler
from tropism.optimizers.base import Batch, Optimizer, plan
from tropism.scale.processes import Processes
from tropism.types import Couples, Rollout


def evened(planned: Sequence[list[Batch]], fill: Callable[[type], Batch], processes: Processes) -> list[list[Batch]]:
    """Updates with equally many batches of each kind in all processes, in the same order of kinds.

    A process with fewer of them, as samples without advantage are left out, goes through some that count nothing, which ``fill`` makes.
    """
    kinds = {kind.__name__: kind for kind in typing.get_args(Batch)}
    found = []
    for group in planned:
        mine = [sum(isinstance(batch, kind) for batch in group) for kind in kinds.values()]
        most = [max(counts) for counts in zip(*processes.every(mine), strict=True)]
        even: list[Batch] = []
        for kind, own, all_have in zip(kinds.values(), mine, most, strict=True):
            even.extend(batch for batch in group if isinstance(batch, kind))
            even.extend(fill(kind) for _ in range(all_have - own))  # each its own: an update's last batch is known by identity
        found.append(even)
    return found


def filling(
    optimizer: Optimizer, rollout: Rollout, sampler: Sampler, key: int, reward: Callable[[Rollout], torch.Tensor]
) -> Callable[[type], Batch]:
    """Makes a batch of a kind whose share is 0, of the rollout's first samples, whatever was said of them."""

    def fill(kind: type) -> Batch:
        first, second = torch.zeros(1, dtype=torch.int64), torch.full((1,), min(1, len(rollout) - 1))
        advantage = (torch.arange(len(rollout), device=rollout.x0.device) == 0).float()
        told = replace(
            rollout, advantage=advantage, couples=Couples(winner=first, loser=second, weight=torch.ones(1), chance=torch.ones(1))
        )
        (group,) = plan(optimizer, told, sampler, 1, 2, key, reward)
        return replace(next(batch for batch in group if isinstance(batch, kind)), share=0.0)

    return fill
