"""Inversion: from a finished sample back to the noisier state that the deterministic sampler would have made it from.

One step of DDIM without noise (arXiv 2010.02502, section 4.3), which for a flow is one Euler step of its ODE run backward, goes from level
``now`` to the noisier level ``then``:

    eps = noise predicted from x, with the network told the level ``then``
    x  <- alpha' x0 + sigma' eps,    x0 = (x - sigma eps) / alpha

The exact inverse would predict from the new x. A correction (ReNoise, arXiv 2403.14602; SmPO, arXiv 2506.02698, takes one) predicts from
there, averages all predictions so far and steps again. As x0 and eps are linear in each other, all parametrizations do the same.

The predictions are those whose errors are learned from (:func:`tropism.policy.fitted`): without guidance, of a policy that tells it apart.
"""

from __future__ import annotations

import torch

from tropism.diffusion.noise import Draw
from tropism.diffusion.samplers import DDIM
from tropism.diffusion.schedules import like, split
from tropism.policy import Policy, fitted
from tropism.types import Level, Tree, tree_map


@torch.no_grad()
def invert(
    policy: Policy,
    x0: torch.Tensor,
    cond: Tree,
    grid: Level,
    count: torch.Tensor,
    *,
    corrections: int = 0,
    eta: float = 0.0,
    draw: Draw | None = None,
) -> torch.Tensor:
    """The state [M, ...] of finished samples ``x0`` [M, ...] at level ``grid[count - 1]``, or x0 itself where ``count`` [M] is 0.

    grid: [n] levels, least noise first. Each row takes its own number of steps; those that are done take part in no forward. eta: after
    each step, eta times the noise of the DDPM step that would lead here from the next level of the grid (InPO's stochastic term), from
    ``draw``, which has a stream for each row; none at the last level of the grid.
    """
    x = x0.float()
    clean = torch.zeros_like(grid.t[0])
    now = Level(clean, clean + 1, clean)
    for index in range(len(grid)):
        then = grid[index]
        noise = draw(x.shape[1:]) if draw is not None and eta else None  # for all rows, so that no row's noise depends on the others
        rows = (count > index).nonzero().flatten()
        if len(rows) and then.sigma > now.sigma:
            part = _step(policy, x[rows], now, then, tree_map(lambda t, rows=rows: t[rows], cond), corrections)  # type: ignore[misc]
            if noise is not None and index + 1 < len(grid):
                part = part + eta * DDIM(1.0).deviation(grid[index + 1], then) * noise[rows]
            x = x.index_copy(0, rows, part)
        now = then
    return x


def _step(policy: Policy, x: torch.Tensor, now: Level, then: Level, cond: Tree, corrections: int) -> torch.Tensor:
    kind = policy.schedule.parametrization
    here, there = now.expand(len(x)), then.expand(len(x))
    # From x0 and a clean sample no noise can be told; there x counts as if it were at the next level.
    total = split(fitted(policy, x, there, cond), x, there if kind == "sample" else here, kind)[1]
    found = _moved(x, total, here, there)
    for number in range(1, corrections + 1):
        total = total + split(fitted(policy, found, there, cond), found, there, kind)[1]
        found = _moved(x, total / (number + 1), here, there)
    return found


def _moved(x: torch.Tensor, noise: torch.Tensor, now: Level, then: Level) -> torch.Tensor:
    x0 = (x - like(now.sigma, x) * noise) / like(now.alpha, x)
    return like(then.alpha, x) * x0 + like(then.sigma, x) * noise
