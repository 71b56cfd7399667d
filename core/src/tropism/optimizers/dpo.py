"""Diffusion-DPO (arXiv 2311.12908) and its form for flows, Flow-DPO (arXiv 2501.13918): preferences by denoising errors.

Winner and loser are noised to one level, and the better the policy denoises the winner than its reference does, and the worse the loser,
the smaller the loss:

    loss = -log sigmoid(-beta / 2 ((e_w - e_w,ref) - (e_l - e_l,ref)))          e: mean square of network output minus target

The papers' T omega(t) is in beta. Details that matter. One noise for both members (``shared``), as released, removes the part of the errors
that both have; pairs that share most of their content (restored from one clip or picture) want ``own`` noise, or the policy unlearns what
they share (DenseDPO, arXiv 2506.03517, appendix B; DSO too). Beta is constant over the levels, which Flow-DPO found better than the
derived one. Pairs with segment labels are compared where they are labelled alone: with labels 0 and 1 that is masked DPO.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tropism.diffusion.noise import Draw, sample_seed
from tropism.diffusion.noising import Noised, noised
from tropism.diffusion.schedules import like
from tropism.optimizers.base import PairBatch
from tropism.optimizers.denoising import together
from tropism.optimizers.preference import Preference
from tropism.policy import Policy
from tropism.types import Tree

LOSER = 1  # what tells the noise of a loser from that of its winner


@dataclass
class Dpo(Preference):
    """noise: ``shared`` by the two of a pair, or each its ``own``; the level is always shared. The others: see Preference."""

    noise: str = "shared"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise not in ("shared", "own"):
            raise ValueError(f"noise: '{self.noise}'; expected 'shared' or 'own'")

    @torch.no_grad()
    def noising(self, policy: Policy, batch: PairBatch, cond: Tree) -> Noised:
        pairs, rows = batch.pairs, batch.sample
        seeds = pairs.cond.seed[rows.cpu()].tolist()
        winner = noised(policy, pairs.winner[rows], seeds, batch.number, batch.of, batch.key)
        level, clean, noise = winner.level, pairs.loser[rows].float(), winner.noise
        if self.noise == "own":
            numbers = batch.number.tolist()
            own = [sample_seed(sample_seed(seed, LOSER), batch.key * batch.of + n) for seed, n in zip(seeds, numbers, strict=True)]
            noise = Draw(own, clean.device)(clean.shape[1:])
        loser = Noised(level, like(level.alpha, clean) * clean + like(level.sigma, clean) * noise, clean, noise)
        return together(winner, loser)
