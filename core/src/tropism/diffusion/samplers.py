"""Transition kernels: how a sampler goes from one noise level to the next.

A sampler gives the mean and the deviation of a Gaussian step, :func:`transition` samples it or scores a step that was taken. Rollout and
training share that one code path, which is why the replayed log-probability equals the stored one. DDIM and consistency sampling are here,
the ODE and the SDEs of flow in ``flow_samplers.py``; all of them run on policies of every parametrization.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from tropism.diffusion.schedules import Schedule, like, split
from tropism.policy import Policy
from tropism.types import Level, Tree


class Sampler(Protocol):
    """What a transition kernel offers."""

    def levels(self, schedule: Schedule, steps: int) -> Level:
        """The noise levels [steps+1] that it visits."""

    def deviation(self, now: Level, then: Level) -> torch.Tensor:
        """Standard deviation of the step's noise, shape of the levels; 0 where the step is deterministic."""

    def mean(self, policy: Policy, x: torch.Tensor, now: Level, then: Level, cond: Tree) -> torch.Tensor:
        """Mean of the next state. x: [B, ...], levels [B]."""


@dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit models, arXiv 2010.02502, equations 12 and 16; eta 1 is the DDPM posterior that DDPO samples from."""

    eta: float = 1.0

    def levels(self, schedule: Schedule, steps: int) -> Level:
        return schedule.levels(steps)

    def deviation(self, now: Level, then: Level) -> torch.Tensor:
        variance = (then.sigma / now.sigma) ** 2 * (1 - (now.alpha / then.alpha) ** 2)
        return self.eta * variance.clamp(min=0).sqrt()

    def mean(self, policy: Policy, x: torch.Tensor, now: Level, then: Level, cond: Tree) -> torch.Tensor:
        x0, noise = split(policy.predict(x, now, cond), x, now, policy.schedule.parametrization)
        kept = (then.sigma**2 - self.deviation(now, then) ** 2).clamp(min=0).sqrt()
        return like(then.alpha, x) * x0 + like(kept, x) * noise


@dataclass(frozen=True)
class Consistency:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1; LCM, arXiv 2310.04378; RLCM, arXiv 2404.03673, section 4).

    Denoise in one go, noise again to the next level. The last step ends at the clean level, so it has no noise and is not trained: the
    released RLCM scores a re-noising there that the image never sees.
    """

    def levels(self, schedule: Schedule, steps: int) -> Level:
        return schedule.consistency_levels(steps)

    def deviation(self, now: Level, then: Level) -> torch.Tensor:
        return then.sigma

    def mean(self, policy: Policy, x: torch.Tensor, now: Level, then: Level, cond: Tree) -> torch.Tensor:
        x0, _ = split(policy.predict(x, now, cond), x, now, policy.schedule.parametrization)
        skip, out = policy.schedule.boundary_weights(now)
        return like(then.alpha, x) * (like(out, x) * x0 + like(skip, x) * x.float())


class Transition(NamedTuple):
    """A step taken or scored: the next state [B, ...], its log-probability [B], and the Gaussian it comes from."""

    x: torch.Tensor
    logp: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor  # [B]


def transition(
    sampler: Sampler,
    policy: Policy,
    x: torch.Tensor,
    now: Level,
    then: Level,
    cond: Tree,
    *,
    x_next: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
) -> Transition:
    """Take a step with ``noise``, or score the step to ``x_next``. x: [B, ...], levels [B]."""
    mean, std = sampler.mean(policy, x, now, then, cond), sampler.deviation(now, then)
    if x_next is None:
        x_next = mean if noise is None else mean + like(std, x) * noise
    return Transition(x_next, log_prob(x_next, mean, std), mean, std)


def step(
    sampler: Sampler,
    policy: Policy,
    x: torch.Tensor,
    now: Level,
    then: Level,
    cond: Tree,
    *,
    x_next: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`transition` in short: (next state, log-probability [B])."""
    return transition(sampler, policy, x, now, then, cond, x_next=x_next, noise=noise)[:2]


def log_prob(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Gaussian log-density, averaged (not summed) over dimensions as in the DDPO lineage, so that the papers' clip ranges hold. [B]."""
    safe = like(torch.where(std > 0, std, 1.0), x)  # so that the gradient is finite where there is no noise
    density = -((x - mean) ** 2) / (2 * safe**2) - safe.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(std > 0, density.flatten(1).mean(1), 0.0)
