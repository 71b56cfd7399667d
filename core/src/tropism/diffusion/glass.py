"""GLASS transitions (arXiv 2509.25170): steps with noise for a flow, or any policy, with the law of the flow itself, not a Gaussian.

A step goes from x_t to y = A x0 + B x_t + C z with x0 from its posterior given x_t. It is sampled by an ODE from z to y, along
y_tau = tau (A x0 + B x_t) + c z with c = 1 - tau + tau C. What is known of x0 given x_t and y_tau is a Gaussian observation of precision

    L = (alpha_t / sigma_t)^2 + (tau A / c)^2   and mean   m = (alpha_t x_t / sigma_t^2 + tau A (y_tau - tau B x_t) / c^2) / L

so E[x0 | x_t, y_tau] is what the network predicts from alpha m at the level where alpha / sigma is the root of L: no training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tropism.diffusion.schedules import Schedule, like, split
from tropism.errors import PolicyError
from tropism.policy import Policy
from tropism.types import Level, Tree

HALVINGS = 40


@dataclass(frozen=True)
class Glass:
    """inner: Euler steps of the ODE within a step, one forward each; the law is exact as they become many. correlation: of the noise in x_t
    and in y, 0 to 1; None is that of DDPM's posterior, (alpha_t / sigma_t) (sigma_s / alpha_s). Every one keeps the marginals.

    Steps have no density that could be written down: they can be resampled, but neither guided nor trained on.
    """

    inner: int = 4
    correlation: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.inner <= 1000:
            raise ValueError(f"inner: {self.inner}; expected 1 to 1000 Euler steps")
        if self.correlation is not None and not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation: {self.correlation}; expected 0 (each step starts afresh) to 1, or none for DDPM's")

    def levels(self, schedule: Schedule, steps: int) -> Level:
        return schedule.levels(steps)

    def deviation(self, now: Level, then: Level) -> torch.Tensor:
        """Of z: every step has noise, the last one too, where the ODE makes it part of the sample."""
        return torch.ones_like(then.sigma)

    def mean(self, policy: Policy, x: torch.Tensor, now: Level, then: Level, cond: Tree) -> torch.Tensor:
        raise PolicyError("sampler 'glass' steers only: its steps have no Gaussian density to train on; expected flow-sde, cps or ode here")

    def coefficients(self, now: Level, then: Level) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(A, B, C), shape of the levels."""
        ddpm = (now.alpha / now.sigma) * (then.sigma / then.alpha)
        rho = ddpm if self.correlation is None else torch.full_like(ddpm, self.correlation)
        b = rho * then.sigma / now.sigma
        return then.alpha - b * now.alpha, b, then.sigma * (1 - rho**2).clamp(min=0).sqrt()

    def jump(self, policy: Policy, x: torch.Tensor, now: Level, then: Level, cond: Tree, noise: torch.Tensor) -> torch.Tensor:
        """The next state. x, noise: [B, ...], levels [B]. The first forward of the policy is at x itself."""
        a, b, c = self.coefficients(now, then)
        tau = (torch.arange(self.inner, device=x.device, dtype=a.dtype) / self.inner)[:, None]  # [inner, 1] against [B]
        scale = 1 - tau + tau * c
        seen = (now.alpha / now.sigma) ** 2
        precision = seen + (tau * a / scale) ** 2
        levels = level_of(policy.schedule, precision[1:].rsqrt())
        x0, _ = split(policy.predict(x, now, cond), x, now, policy.schedule.parametrization)
        y = noise
        for index in range(self.inner):
            if index:
                level, (here, own) = levels[index - 1], (tau[index], scale[index])
                fresh = like(here * a / own**2, x) * (y - like(here * b, x) * x)
                told = like(level.alpha / precision[index], x) * (like(now.alpha / now.sigma**2, x) * x + fresh)
                x0, _ = split(policy.predict(told, level, cond), told, level, policy.schedule.parametrization)
            toward = like(a, x) * x0 + like(b, x) * x
            z = (y - tau[index] * toward) / like(scale[index].expand_as(a), x)
            later = (index + 1) / self.inner
            y = later * toward + like(1 - later + later * c, x) * z
        return y


def level_of(schedule: Schedule, ratio: torch.Tensor) -> Level:
    """Levels at which sigma / alpha is ``ratio`` (any shape), by halving; of a schedule with whole times the next one below."""
    low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        level = schedule.draw(middle)
        below = level.sigma < ratio * level.alpha
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return schedule.draw(low)
