"""SmPO-Diffusion, arXiv 2506.02698: InPO with smooth labels and a corrected inversion.

With p the probability that the winner is the better one, by a reward model,

    loss = -log sigmoid(-(2 p - 1) gamma beta / 2 (D_w - D_l))

so a pair that might as well be the other way round teaches nothing. The states are those of InPO with five steps, each corrected once as in
ReNoise, without noise. p is the ``chance`` of a pair: give the judge a ``scale``, or read a data set with its scores or votes; where only
the choice is known it is 1, and this is InPO with beta times gamma.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tropism.optimizers.base import PairBatch
from tropism.optimizers.inpo import Inpo


@dataclass
class Smpo(Inpo):
    """gamma: multiplies beta, 10 as released. The others: see Inpo."""

    gamma: float = 10.0
    steps: int = 5
    corrections: int = 1

    def link(self, inside: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        chance = batch.pairs.chance.to(inside.device)[batch.sample]
        return super().link((2 * chance - 1) * self.gamma * inside, batch)
