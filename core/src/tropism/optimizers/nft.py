"""DiffusionNFT, arXiv 2509.16117: good and bad samples teach through the forward process, without a trajectory.

The policy that samples is an older copy of the one that learns. From the prediction f of x0 by the learning weights and f_old by the old
ones, at any noised state of a finished sample x0, an implicit better and an implicit worse policy are mixed:

    f+ = (1 - beta) f_old + beta f,    f- = (1 + beta) f_old - beta f
    r  = clip(A / (2 a) + 1 / 2, 0, 1)                            with advantages clipped to plus and minus a
    loss = mean a (r |f+ - x0|^2 / w+ + (1 - r) |f- - x0|^2 / w-) / beta + kl |v - v_base|^2

with w = mean |f - x0| of each, without gradient. The paper mixes velocities; for given x, x0 is linear in velocity, noise and v alike, so
mixing x0 is the same, and it serves every parametrization. After each rollout

    old <- d old + (1 - d) new

with d = 0 (decay ``none``), min(0.001 n, 0.5) (``slow``), or 0 up to n = 75 and then min(0.0075 (n - 75), 0.999) (``lagged``), where n
counts rollouts.

Details that matter. Any sampler will do, the ODE is the paper's; only the finished samples are stored. Each (sample, level) costs a forward
of the old and a forward and backward of the learning weights, and one more forward with ``kl``. The paper trains without guidance: set the
policy's guidance to 1, and it learns what guidance would have given. Its authors report that few-step distilled models blur.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from tropism.optimizers.base import Numbers, SampleBatch, Weights, renoised
from tropism.optimizers.stabilisers import Tied
from tropism.policy import Policy

DECAYS = ("none", "slow", "lagged")


@dataclass
class Nft(Tied):
    """beta: strength of the mixture, 0.1 to 1. draws: noised states of a sample in a pass. decay: how the old weights follow."""

    beta: float = 1.0
    advantage_clip: float = 5.0
    kl: float = 1e-4
    draws: int = 4
    decay: str = "slow"
    needs: ClassVar[frozenset[str]] = frozenset({"samples", "advantage"})

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise ValueError(f"decay: '{self.decay}'; expected one of {', '.join(DECAYS)}")
        if not self.beta > 0:
            raise ValueError(f"beta: {self.beta}; expected above 0")

    def attach(self, weights: Weights) -> None:
        super().attach(weights)
        self.old = {name: parameter.detach().clone() for name, parameter in weights.parameters.items()}
        self.rollouts = 0

    def acting(self) -> AbstractContextManager[None]:
        return self.weights.holding(self.old)

    def loss(self, policy: Policy, batch: SampleBatch) -> tuple[torch.Tensor, Numbers]:
        rollout = batch.rollout
        assert rollout.advantage is not None
        at, cond = renoised(policy, batch)
        with torch.no_grad(), self.weights.holding(self.old):
            old, _ = at.predicted(policy, cond)
        base = self.of_base(lambda: at.predicted(policy, cond)[1]) if self.kl else None
        new, velocity = at.predicted(policy, cond)
        advantage = rollout.advantage.to(new.device)[batch.sample].clamp(-self.advantage_clip, self.advantage_clip)
        r = advantage / (2 * self.advantage_clip) + 0.5
        better = _weighted((1 - self.beta) * old + self.beta * new, at.x0)
        worse = _weighted((1 + self.beta) * old - self.beta * new, at.x0)
        loss = self.advantage_clip * ((r * better + (1 - r) * worse) / self.beta).mean()
        metrics = {"better": better.detach().mean(), "worse": worse.detach().mean(), "from_old": (new - old).detach().square().mean()}
        loss, held = self.tied(loss, velocity, base)
        return loss, {**metrics, **held}

    def finished(self) -> None:
        self.rollouts += 1
        follow = 1 - _decay(self.decay, self.rollouts)
        torch._foreach_lerp_(list(self.old.values()), [p.detach() for p in self.weights.parameters.values()], follow)

    def state_dict(self) -> dict[str, Any]:
        return {"old": self.old, "rollouts": self.rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in self.old.items():
            value.copy_(state["old"][name])
        self.rollouts = state["rollouts"]


def _weighted(found: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """Mean squared error over its own mean absolute error, [M]: samples of every level and size count alike."""
    scale = (found.detach() - x0).abs().flatten(1).mean(1).clamp(min=1e-5)
    return (found - x0).square().flatten(1).mean(1) / scale


def _decay(kind: str, rollouts: int) -> float:
    if kind == "slow":
        return min(0.001 * rollouts, 0.5)
    if kind == "lagged":
        return min(max(0.0075 * (rollouts - 75), 0.0), 0.999)
    return 0.0
