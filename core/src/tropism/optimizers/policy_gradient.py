"""Clipped policy gradient on step log-probabilities: DDPO (arXiv 2305.13301, equation 6) and RLCM (arXiv 2404.03673, section 4).

    rho  = exp(log p(x' | x, c) - log p_old(x' | x, c))
    loss = mean max(-A rho, -A clip(rho, 1 - clip, 1 + clip))

One optimizer serves both papers: DDPO is this on DDIM steps, RLCM is this on consistency steps.

Details that matter. Log-probabilities are means over dimensions, so ``clip`` is 1e-4 and not 0.2. With one update for each rollout the
ratio is 1 and the loss is the plain score-function gradient; the clip acts from the second update on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tropism.diffusion.rollout import replay
from tropism.optimizers.base import StepBatch
from tropism.policy import Policy


@dataclass
class PolicyGradient:
    """clip: half-width of the trust region of the ratio. advantage_clip: advantages are clamped to plus and minus this."""

    clip: float = 1e-4
    advantage_clip: float = 5.0
    needs: ClassVar[frozenset[str]] = frozenset({"steps", "advantage"})

    def loss(self, policy: Policy, batch: StepBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rollout = batch.rollout
        assert rollout.advantage is not None
        logp = replay(policy, batch.sampler, rollout, batch.sample, batch.index)
        old = rollout.steps.logp[batch.sample, batch.index]
        advantage = rollout.advantage.to(logp.device)[batch.sample].clamp(-self.advantage_clip, self.advantage_clip)
        change = logp - old
        ratio = change.exp()
        loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - self.clip, 1 + self.clip)).mean()
        with torch.no_grad():
            outside = (ratio - 1).abs()
            metrics = {
                "ratio_error": outside.max(),
                "clip_fraction": (outside > self.clip).float().mean(),
                "approximate_kl": 0.5 * change.square().mean(),
            }
        return loss, metrics
