"""DenseDPO, arXiv 2506.03517: preferences of segments, one sigmoid for a pair.

    loss = -log sigmoid(-beta / 2 mean over compared places of l (D(x) - D(y)))            (equation 7 and appendix A.3)

with l = 1 where x is better, -1 where y is, and ties left out; D is the squared error of policy minus reference at a place. The labels are
the pair's ``segments``: of times in a clip, or of regions in a picture. With all labels 1 this is Flow-DPO; turning them all round is the
same as swapping x and y; a pair of ties teaches nothing.

Details that matter. The two are restored from one corrupted clip, so they share most of their content: each gets its ``own`` noise, or
the policy unlearns what they share. The stabilisers act on who won at each place, not on clips. The paper's beta is half of this one's
(its sum has no 1/2): 500 there is 1000 here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tropism.optimizers.base import Numbers, PairBatch
from tropism.optimizers.dpo import Dpo
from tropism.policy import Policy


@dataclass
class DenseDpo(Dpo):
    """The arguments of Dpo with the paper's values."""

    beta: float = 1000.0
    noise: str = "own"
    needs: ClassVar[frozenset[str]] = frozenset({"pairs", "segments"})

    def loss(self, policy: Policy, batch: PairBatch) -> tuple[torch.Tensor, Numbers]:
        if batch.pairs.segments is None:
            raise ValueError("these pairs have no labels of segments; densedpo needs them, dpo learns from whole samples")
        found, numbers = super().loss(policy, batch)
        labels = batch.pairs.segments[batch.sample.to(batch.pairs.segments.device)]
        return found, {**numbers, "labelled_share": (labels != 0).float().mean()}
