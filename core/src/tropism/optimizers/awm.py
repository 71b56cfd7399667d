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
from tropism.optimizers.base import Numbers, SampleBatch, Weights, renoised
from tropism.optimizers.stabilisers import Tied
from tropism.policy import Policy


@dataclass
class Awm(Tied):
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
        old = None
        if self.moved:
            with torch.no_grad(), self.weights.holding(self.then):
                old = _log_prob(at, at.predicted(policy, cond)[1])
        base = self.of_base(lambda: at.predicted(policy, cond)[1]) if self.kl else None
        _, velocity = at.predicted(policy, cond)
        logp = _log_prob(at, velocity)
        ratio = (logp - (logp.detach() if old is None else old)).exp()
        advantage = rollout.advantage.to(logp.device)[batch.sample].clamp(-self.advantage_clip, self.advantage_clip) / self.advantage_clip
        loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - self.clip, 1 + self.clip)).mean()
        with torch.no_grad():
            outside = (ratio - 1).abs()
            metrics = {"ratio_error": outside.max(), "clip_fraction": (outside > self.clip).float().mean(), "matching": -logp.mean()}
        loss, held = self.tied(loss, velocity, base)
        return loss, {**metrics, **held}

    def updated(self) -> None:
        self.moved = True

    def finished(self) -> None:
        self.then = {name: parameter.detach().clone() for name, parameter in self.weights.parameters.items()}
        self.moved = False

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.finished()  # a checkpoint lies between two rollouts, where the weights that sample are those that learn


def _log_prob(at: Noised, velocity: torch.Tensor) -> torch.Tensor:
    return -(velocity - (at.noise - at.x0)).square().flatten(1).mean(1)
