"""InPO (DDIM-InPO, arXiv 2503.18454): Diffusion-DPO at states that the model itself would have come from.

Instead of random noise, winner and loser are taken back to level t by DDIM inversion, and the target is the noise that leads in one step
from there to the sample:

    x_t = inversion of x0,    tau = (x_t - alpha x0) / sigma,    loss of Diffusion-DPO with tau in the place of eps

So each pair teaches at the few states that matter for it, and far fewer steps are needed (the paper takes 400 where Diffusion-DPO takes
2000). For flows the inversion is Euler's, with the target tau - x0 = (x_t - x0) / t. Modes:

exact    t is drawn from the grid of the inversion, so x_t is at the level that the network is told
compat   as released: t is any level, x_t is at the last level of the grid below it and is taken to be at t, with a little noise (eta 0.1)

Details that matter. The released code inverts with the policy; its weights move, so the states do too. ``by: reference`` inverts with the
reference. Set the policy's guidance to 1, as the paper does: the inversion follows it, but for a policy that has ``unguided``, of which
inversion and errors are both without. The inversion costs up to ``steps`` forwards.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch

from tropism.diffusion.inversion import invert
from tropism.diffusion.noise import Draw, sample_seed
from tropism.diffusion.noising import Noised
from tropism.diffusion.schedules import like
from tropism.optimizers.base import PairBatch
from tropism.optimizers.preference import Preference
from tropism.policy import Policy
from tropism.types import Tree, tree_map


@dataclass
class Inpo(Preference):
    """mode: ``exact`` or ``compat``. steps: levels of the inversion's grid. by: whose weights invert, ``policy`` or ``reference``. eta: the
    stochastic term of the inversion, 0.1 as released. corrections: of each step of the inversion. The others: see Preference."""

    mode: str = "exact"
    steps: int = 10
    by: str = "policy"
    eta: float = 0.0
    corrections: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (("mode", self.mode, ("exact", "compat")), ("by", self.by, ("policy", "reference"))):
            if value not in known:
                raise ValueError(f"{name}: '{value}'; expected '{known[0]}' or '{known[1]}'")
        if self.steps < 1 or self.eta < 0 or self.corrections < 0:
            raise ValueError(f"steps: {self.steps}, eta: {self.eta}, corrections: {self.corrections}; expected 1, 0 and 0 or more")

    @torch.no_grad()
    def noising(self, policy: Policy, batch: PairBatch, cond: Tree) -> Noised:
        pairs, rows = batch.pairs, batch.sample
        seeds = pairs.cond.seed[rows.cpu()].tolist()
        device, numbers = rows.device, batch.number.tolist()
        draw = Draw([sample_seed(seed, batch.key * batch.of + n) for seed, n in zip(seeds, numbers, strict=True)], device)
        u = (batch.number + draw.uniform()) / batch.of
        places = torch.arange(self.steps, device=device)
        if self.mode == "exact":
            grid = policy.schedule.draw((places + 0.5) / self.steps).to(device)
            count = (u * self.steps).long() + 1
            level = grid[count - 1]
        else:
            starts = places / self.steps
            grid, level = policy.schedule.draw(starts).to(device), policy.schedule.draw(u).to(device)
            count = (starts[None] < u[:, None]).sum(1)
        clean = torch.cat([pairs.winner[rows], pairs.loser[rows]]).float()
        both = Draw([sample_seed(s, side) for side in (0, 1) for s in (sample_seed(k, batch.key) for k in seeds)], device)
        with self.as_reference() if self.by == "reference" else nullcontext():
            doubled = tree_map(lambda t: torch.cat([t, t]), cond)
            x = invert(policy, clean, doubled, grid, count.repeat(2), corrections=self.corrections, eta=self.eta, draw=both)
        level = level[torch.arange(len(rows), device=device).repeat(2)]
        tau = (x - like(level.alpha, x) * clean) / like(level.sigma, x)
        return Noised(level, x, clean, tau)
