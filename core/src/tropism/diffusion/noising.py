"""The forward process: finished samples noised again, for methods that learn without a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tropism.diffusion.noise import Draw, sample_seed
from tropism.diffusion.schedules import like, split
from tropism.policy import Policy, fitted
from tropism.types import Level, Tree


@dataclass(frozen=True)
class Noised:
    """x = alpha x0 + sigma eps at levels [M]; x, x0 and noise are [M, ...] float32."""

    level: Level
    x: torch.Tensor
    x0: torch.Tensor
    noise: torch.Tensor

    def predicted(self, policy: Policy, cond: Tree) -> tuple[torch.Tensor, torch.Tensor]:
        """The policy's predictions of x0 and of the velocity eps - x0, whatever its network says; one forward."""
        x0, noise = split(fitted(policy, self.x, self.level, cond), self.x, self.level, policy.schedule.parametrization)
        return x0, noise - x0


@torch.no_grad()
def noised(policy: Policy, x0: torch.Tensor, seeds: Sequence[int], number: torch.Tensor, of: int, key: int) -> Noised:
    """Noise ``x0`` [M, ...], draw ``number`` [M] of ``of`` of samples with ``seeds``.

    The draws of a sample are spread over the levels: draw n has u uniform in [n / of, (n + 1) / of) and the level ``schedule.draw(u)``.
    They depend on the sample's seed, n and ``key`` alone, not on the batch they are made in.
    """
    draw = Draw([sample_seed(seed, key * of + n) for seed, n in zip(seeds, number.tolist(), strict=True)], x0.device)
    u = (number.to(x0.device) + draw.uniform()) / of
    level, noise, clean = policy.schedule.draw(u).to(x0.device), draw(x0.shape[1:]), x0.float()
    return Noised(level, like(level.alpha, clean) * clean + like(level.sigma, clean) * noise, clean, noise)
