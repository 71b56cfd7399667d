"""RLCM with back-propagation through its last step: a policy gradient where there is noise, the reward's own gradient where there is none.

A consistency sampler's last step is deterministic: the score-function gradient does not see it, so RLCM (arXiv 2404.03673) leaves it
untrained. Where the reward is differentiable, that step has an exact and cheap gradient, that of DRaFT-1 (arXiv 2309.17400):

    loss = clipped policy gradient on the noisy steps - direct mean R(decode(x0)) / (std(R) n D),    x0 through the last step alone

The factor of the second term, for n noisy steps and samples of D dimensions, is the one that the policy gradient's own averages over steps
and dimensions and its z-scored advantages amount to. So at ratio 1 and ``direct: 1`` the two add up to the gradient of the expected reward,
each step in its form of least variance. A larger ``direct`` trusts the reward's own gradient more than the estimate.

Any sampler whose last step has no noise will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tropism.optimizers.base import EndBatch, Numbers, StepBatch
from tropism.optimizers.direct import ending
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.policy import Policy
from tropism.types import Rollout


@dataclass
class RlcmDirect(PolicyGradient):
    """The policy gradient's arguments, and direct: weight of the last step's gradient, 1 for its share in that of the expected reward."""

    direct: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"steps", "endings", "advantage"})

    def loss(self, policy: Policy, batch: StepBatch | EndBatch) -> tuple[torch.Tensor, Numbers]:
        if isinstance(batch, StepBatch):
            return super().loss(policy, batch)
        rollout = batch.rollout
        reward = batch.reward(ending(policy, batch, 1))
        scale = self.direct / (_unit(rollout) * int(rollout.steps.on.sum()) * rollout.x0[0].numel())
        return -scale * reward.mean(), {"direct_reward": reward.detach().mean()}


def _unit(rollout: Rollout) -> float:
    """How much reward an advantage of 1 is: the slope of rewards over advantages.

    That is the deviation that the credit divided by, also where a process holds a part of the rollout alone.
    """
    assert rollout.reward is not None and rollout.advantage is not None
    advantage = rollout.advantage.cpu().double()
    advantage = advantage - advantage.mean()
    square = advantage.square().sum()
    return ((advantage * rollout.reward.cpu().double()).sum() / square).item() if square > 0 else 1.0
