"""Advantage-weighted matching, arXiv 2509.25050: the training loss of flow models, weighted by the advantage.

The log-probability of a finished sample is replaced by minus its velocity-matching error at a noised state, the same state for old and
new weights:

    log p ~ -mean |v - (eps - x0)|^2,    rho = exp(log p - log p_old)
    loss = mean max(-A rho, -A clip(rho, 1 - clip, 1 + clip)) + kl mean |v - v_base|^2

At ratio 1 its gradient is A times that of the pretraining loss. Weighting all levels alike is what the paper found best.

Details that matter. Nothing but finished samples is stored, and any sampler will do. With one update for each rollout the old weights are
the learning ones and cost nothing; from the second update on there is one more forward, with a copy of the weights that sampled. A negative
advantage pushes the error up without limit: ``clip`` (1, as released) bounds how far one rollout can push, ``kl`` how far all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from tropism.diffusion.noising import Noised
from tropism.optimizers.base import Numbers, Optimizer, SampleBatch, Weights, renoised
from tropism.policy import Policy


@dataclass
class Awm(Optimizer):
    """clip: half-width of the ratio's trust region. advantage_clip: advantages are clamped to this and divided by it. draws: noised states
    of a sample in a pass. kl: weight of the distance to the base model's velocity, one more forward; 0 for none."""

    clip: float = 1.0
    advantage_clip: float = 5.0
    draws: int = 6
    kl: float = 3e-3
    needs: ClassVar[frozenset[str]] = frozenset({"samples", "advantage"})

    def attach(self, weights: Weights) -> None:
        super().attach(weights)
        self.finished()

    def loss(self, policy: Policy, batch: SampleBatch) -> tuple[torch.Tensor, Numbers]:
        rollout = batch.rollout
        assert rollout.advantage is not None
        at, cond = renoised(policy, batch)
        old, base = None, None
        with torch.no_grad():
            if self.moved:
                with self.weights.holding(self.then):
                    old = _log_prob(at, at.predicted(policy, cond)[1])
            if self.kl:
                with self.weights.reference():
                    _, base = at.predicted(policy, cond)
        _, velocity = at.predicted(policy, cond)
        logp = _log_prob(at, velocity)
        ratio = (logp - (logp.detach() if old is None else old)).exp()
        advantage = rollout.advantage.to(logp.device)[batch.sample].clamp(-self.advantage_clip, self.advantage_clip) / self.advantage_clip
        loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - self.clip, 1 + self.clip)).mean()
        with torch.no_grad():
            outside = (ratio - 1).abs()
            metrics = {"ratio_error": outside.max(), "clip_fraction": (outside > self.clip).float().mean(), "matching": -logp.mean()}
        if base is not None:
            distance = (velocity - base).square().mean()
            loss = loss + self.kl * distance
            metrics["from_base"] = distance.detach()
        return loss, metrics

    def updated(self) -> None:
        self.moved = True

    def finished(self) -> None:
        self.then = {name: parameter.detach().clone() for name, parameter in self.weights.parameters.items()}
        self.moved = False

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.finished()  # a checkpoint lies between two rollouts, where the weights that sample are those that learn


def _log_prob(at: Noised, velocity: torch.Tensor) -> torch.Tensor:
    return -(velocity - (at.noise - at.x0)).square().flatten(1).mean(1)
