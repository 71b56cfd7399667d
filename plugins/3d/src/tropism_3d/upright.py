"""Test-time optimisation: the latents of finished samples moved up the energy barrier, with no weight changed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tropism.policy import Policy
from tropism_3d.rewards.barrier import Barrier


def upright(
    policy: Policy,
    x0: torch.Tensor,
    reward: Callable[[torch.Tensor], torch.Tensor] | None = None,
    *,
    steps: int = 40,
    lr: float = 0.03,
    tie: float = 1.0,
) -> torch.Tensor:
    """Latents [B, ...] that decode to what has more of ``reward``, and is nearly what it was: Adam on mean (o - o_0)^2 tie - reward.

    policy: one whose ``decode`` has a gradient. reward: of occupancy [B, N, N, N], differentiable, [B]; ``3d/barrier`` by default. lr: of
    Adam, in units of the latents. Each sample is moved as it would be alone; one without a surface stays where it is.
    """
    worth = reward or Barrier()
    with torch.no_grad():
        before = policy.decode(x0)["occupancy"]
    moving = x0.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moving], lr=lr)
    for _ in range(steps):
        with torch.enable_grad():
            now = policy.decode(moving)["occupancy"]
            loss = (tie * (now - before).square().flatten(1).mean(1) - worth(now)).sum()
            (moving.grad,) = torch.autograd.grad(loss, moving)
        optimizer.step()
    return moving.detach()
