"""Samplers that follow a velocity: the ODE and the SDEs of flow models, for policies of every parametrization.

Any path x = alpha x0 + sigma eps becomes the straight one of flow models when it is divided by alpha + sigma:

    x / (alpha + sigma) = (1 - s) x0 + s eps,    s = sigma / (alpha + sigma),    v = d/ds = eps - x0

Nothing is singular in that, at either end. So each step is written as its paper writes it for flows, in x0, eps and s, and its mean and
deviation are multiplied by the alpha + sigma of the level that it goes to. A step to a clean level (sigma 0) takes no noise: it would stay
in the finished sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from tropism.diffusion.schedules import Schedule, like, split
from tropism.policy import Policy
from tropism.types import Level, Tree


def position(level: Level) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A level in flow coordinates: (s, 1 - s, alpha + sigma), shape of the level; 1 - s is exact also near s = 1."""
    scale = level.alpha + level.sigma
    return level.sigma / scale, level.alpha / scale, scale


def endpoints(policy: Policy, x: torch.Tensor, level: Level, cond: Tree) -> tuple[torch.Tensor, torch.Tensor]:
    """(x0, eps) that the policy predicts from x, float32."""
    return split(policy.predict(x, level, cond), x, level, policy.schedule.parametrization)


@dataclass(frozen=True)
class Ode:
    """The probability-flow ODE, dx = v ds. order 1: Euler, which is also DDIM with eta 0; order 2: Heun (EDM, arXiv 2206.00364,
    algorithm 1), two forwards a step, the last one Euler."""

    order: int = 1

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order: {self.order}; expected 1 (Euler) or 2 (Heun)")

    def levels(self, schedule: Schedule, steps: int) -> Level:
        return schedule.levels(steps)

    def deviation(self, now: Level, then: Level) -> torch.Tensor:
        return torch.zeros_like(then.sigma)

    def mean(self, policy: Policy, x: torch.Tensor, now: Level, then: Level, cond: Tree) -> torch.Tensor:
        x0, noise = endpoints(policy, x, now, cond)
        euler = like(then.alpha, x) * x0 + like(then.sigma, x) * noise
        open_end = then.sigma > 0
        if self.order == 1 or not open_end.any():
            return euler
        # Rows that end clean are asked again where they are: their second answer is not used, but it must be finite.
        there = Level(*(torch.where(open_end, a, b) for a, b in ((then.t, now.t), (then.alpha, now.alpha), (then.sigma, now.sigma))))
        x0_there, noise_there = endpoints(policy, torch.where(like(open_end, x), euler, x), there, cond)
        (s, _, scale), (s_then, _, scale_then) = position(now), position(then)
        v = ((noise - x0) + (noise_there - x0_there)) / 2
        heun = like(scale_then, x) * (x.float() / like(scale, x) + like(s_then - s, x) * v)
        return torch.where(like(open_end, x), heun, euler)


class Sde(ABC):
    """dx = (v + g^2 / (2 s) eps) ds + g dw, run toward smaller s by Euler-Maruyama: it has the marginals of the ODE for any g.

    With h = s - s_then: mean = x - h (v + g^2 / (2 s) eps), deviation = g sqrt(h).
    """

    @abstractmethod
    def strength(self, now: Level, then: Level) -> torch.Tensor:
        """g at ``now``, shape of the levels."""

    def levels(self, schedule: Schedule, steps: int) -> Level:
        return schedule.levels(steps)

    def deviation(self, now: Level, then: Level) -> torch.Tensor:
        (s, _, _), (s_then, _, scale) = position(now), position(then)
        noisy = scale * self.strength(now, then) * (s - s_then).clamp(min=0).sqrt()
        return torch.where(then.sigma > 0, noisy, 0.0)

    def mean(self, policy: Policy, x: torch.Tensor, now: Level, then: Level, cond: Tree) -> torch.Tensor:
        x0, noise = endpoints(policy, x, now, cond)
        (s, _, _), (s_then, _, scale) = position(now), position(then)
        # x - h v is the point of the straight path at s_then, which the predicted ends give without rounding x again.
        pull = torch.where(then.sigma > 0, scale * (s - s_then) * self.strength(now, then) ** 2 / (2 * s), 0.0)
        return like(then.alpha, x) * x0 + like(then.sigma - pull, x) * noise


@dataclass(frozen=True)
class FlowSde(Sde):
    """Flow-GRPO, arXiv 2505.05470: g = noise sqrt(s / (1 - s)); where s is 1, the next level's s stands in the root's
    denominator, as in the released code."""

    noise: float = 0.7

    def strength(self, now: Level, then: Level) -> torch.Tensor:
        (s, rest, _), (_, rest_then, _) = position(now), position(then)
        return self.noise * (s / torch.where(rest > 0, rest, rest_then)).sqrt()


@dataclass(frozen=True)
class DanceSde(Sde):
    """DanceGRPO, arXiv 2505.07818: g = eta, the same at every level."""

    eta: float = 0.3

    def strength(self, now: Level, then: Level) -> torch.Tensor:
        return torch.full_like(now.sigma, self.eta)


@dataclass(frozen=True)
class Cps:
    """Coefficients-preserving sampling, arXiv 2509.05952: DDIM's way in flow coordinates, no noise too much at any level.

    std = s_then sin(noise pi / 2), mean = (1 - s_then) x0 + sqrt(s_then^2 - std^2) eps. The released code scores it without the
    deviation; here the log-probability is that of the Gaussian.
    """

    noise: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise: {self.noise}; expected 0 (the ODE) to 1 (all of a level's noise is fresh)")

    def levels(self, schedule: Schedule, steps: int) -> Level:
        return schedule.levels(steps)

    def deviation(self, now: Level, then: Level) -> torch.Tensor:
        return then.sigma * math.sin(self.noise * math.pi / 2)

    def mean(self, policy: Policy, x: torch.Tensor, now: Level, then: Level, cond: Tree) -> torch.Tensor:
        x0, noise = endpoints(policy, x, now, cond)
        kept = then.sigma * math.cos(self.noise * math.pi / 2)
        return like(then.alpha, x) * x0 + like(kept, x) * noise
