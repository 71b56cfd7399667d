"""Clipped policy gradient on step log-probabilities: DDPO, RLCM, Flow-GRPO, DanceGRPO, MixGRPO.

DDPO is arXiv 2305.13301 (equation 6), RLCM arXiv 2404.03673 (section 4), Flow-GRPO arXiv 2505.05470.

    rho  = exp(log p(x' | x, c) - log p_old(x' | x, c))
    loss = mean max(-A rho, -A clip(rho, 1 - clip, 1 + clip)) + kl KL(p || p_base)
    KL   = mean over dimensions of (mu - mu_base)^2 / (2 std^2)

One optimizer serves them all: DDPO is this on DDIM steps, RLCM on consistency steps, Flow-GRPO on the steps of a flow SDE, MixGRPO on those
of a window.

``normalise`` is GRPO-Guard (arXiv 2510.22319, equation 8). With h = s - s' of flow coordinates and std the deviation there:

    rho = exp(std (log p - log p_old + mean (mu - mu_old)^2 / (2 std^2))) = exp(mean z (mu - mu_old)),    loss / h

where z is the noise of the step. The ratio has the same spread at every level and no bias below 1, so one clip suits all steps.

Details that matter. Log-probabilities are means over dimensions, so ``clip`` is 1e-4 and not 0.2. With one update for each rollout the
ratio is 1 and the loss is the plain score-function gradient; the clip acts from the second update on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tropism.diffusion.flow_samplers import position
from tropism.diffusion.rollout import retake
from tropism.diffusion.samplers import Transition
from tropism.optimizers.base import Numbers, Optimizer, StepBatch
from tropism.policy import Policy


@dataclass
class PolicyGradient(Optimizer):
    """clip: half-width of the trust region of the ratio. advantage_clip: advantages are clamped to plus and minus this.

    kl: weight of the divergence from the base model, one more forward; 0 for none. normalise: GRPO-Guard's ratio, made for clips near 2e-6;
    it stores the means of the steps.
    """

    clip: float = 1e-4
    advantage_clip: float = 5.0
    kl: float = 0.0
    normalise: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"steps", "advantage"})

    def __post_init__(self) -> None:
        self.means = self.normalise

    def loss(self, policy: Policy, batch: StepBatch) -> tuple[torch.Tensor, Numbers]:
        rollout, sample, index = batch.rollout, batch.sample, batch.index
        assert rollout.advantage is not None
        base = self._base_mean(policy, batch)
        taken = retake(policy, batch.sampler, rollout, sample, index)
        change = taken.logp - rollout.steps.logp[sample, index]
        advantage = rollout.advantage.to(change.device)[sample].clamp(-self.advantage_clip, self.advantage_clip)
        weight: torch.Tensor | float = 1.0
        if self.normalise:
            change, weight = _guarded(batch, taken, change)
        ratio = change.exp()
        loss = (weight * torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - self.clip, 1 + self.clip))).mean()
        with torch.no_grad():
            outside = (ratio - 1).abs()
            metrics = {
                "ratio_error": outside.max(),
                "clip_fraction": (outside > self.clip).float().mean(),
                "approximate_kl": 0.5 * change.square().mean(),
            }
        if base is not None:
            divergence = ((taken.mean - base).square().flatten(1).mean(1) / (2 * taken.std**2)).mean()
            loss = loss + self.kl * divergence
            metrics["base_kl"] = divergence.detach()
        return loss, metrics

    def _base_mean(self, policy: Policy, batch: StepBatch) -> torch.Tensor | None:
        if not self.kl:
            return None
        with self.weights.reference(), torch.no_grad():
            return retake(policy, batch.sampler, batch.rollout, batch.sample, batch.index).mean


def _guarded(batch: StepBatch, taken: Transition, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(log of GRPO-Guard's ratio, 1 / h), [M] each."""
    steps, sample, index = batch.rollout.steps, batch.sample, batch.index
    assert steps.mean is not None
    (s, _, _), (s_then, _, scale) = position(steps.levels[index]), position(steps.levels[index + 1])
    moved = (taken.mean - steps.mean[sample, index]).square().flatten(1).mean(1)
    return taken.std / scale * (change + moved / (2 * taken.std**2)), 1 / (s - s_then)
